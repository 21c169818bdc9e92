/*
 * ss_launcher.c
 *	  The launcher: starts scans, workers and couriers, and paces them.
 *
 * NOTES
 *	  It is connected to no database and so blocks no DROP DATABASE; of the
 *	  catalogs it reads only pg_database and pg_authid.  Everything it knows is in
 *	  shared memory, but for the handles of processes it has registered: after a
 *	  restart of the launcher alone, slots without a process are found by their
 *	  age.  An ERROR ends it, and the postmaster starts it again a second later.
 *
 *	  It ends no worker: what should not run any more sees that by itself.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <signal.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_guc.h"
#include "ss_launcher.h"
#include "ss_shmem.h"
#include "ss_worker.h"

#define HOUSEKEEPING_MS		60000 /* between looks whether databases are still there */
#define NO_PROCESS_RETRY_MS 2000  /* after max_worker_processes were in use */
#define SHORTAGE_OVER_MS	60000 /* without another miss */
#define BUSY_DATABASE_MS	500	  /* after a database was locked by DROP, ALTER or as a template */
#define ATTACH_TIMEOUT_MS	30000 /* for a slot whose process we do not know */
#define ATTACH_CHECK_MS		1000

typedef struct Handle
{
	uint32					generation;
	BackgroundWorkerHandle *handle;
} Handle;

static Handle		*handles;	/* one per slot, of the last process registered for it */
static Oid			*unscanned; /* databases that found no room in shared memory yet */
static int			 nunscanned;
static bool			 no_process; /* in this round there was no background worker to be had */
static MemoryContext round_context;

void
ss_launcher_register(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	snprintf(worker.bgw_library_name, BGW_MAXLEN, "streamsink");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "streamsink_launcher_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "streamsink launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "streamsink launcher");
	RegisterBackgroundWorker(&worker);
}

/* ---- databases ---- */

