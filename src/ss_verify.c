/*
 * ss_verify.c
 *	  Is what was settled of a stream still in it, as it was settled?
 *
 * NOTES
 *	  Every settled interval has a hash of its last entry.  If the newest one is
 *	  in the stream with that hash, nothing was lost: Redis loses ends only.  If
 *	  not, intervals are followed back to one that is.  The interval behind
 *	  it, the torn one, was lost in part or as a whole, and those after it as a
 *	  whole.
 *
 *	  Ids above the stream's last id are not settled any more: they may be given
 *	  to new entries.  Entries above the torn interval that are in the stream
 *	  are new, although their ids were settled once: producers give ids
 *	  themselves, or the clock went back.  Then the ids above the torn interval are
 *	  not settled any more, and of what is in the stream at its place nobody
 *	  knows whether it was settled: each is kept as a dead letter.  Where there
 *	  is no such sign, what is there was settled.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_deadletter.h"
#include "ss_fault.h"
#include "ss_interval.h"
#include "ss_verify.h"

#define INTERVALS_A_QUESTION 64
#define REPLY_LIMIT			 ((Size) 512 * 1024 * 1024)
#define MAX_DOUBTFUL		 10000 /* entries; with more of them the stream is left alone */
#define MAX_DOUBTFUL_BYTES	 (128 * 1024 * 1024)
#define LARGE_REPLY			 (256 * 1024)
#define FOLD_ROWS			 10000
#define TIME_LIKE_MS		 UINT64CONST(100000000000) /* 1973: a producer's own numbers are lower */

static bool
is_after(SsEntryId a, SsEntryId b)
{
	return ss_entryid_compare(a, b) > 0;
}

SsVerdict
ss_verify_newest(const SsStream *stream, uint64 hash, const SsStreamInfo *info, const SsReply *reply)
{
	uint64 found;

	if (is_after(stream->high, info->last_generated))
		return SS_VERIFY_DOUBT;
	if (ss_stream_parse_one(reply, stream->high, &found))
		return hash == 0 || found == 0 || hash == found ? SS_VERIFY_INTACT : SS_VERIFY_DOUBT;

	/* Gone: trimmed, as everything before the first entry; or deleted, as it or a later one was. */
	if (info->length == 0 || is_after(info->first, stream->high) ||
		!is_after(stream->high, info->max_deleted) || hash == 0)
		return SS_VERIFY_INTACT;
	return SS_VERIFY_DOUBT;
}

/* ---- tracing back ---- */

/* All settled intervals of a stream, in CurrentMemoryContext. */
static int
load_intervals(const SsPump *pump, const SsStream *stream, SsInterval **intervals)
{
	MemoryContext	  saved = CurrentMemoryContext;
	const SsInterval *loaded;
	SsSettled		 *settled;
	int				  n;

	if (!pump->session)
		StartTransactionCommand();
	MemoryContextSwitchTo(saved);
	settled = ss_ledger_load(pump->run->pipeline->id, &stream->id, 1);
	n = ss_ledger_intervals(settled, stream->id, &loaded);
	*intervals = unconstify(SsInterval *, loaded);
	if (!pump->session)
		CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	return n;
}

/* Is there an entry in the stream behind one id and up to another? */
static bool
has_between(SsPump *pump, const SsStream *stream, SsEntryId after, SsEntryId end, MemoryContext scratch)
{
	MemoryContext saved;
	SsArena		  arena;
	SsEntryId	 *ids;
	bool		  result;

	if (!is_after(end, after))
		return false;
	saved = MemoryContextSwitchTo(scratch);
	ss_arena_init(&arena, scratch, REPLY_LIMIT);
	ss_stream_append_between(pump->redis, stream, after, end, 1);
	result = ss_stream_parse_ids(ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION), &ids) > 0;
	MemoryContextSwitchTo(saved);
	MemoryContextReset(scratch);
	return result;
}

