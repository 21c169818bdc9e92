/*
 * ss_ledgerfold.c
 *	  The folded ledger: fold the log into it, replace a stream's part.
 *
 * NOTES
 *	  What is new mostly lies behind everything that is known of a stream: then
 *	  the last segment alone is rewritten.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ss_fault.h"
#include "ss_catalog.h"
#include "ss_segment.h"

/* A fold takes no further row of the log once it has so many intervals: about 12 MB. */
#define MAX_FOLD_INTERVALS 200000

/*
 * A last segment of so many intervals is not rewritten for a few new ones: a
 * new segment begins.  Thousands of streams with an entry now and then would have
 * theirs rewritten for each of them.
 */
#define TAIL_INTERVALS 64
#define FEW_INTERVALS  16

/* ---- fold ---- */

/*
 * Which segments a new interval belongs to: all that its ids are in or next
 * to, or else the one before it (not if few come behind a last one that has
 * enough), or else the first.  *last below *first: none, a new one begins.
 * search is where to begin, and where the next one may.
 */
static void
find_place(const SsSegmentList *list, const SsInterval *interval, bool few, int *search, int *first, int *last)
{
	int at = *search;

	while (at < list->n && ss_segment_is_apart(list->items[at].row.highest, interval->first))
		at++;
	*search = at;
	if (at < list->n && !ss_segment_is_apart(interval->last, list->items[at].row.lowest))
	{
		*first = *last = at;
		while (*last + 1 < list->n && !ss_segment_is_apart(interval->last, list->items[*last + 1].row.lowest))
			(*last)++;
	}
	else if (few && at == list->n && at > 0 && ss_ledgerrow_count(&list->items[at - 1].row) >= TAIL_INTERVALS)
	{
		/* behind all of them: not into the last one, but a new one */
		*first = at;
		*last = at - 1;
	}
	else
	{
		*first = Max(at - 1, 0);
		*last = Min(*first, list->n - 1);
	}
}

/* Unite sorted new intervals with the segments of their stream.  Leaves memory behind in CurrentMemoryContext. */
static void
fold_stream(const SsSegmentWriter *writer, const SsInterval *intervals, size_t n)
{
	SsSegmentList  list = ss_segment_collect(writer, intervals[0].stream, intervals[0].first);
	SsSegmentPlan *plan = ss_segment_plan(&list);
	int			   kept = 0; /* segments planned so far */
	int			   search = 0;
	int			   first;
	int			   last;
	size_t		   i = 0;

	find_place(&list, &intervals[0], n <= FEW_INTERVALS, &search, &first, &last);
	while (i < n)
	{
		size_t		 begin = i;
		int			 next_first = first;
		int			 next_last = last;
		SsIntervals *set;

		for (i++; i < n; i++)
		{
			find_place(&list, &intervals[i], n <= FEW_INTERVALS, &search, &next_first, &next_last);
			if (list.n > 0 && next_first > last && next_first != first)
				break;
			last = Max(last, next_last);
		}

		set = ss_segment_read(&list, first, last);
		for (size_t j = begin; j < i; j++)
			ss_interval_add(set, &intervals[j]);
		set->n = ss_interval_merge(set->items, set->n, true);
		ss_segment_plan_kept(plan, kept, first);
		ss_segment_plan_group(plan, first, last, set);
		kept = last + 1;
		first = next_first;
		last = next_last;
	}
	ss_segment_plan_kept(plan, kept, list.n);
	ss_segment_write(writer, intervals[0].stream, plan);
}

/* What is read of the log, and where it stood. */
typedef struct LogRead
{
	SsIntervals		 set;
	SsCounters		 counters;
	ItemPointerData *places;
	int				 n;
	int				 capacity;
	int				 max;
	size_t			 max_intervals;
	bool			 cut; /* there may be more */
} LogRead;

static bool
read_log_row(HeapTuple tuple, TupleDesc desc, void *arg)
{
	LogRead	  *read = arg;
	SsLogRow   row;
	SsInterval interval;

	ss_ledgerrow_open_log(tuple, desc, &row);
	while (ss_ledgerrow_next(&row, &interval))
		ss_interval_add(&read->set, &interval);
	ss_ledgerrow_add_counters(tuple, desc, &read->counters);
	if (read->n == read->capacity)
	{
		read->capacity *= 2;
		read->places = repalloc_huge(read->places, sizeof(ItemPointerData) * (Size) read->capacity);
	}
	read->places[read->n++] = tuple->t_self;
	read->cut = read->n >= read->max || read->set.n >= read->max_intervals;
	return !read->cut;
}

