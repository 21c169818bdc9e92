/*
 * ss_worker.c
 *	  A worker's life: it attaches to its slot, connects as the pipeline's
 *	  owner, runs the loop, and after an error decides how long to wait.
 *
 * NOTES
 *	  The protocol is described at the head of ss_loop.c.
 *	  The process connects as the owner at session level, so that triggers that
 *	  fire at commit run as the owner too.
 *	  It leaves with exit code 0 whenever the launcher should decide anew: the
 *	  pipeline is stopped or gone, has another owner or fewer workers.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <ctype.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "common/hashfn.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_counter.h"
#include "ss_error.h"
#include "ss_guc.h"
#include "ss_identity.h"
#include "ss_outbox.h"
#include "ss_worker.h"

#define KEEP_BYTES	 (16 * 1024 * 1024) /* free memory a worker keeps for its next batch */
#define MAX_CAUTION	 8					/* replies in a row that may be too large before that is an error like others */
#define QUIET_LOG_MS 600000				/* a steady failure is logged again after this time */
#define AGAIN_LOG_MS 30000				/* ... and one that comes again after a success */

static MemoryContext worker_context;
static int			 share;

/* Where an error happened, for the log. */
static void
add_context(void *arg)
{
	errcontext("streamsink pipeline \"%s\", worker %d", ((SsPipeline *) arg)->name, share);
}

/* The state of a process after an error outside of any transaction handling of others. */
static void
clean_up_after_error(SsPump **pump)
{
	HOLD_INTERRUPTS();
	pgstat_report_wait_end();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	ss_attempt_reset();
	AbortOutOfAnyTransaction();
	ss_loop_reset();
	if (*pump)
		ss_pump_close(*pump);
	*pump = NULL;
	pgstat_report_activity(STATE_IDLE, NULL);
	RESUME_INTERRUPTS();
}

static const char *
waiting_reason(const ErrorData *error)
{
	if (error->detail)
		return psprintf("%s: %s", error->message, error->detail);
	return error->message;
}

/* Hash of a message without its digits: the same failure may name another entry each time. */
static uint32
hash_message(const char *message)
{
	uint32 hash = 0;

	for (int i = 0; message != NULL && message[i] != '\0' && i < 1000; i++)
		if (!isdigit((unsigned char) message[i]))
			hash = hash_combine(hash, (unsigned char) message[i]);
	return hash;
}

/* Log a failure unless it is the same as before and the wait did not grow. */
static void
log_failure(SsTrouble *trouble, const SsPipeline *pipeline, ErrorData *error, int64 wait)
{
	TimestampTz now = GetCurrentTimestamp();
	uint32		text = hash_message(error->message);

	if (trouble->sqlstate == error->sqlerrcode && trouble->logged_text == text && wait <= trouble->logged_wait * 3 / 2 &&
		!TimestampDifferenceExceeds(trouble->logged_at, now, trouble->failures > 1 ? QUIET_LOG_MS : AGAIN_LOG_MS))
		return;
	trouble->logged_at = now;
	trouble->logged_wait = wait;
	trouble->logged_text = text;
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("pipeline \"%s\" waits after an error: %s", pipeline ? pipeline->name : "?", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0,
			 error->context ? errcontext("%s", error->context) : 0,
			 errcontext("streamsink worker %d, failure %d in a row, next try in " INT64_FORMAT " ms",
						share, trouble->failures, wait)));
}

/* Wait until the next try, or until the pipeline is changed. */
static void
wait_until(const SsPipeline *pipeline, TimestampTz until)
{
	for (;;)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		CHECK_FOR_INTERRUPTS();
		if (left <= 0)
			return;
		if (pipeline && ss_loop_is_changed(pipeline))
			return;
		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, Min(left, 1000),
					  PG_WAIT_EXTENSION) &
			WL_LATCH_SET)
			ResetLatch(MyLatch);
	}
}

