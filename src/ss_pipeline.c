/*
 * ss_pipeline.c
 *	  create_pipeline, alter_pipeline, drop_pipeline.
 *
 * NOTES
 *	  A definition is checked whole before anything is written: each argument,
 *	  then mapping and statement as the owner with the pipeline's settings, then
 *	  Redis.  alter_pipeline does all that before it takes the fence, so batches
 *	  go on while it waits for Redis, and reads the row again behind the fence.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "ss_define.h"
#include "ss_guc.h"
#include "ss_maketable.h"
#include "ss_marker.h"
#include "ss_identity.h"
#include "ss_outbox.h"
#include "ss_probe.h"
#include "ss_server.h"
#include "ss_shmem.h"
#include "ss_write.h"

/* How long running batches may go on before alter and drop cancel them, in ms. */
#define FENCE_TIMEOUT 2000

/* Arguments of create_pipeline and alter_pipeline behind those of the definition. */
#define CREATE_connect		 SS_PIPELINE_NARGS
#define CREATE_if_not_exists (SS_PIPELINE_NARGS + 1)
#define ALTER_connect		 SS_PIPELINE_NARGS
#define ALTER_reset			 (SS_PIPELINE_NARGS + 1)
#define ALTER_new_name		 (SS_PIPELINE_NARGS + 2)
#define ALTER_new_owner		 (SS_PIPELINE_NARGS + 3)

SS_SQL_FUNCTION(streamsink_create_pipeline);
SS_SQL_FUNCTION(streamsink_alter_pipeline);
SS_SQL_FUNCTION(streamsink_drop_pipeline);

static void
check_writable(const char *function)
{
	PreventCommandDuringRecovery(function);
	PreventCommandIfReadOnly(function);
}

static bool
get_bool(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", name)));
	return PG_GETARG_BOOL(arg);
}

static char *
get_name(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", "name")));
	return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

/* Take an argument into the definition, out of the caller's toast. */
static void
take_argument(SsDefinition *def, FunctionCallInfo fcinfo, int column)
{
	def->nulls[column - 1] = PG_ARGISNULL(column - 1);
	def->values[column - 1] = PG_GETARG_DATUM(column - 1);
	if (!def->nulls[column - 1] && get_typlen(ss_define_type(column)) == -1)
		def->values[column - 1] = PointerGetDatum(PG_DETOAST_DATUM(def->values[column - 1]));
}

static void
require_connect(const SsDefinition *def, bool connect)
{
	if (def->from_now && !connect)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start_from \"$\" needs connect => true"),
				 errdetail("The last id of each stream must be asked from Redis."),
				 errhint("Give an entry id or a time instead.")));
}

/*
 * Build mapping and statement as workers will, and look at Redis with
 * connect.  Returns the streams that start at their end (from_now).
 */
static List *
try_definition(const SsDefinition *def, bool connect)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink definition",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(cxt);
	SsPipeline	 *pipeline = ss_catalog_build(def->values, def->nulls, ERROR);
	SsTemplate	 *tmpl = ss_template_parse_except(pipeline->stream, pipeline->dead_letter_stream);
	SsIdentity	  saved;
	SsMapping	 *mapping;
	SsWriter	 *writer;
	List		 *starts = NIL;

	ss_identity_enter(pipeline, &saved);
	mapping = ss_mapping_build(pipeline, tmpl, cxt);
	writer = ss_write_create(pipeline, mapping, cxt);
	ss_write_check(writer);
	ss_write_free(writer);
	ss_identity_leave(&saved);

	MemoryContextSwitchTo(caller);
	if (connect)
		starts = ss_probe_streams(pipeline, tmpl, mapping, def->from_now);
	ss_mapping_free(mapping);
	MemoryContextDelete(cxt);
	return starts;
}

static void
say_exists(const char *name, bool if_not_exists)
{
	if (!if_not_exists)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("pipeline \"%s\" already exists", name),
				 errhint("Choose another name, or change that one with streamsink.alter_pipeline().")));
	ereport(NOTICE,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("pipeline \"%s\" already exists, skipping", name)));
}

/*
 * create_target: make the table, which everything behind takes as given.  Two
 * calls of one name wait for each other, after their look at Redis, so that
 * the later one finds pipeline and table.  False: it found the pipeline.
 */
