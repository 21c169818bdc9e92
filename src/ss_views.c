/*
 * ss_views.c
 *	  Functions behind the views: shared memory as rows.
 *
 * NOTES
 *	  A view's functions run with the rights of who reads it, so he can call them
 *	  by themselves: each of them shows only pipelines of owners that the caller
 *	  is a member of, and all of them to members of pg_monitor.  A definition that
 *	  makes no sense must not hide the others, so they are loaded leniently.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "common/int.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ss_catalog.h"
#include "ss_counter.h"
#include "ss_identity.h"
#include "ss_stats.h"
#include "ss_stream.h"

SS_SQL_FUNCTION(streamsink_pipeline_status);
SS_SQL_FUNCTION(streamsink_worker_slots);
SS_SQL_FUNCTION(streamsink_stream_samples);
SS_SQL_FUNCTION(streamsink_settled_ids);
SS_SQL_FUNCTION(streamsink_reset_stats);

/* A row under construction: values are added in the order of the result's columns. */
typedef struct Row
{
	Datum values[32];
	bool  nulls[32];
	int	  n;
} Row;

static void
add_value(Row *row, Datum value, bool isnull)
{
	if (row->n >= lengthof(row->values))
		elog(ERROR, "too many columns");
	row->values[row->n] = value;
	row->nulls[row->n++] = isnull;
}

static void
add_int4(Row *row, int32 value)
{
	add_value(row, Int32GetDatum(value), false);
}

/* Negative values are unknown. */
static void
add_int8(Row *row, int64 value)
{
	add_value(row, Int64GetDatum(value), value < 0);
}

static void
add_text(Row *row, const char *value)
{
	if (value == NULL || value[0] == '\0')
		add_value(row, (Datum) 0, true);
	else
		add_value(row, CStringGetTextDatum(value), false);
}

static void
add_time(Row *row, TimestampTz value)
{
	add_value(row, TimestampTzGetDatum(value), value == 0);
}

static void
add_interval(Row *row, int64 usecs, bool isnull)
{
	Interval *interval = palloc0(sizeof(Interval));

	interval->day = usecs / USECS_PER_DAY;
	interval->time = usecs % USECS_PER_DAY;
	add_value(row, IntervalPGetDatum(interval), isnull);
}

static void
add_id(Row *row, SsEntryId id, bool isnull)
{
	SsEntryId *copy = palloc(sizeof(SsEntryId));

	*copy = id;
	add_value(row, EntryIdPGetDatum(copy), isnull);
}

/* Microseconds from a to b, 0 if b is before a; false if they are too far apart. */
static bool
time_between(TimestampTz a, TimestampTz b, int64 *usecs)
{
	if (pg_sub_s64_overflow(b, a, usecs))
		return false;
	*usecs = Max(*usecs, 0);
	return true;
}

/* ---- pipelines ---- */

static void
add_counters(Row *row, const SsCounters *counters)
{
	add_int8(row, counters->read);
	add_int8(row, counters->written);
	add_int8(row, counters->rows);
	add_int8(row, counters->refused);
	add_int8(row, counters->ignored);
	add_int8(row, counters->repeated);
	add_int8(row, counters->superseded);
	add_int8(row, counters->vanished);
	add_int8(row, counters->batches);
	add_int8(row, counters->errors);
}

static void
add_latency(Row *row, const uint64 *latency, double share)
{
	double ms = ss_stats_percentile(latency, share);

	add_interval(row, (int64) (ms * 1000.0), ms < 0);
}

