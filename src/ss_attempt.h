/*
 * ss_attempt.h
 *	  The crash-loop guard: an entry that crashes the server again and again
 *	  becomes a dead letter.  The only file that knows streamsink.attempt.
 */
#ifndef SS_ATTEMPT_H
#define SS_ATTEMPT_H

#include "ss_batch.h"
#include "ss_catalog.h"

/* Crashes of the server, each with this entry alone at work, that make it a dead letter. */
#define SS_ATTEMPT_CRASHES 2

/* What one connection of a worker knows. */
typedef struct SsAttempts SsAttempts;

/*
 * Look at what was being tried when the server went down last, and count it.
 * Outside a transaction; errors are raised.
 */
extern SsAttempts *ss_attempt_load(const SsPipeline *pipeline, int share, MemoryContext cxt);

/* Are own pending entries to be tried one at a time? */
extern bool ss_attempt_alone(const SsAttempts *attempts);

/*
 * Before a batch is settled, outside a transaction: if it holds own pending
 * entries, leave a committed note that they are being tried.  Sets batch->crashes.
 */
extern void ss_attempt_begin(SsAttempts *attempts, SsBatch *batch);

/* In the transaction that settles it: the note goes with its commit. */
extern void ss_attempt_settle(SsAttempts *attempts, const SsBatch *batch);

/* After that commit. */
extern void ss_attempt_settled(SsAttempts *attempts);

/* After an error, before the transaction is aborted, which would take the session's lock by itself: gives it up. */
extern void ss_attempt_reset(void);

/* After that, outside a transaction: notes, in one of its own, that nothing is being tried. */
extern void ss_attempt_withdraw(void);

/* Refuse the only entry of a batch, beside those that vanished, for its crashes. */
extern void ss_attempt_refuse(SsBatch *batch);

/* Delete the notes of a pipeline. */
extern void ss_attempt_delete_all(int32 pipeline_id);

#endif /* SS_ATTEMPT_H */
