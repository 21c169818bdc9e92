/*
 * ss_pump.h
 *	  The pump: one connection's life, from the streams of a share to batches
 *	  ready to be settled.
 *
 * NOTES
 *	  Used by workers (waits in Redis, runs for ever) and by ingest (never
 *	  waits, ends when drained).  Everything lives in pump->cxt; after an error
 *	  it is thrown away as a whole, the entries stay pending in Redis and are
 *	  read again first.
 *	  At most one read is outstanding.  Between sending a read ahead and
 *	  resetting the batch nothing is received, because replies are built in the
 *	  batch's memory.
 */
#ifndef SS_PUMP_H
#define SS_PUMP_H

#include "ss_attempt.h"
#include "ss_settle.h"
#include "ss_stream.h"
#include "ss_trouble.h"
#include "utils/hsearch.h"

typedef struct SsPump
{
	MemoryContext cxt;
	SsRun		 *run; /* not ours: it outlives connections */
	SsRedis		 *redis;
	SsAcks		 *acks;
	SsBatch		 *batch;
	bool		  session; /* ingest, reconcile: inside a caller's transaction, never blocks */
	void (*commit)(void);  /* in a session: commit and begin anew; NULL: the transaction is the caller's */
	int			share;	   /* which share of nshares */
	int			nshares;
	char		consumer[96];
	SsTrouble  *trouble;  /* what the worker remembers; NULL in a session, and so is the next */
	SsAttempts *attempts; /* the crash-loop guard */

	/* the streams of this share */
	SsStream **streams;
	int		   nstreams;
	int		   streams_capacity;
	HTAB	  *by_name;
	char	  *scan_cursor; /* a look for new streams under way, or NULL */
	bool	   first_scan;	/* no stream of the pipeline was known before: they begin at start_from */
	List	  *first_names; /* what that look found so far, of all shares */

	/* the outstanding read */
	bool		reading;
	bool		read_pending; /* own pending entries, not new ones */
	int			read_count;
	bool		read_blocks;
	Size		used_before; /* of the batch's memory, when its reply began */
	TimestampTz read_deadline;
	bool		read_ahead; /* sent before a batch was written, and not waited for yet */
	uint64		read_mark;	/* bytes received when the deadline was set */
	SsStream   *read_streams[SS_STREAM_MAX_KEYS];
	int			nread;
	int			read_failures; /* consecutive error replies that named a stream */
	int			acks_ahead;	   /* replies to XACK that come before the read's */
	int			acks_behind;   /* ... after it */
	bool		acknowledged;  /* some acknowledgement was taken */

	/* rotation and its budget */
	int			cursor;
	int			hot_cursor;
	int			quiet;		 /* streams asked in vain since the last entry */
	int			budget;		 /* entries the next read may bring */
	int64		entry_bytes; /* memory an entry was seen to need */
	bool		ahead;		 /* the next read is for the batch after this one */
	Size		reply_limit; /* bytes of memory a batch's replies may take */
	TimestampTz swept_at;
	bool		swept; /* the last read was for streams that are not hot */

	/* when the periodic tasks are due */
	TimestampTz scan_due;
	TimestampTz sample_due;
	TimestampTz recheck_due; /* own pending entries once more: a command of a dead connection may run late */
	TimestampTz takeover_due;
	TimestampTz join_due;
	TimestampTz heartbeat_due;
	TimestampTz prune_due;
	int			sample_cursor;
	int			join_cursor;  /* the stream whose ledger is joined next */
	bool		join_refused; /* Redis does not let us ask */
	int			prune_cursor;
	int			trim_cursor;
	bool		trim_refused; /* Redis does not let us */
	TimestampTz trim_report_due;
	int			claim_cursor; /* the stream whose foreign pending entries are looked at next */
	SsEntryId	claim_after;  /* ... behind this id */

	int64 wait_us; /* time spent waiting for Redis since the last batch */
} SsPump;

/*
 * Connect and get ready: streams known so far, their high marks.  Errors are
 * raised.  Not in a transaction of a worker.  trouble is the worker's and outlives it, NULL in a session;
 * after a connection that failed because a reply was too large (ERROR 54000) reading begins with
 * single entries.
 */
extern SsPump *ss_pump_open(SsRun *run, int share, int nshares, bool session,
							SsTrouble *trouble, MemoryContext parent);
extern void	   ss_pump_close(SsPump *pump);

/*
 * Changes of the catalog that Redis must not know of before they are on disk:
 * begin, and commit with a flush.  Not possible (ss_pump_commits false) in a
 * transaction that is the caller's.
 */