static bool
make_target(const SsDefinition *def, const char *name, bool connect, bool if_not_exists)
{
	SsPipeline *pipeline = ss_catalog_build(def->values, def->nulls, ERROR);
	SsTemplate *tmpl = ss_template_parse_except(pipeline->stream, pipeline->dead_letter_stream);
	SsSurvey   *survey = connect ? ss_survey_streams(pipeline, tmpl, ss_guc_max_columns) : NULL;
	List	   *target = ss_compat_name_list(pipeline->target);

	ss_catalog_lock_names();
	if (ss_catalog_load_lenient(name, 0, true) != NULL)
	{
		say_exists(name, if_not_exists);
		return false;
	}
	if (!OidIsValid(RangeVarGetRelid(makeRangeVarFromNameList(target), NoLock, true)))
		ss_maketable_run(pipeline, tmpl, survey);
	else
		ereport(NOTICE,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation %s already exists, skipping", pipeline->target)));
	if (survey != NULL)
		ss_survey_end(survey);
	return true;
}

Datum
streamsink_create_pipeline(PG_FUNCTION_ARGS)
{
	SsDefinition def;
	char		*name = get_name(fcinfo);
	bool		 connect = get_bool(fcinfo, CREATE_connect, "connect");
	bool		 if_not_exists = get_bool(fcinfo, CREATE_if_not_exists, "if_not_exists");
	List		*starts;
	int32		 id;

	check_writable("create_pipeline()");
	if (if_not_exists && ss_catalog_load_lenient(name, 0, true) != NULL)
	{
		say_exists(name, if_not_exists);
		PG_RETURN_VOID();
	}

	ss_define_init(&def, GetUserId());
	def.creating = get_bool(fcinfo, SS_PIPELINE_create_target - 1, "create_target");
	for (int column = 1; column <= SS_PIPELINE_NARGS; column++)
	{
		take_argument(&def, fcinfo, column);
		if (column == SS_PIPELINE_consumer_group && PG_ARGISNULL(column - 1))
		{
			def.values[column - 1] = CStringGetTextDatum(name);
			def.nulls[column - 1] = false;
		}
		ss_define_check(&def, column);
	}
	require_connect(&def, connect);
	ss_define_check_whole(&def);
	ss_define_check_backoff(&def);
	ss_define_check_owner(def.owner);
	if (def.make_target && !make_target(&def, name, connect, if_not_exists))
		PG_RETURN_VOID();
	ss_define_check_target(&def);
	if (!if_not_exists && ss_catalog_load_lenient(name, 0, true) != NULL)
		say_exists(name, false);
	starts = try_definition(&def, connect);

	/* somebody else may have been faster */
	ss_catalog_lock_names();
	if (if_not_exists && ss_catalog_load_lenient(name, 0, true) != NULL)
	{
		say_exists(name, if_not_exists);
		PG_RETURN_VOID();
	}
	id = ss_catalog_insert(def.values, def.nulls);
	if (starts != NIL)
		ss_catalog_add_streams(id, starts);
	PG_RETURN_VOID();
}

/* ---- alter_pipeline ---- */

static void
reset_arguments(SsDefinition *def, bool *replace, ArrayType *names)
{
	Datum *items;
	bool  *nulls;
	bool   reset[SS_PIPELINE_NARGS] = {false};
	int	   n;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &items, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		int column;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("\"%s\" must not contain nulls", "reset")));
		column = ss_define_find(TextDatumGetCString(items[i]));
		if ((ss_define_flags(column) & SS_ARGUMENT_REQUIRED) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" has no default to reset it to", ss_define_name(column))));
		if (replace[column - 1] && !reset[column - 1])
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" is both given and reset", ss_define_name(column))));

		if (column == SS_PIPELINE_settings)
		{
			/* captured anew, from this session */
			def->values[column - 1] = JsonbPGetDatum(ss_identity_capture(NULL));
			def->nulls[column - 1] = false;
		}
		else
			ss_define_set_fallback(def, column);
		reset[column - 1] = replace[column - 1] = true;
	}
	if (reset[SS_PIPELINE_consumer_group - 1] && def->nulls[SS_PIPELINE_consumer_group - 1])
	{
		def->values[SS_PIPELINE_consumer_group - 1] = def->values[SS_PIPELINE_name - 1];
		def->nulls[SS_PIPELINE_consumer_group - 1] = false;
	}
}

