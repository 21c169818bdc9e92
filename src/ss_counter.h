/*
 * ss_counter.h
 *	  Counters of a pipeline, exact across restarts: what a batch adds is
 *	  committed with its rows.  The only file that knows streamsink.counter.
 *
 * NOTES
 *	  A batch's part stands in the row that it appends to the ledger's log; a
 *	  fold adds up what it takes from there into the pipeline's row of
 *	  streamsink.counter.  Under any snapshot the sum of both is what the
 *	  batches that are visible have done, neither more nor less.
 */
#ifndef SS_COUNTER_H
#define SS_COUNTER_H

#include "datatype/timestamp.h"

struct SsPipeline;

/* read = written + refused + ignored + repeated + superseded + vanished. */
typedef struct SsCounters
{
	int64 read; /* not stored: the sum of the others */
	int64 written;
	int64 refused;
	int64 ignored;
	int64 repeated; /* dropped because the ledger had them */
	int64 superseded;
	int64 vanished; /* delivered, but deleted before they could be read */
	int64 rows;		/* rows the statements reported */
	int64 batches;
	int64 errors;  /* failed tries of workers */
	int64 retried; /* dead letters that a retry applied: they were read and refused before */
} SsCounters;

/* Those that are stored, in the order of their columns in both tables. */
#define SS_COUNTER_NSTORED 10
extern int64 *ss_counter_stored(SsCounters *counters, int i);

extern bool ss_counter_is_zero(const SsCounters *counters);

/* Add the stored ones of delta. */
extern void ss_counter_sum(SsCounters *sum, const SsCounters *delta);

/* The counters of a pipeline under the active snapshot, read included.  *reset_at: 0 if they were never reset. */
extern void ss_counter_read(int32 pipeline_id, SsCounters *counters, TimestampTz *reset_at);

/* Add to the stored row, in the current transaction; the caller holds the folder's lock (ss_ledger_lock). */
extern void ss_counter_add(int32 pipeline_id, const SsCounters *delta);

/*
 * Set them to zero, in the current transaction: every batch counts before or
 * after.  Takes the folder's lock, waiting.
 */
extern void ss_counter_reset(int32 pipeline_id);

/*
 * Failed tries have no batch that commits: a worker keeps their number until
 * one does, or until it saves them.  note_error adds one; unsaved is what the next
 * batch takes along, saved says that it committed.
 */
extern void	 ss_counter_note_error(void);
extern int64 ss_counter_unsaved_errors(void);
extern void	 ss_counter_saved_errors(int64 n);

/* Save them in a transaction of its own, at most once a second; left for later where somebody else has the folder's lock.  Errors are raised. */
extern void ss_counter_save_errors(const struct SsPipeline *pipeline);

/* Delete the stored row; the caller holds the folder's lock. */
extern void ss_counter_delete(int32 pipeline_id);

#endif /* SS_COUNTER_H */
