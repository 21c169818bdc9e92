/*
 * ss_breaker.h
 *	  The circuit breaker: too many refused entries stop their pipeline.
 */
#ifndef SS_BREAKER_H
#define SS_BREAKER_H

#include "ss_batch.h"
#include "ss_catalog.h"

/*
 * Would this batch, whose entries have their outcomes, bring the share of refused
 * entries above max_dead_letter_rate?  True: roll it back and stop the pipeline.
 */
extern bool ss_breaker_trips(const SsPipeline *pipeline, const SsBatch *batch);

/* The batch that was asked about last is committed. */
extern void ss_breaker_settled(const SsPipeline *pipeline);

/* Forget what was seen: a drain begins. */
extern void ss_breaker_reset(void);

/* What was seen when it tripped, for a message; in CurrentMemoryContext. */
extern char *ss_breaker_explain(const SsPipeline *pipeline);

#endif /* SS_BREAKER_H */