/* Remember every database that can be connected to, in order to scan it. */
static void
list_databases(void)
{
	Relation	  rel;
	TableScanDesc scan;
	HeapTuple	  tuple;
	int			  capacity = 64;

	if (unscanned != NULL)
		pfree(unscanned);
	unscanned = MemoryContextAlloc(TopMemoryContext, capacity * sizeof(Oid));
	nunscanned = 0;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (!form->datallowconn || form->datconnlimit == SS_DATCONNLIMIT_INVALID_DB)
			continue;
		if (nunscanned == capacity)
		{
			capacity *= 2;
			unscanned = repalloc(unscanned, capacity * sizeof(Oid));
		}
		unscanned[nunscanned++] = form->oid;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

typedef enum Presence
{
	DATABASE_GONE,
	DATABASE_CLOSED, /* takes no connections */
	DATABASE_BUSY,	 /* locked: being dropped, altered or copied */
	DATABASE_PRESENT
} Presence;

/*
 * Can a process connect to the database now?  A worker that starts while it
 * is being dropped or copied would be in the way, or die.  In a transaction.
 */
static Presence
check_database(Oid database)
{
	HeapTuple		 tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	Form_pg_database form;
	Presence		 result = DATABASE_PRESENT;
	LOCKTAG			 tag;

	if (!HeapTupleIsValid(tuple))
		return DATABASE_GONE;
	form = (Form_pg_database) GETSTRUCT(tuple);
	if (form->datconnlimit == SS_DATCONNLIMIT_INVALID_DB)
		result = DATABASE_GONE;
	else if (!form->datallowconn)
		result = DATABASE_CLOSED;
	ReleaseSysCache(tuple);

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	if (result == DATABASE_PRESENT)
	{
		if (LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
			return DATABASE_BUSY;
		LockRelease(&tag, RowExclusiveLock, false);
	}
	return result;
}

/* Forget what was dropped. */
static void
forget_databases(void)
{
	Oid *databases;
	int	 n = ss_shmem_databases(&databases);
	int	 i;

	if (n == 0)
		return;
	StartTransactionCommand();
	for (i = 0; i < n; i++)
		if (!SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(databases[i])))
			ss_shmem_forget_database(databases[i]);
	CommitTransactionCommand();
}

/* ---- processes ---- */

/* Register the process of a reserved slot.  False, and the slot is free again, if there is none to be had. */
static bool
register_process(SsSlot *slot, const char *function, const char *name, const char *type,
				 Oid owner, TimestampTz now, TimestampTz *due)
{
	static TimestampTz short_at = 0;
	int				   index = slot - ss_shmem->slots;
	uint32			   generation = slot->generation;
	TimestampTz		   retry_at = TimestampTzPlusMilliseconds(now, NO_PROCESS_RETRY_MS);
	BackgroundWorker   worker;
	SsWorkerArgs	   args;
	MemoryContext	   old;
	bool			   result;

	StaticAssertStmt(sizeof(SsWorkerArgs) <= BGW_EXTRALEN, "arguments of a worker must fit");
	memset(&args, 0, sizeof(args));
	args.slot_generation = generation;
	args.database = slot->database;
	args.owner = owner;
	args.pipeline_id = slot->pipeline_id;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = Int32GetDatum(index);
	strlcpy(worker.bgw_library_name, "streamsink", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker.bgw_name, name, BGW_MAXLEN);
	strlcpy(worker.bgw_type, type, BGW_MAXLEN);
	memcpy(worker.bgw_extra, &args, sizeof(args));

	if (handles[index].handle != NULL)
		pfree(handles[index].handle);
	handles[index].handle = NULL;
	handles[index].generation = generation;
	old = MemoryContextSwitchTo(TopMemoryContext);
	result = RegisterDynamicBackgroundWorker(&worker, &handles[index].handle);
	MemoryContextSwitchTo(old);
	if (result)
		return true;

	no_process = true;
	ss_shmem_unreserve(slot, generation, true, retry_at);
	*due = Min(*due, retry_at);
	/* once for as long as it lasts */
	if (TimestampDifferenceExceeds(short_at, now, SHORTAGE_OVER_MS))
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no free background worker slot for \"%s\"", name),
				 errhint("Increase max_worker_processes and restart the server.")));
	short_at = now;
	return false;
}

/* Release the slots of processes that ended before they attached. */
static void
release_unattached(TimestampTz now, TimestampTz *due)
{
	int i;

	for (i = 0; i < ss_shmem->max_slots; i++)
	{
		uint32		generation;
		TimestampTz reserved_at;
		bool		dead;
		pid_t		pid;

		if (!ss_shmem_unattached(i, &generation, &reserved_at))
			continue;
		if (handles[i].handle != NULL && handles[i].generation == generation)
			dead = GetBackgroundWorkerPid(handles[i].handle, &pid) == BGWH_STOPPED;
		else
			dead = TimestampDifferenceExceeds(reserved_at, now, ATTACH_TIMEOUT_MS);
		/* it may have attached, and more, in between: then the generation or the look at it tells */
		if (dead && ss_shmem_unattached(i, &generation, &reserved_at) &&
			(handles[i].handle == NULL || handles[i].generation == generation))
			ss_shmem_release(i, generation);
		else
			*due = Min(*due, TimestampTzPlusMilliseconds(now, ATTACH_CHECK_MS));
	}
}

/* ---- scans and couriers ---- */

/* Is the database there for a process that is about to start?  If not, the slot is given back. */
static bool
prepare_slot(SsSlot *slot, TimestampTz now, TimestampTz *due)
{
	Presence presence;

	StartTransactionCommand();
	presence = check_database(slot->database);
	CommitTransactionCommand();

	if (presence == DATABASE_PRESENT)
		return true;
	if (presence == DATABASE_GONE)
		ss_shmem_forget_database(slot->database);
	if (presence == DATABASE_BUSY)
	{
		TimestampTz retry_at = TimestampTzPlusMilliseconds(now, BUSY_DATABASE_MS);

		ss_shmem_unreserve(slot, slot->generation, false, retry_at);
		*due = Min(*due, retry_at);
	}
	else
		ss_shmem_release(slot - ss_shmem->slots, slot->generation);
	return false;
}

