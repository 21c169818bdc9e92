/*
 * ss_repair.c
 *	  What is decided for one stream alone, when it or its group is not as we
 *	  left it: a group that is lost, settled entries that are not there any
 *	  more, another stream in its place.
 *
 * NOTES
 *	  Here the ledger may be cut and a start be moved, so each decision is
 *	  taken once and on disk before Redis is told anything that rests on it.
 *	  What cannot be decided now leaves the stream set aside, with the reason.
 *
 *	  A group that is gone is made again at the end of what is settled without
 *	  a hole; what comes once more behind that, the ledger drops.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_guc.h"
#include "ss_repair.h"

/* Bytes the replies about one stream may take. */
#define INFO_LIMIT ((Size) 512 * 1024 * 1024)

/* Settled intervals that are followed to find where a lost group is made again. */
#define MAX_RUN 10000

/* Until a stream is looked at again that somebody else changed meanwhile. */
#define LOOK_AGAIN_MS 500

void
ss_repair_set_aside(SsStream *stream, SsStreamState state, const char *reason, long probe_ms)
{
	stream->prepared = false;
	stream->state = state;
	strlcpy(stream->reason, reason, sizeof(stream->reason));
	stream->probe_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), probe_ms);
}

/*
 * In the caller's transaction nothing can be put on disk before Redis is told:
 * what needs that is left to a worker.  True if it can be done.
 */
static bool
may_commit(const SsPump *pump, SsStream *stream)
{
	if (ss_pump_commits(pump))
		return true;
	ss_repair_set_aside(stream, SS_STREAM_SET_ASIDE, "its worker has to prepare it first: start the pipeline", ss_guc_setup_retry);
	return false;
}

bool
ss_repair_start_at(SsPump *pump, SsStream *stream, SsEntryId position)
{
	MemoryContext saved = CurrentMemoryContext;

	if (!may_commit(pump, stream))
		return false;
	stream->start = position;
	ss_pump_begin(pump);
	ss_catalog_set_stream_start(pump->run->pipeline->id, stream->id, position);
	ss_pump_commit(pump);
	MemoryContextSwitchTo(saved);
	return true;
}

/* ---- a lost group ---- */

/*
 * Where a lost group is made again: behind the settled intervals, from the
 * start position on, as long as nothing is in the stream between them.
 */
static SsEntryId
end_of_first_run(SsPump *pump, const SsStream *stream)
{
	MemoryContext	  work = AllocSetContextCreate(CurrentMemoryContext, "streamsink first run", ALLOCSET_DEFAULT_SIZES);
	MemoryContext	  saved = MemoryContextSwitchTo(work);
	SsEntryId		  end = stream->start;
	const SsInterval *intervals;
	SsArena			  arena;
	int				  n;

	if (!pump->session)
		StartTransactionCommand();
	MemoryContextSwitchTo(work);
	n = ss_ledger_intervals(ss_ledger_load(pump->run->pipeline->id, &stream->id, 1), stream->id, &intervals);
	if (!pump->session)
		CommitTransactionCommand();
	MemoryContextSwitchTo(work);

	for (int i = 0; i < Min(n, MAX_RUN); i++)
	{
		SsEntryId  before;
		SsEntryId *ids;

		if (ss_entryid_compare(intervals[i].last, end) <= 0)
			continue;
		(void) ss_entryid_previous(intervals[i].first, &before);
		if (ss_entryid_compare(before, end) > 0)
		{
			ss_arena_init(&arena, work, INFO_LIMIT);
			ss_stream_append_between(pump->redis, stream, end, before, 1);
			if (ss_stream_parse_ids(ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION), &ids) > 0)
				break;
		}
		end = intervals[i].last;
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(work);
	return end;
}

/* Decide about a group that is gone although entries were settled; false: the stream is set aside. */
static bool
settle_lost_group(SsPump *pump, SsStream *stream, SsFinding *finding)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	SsOnLost		  policy = pipeline->on_lost_group;
	char			  position[SS_ENTRYID_MAXLEN];

	if (policy == SS_LOST_UNSET)
		policy = stream->foreign ? SS_LOST_STOP : SS_LOST_REREAD;
	if (policy == SS_LOST_STOP)
	{
		ss_repair_set_aside(stream, SS_STREAM_SET_ASIDE,
							"its consumer group was lost: set on_lost_group to reread or resume_after_last", ss_guc_setup_retry);
		return false;
	}
	if (policy == SS_LOST_RESUME)
	{
		/* what is left out is not looked for later either */
		if (!ss_repair_start_at(pump, stream, stream->high))
			return false;
		finding->position = stream->high;
	}
	else
		finding->position = end_of_first_run(pump, stream);
	finding->make_group = true;
	ss_entryid_print(finding->position, position);
	ereport(WARNING,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("consumer group \"%s\" of stream \"%s\" was lost and is made again at %s",
					pipeline->consumer_group, stream->name, position),
			 policy == SS_LOST_RESUME ?
				 errdetail("Entries before that which were not settled are left out, because on_lost_group is \"resume_after_last\".") :
				 errdetail("Entries behind that are delivered once more; those settled before are dropped.")));
	return true;
}

/* ---- one stream with something unusual ---- */

