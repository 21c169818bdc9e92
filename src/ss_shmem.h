/*
 * ss_shmem.h
 *	  Shared memory: which pipelines should run, and the slots of those who run
 *	  them.
 *
 * NOTES
 *	  One LWLock guards everything but the fields marked otherwise: it is taken
 *	  only in ss_shmem.c, its parts ss_shmem_*.c, and ss_stats.c, for a few
 *	  instructions each.
 *	  After a crash of any server process the postmaster makes all of this anew;
 *	  nothing outside this memory may hold on to it.
 */
#ifndef SS_SHMEM_H
#define SS_SHMEM_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"
#include "lib/dshash.h"
#include "ss_entryid.h"

#define SS_NAME_MAX	  256 /* bytes of a pipeline's name kept here, terminator included */
#define SS_TEXT_MAX	  512 /* bytes of a reason, hint or error kept here */
#define SS_MAX_RANGES 64  /* published id ranges of one slot */

/* Slots beside those of streamsink.max_workers. */
#define SS_MAX_SESSIONS 16 /* sessions in ingest or a retry */
#define SS_MAX_SCANS	2
#define SS_MAX_COURIERS 8 /* at most half of them late ones */

typedef enum SsState
{
	SS_STATE_STOPPED = 0, /* -> starting */
	SS_STATE_STARTING,	  /* slot reserved, not reading yet -> running, waiting, stopped */
	SS_STATE_RUNNING,	  /* -> waiting, stopping, stopped */
	SS_STATE_WAITING,	  /* something outside must get better -> running, stopping */
	SS_STATE_STOPPING,	  /* finishing its batch -> stopped */
	SS_STATE_FAILED		  /* stopped by a policy; start() -> starting */
} SsState;

/* What a worker knows of its Redis server. */
typedef enum SsRedisLink
{
	SS_REDIS_UNKNOWN = 0, /* not tried yet */
	SS_REDIS_CONNECTED,
	SS_REDIS_AWAY /* it could not be connected to, or the connection broke */
} SsRedisLink;

typedef enum SsSlotKind
{
	SS_SLOT_WORKER = 0, /* a share of a pipeline, background worker */
	SS_SLOT_SESSION,	/* a session's ingest or retry */
	SS_SLOT_SCAN,		/* reports a database's pipelines, then exits */
	SS_SLOT_COURIER		/* carries out a database's outbox, then exits */
} SsSlotKind;

#define SS_LATENCY_BUCKETS 64 /* bucket i: up to 2^(i/2) * 0.1 ms from entry id to commit */

/* A pipeline that its database reported.  Made by scans and control calls, forgotten when the pipeline is. */
typedef struct SsPipelineShared
{
	bool   in_use;
	bool   reported; /* by the last scan; without it the entry goes with its last user */
	Oid	   database;
	int32  id; /* streamsink.pipeline.id */
	char   name[SS_NAME_MAX];
	Oid	   owner;
	bool   enabled;
	int	   workers; /* wanted */
	bool   single;	/* one key (workers share it), not a template */
	int64  generation;
	uint32 changed; /* control calls that committed; see ss_shmem_changes */

	/* written by control calls: while > 0 no worker begins a batch */
	int				  yielders;
	ConditionVariable batch_done;	 /* broadcast when a slot leaves a batch, withdraws its ranges or is released */
	ConditionVariable state_changed; /* broadcast when any state below or a slot's state changes */

	/* written by the launcher: pacing */
	int			failures;					/* consecutive early exits */
	TimestampTz failed_at;					/* of the last one that counted */
	TimestampTz next_start_at;				/* not before */
	bool		connect_failed;				/* a worker ended before it could do anything */
	TimestampTz changed_at;					/* last slot taken or released, last new report */
	char		launch_reason[SS_TEXT_MAX]; /* why a wanted worker does not run, or "" */
	char		launch_hint[SS_TEXT_MAX];

	/* written by workers */
	uint64		read; /* since this entry was made or reset, for the rates below; ss_counter.c has the counters */
	uint64		written;
	uint64		refused;
	uint64		latency[SS_LATENCY_BUCKETS];
	TimestampTz last_batch_at;
	char		last_error[SS_TEXT_MAX];
	char		last_sqlstate[6];
	TimestampTz last_error_at;
	TimestampTz sampled_at;
	/* rates: numbers at the start of the running and of the last window */
	TimestampTz window_at[2];
	uint64		window_read[2];
	uint64		window_written[2];
	/* share of refused entries: the same, of windows that also hold some entries */
	TimestampTz share_at[2];
	uint64		share_read[2];
	uint64		share_refused[2];
} SsPipelineShared;

typedef struct SsRange
{
	int32	  stream; /* streamsink.stream.id */
	SsEntryId first;
	SsEntryId last;
} SsRange;

