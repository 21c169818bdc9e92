/*
 * ss_catalog.c
 *	  Reading pipeline definitions.  Writing is in ss_catalog_write.c, the table
 *	  of streams in ss_catalog_stream.c, where relations are found and locks are taken
 *	  in ss_catalog_relation.c.
 *
 * NOTES
 *	  Every read takes the latest snapshot, whatever the isolation level: what
 *	  is asked is always how things stand now.  Rows are copied and detoasted
 *	  while that snapshot is registered.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/genam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "ss_catalog.h"

const char *const ss_catalog_on_conflict_words[] = {"error", "nothing", "update", NULL};
const char *const ss_catalog_on_error_words[] = {"dead_letter", "stop", "discard", NULL};
const char *const ss_catalog_growth_words[] = {"exponential", "linear", "constant", NULL};
const char *const ss_catalog_replaced_words[] = {"stop", "follow", NULL};
const char *const ss_catalog_lost_words[] = {"stop", "resume_after_last", "reread", NULL};

static HeapTuple
find_row(Relation rel, const char *index, ScanKey key)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan(rel, ss_catalog_relation(index, false), true,
							  snapshot, 1, key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		if (HeapTupleHasExternal(tuple))
			tuple = toast_flatten_tuple(tuple, RelationGetDescr(rel));
		else
			tuple = heap_copytuple(tuple);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return tuple;
}

HeapTuple
ss_catalog_find(Relation rel, int32 id)
{
	ScanKeyData key;

	ScanKeyInit(&key, SS_PIPELINE_id, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(id));
	return find_row(rel, "pipeline_pkey", &key);
}

HeapTuple
ss_catalog_find_name(Relation rel, const char *name)
{
	ScanKeyData key;

	/* the index is ordered by the database's collation, not by "C" as catalogs are */
	ScanKeyEntryInitialize(&key, 0, SS_PIPELINE_name, BTEqualStrategyNumber,
						   InvalidOid, DEFAULT_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(name));
	return find_row(rel, "pipeline_name_key", &key);
}

/* Columns of a row; the values point into the tuple. */
void
ss_catalog_deform(Relation rel, HeapTuple tuple, Datum *values, bool *nulls)
{
	TupleDesc desc = RelationGetDescr(rel);
	Datum	 *all_values;
	bool	 *all_nulls;

	if (desc->natts < SS_PIPELINE_NCOLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the installed version of extension \"%s\" does not fit the loaded library", "streamsink"),
				 errhint("Run ALTER EXTENSION streamsink UPDATE.")));

	all_values = palloc_array(Datum, desc->natts);
	all_nulls = palloc_array(bool, desc->natts);
	heap_deform_tuple(tuple, desc, all_values, all_nulls);
	memcpy(values, all_values, sizeof(Datum) * SS_PIPELINE_NCOLUMNS);
	memcpy(nulls, all_nulls, sizeof(bool) * SS_PIPELINE_NCOLUMNS);
	pfree(all_values);
	pfree(all_nulls);
}

bool
ss_catalog_interval_ms(const Interval *interval, int64 *ms)
{
	int64 days_ms = (int64) interval->day * (SECS_PER_DAY * INT64CONST(1000));

	/* an infinite interval (17 and later) has months too */
	if (interval->month != 0)
		return false;
	*ms = days_ms + interval->time / INT64CONST(1000);
	return true;
}

/* ---- a definition out of its columns ---- */

#define IS_NULL(column) (nulls[SS_PIPELINE_##column - 1])
#define VALUE(column)	(values[SS_PIPELINE_##column - 1])
#define TEXT_OF(column) (IS_NULL(column) ? NULL : TextDatumGetCString(VALUE(column)))

