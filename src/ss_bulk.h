/*
 * ss_bulk.h
 *	  Rows straight into a plain table by the table access method's
 *	  multi-insert, where that is all that the generated INSERT would do.
 *
 * NOTES
 *	  The server's own plan of the INSERT decides: see ss_bulk_fits.
 */
#ifndef SS_BULK_H
#define SS_BULK_H

#include "utils/plancache.h"
#include "ss_mapping.h"

typedef struct SsBulk SsBulk;

/* Lives in cxt and goes with it; the mapping must outlive it. */
extern SsBulk *ss_bulk_create(const SsMapping *mapping, MemoryContext cxt);

/*
 * Is the plan of the INSERT nothing but "all of batch into this one table",
 * with no trigger, policy, view, partition or extension in between that wants a say?
 * Needs the lock on the target.
 */
extern bool ss_bulk_fits(SsBulk *bulk, const CachedPlan *plan);

/*
 * Insert rows of the batch as the current user: privileges, defaults, generated columns,
 * constraints, indexes and AFTER ROW triggers (foreign keys among them) as the statement
 * would.  Needs an active snapshot; advances the command counter.  Raises
 * what the statement would raise; *row is then the row that was at work, or -1
 * where several were.  Only after ss_bulk_fits.
 */
extern void ss_bulk_insert(SsBulk *bulk, const SsBatch *batch, SsRow *rows, int nrows, int *row);

#ifdef STREAMSINK_TEST
extern uint64 ss_bulk_tries;   /* calls of ss_bulk_insert in this process */
extern uint64 ss_bulk_rows;	   /* rows of those that went through */
extern bool	  ss_bulk_allowed; /* false: nothing fits */
#endif

#endif /* SS_BULK_H */
