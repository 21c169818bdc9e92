/*
 * ss_ingest.c
 *	  CALL ingest: drain what is in the streams now, in the caller's session.
 *
 * NOTES
 *	  The same pump and the same protocol as a worker, with the session's own
 *	  transactions: the procedure commits after every batch.  A session-level
 *	  lock on the fence keeps two of them from draining one pipeline, and makes
 *	  start() wait: a worker would read what this session has pending.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "ss_breaker.h"
#include "ss_evolve.h"
#include "ss_identity.h"
#include "ss_ledger.h"
#include "ss_peek.h"
#include "ss_pump.h"
#include "ss_retention.h"
#include "ss_stats.h"
#include "ss_stop.h"

#define REPLY_LIMIT ((Size) 512 * 1024 * 1024)

/* Look for all streams, and mark where each ends now: what comes later is left. */
static void
find_ends(SsPump *pump)
{
	ss_discover_all(pump);
	pump->scan_due = DT_NOEND;
	pump->recheck_due = DT_NOEND;

	/* What workers with other consumer names left pending; none of them runs. */
	if (pump->run->tmpl->single)
	{
		ss_shmem_session_slot(pump->run->pipeline->id);
		while (ss_takeover_step(pump) && pump->batch->nentries < pump->run->pipeline->batch_size)
			CHECK_FOR_INTERRUPTS();
	}

	for (int i = 0; i < pump->nstreams; i++)
	{
		SsStreamInfo  info;
		SsStreamState state;
		MemoryContext scratch;
		MemoryContext saved;

		if (!pump->streams[i]->prepared)
			continue;
		scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink ends", ALLOCSET_DEFAULT_SIZES);
		saved = MemoryContextSwitchTo(scratch);
		ss_stream_append_info(pump->redis, pump->streams[i]);
		if (ss_stream_parse_info(ss_peek_reply(pump->redis, REPLY_LIMIT), &info, &state))
			pump->streams[i]->limit = info.last_generated;
		MemoryContextSwitchTo(saved);
		MemoryContextDelete(scratch);
	}
}

/* Settle one batch and commit.  ERROR 55000 if the pipeline was changed meanwhile. */
static void
settle_and_commit(SsPump *pump, SsCounters *total)
{
	SsRun		  *run = pump->run;
	SsCounters	   counters;
	SsIdentity	   identity;
	SsSettleResult result;
	MemoryContext  saved = CurrentMemoryContext;
	MemoryContext  turn = AllocSetContextCreate(saved, "streamsink turn", ALLOCSET_DEFAULT_SIZES);

	/* a worker's batch has its transaction's memory; ours must not pile up in the procedure's */
	MemoryContextSwitchTo(turn);
	for (;;)
	{
		ss_shmem_session_slot(run->pipeline->id);
		ss_write_enter(run->pipeline, &identity);
		result = ss_settle_batch(run, pump->batch, false, &counters);
		ss_identity_leave(&identity);
		if (result != SS_SETTLE_EVOLVE)
			break;
		SPI_commit();
		ss_identity_enter(run->pipeline, &identity);
		ss_evolve_alter(run);
		ss_identity_leave(&identity);
		SPI_commit();
		ss_evolve_report(run);
	}
	if (result == SS_SETTLE_TRIPPED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("too many entries of pipeline \"%s\" were refused", run->pipeline->name),
				 errdetail_internal("%s.", ss_stop_reason(run->pipeline, pump->batch, result)),
				 errhint("The last batch was rolled back. Mend the cause, or change max_dead_letter_rate.")));
	if (result == SS_SETTLE_CHANGED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" was changed or started while it was being drained", run->pipeline->name),
				 errdetail("Batches committed so far are settled.")));
	if (result == SS_SETTLE_STOP)
	{
		const SsRefusal *refusal = &pump->batch->refusals[0];

		ereport(ERROR,
				(errcode(refusal->error->sqlerrcode),
				 errmsg_internal("%s", ss_stop_reason(run->pipeline, pump->batch, result)),
				 errdetail("Its batch was rolled back, because on_error is \"stop\".")));
	}
	SPI_commit();
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(turn);

	ss_settle_acks_add(pump->acks, pump->batch, XactLastCommitEnd);
	ss_settle_advance(pump->batch);
	ss_breaker_settled(run->pipeline);
	ss_settle_count(run->pipeline, pump->batch, &counters);
	total->batches++;
	total->written += counters.written;
	total->refused += counters.refused;
	ss_batch_reset(pump->batch);
	ss_pump_acknowledge(pump, false);
}

