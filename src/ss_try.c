/*
 * ss_try.c
 *	  One try: some rows in a subtransaction of their own, through the
 *	  statement or, where that means the same, past it.
 *
 * NOTES
 *	  Before a subtransaction is released, SET CONSTRAINTS ALL IMMEDIATE runs
 *	  in it: a deferred constraint that is violated then fails the try that is
 *	  at fault instead of the commit of everything.  They are deferred again
 *	  for the next try: a row that needs that must not depend on its neighbours.
 *	  In a security-restricted operation nothing may be deferred, and they stay
 *	  immediate.
 *
 *	  With on_conflict => 'update' a row sets only the columns that its entry
 *	  had.  So rows are cut into runs of neighbours that set the same columns, and each
 *	  run has a statement of its own, kept for the next batch.  Two rows of
 *	  a run with one key make the server raise 21000; the try is repeated with
 *	  only the last row of each key, and the others count as superseded.
 *
 *	  The tuplestore behind "batch" is made for one execution: an old one would
 *	  carry a read pointer for every scan it has seen.  It belongs to the
 *	  caller's resource owner and to our memory, so that the rollback of the
 *	  subtransaction that reads it does not pull it from under us.
 *
 *	  The statements of a transform run in order, each seeing what those before
 *	  it did.  What they refuse or ignore (ss_verdict.c) is not in "batch" for the
 *	  next statement.  A refused entry leaves no trace: if something was
 *	  written when one was refused, or a relation made that it may have gone into,
 *	  the subtransaction is rolled back, and all runs once more without those
 *	  that are refused, however many.  What is ignored is only not seen any more.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/transam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "ss_bulk.h"
#include "ss_emit.h"
#include "ss_error.h"
#include "ss_guc.h"
#include "ss_try.h"
#include "ss_verdict.h"

/* kB of rows that stay in memory for one execution; what is above spills to disk. */
#define BATCH_MEMORY_KB (256 * 1024)

/* One try of some rows; in the writer's work context, so that it survives a longjmp intact. */
typedef struct Try
{
	SsWriter		*writer;
	SsBatch			*batch;
	SsRow			*rows;
	int				 nrows;
	bool			 deduplicate; /* keep only the last row of each key */
	bool			*superseded;  /* of each row; NULL without deduplicate */
	ResourceOwner	 owner;		  /* the caller's: owns tuplestores */
	Tuplestorestate *store;		  /* to be ended, or NULL */
	uint64			 processed;	  /* rows that statements reported */
	int				 row;		  /* the one a bulk insert was at, or -1 */

	/* with a transform */
	int			step;	  /* at work, or -1 */
	SsVerdicts *verdicts; /* NULL without one */
	List	   *results;  /* of SsStepResult *, to be ended */
	bool		again;	  /* to be rolled back and run without what is refused */
} Try;

/* Do two rows set the same columns on a conflict? */
static inline bool
same_presence(const SsWriter *writer, const SsRow *a, const SsRow *b)
{
	return writer->pipeline->on_conflict != SS_CONFLICT_UPDATE ||
		   a->present == b->present || bms_equal(a->present, b->present);
}

/* The columns that a conflict with this row updates, in CurrentMemoryContext. */
static Bitmapset *
columns_to_set(const SsWriter *writer, const SsRow *row)
{
	const SsStatementShape *shape = writer->shape;
	Bitmapset			   *set;

	if (writer->pipeline->on_conflict != SS_CONFLICT_UPDATE)
		return NULL;

	set = bms_union(row->present, shape->supplied);
	set = bms_int_members(set, shape->insert);
	return bms_del_members(set, shape->key_columns);
}

