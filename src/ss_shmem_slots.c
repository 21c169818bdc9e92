/*
 * ss_shmem_slots.c
 *	  Slots: who runs what, and in which state.
 *
 * NOTES
 *	  A slot's life.  The launcher (or a session, for itself) reserves it: in
 *	  use, a new generation, no process.  The background worker attaches to it,
 *	  as the first thing it does, and releases it in before_shmem_exit, while it
 *	  may still take locks.  A worker that never comes (no fork, an error before
 *	  it could attach) is found out by the launcher, which releases the slot.
 *	  Every release names the generation: a slot that has a new owner stays his.
 *	  A session's slot belongs to the subtransaction that took it.  Processes that
 *	  die without before_shmem_exit take the whole memory with them.
 *
 *	  Pacing.  A worker that ends although its pipeline should run as it did when
 *	  the worker was started counts as a failure; the first one is started again
 *	  at once, further ones after 1 s, 2 s, 4 s, ...  A worker that settled
 *	  something, or ran for longer than the longest wait, forgets the failures
 *	  before it.  Several workers of one pipeline that end together count once.
 *	  Every such end also asks for a scan, which finds out whether pipeline,
 *	  extension and database are still there.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "ss_guc.h"
#include "ss_shmem.h"

SsSlot			 *MySlot = NULL;
SsPipelineShared *MyPipelineShared = NULL;

static uint32			my_generation;
static SubTransactionId my_subid; /* of a session's slot */

TimestampTz
ss_shmem_backoff(TimestampTz now, int failures)
{
	int64 delay = 1000;

	if (failures <= 1)
		return now;
	while (--failures > 1 && delay < ss_guc_backoff_max)
		delay *= 2;
	return TimestampTzPlusMilliseconds(now, Min(delay, (int64) ss_guc_backoff_max));
}

static SsPipelineShared *
slot_entry(const SsSlot *slot)
{
	return slot->pipeline >= 0 ? &ss_shmem->pipelines[slot->pipeline] : NULL;
}

static int
limit_of(SsSlotKind kind)
{
	switch (kind)
	{
		case SS_SLOT_WORKER:
			return ss_guc_max_workers;
		case SS_SLOT_SESSION:
			return SS_MAX_SESSIONS;
		case SS_SLOT_SCAN:
			return SS_MAX_SCANS;
		case SS_SLOT_COURIER:
			return SS_MAX_COURIERS;
	}
	return 0;
}

/* Lock held. */
SsSlot *
ss_shmem_reserve_locked(SsSlotKind kind, Oid database, int32 pipeline_id, int share)
{
	SsPipelineShared *entry = NULL;
	SsSlot			 *room = NULL;
	int				  count = 0;
	uint32			  generation;
	int				  i;

	if (kind == SS_SLOT_WORKER || kind == SS_SLOT_SESSION)
	{
		entry = ss_shmem_pipeline_locked(database, pipeline_id, kind == SS_SLOT_SESSION);
		if (entry == NULL)
			return NULL;
	}
	for (i = 0; i < ss_shmem->max_slots; i++)
	{
		SsSlot *slot = &ss_shmem->slots[i];

		if (!slot->in_use)
		{
			if (room == NULL)
				room = slot;
			continue;
		}
		if (slot->kind == kind)
			count++;
		if (kind == SS_SLOT_WORKER && slot->kind == SS_SLOT_WORKER && slot_entry(slot) == entry &&
			(slot->share == share || slot->held_share == share))
			return NULL;
	}
	if (room == NULL || count >= limit_of(kind))
	{
		if (entry != NULL)
			ss_shmem_free_unused_locked(entry);
		return NULL;
	}

	generation = room->generation + 1;
	memset(room, 0, sizeof(SsSlot));
	room->generation = generation;
	room->in_use = true;
	room->kind = kind;
	room->database = database;
	room->pipeline = entry ? entry - ss_shmem->pipelines : -1;
	room->pipeline_id = pipeline_id;
	room->pipeline_generation = entry ? entry->generation : 0;
	room->share = share;
	room->held_share = -1;
	room->state = SS_STATE_STARTING;
	room->reserved_at = room->state_since = GetCurrentTimestamp();
	if (entry != NULL)
	{
		entry->changed_at = room->reserved_at;
		ConditionVariableBroadcast(&entry->state_changed);
	}
	return room;
}

SsSlot *
ss_shmem_reserve(SsSlotKind kind, Oid database, int32 pipeline_id, int share)
{
	SsSlot *slot;

	if (ss_shmem == NULL)
		return NULL;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	slot = ss_shmem_reserve_locked(kind, database, pipeline_id, share);
	LWLockRelease(ss_shmem->lock);
	return slot;
}

