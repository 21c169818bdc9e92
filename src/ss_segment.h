/*
 * ss_segment.h
 *	  Segments of the folded ledger while they are written, for the files of
 *	  the ledger only.
 *
 * NOTES
 *	  The intervals of a stream are cut into segments, a row of
 *	  streamsink.ledger each, disjoint and numbered in the order of their ids.
 *	  They are rewritten in groups: a run of neighbouring segments whose ids
 *	  something new overlaps or lies next to.  A group is read, changed, and cut
 *	  into segments again; all others stay as they are, but for their number
 *	  when one is put in before them.
 *
 *	  Everything about one stream is planned first and then written, so that no
 *	  row is written twice in a command:
 *
 *		collect -> plan -> (plan_kept -> plan_group) ... -> plan_kept -> write
 *
 *	  All of it leaves its memory behind in CurrentMemoryContext.
 */
#ifndef SS_SEGMENT_H
#define SS_SEGMENT_H

#include "catalog/indexing.h"
#include "ss_ledgerrow.h"
#include "ss_ledgerscan.h"

/* The ledger, open for writing to one pipeline's part; the folder's lock is held. */
typedef struct SsSegmentWriter
{
	int32			  pipeline;
	SsLedgerTable	  ledger;
	CatalogIndexState indexes;
	Snapshot		  snapshot;
} SsSegmentWriter;

/* A segment as it is stored. */
typedef struct SsSegment
{
	HeapTuple	tuple;
	SsLedgerRow row; /* points into tuple */
} SsSegment;

/* Segments of a stream, in order up to the last one. */
typedef struct SsSegmentList
{
	SsSegment *items;
	int		   n;
} SsSegmentList;

/* All of a stream's segments that were looked at, as they shall be. */
typedef struct SsSegmentPlan SsSegmentPlan;

extern void ss_segment_open(SsSegmentWriter *writer, int32 pipeline_id);
extern void ss_segment_close(SsSegmentWriter *writer);

/* Does a lie before b, with an id between them? */
extern bool ss_segment_is_apart(SsEntryId a, SsEntryId b);

/*
 * Those segments of a stream that have ids from some id on, or end right
 * before it, and the one before them.
 */
extern SsSegmentList ss_segment_collect(const SsSegmentWriter *writer, int32 stream, SsEntryId from);

/* The intervals of the segments first to last (none if last is below first), in order. */
extern SsIntervals *ss_segment_read(const SsSegmentList *list, int first, int last);

/* Start a plan; keep the segments first to end - 1; put intervals in the place of first to last.  In order, none left out. */
extern SsSegmentPlan *ss_segment_plan(const SsSegmentList *list);
extern void			  ss_segment_plan_kept(SsSegmentPlan *plan, int first, int end);

/*
 * The intervals are sorted, disjoint, and joined where they touch.  The last
 * segments of a stream are filled up, because what comes next mostly lies
 * behind them; others share evenly, so that more fits in.
 */
extern void ss_segment_plan_group(SsSegmentPlan *plan, int first, int last, const SsIntervals *set);

extern void ss_segment_write(const SsSegmentWriter *writer, int32 stream, SsSegmentPlan *plan);

#endif /* SS_SEGMENT_H */