/* A tuplestore with the rows that are not superseded; ended by end_store. */
static int
begin_store(Try *try, int first, int count)
{
	SsWriter	 *writer = try->writer;
	TupleDesc	  desc = ss_mapping_desc(writer->mapping);
	MemoryContext oldcontext = MemoryContextSwitchTo(writer->work);
	ResourceOwner oldowner = CurrentResourceOwner;
	int			  stored = 0;
	int			  i;

	Assert(try->store == NULL);
	CurrentResourceOwner = try->owner;
	try->store = tuplestore_begin_heap(true, false, BATCH_MEMORY_KB);
	CurrentResourceOwner = oldowner;

	for (i = first; i < first + count; i++)
	{
		if (try->superseded != NULL && try->superseded[i])
			continue;
		if (try->verdicts != NULL && ss_verdict_of(try->verdicts, i, NULL) != SS_VERDICT_NONE)
			continue;
		tuplestore_putvalues(try->store, desc, try->rows[i].values, try->rows[i].isnull);
		stored++;
	}
	MemoryContextSwitchTo(oldcontext);
	return stored;
}

static void
end_store(Try *try)
{
	Tuplestorestate *store = try->store;

	try->store = NULL;
	if (store != NULL)
		tuplestore_end(store);
}

/* Mark the rows of a run that a later row of it with the same key replaces; returns their number. */
static int
mark_superseded(Try *try, int first, int count)
{
	SsWriter *writer = try->writer;
	int		  marked = 0;
	uint64	  i;

	if (!writer->shape->key_in_batch)
		return 0;

	ss_plan_register(writer->mapping, try->store, count);
	ss_plan_execute(ss_plan_superseded(writer->plans));
	if (SPI_tuptable == NULL)
		elog(ERROR, "the search for superseded rows gave no result");

	for (i = 0; i < SPI_processed; i++)
	{
		bool  isnull;
		int64 position = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));

		if (isnull || position < 1 || position > count)
			elog(ERROR, "the search for superseded rows gave a position out of range");
		try->superseded[first + position - 1] = true;
		marked++;
	}
	SPI_freetuptable(SPI_tuptable);
	ss_plan_unregister();
	return marked;
}

/* Insert without the statement, where that means the same.  False: it does not. */
static bool
insert_in_bulk(Try *try, int first, int count)
{
	SsWriter   *writer = try->writer;
	CachedPlan *plan;
	bool		fits = false;

	if (writer->bulk == NULL || !ss_guc_bulk_insert)
		return false;
	ss_plan_register(writer->mapping, NULL, count); /* it is planned, not read */
	plan = ss_plan_cached(ss_plan_insert(writer->plans, NULL));
	if (plan != NULL)
	{
		fits = ss_bulk_fits(writer->bulk, plan);
		ReleaseCachedPlan(plan, CurrentResourceOwner);
	}
	ss_plan_unregister();
	if (!fits)
		return false;
	ss_bulk_insert(writer->bulk, try->batch, try->rows + first, count, &try->row);
	try->processed += count;
	return true;
}

/* Insert rows that set the same columns. */
static void
insert_run(Try *try, int first, int count)
{
	SsWriter *writer = try->writer;
	int		  stored;

	if (insert_in_bulk(try, first, count))
		return;
	stored = begin_store(try, first, count);
	if (try->deduplicate && count > 1 && mark_superseded(try, first, count) > 0)
	{
		end_store(try);
		stored = begin_store(try, first, count);
	}

	ss_plan_register(writer->mapping, try->store, stored);
	ss_plan_execute(ss_plan_insert(writer->plans, columns_to_set(writer, &try->rows[first])));
	try->processed += SPI_processed;
	ss_plan_unregister();
	end_store(try);
}

/* Insert all rows, those that set the same columns at a time. */
static void
run_inserts(Try *try)
{
	int first = 0;

	while (first < try->nrows)
	{
		int end = first + 1;

		while (end < try->nrows && same_presence(try->writer, &try->rows[first], &try->rows[end]))
			end++;
		insert_run(try, first, end - first);
		first = end;
	}
}

/* ---- transforms ---- */

