/*
 * ss_plan.c
 *	  The in-memory relation "batch" and the kept plans of the statements over
 *	  it.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/memutils.h"

#include "ss_plan.h"

/* INSERTs that are kept; the least recently used goes first. */
#define MAX_KEPT 16

typedef struct KeptInsert
{
	Bitmapset *set; /* columns that a conflict updates */
	SPIPlanPtr plan;
	uint64	   used; /* clock at last use */
} KeptInsert;

struct SsPlans
{
	MemoryContext			cxt;
	MemoryContextCallback	callback;
	const SsPipeline	   *pipeline;
	const SsMapping		   *mapping;
	const SsStatementShape *shape;
	KeptInsert				inserts[MAX_KEPT];
	int						ninserts;
	uint64					clock;
	SPIPlanPtr				superseded; /* NULL until first use */
};

/* Kept plans lie outside our context: they must go when it does, also after an ERROR. */
static void
free_plans(void *arg)
{
	SsPlans *plans = arg;

	while (plans->ninserts > 0)
		SPI_freeplan(plans->inserts[--plans->ninserts].plan);
	if (plans->superseded != NULL)
		SPI_freeplan(plans->superseded);
	plans->superseded = NULL;
}

SsPlans *
ss_plan_create(const SsPipeline *pipeline, const SsMapping *mapping,
			   const SsStatementShape *shape, MemoryContext cxt)
{
	SsPlans *plans = MemoryContextAllocZero(cxt, sizeof(SsPlans));

	plans->cxt = cxt;
	plans->pipeline = pipeline;
	plans->mapping = mapping;
	plans->shape = shape;
	plans->callback.func = free_plans;
	plans->callback.arg = plans;
	MemoryContextRegisterResetCallback(cxt, &plans->callback);
	return plans;
}

void
ss_plan_register_as(const char *name, TupleDesc desc, Tuplestorestate *store, double nrows)
{
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));
	int					   result;

	enr->md.name = pstrdup(name);
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = nrows;
	enr->reldata = store;

	result = SPI_register_relation(enr);
	if (result != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register relation \"%s\": %s", name, SPI_result_code_string(result));
}

void
ss_plan_unregister_as(const char *name)
{
	int result = SPI_unregister_relation(name);

	if (result != SPI_OK_REL_UNREGISTER)
		elog(ERROR, "could not unregister relation \"%s\": %s", name, SPI_result_code_string(result));
}

void
ss_plan_register(const SsMapping *mapping, Tuplestorestate *store, int nrows)
{
	ss_plan_register_as(SS_BATCH_RELATION, ss_mapping_desc(mapping), store, nrows);
}

void
ss_plan_unregister(void)
{
	ss_plan_unregister_as(SS_BATCH_RELATION);
}

SPIPlanPtr
ss_plan_prepare(const char *sql)
{
	SPIPlanPtr plan = SPI_prepare(sql, 0, NULL);

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep the plan of \"%s\"", sql);
	return plan;
}

/* Room for one more INSERT: a free place, or that of the least recently used one. */
static KeptInsert *
make_room(SsPlans *plans)
{
	KeptInsert *kept = &plans->inserts[0];
	int			i;

	if (plans->ninserts < MAX_KEPT)
		return &plans->inserts[plans->ninserts++];

	for (i = 1; i < plans->ninserts; i++)
	{
		if (plans->inserts[i].used < kept->used)
			kept = &plans->inserts[i];
	}
	SPI_freeplan(kept->plan);
	bms_free(kept->set);
	return kept;
}

SPIPlanPtr
ss_plan_insert(SsPlans *plans, const Bitmapset *set)
{
	KeptInsert	 *kept;
	Bitmapset	 *copy;
	SPIPlanPtr	  plan;
	MemoryContext oldcontext;
	int			  i;

	for (i = 0; i < plans->ninserts; i++)
	{
		kept = &plans->inserts[i];
		if (bms_equal(kept->set, set))
		{
			kept->used = ++plans->clock;
			return kept->plan;
		}
	}

	plan = ss_plan_prepare(ss_statement_insert(plans->pipeline, plans->mapping, plans->shape, set));
	oldcontext = MemoryContextSwitchTo(plans->cxt);
	copy = bms_copy(set);
	MemoryContextSwitchTo(oldcontext);

	kept = make_room(plans);
	kept->set = copy;
	kept->plan = plan;
	kept->used = ++plans->clock;
	return plan;
}

SPIPlanPtr
ss_plan_superseded(SsPlans *plans)
{
	if (plans->superseded == NULL)
		plans->superseded = ss_plan_prepare(ss_statement_superseded(plans->mapping, plans->shape));
	return plans->superseded;
}

CachedPlan *
ss_plan_cached(SPIPlanPtr plan)
{
	return SPI_plan_get_cached_plan(plan);
}

void
ss_plan_execute(SPIPlanPtr plan)
{
	int result = SPI_execute_plan(plan, NULL, NULL, false, 0);

	if (result < 0)
		elog(ERROR, "could not execute a kept plan: %s", SPI_result_code_string(result));
}
