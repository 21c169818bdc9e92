/*
 * ss_pump.c
 *	  The pump: reads out, replies in, acknowledgements behind them.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <limits.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_counter.h"
#include "ss_fault.h"
#include "ss_guc.h"
#include "ss_ledger.h"
#include "ss_pump.h"
#include "ss_server.h"
#include "ss_stats.h"

#define FIRST_BUDGET	  64		  /* entries of the first read after a connect */
#define LEAVE_MS		  300		  /* wait for Redis when leaving */
#define PROGRESS_BYTES	  (64 * 1024) /* of a reply move its deadline */
#define RECHECK_MS		  10000
#define TAKEOVER_MS		  10000
#define TAKEOVER_MORE_MS  100  /* while there is more to take over or to claim */
#define JOIN_FIRST_MS	  1000 /* from the connect to the first look for what can be joined */
#define ACK_REPLIES_LIMIT (64 * 1024 * 1024)
#define MAX_READ_FAILURES 5 /* error replies about streams in a row before they are raised */

/*
 * Bytes of memory the replies of one batch may take.  A reply above it breaks
 * the connection, and the next one begins with single entries.  If one entry
 * alone does not fit, every further failure doubles what is allowed.
 */
static Size
reply_limit(const SsPipeline *pipeline)
{
	return (Size) pipeline->batch_bytes + pipeline->batch_bytes / 4 + 8 * 1024 * 1024;
}

/* While a batch is worked on: make room in the socket for the read sent ahead. */
static void
soak(void *arg)
{
	SsPump *pump = arg;

	if (pump->reading)
		ss_redis_soak(pump->redis);
}

SsPump *
ss_pump_open(SsRun *run, int share, int nshares, bool session,
			 SsTrouble *trouble, MemoryContext parent)
{
	int			   caution = trouble ? trouble->caution : 0;
	MemoryContext  cxt = AllocSetContextCreate(parent, "streamsink connection", ALLOCSET_DEFAULT_SIZES);
	MemoryContext  saved = MemoryContextSwitchTo(cxt);
	SsPump		  *pump = palloc0_object(SsPump);
	SsPipeline	  *pipeline = run->pipeline;
	SsRedisParams *params;
	TimestampTz	   now = GetCurrentTimestamp();

	pump->cxt = cxt;
	pump->run = run;
	pump->share = share;
	pump->nshares = nshares;
	pump->session = session;
	pump->trouble = trouble;
	if (run->tmpl->single)
		snprintf(pump->consumer, sizeof(pump->consumer), "%s:%d", pipeline->consumer, share);
	else
		strlcpy(pump->consumer, pipeline->consumer, sizeof(pump->consumer));

	if (!session)
		StartTransactionCommand();
	MemoryContextSwitchTo(cxt);
	params = ss_server_params(pipeline->server, pipeline->owner_oid);
	params->max_bulk = pipeline->max_entry_bytes;
	ss_discover_load(pump);
	if (!session)
		CommitTransactionCommand();
	if (trouble)
		pump->attempts = ss_attempt_load(pipeline, share, cxt);

	MemoryContextSwitchTo(cxt);
	pump->redis = ss_redis_open(params, cxt, pump->consumer);
	SS_FAULT("after-connect");
	pump->acks = ss_settle_acks_create(cxt, pipeline->consumer_group);
	pump->reply_limit = reply_limit(pipeline);
	pump->batch = ss_batch_create(cxt, pump->reply_limit << Min(caution, 10));
	pump->batch->interlude = soak;
	pump->batch->interlude_arg = pump;
	pump->budget = caution > 0 ? 1 : Min(FIRST_BUDGET, pipeline->batch_size);
	pump->scan_due = now;
	pump->sample_due = now;
	pump->recheck_due = TimestampTzPlusMilliseconds(now, RECHECK_MS);
	pump->takeover_due = now;
	pump->heartbeat_due = session ? DT_NOEND : now;
	pump->join_due = session ? DT_NOEND : TimestampTzPlusMilliseconds(now, JOIN_FIRST_MS);
	pump->prune_due = pump->join_due;
	MemoryContextSwitchTo(saved);
	return pump;
}

