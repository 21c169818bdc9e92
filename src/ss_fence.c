/*
 * ss_fence.c
 *	  The fence: a control call takes its pipeline for itself, until its
 *	  transaction ends.
 *
 * NOTES
 *	  The lock on the pipeline is what counts: every batch takes it too.  To
 *	  yield is only a courtesy that lets the caller have it before the next
 *	  batch, and lets no worker sit in a transaction meanwhile.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_catalog.h"
#include "ss_shmem.h"

#define RETRY_MS  50  /* between tries */
#define CANCEL_MS 500 /* between cancels of a batch that goes on */

static void
stop_yielding(int code, Datum arg)
{
	ss_shmem_unyield((SsPipelineShared *) DatumGetPointer(arg));
}

static void
wait_for_batches(SsPipelineShared *entry, int32 pipeline_id, long timeout_ms)
{
	TimestampTz cancel_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Max(timeout_ms, 0));

	while (!ss_catalog_try_lock(pipeline_id, AccessExclusiveLock))
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		cancel = now >= cancel_at;

		CHECK_FOR_INTERRUPTS();

		/*
		 * No worker's batch is running, so a session or another control call
		 * has the lock: wait in the queue, where lock_timeout and the
		 * deadlock check work.
		 */
		if (ss_shmem_busy(entry, cancel) == 0)
		{
			ss_catalog_lock(pipeline_id, AccessExclusiveLock);
			break;
		}
		if (cancel)
			cancel_at = TimestampTzPlusMilliseconds(now, CANCEL_MS);
		ConditionVariableTimedSleep(&entry->batch_done, RETRY_MS, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

void
ss_shmem_fence(int32 pipeline_id, long timeout_ms)
{
	SsPipelineShared *entry = ss_shmem ? ss_shmem_yield(pipeline_id) : NULL;

	/* without an entry it has no workers either */
	if (entry == NULL)
	{
		ss_catalog_lock(pipeline_id, AccessExclusiveLock);
		return;
	}

	PG_ENSURE_ERROR_CLEANUP(stop_yielding, PointerGetDatum(entry));
	{
		wait_for_batches(entry, pipeline_id, timeout_ms);
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_yielding, PointerGetDatum(entry));
	ss_shmem_unyield(entry);
}
