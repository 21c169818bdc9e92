/*
 * ss_define.c
 *	  The arguments of a pipeline's definition: their defaults and what each
 *	  may be.
 *
 * NOTES
 *	  One table says it all; the defaults are those of create_pipeline's
 *	  declaration, which a test compares.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/varlena.h"
#include "ss_define.h"
#include "ss_guc.h"
#include "ss_identity.h"
#include "ss_server.h"
#include "ss_shmem.h"
#include "ss_template.h"
#include "ss_transform.h"

typedef struct Argument
{
	const char *name;
	Oid			type;	  /* of the argument and of the column */
	const char *fallback; /* the default as text, NULL: none */
	int			flags;
	void (*check)(SsDefinition *def, const struct Argument *argument, Datum *value);
	int64			   min; /* numbers; intervals in milliseconds; text: bytes */
	int64			   max;
	const char *const *words;
} Argument;

static void check_text(SsDefinition *def, const Argument *argument, Datum *value);
static void check_word(SsDefinition *def, const Argument *argument, Datum *value);
static void check_integer(SsDefinition *def, const Argument *argument, Datum *value);
static void check_interval(SsDefinition *def, const Argument *argument, Datum *value);
static void check_claim_idle(SsDefinition *def, const Argument *argument, Datum *value);
static void check_rate(SsDefinition *def, const Argument *argument, Datum *value);
static void check_server(SsDefinition *def, const Argument *argument, Datum *value);
static void check_stream(SsDefinition *def, const Argument *argument, Datum *value);
static void check_relation(SsDefinition *def, const Argument *argument, Datum *value);
static void check_transform(SsDefinition *def, const Argument *argument, Datum *value);
static void check_create(SsDefinition *def, const Argument *argument, Datum *value);
static void check_columns(SsDefinition *def, const Argument *argument, Datum *value);
static void check_key(SsDefinition *def, const Argument *argument, Datum *value);
static void check_start(SsDefinition *def, const Argument *argument, Datum *value);
static void check_settings(SsDefinition *def, const Argument *argument, Datum *value);

#define REQUIRED SS_ARGUMENT_REQUIRED
#define NULLABLE SS_ARGUMENT_NULLABLE
#define MAPPING	 SS_ARGUMENT_MAPPING
#define REDIS	 SS_ARGUMENT_REDIS

#define MAX_TEXT (1024 * 1024) /* bytes */
#define DAY_MS	 INT64CONST(86400000)

#define ARGUMENT(column, ...) [SS_PIPELINE_##column - 1] = {#column, __VA_ARGS__}