/* The same; an error, or a cancel, does not end it: then it waits without looking at the pipeline. */
static void
wait_for_next_try(const SsPipeline *pipeline, int64 wait)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait);
	const SsPipeline *volatile looked_at = pipeline;
	volatile bool done = false;

	while (!done)
	{
		PG_TRY();
		{
			ss_attempt_withdraw();
			wait_until(looked_at, until);
			done = true;
		}
		PG_CATCH();
		{
			SsPump *none = NULL;

			MemoryContextSwitchTo(worker_context);
			EmitErrorReport();
			FlushErrorState();
			clean_up_after_error(&none);
			MemoryContextSwitchTo(worker_context);
			looked_at = NULL;
		}
		PG_END_TRY();
	}
}

/* Load the definition and pin the session to it; NULL if this worker has nothing to do any more. */
static SsRun *
load_pipeline(const SsWorkerArgs *args)
{
	SsRun *run;
	bool   wanted;

	StartTransactionCommand();
	run = ss_run_load(args->pipeline_id, worker_context);
	wanted = run && run->pipeline->enabled && run->pipeline->owner_oid == args->owner &&
			 share < run->pipeline->workers;
	if (wanted)
		ss_identity_pin(run->pipeline);
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker_context);
	if (wanted)
		return run;
	if (run)
		ss_run_free(run);
	return NULL;
}

/* What control calls queued for Redis about this pipeline's groups comes first; false if the pipeline was changed meanwhile. */
static bool
wait_for_outbox(const SsPipeline *pipeline)
{
	for (bool said = false;; said = true)
	{
		bool held;

		StartTransactionCommand();
		held = ss_outbox_holds_up(pipeline->name, pipeline->server, pipeline->owner);
		CommitTransactionCommand();
		MemoryContextSwitchTo(worker_context);
		if (!held)
			return true;
		if (!said)
			ss_shmem_set_state(SS_STATE_STARTING, "commands about its consumer groups are carried out first",
							   "See streamsink.outbox.", 0);
		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 50, PG_WAIT_EXTENSION) & WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ss_loop_is_changed(pipeline))
			return false;
	}
}