/*
 * A slot's life: reserved (in_use, generation bumped) by the launcher or a
 * session; attached (pid, latch) by the process; released in before_shmem_exit
 * or at the session's transaction end, only if the generation is still its own.
 */
typedef struct SsSlot
{
	bool		in_use;
	uint32		generation;
	SsSlotKind	kind;
	Oid			database;
	int			pipeline; /* index into pipelines, -1 for scan and courier */
	int32		pipeline_id;
	int64		pipeline_generation; /* of the pipeline when the slot was reserved */
	uint32		outbox_seen;		 /* outbox_changes of the database when a scan or courier looked; late_changes if late */
	bool		late;				 /* a courier for commands that could not be carried out in their turn */
	int			share;				 /* 0 .. workers-1; -1 for sessions */
	int			held_share;			 /* a dead share whose consumer this worker is taking over, or -1 */
	pid_t		pid;				 /* 0 until attached */
	Latch	   *latch;
	TimestampTz reserved_at;

	/* written by the owner, counts and sizes without the lock */
	SsState		state;
	SsRedisLink redis;
	char		reason[SS_TEXT_MAX];
	char		hint[SS_TEXT_MAX];
	TimestampTz state_since;
	TimestampTz next_retry_at;
	bool		in_batch;
	bool		settled_once; /* committed a batch since it started: pacing forgets failures */
	int			nranges;
	SsRange		ranges[SS_MAX_RANGES];
	char		consumer[96];
	int			streams;
	int64		batch_entries;
	int64		batch_bytes;
	TimestampTz batch_started_at;
	uint64		read;
	uint64		written;
	int64		time_wait_redis; /* microseconds since start, each */
	int64		time_map;
	int64		time_write;
	int64		time_commit;
	int64		memory_bytes;
	TimestampTz started_at;
	char		last_error[SS_TEXT_MAX];
} SsSlot;

typedef enum SsDatabaseState
{
	SS_DATABASE_FREE = 0,
	SS_DATABASE_SCAN_WANTED,
	SS_DATABASE_SCANNING,
	SS_DATABASE_SCANNED
} SsDatabaseState;

/* A database the launcher should look into.  Its entry is free again once it was scanned and its outbox is empty. */
typedef struct SsDatabase
{
	Oid				oid;
	SsDatabaseState state;
	bool			again;			/* changed while being scanned */
	bool			outbox;			/* the last scan or a commit saw rows in the outbox */
	uint32			outbox_changes; /* commits that put rows into the outbox */
	TimestampTz		outbox_retry_at;
	int				outbox_failures; /* couriers started since one reported */
	bool			late;			 /* commands wait behind others that failed */
	uint32			late_changes;	 /* times that more came to wait, or some were found due */
	TimestampTz		late_due;		 /* when the first is tried again */
	TimestampTz		late_retry_at;	 /* and not before this */
	int				late_failures;	 /* late couriers started since one reported */
	bool			blocked;		 /* no background worker was free for its scan */
	int				failures;		 /* of scans, consecutive */
	TimestampTz		wanted_at;		 /* when the running request for a scan began */
	TimestampTz		next_start_at;
} SsDatabase;

typedef struct SsShared
{
	LWLock	   *lock;
	TimestampTz made_at; /* tells one life of this memory from another; never changed */
	pid_t		launcher_pid;
	Latch	   *launcher_latch;
	bool		rescan;	 /* look into all databases: a request for one found no room */
	bool		crowded; /* a courier found no slot */
	int			max_pipelines;
	int			max_slots;
	int			max_databases;
	/* samples of streams, see ss_stats.c */
	dsa_handle			samples_dsa;
	dshash_table_handle samples_table;
	int					lwtranche_dsa;
	int					lwtranche_hash;
	SsPipelineShared   *pipelines; /* max_pipelines; addresses are the same in all processes */
	SsSlot			   *slots;	   /* max_slots = max_workers + sessions + scan + courier room */
	SsDatabase		   *databases; /* max_databases */
} SsShared;

extern SsShared			*ss_shmem;		   /* NULL without shared_preload_libraries */
extern SsSlot			*MySlot;		   /* this process's slot, or NULL */
extern SsPipelineShared *MyPipelineShared; /* its pipeline, or NULL */

/* Called from _PG_init: hooks that ask for and make the memory. */
extern void ss_shmem_init(void);

/* ERROR 55000 with the shared_preload_libraries line as its hint unless the library was preloaded. */
extern void ss_shmem_require(void);

/* ---- what should run ---- */

/*
 * Mark this database as changed when the current transaction commits: the
 * launcher is woken and scans it.  with_outbox says that rows were put into
 * the outbox.  A rollback forgets it, also of a subtransaction.  PREPARE
 * TRANSACTION after it is refused (ERROR 0A000).
 */