static const Argument arguments[SS_PIPELINE_NARGS] = {
	ARGUMENT(name, TEXTOID, NULL, REQUIRED, check_text, 1, SS_NAME_MAX - 1),
	ARGUMENT(server, TEXTOID, NULL, REQUIRED | REDIS, check_server, 1, NAMEDATALEN - 1),
	ARGUMENT(stream, TEXTOID, NULL, REQUIRED | REDIS | MAPPING, check_stream, 1, SS_STREAM_NAME_MAX),
	ARGUMENT(target, TEXTOID, NULL, NULLABLE | MAPPING, check_relation, 1, MAX_TEXT),
	ARGUMENT(row_type, TEXTOID, NULL, NULLABLE | MAPPING, check_relation, 1, MAX_TEXT),
	ARGUMENT(transform, TEXTOID, NULL, NULLABLE | MAPPING, check_transform, 1, MAX_TEXT),
	ARGUMENT(columns, JSONBOID, NULL, NULLABLE | MAPPING, check_columns),
	ARGUMENT(payload, TEXTOID, NULL, NULLABLE | MAPPING, check_text, 1, MAX_TEXT),
	ARGUMENT(rest, TEXTOID, NULL, NULLABLE | MAPPING, check_text, 1, NAMEDATALEN - 1),
	ARGUMENT(on_conflict, TEXTOID, "error", MAPPING, check_word, .words = ss_catalog_on_conflict_words),
	ARGUMENT(key, TEXTOID, NULL, NULLABLE | MAPPING, check_key, 1, MAX_TEXT),
	ARGUMENT(consumer_group, TEXTOID, NULL, REDIS, check_text, 1, SS_STREAM_NAME_MAX),
	ARGUMENT(start_from, TEXTOID, "0", REDIS, check_start),
	ARGUMENT(workers, INT4OID, "1", 0, check_integer, 1, 64),
	ARGUMENT(batch_size, INT4OID, "1000", 0, check_integer, 1, 100000),
	ARGUMENT(batch_bytes, INT8OID, "16777216", 0, check_integer, 65536, INT64CONST(1073741824)),
	ARGUMENT(linger, INTERVALOID, "0", 0, check_interval, 0, 60000),
	ARGUMENT(on_error, TEXTOID, "dead_letter", 0, check_word, .words = ss_catalog_on_error_words),
	ARGUMENT(max_retries, INT4OID, NULL, NULLABLE, check_integer, 0, PG_INT32_MAX),
	ARGUMENT(retry_backoff, INTERVALOID, "500 ms", 0, check_interval, 0, DAY_MS),
	ARGUMENT(retry_backoff_max, INTERVALOID, "1 min", 0, check_interval, 0, DAY_MS),
	ARGUMENT(retry_growth, TEXTOID, "exponential", 0, check_word, .words = ss_catalog_growth_words),
	ARGUMENT(max_dead_letter_rate, FLOAT4OID, NULL, NULLABLE, check_rate),
	ARGUMENT(dead_letter_stream, TEXTOID, NULL, NULLABLE, check_text, 1, SS_STREAM_NAME_MAX),
	ARGUMENT(dead_letter_retention, INTERVALOID, NULL, NULLABLE, check_interval, 1000, PG_INT64_MAX),
	ARGUMENT(max_dead_letters, INT8OID, NULL, NULLABLE, check_integer, 1, PG_INT64_MAX),
	ARGUMENT(trim_after, INTERVALOID, NULL, NULLABLE, check_interval, 0, 36500 * DAY_MS),
	ARGUMENT(on_replaced_stream, TEXTOID, "stop", 0, check_word, .words = ss_catalog_replaced_words),
	ARGUMENT(on_lost_group, TEXTOID, NULL, NULLABLE, check_word, .words = ss_catalog_lost_words),
	ARGUMENT(claim_idle, INTERVALOID, NULL, NULLABLE, check_claim_idle, 1000, 365 * DAY_MS),
	ARGUMENT(max_entry_bytes, INT8OID, "67108864", 0, check_integer, 1024, INT64CONST(536870912)),
	ARGUMENT(ledger_retention, INTERVALOID, "7 days", 0, check_interval, DAY_MS / 24, 36500 * DAY_MS),
	ARGUMENT(allow_inexact, BOOLOID, "false", MAPPING),
	ARGUMENT(create_target, BOOLOID, "false", 0, check_create),
	ARGUMENT(evolve, BOOLOID, "false", MAPPING),
	ARGUMENT(settings, JSONBOID, "{}", MAPPING, check_settings),
};

#define IS_NULL(def, column) ((def)->nulls[SS_PIPELINE_##column - 1])
#define VALUE(def, column)	 ((def)->values[SS_PIPELINE_##column - 1])

void
ss_define_init(SsDefinition *def, Oid owner)
{
	NameData *owner_name = palloc0_object(NameData);

	memset(def, 0, sizeof(*def));
	memset(def->nulls, true, sizeof(def->nulls));
	def->owner = owner;

	namestrcpy(owner_name, GetUserNameFromId(owner, false));
	VALUE(def, owner) = NameGetDatum(owner_name);
	VALUE(def, id) = Int32GetDatum(0);
	VALUE(def, identity) = UUIDPGetDatum(palloc0_object(pg_uuid_t));
	VALUE(def, incarnation) = Int32GetDatum(1);
	VALUE(def, generation) = Int64GetDatum(0);
	VALUE(def, enabled) = BoolGetDatum(false);
	IS_NULL(def, owner) = IS_NULL(def, id) = IS_NULL(def, identity) = false;
	IS_NULL(def, incarnation) = IS_NULL(def, generation) = IS_NULL(def, enabled) = false;
}

const char *
ss_define_name(int column)
{
	return arguments[column - 1].name;
}

Oid
ss_define_type(int column)
{
	return arguments[column - 1].type;
}

int
ss_define_flags(int column)
{
	return arguments[column - 1].flags;
}