/* The hash of an entry, 0 if it is not in the stream. */
static uint64
ask_hash(SsPump *pump, const SsStream *stream, SsEntryId id, MemoryContext scratch)
{
	MemoryContext saved = MemoryContextSwitchTo(scratch);
	SsArena		  arena;
	uint64		  hash;

	ss_arena_init(&arena, scratch, REPLY_LIMIT);
	ss_stream_append_one(pump->redis, stream, id);
	if (!ss_stream_parse_one(ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION), id, &hash))
		hash = 0;
	MemoryContextSwitchTo(saved);
	MemoryContextReset(scratch);
	return hash;
}

/* Is there an entry with exactly this id? */
static bool
has_entry(SsPump *pump, const SsStream *stream, SsEntryId id, MemoryContext scratch)
{
	MemoryContext saved = MemoryContextSwitchTo(scratch);
	SsArena		  arena;
	uint64		  hash;
	bool		  result;

	ss_arena_init(&arena, scratch, REPLY_LIMIT);
	ss_stream_append_one(pump->redis, stream, id);
	result = ss_stream_parse_one(ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION), id, &hash);
	MemoryContextSwitchTo(saved);
	MemoryContextReset(scratch);
	return result;
}

/*
 * The index of the last interval of which the stream has the last entry, or
 * that was trimmed away; -1 if there is none.  *reused is set if the last entry
 * of a later one is there, but is another one.
 */
static int
find_verified(SsPump *pump, const SsStream *stream, const SsStreamInfo *info,
			  const SsInterval *intervals, int n, bool *reused, MemoryContext scratch)
{
	int verified = -1;

	*reused = false;
	for (int end = n; end > 0 && verified < 0;)
	{
		int			  begin = Max(0, end - INTERVALS_A_QUESTION);
		MemoryContext saved = MemoryContextSwitchTo(scratch);
		bool		  reused_here = false;

		for (int i = begin; i < end; i++)
			ss_stream_append_one(pump->redis, stream, intervals[i].last);
		for (int i = begin; i < end; i++)
		{
			SsArena		   arena;
			const SsReply *reply;
			uint64		   found;

			ss_arena_init(&arena, scratch, REPLY_LIMIT);
			reply = ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION);
			if (ss_stream_parse_one(reply, intervals[i].last, &found))
			{
				if (intervals[i].hash != 0 && found != 0 && intervals[i].hash != found)
					reused_here = true;
				else if (intervals[i].hash != 0 && found != 0)
				{
					verified = i;
					reused_here = false; /* what is before it is as it was */
				}
			}
			else if (info->length > 0 && is_after(info->first, intervals[i].last))
				verified = i;
			MemoryContextReset(scratch);
		}
		MemoryContextSwitchTo(saved);
		*reused |= reused_here;
		end = begin;
	}
	return verified;
}

