/*
 * ss_ledger.h
 *	  The exact set of settled entry ids: a log of one packed row a batch, and
 *	  folded multiranges, in segments, per stream.  The only files that know
 *	  streamsink.ledger and streamsink.ledger_log are those of the ledger.
 *
 * NOTES
 *	  One reply to ">" is, per stream, a contiguous block of ids: what one such
 *	  reply gave and one transaction settled is one interval.  Intervals of two
 *	  replies are joined only if they overlap, or if it was proven that nothing
 *	  lies between them (ss_join.c): there may lie what another consumer of the
 *	  group holds.
 */
#ifndef SS_LEDGER_H
#define SS_LEDGER_H

#include "datatype/timestamp.h"
#include "ss_counter.h"
#include "ss_entryid.h"

typedef struct SsInterval
{
	int32		stream; /* streamsink.stream.id */
	SsEntryId	first;
	SsEntryId	last;		/* included */
	uint64		hash;		/* ss_batch_hash of the last entry; 0 if unknown */
	TimestampTz settled_at; /* filled by the ledger when it is read */
} SsInterval;

/* What is known of a gap.  All but the first let its neighbours be joined. */
typedef enum SsGapKind
{
	SS_GAP_KEPT = 0, /* it may hold what nobody settled */
	SS_GAP_EMPTY,	 /* proven to hold nothing, now and in future */
	SS_GAP_UNSEEN,	 /* what was in it, if anything, was trimmed away unseen */
	SS_GAP_FOREIGN	 /* other consumers of the group were given it, and acknowledged it */
} SsGapKind;

#define SS_GAP_KINDS 4

/* The gap between two neighbouring intervals of a stream: what lies behind one id and before another. */
typedef struct SsGap
{
	SsEntryId before; /* last of the left interval */
	SsEntryId after;  /* first of the right one */
	bool	  loose;  /* may be unseen or foreign too: it lies far behind the newest intervals */
	SsGapKind kind;
	bool	  filled; /* entries lie in it that the group has passed, and nobody else reads there: it is looked into */
} SsGap;

/* The settled ids of some streams, as loaded at one moment. */
typedef struct SsSettled SsSettled;

/*
 * Record what the current transaction settles: one row in the log (more only
 * for tens of thousands of intervals).  settled_at of the intervals is not
 * looked at.  counters: what the transaction adds to them, or NULL; without an
 * interval too.  The row is visible to what the transaction does next.
 */
extern void ss_ledger_append(int32 pipeline_id, const SsInterval *intervals, int n, const SsCounters *counters);

/*
 * Load the settled ids of the given streams, folded rows and unfolded log, in
 * CurrentMemoryContext, under the latest snapshot (GetLatestSnapshot).  streams NULL: all of the pipeline.
 * ERROR (data_corrupted) if a row is damaged.
 */
extern SsSettled *ss_ledger_load(int32 pipeline_id, const int32 *streams, int nstreams);

/*
 * The same, without what lies below low[i] in streams[i] where that is cheap:
 * of ids from there on everything is known.  Of a stream that is named several times, the
 * lowest counts.  low NULL: everything.
 */
extern SsSettled *ss_ledger_load_above(int32 pipeline_id, const int32 *streams, int nstreams, const SsEntryId *low);

/*
 * Whether an id is settled; throws for one below what was loaded.  This and
 * the verbs below throw for a stream that was not loaded.
 */
extern bool ss_ledger_contains(const SsSettled *settled, int32 stream, SsEntryId id);

/* The highest settled id of a loaded stream; false if nothing is settled.  hash may be NULL: it is that of the highest id, 0 if unknown. */
extern bool ss_ledger_high(const SsSettled *settled, int32 stream, SsEntryId *high, uint64 *hash);

/* The intervals of a loaded stream in order; returns their number. */
extern int ss_ledger_intervals(const SsSettled *settled, int32 stream, const SsInterval **intervals);

/* The intervals of a loaded stream as an entry_id_multirange, in CurrentMemoryContext; (Datum) 0 if there are none. */
extern Datum ss_ledger_multirange(const SsSettled *settled, int32 stream);

/*
 * The highest settled ids of the given streams only (ids above need no
 * further look), cheaply: high[i] is 0-0 if nothing is settled.  hash, unless
 * NULL, gets those of the entries, 0 if unknown.
 */
extern void ss_ledger_highs(int32 pipeline_id, const int32 *streams, int nstreams, SsEntryId *high, uint64 *hash);

/*
 * Fold the log into the segments, in the current transaction: delete and
 * insert together.  One folder per pipeline at a time: returns -1 at once if
 * another one holds the lock, else the number of log rows folded.  Stops after max_rows log rows, or earlier
 * (never before the first) when they hold max_intervals (0: very many): 0 says that the log is empty.
 * *all, unless NULL, tells whether it came to the end of the log.
 * A caller that takes the fence takes it first.
 */
extern int ss_ledger_fold(int32 pipeline_id, int max_rows, int max_intervals, bool *all);

/* The folder's lock, until the transaction ends: without waiting (false if another one holds it), or waiting. */
extern bool ss_ledger_lock(int32 pipeline_id);
extern void ss_ledger_lock_wait(int32 pipeline_id);

/*
 * Replace a stream's folded intervals; the caller holds the folder's lock and
 * has folded the log.  Overlapping and touching ones are joined; n 0 removes
 * the stream's rows.
 */
extern void ss_ledger_replace(int32 pipeline_id, int32 stream, const SsInterval *intervals, int n);

/*
 * Folded intervals of a stream in order, in CurrentMemoryContext, from the
 * first one on that does not end before from.  Stops when there are max or
 * somewhat more; *more tells whether others follow.
 */
extern int ss_ledger_folded(int32 stream, SsEntryId from, int max, SsInterval **intervals, bool *more);

/* Where the newest n folded intervals of a stream begin: 0-0 if it has no more than these, the highest id for n 0. */
extern SsEntryId ss_ledger_newest(int32 stream, int n);

/*
 * Join the intervals on both sides of those gaps, in order, that are of a kind
 * that allows it and are still gaps between folded neighbours with exactly
 * these ends; the union keeps hash and time of the later one.  Returns how
 * many there were, and adds those of each kind to kinds[SS_GAP_KINDS] unless
 * it is NULL.  The caller holds the folder's lock and has folded the log.
 */
extern int ss_ledger_join(int32 pipeline_id, int32 stream, const SsGap *gaps, int n, int64 *kinds);

/*
 * Forget folded intervals of a stream that end before an id and were settled
 * before a time, lowest first, about max of them, but never the newest one;
 * none if the newest one ends behind last.  Returns how many.  The caller
 * holds the folder's lock.
 */
extern int ss_ledger_prune(int32 pipeline_id, int32 stream, SsEntryId begin, SsEntryId last, TimestampTz before, int max);

/* Delete everything of a pipeline, its counters too.  Waits for a fold under way. */
extern void ss_ledger_delete_all(int32 pipeline_id);

#endif /* SS_LEDGER_H */
