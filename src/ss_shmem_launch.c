/*
 * ss_shmem_launch.c
 *	  Shared memory as the launcher asks it: what is due.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "ss_guc.h"
#include "ss_shmem.h"

/* Workers wait for a scan of their database that is under way, but not longer. */
#define SCAN_PATIENCE_MS 1000

static void
leave_launcher(int code, Datum arg)
{
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	if (ss_shmem->launcher_pid == MyProcPid)
	{
		ss_shmem->launcher_pid = 0;
		ss_shmem->launcher_latch = NULL;
	}
	LWLockRelease(ss_shmem->lock);
}

void
ss_shmem_launcher_attach(void)
{
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	ss_shmem->launcher_pid = MyProcPid;
	ss_shmem->launcher_latch = MyLatch;
	LWLockRelease(ss_shmem->lock);
	before_shmem_exit(leave_launcher, (Datum) 0);
}

void
ss_shmem_wake_launcher(void)
{
	Latch *latch;

	if (ss_shmem == NULL)
		return;
	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	latch = ss_shmem->launcher_latch;
	LWLockRelease(ss_shmem->lock);
	/* latches live as long as the server: at worst a wrong process wakes up */
	if (latch != NULL)
		SetLatch(latch);
}

bool
ss_shmem_take_rescan(void)
{
	bool result;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	result = ss_shmem->rescan;
	ss_shmem->rescan = false;
	LWLockRelease(ss_shmem->lock);
	return result;
}

bool
ss_shmem_want_scan(Oid database)
{
	bool result;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	result = ss_shmem_database_locked(database, true) != NULL;
	if (result)
		ss_shmem_want_scan_locked(database, GetCurrentTimestamp());
	LWLockRelease(ss_shmem->lock);
	return result;
}

/* The first share that nobody runs or holds, or -1.  *starting: a worker that does not do anything yet. */
static int
find_share(int pipeline, int workers, bool *starting)
{
	int share;
	int i;

	*starting = false;
	for (share = 0; share < workers; share++)
	{
		bool taken = false;

		for (i = 0; i < ss_shmem->max_slots; i++)
		{
			SsSlot *slot = &ss_shmem->slots[i];

			if (!slot->in_use || slot->kind != SS_SLOT_WORKER || slot->pipeline != pipeline)
				continue;
			if (slot->state == SS_STATE_STARTING)
				*starting = true;
			if (slot->share == share || slot->held_share == share)
				taken = true;
		}
		if (!taken)
			return share;
	}
	return -1;
}

bool
ss_shmem_plan(int i, TimestampTz now, SsPlan *plan)
{
	SsPipelineShared *entry = &ss_shmem->pipelines[i];
	SsDatabase		 *db;
	bool			  starting;
	bool			  result = false;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	if (entry->in_use && entry->enabled)
	{
		plan->share = find_share(i, entry->workers, &starting);
		if (plan->share < 0 && !starting)
			entry->launch_reason[0] = entry->launch_hint[0] = '\0';
		if (plan->share >= 0)
		{
			plan->pipeline = i;
			plan->database = entry->database;
			plan->id = entry->id;
			strlcpy(plan->name, entry->name, SS_NAME_MAX);
			plan->owner = entry->owner;
			plan->connect_failed = entry->connect_failed;
			plan->due = entry->next_start_at;
			db = ss_shmem_database_locked(entry->database, false);
			if (db != NULL && db->failures == 0 && !db->blocked &&
				(db->state == SS_DATABASE_SCAN_WANTED || db->state == SS_DATABASE_SCANNING))
				plan->due = Max(plan->due, TimestampTzPlusMilliseconds(db->wanted_at, SCAN_PATIENCE_MS));
			result = true;
		}
	}
	LWLockRelease(ss_shmem->lock);
	return result;
}