void
ss_verify_trace(SsPump *pump, const SsStream *stream, const SsStreamInfo *info, SsTrace *trace)
{
	MemoryContext trace_cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink trace", ALLOCSET_DEFAULT_SIZES);
	MemoryContext scratch = AllocSetContextCreate(trace_cxt, "streamsink question", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(trace_cxt);
	SsInterval	 *intervals;
	int			  n = load_intervals(pump, stream, &intervals);
	bool		  reused;
	int			  verified = find_verified(pump, stream, info, intervals, n, &reused, scratch);

	memset(trace, 0, sizeof(*trace));
	trace->verdict = verified >= 0 ? SS_VERIFY_LOST : SS_VERIFY_STRANGE;

	/* Its first interval may be torn: nobody but Redis makes an id of time, so it is the same stream. */
	if (verified < 0 && !reused && n > 0 && intervals[0].first.ms >= TIME_LIKE_MS &&
		has_entry(pump, stream, intervals[0].first, scratch))
		trace->verdict = SS_VERIFY_LOST;
	trace->keep = info->last_generated;
	if (verified >= 0)
		trace->verified = intervals[verified].last;
	if (verified + 1 < n)
	{
		SsEntryId torn = intervals[verified + 1].last;

		if (has_between(pump, stream, torn, intervals[n - 1].last, scratch))
			reused = true;
		if (reused)
		{
			trace->doubtful = torn;
			if (is_after(trace->keep, torn))
				trace->keep = torn;
		}
		else
		{
			/* what is cut off here must be verified by its new end when the next loss is traced */
			trace->hash = ask_hash(pump, stream, trace->keep, scratch);
		}
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(trace_cxt);
}

/* ---- cutting ---- */

/*
 * The doubtful entries, into a batch of refusals; false if there are too many.
 * Those whose ids were not settled are new without doubt, and come by themselves.
 */
static bool
collect_doubtful(SsPump *pump, SsStream *stream, const SsTrace *trace, SsBatch *batch)
{
	MemoryContext saved = CurrentMemoryContext;
	SsEntryId	  after = trace->verified;
	SsEntryId	  delivered = stream->delivered;
	SsInterval	 *intervals;
	int			  nintervals = load_intervals(pump, stream, &intervals);
	bool		  few = true;
	int			  count = 1;

	MemoryContextSwitchTo(saved);
	while (few && is_after(trace->doubtful, after))
	{
		uint64 received = ss_redis_received(pump->redis);
		int	   before = batch->nentries;

		ss_stream_append_between(pump->redis, stream, after, trace->doubtful, count);
		if (ss_stream_parse_range(ss_redis_receive(pump->redis, &batch->arena, 0, PG_WAIT_EXTENSION), stream, batch) == 0)
			break;
		after = batch->entries[batch->nentries - 1].id;
		for (int i = before; i < batch->nentries; i++)
		{
			ErrorData error = {0};

			if (!ss_interval_contains(intervals, nintervals, batch->entries[i].id))
				continue;
			error.elevel = ERROR;
			error.sqlerrcode = ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN;
			error.message = pstrdup("it is not known whether this entry was applied before");
			error.detail = pstrdup("Redis lost the end of the stream and gave ids of lost entries to new ones.");
			ss_batch_refuse(batch, i, "refused", &error);
		}
		few = batch->nentries <= MAX_DOUBTFUL && batch->bytes <= MAX_DOUBTFUL_BYTES;
		if (ss_redis_received(pump->redis) - received < LARGE_REPLY)
			count = Min(count * 2, 256);
		else
			count = Max(count / 4, 1);
	}
	stream->delivered = delivered;
	return few;
}

/* The hash of an entry of the batch, 0 if it is not there. */
static uint64
find_hash(const SsBatch *batch, SsEntryId id)
{
	for (int i = batch->nentries - 1; i >= 0; i--)
		if (ss_entryid_compare(batch->entries[i].id, id) == 0)
			return ss_batch_hash(&batch->entries[i]);
	return 0;
}

/*
 * Replace what is settled of a stream by its part up to an id, in the current
 * transaction.  What ends with this id then is described by hash: that of the
 * entry which is there now, or 0.  False, and nothing is changed, if the stream's
 * highest settled entry is another one than when the stream was looked at.
 */
static bool
keep_up_to(const SsPipeline *pipeline, const SsStream *stream, SsEntryId keep, uint64 hash, SsEntryId *high)
{
	SsInterval *intervals;
	SsEntryId	last = SS_ENTRYID_MIN;
	bool		more;
	bool		all = false;
	int			n;
	int			kept = 0;

	ss_ledger_lock_wait(pipeline->id);
	while (!all)
	{
		CHECK_FOR_INTERRUPTS();
		(void) ss_ledger_fold(pipeline->id, FOLD_ROWS, 0, &all);
	}
	n = ss_ledger_folded(stream->id, SS_ENTRYID_MIN, PG_INT32_MAX, &intervals, &more);
	if (n > 0)
		last = intervals[n - 1].last;
	if (ss_entryid_compare(last, stream->high) != 0 || (n > 0 && intervals[n - 1].hash != stream->high_hash))
		return false;

	*high = SS_ENTRYID_MIN;
	for (int i = 0; i < n && !is_after(intervals[i].first, keep); i++)
	{
		if (!is_after(keep, intervals[i].last))
		{
			intervals[i].last = keep;
			intervals[i].hash = hash;
		}
		*high = intervals[i].last;
		kept++;
	}
	ss_ledger_replace(pipeline->id, stream->id, intervals, kept);
	return true;
}

/* Begin a transaction that may change the ledger; false, and it is ended, if the pipeline was changed. */
static bool
begin_change(SsPump *pump)
{
	const SsPipeline *pipeline = pump->run->pipeline;

	ss_pump_begin(pump);
	ss_catalog_lock(pipeline->id, AccessShareLock);
	if (ss_catalog_is_current(pipeline))
		return true;
	ss_pump_commit(pump);
	return false;
}

bool
ss_verify_cut(SsPump *pump, SsStream *stream, const SsTrace *trace)
{
	MemoryContext saved = CurrentMemoryContext;
	MemoryContext work = AllocSetContextCreate(saved, "streamsink cut", ALLOCSET_DEFAULT_SIZES);
	SsBatch		 *doubtful = ss_batch_create(work, REPLY_LIMIT);
	char		  high[SS_ENTRYID_MAXLEN];
	char		  verified[SS_ENTRYID_MAXLEN];
	bool		  done = false;

	MemoryContextSwitchTo(work);
	ss_entryid_print(stream->high, high);
	ss_entryid_print(trace->verified, verified);
	if (!collect_doubtful(pump, stream, trace, doubtful))
	{
		stream->state = SS_STREAM_WENT_BACK;
		strlcpy(stream->reason, "Redis lost its end and gave ids anew, too many entries are in doubt", sizeof(stream->reason));
	}
	else if (begin_change(pump))
	{
		SsEntryId kept;

		MemoryContextSwitchTo(work);
		done = keep_up_to(pump->run->pipeline, stream, trace->keep,
						  is_after(trace->doubtful, SS_ENTRYID_MIN) ? find_hash(doubtful, trace->keep) : trace->hash, &kept);
		if (done)
			ss_deadletter_store(pump->run->pipeline, doubtful);
		SS_FAULT("before-cut");
		ss_pump_commit(pump);
		SS_FAULT("after-cut");
		if (done)
			stream->high = kept;
	}
	MemoryContextSwitchTo(work);
	if (done)
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("Redis lost the end of stream \"%s\" of pipeline \"%s\"", stream->name, pump->run->pipeline->name),
				 errdetail("The newest settled entry %s is not in it any more; up to %s it is as it was settled. "
						   "Rows of lost entries are kept. %d entries whose ids were given anew are kept as dead letters.",
						   high, verified, doubtful->nrefusals)));
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(work);
	return done;
}

bool
ss_verify_forget(SsPump *pump, SsStream *stream)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	MemoryContext	  saved = CurrentMemoryContext;
	MemoryContext	  work = AllocSetContextCreate(saved, "streamsink forget", ALLOCSET_DEFAULT_SIZES);
	SsEntryId		  high;
	bool			  done = false;

	if (begin_change(pump))
	{
		MemoryContextSwitchTo(work);

		/* the streams before the ledger, as DROP EXTENSION locks them */
		ss_catalog_lock_stream_table();
		done = keep_up_to(pipeline, stream, SS_ENTRYID_MIN, 0, &high);
		if (done)
			ss_catalog_set_stream_start(pipeline->id, stream->id, SS_ENTRYID_MIN);
		ss_pump_commit(pump);
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(work);
	if (!done)
		return false;
	stream->high = SS_ENTRYID_MIN;
	stream->start = SS_ENTRYID_MIN;
	stream->delivered = SS_ENTRYID_MIN;
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("stream \"%s\" of pipeline \"%s\" is another one now and is read from its beginning",
					stream->name, pipeline->name),
			 errdetail("Nothing that was settled of it is in it.")));
	return true;
}
