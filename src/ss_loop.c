/*
 * ss_loop.c
 *	  The loop of a worker, and the exactly-once protocol.
 *
 * One batch goes through these steps.  After each a crash may come (of the
 * worker, the server, Redis or the network between them), and this is why
 * nothing is lost and nothing doubled:
 *
 *	1  XREADGROUP: Redis moves the entries to our consumer's pending list.
 *	   Crash: they are pending with us and are read first after the next connect.
 *	2  Publish the id ranges, where several workers share a stream.  Nobody
 *	   else holds these ids in a transaction from here on.
 *	3  Begin; take the fence; compare the generation.  A control call that
 *	   returned has the fence, so that this batch cannot commit behind its back.
 *	4  Drop what the ledger has.  Whatever way an entry came (new, pending,
 *	   claimed, handed out again by a Redis that forgot), this decides.
 *	5  Rows, dead letters, one ledger row.
 *	6  Commit.  Crash before: nothing of the batch exists, the entries are
 *	   pending.  Crash after: the rows exist and so does the ledger row; the
 *	   entries are pending, come again and are dropped by step 4.
 *	7  XACK, once the commit is durable.  Crash before: as after 6.  XACK is
 *	   idempotent, so that repeating it is harmless.
 *
 * The next read is sent between 1 and 2, so that Redis and PostgreSQL work at
 * the same time; its reply is not touched before step 7 is done.
 * No transaction or snapshot is open while the worker waits for Redis.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_breaker.h"
#include "ss_error.h"
#include "ss_evolve.h"
#include "ss_fault.h"
#include "ss_guc.h"
#include "ss_ledger.h"
#include "ss_retention.h"
#include "ss_stats.h"
#include "ss_stop.h"
#include "ss_worker.h"

#define CHECK_MS		 1000	/* the catalog is looked at this often without being told */
#define FOLD_IDLE_MS	 10000	/* an unfolded log is folded after this time at the latest */
#define FOLD_STEP		 500	/* intervals folded at a time */
#define FOLD_PAUSE		 5		/* times as long as a step took there is none */
#define FOLD_BEHIND		 16		/* times fold_rows: then all is folded at once */
#define FOLD_BUSY_MS	 100	/* somebody else folds: no look before */
#define MAX_WAITING_ACKS 100000 /* entries whose acknowledgement may wait for a flush */

static TimeoutId   deadline_timeout;
static TimestampTz checked_at = 0;
static uint32	   changes_seen = 0;

/* The batch takes too long: cancel it as a statement time-out would. */
static void
handle_deadline(void)
{
	ss_error_set_deadline(true);
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

static void
arm_deadline(void)
{
	ss_error_set_deadline(false);
	if (ss_guc_batch_timeout > 0)
		enable_timeout_every(deadline_timeout,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ss_guc_batch_timeout),
							 ss_guc_batch_timeout);
}

void
ss_loop_init(void)
{
	deadline_timeout = RegisterTimeout(USER_TIMEOUT, handle_deadline);
	ss_error_on_next_try(arm_deadline);
}

/* A deadline that struck in the last moment must not cancel what follows. */
static void
disarm_deadline(void)
{
	disable_timeout(deadline_timeout, false);
	if (ss_error_deadline_passed())
	{
		QueryCancelPending = false;
		ss_error_set_deadline(false);
	}
}

void
ss_loop_reset(void)
{
	disarm_deadline();
	QueryCancelPending = false;
	ss_shmem_end_batch();
	(void) ss_shmem_hold_share(-1);
	checked_at = 0;
}

bool
ss_loop_is_changed(const SsPipeline *pipeline)
{
	MemoryContext saved = CurrentMemoryContext;
	TimestampTz	  now = GetCurrentTimestamp();
	uint32		  changes = ss_shmem_changes();
	bool		  changed;

	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (changes == changes_seen && !TimestampDifferenceExceeds(checked_at, now, CHECK_MS))
		return false;
	StartTransactionCommand();
	changed = !ss_catalog_is_current(pipeline);
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	pgstat_report_stat(false);
	changes_seen = changes;
	checked_at = now;
	return changed;
}

/* The target lacks columns for fields of the batch. */
static void
add_columns(SsRun *run)
{
	MemoryContext saved = CurrentMemoryContext;

	StartTransactionCommand();
	arm_deadline();
	ss_evolve_alter(run);
	disarm_deadline();
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	ss_evolve_report(run);
	SS_FAULT("after-evolve");
}