/* A worker's slot is given back: was it to end?  Lock held. */
static void
count_exit(SsPipelineShared *entry, const SsSlot *slot, TimestampTz now)
{
	if (!entry->enabled || entry->generation != slot->pipeline_generation)
		return;
	ss_shmem_want_scan_locked(entry->database, now);
	if (slot->reserved_at <= entry->failed_at)
		return; /* ended together with one that counted */

	if (slot->settled_once ||
		(slot->state != SS_STATE_STARTING &&
		 TimestampDifferenceExceeds(slot->reserved_at, now, ss_guc_backoff_max)))
		entry->failures = 0;
	entry->failures++;
	entry->failed_at = now;
	entry->next_start_at = ss_shmem_backoff(now, entry->failures);
	if (slot->state == SS_STATE_STARTING)
		entry->connect_failed = true;
}

/* A scan's slot is given back: it reported before, or failed.  Lock held. */
static void
count_scan(const SsSlot *slot, TimestampTz now)
{
	SsDatabase *db = ss_shmem_database_locked(slot->database, false);

	if (db == NULL || db->state != SS_DATABASE_SCANNING)
		return;
	db->state = SS_DATABASE_SCAN_WANTED;
	db->failures++;
	db->next_start_at = ss_shmem_backoff(now, db->failures + 1);
}

/* Lock held. */
static void
free_slot(SsSlot *slot, TimestampTz now)
{
	SsPipelineShared *entry = slot_entry(slot);

	slot->in_use = false;
	slot->pid = 0;
	slot->latch = NULL;
	slot->in_batch = false;
	slot->nranges = 0;
	slot->held_share = -1;
	if (entry != NULL)
	{
		entry->changed_at = now;
		ConditionVariableBroadcast(&entry->batch_done);
		ConditionVariableBroadcast(&entry->state_changed);
		ss_shmem_free_unused_locked(entry);
	}
}

void
ss_shmem_release(int slot, uint32 generation)
{
	SsSlot	   *s = &ss_shmem->slots[slot];
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	if (s->in_use && s->generation == generation)
	{
		if (s->kind == SS_SLOT_WORKER)
			count_exit(slot_entry(s), s, now);
		else if (s->kind == SS_SLOT_SCAN)
			count_scan(s, now);
		free_slot(s, now);
	}
	LWLockRelease(ss_shmem->lock);

	if (MySlot == s && my_generation == generation)
	{
		MySlot = NULL;
		MyPipelineShared = NULL;
	}
	ss_shmem_wake_launcher();
}

void
ss_shmem_unreserve(SsSlot *slot, uint32 generation, bool no_process, TimestampTz retry_at)
{
	SsDatabase *db;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	if (slot->in_use && slot->generation == generation)
	{
		db = ss_shmem_database_locked(slot->database, false);
		if (slot->kind == SS_SLOT_SCAN && db != NULL && db->state == SS_DATABASE_SCANNING)
		{
			db->state = SS_DATABASE_SCAN_WANTED;
			db->blocked = no_process;
			db->next_start_at = retry_at;
		}
		else if (slot->kind == SS_SLOT_COURIER && db != NULL && slot->late)
		{
			db->late_failures--;
			db->late_retry_at = retry_at;
		}
		else if (slot->kind == SS_SLOT_COURIER && db != NULL)
		{
			db->outbox_failures--;
			db->outbox_retry_at = retry_at;
		}
		free_slot(slot, GetCurrentTimestamp());
	}
	LWLockRelease(ss_shmem->lock);
}

static void
release_at_exit(int code, Datum arg)
{
	if (MySlot != NULL)
		ss_shmem_release(MySlot - ss_shmem->slots, my_generation);
}

/* This process owns the slot from now on.  Lock held. */
static void
take_slot(SsSlot *slot)
{
	slot->pid = MyProcPid;
	slot->latch = MyLatch;
	slot->started_at = GetCurrentTimestamp();
	MySlot = slot;
	MyPipelineShared = slot_entry(slot);
	my_generation = slot->generation;
}

bool
ss_shmem_attach(int slot, uint32 generation)
{
	SsSlot *s;
	bool	result;

	if (ss_shmem == NULL || slot < 0 || slot >= ss_shmem->max_slots)
		return false;
	s = &ss_shmem->slots[slot];
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	result = s->in_use && s->generation == generation && s->pid == 0;
	if (result)
		take_slot(s);
	LWLockRelease(ss_shmem->lock);
	if (result)
		before_shmem_exit(release_at_exit, (Datum) 0);
	return result;
}

/* ---- sessions ---- */

void
ss_shmem_session_slot_release(void)
{
	if (MySlot != NULL && MySlot->kind == SS_SLOT_SESSION)
		ss_shmem_release(MySlot - ss_shmem->slots, my_generation);
}

