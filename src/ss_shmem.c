/*
 * ss_shmem.c
 *	  Shared memory: how it is made, which pipelines are known, which databases
 *	  are to be looked into.
 *
 * NOTES
 *	  The life of the memory.  It is made at server start, and again after a
 *	  crash of any server process; then every process that knew the old one is
 *	  gone too.  Nothing is ever freed, entries are marked free.
 *
 *	  The life of a pipeline's entry.  A scan of its database reports it, which
 *	  sets "reported".  A control call or a session makes it earlier, because it
 *	  needs the condition variable.  A scan that does not find the pipeline any
 *	  more, a control call that rolled back: the entry goes when nobody uses it,
 *	  that is, no slot points to it and no control call keeps workers away.  The
 *	  condition variables are initialized once and survive all of that, because
 *	  their queues are not guarded by the lock.
 *
 *	  The life of a slot, and pacing: ss_shmem_slots.c.  Batches and the ranges
 *	  of ids they hold: ss_shmem_batch.c.  What the launcher asks:
 *	  ss_shmem_launch.c.
 *
 *	  Nothing that can throw is called while the lock is held: an ERROR outside
 *	  a transaction would not release it.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <limits.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "ss_guc.h"
#include "ss_shmem.h"
#include "ss_stats.h"

#define TRANCHE_NAME "streamsink"

SsShared *ss_shmem = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static int
slots_wanted(void)
{
	return ss_guc_max_workers + SS_MAX_SESSIONS + SS_MAX_SCANS + SS_MAX_COURIERS;
}

static Size
memory_size(void)
{
	Size size = MAXALIGN(sizeof(SsShared));

	size = add_size(size, MAXALIGN(mul_size(ss_guc_max_pipelines, sizeof(SsPipelineShared))));
	size = add_size(size, MAXALIGN(mul_size(slots_wanted(), sizeof(SsSlot))));
	size = add_size(size, MAXALIGN(mul_size(ss_guc_max_databases, sizeof(SsDatabase))));
	return size;
}

static void
request_memory(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(memory_size());
	RequestNamedLWLockTranche(TRANCHE_NAME, 1);
}

static void
make_memory(void)
{
	bool  found;
	char *p;
	int	  i;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	ss_shmem = ShmemInitStruct("streamsink", memory_size(), &found);
	if (!found)
	{
		p = (char *) ss_shmem;
		memset(p, 0, memory_size());
		p += MAXALIGN(sizeof(SsShared));
		ss_shmem->pipelines = (SsPipelineShared *) p;
		p += MAXALIGN(mul_size(ss_guc_max_pipelines, sizeof(SsPipelineShared)));
		ss_shmem->slots = (SsSlot *) p;
		p += MAXALIGN(mul_size(slots_wanted(), sizeof(SsSlot)));
		ss_shmem->databases = (SsDatabase *) p;

		ss_shmem->lock = &(GetNamedLWLockTranche(TRANCHE_NAME))->lock;
		ss_shmem->made_at = GetCurrentTimestamp();
		ss_shmem->max_pipelines = ss_guc_max_pipelines;
		ss_shmem->max_slots = slots_wanted();
		ss_shmem->max_databases = ss_guc_max_databases;
		ss_shmem->samples_dsa = DSM_HANDLE_INVALID;
		ss_shmem->samples_table = InvalidDsaPointer;
		ss_shmem->lwtranche_dsa = LWLockNewTrancheId();
		ss_shmem->lwtranche_hash = LWLockNewTrancheId();

		for (i = 0; i < ss_shmem->max_pipelines; i++)
		{
			ConditionVariableInit(&ss_shmem->pipelines[i].batch_done);
			ConditionVariableInit(&ss_shmem->pipelines[i].state_changed);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

void
ss_shmem_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = make_memory;
}

void
ss_shmem_require(void)
{
	if (ss_shmem == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("streamsink must be loaded at server start"),
				 errhint("Add to postgresql.conf: shared_preload_libraries = 'streamsink', and restart the server.")));
}

/* Copy a text into size bytes, cut at a character; NULL gives the empty one. */
void
ss_shmem_copy_text(char *dest, const char *src, Size size)
{
	size_t len = src ? strlen(src) : 0;

	if (len >= size)
		len = pg_mbcliplen(src, (int) Min(len, (size_t) INT_MAX), (int) size - 1);
	if (len > 0)
		memcpy(dest, src, len);
	dest[len] = '\0';
}

