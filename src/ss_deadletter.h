/*
 * ss_deadletter.h
 *	  Dead letters: the entries that were refused, every byte, with the reason.
 *	  Only ss_deadletter.c and ss_deadletterscan.c know streamsink.dead_letter
 *	  and dead_letter_attempt.
 *
 * NOTES
 *	  Workers only add.  Whoever changes or deletes holds ss_deadletter_lock to
 *	  the end of the transaction, so each dead letter is dealt with once.  A
 *	  worker that removes old ones (ss_retention.h) does, too, and never waits for it.
 */
#ifndef SS_DEADLETTER_H
#define SS_DEADLETTER_H

#include "ss_batch.h"
#include "ss_catalog.h"

/* One dead letter, in the context it was fetched in. */
typedef struct SsDeadLetter
{
	int64	  id;
	int32	  pipeline;
	char	 *stream;
	SsEntryId entry_id;
	SsReply	 *fields; /* as ss_batch_add takes them: the edited ones, else those received */
	bool	  edited;
	bool	  truncated; /* the entry is kept in part only */
	int32	  attempts;
} SsDeadLetter;

/*
 * Store the refusals of a batch (all of batch->refusals) in the current transaction.  Messages are cut
 * at 8 kB.  They are announced as ss_announce.h says.  Does not look at on_error: the caller does.
 */
extern void ss_deadletter_store(const SsPipeline *pipeline, const SsBatch *batch);

/* Let nobody else change or delete dead letters of a pipeline until the transaction ends.  Waits. */
extern void ss_deadletter_lock(int32 pipeline_id);

/* The same without waiting: false if somebody has it. */
extern bool ss_deadletter_try_lock(int32 pipeline_id);

/* Up to most ids of a pipeline's dead letters in order, behind one and up to another; their number is the result. */
extern int ss_deadletter_page(int32 pipeline_id, int64 after, int64 upto, int64 *ids, int most);

/* Id of the newest one; 0 if there is none. */
extern int64 ss_deadletter_newest(int32 pipeline_id);

/* Their number, counted up to most. */
extern int64 ss_deadletter_count(int32 pipeline_id, int64 most);

/* Go back over the newest ones below an id, most at the most: how many there were; *last gets the id of the last one passed. */
extern int64 ss_deadletter_skip_newest(int32 pipeline_id, int64 below, int64 most, int64 *last);

/* Read one as it is committed now, in CurrentMemoryContext; NULL if it is gone. */
extern SsDeadLetter *ss_deadletter_fetch(int64 id);

/* The pipeline of a dead letter; false if it is gone. */
extern bool ss_deadletter_pipeline(int64 id, int32 *pipeline_id);

/* Delete one with its history; false if it was gone. */
extern bool ss_deadletter_delete(int64 id);

/* It was tried again and refused again: one more attempt, the new reason, a row of history.  False if it is gone. */
extern bool ss_deadletter_fail_again(int64 id, const SsRefusal *refusal);

/* Set what is used in place of the bytes received; NULL: those bytes again.  ERROR 22023 if it is not an object.  False if it is gone. */
extern bool ss_deadletter_edit(int64 id, Jsonb *fields);

/* How much is removed at a time. */
typedef struct SsDeadLetterStep
{
	int64 rows;
	int	  ms; /* checked after each row */
} SsDeadLetterStep;

/*
 * Delete, with their history, those that failed last in [*from, before), or
 * whose ids lie between *after and below.  The oldest first, until the step is
 * over (NULL: all); *from and *after move on for the next one.  Return their
 * number, which is 0 when nothing is left.  The caller holds the lock.
 */
extern int64 ss_deadletter_remove_failed(int32 pipeline_id, TimestampTz *from, TimestampTz before, const SsDeadLetterStep *step);
extern int64 ss_deadletter_remove_low(int32 pipeline_id, int64 *after, int64 below, const SsDeadLetterStep *step);

/* Delete those that failed last before a time, with their history; returns their number.  Takes the lock. */
extern int64 ss_deadletter_delete_before(int32 pipeline_id, TimestampTz before);

/* Delete all dead letters of a pipeline with their history.  Takes the lock. */
extern void ss_deadletter_delete_all(int32 pipeline_id);

#endif /* SS_DEADLETTER_H */