void
ss_pump_close(SsPump *pump)
{
	if (!ss_redis_is_open(pump->redis))
		ss_rotation_lost(pump);
	ss_redis_close(pump->redis);
	MemoryContextDelete(pump->cxt);
}

/* Time between two looks at what may be taken over or claimed. */
static int64
takeover_ms(const SsPump *pump)
{
	int64 idle = pump->run->pipeline->claim_idle_ms;

	return idle < 0 ? TAKEOVER_MS : Max(Min(idle, TAKEOVER_MS), 1000);
}

int
ss_pump_batch_size(const SsPump *pump)
{
	int size = pump->run->pipeline->batch_size;

	if (pump->attempts && ss_attempt_alone(pump->attempts))
		return 1;
	return pump->trouble && pump->trouble->limit > 0 ? Min(size, pump->trouble->limit) : size;
}

bool
ss_pump_commits(const SsPump *pump)
{
	return !pump->session || pump->commit != NULL;
}

void
ss_pump_begin(SsPump *pump)
{
	Assert(ss_pump_commits(pump));
	if (!pump->session)
		StartTransactionCommand();
}

void
ss_pump_commit(SsPump *pump)
{
	if (pump->session)
		pump->commit();
	else
	{
		CommitTransactionCommand();
		pgstat_report_stat(false);
	}
	if (!XLogRecPtrIsInvalid(XactLastCommitEnd))
		XLogFlush(XactLastCommitEnd);
}

bool
ss_pump_task_due(SsPump *pump)
{
	TimestampTz now = GetCurrentTimestamp();

	return now >= pump->scan_due || now >= pump->sample_due ||
		   now >= pump->recheck_due || now >= pump->takeover_due || now >= pump->join_due ||
		   now >= pump->heartbeat_due || now >= pump->prune_due ||
		   ss_discover_unprepared(pump, now);
}

void
ss_pump_tasks(SsPump *pump)
{
	TimestampTz now = GetCurrentTimestamp();

	Assert(!pump->reading && pump->batch->nentries == 0);
	if (!ss_pump_task_due(pump))
		return;

	/* The tasks talk to Redis one question at a time: nothing else may be under way. */
	ss_pump_acknowledge(pump, true);
	if (now >= pump->scan_due)
		ss_discover_step(pump);
	if (ss_discover_unprepared(pump, now))
		ss_discover_prepare(pump);
	if (now >= pump->takeover_due)
	{
		bool more = !pump->session && pump->run->tmpl->single && ss_takeover_step(pump);

		if (!pump->session && !more)
			more = ss_claim_step(pump);
		pump->takeover_due = TimestampTzPlusMilliseconds(now, more ? TAKEOVER_MORE_MS : takeover_ms(pump));
	}
	if (now >= pump->recheck_due)
	{
		for (int i = 0; i < pump->nstreams; i++)
		{
			pump->streams[i]->recovered = false;
			pump->streams[i]->pending_after = SS_ENTRYID_MIN;
		}
		pump->recheck_due = DT_NOEND;
	}
	if (now >= pump->heartbeat_due)
	{
		ss_heartbeat_step(pump);
		pump->heartbeat_due = TimestampTzPlusMilliseconds(now, Max(ss_guc_failover_delay / 3, 10));
	}
	if (now >= pump->sample_due)
	{
		if (!pump->session)
		{
			ss_counter_save_errors(pump->run->pipeline); /* those that came too soon after the last ones */
			ss_sample_step(pump);
			ss_trim_step(pump);
		}
		pump->sample_due = TimestampTzPlusMilliseconds(now, ss_guc_sample_interval);
	}
	if (now >= pump->join_due)
		ss_join_step(pump);
	if (now >= pump->prune_due)
		ss_prune_step(pump);
}

bool
ss_pump_is_quiet(const SsPump *pump)
{
	return pump->quiet >= ss_rotation_count_live(pump);
}

/* Milliseconds until the next task is due, for the time a read may wait in Redis. */
static long
until_next_task(const SsPump *pump)
{
	TimestampTz next = Min(Min(pump->scan_due, pump->sample_due),
						   Min(Min(pump->recheck_due, pump->takeover_due), Min(Min(pump->join_due, pump->heartbeat_due), pump->prune_due)));

	for (int i = 0; i < pump->nstreams; i++)
		if (!pump->streams[i]->prepared)
			next = Min(next, pump->streams[i]->probe_at);
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next);
}

