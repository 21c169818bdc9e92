/*
 * ss_counter.c
 *	  Counters of a pipeline, exact across restarts.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ss_catalog.h"
#include "ss_counter.h"
#include "ss_ledger.h"
#include "ss_ledgerrow.h"
#include "ss_ledgerscan.h"

/* Columns of streamsink.counter; between them those that are stored. */
#define COUNTER_pipeline 1
#define COUNTER_first	 2
#define COUNTER_reset_at (COUNTER_first + SS_COUNTER_NSTORED)
#define COUNTER_NCOLUMNS COUNTER_reset_at

#define SAVE_ERRORS_MS 1000

static int64	   unsaved_errors = 0;
static TimestampTz errors_saved_at = 0;

static const size_t offsets[SS_COUNTER_NSTORED] = {
	offsetof(SsCounters, written),
	offsetof(SsCounters, refused),
	offsetof(SsCounters, ignored),
	offsetof(SsCounters, repeated),
	offsetof(SsCounters, superseded),
	offsetof(SsCounters, vanished),
	offsetof(SsCounters, rows),
	offsetof(SsCounters, batches),
	offsetof(SsCounters, errors),
	offsetof(SsCounters, retried),
};

int64 *
ss_counter_stored(SsCounters *counters, int i)
{
	return (int64 *) ((char *) counters + offsets[i]);
}

bool
ss_counter_is_zero(const SsCounters *counters)
{
	for (int i = 0; i < SS_COUNTER_NSTORED; i++)
		if (*ss_counter_stored(unconstify(SsCounters *, counters), i) != 0)
			return false;
	return true;
}

void
ss_counter_sum(SsCounters *sum, const SsCounters *delta)
{
	for (int i = 0; i < SS_COUNTER_NSTORED; i++)
		*ss_counter_stored(sum, i) += *ss_counter_stored(unconstify(SsCounters *, delta), i);
}