static void
end_transaction(XactEvent event, void *arg)
{
	if (MySlot == NULL || MySlot->kind != SS_SLOT_SESSION)
		return;
	if (event == XACT_EVENT_PRE_PREPARE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that reads entries for a pipeline")));
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		ss_shmem_session_slot_release();
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (MySlot == NULL || MySlot->kind != SS_SLOT_SESSION || subid != my_subid)
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		my_subid = parent;
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		ss_shmem_session_slot_release();
}

void
ss_shmem_session_slot(int32 pipeline_id)
{
	static bool registered = false;
	SsSlot	   *slot;
	bool		known;

	ss_shmem_require();
	if (MySlot != NULL)
	{
		if (MySlot->kind == SS_SLOT_SESSION && MySlot->pipeline_id == pipeline_id)
			return;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("this session already reads entries for a pipeline")));
	}
	if (!registered)
	{
		RegisterXactCallback(end_transaction, NULL);
		RegisterSubXactCallback(end_subtransaction, NULL);
		before_shmem_exit(release_at_exit, (Datum) 0);
		registered = true;
	}

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	known = ss_shmem_pipeline_locked(MyDatabaseId, pipeline_id, true) != NULL;
	slot = ss_shmem_reserve_locked(SS_SLOT_SESSION, MyDatabaseId, pipeline_id, -1);
	if (slot != NULL)
	{
		take_slot(slot);
		slot->state = SS_STATE_RUNNING;
		my_subid = GetCurrentSubTransactionId();
	}
	LWLockRelease(ss_shmem->lock);

	if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("all streamsink.max_pipelines are in use"),
				 errhint("Increase streamsink.max_pipelines and restart the server.")));
	if (slot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many sessions read entries for pipelines"),
				 errdetail("There can be %d at the same time.", SS_MAX_SESSIONS)));
}

/* ---- shares ---- */

int
ss_shmem_count_workers(Oid database, int32 pipeline_id)
{
	int count = 0;
	int i;

	if (ss_shmem == NULL)
		return 0;
	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	for (i = 0; i < ss_shmem->max_slots; i++)
	{
		SsSlot *slot = &ss_shmem->slots[i];

		if (slot->in_use && slot->kind == SS_SLOT_WORKER &&
			slot->pipeline_id == pipeline_id && slot->database == database)
			count++;
	}
	LWLockRelease(ss_shmem->lock);
	return count;
}

bool
ss_shmem_hold_share(int share)
{
	bool result = true;
	int	 i;

	if (MySlot == NULL)
		return false;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	for (i = 0; share >= 0 && i < ss_shmem->max_slots; i++)
	{
		SsSlot *slot = &ss_shmem->slots[i];

		if (slot->in_use && slot != MySlot && slot->pipeline == MySlot->pipeline &&
			(slot->share == share || slot->held_share == share))
			result = false;
	}
	if (result)
		MySlot->held_share = share;
	LWLockRelease(ss_shmem->lock);
	if (share < 0)
		ss_shmem_wake_launcher();
	return result;
}

/* ---- state ---- */

void
ss_shmem_set_state(SsState state, const char *reason, const char *hint, TimestampTz next_retry_at)
{
	bool started;
	bool changed;

	if (MySlot == NULL)
		return;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	started = MySlot->state == SS_STATE_STARTING && state != SS_STATE_STARTING;
	changed = MySlot->state != state || strncmp(MySlot->reason, reason ? reason : "", SS_TEXT_MAX) != 0;
	if (MySlot->state != state)
		MySlot->state_since = GetCurrentTimestamp();
	MySlot->state = state;
	ss_shmem_copy_text(MySlot->reason, reason, SS_TEXT_MAX);
	ss_shmem_copy_text(MySlot->hint, hint, SS_TEXT_MAX);
	MySlot->next_retry_at = next_retry_at;
	/* other reasons may be those of other shares: the launcher knows */
	if (started && MyPipelineShared != NULL && MyPipelineShared->connect_failed)
	{
		MyPipelineShared->connect_failed = false;
		MyPipelineShared->launch_reason[0] = MyPipelineShared->launch_hint[0] = '\0';
	}
	if (changed && MyPipelineShared != NULL)
		ConditionVariableBroadcast(&MyPipelineShared->state_changed);
	LWLockRelease(ss_shmem->lock);
	if (started)
		ss_shmem_wake_launcher();
}

void
ss_shmem_set_redis(SsRedisLink link)
{
	if (MySlot == NULL)
		return;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	MySlot->redis = link;
	LWLockRelease(ss_shmem->lock);
}

void
ss_shmem_note_error(const char *sqlstate, const char *message)
{
	if (MySlot == NULL)
		return;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	ss_shmem_copy_text(MySlot->last_error, message, SS_TEXT_MAX);
	if (MyPipelineShared != NULL)
	{
		ss_shmem_copy_text(MyPipelineShared->last_error, message, SS_TEXT_MAX);
		strlcpy(MyPipelineShared->last_sqlstate, sqlstate ? sqlstate : "", sizeof(MyPipelineShared->last_sqlstate));
		MyPipelineShared->last_error_at = GetCurrentTimestamp();
	}
	LWLockRelease(ss_shmem->lock);
}
