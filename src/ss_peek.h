/*
 * ss_peek.h
 *	  What a session wants to know of a pipeline's streams in Redis, without
 *	  consuming anything.
 */
#ifndef SS_PEEK_H
#define SS_PEEK_H

#include "ss_run.h"
#include "ss_stream.h"

/* Connect with the server and user mapping of the pipeline's owner; closed with parent. */
extern SsRedis *ss_peek_connect(const SsPipeline *pipeline, MemoryContext parent);

/*
 * The pipeline's streams that exist now, as SsStream * without catalog ids, in
 * CurrentMemoryContext.  max 0: all of them.
 */
extern List *ss_peek_streams(SsRedis *redis, SsRun *run, int max);

/* Ask one question and take its reply, in an arena of CurrentMemoryContext. */
extern SsReply *ss_peek_reply(SsRedis *redis, Size limit);

#endif /* SS_PEEK_H */