int
ss_define_find(const char *name)
{
	StringInfoData valid;

	for (int i = 0; i < SS_PIPELINE_NARGS; i++)
	{
		if (strcmp(arguments[i].name, name) == 0)
			return i + 1;
	}
	initStringInfo(&valid);
	for (int i = 0; i < SS_PIPELINE_NARGS; i++)
	{
		if ((arguments[i].flags & REQUIRED) == 0)
			appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", arguments[i].name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a pipeline has no argument \"%s\"", name),
			 errhint("Valid names are: %s.", valid.data)));
	return 0; /* keep the compiler quiet */
}

static Datum
read_fallback(const Argument *argument)
{
	Oid input;
	Oid ioparam;

	getTypeInputInfo(argument->type, &input, &ioparam);
	return OidInputFunctionCall(input, unconstify(char *, argument->fallback), ioparam, -1);
}

static char *
print_value(Oid type, Datum value)
{
	Oid	 output;
	bool is_varlena;

	getTypeOutputInfo(type, &output, &is_varlena);
	return OidOutputFunctionCall(output, value);
}

void
ss_define_set_fallback(SsDefinition *def, int column)
{
	const Argument *argument = &arguments[column - 1];

	def->nulls[column - 1] = argument->fallback == NULL;
	def->values[column - 1] = argument->fallback != NULL ? read_fallback(argument) : (Datum) 0;
}

bool
ss_define_is_fallback(const SsDefinition *def, int column)
{
	const Argument *argument = &arguments[column - 1];
	char		   *value;

	if (def->nulls[column - 1])
		return argument->fallback == NULL;
	value = print_value(argument->type, def->values[column - 1]);
	if (column == SS_PIPELINE_consumer_group)
		return !IS_NULL(def, name) && strcmp(value, TextDatumGetCString(VALUE(def, name))) == 0;
	if (argument->fallback == NULL)
		return false;
	return strcmp(value, print_value(argument->type, read_fallback(argument))) == 0;
}

void
ss_define_check(SsDefinition *def, int column)
{
	const Argument *argument = &arguments[column - 1];
	Datum		   *value = &def->values[column - 1];

	if (def->nulls[column - 1])
	{
		if ((argument->flags & NULLABLE) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("\"%s\" must not be null", argument->name)));
		return;
	}
	if (argument->check != NULL)
		argument->check(def, argument, value);
}

/* ---- checks of single arguments ---- */

static void
check_text(SsDefinition *def, const Argument *argument, Datum *value)
{
	size_t len = strlen(TextDatumGetCString(*value));

	if (len < argument->min)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must not be empty", argument->name)));
	if (len > argument->max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is too long", argument->name),
				 errdetail("It has %zu bytes, at most " INT64_FORMAT " are possible.",
						   len, argument->max)));
}

static void
check_word(SsDefinition *def, const Argument *argument, Datum *value)
{
	char		  *word = TextDatumGetCString(*value);
	StringInfoData valid;

	initStringInfo(&valid);
	for (int i = 0; argument->words[i] != NULL; i++)
	{
		if (strcmp(argument->words[i], word) == 0)
			return;
		appendStringInfo(&valid, "%s%s", i > 0 ? ", " : "", argument->words[i]);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for \"%s\": \"%s\"", argument->name, word),
			 errhint("Valid values are: %s.", valid.data)));
}

static void
check_integer(SsDefinition *def, const Argument *argument, Datum *value)
{
	int64 number = argument->type == INT4OID ? DatumGetInt32(*value) : DatumGetInt64(*value);

	if (number < argument->min || number > argument->max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": " INT64_FORMAT, argument->name, number),
				 errdetail("It must be from " INT64_FORMAT " to " INT64_FORMAT ".",
						   argument->min, argument->max)));
}

static void
check_interval(SsDefinition *def, const Argument *argument, Datum *value)
{
	int64 ms;

	ms = ss_define_milliseconds(argument->name, DatumGetIntervalP(*value), false);
	if (ms < argument->min || ms > argument->max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": %s", argument->name,
						print_value(INTERVALOID, *value)),
				 errdetail("It must be from " INT64_FORMAT " to " INT64_FORMAT " ms.",
						   argument->min, argument->max)));
}