static void
take_new_owner(SsDefinition *def, bool *replace, const char *name)
{
	Oid		  owner = get_role_oid(name, false);
	NameData *owner_name = palloc0_object(NameData);

	check_can_set_role(GetUserId(), owner);
	ss_define_check_owner(owner);
	namestrcpy(owner_name, GetUserNameFromId(owner, false));
	def->owner = owner;
	def->values[SS_PIPELINE_owner - 1] = NameGetDatum(owner_name);
	replace[SS_PIPELINE_owner - 1] = true;
}

/* Take what the call gives into the definition; returns the flags of everything that is changed. */
static int
take_changes(SsDefinition *def, bool *replace, FunctionCallInfo fcinfo)
{
	int flags = 0;

	if (!PG_ARGISNULL(ALTER_new_name))
	{
		def->values[SS_PIPELINE_name - 1] = PointerGetDatum(PG_GETARG_TEXT_P(ALTER_new_name));
		replace[SS_PIPELINE_name - 1] = true;
		ss_define_check(def, SS_PIPELINE_name);
	}
	if (!PG_ARGISNULL(ALTER_new_owner))
	{
		take_new_owner(def, replace, text_to_cstring(PG_GETARG_TEXT_PP(ALTER_new_owner)));
		flags |= SS_ARGUMENT_MAPPING | SS_ARGUMENT_REDIS;
	}
	for (int column = SS_PIPELINE_name + 1; column <= SS_PIPELINE_NARGS; column++)
	{
		if (PG_ARGISNULL(column - 1))
			continue;
		take_argument(def, fcinfo, column);
		replace[column - 1] = true;
		ss_define_check(def, column);
	}
	if (!PG_ARGISNULL(ALTER_reset))
		reset_arguments(def, replace, PG_GETARG_ARRAYTYPE_P(ALTER_reset));

	for (int column = SS_PIPELINE_name + 1; column <= SS_PIPELINE_NARGS; column++)
	{
		if (replace[column - 1])
			flags |= ss_define_flags(column);
	}
	return flags;
}

/* The table that was made is there, so its making does not stand against a transform or a row type any more. */
static void
forget_making(SsDefinition *def, bool *replace)
{
	if (!DatumGetBool(def->values[SS_PIPELINE_create_target - 1]) ||
		(def->nulls[SS_PIPELINE_transform - 1] && def->nulls[SS_PIPELINE_row_type - 1]))
		return;
	def->values[SS_PIPELINE_create_target - 1] = BoolGetDatum(false);
	replace[SS_PIPELINE_create_target - 1] = true;
}

static bool
text_differs(const SsDefinition *def, const Datum *values, int column)
{
	return strcmp(TextDatumGetCString(def->values[column - 1]),
				  TextDatumGetCString(values[column - 1])) != 0;
}

/* Remove our markers from the groups of a pipeline's streams, or the groups themselves, after commit. */
static void
queue_removal(const SsPipeline *pipeline, bool drop_group)
{
	char		marker[SS_MARKER_MAX];
	const char *args[2];
	size_t		arglens[2];
	ListCell   *lc;

	ss_marker_prefix(pipeline, marker);
	args[0] = pipeline->consumer_group;
	args[1] = marker;
	arglens[0] = strlen(args[0]);
	arglens[1] = strlen(args[1]);

	foreach(lc, ss_catalog_streams(pipeline->id))
	{
		SsStreamRow *row = (SsStreamRow *) lfirst(lc);

		ss_outbox_add(pipeline->server, pipeline->owner,
					  drop_group ? "group_destroy" : "marker_delete",
					  row->name, pipeline->name, drop_group ? 1 : 2, args, arglens);
	}
}

/* The pipeline of the call, checked: it exists and the caller may change it. */
static SsPipeline *
load_for_change(int32 id, const char *name)
{
	SsPipeline *pipeline = ss_catalog_load_lenient(NULL, id, true);

	if (pipeline == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" does not exist", name),
				 errdetail("It was dropped meanwhile.")));
	ss_identity_check(pipeline);
	return pipeline;
}