/* The row of one pipeline; NULL if it is gone or not the caller's. */
Datum
streamsink_pipeline_status(PG_FUNCTION_ARGS)
{
	SsPipeline		 *pipeline = ss_catalog_load_lenient(NULL, PG_GETARG_INT32(0), true);
	SsStatus		 *status = palloc(sizeof(SsStatus));
	SsPipelineShared *entry = &status->entry;
	TupleDesc		  desc;
	double			  read,
		written;
	int64 entries,
		refused;
	SsCounters	counters;
	TimestampTz reset_at;
	Row			row = {.n = 0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (pipeline == NULL || !ss_identity_may_watch(pipeline->owner_oid))
		PG_RETURN_NULL();

	ss_shmem_status(MyDatabaseId, pipeline->id, pipeline->enabled, pipeline->failure != NULL, status);
	ss_counter_read(pipeline->id, &counters, &reset_at);
	ss_stats_rates(entry, GetCurrentTimestamp(), &read, &written);
	ss_stats_refused(entry, GetCurrentTimestamp(), &entries, &refused);

	add_value(&row, BoolGetDatum(pipeline->enabled), false);
	add_text(&row, ss_shmem_state_name(status->state));
	add_text(&row, status->state == SS_STATE_FAILED ? pipeline->failure : status->reason);
	add_text(&row, status->state == SS_STATE_FAILED ? "Use start() when the cause is removed." : status->hint);
	add_time(&row, status->state_since);
	add_time(&row, status->next_retry_at);
	add_int4(&row, pipeline->enabled ? pipeline->workers : 0);
	add_int4(&row, status->workers);
	add_counters(&row, &counters);
	add_value(&row, Float8GetDatum(read), false);
	add_value(&row, Float8GetDatum(written), false);
	add_latency(&row, entry->latency, 0.50);
	add_latency(&row, entry->latency, 0.99);
	add_time(&row, entry->last_batch_at);
	add_text(&row, entry->last_error);
	add_text(&row, entry->last_sqlstate);
	add_time(&row, entry->last_error_at);
	add_time(&row, reset_at != 0 ? reset_at : pipeline->created_at);
	add_value(&row, Float8GetDatum(entries > 0 ? (double) refused / (double) entries : 0), entries <= 0);
	add_value(&row, BoolGetDatum(status->redis == SS_REDIS_CONNECTED), status->redis == SS_REDIS_UNKNOWN);
	add_int8(&row, counters.retried);

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), row.values, row.nulls)));
}

/* ---- workers ---- */

Datum
streamsink_worker_slots(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SsSlot		  *slot = palloc(sizeof(SsSlot));
	Oid			   owner;
	int			   i;

	InitMaterializedSRF(fcinfo, 0);
	for (i = 0; ss_shmem != NULL && i < ss_shmem->max_slots; i++)
	{
		Row row = {.n = 0};

		if (!ss_shmem_copy_slot(i, slot, &owner) || slot->database != MyDatabaseId ||
			(slot->kind != SS_SLOT_WORKER && slot->kind != SS_SLOT_SESSION) || !ss_identity_may_watch(owner))
			continue;
		add_int4(&row, slot->pipeline_id);
		add_int4(&row, i);
		add_value(&row, Int32GetDatum((int32) slot->pid), slot->pid == 0);
		add_text(&row, slot->consumer);
		add_text(&row, ss_shmem_state_name(slot->state));
		add_int4(&row, slot->streams);
		add_int8(&row, slot->batch_entries);
		add_int8(&row, slot->batch_bytes);
		add_time(&row, slot->batch_started_at);
		add_int8(&row, slot->read);
		add_int8(&row, slot->written);
		add_interval(&row, slot->time_wait_redis, false);
		add_interval(&row, slot->time_map, false);
		add_interval(&row, slot->time_write, false);
		add_interval(&row, slot->time_commit, false);
		add_int8(&row, slot->memory_bytes);
		add_time(&row, slot->started_at);
		add_text(&row, slot->last_error);
		add_value(&row, Int32GetDatum(slot->share), slot->share < 0);
		tuplestore_putvalues(result->setResult, result->setDesc, row.values, row.nulls);
	}
	return (Datum) 0;
}

/* ---- streams ---- */

