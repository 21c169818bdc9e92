/*
 * ss_plan.h
 *	  The in-memory relation "batch" and the kept plans of the statements over it.
 *
 * NOTES
 *	  All verbs but create need an SPI connection.  Plans outlive
 *	  transactions; the relation is registered anew with every connection.
 */
#ifndef SS_PLAN_H
#define SS_PLAN_H

#include "executor/spi.h"
#include "utils/plancache.h"
#include "utils/tuplestore.h"
#include "ss_statement.h"

typedef struct SsPlans SsPlans;

/* All that is given must outlive the plans; they live in cxt and go with it. */
extern SsPlans *ss_plan_create(const SsPipeline *pipeline, const SsMapping *mapping,
							   const SsStatementShape *shape, MemoryContext cxt);

/* Let the statements of this connection see a tuplestore of nrows rows as batch, until it is unregistered. */
extern void ss_plan_register(const SsMapping *mapping, Tuplestorestate *store, int nrows);
extern void ss_plan_unregister(void);

/* The same for any relation; desc must live as long. */
extern void ss_plan_register_as(const char *name, TupleDesc desc, Tuplestorestate *store, double nrows);
extern void ss_plan_unregister_as(const char *name);

/* Prepare a statement over what is registered, and keep it until SPI_freeplan. */
extern SPIPlanPtr ss_plan_prepare(const char *sql);

/* The INSERT for rows that set these columns on a conflict, made if needed while batch is registered. */
extern SPIPlanPtr ss_plan_insert(SsPlans *plans, const Bitmapset *set);

/* The SELECT of the positions of rows that a later one replaces; likewise.  Only if the shape's key_in_batch. */
extern SPIPlanPtr ss_plan_superseded(SsPlans *plans);

/* What the server would execute now, planned anew if needed; to be released.  NULL if it cannot be told. */
extern CachedPlan *ss_plan_cached(SPIPlanPtr plan);

/* Run a plan; SPI_processed and SPI_tuptable tell the rest. */
extern void ss_plan_execute(SPIPlanPtr plan);

#endif /* SS_PLAN_H */