void
ss_shmem_set_launch(int i, int32 id, const char *reason, const char *hint, TimestampTz next_start_at)
{
	SsPipelineShared *entry = &ss_shmem->pipelines[i];

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	if (entry->in_use && entry->id == id)
	{
		bool changed = strcmp(entry->launch_reason, reason ? reason : "") != 0;

		ss_shmem_copy_text(entry->launch_reason, reason, SS_TEXT_MAX);
		ss_shmem_copy_text(entry->launch_hint, hint, SS_TEXT_MAX);
		if (next_start_at != 0)
			entry->next_start_at = next_start_at;
		if (changed)
			ConditionVariableBroadcast(&entry->state_changed);
	}
	LWLockRelease(ss_shmem->lock);
}

static bool
has_courier(Oid database, bool late)
{
	int i;

	for (i = 0; i < ss_shmem->max_slots; i++)
		if (ss_shmem->slots[i].in_use && ss_shmem->slots[i].kind == SS_SLOT_COURIER &&
			ss_shmem->slots[i].database == database && ss_shmem->slots[i].late == late)
			return true;
	return false;
}

static int
count_late_couriers(void)
{
	int count = 0;
	int i;

	for (i = 0; i < ss_shmem->max_slots; i++)
		if (ss_shmem->slots[i].in_use && ss_shmem->slots[i].kind == SS_SLOT_COURIER && ss_shmem->slots[i].late)
			count++;
	return count;
}

SsSlot *
ss_shmem_next_scan(TimestampTz now, TimestampTz *due)
{
	SsDatabase *best = NULL;
	SsSlot	   *slot = NULL;
	int			i;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	for (i = 0; i < ss_shmem->max_databases; i++)
	{
		SsDatabase *db = &ss_shmem->databases[i];

		/* what waits for no scan and has nothing to send needs no entry any more */
		if ((db->state == SS_DATABASE_SCANNED || db->state == SS_DATABASE_FREE) &&
			OidIsValid(db->oid) && !db->outbox && !db->late &&
			!has_courier(db->oid, false) && !has_courier(db->oid, true))
			memset(db, 0, sizeof(SsDatabase));
		if (db->state != SS_DATABASE_SCAN_WANTED)
			continue;
		/* if only a process was missing, any news may be that there is one */
		if (db->next_start_at > now && !db->blocked)
			*due = Min(*due, db->next_start_at);
		else if (best == NULL || db->wanted_at < best->wanted_at)
			best = db;
	}
	if (best != NULL)
		slot = ss_shmem_reserve_locked(SS_SLOT_SCAN, best->oid, 0, -1);
	if (slot != NULL)
	{
		best->state = SS_DATABASE_SCANNING;
		best->again = false;
		slot->outbox_seen = best->outbox_changes;
	}
	LWLockRelease(ss_shmem->lock);
	return slot;
}

/* A slot for a courier of a database that is due; NULL if none is wanted or to be had.  Lock held. */
static SsSlot *
reserve_courier(SsDatabase *db, bool late, TimestampTz now, TimestampTz *due)
{
	TimestampTz when = late ? Max(db->late_due, db->late_retry_at) : db->outbox_retry_at;
	SsSlot	   *slot;

	if (!(late ? db->late : db->outbox) || has_courier(db->oid, late))
		return NULL;
	if (when > now)
	{
		*due = Min(*due, when);
		return NULL;
	}
	if (late && count_late_couriers() >= SS_MAX_COURIERS / 2)
		return NULL; /* a slot that gets free wakes the launcher */
	slot = ss_shmem_reserve_locked(SS_SLOT_COURIER, db->oid, 0, -1);
	if (slot == NULL)
	{
		ss_shmem->crowded = true;
		return NULL;
	}
	slot->late = late;
	/* the next time to start one, in case it ends without a word */
	if (late)
	{
		slot->outbox_seen = db->late_changes;
		db->late_failures++;
		db->late_retry_at = ss_shmem_backoff(now, db->late_failures + 1);
	}
	else
	{
		slot->outbox_seen = db->outbox_changes;
		db->outbox_failures++;
		db->outbox_retry_at = ss_shmem_backoff(now, db->outbox_failures + 1);
	}
	return slot;
}