static void
check_claim_idle(SsDefinition *def, const Argument *argument, Datum *value)
{
	check_interval(def, argument, value);
	if (ss_define_milliseconds(argument->name, DatumGetIntervalP(*value), false) < ss_guc_batch_timeout)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("\"%s\" is shorter than streamsink.batch_timeout", argument->name),
				 errdetail("An entry that is claimed from a consumer which still works on it is applied by both.")));
}

static void
check_rate(SsDefinition *def, const Argument *argument, Datum *value)
{
	float4 rate = DatumGetFloat4(*value);

	/* not a number is neither */
	if (!(rate > 0 && rate <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": %s", argument->name, print_value(FLOAT4OID, *value)),
				 errdetail("It must be above 0 and at most 1."),
				 errhint("0.1 stops the pipeline when more than a tenth of its entries are refused.")));
}

static void
check_server(SsDefinition *def, const Argument *argument, Datum *value)
{
	/* existence, wrapper and USAGE */
	(void) ss_server_params(TextDatumGetCString(*value), def->owner);
}

static void
check_stream(SsDefinition *def, const Argument *argument, Datum *value)
{
	check_text(def, argument, value);
	(void) ss_template_parse(TextDatumGetCString(*value));
}

/* A relation by the caller's search_path; a composite type is one too.  Stored qualified, so that it means the same for everybody. */
static void
check_relation(SsDefinition *def, const Argument *argument, Datum *value)
{
	char	 *name = TextDatumGetCString(*value);
	RangeVar *range;
	Oid		  relid;

	check_text(def, argument, value);
	range = makeRangeVarFromNameList(ss_compat_name_list(name));
	/* locked: it must not be dropped before its names are looked up */
	relid = RangeVarGetRelid(range, AccessShareLock, true);
	if (def->creating && argument == &arguments[SS_PIPELINE_target - 1])
	{
		if (!OidIsValid(relid))
		{
			*value = CStringGetTextDatum(ss_define_new_target(range));
			def->make_target = true;
			return;
		}
		ereport(NOTICE,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists, skipping", name)));
	}
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" of \"%s\" does not exist", name, argument->name),
				 errhint("Create it first, or name its schema if it is not in your search_path.")));
	*value = CStringGetTextDatum(quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
															get_rel_name(relid)));
}

static void
check_transform(SsDefinition *def, const Argument *argument, Datum *value)
{
	check_text(def, argument, value);
	(void) ss_transform_parse(TextDatumGetCString(*value));
}

static void
check_create(SsDefinition *def, const Argument *argument, Datum *value)
{
	if (def->stored_settings != NULL && DatumGetBool(*value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" has an effect only while a pipeline is created", argument->name),
				 errhint("Make the table with CREATE TABLE, or add columns with ALTER TABLE.")));
}

static void
check_columns(SsDefinition *def, const Argument *argument, Datum *value)
{
	Jsonb			  *columns = DatumGetJsonbP(*value);
	bool			   valid = JB_ROOT_IS_OBJECT(columns);
	JsonbIterator	  *it;
	JsonbIteratorToken token;
	JsonbValue		   item;

	if (valid)
	{
		it = JsonbIteratorInit(&columns->root);
		while ((token = JsonbIteratorNext(&it, &item, true)) != WJB_DONE)
		{
			if (token == WJB_VALUE && item.type != jbvString)
				valid = false;
		}
	}
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be a JSON object of strings", argument->name),
				 errhint("It maps columns to fields, for example {\"device_id\": \"deviceId\"}.")));
}

static void
check_key(SsDefinition *def, const Argument *argument, Datum *value)
{
	char *key = TextDatumGetCString(*value);
	List *names;

	check_text(def, argument, value);
	if (!SplitIdentifierString(pstrdup(key), ',', &names) || names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": \"%s\"", argument->name, key),
				 errhint("It is a list of column names, joined by commas.")));
}

static void
explain_position(void *arg)
{
	errcontext("position \"%s\", which is no entry id (ms or ms-seq) and not $, read as a time",
			   (const char *) arg);
}