void
ss_pump_read_ahead(SsPump *pump)
{
	pump->ahead = true;
	(void) ss_pump_send_read(pump, 0);
	pump->ahead = false;
}

bool
ss_pump_send_read(SsPump *pump, int max_block_ms)
{
	bool idle = max_block_ms > 0 && ss_pump_is_quiet(pump) && !pump->session;
	int	 block_ms = 0;

	Assert(!pump->reading);
	if (!ss_rotation_choose(pump, idle))
		return false;
	if (max_block_ms > 0 && !pump->read_pending && (idle || pump->batch->nentries > 0))
	{
		/* Only over all keys may a read wait as long as it likes. */
		int64 longest = ss_rotation_count_live(pump) <= pump->nread ? ss_guc_block_time : 20;

		block_ms = (int) Max(1, Min(Min(longest, max_block_ms), until_next_task(pump)));
	}
	ss_stream_append_read(pump->redis, pump->run->pipeline->consumer_group, pump->consumer,
						  pump->read_streams, pump->nread, pump->read_pending,
						  pump->read_count, block_ms);
	SS_FAULT("before-read");
	(void) ss_redis_flush(pump->redis);
	pump->reading = true;
	pump->used_before = pump->ahead ? 0 : pump->batch->arena.used;
	pump->read_blocks = block_ms > 0;
	pump->read_ahead = pump->ahead;
	pump->read_mark = ss_redis_received(pump->redis);
	pump->read_deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  block_ms + ss_redis_params(pump->redis)->command_timeout);
	return true;
}

/* An error reply to a read: about single streams, which are looked at one by one, or about all. */
static void
take_read_error(SsPump *pump, const SsReply *reply)
{
	if ((ss_reply_error_is(reply, "NOGROUP") || ss_reply_error_is(reply, "WRONGTYPE") ||
		 (ss_reply_error_is(reply, "UNBLOCKED") && strstr(reply->str, "key") != NULL)) &&
		pump->read_failures++ < MAX_READ_FAILURES)
	{
		for (int i = 0; i < pump->nread; i++)
		{
			pump->read_streams[i]->prepared = false;
			pump->read_streams[i]->probe_at = 0;
		}
		return;
	}
	ss_reply_raise(reply, "XREADGROUP");
}

static void
take_read(SsPump *pump, const SsReply *reply)
{
	SsBatch *batch = pump->batch;
	Size	 used_before = pump->used_before;
	int		 added;

	if (reply->type == SS_REPLY_ERROR)
	{
		take_read_error(pump, reply);
		return;
	}
	pump->read_failures = 0;
	ss_rotation_came(pump);
	if (batch->nentries == 0)
		batch->started_at = GetCurrentTimestamp();
	added = ss_stream_parse_read(reply, pump->read_streams, pump->nread,
								 pump->read_pending, pump->read_count, batch);
	if (added == 0)
	{
		if (!pump->read_pending)
			pump->quiet = Min(pump->quiet, INT_MAX - SS_STREAM_MAX_KEYS) + pump->nread;
		return;
	}
	pump->quiet = 0;
	pump->entry_bytes = Max(pump->entry_bytes - pump->entry_bytes / 8,
							(int64) (batch->arena.used - used_before) / added);
	pump->budget = Min(pump->run->pipeline->batch_size, pump->budget * 4);
}

/* A stream or group that is gone needs no acknowledgement any more; the next read will tell. */
static void
take_ack(SsPump *pump, const SsReply *reply)
{
	if (reply->type == SS_REPLY_ERROR && !ss_reply_error_is(reply, "NOGROUP") &&
		!ss_reply_error_is(reply, "WRONGTYPE"))
	{
		/* to settle the same entries with every connection is no progress */
		if (!pump->acknowledged)
			ss_stats_refused_ack();
		ss_reply_raise(reply, "XACK");
	}
	pump->acknowledged = true;
}

