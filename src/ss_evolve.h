/*
 * ss_evolve.h
 *	  evolve: fields that no column takes get one.
 */
#ifndef SS_EVOLVE_H
#define SS_EVOLVE_H

#include "ss_run.h"

/* What a run knows of the columns it adds. */
typedef struct SsEvolve SsEvolve;

/*
 * As ss_mapping_rows, for a pipeline that evolves: -1 if the target lacks
 * columns for fields of these entries.  Then nothing was done: end the transaction, call
 * ss_evolve_alter in another one, and settle the batch anew.
 */
extern int ss_evolve_rows(SsRun *run, SsBatch *batch, SsRow **rows);

/*
 * Add the columns, as the current user, who must own the target.  Does
 * nothing if the pipeline was changed, or somebody else was faster.  ERROR
 * 55P03 if the table cannot be had soon, 42501, 42809 if it cannot be altered (any more).
 */
extern void ss_evolve_alter(SsRun *run);

/* After the commit: says what was done. */
extern void ss_evolve_report(SsRun *run);

/* The batch's rows are written: the next one may ask for columns again. */
extern void ss_evolve_settled(SsRun *run);

#endif /* SS_EVOLVE_H */