/* Steps 2 to 7.  False if the loop must end, with the reason in *end.  *letters counts dead letters. */
static bool
settle(SsPump *pump, SsLoopEnd *end, int64 *letters)
{
	SsPipeline	  *pipeline = pump->run->pipeline;
	SsBatch		  *batch = pump->batch;
	bool		   shared = pump->run->tmpl->single && pump->nshares > 1;
	SsCounters	   counters;
	SsSettleResult result;
	MemoryContext  turn = CurrentMemoryContext;
	instr_time	   started;
	instr_time	   committed;

	SS_FAULT("after-read");
	if (!ss_shmem_begin_batch(pipeline->generation, batch->nentries, (int64) batch->bytes))
	{
		*end = SS_LOOP_CHANGED;
		return false;
	}
	if (shared)
		ss_settle_publish(batch);
	SS_FAULT("after-publish");
	ss_attempt_begin(pump->attempts, batch);
	ss_trouble_prepare(pump->trouble, pipeline, batch);

	pgstat_report_activity(STATE_RUNNING, "settling a batch");
	SetCurrentStatementStartTimestamp();
	for (;;)
	{
		StartTransactionCommand();
		arm_deadline();
		result = ss_settle_batch(pump->run, batch, shared, &counters);
		disarm_deadline();
		if (result != SS_SETTLE_EVOLVE)
			break;
		CommitTransactionCommand();
		MemoryContextSwitchTo(turn);
		add_columns(pump->run);
	}
	if (result != SS_SETTLE_DONE)
	{
		ss_attempt_reset();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(turn);
		ss_shmem_end_batch();
		ss_attempt_withdraw();
		*end = SS_LOOP_CHANGED;
		if (result == SS_SETTLE_STOP || result == SS_SETTLE_TRIPPED)
		{
			ss_stop_pipeline(pipeline, batch, result, pump->cxt);
			*end = SS_LOOP_STOP;
		}
		return false;
	}
	ss_attempt_settle(pump->attempts, batch);
	INSTR_TIME_SET_CURRENT(started);
	CommitTransactionCommand();
	MemoryContextSwitchTo(turn);
	INSTR_TIME_SET_CURRENT(committed);
	SS_FAULT("after-commit");
	ss_settle_acks_add(pump->acks, batch, XactLastCommitEnd);
	ss_settle_advance(batch);
	ss_attempt_settled(pump->attempts);
	ss_breaker_settled(pipeline);
	ss_trouble_settled(pump->trouble, pipeline, batch);
	ss_shmem_end_batch();

	INSTR_TIME_SUBTRACT(committed, started);
	ss_stats_times(pump->wait_us, 0, 0, INSTR_TIME_GET_MICROSEC(committed));
	pump->wait_us = 0;
	ss_settle_count(pipeline, batch, &counters);
	*letters += batch->nrefusals;
	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(false);
	ss_batch_reset(batch);
	batch->arena.limit = pump->reply_limit; /* what was too large has come through */

	ss_pump_acknowledge(pump, ss_settle_acks_waiting(pump->acks) > MAX_WAITING_ACKS);
	SS_FAULT("after-ack");
	return true;
}

/* When the ledger's log is folded next. */
typedef struct FoldPace
{
	int			log_rows; /* written by us since the log was last seen empty; others write too */
	bool		draining; /* a step left some of it */
	TimestampTz emptied_at;
	TimestampTz next_at; /* not before */
} FoldPace;

/*
 * Fold the ledger's log now and then, until it is empty; another worker of the
 * pipeline may be at it.  In steps, with pauses between them: thousands of streams
 * make it long, and batches must not wait for all of it, unless it grows faster
 * than that.  An idle worker, which looks here seldom, takes what it can.
 */
static void
fold_if_due(const SsPump *pump, FoldPace *pace)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	bool			  idle = pump->batch->nentries == 0 && ss_pump_is_quiet(pump);
	TimestampTz		  now = GetCurrentTimestamp();
	TimestampTz		  end;
	int				  most = ss_guc_fold_rows * FOLD_BEHIND;
	bool			  behind = pace->log_rows >= most;
	bool			  all;
	int				  folded;

	if (now < pace->next_at ||
		(!pace->draining && pace->log_rows < ss_guc_fold_rows &&
		 (pace->log_rows == 0 || !TimestampDifferenceExceeds(pace->emptied_at, now, FOLD_IDLE_MS))))
		return;
	StartTransactionCommand();
	SS_FAULT("before-fold");
	folded = ss_ledger_fold(pipeline->id, most, behind || idle ? 0 : FOLD_STEP, &all);
	SS_FAULT("after-fold");
	CommitTransactionCommand();
	pgstat_report_stat(false);

	end = GetCurrentTimestamp();
	if (folded < 0)
		pace->next_at = TimestampTzPlusMilliseconds(end, FOLD_BUSY_MS);
	else if (all)
	{
		pace->log_rows = 0;
		pace->draining = false;
		pace->emptied_at = end;
		pace->next_at = 0;
	}
	else
	{
		/* once behind, it is until the log is empty */
		pace->draining = true;
		if (!behind)
		{
			pace->log_rows = Max(pace->log_rows - folded, 0);
			pace->next_at = end + (end - now) * FOLD_PAUSE;
		}
	}
}

