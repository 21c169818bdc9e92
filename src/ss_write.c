/*
 * ss_write.c
 *	  Typed rows into the user's tables: one kept plan over the in-memory
 *	  relation "batch", whole first, then by halves.
 *
 * NOTES
 *	  Bulk, then isolate.  All rows are tried at once in one subtransaction.
 *	  When a data error ends it, the subtransaction is rolled back, which undoes
 *	  every effect of the failed try, and the two halves are tried the same
 *	  way, in stream order, down to the single row that is at fault: k bad rows
 *	  among n cost about k * log2(n) tries.  Tries are siblings under the
 *	  caller's (sub)transaction, never nested.  A try that succeeded stays: the
 *	  rows behind it see its effects, as they would have in one piece.
 *
 *	  Before a subtransaction is released, SET CONSTRAINTS ALL IMMEDIATE runs
 *	  in it: a deferred constraint that is violated then fails the try that is
 *	  at fault instead of the commit of everything.  They are deferred again
 *	  for the next try: a row that needs that must not depend on its neighbours.
 *	  In a security-restricted operation nothing may be deferred, and they stay
 *	  immediate.
 *
 *	  A foreign key may fail only because the row it points to stands later in
 *	  the batch, so single rows that fail with 23503 are put aside and tried
 *	  once more, in order, when all others are through.
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
 *	  Statements run in order (run_statements); today there is one, the INSERT.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "ss_error.h"
#include "ss_plan.h"
#include "ss_write.h"

/* kB of rows that stay in memory for one execution; what is above spills to disk. */
#define BATCH_MEMORY_KB (256 * 1024)

struct SsWriter
{
	MemoryContext	  cxt;
	MemoryContext	  work;	 /* reset after every try */
	MemoryContext	  error; /* the error of the last try; reset by the next failure */
	const SsPipeline *pipeline;
	SsMapping		 *mapping;
	SsStatementShape *shape; /* NULL until first use, and so are the plans */
	SsPlans			 *plans;
};

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
} Try;

SsWriter *
ss_write_create(const SsPipeline *pipeline, SsMapping *mapping, MemoryContext parent)
{
	MemoryContext cxt = AllocSetContextCreate(parent, "streamsink writer", ALLOCSET_SMALL_SIZES);
	SsWriter	 *writer = MemoryContextAllocZero(cxt, sizeof(SsWriter));

	writer->cxt = cxt;
	writer->work = AllocSetContextCreate(cxt, "streamsink writer work", ALLOCSET_DEFAULT_SIZES);
	writer->error = AllocSetContextCreate(cxt, "streamsink writer error", ALLOCSET_SMALL_SIZES);
	writer->pipeline = pipeline;
	writer->mapping = mapping;
	return writer;
}

void
ss_write_free(SsWriter *writer)
{
	MemoryContextDelete(writer->cxt);
}

static SsStatementShape *
get_shape(SsWriter *writer)
{
	if (writer->plans == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(writer->cxt);

		writer->shape = ss_statement_shape(writer->pipeline, writer->mapping);
		writer->plans = ss_plan_create(writer->pipeline, writer->mapping, writer->shape, writer->cxt);
		MemoryContextSwitchTo(oldcontext);
	}
	return writer->shape;
}

char *
ss_write_statement(SsWriter *writer)
{
	SsStatementShape *shape = get_shape(writer);

	return ss_statement_insert(writer->pipeline, writer->mapping, shape, shape->insert);
}

/* ---- one try ---- */

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

/* Run the statements over rows that set the same columns. */
static void
run_statements(Try *try, int first, int count)
{
	SsWriter *writer = try->writer;
	int		  stored = begin_store(try, first, count);

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

/* SET CONSTRAINTS ALL; IMMEDIATE fires what is due. */
static void
set_constraints(bool deferred)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = deferred;
	AfterTriggerSetState(stmt);
}

/* Check now, as the current user, what would be checked at commit. */
static void
check_deferred(void)
{
	set_constraints(false);
	if (!InSecurityRestrictedOperation())
		set_constraints(true);
}

void
ss_write_enter(const SsPipeline *pipeline, SsIdentity *saved)
{
	check_deferred();
	ss_identity_enter(pipeline, saved);
	if (InSecurityRestrictedOperation())
		set_constraints(false);
}

static void
write_error_context(void *arg)
{
	const Try	   *try = arg;
	const SsWriter *writer = try->writer;

	if (try->nrows == 1)
	{
		const SsEntry *entry = &try->batch->entries[try->rows[0].entry];
		char		   id[SS_ENTRYID_MAXLEN];

		ss_entryid_print(entry->id, id);
		errcontext("pipeline \"%s\" writing entry %s of stream \"%s\" to %s",
				   writer->pipeline->name, id, entry->stream->name, writer->shape->target);
	}
	else
		errcontext("pipeline \"%s\" writing %d entries to %s",
				   writer->pipeline->name, try->nrows, writer->shape->target);
}

