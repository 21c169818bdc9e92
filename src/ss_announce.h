/*
 * ss_announce.h
 *	  Telling others about new dead letters: a copy in a Redis stream, and a
 *	  notification.  Both belong to the transaction that stores them.
 */
#ifndef SS_ANNOUNCE_H
#define SS_ANNOUNCE_H

#include "datatype/timestamp.h"
#include "ss_batch.h"
#include "ss_catalog.h"

/* The channel of notifications. */
#define SS_ANNOUNCE_CHANNEL "streamsink_dead_letters"

/*
 * Queue a copy of a dead letter for the pipeline's dead_letter_stream, if it
 * has one: a command of the outbox.  detail: as it is stored, or NULL.
 */
extern void ss_announce_copy(const SsPipeline *pipeline, int64 id, const SsEntry *entry,
							 const SsRefusal *refusal, const char *detail, TimestampTz failed_at);

/*
 * Notify whoever listens if a pipeline that had `before` dead letters (counted
 * up to streamsink.dead_letter_threshold, and at least to 1) has its first ones
 * by this batch, or reaches the threshold by it.
 */
extern void ss_announce_batch(const SsPipeline *pipeline, const SsBatch *batch, int64 before);

#endif /* SS_ANNOUNCE_H */
