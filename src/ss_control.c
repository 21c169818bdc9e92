/*
 * ss_control.c
 *	  start, stop, restart, stop_all, wait_until; and how other calls begin that
 *	  take a pipeline for themselves.
 *
 * NOTES
 *	  Control is transactional: the catalog says what should run, the launcher
 *	  learns of it at commit.  What stop promises when it returns, that no batch
 *	  is in flight and none can commit before the caller does, is the fence's
 *	  work (ss_shmem_fence).
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_control.h"
#include "ss_define.h"
#include "ss_identity.h"
#include "ss_shmem.h"

/* How long running batches may go on before they are cancelled, where the caller cannot say, in ms. */
#define FENCE_TIMEOUT 2000

/*
 * Longest sleeps of wait_until, in ms: a broadcast can be missed while the
 * catalog is read, and a pipeline that no scan has reported yet has none.
 */
#define WAIT_STEP		  100
#define WAIT_STEP_UNKNOWN 10

SS_SQL_FUNCTION(streamsink_start);
SS_SQL_FUNCTION(streamsink_stop);
SS_SQL_FUNCTION(streamsink_restart);
SS_SQL_FUNCTION(streamsink_stop_all);
SS_SQL_FUNCTION(streamsink_wait_until);

static void
check_writable(const char *function)
{
	PreventCommandDuringRecovery(function);
	PreventCommandIfReadOnly(function);
}

static char *
get_text(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", name)));
	return text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

static int64
get_timeout(FunctionCallInfo fcinfo, int arg)
{
	return ss_define_milliseconds("timeout",
								  PG_ARGISNULL(arg) ? NULL : PG_GETARG_INTERVAL_P(arg),
								  PG_ARGISNULL(arg));
}

/* The pipeline, if the caller may control it. */
static SsPipeline *
load_checked(const char *name)
{
	SsPipeline *pipeline = ss_catalog_load(name, false);

	ss_identity_check(pipeline);
	return pipeline;
}

/* What was loaded again behind a lock that was waited for: it may be gone, or another's now. */
static void
check_reloaded(const SsPipeline *pipeline, const SsPipeline *current)
{
	if (current == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" does not exist", pipeline->name),
				 errdetail("It was dropped meanwhile.")));
	ss_identity_check(current);
}

static SsPipeline *
reload_checked(const SsPipeline *pipeline)
{
	SsPipeline *current = ss_catalog_load_by_id(pipeline->id);

	check_reloaded(pipeline, current);
	return current;
}

SsRun *
ss_control_open(FunctionCallInfo fcinfo, const char *function, MemoryContext parent)
{
	SsPipeline *pipeline;
	SsRun	   *run;

	ss_shmem_require();
	check_writable(function);
	pipeline = load_checked(get_text(fcinfo, 0, "name"));
	ss_shmem_fence(pipeline->id, FENCE_TIMEOUT);
	run = ss_run_load(pipeline->id, parent);
	check_reloaded(pipeline, run ? run->pipeline : NULL);
	return run;
}

static void
check_owner(const SsPipeline *pipeline)
{
	if (!OidIsValid(pipeline->owner_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("owner \"%s\" of pipeline \"%s\" does not exist",
						pipeline->owner, pipeline->name),
				 errhint("Set new_owner with streamsink.alter_pipeline.")));
	ss_define_check_owner(pipeline->owner_oid);
}

Datum
streamsink_start(PG_FUNCTION_ARGS)
{
	SsPipeline *pipeline;

	ss_shmem_require();
	check_writable("start()");
	pipeline = load_checked(get_text(fcinfo, 0, "name"));

	/* waits for other control calls, not for batches */
	ss_catalog_lock(pipeline->id, ShareUpdateExclusiveLock);
	pipeline = reload_checked(pipeline);
	check_owner(pipeline);
	if (pipeline->enabled && pipeline->failure == NULL)
		ereport(NOTICE,
				(errmsg("pipeline \"%s\" is started already", pipeline->name)));
	else
		ss_catalog_set_enabled(pipeline->id, true, NULL);
	PG_RETURN_VOID();
}

/* Stop one pipeline; returns whether it was enabled or failed before. */
static bool
stop_pipeline(const SsPipeline *pipeline, int64 timeout_ms)
{
	/* also if it is stopped: batches of its last moments, and ingest, end here */
	ss_shmem_fence(pipeline->id, (long) Min(timeout_ms, PG_INT32_MAX));
	pipeline = reload_checked(pipeline);
	if (!pipeline->enabled && pipeline->failure == NULL)
		return false;
	ss_catalog_set_enabled(pipeline->id, false, NULL);
	return true;
}

