/*
 * ss_stop.h
 *	  A policy stops its pipeline: on_error => 'stop', max_dead_letter_rate.
 */
#ifndef SS_STOP_H
#define SS_STOP_H

#include "ss_settle.h"

/* Why the result, SS_SETTLE_STOP or SS_SETTLE_TRIPPED, stops the pipeline; in CurrentMemoryContext. */
extern char *ss_stop_reason(const SsPipeline *pipeline, const SsBatch *batch, SsSettleResult result);

/*
 * Disable the pipeline with that reason, unless it was changed meanwhile, in
 * transactions of its own.  The batch was rolled back: nothing of it is settled.
 */
extern void ss_stop_pipeline(const SsPipeline *pipeline, const SsBatch *batch, SsSettleResult result, MemoryContext cxt);

#endif /* SS_STOP_H */
