/*
 * ss_try.h
 *	  Inside of a writer: what ss_write.c keeps and ss_try.c runs.
 */
#ifndef SS_TRY_H
#define SS_TRY_H

#include "ss_bulk.h"
#include "ss_plan.h"
#include "ss_steps.h"
#include "ss_write.h"

struct SsWriter
{
	MemoryContext	  cxt;
	MemoryContext	  work;	 /* reset after every try */
	MemoryContext	  error; /* the error of the last try; reset by the next failure */
	const SsPipeline *pipeline;
	SsMapping		 *mapping;
	SsStatementShape *shape; /* NULL until first use, and so are the others */
	SsPlans			 *plans;
	SsBulk			 *bulk;		/* NULL where a conflict is not an error */
	SsSteps			 *steps;	/* of a transform, which has none of those three */
	bool			  prepared; /* ... and was analysed */
	const SsRow		 *rows;		/* of the batch: _seq counts from here */
};

/*
 * Write some rows in a subtransaction of their own.  NULL if that went
 * through; otherwise nothing of it is left, and the error is returned, which
 * lives until the next try fails; *failed_row is the row that was at work, or -1
 * where that is not known.
 */
extern ErrorData *ss_try_rows(SsWriter *writer, SsBatch *batch, SsRow *rows, int nrows, bool deduplicate, int *failed_row);

/* SET CONSTRAINTS ALL; IMMEDIATE fires what is due. */
extern void ss_try_constraints(bool deferred);

/* Check now, as the current user, what would be checked at commit. */
extern void ss_try_check_deferred(void);

#endif /* SS_TRY_H */