/* ---- pipelines ---- */

static bool
is_used(const SsPipelineShared *entry)
{
	int index = entry - ss_shmem->pipelines;
	int i;

	if (entry->yielders > 0)
		return true;
	for (i = 0; i < ss_shmem->max_slots; i++)
		if (ss_shmem->slots[i].in_use && ss_shmem->slots[i].pipeline == index)
			return true;
	return false;
}

/* All but the condition variables to zero. */
static void
clear_entry(SsPipelineShared *entry)
{
	char *rest = (char *) (&entry->state_changed + 1);

	StaticAssertStmt(offsetof(SsPipelineShared, state_changed) ==
						 offsetof(SsPipelineShared, batch_done) + sizeof(ConditionVariable),
					 "the condition variables must be neighbours");
	memset(entry, 0, offsetof(SsPipelineShared, batch_done));
	memset(rest, 0, (char *) (entry + 1) - rest);
}

/* Free the entry if it was not reported, and nobody uses it.  Lock held. */
void
ss_shmem_free_unused_locked(SsPipelineShared *entry)
{
	if (entry->in_use && !entry->reported && !is_used(entry))
		clear_entry(entry);
}

/* Room for a new entry.  With evict, the statistics of a stopped pipeline may have to go. */
static SsPipelineShared *
find_room(bool evict)
{
	int i;

	for (i = 0; i < ss_shmem->max_pipelines; i++)
	{
		ss_shmem_free_unused_locked(&ss_shmem->pipelines[i]);
		if (!ss_shmem->pipelines[i].in_use)
			return &ss_shmem->pipelines[i];
	}
	for (i = 0; evict && i < ss_shmem->max_pipelines; i++)
	{
		SsPipelineShared *entry = &ss_shmem->pipelines[i];

		if (!entry->enabled && !is_used(entry))
		{
			clear_entry(entry);
			return entry;
		}
	}
	return NULL;
}

static SsPipelineShared *
find_pipeline(Oid database, int32 id)
{
	int i;

	for (i = 0; i < ss_shmem->max_pipelines; i++)
	{
		SsPipelineShared *entry = &ss_shmem->pipelines[i];

		if (entry->in_use && entry->id == id && entry->database == database)
			return entry;
	}
	return NULL;
}

static SsPipelineShared *
make_pipeline(Oid database, int32 id, bool evict)
{
	SsPipelineShared *entry = find_room(evict);

	if (entry != NULL)
	{
		entry->in_use = true;
		entry->database = database;
		entry->id = id;
		entry->changed_at = GetCurrentTimestamp();
	}
	return entry;
}

SsPipelineShared *
ss_shmem_pipeline_locked(Oid database, int32 id, bool make)
{
	SsPipelineShared *entry = find_pipeline(database, id);

	if (entry == NULL && make)
		entry = make_pipeline(database, id, true);
	return entry;
}

SsPipelineShared *
ss_shmem_pipeline(Oid database, int32 id, bool make)
{
	SsPipelineShared *entry;

	if (ss_shmem == NULL)
		return NULL;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	entry = ss_shmem_pipeline_locked(database, id, make);
	LWLockRelease(ss_shmem->lock);
	return entry;
}

static void
wake_slots(const SsPipelineShared *entry)
{
	int index = entry - ss_shmem->pipelines;
	int i;

	for (i = 0; i < ss_shmem->max_slots; i++)
	{
		SsSlot *slot = &ss_shmem->slots[i];

		if (slot->in_use && slot->pipeline == index && slot->latch != NULL)
			SetLatch(slot->latch);
	}
}

