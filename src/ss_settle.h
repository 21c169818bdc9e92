/*
 * ss_settle.h
 *	  Settling a batch: ledger check, rows, dead letters and the ledger's log
 *	  in one transaction, and XACK once that is flushed.
 */
#ifndef SS_SETTLE_H
#define SS_SETTLE_H

#include "access/xlogdefs.h"
#include "ss_counter.h"
#include "ss_redis.h"
#include "ss_run.h"
#include "ss_shmem.h"

typedef enum SsSettleResult
{
	SS_SETTLE_DONE,	   /* all is recorded: commit */
	SS_SETTLE_CHANGED, /* the pipeline was changed or stopped: abort, load it again */
	SS_SETTLE_STOP,	   /* on_error => stop, and an entry was refused: abort, stop the pipeline */
	SS_SETTLE_EVOLVE,  /* the target lacks columns: commit, add them, settle the batch anew */
	SS_SETTLE_TRIPPED  /* more were refused than max_dead_letter_rate permits: the same */
} SsSettleResult;

/*
 * Settle the batch in the current transaction, which the caller commits, or
 * aborts unless the result is SS_SETTLE_DONE.  shared: other workers settle
 * entries of the same streams, so that the ledger is always asked.  *counters
 * gets what became of the entries.  Machine and set-up errors are raised.
 */
extern SsSettleResult ss_settle_batch(SsRun *run, SsBatch *batch, bool shared, SsCounters *counters);

/* After the commit: the streams' high marks move up to what was settled. */
extern void ss_settle_advance(SsBatch *batch);

/* After the commit: what the transaction counted is told to the statistics. */
extern void ss_settle_count(const SsPipeline *pipeline, const SsBatch *batch, const SsCounters *counters);

/*
 * Publish the batch's id ranges in my slot, waiting (without a transaction
 * and without publishing) while another slot's overlap.
 */
extern void ss_settle_publish(const SsBatch *batch);

/* Acknowledgements that wait for their commit to be flushed. */
typedef struct SsAcks SsAcks;

extern SsAcks *ss_settle_acks_create(MemoryContext parent, const char *group);
extern void	   ss_settle_acks_free(SsAcks *acks);

/* Queue every entry of a committed batch; lsn is XactLastCommitEnd right after its commit, 0 if nothing was written. */
extern void ss_settle_acks_add(SsAcks *acks, const SsBatch *batch, XLogRecPtr lsn);

/*
 * Append XACKs for what is flushed (here, and where the commit level waits
 * for synchronous standbys, there) to the connection; returns the number of
 * commands, each of which gets one reply.  flush: XLogFlush first;
 * a worker does so outside a transaction only.
 */
extern int ss_settle_acks_send(SsAcks *acks, SsRedis *redis, bool flush);

/* Entries that wait in the queue. */
extern int64 ss_settle_acks_waiting(const SsAcks *acks);

#endif /* SS_SETTLE_H */
