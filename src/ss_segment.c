/*
 * ss_segment.c
 *	  Segments of the folded ledger while they are written.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/htup_details.h"
#include "common/int.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ss_segment.h"

/* A scan of a stream's segments, the last one first. */
typedef struct Collection
{
	SsSegmentList list;
	int			  capacity;
	int32		  pipeline;
	SsEntryId	  from;
	MemoryContext cxt;
} Collection;

/* A segment as it shall be. */
typedef struct Target
{
	const SsSegment	 *old;		 /* row to keep or write over; NULL: a new one */
	const SsInterval *intervals; /* new content; NULL: as it is */
	size_t			  n;
	int32			  number;
} Target;

struct SsSegmentPlan
{
	const SsSegmentList *list;
	Target				*targets; /* in order */
	int					 n;
	int					 capacity;
	const SsSegment	   **gone; /* rows to delete */
	int					 ngone;
};

void
ss_segment_open(SsSegmentWriter *writer, int32 pipeline_id)
{
	writer->pipeline = pipeline_id;
	writer->ledger = ss_ledgerscan_open_streams(RowExclusiveLock);
	writer->indexes = CatalogOpenIndexes(writer->ledger.rel);
	writer->snapshot = RegisterSnapshot(GetLatestSnapshot());
}

void
ss_segment_close(SsSegmentWriter *writer)
{
	UnregisterSnapshot(writer->snapshot);
	CatalogCloseIndexes(writer->indexes);
	ss_ledgerscan_close(&writer->ledger);
}

bool
ss_segment_is_apart(SsEntryId a, SsEntryId b)
{
	SsEntryId next;

	return ss_entryid_next(a, &next) && ss_entryid_compare(next, b) < 0;
}

/* ---- as they are ---- */

static bool
collect_segment(HeapTuple tuple, TupleDesc desc, void *arg)
{
	Collection	  *collection = arg;
	SsSegmentList *list = &collection->list;
	MemoryContext  saved = MemoryContextSwitchTo(collection->cxt);
	SsSegment	  *segment;

	if (list->n == collection->capacity)
	{
		collection->capacity = Max(8, collection->capacity * 2);
		if (list->items == NULL)
			list->items = palloc_array(SsSegment, collection->capacity);
		else
			list->items = repalloc_huge(list->items, sizeof(SsSegment) * (Size) collection->capacity);
	}
	segment = &list->items[list->n++];
	segment->tuple = heap_copytuple(tuple);
	ss_ledgerrow_open(segment->tuple, desc, &segment->row);
	MemoryContextSwitchTo(saved);

	if (segment->row.pipeline != collection->pipeline)
		elog(ERROR, "stream %d belongs to pipeline %d, not %d",
			 segment->row.stream, segment->row.pipeline, collection->pipeline);
	if (list->n > 1 && ss_entryid_compare(segment->row.highest, segment[-1].row.lowest) >= 0)
		ss_ledgerrow_report(segment->row.pipeline, segment->row.stream, "Its segments are not in order.");
	return !ss_segment_is_apart(segment->row.highest, collection->from);
}

SsSegmentList
ss_segment_collect(const SsSegmentWriter *writer, int32 stream, SsEntryId from)
{
	Collection	  collection = {.pipeline = writer->pipeline, .from = from, .cxt = CurrentMemoryContext};
	SsSegmentList list;

	ss_ledgerscan_visit(&writer->ledger, stream, BackwardScanDirection, writer->snapshot,
						collect_segment, &collection);
	list = collection.list;
	for (int i = 0, j = list.n - 1; i < j; i++, j--)
	{
		SsSegment swapped = list.items[i];

		list.items[i] = list.items[j];
		list.items[j] = swapped;
	}
	return list;
}

SsIntervals *
ss_segment_read(const SsSegmentList *list, int first, int last)
{
	SsIntervals *set = palloc0_object(SsIntervals);

	set->cxt = CurrentMemoryContext;
	for (int i = first; i <= last; i++)
		ss_ledgerrow_read(&list->items[i].row, set);
	return set;
}

/* ---- as they shall be ---- */

SsSegmentPlan *
ss_segment_plan(const SsSegmentList *list)
{
	SsSegmentPlan *plan = palloc0_object(SsSegmentPlan);

	plan->list = list;
	plan->capacity = list->n + 4;
	plan->targets = palloc_array(Target, plan->capacity);
	plan->gone = palloc_array(const SsSegment *, list->n + 1);
	return plan;
}

static Target *
add_target(SsSegmentPlan *plan, const SsSegment *old)
{
	Target *target;

	if (plan->n == plan->capacity)
	{
		plan->capacity *= 2;
		plan->targets = repalloc_huge(plan->targets, sizeof(Target) * (Size) plan->capacity);
	}
	target = &plan->targets[plan->n++];
	memset(target, 0, sizeof(*target));
	target->old = old;
	return target;
}

void
ss_segment_plan_kept(SsSegmentPlan *plan, int first, int end)
{
	for (int i = first; i < end; i++)
		(void) add_target(plan, &plan->list->items[i]);
}

void
ss_segment_plan_group(SsSegmentPlan *plan, int first, int last, const SsIntervals *set)
{
	const SsSegmentList *list = plan->list;
	size_t				 size = ss_ledgerrow_segment;
	size_t				 n = (set->n + size - 1) / size;
	bool				 fill = last >= list->n - 1;

	for (size_t i = 0; i < n; i++)
	{
		Target *target = add_target(plan, first + (int) i <= last ? &list->items[first + i] : NULL);
		size_t	begin = fill ? i * size : set->n * i / n;
		size_t	end = fill ? Min((i + 1) * size, set->n) : set->n * (i + 1) / n;

		target->intervals = set->items + begin;
		target->n = end - begin;
	}
	for (int i = first + (int) n; i <= last; i++)
		plan->gone[plan->ngone++] = &list->items[i];
}

/* Give the segments their numbers, in order: where one needs room, its followers move up. */
static void
number_targets(SsSegmentPlan *plan)
{
	int32 before = 0;

	for (int i = 0; i < plan->n; i++)
	{
		Target *target = &plan->targets[i];

		if (target->old != NULL && target->old->row.segment > before)
			target->number = target->old->row.segment;
		else if (pg_add_s32_overflow(before, 1, &target->number))
			elog(ERROR, "segments of the ledger have run out of numbers");
		before = target->number;
	}
}

/* Numbers only grow, so the last segment is written first: the number that one takes over has been left then. */
void
ss_segment_write(const SsSegmentWriter *writer, int32 stream, SsSegmentPlan *plan)
{
	Relation  ledger = writer->ledger.rel;
	TupleDesc desc = RelationGetDescr(ledger);

	number_targets(plan);
	for (int i = 0; i < plan->ngone; i++)
		CatalogTupleDelete(ledger, &plan->gone[i]->tuple->t_self);
	for (int i = plan->n - 1; i >= 0; i--)
	{
		Target	 *target = &plan->targets[i];
		HeapTuple tuple;

		if (target->intervals != NULL)
			tuple = ss_ledgerrow_make(desc, writer->pipeline, stream, target->number, target->intervals, target->n);
		else if (target->number != target->old->row.segment)
			tuple = ss_ledgerrow_renumber(target->old->tuple, desc, target->number);
		else
			continue;
		if (target->old != NULL)
			CatalogTupleUpdateWithInfo(ledger, &target->old->tuple->t_self, tuple, writer->indexes);
		else
			CatalogTupleInsertWithInfo(ledger, tuple, writer->indexes);
		heap_freetuple(tuple);
	}
}