bool
ss_define_position(const char *text, SsEntryId *position)
{
	ErrorContextCallback explain;
	TimestampTz			 when;

	if (strcmp(text, "$") == 0)
		return false;
	if (ss_entryid_parse(text, strlen(text), position))
		return true;

	explain.callback = explain_position;
	explain.arg = unconstify(char *, text);
	explain.previous = error_context_stack;
	error_context_stack = &explain;
	when = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
												   ObjectIdGetDatum(InvalidOid),
												   Int32GetDatum(-1)));
	if (TIMESTAMP_IS_NOEND(when))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_FIELD_OVERFLOW),
				 errmsg("a position must not be infinity"),
				 errhint("Use $ for the end of a stream.")));
	error_context_stack = explain.previous;

	*position = TIMESTAMP_IS_NOBEGIN(when) ? SS_ENTRYID_MIN : ss_entryid_from_time(when);
	/* entries of that very moment are read as well */
	(void) ss_entryid_previous(*position, position);
	return true;
}

static void
check_start(SsDefinition *def, const Argument *argument, Datum *value)
{
	SsEntryId position = SS_ENTRYID_MIN;
	char	  buf[SS_ENTRYID_MAXLEN];

	def->from_now = !ss_define_position(TextDatumGetCString(*value), &position);
	if (ss_entryid_compare(position, SS_ENTRYID_MIN) == 0)
		strlcpy(buf, argument->fallback, sizeof(buf));
	else
		(void) ss_entryid_print(position, buf);
	*value = CStringGetTextDatum(buf);
}

static void
check_settings(SsDefinition *def, const Argument *argument, Datum *value)
{
	Jsonb *given = DatumGetJsonbP(*value);

	*value = JsonbPGetDatum(def->stored_settings != NULL ?
								ss_identity_recapture(def->stored_settings, given) :
								ss_identity_capture(given));
}

/* ---- checks of several ---- */

void
ss_define_check_whole(const SsDefinition *def)
{
	ss_define_check_makes(def);
	if (IS_NULL(def, target) && IS_NULL(def, transform))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", "target"),
				 errhint("Name the table that the rows go to.")));
	if (!IS_NULL(def, transform) && IS_NULL(def, target) && IS_NULL(def, row_type))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null with a transform and no target", "row_type"),
				 errhint("Name a composite type or table whose columns are those of batch.")));
	if (!IS_NULL(def, transform) && (!IS_NULL(def, key) || !ss_define_is_fallback(def, SS_PIPELINE_on_conflict)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" does not go with a transform", IS_NULL(def, key) ? "on_conflict" : "key"),
				 errhint("Write ON CONFLICT into the INSERT of the transform.")));
	if (!IS_NULL(def, key) && ss_define_is_fallback(def, SS_PIPELINE_on_conflict))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"key\" is given, but \"on_conflict\" is \"error\""),
				 errhint("Set on_conflict to nothing or update, or leave key out.")));
	if (!IS_NULL(def, dead_letter_stream))
	{
		SsTemplate *tmpl = ss_template_parse(TextDatumGetCString(VALUE(def, stream)));

		if (tmpl->single && strcmp(tmpl->key, TextDatumGetCString(VALUE(def, dead_letter_stream))) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"dead_letter_stream\" is the stream that the pipeline reads"),
					 errhint("Copies of dead letters need a stream of their own.")));
	}
}

void
ss_define_check_backoff(const SsDefinition *def)
{
	int64 first = ss_define_milliseconds("retry_backoff", DatumGetIntervalP(VALUE(def, retry_backoff)), false);
	int64 longest = ss_define_milliseconds("retry_backoff_max", DatumGetIntervalP(VALUE(def, retry_backoff_max)), false);

	if (first > longest)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"retry_backoff\" is longer than \"retry_backoff_max\""),
				 errdetail("They are " INT64_FORMAT " and " INT64_FORMAT " ms.", first, longest),
				 errhint("Set retry_backoff_max to at least retry_backoff.")));
}

int64
ss_define_milliseconds(const char *argument, const Interval *interval, bool isnull)
{
	int64 ms;

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", argument)));
	if (!ss_catalog_interval_ms(interval, &ms))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": %s", argument,
						print_value(INTERVALOID, IntervalPGetDatum(interval))),
				 errdetail("It must not have months or years, whose length is not fixed.")));
	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": %s", argument,
						print_value(INTERVALOID, IntervalPGetDatum(interval))),
				 errdetail("It must not be negative.")));
	return ms;
}