void
ss_shmem_wake_pipeline(Oid database, int32 pipeline_id)
{
	SsPipelineShared *entry;

	if (ss_shmem == NULL)
		return;
	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	entry = find_pipeline(database, pipeline_id);
	if (entry != NULL)
		wake_slots(entry);
	LWLockRelease(ss_shmem->lock);
}

/* ---- databases ---- */

/* The entry of a database; with make it is made, in state free, unless there is no room.  Lock held. */
SsDatabase *
ss_shmem_database_locked(Oid database, bool make)
{
	SsDatabase *room = NULL;
	int			i;

	for (i = 0; i < ss_shmem->max_databases; i++)
	{
		SsDatabase *db = &ss_shmem->databases[i];

		if (db->oid == database)
			return db;
		if (room == NULL && db->oid == InvalidOid)
			room = db;
	}
	if (!make || room == NULL)
		return NULL;
	memset(room, 0, sizeof(SsDatabase));
	room->oid = database;
	return room;
}

/* Lock held.  Without room all databases are looked into later. */
void
ss_shmem_want_scan_locked(Oid database, TimestampTz now)
{
	SsDatabase *db = ss_shmem_database_locked(database, true);

	if (db == NULL)
		ss_shmem->rescan = true;
	else if (db->state == SS_DATABASE_SCANNING)
		db->again = true;
	else if (db->state != SS_DATABASE_SCAN_WANTED)
	{
		db->state = SS_DATABASE_SCAN_WANTED;
		db->wanted_at = now;
		db->failures = 0;
		db->next_start_at = 0;
	}
}

void
ss_shmem_commit_change(int32 pipeline_id, bool control, bool outbox)
{
	TimestampTz now = GetCurrentTimestamp();
	SsDatabase *db;
	bool		wake = true;
	int			i;

	if (ss_shmem == NULL)
		return;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	if (control)
	{
		for (i = 0; i < ss_shmem->max_pipelines; i++)
		{
			SsPipelineShared *entry = &ss_shmem->pipelines[i];

			if (entry->in_use && entry->database == MyDatabaseId &&
				(entry->id == pipeline_id || pipeline_id == 0))
			{
				entry->changed++;
				wake_slots(entry);
				ConditionVariableBroadcast(&entry->state_changed);
			}
		}
		ss_shmem_want_scan_locked(MyDatabaseId, now);
		db = ss_shmem_database_locked(MyDatabaseId, false);
		if (db != NULL)
			db->next_start_at = 0;
	}
	if (outbox)
	{
		db = ss_shmem_database_locked(MyDatabaseId, true);
		if (db == NULL)
			ss_shmem->rescan = true;
		else
		{
			db->outbox = true;
			db->outbox_changes++;
			/* new rows may be for a server that is well: they do not share the wait of old ones */
			db->outbox_retry_at = Min(db->outbox_retry_at, TimestampTzPlusMilliseconds(now, 1000));
		}
		for (i = 0; i < ss_shmem->max_slots; i++)
		{
			SsSlot *slot = &ss_shmem->slots[i];

			if (slot->in_use && slot->kind == SS_SLOT_COURIER && !slot->late &&
				slot->database == MyDatabaseId && slot->latch != NULL)
			{
				SetLatch(slot->latch);
				/* should it be about to leave, it wakes the launcher when it does */
				wake = control || db == NULL;
			}
		}
	}
	LWLockRelease(ss_shmem->lock);
	if (wake)
		ss_shmem_wake_launcher();
}

/* Take over what a scan read of one pipeline.  False if there is no room. */
static bool
take_report(Oid database, const SsPipelineShared *item, TimestampTz now)
{
	SsPipelineShared *entry = find_pipeline(database, item->id);
	bool			  changed;

	if (entry == NULL)
		entry = make_pipeline(database, item->id, item->enabled);
	if (entry == NULL)
		return false;

	changed = !entry->reported || entry->enabled != item->enabled ||
			  entry->generation != item->generation || entry->owner != item->owner;
	/* generations only grow: another pipeline has the number, the extension was made anew */
	if (entry->reported && entry->generation > item->generation)
		ss_stats_reset_locked(entry);
	entry->reported = true;
	ss_shmem_copy_text(entry->name, item->name, SS_NAME_MAX);
	entry->owner = item->owner;
	entry->enabled = item->enabled;
	entry->workers = item->workers;
	entry->single = item->single;
	entry->generation = item->generation;
	if (changed)
	{
		entry->failures = 0;
		entry->failed_at = 0;
		entry->next_start_at = 0;
		entry->connect_failed = false;
		entry->launch_reason[0] = entry->launch_hint[0] = '\0';
		entry->changed_at = now;
		wake_slots(entry);
		ConditionVariableBroadcast(&entry->state_changed);
	}
	return true;
}