Datum
streamsink_stop(PG_FUNCTION_ARGS)
{
	SsPipeline *pipeline;
	int64		timeout_ms = get_timeout(fcinfo, 1);

	check_writable("stop()");
	pipeline = load_checked(get_text(fcinfo, 0, "name"));
	if (!stop_pipeline(pipeline, timeout_ms))
		ereport(NOTICE,
				(errmsg("pipeline \"%s\" is stopped already", pipeline->name)));
	PG_RETURN_VOID();
}

Datum
streamsink_restart(PG_FUNCTION_ARGS)
{
	SsPipeline *pipeline;

	ss_shmem_require();
	check_writable("restart()");
	pipeline = load_checked(get_text(fcinfo, 0, "name"));
	ss_shmem_fence(pipeline->id, FENCE_TIMEOUT);
	pipeline = reload_checked(pipeline);
	check_owner(pipeline);
	ss_catalog_set_enabled(pipeline->id, true, NULL);
	PG_RETURN_VOID();
}

Datum
streamsink_stop_all(PG_FUNCTION_ARGS)
{
	ListCell *lc;

	check_writable("stop_all()");
	/* in the order of ids, as every caller does: no deadlock between two */
	foreach(lc, ss_catalog_list())
	{
		SsPipeline *pipeline = (SsPipeline *) lfirst(lc);

		/* one that failed keeps its reason */
		if (!pipeline->enabled)
			continue;
		if (OidIsValid(pipeline->owner_oid) ?
				!has_privs_of_role(GetUserId(), pipeline->owner_oid) :
				!superuser())
			continue;
		(void) stop_pipeline(pipeline, FENCE_TIMEOUT);
	}
	PG_RETURN_VOID();
}

static SsState
read_state(const char *word)
{
	StringInfoData valid;

	for (int state = SS_STATE_STOPPED; state <= SS_STATE_FAILED; state++)
	{
		if (strcmp(ss_shmem_state_name(state), word) == 0)
			return (SsState) state;
	}
	initStringInfo(&valid);
	for (int state = SS_STATE_STOPPED; state <= SS_STATE_FAILED; state++)
		appendStringInfo(&valid, "%s%s", state > SS_STATE_STOPPED ? ", " : "",
						 ss_shmem_state_name(state));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a pipeline has no state \"%s\"", word),
			 errhint("Valid states are: %s.", valid.data)));
	return SS_STATE_STOPPED; /* keep the compiler quiet */
}

/* Sleep until the pipeline's state may have changed, at most ms. */
static void
wait_for_change(SsPipelineShared *shared, long ms)
{
	static uint32 wait_event = 0;

	if (shared != NULL)
		(void) ConditionVariableTimedSleep(&shared->state_changed, ms,
										   ss_compat_wait_event(wait_event, "StreamsinkWaitUntil"));
	else
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
						 ss_compat_wait_event(wait_event, "StreamsinkWaitUntil"));
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
}

Datum
streamsink_wait_until(PG_FUNCTION_ARGS)
{
	char		 *name;
	SsState		  wanted;
	int64		  timeout_ms;
	TimestampTz	  started = GetCurrentTimestamp();
	MemoryContext cxt;
	MemoryContext caller;
	SsPipeline	 *pipeline;
	bool		  reached;

	ss_shmem_require();
	name = get_text(fcinfo, 0, "name");
	wanted = read_state(get_text(fcinfo, 1, "state"));
	timeout_ms = get_timeout(fcinfo, 2);

	pipeline = load_checked(name);
	if (ss_shmem_has_uncommitted_change(pipeline->id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" was changed in this transaction", name),
				 errdetail("The change takes effect at commit, so waiting for it here would never end."),
				 errhint("Commit first, then call streamsink.wait_until.")));

	cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink wait_until", ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(cxt);
	for (;;)
	{
		SsPipelineShared *shared;
		int64			  left;

		MemoryContextReset(cxt);
		pipeline = load_checked(name);
		shared = ss_shmem_pipeline(MyDatabaseId, pipeline->id, false);
		if (shared != NULL)
			ConditionVariablePrepareToSleep(&shared->state_changed);
		reached = ss_shmem_state(MyDatabaseId, pipeline->id, pipeline->enabled,
								 pipeline->failure != NULL, NULL, NULL) == wanted;
		left = timeout_ms - TimestampDifferenceMilliseconds(started, GetCurrentTimestamp());
		if (reached || left <= 0)
			break;
		wait_for_change(shared, (long) Min(left, shared != NULL ? WAIT_STEP : WAIT_STEP_UNKNOWN));
	}
	ConditionVariableCancelSleep();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(cxt);
	PG_RETURN_BOOL(reached);
}
