/*
 * ss_shmem_status.c
 *	  The state of a pipeline, derived from its entry and its slots.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/timestamp.h"

#include "ss_shmem.h"

const char *
ss_shmem_state_name(SsState state)
{
	switch (state)
	{
		case SS_STATE_STOPPED:
			return "stopped";
		case SS_STATE_STARTING:
			return "starting";
		case SS_STATE_RUNNING:
			return "running";
		case SS_STATE_WAITING:
			return "waiting";
		case SS_STATE_STOPPING:
			return "stopping";
		case SS_STATE_FAILED:
			return "failed";
	}
	return "unknown";
}

static void
set_waiting(SsStatus *status, const char *reason, const char *hint)
{
	status->state = SS_STATE_WAITING;
	strlcpy(status->reason, reason, SS_TEXT_MAX);
	strlcpy(status->hint, hint, SS_TEXT_MAX);
}

/* Why no worker runs at all, if the reason lies outside the pipeline.  Lock held. */
static void
explain_absence(Oid database, bool known, SsStatus *status)
{
	SsDatabase *db = ss_shmem_database_locked(database, false);
	int			i;

	status->state = SS_STATE_STARTING;
	if (ss_shmem->launcher_pid == 0)
		set_waiting(status, "the streamsink launcher is not running",
					"It starts when recovery has ended, and needs one of max_worker_processes. See the server log.");
	else if (db != NULL && db->state == SS_DATABASE_SCAN_WANTED && db->blocked)
		set_waiting(status, "no free background worker slot",
					"Increase max_worker_processes and restart the server.");
	else if (db != NULL && db->state == SS_DATABASE_SCAN_WANTED && db->failures > 1)
		set_waiting(status, "the pipelines of the database could not be read", "See the server log.");
	else if (!known && (db == NULL || db->state == SS_DATABASE_SCANNED))
	{
		for (i = 0; i < ss_shmem->max_pipelines; i++)
			if (!ss_shmem->pipelines[i].in_use)
				return;
		set_waiting(status, "all streamsink.max_pipelines are in use",
					"Increase streamsink.max_pipelines and restart the server.");
	}
}

/* The state of an enabled pipeline: the worst of what its slots and the launcher say.  Lock held. */
static void
derive_enabled(Oid database, const SsPipelineShared *entry, int running, int live,
			   const SsSlot *waiting, SsStatus *status)
{
	TimestampTz now = GetCurrentTimestamp();

	if (waiting != NULL)
	{
		status->state = SS_STATE_WAITING;
		status->state_since = waiting->state_since;
		status->next_retry_at = waiting->next_retry_at;
		strlcpy(status->reason, waiting->reason, SS_TEXT_MAX);
		strlcpy(status->hint, waiting->hint, SS_TEXT_MAX);
		return;
	}
	if (entry == NULL || !entry->reported || !entry->enabled)
	{
		explain_absence(database, entry != NULL && entry->reported, status);
		return;
	}
	status->state_since = entry->changed_at;
	if (entry->launch_reason[0] != '\0')
	{
		set_waiting(status, entry->launch_reason, entry->launch_hint);
		if (entry->next_start_at > now)
			status->next_retry_at = entry->next_start_at;
	}
	else if (live < entry->workers && entry->next_start_at > now)
	{
		set_waiting(status, "the worker ended unexpectedly and will be started again", "See the server log.");
		status->next_retry_at = entry->next_start_at;
	}
	else if (running >= Max(entry->workers, 1))
		status->state = SS_STATE_RUNNING;
	else if (live == 0)
		explain_absence(database, true, status);
	else
		status->state = SS_STATE_STARTING;
}

void
ss_shmem_status(Oid database, int32 pipeline_id, bool enabled, bool failed, SsStatus *status)
{
	SsPipelineShared *entry = NULL;
	SsSlot			 *waiting = NULL;
	TimestampTz		  running_since = 0;
	int				  running = 0;
	int				  live = 0;
	int				  i;

	memset(status, 0, sizeof(SsStatus));
	status->state = failed ? SS_STATE_FAILED : SS_STATE_STOPPED;
	if (ss_shmem == NULL)
	{
		if (enabled)
			set_waiting(status, "streamsink was not loaded at server start",
						"Add to postgresql.conf: shared_preload_libraries = 'streamsink', and restart the server.");
		return;
	}

	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	entry = ss_shmem_pipeline_locked(database, pipeline_id, false);
	if (entry != NULL)
		memcpy(&status->entry, entry, sizeof(SsPipelineShared));
	for (i = 0; entry != NULL && i < ss_shmem->max_slots; i++)
	{
		SsSlot *slot = &ss_shmem->slots[i];

		if (!slot->in_use || slot->kind != SS_SLOT_WORKER || &ss_shmem->pipelines[slot->pipeline] != entry)
			continue;
		live++;
		if (slot->pid != 0)
			status->workers++;
		if (slot->batch_started_at != 0 &&
			(status->batch_started_at == 0 || slot->batch_started_at < status->batch_started_at))
			status->batch_started_at = slot->batch_started_at;
		status->redis = Max(status->redis, slot->redis);
		if (slot->state == SS_STATE_RUNNING)
		{
			running++;
			running_since = Max(running_since, slot->state_since);
		}
		if (slot->state == SS_STATE_WAITING && (waiting == NULL || slot->share < waiting->share))
			waiting = slot;
	}

	status->running = running;
	if (enabled)
	{
		derive_enabled(database, entry, running, live, waiting, status);
		if (status->state == SS_STATE_RUNNING)
			status->state_since = running_since;
	}
	else
	{
		if (live > 0)
			status->state = SS_STATE_STOPPING;
		if (entry != NULL)
			status->state_since = entry->changed_at;
	}
	LWLockRelease(ss_shmem->lock);
}

SsState
ss_shmem_state(Oid database, int32 pipeline_id, bool enabled, bool failed, char *reason, char *hint)
{
	SsStatus status;

	ss_shmem_status(database, pipeline_id, enabled, failed, &status);
	if (reason != NULL)
		strlcpy(reason, status.reason, SS_TEXT_MAX);
	if (hint != NULL)
		strlcpy(hint, status.hint, SS_TEXT_MAX);
	return status.state;
}

bool
ss_shmem_copy_slot(int i, SsSlot *slot, Oid *owner)
{
	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	memcpy(slot, &ss_shmem->slots[i], sizeof(SsSlot));
	*owner = slot->in_use && slot->pipeline >= 0 ? ss_shmem->pipelines[slot->pipeline].owner : InvalidOid;
	LWLockRelease(ss_shmem->lock);
	return slot->in_use;
}