static void
start_scans(TimestampTz now, TimestampTz *due)
{
	SsSlot *slot;

	while (nunscanned > 0 && ss_shmem_want_scan(unscanned[nunscanned - 1]))
		nunscanned--;
	while ((slot = ss_shmem_next_scan(now, due)) != NULL)
		if (prepare_slot(slot, now, due) &&
			!register_process(slot, "streamsink_scan_main", "streamsink scan", "streamsink scan",
							  InvalidOid, now, due))
			break;
}

static void
start_couriers(TimestampTz now, TimestampTz *due)
{
	SsSlot *slot;

	while ((slot = ss_shmem_next_courier(now, due)) != NULL)
		if (prepare_slot(slot, now, due) &&
			!register_process(slot, "streamsink_courier_main",
							  slot->late ? "streamsink late courier" : "streamsink courier",
							  slot->late ? "streamsink late courier" : "streamsink courier",
							  InvalidOid, now, due))
			break;
}

/* ---- workers ---- */

/*
 * Say why a worker of the plan cannot run as its owner, and when to look
 * again; false if it can.  In a transaction.
 */
static bool
refuse_owner(const SsPlan *plan, TimestampTz now)
{
	TimestampTz	   retry_at = TimestampTzPlusMilliseconds(now, ss_guc_setup_retry);
	HeapTuple	   tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(plan->owner));
	HeapTuple	   database;
	Form_pg_authid form;
	const char	  *reason = NULL;
	const char	  *hint = NULL;
	bool		   refused = false;

	if (!HeapTupleIsValid(tuple))
	{
		ss_shmem_set_launch(plan->pipeline, plan->id, "the owner of the pipeline does not exist",
							"Use alter_pipeline with new_owner.", retry_at);
		/* a role of that name may have been made again */
		ss_shmem_want_scan(plan->database);
		return true;
	}

	form = (Form_pg_authid) GETSTRUCT(tuple);
#ifndef SS_HAVE_ROLELOGIN_BYPASS
	if (!form->rolcanlogin)
	{
		reason = psprintf("role \"%s\" may not log in, and workers connect as the pipeline's owner",
						  NameStr(form->rolname));
		hint = "Use ALTER ROLE ... LOGIN, or alter_pipeline with new_owner.";
		refused = true;
	}
#endif
	if (reason == NULL && plan->connect_failed)
	{
		database = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(plan->database));
		if (HeapTupleIsValid(database))
		{
			reason = psprintf("the worker could not connect to database \"%s\" as role \"%s\"",
							  NameStr(((Form_pg_database) GETSTRUCT(database))->datname),
							  NameStr(form->rolname));
			hint = "See the server log.";
			ReleaseSysCache(database);
		}
	}
	if (reason != NULL)
		ss_shmem_set_launch(plan->pipeline, plan->id, reason, hint, refused ? retry_at : 0);
	ReleaseSysCache(tuple);
	return refused;
}

/* Start one worker; false if there is no use in trying another one of this pipeline now. */
static bool
start_worker(const SsPlan *plan, TimestampTz now, TimestampTz *due)
{
	SsSlot *slot = NULL;
	char	name[BGW_MAXLEN];

	/* if a scan found no process, the next free one is for the scan, which may tell that we are not wanted */
	if (!no_process)
		slot = ss_shmem_reserve(SS_SLOT_WORKER, plan->database, plan->id, plan->share);
	if (slot == NULL && !no_process)
	{
		/* a slot that gets free wakes us */
		ss_shmem_set_launch(plan->pipeline, plan->id, "all streamsink.max_workers are in use",
							"Increase streamsink.max_workers (and max_worker_processes) and restart the server.", 0);
		return false;
	}
	snprintf(name, sizeof(name), "streamsink worker: %s %d", plan->name, plan->share);
	if (no_process ||
		!register_process(slot, "streamsink_worker_main", name, "streamsink worker", plan->owner, now, due))
	{
		ss_shmem_set_launch(plan->pipeline, plan->id, "no free background worker slot",
							"Increase max_worker_processes and restart the server.", 0);
		return false;
	}
	return true;
}