extern bool ss_pump_commits(const SsPump *pump);
extern void ss_pump_begin(SsPump *pump);
extern void ss_pump_commit(SsPump *pump);

/*
 * Do the periodic tasks that are due (prepare groups, look for streams, sample, take over, claim, join,
 * prune): nothing may be outstanding.  The batch, empty before, may hold entries without a body then.  ss_pump_task_due tells without doing.
 */
extern bool ss_pump_task_due(SsPump *pump);
extern void ss_pump_tasks(SsPump *pump);

/* Entries that a batch may hold now. */
extern int ss_pump_batch_size(const SsPump *pump);

/* Send the next read; false if there is nothing to read from.  max_block_ms 0: do not wait in Redis. */
extern bool ss_pump_send_read(SsPump *pump, int max_block_ms);

/* Send a read for the next batch before this one is settled; it does not wait in Redis. */
extern void ss_pump_read_ahead(SsPump *pump);

/*
 * Wait for the outstanding read's reply and take it into the batch, at most
 * timeout_ms.  True if it came; false on time-out or when the latch was set.
 */
extern bool ss_pump_receive(SsPump *pump, long timeout_ms);

/* Is everything delivered and nothing left in any stream at this moment? */
extern bool ss_pump_is_quiet(const SsPump *pump);

/* Send acknowledgements that may go; with flush, force the log out first and wait for Redis's replies. */
extern void ss_pump_acknowledge(SsPump *pump, bool flush);

/*
 * Before closing: send every acknowledgement, forcing the log out first, and
 * wait a moment for Redis to take them.  Never long: Redis may hang.
 */
extern void ss_pump_leave(SsPump *pump);

/* ---- ss_rotation.c ---- */

/* Choose what to read next into read_streams, read_pending, read_count; false if there is nothing. */
extern bool ss_rotation_choose(SsPump *pump, bool idle);

/* The connection was lost, perhaps with a read outstanding; a reply to a read came. */
extern void ss_rotation_lost(const SsPump *pump);
extern void ss_rotation_came(const SsPump *pump);

/* Is the stream read in turn now? */
extern bool ss_rotation_is_live(const SsStream *stream);
extern int	ss_rotation_count_live(const SsPump *pump);

/* ---- ss_discover.c ---- */

/* Load the streams known to the catalog that belong to this share. */
extern void ss_discover_load(SsPump *pump);

/* One step of the look for new streams; for a single key, make sure it is known. */
extern void ss_discover_step(SsPump *pump);

/* Look for all streams, at once and to the end, and prepare them. */
extern void ss_discover_all(SsPump *pump);

/* Prepare those that are not and are due. */
extern bool ss_discover_unprepared(const SsPump *pump, TimestampTz now);
extern void ss_discover_prepare(SsPump *pump);

/* ---- ss_heartbeat.c ---- */

/* Tell Redis that we live, for all streams. */
extern void ss_heartbeat_step(SsPump *pump);

/* ---- ss_sample.c ---- */

/* Ask about some streams and report what they hold. */
extern void ss_sample_step(SsPump *pump);

/* ---- ss_takeover.c ---- */

/*
 * Take over the pending entries of consumers of ours that have no live worker;
 * of a single stream only.  True if more is left than the batch can take: what
 * is pending without being in the stream any more is put into it.
 */
extern bool ss_takeover_step(SsPump *pump);

/* ---- ss_claim.c ---- */

/*
 * Claim ids (ascending) that are pending with a consumer, or with anybody
 * (NULL), for at least so long.  Those that are pending and not in the stream
 * any more are put into the batch.  Returns how many are ours now.  Leaves
 * memory behind in CurrentMemoryContext.
 */
extern int ss_claim_ids(SsPump *pump, SsStream *stream, const SsEntryId *ids, int n, int64 idle_ms, const char *consumer);

/* Claim some of what consumers that are not ours have had pending for claim_idle; true if there is more. */
extern bool ss_claim_step(SsPump *pump);

/* ---- ss_prune.c ---- */

/* Remove entries from some streams that everybody is done with, as trim_after says.  Not in a session. */
extern void ss_trim_step(SsPump *pump);

/* Forget old settled intervals of some streams; sets prune_due.  Not in a session. */
extern void ss_prune_step(SsPump *pump);

/* ---- ss_join.c ---- */

/* Join settled intervals of some streams where nothing lies between them; sets join_due.  Not in a session. */
extern void ss_join_step(SsPump *pump);

#endif /* SS_PUMP_H */