/* Count the failure where it lasts; what made the batch fail may keep that from being written, so another time will do. */
static void
save_errors(const SsPipeline *pipeline)
{
	PG_TRY();
	{
		ss_counter_save_errors(pipeline);
	}
	PG_CATCH();
	{
		SsPump *none = NULL;

		MemoryContextSwitchTo(worker_context);
		FlushErrorState();
		clean_up_after_error(&none);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(worker_context);
}

/*
 * Run the pipeline until it ends or fails.  False: leave the process.
 */
static bool
run_once(const SsWorkerArgs *args, SsTrouble *trouble)
{
	SsRun *volatile run = NULL;
	SsPump *volatile pump = NULL;
	volatile bool		  go_on = true;
	volatile bool		  connecting = false;
	volatile int64		  wait = 0;
	ErrorContextCallback  callback;
	ErrorContextCallback *saved_callbacks = error_context_stack;

	PG_TRY();
	{
		run = load_pipeline(args);
		if (!run)
			go_on = false;
		else if (wait_for_outbox(run->pipeline))
		{
			SsLoopEnd end;

			callback.callback = add_context;
			callback.arg = run->pipeline;
			callback.previous = error_context_stack;
			error_context_stack = &callback;

			/* Settings were applied in a transaction; they hold until the next load. */
			/* Who waits for Redis still waits while he tries to connect, which may take long. */
			if (MySlot->state != SS_STATE_WAITING)
				ss_shmem_set_state(SS_STATE_STARTING, NULL, NULL, 0);
			connecting = true;
			pump = ss_pump_open(run, share, run->pipeline->workers, false, trouble, worker_context);
			connecting = false;
			ss_shmem_set_redis(SS_REDIS_CONNECTED);
			if (trouble->failures > 0 && ERRCODE_TO_CATEGORY(trouble->sqlstate) == ERRCODE_CONNECTION_EXCEPTION)
				ereport(LOG,
						(errmsg("pipeline \"%s\" is connected to Redis again", run->pipeline->name)));
			end = ss_loop_run(pump);
			ss_pump_close(pump);
			pump = NULL;
			if (end == SS_LOOP_STOP)
				go_on = false;
		}
	}
	PG_CATCH();
	{
		ErrorData *error;
		SsDecision decision;
		SsPump	  *broken = pump;
		bool	   again = false; /* at once */

		error_context_stack = saved_callbacks;
		MemoryContextSwitchTo(worker_context);
		error = CopyErrorData();
		FlushErrorState();
		if (connecting || (!MySlot->in_batch && ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION))
			ss_shmem_set_redis(SS_REDIS_AWAY);
		if (pump && MySlot->in_batch)
			again = ss_trouble_failed(trouble, pump->batch, error->sqlerrcode, ss_error_deadline_passed());
		if (ss_error_deadline_passed())
			error->message = pstrdup("the batch took longer than streamsink.batch_timeout");
		clean_up_after_error(&broken);
		MemoryContextSwitchTo(worker_context);
		pump = NULL;

		decision = ss_error_decide(error->sqlerrcode, true);
		if (MySlot->settled_once || trouble->sqlstate != error->sqlerrcode)
			trouble->failures = 0;
		if (MySlot->settled_once)
			trouble->caution = 0;
		MySlot->settled_once = false;
		trouble->failures++;
		wait = ss_trouble_wait(run ? run->pipeline : NULL, decision, trouble->failures);

		/* A reply that was too large is read again in smaller parts at once. */
		if (error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED && trouble->caution++ < MAX_CAUTION)
			again = true;
		if (again)
			wait = 1;
		log_failure(trouble, run ? run->pipeline : NULL, error, wait);
		trouble->sqlstate = error->sqlerrcode;
		ss_shmem_note_error(unpack_sql_state(error->sqlerrcode), error->message);
		ss_counter_note_error();
		if (run)
			save_errors(run->pipeline);
		ss_shmem_set_state(SS_STATE_WAITING, waiting_reason(error),
						   error->hint ? error->hint : ss_error_hint(error),
						   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait));
		FreeErrorData(error);
	}
	PG_END_TRY();
	error_context_stack = saved_callbacks;
	if (wait > 0)
		wait_for_next_try(run ? run->pipeline : NULL, wait);

	if (run)
		ss_run_free(run);
	MemoryContextReset(worker_context);
	return go_on;
}

/*
 * Every batch needs the same few megabytes again.  glibc would give them back
 * to the kernel after each, which costs a page fault for every 4 kB of the next.
 */
static void
keep_memory(void)
{
#ifdef __GLIBC__
	mallopt(M_MMAP_THRESHOLD, 4 * 1024 * 1024);
	mallopt(M_TRIM_THRESHOLD, KEEP_BYTES);
#endif
}

void
streamsink_worker_main(Datum main_arg)
{
	SsWorkerArgs args;
	SsTrouble	 trouble = {0};
	uint32		 flags = 0;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();

	if (!ss_shmem_attach(DatumGetInt32(main_arg), args.slot_generation))
		proc_exit(0);
	share = MySlot->share;
#ifdef SS_HAVE_ROLELOGIN_BYPASS
	flags |= BGWORKER_BYPASS_ROLELOGINCHECK;
#endif
	BackgroundWorkerInitializeConnectionByOid(args.database, args.owner, flags);
	ss_loop_init();
	keep_memory();
	worker_context = AllocSetContextCreate(TopMemoryContext, "streamsink worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(worker_context);
	/* pg_stat_activity has it from there, and so has the log */
	SetConfigOption("application_name", MyBgworkerEntry->bgw_name, PGC_USERSET, PGC_S_OVERRIDE);
	ereport(LOG, (errmsg("%s started", MyBgworkerEntry->bgw_name)));

	while (run_once(&args, &trouble))
	{
		if (MySlot->settled_once)
			trouble.caution = 0;
	}
	ereport(LOG, (errmsg("%s stopped", MyBgworkerEntry->bgw_name)));
	proc_exit(0);
}