extern void ss_shmem_changed_at_commit(int32 pipeline_id, bool with_outbox);

/*
 * How often a control call for my pipeline has committed since the entry was
 * made.  The commit also sets the latches of the pipeline's workers, before
 * any scan: a worker that sees a new number reads the catalog at once.
 */
extern uint32 ss_shmem_changes(void);

/* True if the current transaction has an uncommitted control call for this pipeline (0: any). */
extern bool ss_shmem_has_uncommitted_change(int32 pipeline_id);

/* What a scan found; replaces what is known of this database.  items: in_use is ignored, the first fields up to generation are read.  False if max_pipelines does not suffice for all. */
extern bool ss_shmem_report_database(Oid database, const SsPipelineShared *items, int nitems, bool outbox);

/* The entry of a pipeline, made if missing with make; NULL if there is none or no room.  The pointer stays valid while the pipeline exists. */
extern SsPipelineShared *ss_shmem_pipeline(Oid database, int32 id, bool make);

/* My pipeline (or extension) is gone from the catalog: do not start it again before a scan has looked. */
extern void ss_shmem_gone(void);

/*
 * A courier's last words: more says that rows are left, to be tried again at
 * retry_at (0: at once).  Rows that committed since the courier's start, or
 * since its last ss_shmem_courier_look, keep the outbox wanted whatever more says.
 * ss_shmem_courier_look is called before each look for rows.
 */
extern void ss_shmem_courier_look(void);
extern bool ss_shmem_courier_changed(void);
extern void ss_shmem_courier_done(bool more, TimestampTz retry_at);

/* Others want the slot of a courier that has nothing to do. */
extern bool ss_shmem_courier_crowded(void);

/* There are rows for the late courier, the first of them due then; added: there are more than before. */
extern void ss_shmem_courier_late(TimestampTz due, bool added);

/* ---- slots ---- */

/* Reserve a slot; NULL if none is free.  For a worker: also NULL if that share is taken or held. */
extern SsSlot *ss_shmem_reserve(SsSlotKind kind, Oid database, int32 pipeline_id, int share);

/* Attach this process to a slot it was given (index, generation): registers the release in before_shmem_exit.  False if the slot is no longer ours. */
extern bool ss_shmem_attach(int slot, uint32 generation);

/* Release a slot if the generation still matches; broadcasts and wakes the launcher. */
extern void ss_shmem_release(int slot, uint32 generation);

/* A session's slot for one pipeline, released by itself at the end of the (sub)transaction unless released before.  ERROR 53400 when none is free. */
extern void ss_shmem_session_slot(int32 pipeline_id);
extern void ss_shmem_session_slot_release(void);

/* The number of live workers (attached or reserved) of a pipeline. */
extern int ss_shmem_count_workers(Oid database, int32 pipeline_id);

/* State of my slot, shown in status; broadcasts state_changed.  Texts may be NULL, longer ones are cut at a character. */
extern void ss_shmem_set_state(SsState state, const char *reason, const char *hint, TimestampTz next_retry_at);

/* What my slot knows of Redis. */
extern void ss_shmem_set_redis(SsRedisLink link);

/* Remember an error of my slot and pipeline (message without secrets). */
extern void ss_shmem_note_error(const char *sqlstate, const char *message);

/*
 * Begin a batch: waits while a control call wants this pipeline (latch wait,
 * serves interrupts, outside a transaction), then sets in_batch.  False if the pipeline is no longer
 * enabled here or its generation differs from the given one: reload.
 */
extern bool ss_shmem_begin_batch(int64 generation, int64 entries, int64 bytes);

/* End it: withdraws ranges, clears in_batch, broadcasts.  Idempotent; safe in error paths. */
extern void ss_shmem_end_batch(void);

/*
 * Publish the id ranges of my batch.  False, and nothing is published, if
 * another slot of this pipeline has published an overlapping one (its stream
 * and ids): then wait with ss_shmem_wait_ranges and try again.  More than
 * SS_MAX_RANGES ranges are merged into hulls per stream; with more streams
 * than that, into one range of stream 0, which overlaps everything.
 */
extern bool ss_shmem_publish(const SsRange *ranges, int nranges);
extern void ss_shmem_wait_ranges(long timeout_ms);

/*
 * For control calls: keep workers from beginning batches, wait until none of
 * this pipeline is in one and take the fence lock (AccessExclusiveLock, kept
 * to the end of the transaction).  After timeout_ms running batches are
 * cancelled (SIGINT), which loses nothing.  Works without shared memory too.
 */
extern void ss_shmem_fence(int32 pipeline_id, long timeout_ms);

/* Hold a dead share so that the launcher does not start it; false if it lives.  Release with -1 (always true). */
extern bool ss_shmem_hold_share(int share);

