/*
 * ss_ledgerjoin.c
 *	  The folded ledger: join intervals with nothing between them, forget what
 *	  Redis no longer has.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <limits.h>

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "ss_segment.h"

/* ---- join ---- */

/* Folded intervals while they are read in order. */
typedef struct FoldedRead
{
	SsIntervals set;
	SsEntryId	from;
	size_t		max;
	bool		more;
} FoldedRead;

static bool
read_folded(HeapTuple tuple, TupleDesc desc, void *arg)
{
	FoldedRead *read = arg;
	SsLedgerRow row;
	size_t		n = 0;

	ss_ledgerrow_open(tuple, desc, &row);
	if (ss_entryid_compare(row.highest, read->from) < 0)
		return true;
	if (read->set.n > 0 && read->set.n >= read->max)
	{
		read->more = true;
		return false;
	}
	ss_ledgerrow_read(&row, &read->set);
	if (ss_entryid_compare(row.lowest, read->from) < 0)
	{
		/* the first of them */
		for (size_t i = 0; i < read->set.n; i++)
			if (ss_entryid_compare(read->set.items[i].last, read->from) >= 0)
				read->set.items[n++] = read->set.items[i];
		read->set.n = n;
	}
	return true;
}

int
ss_ledger_folded(int32 stream, SsEntryId from, int max, SsInterval **intervals, bool *more)
{
	FoldedRead	  read = {.set = {.cxt = CurrentMemoryContext}, .from = from, .max = Max(max, 0)};
	SsLedgerTable ledger = ss_ledgerscan_open_streams(AccessShareLock);
	Snapshot	  snapshot = RegisterSnapshot(GetLatestSnapshot());

	ss_ledgerscan_visit(&ledger, stream, ForwardScanDirection, snapshot, read_folded, &read);
	UnregisterSnapshot(snapshot);
	ss_ledgerscan_close(&ledger);
	if (read.set.n > INT_MAX)
		elog(ERROR, "stream %d has %zu intervals", stream, read.set.n);
	*intervals = read.set.items;
	*more = read.more;
	return (int) read.set.n;
}

/* The segment in which an interval may end with the id, from *at on; false if there is none. */
static bool
find_end(const SsSegmentList *list, SsEntryId id, int *at)
{
	while (*at < list->n && ss_entryid_compare(list->items[*at].row.highest, id) < 0)
		(*at)++;
	return *at < list->n && ss_entryid_compare(list->items[*at].row.lowest, id) <= 0;
}

/* Does the gap lie between the segment and the next one? */
static bool
is_between(const SsSegmentList *list, int at, const SsGap *gap)
{
	return ss_entryid_compare(list->items[at].row.highest, gap->before) == 0 &&
		   at + 1 < list->n &&
		   ss_entryid_compare(list->items[at + 1].row.lowest, gap->after) == 0;
}

/* The newest intervals of a stream while they are counted. */
typedef struct NewestRead
{
	size_t	  wanted; /* still */
	SsEntryId from;
} NewestRead;

static bool
count_newest(HeapTuple tuple, TupleDesc desc, void *arg)
{
	NewestRead *read = arg;
	SsLedgerRow row;
	size_t		n;

	ss_ledgerrow_open(tuple, desc, &row);
	n = ss_ledgerrow_count(&row);
	if (n < read->wanted)
	{
		read->wanted -= n;
		return true;
	}
	if (n == read->wanted)
		read->from = row.lowest;
	else
	{
		SsIntervals set = {.cxt = CurrentMemoryContext};

		ss_ledgerrow_read(&row, &set);
		read->from = set.items[set.n - read->wanted].first;
	}
	return false;
}