bool
ss_pump_receive(SsPump *pump, long timeout_ms)
{
	TimestampTz give_up = timeout_ms < 0 ? DT_NOEND :
										   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);

	Assert(pump->reading);
	if (pump->read_ahead)
	{
		/* It was sent before a batch was written, which may have taken long: nobody waited for it yet. */
		pump->read_ahead = false;
		pump->read_deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														  ss_redis_params(pump->redis)->command_timeout);
	}
	for (;;)
	{
		SsReply	   *reply = ss_redis_poll(pump->redis, &pump->batch->arena);
		TimestampTz now;
		instr_time	started;
		instr_time	ended;
		int			events;

		if (reply)
		{
			if (pump->acks_ahead > 0)
			{
				pump->acks_ahead--;
				take_ack(pump, reply);
				continue;
			}
			pump->reading = false;
			pump->acks_ahead = pump->acks_behind;
			pump->acks_behind = 0;
			take_read(pump, reply);
			return true;
		}

		now = GetCurrentTimestamp();
		if (ss_redis_received(pump->redis) - pump->read_mark >= PROGRESS_BYTES)
		{
			/* A slow line that makes progress is not a dead one. */
			pump->read_mark = ss_redis_received(pump->redis);
			pump->read_deadline = Max(pump->read_deadline,
									  TimestampTzPlusMilliseconds(now, ss_redis_params(pump->redis)->command_timeout));
		}
		if (now >= pump->read_deadline)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("Redis server \"%s\" did not answer in time",
							ss_redis_params(pump->redis)->server_name),
					 errdetail("A reply to XREADGROUP took longer than %d ms.",
							   ss_redis_params(pump->redis)->command_timeout)));
		if (now >= give_up)
			return false;

		INSTR_TIME_SET_CURRENT(started);
		events = ss_redis_wait(pump->redis,
							   TimestampDifferenceMilliseconds(now, Min(give_up, pump->read_deadline)),
							   PG_WAIT_EXTENSION);
		INSTR_TIME_SET_CURRENT(ended);
		INSTR_TIME_SUBTRACT(ended, started);
		pump->wait_us += INSTR_TIME_GET_MICROSEC(ended);
		if (events & WL_LATCH_SET)
			return false;
	}
}

void
ss_pump_acknowledge(SsPump *pump, bool flush)
{
	int commands = ss_settle_acks_send(pump->acks, pump->redis, flush);

	if (pump->reading)
		pump->acks_behind += commands;
	else
		pump->acks_ahead += commands;
	(void) ss_redis_flush(pump->redis);

	if (flush && !pump->reading && pump->acks_ahead > 0)
	{
		MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink replies", ALLOCSET_SMALL_SIZES);
		SsArena		  arena;

		ss_arena_init(&arena, scratch, ACK_REPLIES_LIMIT);
		for (; pump->acks_ahead > 0; pump->acks_ahead--)
			take_ack(pump, ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION));
		MemoryContextDelete(scratch);
	}
}

void
ss_pump_leave(SsPump *pump)
{
	TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LEAVE_MS);

	ss_pump_acknowledge(pump, false);
	if (ss_settle_acks_waiting(pump->acks) > 0)
	{
		int commands = ss_settle_acks_send(pump->acks, pump->redis, true);

		if (pump->reading)
			pump->acks_behind += commands;
		else
			pump->acks_ahead += commands;
	}

	/* A read that waits in Redis holds up what is behind it; what it brings stays pending. */
	while (!(pump->reading && pump->read_blocks) &&
		   (pump->acks_ahead > 0 || pump->acks_behind > 0 || ss_redis_unsent(pump->redis) > 0))
	{
		SsReply	   *reply;
		TimestampTz now = GetCurrentTimestamp();

		if (now >= give_up)
			break;
		(void) ss_redis_flush(pump->redis);
		reply = ss_redis_poll(pump->redis, &pump->batch->arena);
		if (!reply)
			(void) ss_redis_wait(pump->redis, TimestampDifferenceMilliseconds(now, give_up), PG_WAIT_EXTENSION);
		else if (pump->acks_ahead > 0)
			pump->acks_ahead--;
		else
		{
			pump->reading = false;
			pump->acks_ahead = pump->acks_behind;
			pump->acks_behind = 0;
		}
	}
}