/* The row of a pipeline, a copy, or NULL. */
static HeapTuple
find_row(Relation rel, int32 pipeline_id, Snapshot snapshot)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (RelationGetDescr(rel)->natts != COUNTER_NCOLUMNS)
		elog(ERROR, "table streamsink.counter has %d columns", RelationGetDescr(rel)->natts);
	ScanKeyInit(&key, COUNTER_pipeline, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(pipeline_id));
	scan = systable_beginscan(rel, ss_catalog_relation("counter_pkey", false), true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

static void
read_row(Relation rel, HeapTuple tuple, SsCounters *counters, TimestampTz *reset_at)
{
	Datum values[COUNTER_NCOLUMNS];
	bool  nulls[COUNTER_NCOLUMNS];

	memset(counters, 0, sizeof(*counters));
	*reset_at = 0;
	if (!HeapTupleIsValid(tuple))
		return;
	heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
	for (int i = 0; i < SS_COUNTER_NSTORED; i++)
		if (!nulls[COUNTER_first - 1 + i])
			*ss_counter_stored(counters, i) = DatumGetInt64(values[COUNTER_first - 1 + i]);
	if (!nulls[COUNTER_reset_at - 1])
		*reset_at = DatumGetTimestampTz(values[COUNTER_reset_at - 1]);
}

/* Replace the row that was found, or insert one. */
static void
store_row(Relation rel, HeapTuple old, int32 pipeline_id, SsCounters *counters, TimestampTz reset_at)
{
	Datum	  values[COUNTER_NCOLUMNS];
	bool	  nulls[COUNTER_NCOLUMNS] = {false};
	HeapTuple tuple;

	values[COUNTER_pipeline - 1] = Int32GetDatum(pipeline_id);
	for (int i = 0; i < SS_COUNTER_NSTORED; i++)
		values[COUNTER_first - 1 + i] = Int64GetDatum(*ss_counter_stored(counters, i));
	values[COUNTER_reset_at - 1] = TimestampTzGetDatum(reset_at);
	nulls[COUNTER_reset_at - 1] = reset_at == 0;
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	if (HeapTupleIsValid(old))
		CatalogTupleUpdate(rel, &old->t_self, tuple);
	else
		CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	CommandCounterIncrement();
}

static bool
add_log_row(HeapTuple tuple, TupleDesc desc, void *arg)
{
	ss_ledgerrow_add_counters(tuple, desc, arg);
	return true;
}

/* Add what the log has of a pipeline.  It is locked before the table of counters, as DROP EXTENSION locks them. */
static void
add_log(int32 pipeline_id, Snapshot snapshot, SsCounters *counters)
{
	SsLedgerTable log = ss_ledgerscan_open_log(AccessShareLock);

	ss_ledgerscan_visit(&log, pipeline_id, ForwardScanDirection, snapshot, add_log_row, counters);
	ss_ledgerscan_close(&log);
}

void
ss_counter_read(int32 pipeline_id, SsCounters *counters, TimestampTz *reset_at)
{
	Snapshot   snapshot = GetActiveSnapshot();
	SsCounters logged = {0};
	Relation   rel;

	add_log(pipeline_id, snapshot, &logged);
	rel = table_open(ss_catalog_relation("counter", false), AccessShareLock);
	read_row(rel, find_row(rel, pipeline_id, snapshot), counters, reset_at);
	ss_counter_sum(counters, &logged);
	table_close(rel, NoLock);
	counters->read = counters->written + counters->refused + counters->ignored +
					 counters->repeated + counters->superseded + counters->vanished;
}

void
ss_counter_add(int32 pipeline_id, const SsCounters *delta)
{
	Relation	rel;
	Snapshot	snapshot;
	HeapTuple	tuple;
	SsCounters	counters;
	TimestampTz reset_at;

	if (ss_counter_is_zero(delta))
		return;
	rel = table_open(ss_catalog_relation("counter", false), RowExclusiveLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	tuple = find_row(rel, pipeline_id, snapshot);
	read_row(rel, tuple, &counters, &reset_at);
	ss_counter_sum(&counters, delta);
	store_row(rel, tuple, pipeline_id, &counters, reset_at);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}

/*
 * The log keeps its rows, whose ids are settled: what they count is taken off
 * in advance, and so the stored row may be below zero until they are folded.
 */
void
ss_counter_reset(int32 pipeline_id)
{
	Relation   rel;
	Snapshot   snapshot;
	SsCounters counters = {0};

	ss_ledger_lock_wait(pipeline_id);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	add_log(pipeline_id, snapshot, &counters);
	rel = table_open(ss_catalog_relation("counter", false), RowExclusiveLock);
	for (int i = 0; i < SS_COUNTER_NSTORED; i++)
		*ss_counter_stored(&counters, i) *= -1;
	store_row(rel, find_row(rel, pipeline_id, snapshot), pipeline_id, &counters, GetCurrentTimestamp());
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}

void
ss_counter_delete(int32 pipeline_id)
{
	Relation  rel = table_open(ss_catalog_relation("counter", false), RowExclusiveLock);
	Snapshot  snapshot = RegisterSnapshot(GetLatestSnapshot());
	HeapTuple tuple = find_row(rel, pipeline_id, snapshot);

	if (HeapTupleIsValid(tuple))
		CatalogTupleDelete(rel, &tuple->t_self);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* ---- failed tries ---- */

void
ss_counter_note_error(void)
{
	unsaved_errors++;
}

int64
ss_counter_unsaved_errors(void)
{
	return unsaved_errors;
}

void
ss_counter_saved_errors(int64 n)
{
	unsaved_errors -= n;
}

void
ss_counter_save_errors(const SsPipeline *pipeline)
{
	TimestampTz	  now = GetCurrentTimestamp();
	SsCounters	  delta = {.errors = unsaved_errors};
	MemoryContext saved = CurrentMemoryContext;
	bool		  done;

	if (unsaved_errors == 0 || !TimestampDifferenceExceeds(errors_saved_at, now, SAVE_ERRORS_MS))
		return;
	errors_saved_at = now;
	StartTransactionCommand();
	/* who drops the pipeline has that lock until he is done */
	done = ss_ledger_lock(pipeline->id) && ss_catalog_is_current(pipeline);
	if (done)
		ss_counter_add(pipeline->id, &delta);
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	if (done)
		unsaved_errors -= delta.errors;
}