/* Wake the launcher, or all workers of a pipeline (latch). */
extern void ss_shmem_wake_launcher(void);
extern void ss_shmem_wake_pipeline(Oid database, int32 pipeline_id);

/* State of a pipeline as status shows it: from the entry and its slots.  reason and hint: buffers of SS_TEXT_MAX or NULL. */
extern SsState	   ss_shmem_state(Oid database, int32 pipeline_id, bool enabled, bool failed, char *reason, char *hint);
extern const char *ss_shmem_state_name(SsState state);

/* The same with all that the view shows.  entry is a copy, all zero if there is none. */
typedef struct SsStatus
{
	SsState			 state;
	char			 reason[SS_TEXT_MAX];
	char			 hint[SS_TEXT_MAX];
	TimestampTz		 state_since;	   /* 0: unknown */
	TimestampTz		 next_retry_at;	   /* 0: none */
	int				 workers;		   /* attached */
	int				 running;		   /* ... and in state running */
	TimestampTz		 batch_started_at; /* of the oldest batch that is at work; 0: none */
	SsRedisLink		 redis;			   /* the worst of its workers */
	SsPipelineShared entry;
} SsStatus;

extern void ss_shmem_status(Oid database, int32 pipeline_id, bool enabled, bool failed, SsStatus *status);

/* A copy of slot i with the owner of its pipeline; false if it is not in use. */
extern bool ss_shmem_copy_slot(int i, SsSlot *slot, Oid *owner);

/* ---- parts of this module, and its launcher ---- */

/* The commit of a control call (pipeline_id 0: of the outbox only).  Throws nothing. */
extern void ss_shmem_commit_change(int32 pipeline_id, bool control, bool outbox);

/* With the lock held: a scan of the database is wanted; its entry if there is one. */
extern void				 ss_shmem_want_scan_locked(Oid database, TimestampTz now);
extern SsDatabase		*ss_shmem_database_locked(Oid database, bool make);
extern SsPipelineShared *ss_shmem_pipeline_locked(Oid database, int32 id, bool make);
extern void				 ss_shmem_free_unused_locked(SsPipelineShared *entry);
extern SsSlot			*ss_shmem_reserve_locked(SsSlotKind kind, Oid database, int32 pipeline_id, int share);
extern TimestampTz		 ss_shmem_backoff(TimestampTz now, int failures); /* at once after the first, then 1 s, 2 s, ... */
extern void				 ss_shmem_copy_text(char *dest, const char *src, Size size);

/* Keep workers of a pipeline from beginning batches; NULL if it has no entry and there is no room.  Undone by unyield, once. */
extern SsPipelineShared *ss_shmem_yield(int32 pipeline_id);
extern void				 ss_shmem_unyield(SsPipelineShared *entry);

/* The number of background workers in a batch; with cancel they get a SIGINT. */
extern int ss_shmem_busy(SsPipelineShared *entry, bool cancel);

/* What the launcher should do about a pipeline. */
typedef struct SsPlan
{
	int			pipeline; /* index */
	Oid			database;
	int32		id;
	char		name[SS_NAME_MAX];
	Oid			owner;
	int			share; /* one without a worker */
	bool		connect_failed;
	TimestampTz due; /* not before */
} SsPlan;

/* The launcher is there (its latch), or with false gone. */
extern void ss_shmem_launcher_attach(void);

/* True once after ss_shmem's rescan was set. */
extern bool ss_shmem_take_rescan(void);

/* Ask for a scan; false if there is no room for the database now. */
extern bool ss_shmem_want_scan(Oid database);

/* Is there a share of pipeline i to start?  Fills *plan. */
extern bool ss_shmem_plan(int i, TimestampTz now, SsPlan *plan);

/* Why a wanted worker does not run, and when it is looked at again (0: unchanged). */
extern void ss_shmem_set_launch(int i, int32 id, const char *reason, const char *hint, TimestampTz next_start_at);

/*
 * The next database to scan (to send a courier to) that is due at now:
 * reserves the slot.  NULL if there is none; lowers *due to the time of the next one.
 */
extern SsSlot *ss_shmem_next_scan(TimestampTz now, TimestampTz *due);
extern SsSlot *ss_shmem_next_courier(TimestampTz now, TimestampTz *due);

/* The slot's process was not registered (no_process: there is none): give it back, try again at retry_at. */
extern void ss_shmem_unreserve(SsSlot *slot, uint32 generation, bool no_process, TimestampTz retry_at);

/* A reserved slot without a process: true, with its generation and since when. */
extern bool ss_shmem_unattached(int slot, uint32 *generation, TimestampTz *reserved_at);

/* Databases that pipelines or scans refer to, into a palloc'd array; and forgetting one. */
extern int	ss_shmem_databases(Oid **databases);
extern void ss_shmem_forget_database(Oid database);

#endif /* SS_SHMEM_H */