/* The batch is complete: by number, by bytes, or because it may not wait longer. */
static bool
is_ready(const SsPump *pump)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	const SsBatch	 *batch = pump->batch;

	if (batch->nentries == 0)
		return false;
	return batch->nentries >= ss_pump_batch_size(pump) ||
		   batch->bytes >= pipeline->batch_bytes ||
		   batch->arena.used >= pipeline->batch_bytes ||
		   pipeline->linger_ms == 0 ||
		   GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(batch->started_at, pipeline->linger_ms);
}

/* How long the next read may wait in Redis: until the batch must go, or as long as is usual. */
static int
longest_block(const SsPump *pump)
{
	TimestampTz leave;

	if (pump->batch->nentries == 0)
		return ss_guc_block_time;
	leave = TimestampTzPlusMilliseconds(pump->batch->started_at, pump->run->pipeline->linger_ms);
	return (int) Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), leave));
}

/* Say in status whether there is anything to read from. */
static void
report_state(const SsPump *pump)
{
	const SsStream *aside = NULL;
	bool			live = false;

	for (int i = 0; i < pump->nstreams; i++)
	{
		if (ss_rotation_is_live(pump->streams[i]))
			live = true;
		else if (pump->streams[i]->state != SS_STREAM_OK && pump->streams[i]->state != SS_STREAM_MISSING)
			aside = pump->streams[i];
		else if (pump->run->tmpl->single && pump->streams[i]->state == SS_STREAM_MISSING)
			aside = pump->streams[i];
	}
	if (live || !aside)
		ss_shmem_set_state(SS_STATE_RUNNING, NULL, NULL, 0);
	else
		ss_shmem_set_state(SS_STATE_WAITING,
						   psprintf("stream \"%s\" is not read: %s", aside->name, aside->reason),
						   "See streamsink.streams.", aside->probe_at);
	ss_stats_worker(pump->consumer, pump->nstreams, MemoryContextMemAllocated(TopMemoryContext, true));
}

SsLoopEnd
ss_loop_run(SsPump *pump)
{
	SsPipeline	 *pipeline = pump->run->pipeline;
	SsLoopEnd	  end = SS_LOOP_CHANGED;
	FoldPace	  pace = {.emptied_at = GetCurrentTimestamp()};
	SsRetention	  retention = {0};
	MemoryContext turn = AllocSetContextCreate(pump->cxt, "streamsink turn", ALLOCSET_DEFAULT_SIZES);

	/* a crash may have left a long log */
	pace.log_rows = ss_guc_fold_rows * FOLD_BEHIND;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(turn);
		MemoryContextReset(turn);
		if (ss_loop_is_changed(pipeline))
			break;

		if (!pump->reading && pump->batch->nentries == 0 && ss_pump_task_due(pump))
		{
			ss_pump_tasks(pump);
			report_state(pump);
		}
		fold_if_due(pump, &pace);
		if (pump->share == 0)
			ss_retention_turn(pipeline, &retention, pump->batch->nentries == 0 && ss_pump_is_quiet(pump));
		MemoryContextSwitchTo(turn);

		if (!pump->reading)
		{
			bool idle = pump->batch->nentries == 0 && ss_pump_is_quiet(pump);

			/* Before a wait: nobody would wake us later for acknowledgements that wait for a flush. */
			if (idle)
				ss_pump_acknowledge(pump, true);
			if (!ss_pump_send_read(pump, longest_block(pump)) && pump->batch->nentries == 0)
			{
				if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 100,
							  PG_WAIT_EXTENSION) &
					WL_LATCH_SET)
					ResetLatch(MyLatch);
				continue;
			}
		}

		/* A batch that lingers goes at once when there is nothing left to read from. */
		if (pump->reading && (!ss_pump_receive(pump, CHECK_MS) || !is_ready(pump)))
			continue;

		/* Redis may prepare the next reply while this batch is written. */
		if (!ss_pump_task_due(pump))
			ss_pump_read_ahead(pump);
		if (!settle(pump, &end, &retention.added))
			break;
		pace.log_rows++;
	}

	MemoryContextSwitchTo(turn);
	SS_FAULT("before-leave");
	ss_pump_leave(pump);
	return end;
}
