/*
 * ss_steps.c
 *	  The statements of a transform as kept plans over "batch" and the relations
 *	  that SELECT INTO makes.
 *
 * NOTES
 *	  Each statement has a plan for few rows and one for a full batch: a plan is
 *	  made once, and one that suits a single entry may take ages over a thousand, or
 *	  the other way round.  The server makes them anew when tables or their
 *	  statistics change.  Of relations in memory it knows nothing: when a SELECT INTO
 *	  gives other columns than before, the plans behind it are dropped here.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/dest.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "ss_error.h"
#include "ss_plan.h"
#include "ss_steps.h"
#include "ss_stepscan.h"

/* Rows up to which a batch is small, and how many a small one is planned for. */
#define SMALL_BATCH	 50
#define SMALL_ROWS	 10
#define EXPLAIN		 "EXPLAIN (COSTS off) "
#define EMPTY_KBYTES 64

enum
{
	PLAN_SMALL,
	PLAN_LARGE,
	PLAN_SIZES
};

typedef struct Step
{
	const SsTransformStatement *statement;
	SPIPlanPtr					plans[PLAN_SIZES]; /* NULL until they are used */
	TupleDesc					result;			   /* of SELECT INTO, as the steps behind it know it */
	bool						effects;
} Step;

struct SsSteps
{
	MemoryContext		  cxt;
	MemoryContextCallback callback;
	const SsPipeline	 *pipeline;
	SsMapping			 *mapping;
	Step				 *steps;
	int					  nsteps;
	bool				  use_fields;
};

/* A destination that keeps the rows and what they look like. */
typedef struct IntoReceiver
{
	DestReceiver  pub;
	SsStepResult *result;
	TupleDesc	  desc;
} IntoReceiver;

static void
free_plans_from(SsSteps *steps, int first)
{
	for (int i = first; i < steps->nsteps; i++)
	{
		for (int size = 0; size < PLAN_SIZES; size++)
		{
			SPIPlanPtr plan = steps->steps[i].plans[size];

			steps->steps[i].plans[size] = NULL;
			if (plan != NULL)
				SPI_freeplan(plan);
		}
	}
}

/* Kept plans lie outside our context: they must go when it does, also after an ERROR. */
static void
free_plans(void *arg)
{
	free_plans_from(arg, 0);
}

SsSteps *
ss_steps_create(const SsPipeline *pipeline, SsMapping *mapping, MemoryContext cxt)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(cxt);
	SsSteps		 *steps = palloc0_object(SsSteps);
	List		 *statements = ss_transform_parse(pipeline->transform);
	int			  i = 0;
	ListCell	 *lc;

	steps->cxt = cxt;
	steps->pipeline = pipeline;
	steps->mapping = mapping;
	steps->nsteps = list_length(statements);
	steps->steps = palloc0_array(Step, steps->nsteps);
	foreach(lc, statements)
		steps->steps[i++].statement = lfirst(lc);
	steps->callback.func = free_plans;
	steps->callback.arg = steps;
	MemoryContextRegisterResetCallback(cxt, &steps->callback);
	MemoryContextSwitchTo(oldcontext);
	return steps;
}

int
ss_steps_count(const SsSteps *steps)
{
	return steps->nsteps;
}

bool
ss_steps_use_fields(const SsSteps *steps)
{
	return steps->use_fields;
}

bool
ss_steps_has_effects(const SsSteps *steps, int step)
{
	return steps->steps[step].effects;
}

const char *
ss_steps_into(const SsSteps *steps, int step)
{
	return steps->steps[step].statement->into;
}

/* What a plan of this size is made for. */
static double
planned_rows(const SsSteps *steps, int size)
{
	return size == PLAN_SMALL ? SMALL_ROWS : Max(SMALL_BATCH, steps->pipeline->batch_size);
}

static int
size_of(int nrows)
{
	return nrows <= SMALL_BATCH ? PLAN_SMALL : PLAN_LARGE;
}

/* Would a Var of one row type read the same from the other? */
static bool
same_columns(TupleDesc a, TupleDesc b)
{
	if (a->natts != b->natts)
		return false;
	for (int i = 0; i < a->natts; i++)
	{
		Form_pg_attribute x = TupleDescAttr(a, i);
		Form_pg_attribute y = TupleDescAttr(b, i);

		if (x->atttypid != y->atttypid || x->atttypmod != y->atttypmod || x->attcollation != y->attcollation ||
			strcmp(NameStr(x->attname), NameStr(y->attname)) != 0)
			return false;
	}
	return true;
}