/* Desired against running: every share of every enabled pipeline gets a worker. */
static void
start_workers(TimestampTz now, TimestampTz *due)
{
	int i;

	for (i = 0; i < ss_shmem->max_pipelines; i++)
	{
		SsPlan	 plan;
		Presence presence;
		bool	 refused;

		if (!ss_shmem_plan(i, now, &plan))
			continue;
		if (plan.due > now)
		{
			*due = Min(*due, plan.due);
			continue;
		}

		StartTransactionCommand();
		presence = check_database(plan.database);
		refused = presence == DATABASE_PRESENT && refuse_owner(&plan, now);
		CommitTransactionCommand();

		if (presence == DATABASE_GONE)
			ss_shmem_forget_database(plan.database);
		else if (presence == DATABASE_CLOSED)
			ss_shmem_set_launch(i, plan.id, "the database does not accept connections",
								"Use ALTER DATABASE ... ALLOW_CONNECTIONS true.",
								TimestampTzPlusMilliseconds(now, ss_guc_setup_retry));
		else if (presence == DATABASE_BUSY)
			*due = Min(*due, TimestampTzPlusMilliseconds(now, BUSY_DATABASE_MS));
		else if (!refused)
		{
			while (start_worker(&plan, now, due) &&
				   ss_shmem_plan(i, now, &plan) && plan.due <= now)
				/* the next share */;
			continue;
		}
		if (ss_shmem_plan(i, now, &plan) && plan.due > now)
			*due = Min(*due, plan.due);
	}
}

/* ---- the loop ---- */

/* What would make a promise of ours an empty one. */
static void
warn_of_settings(void)
{
	if (!enableFsync)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("fsync is off: streamsink cannot write entries exactly once across a crash of the system"),
				 errdetail("Entries are acknowledged to Redis when their rows are taken for durable."),
				 errhint("Set fsync to on.")));
}

/* One round; returns when the next one is due, unless something happens before. */
static TimestampTz
do_round(TimestampTz *housekeeping_at)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due;

	if (ss_shmem_take_rescan())
		list_databases();
	if (*housekeeping_at <= now)
	{
		forget_databases();
		*housekeeping_at = TimestampTzPlusMilliseconds(now, HOUSEKEEPING_MS);
	}
	due = *housekeeping_at;
	no_process = false;
	release_unattached(now, &due);
	start_scans(now, &due);
	start_workers(now, &due);
	start_couriers(now, &due);
	return due;
}

void
streamsink_launcher_main(Datum main_arg)
{
	TimestampTz housekeeping_at = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	handles = MemoryContextAllocZero(TopMemoryContext, ss_shmem->max_slots * sizeof(Handle));
	round_context = AllocSetContextCreate(TopMemoryContext, "streamsink launcher", ALLOCSET_DEFAULT_SIZES);
	ss_shmem_launcher_attach();
	warn_of_settings();
	list_databases();

	for (;;)
	{
		TimestampTz due;
		long		wait_ms;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		MemoryContextSwitchTo(round_context);
		due = do_round(&housekeeping_at);
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(round_context);

		wait_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), due);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Max(wait_ms, 1), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);

		/* a shutdown is no news; if it was meant for us alone, the postmaster starts us again */
		if (ProcDiePending)
			proc_exit(1);
		CHECK_FOR_INTERRUPTS();
	}
}
