/*
 * ss_run.h
 *	  What turns a pipeline's entries into rows: its definition, template,
 *	  mapping and writer.  Used by workers, ingest, apply and preview alike.
 */
#ifndef SS_RUN_H
#define SS_RUN_H

#include "ss_mapping.h"
#include "ss_write.h"

typedef struct SsRun
{
	MemoryContext	 cxt; /* holds all of it */
	SsPipeline		*pipeline;
	SsTemplate		*tmpl;
	const char		*dead_letter_key; /* dead_letter_stream in UTF-8, or NULL */
	SsMapping		*mapping;		  /* NULL until ss_run_refresh */
	SsWriter		*writer;
	struct SsEvolve *evolve; /* NULL until a field lacks a column */
} SsRun;

/*
 * Load a definition and parse its template, in a new child context of parent.
 * By id: NULL if the pipeline or the extension is gone.  By name: ERROR 42704.
 * Needs a transaction.
 */
extern SsRun *ss_run_load(int32 pipeline_id, MemoryContext parent);
extern SsRun *ss_run_load_by_name(const char *name, MemoryContext parent);
extern void	  ss_run_free(SsRun *run);

/*
 * Lock the target (RowExclusiveLock, to the transaction's end; with a
 * transform, which may lock it as it likes, AccessShareLock) and build
 * mapping and writer, or build them again if something behind them changed.
 * Once it returned, no DDL can change them in this transaction.
 */
extern void ss_run_refresh(SsRun *run);

/*
 * Map and write the batch's new entries in the current transaction; every entry has its outcome then.  Reports the microseconds of both parts.
 * False: nothing was done, because columns are to be added first (ss_evolve.h).
 */
extern bool ss_run_batch(SsRun *run, SsBatch *batch, int64 *map_us, int64 *write_us);

/*
 * Fill a stream's key and placeholders from its name (kept, not copied).
 * False if the name does not match the pipeline's template: then the placeholders are NULLs of no
 * length.
 */
extern bool ss_run_name_stream(SsRun *run, SsStream *stream, char *name, MemoryContext cxt);

#endif /* SS_RUN_H */