/* Index of a word; -1 and a report if it is none, with elevel 0 the first one. */
static int
read_word(const char *pipeline, const char *column, Datum value,
		  const char *const *words, int elevel)
{
	char *word = TextDatumGetCString(value);

	for (int i = 0; words[i] != NULL; i++)
	{
		if (strcmp(words[i], word) == 0)
			return i;
	}
	if (elevel == 0)
		return 0;
	ereport(elevel,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("pipeline \"%s\" has the unknown value \"%s\" for \"%s\"",
					pipeline, word, column),
			 errhint("Run streamsink.alter_pipeline with reset => '{%s}'.", column)));
	return -1;
}

static bool
read_interval(const char *pipeline, const char *column, Datum value, int64 *ms, int elevel)
{
	if (ss_catalog_interval_ms(DatumGetIntervalP(value), ms) && *ms >= 0)
		return true;
	*ms = 0;
	if (elevel == 0)
		return true;
	ereport(elevel,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("pipeline \"%s\" has an invalid interval for \"%s\"", pipeline, column),
			 errdetail("It must not be negative and must not have months."),
			 errhint("Run streamsink.alter_pipeline with reset => '{%s}'.", column)));
	return false;
}

/* Was it enabled by this very database of this very system?  A restored dump or a clone was not. */
static bool
is_enabled_here(const Datum *values, const bool *nulls)
{
	char  system[24];
	char *enabled_system;

	if (!DatumGetBool(VALUE(enabled)) || IS_NULL(enabled_system) || IS_NULL(enabled_database))
		return false;
	snprintf(system, sizeof(system), UINT64_FORMAT, GetSystemIdentifier());
	enabled_system = TextDatumGetCString(VALUE(enabled_system));
	return strcmp(system, enabled_system) == 0 &&
		   DatumGetObjectId(VALUE(enabled_database)) == MyDatabaseId;
}