SsEntryId
ss_ledger_newest(int32 stream, int n)
{
	NewestRead	  read = {.wanted = n, .from = SS_ENTRYID_MIN};
	SsLedgerTable ledger;
	Snapshot	  snapshot;

	if (n <= 0)
		return SS_ENTRYID_MAX;
	ledger = ss_ledgerscan_open_streams(AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ss_ledgerscan_visit(&ledger, stream, BackwardScanDirection, snapshot, count_newest, &read);
	UnregisterSnapshot(snapshot);
	ss_ledgerscan_close(&ledger);
	return read.from;
}

/* Join neighbours in a set where a gap of the list is just what lies between them; returns how many. */
static int
join_set(SsIntervals *set, const SsGap *gaps, int n, int64 *kinds)
{
	size_t left = 0;
	int	   joined = 0;
	int	   g = 0;

	for (size_t i = 1; i < set->n; i++)
	{
		SsInterval		 *current = &set->items[left];
		const SsInterval *following = &set->items[i];

		while (g < n && ss_entryid_compare(gaps[g].before, current->last) < 0)
			g++;
		if (g < n && gaps[g].kind != SS_GAP_KEPT &&
			ss_entryid_compare(gaps[g].before, current->last) == 0 &&
			ss_entryid_compare(gaps[g].after, following->first) == 0)
		{
			current->last = following->last;
			current->hash = following->hash;
			current->settled_at = following->settled_at;
			joined++;
			if (kinds != NULL)
				kinds[gaps[g].kind]++;
		}
		else
			set->items[++left] = *following;
	}
	if (set->n > 0)
		set->n = left + 1;
	return joined;
}

/* The group of segments, from *first on, that the next proven gaps lie in; false if there is none.  *g goes behind them. */
static bool
find_group(const SsSegmentList *list, const SsGap *gaps, int n, int *g, int *first, int *last)
{
	int	 at = *first;
	bool found = false;

	for (; *g < n; (*g)++)
	{
		const SsGap *gap = &gaps[*g];

		if (gap->kind == SS_GAP_KEPT || !find_end(list, gap->before, &at))
			continue;
		if (found && at > *last)
			break;
		if (!found)
			*first = *last = at;
		found = true;
		if (is_between(list, at, gap))
			*last = at + 1;
	}
	return found;
}

int
ss_ledger_join(int32 pipeline_id, int32 stream, const SsGap *gaps, int n, int64 *kinds)
{
	MemoryContext	join_cxt;
	MemoryContext	saved;
	SsSegmentWriter writer;
	SsSegmentList	list;
	SsSegmentPlan  *plan;
	int				joined = 0;
	int				kept = 0;
	int				first = 0;
	int				last = -1;
	int				g = 0;

	if (n <= 0)
		return 0;

	join_cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink ledger stream", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(join_cxt);
	ss_segment_open(&writer, pipeline_id);
	list = ss_segment_collect(&writer, stream, gaps[0].before);
	plan = ss_segment_plan(&list);
	while (find_group(&list, gaps, n, &g, &first, &last))
	{
		SsIntervals *set = ss_segment_read(&list, first, last);
		int			 here = join_set(set, gaps, n, kinds);

		if (here > 0)
		{
			ss_segment_plan_kept(plan, kept, first);
			ss_segment_plan_group(plan, first, last, set);
			kept = last + 1;
			joined += here;
		}
		first = last + 1;
	}
	ss_segment_plan_kept(plan, kept, list.n);
	if (joined > 0)
		ss_segment_write(&writer, stream, plan);
	ss_segment_close(&writer);
	if (joined > 0)
		CommandCounterIncrement();

	MemoryContextSwitchTo(saved);
	MemoryContextDelete(join_cxt);
	return joined;
}

/* ---- prune ---- */

typedef struct Pruning
{
	SsSegmentWriter writer;
	SsEntryId		begin;
	TimestampTz		before;
	int32			newest_segment;
	SsEntryId		newest; /* its highest id */
	int				pruned;
	int				max;
} Pruning;

static bool
find_newest(HeapTuple tuple, TupleDesc desc, void *arg)
{
	Pruning	   *pruning = arg;
	SsLedgerRow row;

	ss_ledgerrow_open(tuple, desc, &row);
	pruning->newest_segment = row.segment;
	pruning->newest = row.highest;
	return false;
}

/* What is old comes first: a segment that has nothing to forget ends it. */
static bool
prune_segment(HeapTuple tuple, TupleDesc desc, void *arg)
{
	Pruning	   *pruning = arg;
	SsIntervals set = {.cxt = CurrentMemoryContext};
	SsLedgerRow row;
	size_t		kept = 0;
	size_t		n;

	ss_ledgerrow_open(tuple, desc, &row);
	if (ss_entryid_compare(row.lowest, pruning->begin) >= 0)
		return false;
	ss_ledgerrow_read(&row, &set);
	n = set.n;
	for (size_t i = 0; i < n; i++)
	{
		const SsInterval *interval = &set.items[i];

		if (ss_entryid_compare(interval->last, pruning->begin) >= 0 || interval->settled_at >= pruning->before ||
			(row.segment == pruning->newest_segment && i == n - 1))
			set.items[kept++] = *interval;
	}
	if (kept == n)
		return false;

	if (kept == 0)
		CatalogTupleDelete(pruning->writer.ledger.rel, &tuple->t_self);
	else
	{
		HeapTuple changed = ss_ledgerrow_make(desc, row.pipeline, row.stream, row.segment, set.items, kept);

		CatalogTupleUpdateWithInfo(pruning->writer.ledger.rel, &tuple->t_self, changed, pruning->writer.indexes);
	}
	pruning->pruned += (int) (n - kept);
	return pruning->pruned < pruning->max;
}

int
ss_ledger_prune(int32 pipeline_id, int32 stream, SsEntryId begin, SsEntryId last, TimestampTz before, int max)
{
	Pruning pruning = {.begin = begin, .before = before, .max = max};

	ss_segment_open(&pruning.writer, pipeline_id);
	ss_ledgerscan_visit(&pruning.writer.ledger, stream, BackwardScanDirection, pruning.writer.snapshot, find_newest, &pruning);
	if (pruning.newest_segment > 0 && ss_entryid_compare(pruning.newest, last) <= 0)
		ss_ledgerscan_visit(&pruning.writer.ledger, stream, ForwardScanDirection, pruning.writer.snapshot, prune_segment, &pruning);
	ss_segment_close(&pruning.writer);
	if (pruning.pruned > 0)
		CommandCounterIncrement();
	return pruning.pruned;
}