/* What the steps behind a SELECT INTO rest on; those that rested on something else are planned anew. */
static void
set_result(SsSteps *steps, int step, TupleDesc desc)
{
	TupleDesc	 *known = &steps->steps[step].result;
	MemoryContext oldcontext;

	if (*known != NULL && same_columns(*known, desc))
		return;
	free_plans_from(steps, step + 1);
	oldcontext = MemoryContextSwitchTo(steps->cxt);
	*known = CreateTupleDescCopy(desc);
	MemoryContextSwitchTo(oldcontext);
}

/* The plan of a step, made if needed over what is registered. */
static SPIPlanPtr
get_plan(SsSteps *steps, int step, int size)
{
	Step *the_step = &steps->steps[step];

	if (the_step->plans[size] == NULL)
		the_step->plans[size] = ss_plan_prepare(the_step->statement->sql);
	return the_step->plans[size];
}

/* ---- preparing ---- */

/* CALL, NOTIFY and LOCK are not planned: what can be told of them before they run. */
static void
check_utility(const Step *step, const SsStepScan *scan)
{
	Node	 *raw = step->statement->raw;
	ListCell *lc;

	if (OidIsValid(scan->procedure) && !ss_compat_may_execute(scan->procedure, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for procedure %s", get_func_name(scan->procedure))));
	if (IsA(raw, LockStmt))
	{
		foreach(lc, castNode(LockStmt, raw)->relations)
			(void) RangeVarGetRelid(lfirst_node(RangeVar, lc), NoLock, false);
	}
}

/* EXPLAIN analyses, plans and checks privileges as an execution would, and runs nothing. */
static void
explain_statement(const SsTransformStatement *statement)
{
	int result = SPI_execute(psprintf(EXPLAIN "%s", statement->sql), false, 0);

	if (result < 0)
		elog(ERROR, "could not explain a statement: %s", SPI_result_code_string(result));
	SPI_freetuptable(SPI_tuptable);
}

static void
prepare_step(SsSteps *steps, int step, bool explain, Tuplestorestate *empty)
{
	Step			 *the_step = &steps->steps[step];
	CachedPlanSource *source;
	SsStepScan		  scan = {.pipeline = steps->pipeline, .mapping = steps->mapping};

	source = linitial(SPI_plan_get_plan_sources(get_plan(steps, step, PLAN_LARGE)));
	ss_stepscan_run(&scan, source->query_list);
	the_step->effects = scan.effects;
	steps->use_fields |= scan.use_fields;

	if (explain && the_step->statement->is_utility)
		check_utility(the_step, &scan);
	else if (explain)
		explain_statement(the_step->statement);

	if (the_step->statement->into != NULL)
	{
		if (source->resultDesc == NULL)
			elog(ERROR, "SELECT INTO without a result");
		set_result(steps, step, source->resultDesc);
		ss_plan_register_as(the_step->statement->into, the_step->result, empty, planned_rows(steps, PLAN_LARGE));
	}
}

/* The function of ours that a statement calls without its schema, or NULL. */
static const char *
find_unqualified(const ErrorData *error)
{
	static const char *const names[] = {"refuse", "ignore", "emit", "publish"};

	if (error->sqlerrcode != ERRCODE_UNDEFINED_FUNCTION || error->message == NULL)
		return NULL;
	for (int i = 0; i < (int) lengthof(names); i++)
	{
		if (strstr(error->message, psprintf(" %s(", names[i])) != NULL)
			return names[i];
	}
	return NULL;
}

void
ss_steps_explain_error(const SsSteps *steps, int step, ErrorData *error)
{
	const SsTransformStatement *statement = steps->steps[step].statement;
	const char				   *ours = find_unqualified(error);

	/* EXPLAIN stands before the statement, and counts */
	if (error->internalpos > (int) strlen(EXPLAIN) && error->internalquery != NULL &&
		strncmp(error->internalquery, EXPLAIN, strlen(EXPLAIN)) == 0 &&
		strcmp(error->internalquery + strlen(EXPLAIN), statement->sql) == 0)
	{
		error->internalquery += strlen(EXPLAIN);
		error->internalpos -= strlen(EXPLAIN);
	}
	ss_transform_locate(steps->pipeline->transform, statement, error);
	if (error->hint == NULL && ss_error_misses_batch(error))
		error->hint = unconstify(char *, ss_error_hint(error));
	if (ours != NULL)
		error->hint = psprintf("The extension's functions are in its schema: write streamsink.%s().", ours);
}

void
ss_steps_prepare(SsSteps *steps, bool explain)
{
	MemoryContext	 caller = CurrentMemoryContext;
	Tuplestorestate *empty = tuplestore_begin_heap(true, false, EMPTY_KBYTES);
	volatile int	 step = 0;

	free_plans_from(steps, 0);
	steps->use_fields = false;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	PushActiveSnapshot(GetTransactionSnapshot());
	ss_plan_register_as(SS_BATCH_RELATION, ss_mapping_desc(steps->mapping), empty, planned_rows(steps, PLAN_LARGE));

	PG_TRY();
	{
		for (; step < steps->nsteps; step++)
			prepare_step(steps, step, explain, empty);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		ss_steps_explain_error(steps, step, error);
		if (error->internalpos <= 0 && error->internalquery == NULL)
		{
			/* at least where the statement begins */
			error->internalpos = steps->steps[step].statement->offset + 1;
			error->internalquery = steps->pipeline->transform;
		}
		error->context = psprintf("%s%sstatement %d of the transform", error->context ? error->context : "",
								  error->context ? "\n" : "", step + 1);
		ReThrowError(error);
	}
	PG_END_TRY();

	PopActiveSnapshot();
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
	tuplestore_end(empty);
}

/* ---- running ---- */

void
ss_steps_begin(SsSteps *steps, Tuplestorestate *store, int nrows)
{
	ss_plan_register_as(SS_BATCH_RELATION, ss_mapping_desc(steps->mapping), store, planned_rows(steps, size_of(nrows)));
}

void
ss_steps_end(SsSteps *steps)
{
	ss_plan_unregister_as(SS_BATCH_RELATION);
}

static void
start_into(DestReceiver *self, int operation, TupleDesc desc)
{
	IntoReceiver *receiver = (IntoReceiver *) self;
	MemoryContext oldcontext = MemoryContextSwitchTo(receiver->result->cxt);
	ResourceOwner oldowner = CurrentResourceOwner;

	receiver->desc = CreateTupleDescCopy(desc);
	CurrentResourceOwner = receiver->result->owner;
	receiver->result->store = tuplestore_begin_heap(true, false, work_mem);
	CurrentResourceOwner = oldowner;
	MemoryContextSwitchTo(oldcontext);
}

static bool
receive_into(TupleTableSlot *slot, DestReceiver *self)
{
	IntoReceiver *receiver = (IntoReceiver *) self;

	tuplestore_puttupleslot(receiver->result->store, slot);
	return true;
}

static void
end_into(DestReceiver *self)
{
}

/* Rows that a statement says to have written. */
static uint64
written_rows(int result)
{
	switch (result)
	{
		case SPI_OK_INSERT:
		case SPI_OK_UPDATE:
		case SPI_OK_DELETE:
		case SPI_OK_MERGE:
		case SPI_OK_INSERT_RETURNING:
		case SPI_OK_UPDATE_RETURNING:
		case SPI_OK_DELETE_RETURNING:
#ifdef SPI_OK_MERGE_RETURNING
		case SPI_OK_MERGE_RETURNING:
#endif
			return SPI_processed;
		default:
			return 0;
	}
}

uint64
ss_steps_run(SsSteps *steps, int step, int nrows, SsStepResult *result)
{
	const char		 *into = ss_steps_into(steps, step);
	int				  size = size_of(nrows);
	SPIExecuteOptions options = {0};
	IntoReceiver	  receiver = {{receive_into, start_into, end_into, end_into, DestTuplestore}, result, NULL};
	int				  code;

	options.dest = into != NULL ? &receiver.pub : None_Receiver;
	code = SPI_execute_plan_extended(get_plan(steps, step, size), &options);
	if (code < 0)
		elog(ERROR, "could not execute a kept plan: %s", SPI_result_code_string(code));
	if (into != NULL)
	{
		if (receiver.desc == NULL)
			elog(ERROR, "SELECT INTO gave no result");
		set_result(steps, step, receiver.desc);
		ss_plan_register_as(into, receiver.desc, result->store, planned_rows(steps, size));
	}
	return written_rows(code);
}