SsSlot *
ss_shmem_next_courier(TimestampTz now, TimestampTz *due)
{
	SsSlot *slot = NULL;
	int		late;
	int		i;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	ss_shmem->crowded = false;
	for (late = 0; late <= 1 && slot == NULL; late++)
		for (i = 0; i < ss_shmem->max_databases && slot == NULL; i++)
			if (OidIsValid(ss_shmem->databases[i].oid))
				slot = reserve_courier(&ss_shmem->databases[i], late != 0, now, due);
	LWLockRelease(ss_shmem->lock);
	return slot;
}

void
ss_shmem_courier_look(void)
{
	SsDatabase *db;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	db = ss_shmem_database_locked(MySlot->database, false);
	if (db != NULL)
		MySlot->outbox_seen = MySlot->late ? db->late_changes : db->outbox_changes;
	LWLockRelease(ss_shmem->lock);
}

/* Lock held. */
static bool
has_changed(const SsDatabase *db)
{
	return MySlot->outbox_seen != (MySlot->late ? db->late_changes : db->outbox_changes);
}

bool
ss_shmem_courier_changed(void)
{
	SsDatabase *db;
	bool		result;

	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	db = ss_shmem_database_locked(MySlot->database, false);
	result = db != NULL && has_changed(db);
	LWLockRelease(ss_shmem->lock);
	return result;
}

bool
ss_shmem_courier_crowded(void)
{
	bool result;

	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	result = ss_shmem->crowded;
	LWLockRelease(ss_shmem->lock);
	return result;
}

void
ss_shmem_courier_done(bool more, TimestampTz retry_at)
{
	SsDatabase *db;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	db = ss_shmem_database_locked(MySlot->database, false);
	if (db != NULL && MySlot->late)
	{
		db->late = more || has_changed(db);
		db->late_failures = 0;
		db->late_due = more && !has_changed(db) ? retry_at : 0;
		db->late_retry_at = 0;
	}
	else if (db != NULL)
	{
		db->outbox = more || has_changed(db);
		db->outbox_failures = 0;
		db->outbox_retry_at = more && !has_changed(db) ? retry_at : 0;
	}
	LWLockRelease(ss_shmem->lock);
	ss_shmem_wake_launcher();
}

void
ss_shmem_courier_late(TimestampTz due, bool added)
{
	TimestampTz now = GetCurrentTimestamp();
	SsDatabase *db;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	db = ss_shmem_database_locked(MySlot->database, true);
	if (db == NULL)
		ss_shmem->rescan = true;
	else
	{
		db->late_due = db->late ? Min(db->late_due, due) : due;
		db->late = true;
		if (added || due <= now)
			db->late_changes++;
	}
	LWLockRelease(ss_shmem->lock);
	ss_shmem_wake_launcher();
}

bool
ss_shmem_unattached(int slot, uint32 *generation, TimestampTz *reserved_at)
{
	SsSlot *s = &ss_shmem->slots[slot];
	bool	result;

	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	result = s->in_use && s->pid == 0;
	*generation = s->generation;
	*reserved_at = s->reserved_at;
	LWLockRelease(ss_shmem->lock);
	return result;
}

int
ss_shmem_databases(Oid **databases)
{
	Oid *result = palloc((ss_shmem->max_pipelines + ss_shmem->max_databases) * sizeof(Oid));
	int	 n = 0;
	int	 i,
		j;

	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	for (i = 0; i < ss_shmem->max_pipelines + ss_shmem->max_databases; i++)
	{
		Oid oid;

		if (i < ss_shmem->max_pipelines)
			oid = ss_shmem->pipelines[i].in_use ? ss_shmem->pipelines[i].database : InvalidOid;
		else
			oid = ss_shmem->databases[i - ss_shmem->max_pipelines].oid;
		for (j = 0; j < n && result[j] != oid; j++)
			/* look further */;
		if (j == n && OidIsValid(oid))
			result[n++] = oid;
	}
	LWLockRelease(ss_shmem->lock);
	*databases = result;
	return n;
}
