/*
 * ss_bulkfit.h
 *	  Is the generated INSERT nothing but "all of batch into this one table"?
 *	  For ss_bulk.c.
 */
#ifndef SS_BULKFIT_H
#define SS_BULKFIT_H

#include "nodes/plannodes.h"
#include "utils/relcache.h"

/* Is the plan a bare INSERT into the target from a scan of batch?  Then *tlist has an entry for each attribute. */
extern bool ss_bulkfit_plan(const PlannedStmt *stmt, Oid target, List **tlist);

/* What the plan does not show: a heap of its own, and only AFTER ROW triggers, which look at rows when they are in. */
extern bool ss_bulkfit_relation(Relation rel);

/* Could an expression tell whether the rows before its own are in the table? */
extern bool ss_bulkfit_looks(Node *expr);

/* Do neither the table's CHECKs nor its triggers' conditions?  Holds for as long as the plan does. */
extern bool ss_bulkfit_rows(Relation rel);

#endif /* SS_BULKFIT_H */