SsPipeline *
ss_catalog_build(const Datum *values, const bool *nulls, int elevel)
{
	SsPipeline *pipeline = palloc0_object(SsPipeline);
	char	   *name = TEXT_OF(name);
	int			word;

	pipeline->id = DatumGetInt32(VALUE(id));
	pipeline->name = name;
	pipeline->owner = pstrdup(NameStr(*DatumGetName(VALUE(owner))));
	pipeline->owner_oid = get_role_oid(pipeline->owner, true);
	pipeline->server = TEXT_OF(server);
	pipeline->stream = TEXT_OF(stream);
	pipeline->target = TEXT_OF(target);
	pipeline->row_type = TEXT_OF(row_type);
	pipeline->transform = TEXT_OF(transform);
	pipeline->columns = IS_NULL(columns) ? NULL : DatumGetJsonbPCopy(VALUE(columns));
	pipeline->payload = TEXT_OF(payload);
	pipeline->rest = TEXT_OF(rest);

	word = read_word(name, "on_conflict", VALUE(on_conflict), ss_catalog_on_conflict_words, elevel);
	if (word < 0)
		return NULL;
	pipeline->on_conflict = (SsOnConflict) word;

	pipeline->key = TEXT_OF(key);
	pipeline->consumer_group = TEXT_OF(consumer_group);
	pipeline->start_from = TEXT_OF(start_from);
	pipeline->workers = DatumGetInt32(VALUE(workers));
	pipeline->batch_size = DatumGetInt32(VALUE(batch_size));
	pipeline->batch_bytes = DatumGetInt64(VALUE(batch_bytes));
	if (!read_interval(name, "linger", VALUE(linger), &pipeline->linger_ms, elevel))
		return NULL;

	word = read_word(name, "on_error", VALUE(on_error), ss_catalog_on_error_words, elevel);
	if (word < 0)
		return NULL;
	pipeline->on_error = (SsOnError) word;

	pipeline->max_retries = IS_NULL(max_retries) ? -1 : DatumGetInt32(VALUE(max_retries));
	if (!read_interval(name, "retry_backoff", VALUE(retry_backoff),
					   &pipeline->retry_backoff_ms, elevel) ||
		!read_interval(name, "retry_backoff_max", VALUE(retry_backoff_max),
					   &pipeline->retry_backoff_max_ms, elevel) ||
		!read_interval(name, "ledger_retention", VALUE(ledger_retention), &pipeline->ledger_retention_ms, elevel))
		return NULL;
	pipeline->claim_idle_ms = -1;
	if (!IS_NULL(claim_idle) && !read_interval(name, "claim_idle", VALUE(claim_idle), &pipeline->claim_idle_ms, elevel))
		return NULL;

	pipeline->trim_after_ms = -1;
	if (!IS_NULL(trim_after) && !read_interval(name, "trim_after", VALUE(trim_after), &pipeline->trim_after_ms, elevel))
		return NULL;

	word = read_word(name, "retry_growth", VALUE(retry_growth), ss_catalog_growth_words, elevel);
	if (word < 0)
		return NULL;
	pipeline->retry_growth = (SsGrowth) word;

	pipeline->max_dead_letter_rate = IS_NULL(max_dead_letter_rate) ? 0 : DatumGetFloat4(VALUE(max_dead_letter_rate));
	word = read_word(name, "on_replaced_stream", VALUE(on_replaced_stream), ss_catalog_replaced_words, elevel);
	if (word < 0)
		return NULL;
	pipeline->on_replaced_stream = (SsOnReplaced) word;

	word = SS_LOST_UNSET;
	if (!IS_NULL(on_lost_group))
		word = read_word(name, "on_lost_group", VALUE(on_lost_group), ss_catalog_lost_words, elevel);
	if (word < SS_LOST_UNSET)
		return NULL;
	pipeline->on_lost_group = (SsOnLost) word;

	pipeline->dead_letter_stream = TEXT_OF(dead_letter_stream);
	pipeline->max_dead_letters = IS_NULL(max_dead_letters) ? -1 : DatumGetInt64(VALUE(max_dead_letters));
	pipeline->dead_letter_retention_ms = -1;
	if (!IS_NULL(dead_letter_retention) &&
		!read_interval(name, "dead_letter_retention", VALUE(dead_letter_retention),
					   &pipeline->dead_letter_retention_ms, elevel))
		return NULL;

	pipeline->max_entry_bytes = DatumGetInt64(VALUE(max_entry_bytes));
	pipeline->allow_inexact = DatumGetBool(VALUE(allow_inexact));
	pipeline->evolve = DatumGetBool(VALUE(evolve));
	pipeline->settings = DatumGetJsonbPCopy(VALUE(settings));
	pipeline->identity = *DatumGetUUIDP(VALUE(identity));
	snprintf(pipeline->consumer, sizeof(pipeline->consumer), "streamsink:%s",
			 DatumGetCString(DirectFunctionCall1(uuid_out, VALUE(identity))));
	pipeline->incarnation = DatumGetInt32(VALUE(incarnation));
	pipeline->generation = DatumGetInt64(VALUE(generation));
	pipeline->enabled = is_enabled_here(values, nulls);
	pipeline->failure = TEXT_OF(failure);
	pipeline->created_at = DatumGetTimestampTz(VALUE(created_at));
	return pipeline;
}

static SsPipeline *
build_from_tuple(Relation rel, HeapTuple tuple, int elevel)
{
	Datum values[SS_PIPELINE_NCOLUMNS];
	bool  nulls[SS_PIPELINE_NCOLUMNS];

	ss_catalog_deform(rel, tuple, values, nulls);
	return ss_catalog_build(values, nulls, elevel);
}

static void
raise_missing(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("pipeline \"%s\" does not exist", name),
			 errhint("See SELECT name FROM streamsink.pipelines.")));
}

SsPipeline *
ss_catalog_load(const char *name, bool missing_ok)
{
	Relation	rel = ss_catalog_open("pipeline", AccessShareLock, false);
	HeapTuple	tuple = ss_catalog_find_name(rel, name);
	SsPipeline *pipeline = NULL;

	if (HeapTupleIsValid(tuple))
		pipeline = build_from_tuple(rel, tuple, ERROR);
	else if (!missing_ok)
		raise_missing(name);
	table_close(rel, AccessShareLock);
	return pipeline;
}

