/*
 * ss_worker.h
 *	  A worker: the background process that runs one share of a pipeline.
 */
#ifndef SS_WORKER_H
#define SS_WORKER_H

#include "postgres.h"
#include "ss_compat.h"
#include "ss_pump.h"

/*
 * Entry point, found by name.  main_arg: index of the slot the launcher
 * reserved; bgw_extra begins with SsWorkerArgs.
 */
extern SS_EXPORT void streamsink_worker_main(Datum main_arg);

typedef struct SsWorkerArgs
{
	uint32 slot_generation;
	Oid	   database;
	Oid	   owner;
	int32  pipeline_id;
} SsWorkerArgs;

/* ---- ss_loop.c: the loop and the exactly-once protocol ---- */

/* Why the loop ended without an error. */
typedef enum SsLoopEnd
{
	SS_LOOP_CHANGED, /* the definition changed, or the pipeline was stopped: load it again */
	SS_LOOP_STOP	 /* on_error => stop was met; the pipeline is disabled now */
} SsLoopEnd;

/* Read, settle, acknowledge until something changes.  All errors are raised; the pump is thrown away then. */
extern SsLoopEnd ss_loop_run(SsPump *pump);

/* Register the timeout that ends a batch which takes too long; once per process. */
extern void ss_loop_init(void);

/* Undo what an error left behind: deadline, slot.  After the transaction was aborted. */
extern void ss_loop_reset(void);

/*
 * Has this pipeline been changed since the loop began?  Cheap unless a change
 * was announced or a second has passed; then it looks into the catalog in a
 * transaction of its own, which also accepts invalidations.
 */
extern bool ss_loop_is_changed(const SsPipeline *pipeline);

#endif /* SS_WORKER_H */