/* The relations that SELECT INTO made. */
static void
end_results(Try *try)
{
	ListCell *lc;

	foreach(lc, try->results)
	{
		SsStepResult *result = lfirst(lc);

		if (result->store != NULL)
			tuplestore_end(result->store);
	}
	try->results = NIL;
}

/* Where a step's relation will lie. */
static SsStepResult *
add_result(Try *try)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(try->writer->work);
	SsStepResult *result = palloc0_object(SsStepResult);

	result->cxt = try->writer->work;
	result->owner = try->owner;
	try->results = lappend(try->results, result);
	MemoryContextSwitchTo(oldcontext);
	return result;
}

/*
 * Run the statements of the transform; each that refuses or ignores entries
 * takes them out of batch for those behind it.
 */
static void
run_transform(Try *try)
{
	SsSteps	   *steps = try->writer->steps;
	SsVerdicts *verdicts = try->verdicts;
	int			nsteps = ss_steps_count(steps);
	int			left = begin_store(try, 0, try->nrows);
	bool		effects = false;

	ss_steps_begin(steps, try->store, left);
	/* what is ignored stays in the relations that were made before */
	for (int step = 0; step < nsteps && (left > 0 || try->results != NIL); step++)
	{
		int refused = ss_verdict_refused(verdicts);
		int ignored = ss_verdict_ignored(verdicts);

		try->step = step;
		try->processed += ss_steps_run(steps, step, left,
									   ss_steps_into(steps, step) != NULL ? add_result(try) : NULL);
		try->step = -1;
		ss_batch_pause(try->batch);

		effects |= ss_steps_has_effects(steps, step);
		refused = ss_verdict_refused(verdicts) - refused;
		ignored = ss_verdict_ignored(verdicts) - ignored;
		if (refused > 0)
		{
			bool written = effects || TransactionIdIsValid(GetCurrentTransactionIdIfAny());

			/* to the end, for what others refuse, where that costs a rollback */
			try->again |= written || try->results != NIL;
			if (try->again && !written)
				break;
		}
		if (refused != 0 || ignored != 0)
		{
			ss_steps_end(steps);
			end_store(try);
			left = begin_store(try, 0, try->nrows);
			ss_steps_begin(steps, try->store, left);
		}
	}
}

void
ss_try_constraints(bool deferred)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = deferred;
	AfterTriggerSetState(stmt);
}

void
ss_try_check_deferred(void)
{
	ss_try_constraints(false);
	if (!InSecurityRestrictedOperation())
		ss_try_constraints(true);
}

static void
write_error_context(void *arg)
{
	const Try	   *try = arg;
	const SsWriter *writer = try->writer;
	const char	   *to = writer->shape != NULL ? psprintf(" to %s", writer->shape->target) : "";

	if (try->step >= 0)
		errcontext("statement %d of the transform", try->step + 1);
	if (try->nrows == 1)
	{
		const SsEntry *entry = &try->batch->entries[try->rows[0].entry];
		char		   id[SS_ENTRYID_MAXLEN];

		ss_entryid_print(entry->id, id);
		errcontext("pipeline \"%s\" writing entry %s of stream \"%s\"%s",
				   writer->pipeline->name, id, entry->stream->name, to);
	}
	else
		errcontext("pipeline \"%s\" writing %d entries%s",
				   writer->pipeline->name, try->nrows, to);
}

/* Deferred triggers may refuse entries too, of what is written by then. */
static void
check_deferred(Try *try)
{
	int refused = try->verdicts != NULL ? ss_verdict_refused(try->verdicts) : 0;

	ss_try_check_deferred();
	if (try->verdicts != NULL && ss_verdict_refused(try->verdicts) > refused)
		try->again = true;
}