/* The body of a try, inside its subtransaction. */
static void
run_try(Try *try)
{
	ErrorContextCallback callback;
	int					 first = 0;

	callback.callback = write_error_context;
	callback.arg = try;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	PushActiveSnapshot(GetTransactionSnapshot());

	while (first < try->nrows)
	{
		int end = first + 1;

		while (end < try->nrows && same_presence(try->writer, &try->rows[first], &try->rows[end]))
			end++;
		run_statements(try, first, end - first);
		first = end;
	}

	PopActiveSnapshot();
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
	check_deferred();

	error_context_stack = callback.previous;
}

/* Rows of a try that went through: each is written, or superseded. */
static void
settle_try(const Try *try)
{
	int i;

	for (i = 0; i < try->nrows; i++)
	{
		SsEntry *entry = &try->batch->entries[try->rows[i].entry];

		if (try->superseded != NULL && try->superseded[i])
			entry->outcome = SS_OUTCOME_SUPERSEDED;
		else
			entry->outcome = SS_OUTCOME_WRITTEN;
	}
	try->batch->rows += try->processed;
}

/*
 * Write some rows in a subtransaction of their own.  NULL if that went
 * through; otherwise nothing of it is left, and the error is returned, which
 * lives until the next try fails.
 */
static ErrorData *
try_rows(SsWriter *writer, SsBatch *batch, SsRow *rows, int nrows, bool deduplicate)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;
	Try *try = MemoryContextAllocZero(writer->work, sizeof(Try));

	try->writer = writer;
	try->batch = batch;
	try->rows = rows;
	try->nrows = nrows;
	try->owner = oldowner;
	try->deduplicate = deduplicate;
	if (deduplicate)
		try->superseded = MemoryContextAllocZero(writer->work, nrows * sizeof(bool));

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(writer->work);
	PG_TRY();
	{
		run_try(try);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextReset(writer->error);
		MemoryContextSwitchTo(writer->error);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = oldowner;

	end_store(try);
	if (error == NULL)
		settle_try(try);
	MemoryContextReset(writer->work);
	return error;
}

/* ---- bulk, then isolate ---- */

typedef struct Isolation
{
	SsWriter *writer;
	SsBatch	 *batch;
	SsRow	 *rows;
	int		 *orphans; /* rows that failed with 23503, to be tried once more */
	int		  norphans;
	bool	  last_chance; /* this is that second try */
} Isolation;

/* Refuse one row, or put it aside for a second try. */
static void
refuse_row(Isolation *isolation, int row, ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION && !isolation->last_chance)
	{
		isolation->orphans[isolation->norphans++] = row;
		return;
	}
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		error->message = MemoryContextStrdup(isolation->writer->error,
											 "the entry alone took longer than a batch may take");
	ss_batch_refuse(isolation->batch, isolation->rows[row].entry, "write", error);
}

/*
 * Write rows, halving on data errors until the rows at fault stand alone.
 * Raises what is not the rows' fault.
 */
static void
write_isolated(Isolation *isolation, int first, int count)
{
	SsRow	  *rows = isolation->rows + first;
	ErrorData *error;
	SsDecision decision;

	error = try_rows(isolation->writer, isolation->batch, rows, count, false);

	if (error != NULL && error->sqlerrcode == ERRCODE_CARDINALITY_VIOLATION && count > 1 &&
		isolation->writer->pipeline->on_conflict == SS_CONFLICT_UPDATE)
		error = try_rows(isolation->writer, isolation->batch, rows, count, true);
	if (error == NULL)
		return;

	decision = ss_error_decide(error->sqlerrcode, count == 1);
	if (decision != SS_ERROR_REFUSE && decision != SS_ERROR_HALVE)
		ReThrowError(error);

	ss_error_next_try();
	if (count == 1)
		refuse_row(isolation, first, error);
	else
	{
		write_isolated(isolation, first, count / 2);
		write_isolated(isolation, first + count / 2, count - count / 2);
	}
}

void
ss_write_rows(SsWriter *writer, SsBatch *batch, SsRow *rows, int nrows)
{
	Isolation isolation = {0};
	int		  i;

	if (nrows == 0)
		return;

	get_shape(writer);
	isolation.writer = writer;
	isolation.batch = batch;
	isolation.rows = rows;
	isolation.orphans = MemoryContextAlloc(batch->cxt, nrows * sizeof(int));

	write_isolated(&isolation, 0, nrows);

	isolation.last_chance = true;
	for (i = 0; i < isolation.norphans; i++)
		write_isolated(&isolation, isolation.orphans[i], 1);
}

/*
 * EXPLAIN analyses, plans and checks privileges as an execution would, and
 * runs nothing: no rows, no triggers.
 */
void
ss_write_check(SsWriter *writer)
{
	Tuplestorestate *store;
	MemoryContext	 oldcontext;
	char			*explain = psprintf("EXPLAIN (COSTS off) %s", ss_write_statement(writer));
	int				 result;

	oldcontext = MemoryContextSwitchTo(writer->work);
	store = tuplestore_begin_heap(true, false, 64);
	MemoryContextSwitchTo(oldcontext);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	PushActiveSnapshot(GetTransactionSnapshot());
	ss_plan_register(writer->mapping, store, 0);
	result = SPI_execute(explain, false, 0);
	if (result < 0)
		elog(ERROR, "could not explain the statement: %s", SPI_result_code_string(result));
	PopActiveSnapshot();
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");

	tuplestore_end(store);
	MemoryContextReset(writer->work);
	pfree(explain);
}
