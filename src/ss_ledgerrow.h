/*
 * ss_ledgerrow.h
 *	  The form of a row of streamsink.ledger and of streamsink.ledger_log:
 *	  intervals to columns and back, every length checked.
 */
#ifndef SS_LEDGERROW_H
#define SS_LEDGERROW_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "ss_counter.h"
#include "ss_interval.h"

/* Columns of streamsink.ledger. */
#define SS_LEDGER_stream	 1
#define SS_LEDGER_segment	 2
#define SS_LEDGER_pipeline	 3
#define SS_LEDGER_lowest	 4
#define SS_LEDGER_highest	 5
#define SS_LEDGER_settled	 6
#define SS_LEDGER_hashes	 7
#define SS_LEDGER_settled_at 8
#define SS_LEDGER_NCOLUMNS	 8

/* Columns of streamsink.ledger_log. */
#define SS_LEDGER_LOG_pipeline	 1
#define SS_LEDGER_LOG_settled_at 2
#define SS_LEDGER_LOG_intervals	 3
#define SS_LEDGER_LOG_counters	 4 /* the first of them */
#define SS_LEDGER_LOG_NCOLUMNS	 (3 + SS_COUNTER_NSTORED)

/*
 * Intervals in one row of streamsink.ledger at most: a fold rewrites such a
 * row, and a reader of old ids reads many of them.  Test builds can change it.
 */
#define SS_LEDGER_SEGMENT 512
#ifdef STREAMSINK_TEST
extern int ss_ledgerrow_segment;
#else
#define ss_ledgerrow_segment SS_LEDGER_SEGMENT
#endif

/* Intervals in one row of the log at most; more make more rows. */
#define SS_LEDGER_LOG_ROW_MAX 20000

/* A row of streamsink.ledger, its large columns not looked at yet; points into the tuple. */
typedef struct SsLedgerRow
{
	int32	  stream;
	int32	  segment;
	int32	  pipeline;
	SsEntryId lowest; /* span of the set */
	SsEntryId highest;
	Datum	  settled;
	Datum	  hashes;
	Datum	  settled_at;
} SsLedgerRow;

/* A row of streamsink.ledger_log while its intervals are read. */
typedef struct SsLogRow
{
	int32		pipeline;
	TimestampTz settled_at;
	const char *position;
	const char *end;
} SsLogRow;

/*
 * All of them throw data_corrupted for a row that does not hold together.
 * They may detoast, so they need a registered or active snapshot, and leave
 * that memory in CurrentMemoryContext.
 */
extern void ss_ledgerrow_open(HeapTuple tuple, TupleDesc desc, SsLedgerRow *row);
extern void ss_ledgerrow_read(const SsLedgerRow *row, SsIntervals *into);

/* The number of its intervals, without reading them. */
extern size_t ss_ledgerrow_count(const SsLedgerRow *row);

/* The hash of its last interval. */
extern uint64 ss_ledgerrow_last_hash(const SsLedgerRow *row);

/* The same row of the ledger under another number. */
extern HeapTuple ss_ledgerrow_renumber(HeapTuple tuple, TupleDesc desc, int32 segment);

/* ERROR data_corrupted; detail is a sentence. */
extern void ss_ledgerrow_report(int32 pipeline, int32 stream, const char *detail);

/* Begin to read a row of the log; then each call gives one interval, false at the end. */
extern void ss_ledgerrow_open_log(HeapTuple tuple, TupleDesc desc, SsLogRow *row);
extern bool ss_ledgerrow_next(SsLogRow *row, SsInterval *interval);

/* Add what the batch of a row of the log counted. */
extern void ss_ledgerrow_add_counters(HeapTuple tuple, TupleDesc desc, SsCounters *sum);

/*
 * Make a row.  For the ledger, intervals are 1 to ss_ledgerrow_segment of one
 * stream, merged with touching ones joined.  For the log they are at most
 * SS_LEDGER_LOG_ROW_MAX, or none; counters may be NULL.
 */
extern HeapTuple ss_ledgerrow_make(TupleDesc desc, int32 pipeline, int32 stream, int32 segment,
								   const SsInterval *intervals, size_t n);
extern HeapTuple ss_ledgerrow_make_log(TupleDesc desc, int32 pipeline, TimestampTz settled_at, const SsInterval *intervals, int n, const SsCounters *counters);

/* Sorted, disjoint intervals as an entry_id_multirange, in CurrentMemoryContext. */
extern Datum ss_ledgerrow_multirange(const SsInterval *intervals, size_t n);

#endif /* SS_LEDGERROW_H */