/* Is the newest settled entry still in doubt when stream and entry are asked about at one moment? */
static bool
look_again(SsPump *pump, SsStream *stream, SsFinding *finding)
{
	const char	 *words[] = {"MULTI", "EXEC"};
	SsStreamState state;
	SsReply		 *reply = NULL;
	SsArena		  arena;

	ss_redis_append(pump->redis, 1, &words[0], NULL);
	ss_stream_append_info(pump->redis, stream);
	ss_stream_append_one(pump->redis, stream, stream->high);
	ss_redis_append(pump->redis, 1, &words[1], NULL);
	ss_arena_init(&arena, CurrentMemoryContext, INFO_LIMIT);
	for (int i = 0; i < 4; i++)
	{
		reply = ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION);
		if (reply->type == SS_REPLY_ERROR)
			ss_reply_raise(reply, "MULTI");
	}
	ss_reply_expect(reply, SS_REPLY_ARRAY, 2, "EXEC");
	if (ss_stream_parse_info(&reply->items[0], &finding->info, &state))
		finding->verdict = ss_verify_newest(stream, stream->high_hash, &finding->info, &reply->items[1]);
	return finding->verdict == SS_VERIFY_DOUBT;
}

/*
 * What was settled is not in the stream as it was: cut the ledger, or see
 * that it is another stream.  False: the stream is set aside, or tried again.
 */
static bool
settle_doubt(SsPump *pump, SsStream *stream, SsFinding *finding)
{
	SsTrace trace;

	/* many streams were asked about, and producers trim meanwhile: once more, in one moment */
	if (!look_again(pump, stream, finding))
		return true;
	ss_verify_trace(pump, stream, &finding->info, &trace);
	if (trace.verdict == SS_VERIFY_STRANGE && !finding->ours)
	{
		finding->replaced = true;
		return true;
	}

	/* It was deleted: servers before Redis 7 do not tell that. */
	if (finding->info.entries_added < 0 && ss_entryid_compare(trace.keep, stream->high) >= 0 &&
		ss_entryid_compare(trace.doubtful, SS_ENTRYID_MIN) == 0)
		return true;
	if (!may_commit(pump, stream))
		return false;
	if (ss_verify_cut(pump, stream, &trace))
		return true;
	if (stream->state == SS_STREAM_OK)
		ss_repair_set_aside(stream, SS_STREAM_OK, "", LOOK_AGAIN_MS); /* the pipeline was changed, or another worker was at it */
	else
		ss_repair_set_aside(stream, stream->state, pstrdup(stream->reason), ss_guc_setup_retry);
	return false;
}

static void
set_group(SsPump *pump, const SsStream *stream, SsEntryId position)
{
	SsArena arena;

	ss_arena_init(&arena, CurrentMemoryContext, INFO_LIMIT);
	ss_stream_append_setid(pump->redis, stream, pump->run->pipeline->consumer_group, position);
	(void) ss_reply_expect(ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION), SS_REPLY_STATUS, 0, "XGROUP SETID");
}

static bool
settle_replaced(SsPump *pump, SsStream *stream, SsFinding *finding)
{
	if (pump->run->pipeline->on_replaced_stream == SS_REPLACED_STOP)
	{
		ss_repair_set_aside(stream, SS_STREAM_REPLACED,
							"another stream is there, without anything that was settled: see on_replaced_stream", ss_guc_setup_retry);
		return false;
	}
	if (!may_commit(pump, stream))
		return false;
	if (finding->group.exists)
	{
		/* before what was settled is forgotten: from then on nothing tells that it is another stream */
		set_group(pump, stream, SS_ENTRYID_MIN);
		finding->group.last_delivered = SS_ENTRYID_MIN;
		finding->set_position = false;
		finding->make_marker = true;
	}
	else
		finding->make_group = true;
	if (!ss_verify_forget(pump, stream))
	{
		ss_repair_set_aside(stream, SS_STREAM_OK, "", LOOK_AGAIN_MS);
		return false;
	}
	finding->position = SS_ENTRYID_MIN;
	return true;
}

static bool
is_outdated(const SsPump *pump)
{
	MemoryContext saved = CurrentMemoryContext;
	bool		  result;

	if (!pump->session)
		StartTransactionCommand();
	result = !ss_catalog_is_current(pump->run->pipeline);
	if (!pump->session)
		CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	return result;
}

bool
ss_repair_stream(SsPump *pump, SsStream *stream, SsFinding *finding)
{
	bool had_settled = ss_entryid_compare(stream->high, SS_ENTRYID_MIN) > 0;

	/* a definition that was changed must not judge by what its successor left */
	if (finding->ahead && is_outdated(pump))
		return false;
	if (finding->verdict == SS_VERIFY_DOUBT && !settle_doubt(pump, stream, finding))
		return false;
	if (finding->replaced)
		return settle_replaced(pump, stream, finding);
	if (!finding->group.exists && had_settled)
		return settle_lost_group(pump, stream, finding);
	if (finding->make_marker && had_settled && finding->marker[0] == '\0')
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the marker of consumer group \"%s\" of stream \"%s\" was missing and is made again",
						pump->run->pipeline->consumer_group, stream->name)));
	return true;
}