/* Fold sorted intervals of some streams. */
static void
fold_intervals(int32 pipeline_id, const SsIntervals *set)
{
	MemoryContext	stream_cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink ledger stream", ALLOCSET_DEFAULT_SIZES);
	SsSegmentWriter writer;
	size_t			end;

	ss_segment_open(&writer, pipeline_id);
	for (size_t begin = 0; begin < set->n; begin = end)
	{
		const SsInterval *first = &set->items[begin];
		MemoryContext	  saved;

		CHECK_FOR_INTERRUPTS();
		for (end = begin + 1; end < set->n && set->items[end].stream == first->stream; end++)
			;
		saved = MemoryContextSwitchTo(stream_cxt);
		fold_stream(&writer, first, end - begin);
		MemoryContextSwitchTo(saved);
		MemoryContextReset(stream_cxt);
	}
	ss_segment_close(&writer);
	MemoryContextDelete(stream_cxt);
}

int
ss_ledger_fold(int32 pipeline_id, int max_rows, int max_intervals, bool *all)
{
	MemoryContext fold_cxt;
	MemoryContext saved;
	SsLedgerTable log;
	Snapshot	  snapshot;
	LogRead		  read = {.capacity = 64, .max = max_rows};

	read.max_intervals = max_intervals > 0 ? Min(max_intervals, MAX_FOLD_INTERVALS) : MAX_FOLD_INTERVALS;

	if (all != NULL)
		*all = false;
	if (!ss_ledger_lock(pipeline_id))
		return -1;
	if (max_rows <= 0)
		return 0;

	fold_cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink ledger fold", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(fold_cxt);
	read.set.cxt = fold_cxt;
	read.places = palloc_array(ItemPointerData, read.capacity);

	/* the ledger before its log, as DROP EXTENSION locks them */
	LockRelationOid(ss_catalog_relation("ledger", false), RowExclusiveLock);

	/* the snapshot is younger than the lock: it sees what the last folder did */
	log = ss_ledgerscan_open_log(RowExclusiveLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ss_ledgerscan_visit(&log, pipeline_id, ForwardScanDirection, snapshot, read_log_row, &read);
	read.set.n = ss_interval_merge(read.set.items, read.set.n, true);
	fold_intervals(pipeline_id, &read.set);
	SS_FAULT("in-fold");
	for (int i = 0; i < read.n; i++)
		CatalogTupleDelete(log.rel, &read.places[i]);
	UnregisterSnapshot(snapshot);
	ss_counter_add(pipeline_id, &read.counters);
	ss_ledgerscan_close(&log);
	CommandCounterIncrement();
	if (all != NULL)
		*all = !read.cut;

	MemoryContextSwitchTo(saved);
	MemoryContextDelete(fold_cxt);
	return read.n;
}

/* ---- replace ---- */

void
ss_ledger_replace(int32 pipeline_id, int32 stream, const SsInterval *intervals, int n)
{
	MemoryContext	replace_cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink ledger stream", ALLOCSET_DEFAULT_SIZES);
	MemoryContext	saved = MemoryContextSwitchTo(replace_cxt);
	SsIntervals		set = {.cxt = replace_cxt};
	SsSegmentWriter writer;
	SsSegmentList	list;
	SsSegmentPlan  *plan;

	for (int i = 0; i < n; i++)
	{
		if (intervals[i].stream != stream || ss_entryid_compare(intervals[i].first, intervals[i].last) > 0)
			elog(ERROR, "interval %d is none of stream %d", i, stream);
		ss_interval_add(&set, &intervals[i]);
	}
	set.n = ss_interval_merge(set.items, set.n, true);

	ss_segment_open(&writer, pipeline_id);
	list = ss_segment_collect(&writer, stream, SS_ENTRYID_MIN);
	plan = ss_segment_plan(&list);
	ss_segment_plan_group(plan, 0, list.n - 1, &set);
	ss_segment_write(&writer, stream, plan);
	ss_segment_close(&writer);
	CommandCounterIncrement();

	MemoryContextSwitchTo(saved);
	MemoryContextDelete(replace_cxt);
}
