/*
 * ss_deadletterscan.c
 *	  Many dead letters at a time: listing, counting and removing them in steps.
 *
 * NOTES
 *	  There may be millions.  Every verb reads an index in its order from where
 *	  the last call ended, so what is done in steps costs no more than at once,
 *	  also while a long transaction elsewhere keeps what was deleted in sight.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "ss_deadletter.h"
#include "ss_deadletterrow.h"

/* An ordered scan of a pipeline's dead letters. */
typedef struct Walk
{
	Relation	letters;
	Relation	index;
	SysScanDesc scan;
	ScanKeyData keys[3];
	int			nkeys;
} Walk;

static void
add_key(Walk *walk, int column, StrategyNumber strategy, RegProcedure procedure, Datum value)
{
	ScanKeyInit(&walk->keys[walk->nkeys++], column, strategy, procedure, value);
}

/* Prepare a walk over one of the two indexes; bounds are added before it begins. */
static void
init_walk(Walk *walk, int32 pipeline_id)
{
	walk->nkeys = 0;
	add_key(walk, LETTER_pipeline, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(pipeline_id));
}

static void
begin_walk(Walk *walk, const char *index, LOCKMODE mode)
{
	walk->letters = ss_catalog_open("dead_letter", mode, false);
	walk->index = index_open(ss_catalog_relation(index, false), AccessShareLock);
	walk->scan = systable_beginscan_ordered(walk->letters, walk->index, NULL, walk->nkeys, walk->keys);
}

static void
end_walk(Walk *walk)
{
	systable_endscan_ordered(walk->scan);
	index_close(walk->index, AccessShareLock);
	table_close(walk->letters, NoLock);
}

static Datum
get_column(const Walk *walk, HeapTuple tuple, int column)
{
	bool isnull;

	return heap_getattr(tuple, column, RelationGetDescr(walk->letters), &isnull);
}

/* ---- listing and counting ---- */

int
ss_deadletter_page(int32 pipeline_id, int64 after, int64 upto, int64 *ids, int most)
{
	Walk	  walk;
	HeapTuple tuple;
	int		  n = 0;

	init_walk(&walk, pipeline_id);
	add_key(&walk, LETTER_id, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	add_key(&walk, LETTER_id, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(upto));
	begin_walk(&walk, "dead_letter_pipeline_idx", AccessShareLock);
	while (n < most && HeapTupleIsValid(tuple = systable_getnext_ordered(walk.scan, ForwardScanDirection)))
	{
		CHECK_FOR_INTERRUPTS();
		ids[n++] = DatumGetInt64(get_column(&walk, tuple, LETTER_id));
	}
	end_walk(&walk);
	return n;
}

int64
ss_deadletter_skip_newest(int32 pipeline_id, int64 below, int64 most, int64 *last)
{
	Walk	  walk;
	HeapTuple tuple;
	int64	  n = 0;

	init_walk(&walk, pipeline_id);
	add_key(&walk, LETTER_id, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(below));
	begin_walk(&walk, "dead_letter_pipeline_idx", AccessShareLock);
	while (n < most && HeapTupleIsValid(tuple = systable_getnext_ordered(walk.scan, BackwardScanDirection)))
	{
		CHECK_FOR_INTERRUPTS();
		*last = DatumGetInt64(get_column(&walk, tuple, LETTER_id));
		n++;
	}
	end_walk(&walk);
	return n;
}

int64
ss_deadletter_newest(int32 pipeline_id)
{
	int64 newest = 0;

	(void) ss_deadletter_skip_newest(pipeline_id, PG_INT64_MAX, 1, &newest);
	return newest;
}

int64
ss_deadletter_count(int32 pipeline_id, int64 most)
{
	int64 last;

	return ss_deadletter_skip_newest(pipeline_id, PG_INT64_MAX, most, &last);
}

/* ---- removing ---- */

/* Delete what the walk gives, with its history, until the step is over; *column gets that column of the last one. */
static int64
remove_found(Walk *walk, const char *index, const SsDeadLetterStep *step, int column, int64 *last)
{
	Relation	attempts = ss_catalog_open("dead_letter_attempt", RowExclusiveLock, false);
	TimestampTz end = 0;
	HeapTuple	tuple;
	int64		n = 0;

	if (step != NULL)
		end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), step->ms);
	begin_walk(walk, index, RowExclusiveLock);
	while ((step == NULL || n == 0 || (n < step->rows && GetCurrentTimestamp() < end)) &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(walk->scan, ForwardScanDirection)))
	{
		int64 id = DatumGetInt64(get_column(walk, tuple, LETTER_id));

		CHECK_FOR_INTERRUPTS();
		*last = DatumGetInt64(get_column(walk, tuple, column));
		CatalogTupleDelete(walk->letters, &tuple->t_self);
		ss_deadletter_delete_attempts(attempts, id);
		n++;
	}
	if (n > 0)
		CacheInvalidateRelcache(walk->letters); /* for those who know how many there are */
	end_walk(walk);
	table_close(attempts, NoLock);
	CommandCounterIncrement();
	return n;
}

int64
ss_deadletter_remove_failed(int32 pipeline_id, TimestampTz *from, TimestampTz before, const SsDeadLetterStep *step)
{
	Walk walk;

	init_walk(&walk, pipeline_id);
	add_key(&walk, LETTER_failed_at, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE, TimestampTzGetDatum(*from));
	add_key(&walk, LETTER_failed_at, BTLessStrategyNumber, F_TIMESTAMPTZ_LT, TimestampTzGetDatum(before));
	return remove_found(&walk, "dead_letter_failed_idx", step, LETTER_failed_at, from);
}

int64
ss_deadletter_remove_low(int32 pipeline_id, int64 *after, int64 below, const SsDeadLetterStep *step)
{
	Walk walk;

	init_walk(&walk, pipeline_id);
	add_key(&walk, LETTER_id, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(*after));
	add_key(&walk, LETTER_id, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(below));
	return remove_found(&walk, "dead_letter_pipeline_idx", step, LETTER_id, after);
}

int64
ss_deadletter_delete_before(int32 pipeline_id, TimestampTz before)
{
	TimestampTz from = DT_NOBEGIN;

	ss_deadletter_lock(pipeline_id);
	return ss_deadletter_remove_failed(pipeline_id, &from, before, NULL);
}

void
ss_deadletter_delete_all(int32 pipeline_id)
{
	int64 after = PG_INT64_MIN;

	ss_deadletter_lock(pipeline_id);
	(void) ss_deadletter_remove_low(pipeline_id, &after, PG_INT64_MAX, NULL);
}