SsPipeline *
ss_catalog_load_by_id(int32 id)
{
	Relation	rel = ss_catalog_open("pipeline", AccessShareLock, true);
	SsPipeline *pipeline = NULL;
	HeapTuple	tuple;

	if (rel == NULL)
		return NULL;
	tuple = ss_catalog_find(rel, id);
	if (HeapTupleIsValid(tuple))
		pipeline = build_from_tuple(rel, tuple, ERROR);
	table_close(rel, AccessShareLock);
	return pipeline;
}

SsPipeline *
ss_catalog_load_lenient(const char *name, int32 id, bool missing_ok)
{
	Relation	rel = ss_catalog_open("pipeline", AccessShareLock, false);
	HeapTuple	tuple = name != NULL ? ss_catalog_find_name(rel, name) : ss_catalog_find(rel, id);
	SsPipeline *pipeline = NULL;

	if (HeapTupleIsValid(tuple))
		pipeline = build_from_tuple(rel, tuple, 0);
	else if (!missing_ok)
		raise_missing(name != NULL ? name : psprintf("%d", id));
	table_close(rel, AccessShareLock);
	return pipeline;
}

static int
compare_ids(const ListCell *a, const ListCell *b)
{
	int32 left = ((const SsPipeline *) lfirst(a))->id;
	int32 right = ((const SsPipeline *) lfirst(b))->id;

	return (left > right) - (left < right);
}

List *
ss_catalog_list(void)
{
	Relation	rel = ss_catalog_open("pipeline", AccessShareLock, true);
	List	   *pipelines = NIL;
	Snapshot	snapshot;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)
		return NIL;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		SsPipeline *pipeline = build_from_tuple(rel, tuple, WARNING);

		if (pipeline != NULL)
			pipelines = lappend(pipelines, pipeline);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	list_sort(pipelines, compare_ids);
	return pipelines;
}

bool
ss_catalog_fetch(int32 id, Datum *values, bool *nulls)
{
	Relation  rel = ss_catalog_open("pipeline", AccessShareLock, true);
	HeapTuple tuple = NULL;

	if (rel == NULL)
		return false;
	tuple = ss_catalog_find(rel, id);
	if (HeapTupleIsValid(tuple))
		ss_catalog_deform(rel, tuple, values, nulls);
	table_close(rel, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

int64
ss_catalog_generation(int32 pipeline_id, bool *enabled)
{
	Relation  rel = ss_catalog_open("pipeline", AccessShareLock, true);
	int64	  generation = -1;
	HeapTuple tuple;

	if (enabled != NULL)
		*enabled = false;
	if (rel == NULL)
		return -1;
	tuple = ss_catalog_find(rel, pipeline_id);
	if (HeapTupleIsValid(tuple))
	{
		Datum values[SS_PIPELINE_NCOLUMNS];
		bool  nulls[SS_PIPELINE_NCOLUMNS];

		ss_catalog_deform(rel, tuple, values, nulls);
		generation = DatumGetInt64(VALUE(generation));
		if (enabled != NULL)
			*enabled = is_enabled_here(values, nulls);
		heap_freetuple(tuple);
	}
	table_close(rel, AccessShareLock);
	return generation;
}

bool
ss_catalog_is_current(const SsPipeline *pipeline)
{
	Datum values[SS_PIPELINE_NCOLUMNS];
	bool  nulls[SS_PIPELINE_NCOLUMNS];

	return ss_catalog_fetch(pipeline->id, values, nulls) &&
		   DatumGetInt64(VALUE(generation)) == pipeline->generation &&
		   memcmp(DatumGetUUIDP(VALUE(identity)), &pipeline->identity, sizeof(pg_uuid_t)) == 0;
}