/* The body of a try, inside its subtransaction. */
static void
run_try(Try *try)
{
	ErrorContextCallback callback;

	callback.callback = write_error_context;
	callback.arg = try;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	PushActiveSnapshot(GetTransactionSnapshot());

	if (try->writer->steps != NULL)
		run_transform(try);
	else
		run_inserts(try);

	PopActiveSnapshot();
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
	if (!try->again)
		check_deferred(try);

	error_context_stack = callback.previous;
}

/* Rows of a try that went through: each is written, or superseded, or what the statements said. */
static void
settle_try(const Try *try)
{
	int i;

	for (i = 0; i < try->nrows; i++)
	{
		SsEntry	  *entry = &try->batch->entries[try->rows[i].entry];
		ErrorData *error;

		entry->outcome = SS_OUTCOME_WRITTEN;
		if (try->superseded != NULL && try->superseded[i])
			entry->outcome = SS_OUTCOME_SUPERSEDED;
		if (try->verdicts == NULL)
			continue;
		switch (ss_verdict_of(try->verdicts, i, &error))
		{
			case SS_VERDICT_REFUSED:
				ss_batch_refuse(try->batch, try->rows[i].entry, "refused", error);
				break;
			case SS_VERDICT_IGNORED:
				entry->outcome = SS_OUTCOME_IGNORED;
				break;
			case SS_VERDICT_NONE:
				break;
		}
	}
	try->batch->rows += try->processed;
}

/* Run the body once, in a subtransaction; returns its error. */
static ErrorData *
run_pass(Try *try)
{
	SsWriter		 *writer = try->writer;
	const SsPipeline *outer = MyPipeline;
	SsVerdicts		 *outer_verdicts = ss_verdict_current(); /* whose statement runs ours */
	ErrorData *volatile error = NULL;

	try->processed = 0;
	try->row = -1;
	try->step = -1;
	try->again = false;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(writer->work);
	PG_TRY();
	{
		MyPipeline = writer->pipeline;
		ss_verdict_enter(try->verdicts);
		run_try(try);
		ss_verdict_enter(outer_verdicts);
		MyPipeline = outer;
		if (try->again)
			RollbackAndReleaseCurrentSubTransaction();
		else
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MyPipeline = outer;
		ss_verdict_enter(outer_verdicts);
		MemoryContextReset(writer->error);
		MemoryContextSwitchTo(writer->error);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	CurrentResourceOwner = try->owner;
	MemoryContextSwitchTo(writer->work);

	end_store(try);
	end_results(try);
	if (error != NULL && try->step >= 0)
		ss_steps_explain_error(writer->steps, try->step, error);
	return error;
}

/*
 * Run the body until all that it refuses is known before.  An error of data
 * may be the fault of an entry that was refused by then.
 */
static ErrorData *
run_passes(Try *try)
{
	int refused = 0;

	for (;;)
	{
		ErrorData *error = run_pass(try);
		bool	   news = try->verdicts != NULL && ss_verdict_refused(try->verdicts) > refused;

		if (error != NULL ? !news || !ss_error_is_data(error->sqlerrcode) : !try->again)
			return error;
		refused = ss_verdict_refused(try->verdicts);
		ss_verdict_again(try->verdicts);
		CHECK_FOR_INTERRUPTS();
	}
}

ErrorData *
ss_try_rows(SsWriter *writer, SsBatch *batch, SsRow *rows, int nrows, bool deduplicate, int *failed_row)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(writer->work);
	ErrorData	 *error;
	Try			 *try = palloc0_object(Try);

	try->writer = writer;
	try->batch = batch;
	try->rows = rows;
	try->nrows = nrows;
	try->owner = CurrentResourceOwner;
	try->deduplicate = deduplicate;
	if (deduplicate)
		try->superseded = palloc0_array(bool, nrows);
	if (writer->steps != NULL)
		try->verdicts = ss_verdict_create(rows - writer->rows, nrows);

	error = run_passes(try);
	*failed_row = try->row;
	if (error == NULL)
		settle_try(try);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(writer->work);
	return error;
}
