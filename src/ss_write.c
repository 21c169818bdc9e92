/*
 * ss_write.c
 *	  Typed rows into the user's tables: whole first, then the rows at fault
 *	  are isolated.
 *
 * NOTES
 *	  Bulk, then isolate.  All rows are tried at once in one subtransaction.
 *	  When a data error ends it, the subtransaction is rolled back, which undoes
 *	  every effect of the failed try.  If it is known which row was at work,
 *	  those before it are tried, then it alone; if not, the first half.  In
 *	  stream order, down to the single row that is at fault.  After a failure
 *	  tries are as small as bad rows were seen to be close, after a success twice as large:
 *	  k bad rows among n cost about 3 * k tries of n / k rows where the row is
 *	  known, and k * log2(n) where it is not.  Tries are siblings under the
 *	  caller's (sub)transaction, never nested.  A try that succeeded stays: the
 *	  rows behind it see its effects, as they would have in one piece.
 *
 *	  Rows go through the statement, or by ss_bulk.c past it where that means
 *	  the same; or through the statements of a transform.
 *
 *	  A foreign key may fail only because the row it points to stands later in
 *	  the batch, so single rows that fail with 23503 are put aside and tried
 *	  once more, in order, when all others are through.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "ss_error.h"
#include "ss_try.h"

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

/* What the pipeline runs: a transform's steps, or what the generated INSERT needs. */
static void
get_statements(SsWriter *writer)
{
	if (writer->pipeline->transform != NULL)
	{
		if (writer->steps == NULL)
			writer->steps = ss_steps_create(writer->pipeline, writer->mapping, writer->cxt);
	}
	else if (writer->plans == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(writer->cxt);

		writer->shape = ss_statement_shape(writer->pipeline, writer->mapping);
		writer->plans = ss_plan_create(writer->pipeline, writer->mapping, writer->shape, writer->cxt);
		if (writer->pipeline->on_conflict == SS_CONFLICT_ERROR)
			writer->bulk = ss_bulk_create(writer->mapping, writer->cxt);
		MemoryContextSwitchTo(oldcontext);
	}
}

/*
 * Analyse all statements, and let go of the tables they name: a batch locks them in
 * the order of its statements, LOCK TABLE first where that stands first.
 */
static void
prepare_unlocked(SsSteps *steps)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		ss_steps_prepare(steps, false);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
}

void
ss_write_prepare(SsWriter *writer)
{
	if (writer->prepared || writer->pipeline->transform == NULL)
		return;
	get_statements(writer);
	prepare_unlocked(writer->steps);
	ss_mapping_use_fields(writer->mapping, ss_steps_use_fields(writer->steps));
	writer->prepared = true;
}

char *
ss_write_statement(SsWriter *writer)
{
	if (writer->pipeline->transform != NULL)
		return pstrdup(writer->pipeline->transform);
	get_statements(writer);
	return ss_statement_insert(writer->pipeline, writer->mapping, writer->shape, writer->shape->insert);
}

void
ss_write_enter(const SsPipeline *pipeline, SsIdentity *saved)
{
	ss_try_check_deferred();
	ss_identity_enter(pipeline, saved);
	if (InSecurityRestrictedOperation())
		ss_try_constraints(false);
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
	bool	  exhausted;   /* a machine error of a final batch is being isolated */
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
	ss_batch_refuse(isolation->batch, isolation->rows[row].entry, isolation->exhausted ? "retries" : "write", error);
}

/* One try, and another one without superseded rows if that was what it failed for. */
static ErrorData *
try_piece(Isolation *isolation, int first, int count, int *failed_row)
{
	SsRow	  *rows = isolation->rows + first;
	ErrorData *error = ss_try_rows(isolation->writer, isolation->batch, rows, count, false, failed_row);

	if (error != NULL && error->sqlerrcode == ERRCODE_CARDINALITY_VIOLATION && count > 1 &&
		isolation->writer->pipeline->on_conflict == SS_CONFLICT_UPDATE)
		error = ss_try_rows(isolation->writer, isolation->batch, rows, count, true, failed_row);
	return error;
}

/*
 * Write rows in order, isolating those at fault.  Raises what is not the
 * rows' fault.
 */
static void
write_isolated(Isolation *isolation, int first, int count)
{
	int	 end = first + count;
	int	 size = count;	/* of the next try */
	int	 suspect = -1;	/* a row that a try failed at: those before it, then it alone */
	bool fresh = false; /* the next try has the whole of a deadline */

	while (first < end)
	{
		int		   n = Min(size, end - first);
		int		   failed_row;
		ErrorData *error;
		SsDecision decision;
		bool	   late;

		if (suspect >= first)
			n = Min(n, Max(1, suspect - first));
		error = try_piece(isolation, first, n, &failed_row);
		if (error == NULL)
		{
			first += n;
			size = size > count / 2 ? count : size * 2;
			fresh = false;
			continue;
		}

		decision = ss_error_decide(error->sqlerrcode, n == 1);
		isolation->exhausted = decision == SS_ERROR_RETRY && isolation->batch->final && ss_error_counts(error->sqlerrcode);
		if (isolation->exhausted)
			decision = SS_ERROR_HALVE;
		if (decision != SS_ERROR_REFUSE && decision != SS_ERROR_HALVE)
			ReThrowError(error);
		late = error->sqlerrcode == ERRCODE_QUERY_CANCELED;
		ss_error_next_try();

		if (n == 1 && late && !fresh)
			; /* others used up the time: once more */
		else if (n == 1)
			refuse_row(isolation, first++, error);
		else if (failed_row >= 0 && decision == SS_ERROR_REFUSE) /* time and memory end at any row */
		{
			suspect = first + failed_row;
			size = Max(1, failed_row * 2);
		}
		else
			size = n / 2;
		fresh = late;
	}
}

void
ss_write_rows(SsWriter *writer, SsBatch *batch, SsRow *rows, int nrows)
{
	Isolation isolation = {0};
	int		  i;

	if (nrows == 0)
		return;

	get_statements(writer);
	writer->rows = rows;
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
	char			*explain;
	int				 result;

	if (writer->pipeline->transform != NULL)
	{
		get_statements(writer);
		ss_steps_prepare(writer->steps, true);
		return;
	}
	explain = psprintf("EXPLAIN (COSTS off) %s", ss_write_statement(writer));
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
