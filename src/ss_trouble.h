/*
 * ss_trouble.h
 *	  What a worker remembers of its failures, over connections: how long it
 *	  waits, how much it tries at a time, when it has tried often enough.
 */
#ifndef SS_TROUBLE_H
#define SS_TROUBLE_H

#include "ss_batch.h"
#include "ss_catalog.h"
#include "ss_error.h"

/* One for each worker, all zero at first. */
typedef struct SsTrouble
{
	/* what failed last, to tell a steady failure from a new one */
	int			failures; /* in a row */
	int			sqlstate;
	TimestampTz logged_at;
	int64		logged_wait; /* ms: logged again when the wait grew */
	uint32		logged_text; /* hash of the message, its digits left out */
	int			caution;	 /* replies in a row that were too large */

	/* batches that failed while they were settled */
	int		  limit;	  /* entries of a batch, until one goes through; 0: batch_size */
	int		  collisions; /* deadlocks and serialization failures in a row */
	int		  retries;	  /* failures, in a row, that max_retries counts ... */
	int32	  stream;	  /* ... of the batch with this entry */
	SsEntryId entry;
} SsTrouble;

/* Milliseconds to wait after the n-th failure in a row, without jitter.  pipeline NULL: it could not be loaded. */
extern int64 ss_trouble_backoff(const SsPipeline *pipeline, SsDecision decision, int failures);

/* The same with up to a fifth of jitter, so that those that collided do not meet again. */
extern int64 ss_trouble_wait(const SsPipeline *pipeline, SsDecision decision, int failures);

/*
 * A batch failed while it was settled, with this error; deadline: it was our
 * own.  True if it is to be tried again at once, in smaller parts.  Allocates nothing.
 */
extern bool ss_trouble_failed(SsTrouble *trouble, const SsBatch *batch, int sqlstate, bool deadline);

/* Before a batch is settled: is this the last retry that max_retries leaves?  Then it is final. */
extern void ss_trouble_prepare(const SsTrouble *trouble, const SsPipeline *pipeline, SsBatch *batch);

/* It was settled. */
extern void ss_trouble_settled(SsTrouble *trouble, const SsPipeline *pipeline, const SsBatch *batch);

#endif /* SS_TROUBLE_H */