Datum
streamsink_alter_pipeline(PG_FUNCTION_ARGS)
{
	SsDefinition def;
	char		*name = get_name(fcinfo);
	bool		 connect = get_bool(fcinfo, ALTER_connect, "connect");
	bool		 replace[SS_PIPELINE_NCOLUMNS] = {false};
	Datum		 values[SS_PIPELINE_NCOLUMNS];
	bool		 nulls[SS_PIPELINE_NCOLUMNS];
	bool		 new_server;
	bool		 new_source;
	int			 flags;
	SsPipeline	*pipeline;
	List		*starts = NIL;

	check_writable("alter_pipeline()");
	pipeline = ss_catalog_load_lenient(name, 0, false);
	ss_identity_check(pipeline);

	ss_define_init(&def, OidIsValid(pipeline->owner_oid) ? pipeline->owner_oid : GetUserId());
	if (!ss_catalog_fetch(pipeline->id, def.values, def.nulls))
		(void) load_for_change(pipeline->id, name);
	def.stored_settings = pipeline->settings;

	flags = take_changes(&def, replace, fcinfo);
	forget_making(&def, replace);
	require_connect(&def, connect);
	if ((flags & SS_ARGUMENT_REDIS) != 0)
		(void) ss_server_params(TextDatumGetCString(def.values[SS_PIPELINE_server - 1]), def.owner);
	ss_define_check_whole(&def);
	if ((flags & SS_ARGUMENT_MAPPING) != 0)
		ss_define_check_target(&def);
	if (replace[SS_PIPELINE_retry_backoff - 1] || replace[SS_PIPELINE_retry_backoff_max - 1])
		ss_define_check_backoff(&def);
	connect = connect && (flags & SS_ARGUMENT_REDIS) != 0;
	if ((flags & SS_ARGUMENT_MAPPING) != 0 || connect)
		starts = try_definition(&def, connect);

	ss_shmem_fence(pipeline->id, FENCE_TIMEOUT);
	pipeline = load_for_change(pipeline->id, name);
	if (!ss_catalog_fetch(pipeline->id, values, nulls))
		elog(ERROR, "pipeline %d vanished behind its fence", pipeline->id);

	new_server = replace[SS_PIPELINE_server - 1] && text_differs(&def, values, SS_PIPELINE_server);
	new_source = new_server ||
				 (replace[SS_PIPELINE_stream - 1] && text_differs(&def, values, SS_PIPELINE_stream)) ||
				 (replace[SS_PIPELINE_consumer_group - 1] && text_differs(&def, values, SS_PIPELINE_consumer_group));
	if (new_source)
	{
		/* the old server may be gone for good: nothing is left to wait for it */
		if (!new_server)
			queue_removal(pipeline, false);
		def.values[SS_PIPELINE_incarnation - 1] = Int32GetDatum(pipeline->incarnation + 1);
		replace[SS_PIPELINE_incarnation - 1] = true;
		ereport(NOTICE,
				(errmsg("pipeline \"%s\" starts anew because its server, stream or group changed", name),
				 errdetail("Nothing counts as settled in incarnation %d.", pipeline->incarnation + 1)));
	}
	else if (replace[SS_PIPELINE_start_from - 1] && ss_catalog_streams(pipeline->id) != NIL)
		ereport(NOTICE,
				(errmsg("start_from does not apply to streams that pipeline \"%s\" found already", name)));

	ss_catalog_update(pipeline->id, def.values, def.nulls, replace);
	if (starts != NIL)
		ss_catalog_add_streams(pipeline->id, starts);
	PG_RETURN_VOID();
}

Datum
streamsink_drop_pipeline(PG_FUNCTION_ARGS)
{
	char	   *name = get_name(fcinfo);
	bool		drop_group = get_bool(fcinfo, 1, "drop_group");
	bool		if_exists = get_bool(fcinfo, 2, "if_exists");
	SsPipeline *pipeline;

	check_writable("drop_pipeline()");
	pipeline = ss_catalog_load_lenient(name, 0, if_exists);
	if (pipeline == NULL)
	{
		ereport(NOTICE,
				(errmsg("pipeline \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	ss_identity_check(pipeline);
	ss_shmem_fence(pipeline->id, FENCE_TIMEOUT);
	pipeline = load_for_change(pipeline->id, name);

	queue_removal(pipeline, drop_group);
	ss_catalog_delete(pipeline->id);
	PG_RETURN_VOID();
}