/* A round, as a worker does now and then; whoever deals with dead letters at the moment has them to himself. */
static void
remove_letters(const SsPipeline *pipeline)
{
	SsRetention retention = {0};

	while (ss_retention_step(pipeline, &retention))
	{
		SPI_commit();
		CHECK_FOR_INTERRUPTS();
	}
	SPI_commit();
}

static void
drain(SsPump *pump, int64 max_batches, SsCounters *total)
{
	find_ends(pump);
	while (total->batches < max_batches && !ss_pump_is_quiet(pump))
	{
		CHECK_FOR_INTERRUPTS();
		if (!pump->reading && !ss_pump_send_read(pump, 0))
			break;
		if (!ss_pump_receive(pump, 1000))
			continue;
		if (pump->batch->nentries > 0)
			settle_and_commit(pump, total);
	}

	/* entries without a body, and no stream to read from */
	if (!pump->reading && pump->batch->nentries > 0 && total->batches < max_batches)
		settle_and_commit(pump, total);
	ss_pump_acknowledge(pump, true);
	while (ss_ledger_fold(pump->run->pipeline->id, 1000, 0, NULL) > 0)
		SPI_commit();
	SPI_commit();
	remove_letters(pump->run->pipeline);
}

static void
refuse_if_running(const SsPipeline *pipeline)
{
	if (pipeline->enabled || ss_shmem_count_workers(MyDatabaseId, pipeline->id) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("pipeline \"%s\" is running", pipeline->name),
				 errhint("Stop it first with streamsink.stop().")));
}

static void
run_ingest(const char *name, int64 max_batches, SsCounters *total)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink ingest", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(cxt);
	SsRun		 *run = ss_run_load_by_name(name, cxt);
	int32		  id = run->pipeline->id;

	ss_identity_check(run->pipeline);
	if (!ss_catalog_lock_session(run->pipeline->id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("pipeline \"%s\" is being drained or changed by another session", run->pipeline->name)));
	PG_TRY();
	{
		SsPump *pump;

		/* What is true now stays true: start() needs the lock that we hold. */
		ss_run_free(run);
		run = ss_run_load(id, cxt);
		if (!run)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("pipeline \"%s\" does not exist", name),
					 errdetail("It was dropped meanwhile.")));
		refuse_if_running(run->pipeline);
		ss_breaker_reset();
		pump = ss_pump_open(run, 0, 1, true, NULL, cxt);
		pump->commit = SPI_commit;
		drain(pump, max_batches, total);
		ss_pump_close(pump);
		ss_run_free(run);
	}
	PG_FINALLY();
	{
		ss_catalog_unlock_session(id);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(cxt);
}

SS_SQL_FUNCTION(streamsink_ingest);

/* ingest(name, max_batches, INOUT batches, INOUT written, INOUT refused) */
Datum
streamsink_ingest(PG_FUNCTION_ARGS)
{
	bool atomic = !fcinfo->context || !IsA(fcinfo->context, CallContext) ||
				  castNode(CallContext, fcinfo->context)->atomic;
	int64	   max_batches = PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_INT32(1);
	SsCounters total = {0};
	TupleDesc  desc;
	Datum	   values[3];
	bool	   nulls[3] = {0};
	char	  *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of a pipeline must not be null")));
	if (max_batches < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"max_batches\" must not be negative")));
	if (atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("streamsink.ingest cannot run inside a transaction block"),
				 errdetail("It commits after every batch.")));
	ss_shmem_require();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	run_ingest(name, max_batches, &total);
	SPI_finish();

	values[0] = Int64GetDatum((int64) total.batches);
	values[1] = Int64GetDatum((int64) total.written);
	values[2] = Int64GetDatum((int64) total.refused);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