/* The pipeline is gone: its workers may see that, its entry goes with the last of them. */
static void
forget_entry(SsPipelineShared *entry)
{
	entry->enabled = false;
	entry->reported = false;
	wake_slots(entry);
	ConditionVariableBroadcast(&entry->state_changed);
	ss_shmem_free_unused_locked(entry);
}

/* The scan that reports has seen the outbox as it was at its start. */
static void
finish_scan(Oid database, bool outbox, TimestampTz now)
{
	SsDatabase *db = ss_shmem_database_locked(database, outbox);

	if (db == NULL)
	{
		ss_shmem->rescan |= outbox;
		return;
	}
	if (outbox)
		db->outbox = true;
	else if (MySlot != NULL && MySlot->kind == SS_SLOT_SCAN && MySlot->outbox_seen == db->outbox_changes)
		db->outbox = false;
	db->failures = 0;
	db->blocked = false;
	db->next_start_at = 0;
	if (db->again)
	{
		db->again = false;
		db->state = SS_DATABASE_SCAN_WANTED;
	}
	else if (db->state == SS_DATABASE_SCANNING)
		db->state = SS_DATABASE_SCANNED;
}

bool
ss_shmem_report_database(Oid database, const SsPipelineShared *items, int nitems, bool outbox)
{
	TimestampTz now = GetCurrentTimestamp();
	int32	   *gone = palloc(ss_shmem->max_pipelines * sizeof(int32));
	int			ngone = 0;
	bool		all = true;
	int			i,
		j;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	for (i = 0; i < ss_shmem->max_pipelines; i++)
	{
		SsPipelineShared *entry = &ss_shmem->pipelines[i];

		if (!entry->in_use || !entry->reported || entry->database != database)
			continue;
		for (j = 0; j < nitems && items[j].id != entry->id; j++)
			/* look further */;
		if (j == nitems)
		{
			gone[ngone++] = entry->id;
			forget_entry(entry);
		}
	}
	/* if room is short, those that should run come first */
	for (j = 0; j < nitems; j++)
		if (items[j].enabled)
			all = take_report(database, &items[j], now) && all;
	for (j = 0; j < nitems; j++)
		if (!items[j].enabled)
			all = take_report(database, &items[j], now) && all;
	finish_scan(database, outbox, now);
	LWLockRelease(ss_shmem->lock);

	ss_shmem_wake_launcher();
	for (i = 0; i < ngone; i++)
		ss_stats_forget_pipeline(database, gone[i]);
	pfree(gone);
	return all;
}

void
ss_shmem_gone(void)
{
	if (MyPipelineShared == NULL)
		return;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	MyPipelineShared->enabled = false;
	ss_shmem_want_scan_locked(MyPipelineShared->database, GetCurrentTimestamp());
	LWLockRelease(ss_shmem->lock);
	ss_shmem_wake_launcher();
}

/* Forget a database that was dropped. */
void
ss_shmem_forget_database(Oid database)
{
	SsDatabase *db;
	int			i;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	for (i = 0; i < ss_shmem->max_pipelines; i++)
	{
		SsPipelineShared *entry = &ss_shmem->pipelines[i];

		if (entry->in_use && entry->database == database)
			forget_entry(entry);
	}
	db = ss_shmem_database_locked(database, false);
	if (db != NULL)
		memset(db, 0, sizeof(SsDatabase));
	LWLockRelease(ss_shmem->lock);

	ss_stats_forget_pipeline(database, 0);
}