static void
add_lag_time(Row *row, const SsStreamSample *sample)
{
	int64 usecs;
	bool  known = ss_stats_lag_time(sample, &usecs);

	add_interval(row, usecs, !known);
}

static void
add_oldest_pending(Row *row, const SsStreamSample *sample)
{
	int64 usecs = 0;
	bool  known = ss_entryid_compare(sample->oldest_pending, SS_ENTRYID_MIN) != 0;

	if (known)
		known = time_between(ss_entryid_time(sample->oldest_pending), sample->sampled_at, &usecs);
	add_interval(row, usecs, !known);
}

/* The samples of one pipeline; stream 0 is its dead letter stream. */
Datum
streamsink_stream_samples(PG_FUNCTION_ARGS)
{
	ReturnSetInfo  *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SsPipeline	   *pipeline;
	SsStreamSample *samples;
	int				n,
		i;

	InitMaterializedSRF(fcinfo, 0);
	pipeline = ss_catalog_load_lenient(NULL, PG_GETARG_INT32(0), true);
	if (pipeline == NULL || !ss_identity_may_watch(pipeline->owner_oid))
		return (Datum) 0;

	n = ss_stats_samples(MyDatabaseId, pipeline->id, &samples);
	for (i = 0; i < n; i++)
	{
		const SsStreamSample *sample = &samples[i];
		bool				  known = sample->length >= 0;
		Row					  row = {.n = 0};

		add_int4(&row, sample->key.stream);
		add_value(&row, Int32GetDatum((int32) sample->worker_pid), sample->worker_pid == 0);
		add_text(&row, ss_stream_state_name((SsStreamState) sample->state));
		add_text(&row, sample->reason);
		add_int8(&row, sample->length);
		add_id(&row, sample->first_id, !known || ss_entryid_compare(sample->first_id, SS_ENTRYID_MIN) == 0);
		add_id(&row, sample->last_id, !known);
		add_id(&row, sample->last_delivered, !known);
		add_int8(&row, sample->lag);
		add_lag_time(&row, sample);
		add_int8(&row, sample->pending);
		add_int8(&row, sample->foreign_pending);
		add_oldest_pending(&row, sample);
		add_time(&row, sample->last_entry_at);
		add_time(&row, sample->sampled_at);
		tuplestore_putvalues(result->setResult, result->setDesc, row.values, row.nulls);
	}
	return (Datum) 0;
}

/* settled_ids(pipeline) setof (stream, settled): folded or not */
Datum
streamsink_settled_ids(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SsPipeline	  *pipeline;
	SsSettled	  *settled;
	ListCell	  *cell;

	InitMaterializedSRF(fcinfo, 0);
	pipeline = ss_catalog_load_lenient(NULL, PG_GETARG_INT32(0), true);
	if (pipeline == NULL || !ss_identity_may_watch(pipeline->owner_oid))
		return (Datum) 0;

	settled = ss_ledger_load(pipeline->id, NULL, 0);
	foreach(cell, ss_catalog_streams(pipeline->id))
	{
		const SsStreamRow *stream = lfirst(cell);
		Datum			   ids = ss_ledger_multirange(settled, stream->id);
		Row				   row = {.n = 0};

		add_int4(&row, stream->id);
		add_value(&row, ids, ids == (Datum) 0);
		tuplestore_putvalues(result->setResult, result->setDesc, row.values, row.nulls);
	}
	return (Datum) 0;
}

Datum
streamsink_reset_stats(PG_FUNCTION_ARGS)
{
	SsPipeline *pipeline = ss_catalog_load(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);

	ss_identity_check(pipeline);
	ss_catalog_lock(pipeline->id, AccessShareLock);
	if (!ss_catalog_is_current(pipeline))
		pipeline = ss_catalog_load(pipeline->name, false);
	ss_counter_reset(pipeline->id);
	ss_stats_reset(MyDatabaseId, pipeline->id);
	PG_RETURN_VOID();
}
