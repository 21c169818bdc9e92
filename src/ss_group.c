/*
 * ss_group.c
 *	  Consumer groups: made, recognised as ours, refused, repaired.
 *
 * NOTES
 *	  A group and its marker consumer are made in one MULTI, so that a group
 *	  with our settled entries but without our marker was touched by somebody.
 *	  What is found decides (ss_findings.c); what that takes is done here, for
 *	  many streams at once where it is usual, one by one where it is not.
 *
 *	  A group that is gone is made again at the end of what is settled without
 *	  a hole; what comes once more behind that, the ledger drops.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_fault.h"
#include "ss_findings.h"
#include "ss_group.h"
#include "ss_guc.h"
#include "ss_overrun.h"
#include "ss_reconcile.h"

/* Streams asked about in one pipeline of commands. */
#define CHUNK 100

/* Bytes the replies about one stream may take. */
#define INFO_LIMIT ((Size) 512 * 1024 * 1024)

/* Settled intervals that are followed to find where a lost group is made again. */
#define MAX_RUN 10000

/* Until a stream is looked at again that somebody else changed meanwhile. */
#define LOOK_AGAIN_MS 500

static void
set_aside(SsStream *stream, SsStreamState state, const char *reason, long probe_ms)
{
	stream->prepared = false;
	stream->state = state;
	strlcpy(stream->reason, reason, sizeof(stream->reason));
	stream->probe_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), probe_ms);
}

static SsReply *
next_reply(SsPump *pump, SsArena *arena)
{
	return ss_redis_receive(pump->redis, arena, 0, PG_WAIT_EXTENSION);
}

/* Highest settled ids and their hashes as they are now; those in memory may be old. */
static void
load_highs(SsPump *pump, SsStream **streams, int n, uint64 *hashes)
{
	MemoryContext saved = CurrentMemoryContext;
	int32		 *ids = palloc_array(int32, n + 1);
	SsEntryId	 *highs = palloc_array(SsEntryId, n + 1);

	for (int i = 0; i < n; i++)
		ids[i] = streams[i]->id;
	if (!pump->session)
		StartTransactionCommand();
	MemoryContextSwitchTo(saved);
	ss_ledger_highs(pump->run->pipeline->id, ids, n, highs, hashes);
	if (!pump->session)
		CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	for (int i = 0; i < n; i++)
	{
		streams[i]->high = highs[i];
		streams[i]->high_hash = hashes[i];
	}
	pfree(ids);
	pfree(highs);
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
	set_aside(stream, SS_STREAM_SET_ASIDE, "its worker has to prepare it first: start the pipeline", ss_guc_setup_retry);
	return false;
}

/* Set the start of a stream, on disk before Redis is told anything that rests on it. */
static bool
start_at(SsPump *pump, SsStream *stream, SsEntryId position)
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
			if (ss_stream_parse_ids(next_reply(pump, &arena), &ids) > 0)
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
		set_aside(stream, SS_STREAM_SET_ASIDE,
				  "its consumer group was lost: set on_lost_group to reread or resume_after_last", ss_guc_setup_retry);
		return false;
	}
	if (policy == SS_LOST_RESUME)
	{
		/* what is left out is not looked for later either */
		if (!start_at(pump, stream, stream->high))
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
		reply = next_reply(pump, &arena);
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
		set_aside(stream, SS_STREAM_OK, "", LOOK_AGAIN_MS); /* the pipeline was changed, or another worker was at it */
	else
		set_aside(stream, stream->state, pstrdup(stream->reason), ss_guc_setup_retry);
	return false;
}

static void
set_group(SsPump *pump, const SsStream *stream, SsEntryId position)
{
	SsArena arena;

	ss_arena_init(&arena, CurrentMemoryContext, INFO_LIMIT);
	ss_stream_append_setid(pump->redis, stream, pump->run->pipeline->consumer_group, position);
	(void) ss_reply_expect(next_reply(pump, &arena), SS_REPLY_STATUS, 0, "XGROUP SETID");
}

static bool
settle_replaced(SsPump *pump, SsStream *stream, SsFinding *finding)
{
	if (pump->run->pipeline->on_replaced_stream == SS_REPLACED_STOP)
	{
		set_aside(stream, SS_STREAM_REPLACED,
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
		set_aside(stream, SS_STREAM_OK, "", LOOK_AGAIN_MS);
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

/* Everything that is decided for one stream alone.  False: it cannot be read now. */
static bool
settle_unusual(SsPump *pump, SsStream *stream, SsFinding *finding)
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

/* ---- making groups and markers ---- */

static void
append_changes(SsPump *pump, SsStream *stream, const SsFinding *finding, const char *marker)
{
	const char *group = pump->run->pipeline->consumer_group;

	if (finding->make_group)
		ss_stream_append_create(pump->redis, stream, group, finding->position, marker, finding->mkstream);
	else if (finding->make_marker)
	{
		ss_stream_append_createconsumer(pump->redis, stream, group, marker);
		if (finding->marker[0] != '\0')
			ss_stream_append_delconsumer(pump->redis, stream, group, finding->marker);
	}
	if (finding->set_position)
		ss_stream_append_setid(pump->redis, stream, group, finding->info.last_generated);
}

/* Take the replies to append_changes.  True if our marker has to be taken out of somebody else's group. */
static bool
take_changes(SsPump *pump, SsStream *stream, const SsFinding *finding, SsArena *arena)
{
	SsReply *reply = NULL;
	bool	 intruded = false;

	if (finding->make_group)
	{
		for (int i = 0; i < SS_STREAM_CREATE_REPLIES; i++)
		{
			reply = next_reply(pump, arena);
			if (i < SS_STREAM_CREATE_REPLIES - 1 && reply->type == SS_REPLY_ERROR)
				ss_reply_raise(reply, "XGROUP");
		}
		/* Made by somebody else at this moment: it is looked at again, and not marked as ours before. */
		stream->prepared = ss_stream_parse_create(reply, &intruded);
	}
	else if (finding->make_marker)
	{
		ss_reply_expect(next_reply(pump, arena), SS_REPLY_INTEGER, 0, "XGROUP CREATECONSUMER");
		if (finding->marker[0] != '\0')
			ss_reply_expect(next_reply(pump, arena), SS_REPLY_INTEGER, 0, "XGROUP DELCONSUMER");
		stream->prepared = true;
	}
	else
		stream->prepared = true;
	if (finding->set_position)
	{
		(void) ss_reply_expect(next_reply(pump, arena), SS_REPLY_STATUS, 0, "XGROUP SETID");
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("consumer group \"%s\" stood behind the end of stream \"%s\" and is set to its end",
						pump->run->pipeline->consumer_group, stream->name)));
	}
	return intruded;
}

/* ---- many streams ---- */

static void
ask_about(SsPump *pump, SsStream **streams, int n, const uint64 *hashes, SsFinding *findings, MemoryContext scratch)
{
	const char *group = pump->run->pipeline->consumer_group;
	SsArena		arena;

	for (int i = 0; i < n; i++)
	{
		ss_stream_append_info(pump->redis, streams[i]);
		ss_stream_append_groups(pump->redis, streams[i]);
		ss_stream_append_consumers(pump->redis, streams[i], group);
		ss_stream_append_one(pump->redis, streams[i], streams[i]->high);
	}
	for (int i = 0; i < n; i++)
	{
		SsReplies replies;

		/* XINFO STREAM brings two entries whole: one stream's at a time */
		ss_arena_init(&arena, scratch, INFO_LIMIT);
		replies.info = next_reply(pump, &arena);
		replies.groups = next_reply(pump, &arena);
		replies.consumers = next_reply(pump, &arena);
		replies.newest = next_reply(pump, &arena);
		streams[i]->state = SS_STREAM_OK;
		streams[i]->reason[0] = '\0';
		ss_findings_examine(pump, streams[i], hashes[i], &replies, &findings[i]);
		if (findings[i].aside != SS_STREAM_OK)
			set_aside(streams[i], findings[i].aside, findings[i].reason, findings[i].probe_ms);
		MemoryContextReset(scratch);
	}
}

/* A key without a stream: its producer may make it any moment; among many streams the look for new ones will see it. */
static void
wait_for_key(const SsPump *pump, SsStream *stream)
{
	if (stream->state == SS_STREAM_MISSING && !pump->run->tmpl->single)
		stream->probe_at = DT_NOEND;
}

static void
read_row(SsPump *pump, SsStream *stream)
{
	MemoryContext saved = CurrentMemoryContext;
	SsStreamRow	  row;

	if (!pump->session)
		StartTransactionCommand();
	if (ss_catalog_read_stream(stream->id, &row))
	{
		stream->start = row.start;
		stream->foreign = row.foreign;
	}
	if (!pump->session)
		CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
}

/* Compare where the group stands with what is settled, and fetch what it has passed for nothing. */
static bool
compare_positions(SsPump *pump, SsStream *stream, const SsFinding *finding)
{
	SsEntryId after;

	stream->passed = finding->make_group ? finding->position : finding->group.last_delivered;
	if (finding->make_group)
		return true;
	if (finding->set_position)
		stream->passed = finding->info.last_generated;

	/* a group that was there before us: the stream begins where it stands, whatever the definition says */
	if (!finding->ours && !finding->all_gaps && !finding->replaced)
		return ss_entryid_compare(stream->start, stream->passed) == 0 || start_at(pump, stream, stream->passed);
	if (ss_entryid_compare(stream->passed, finding->all_gaps ? SS_ENTRYID_MIN : stream->high) <= 0)
		return true;

	/* another worker may have set these since we read them */
	read_row(pump, stream);
	after = stream->start;
	if (!finding->all_gaps && ss_entryid_compare(stream->high, after) > 0)
		after = stream->high;
	if (!stream->foreign && ss_entryid_compare(stream->passed, after) > 0)
		(void) ss_reconcile_stream(pump, stream, after, stream->passed);
	return true;
}

static void
prepare_chunk(SsPump *pump, SsStream **streams, int n, const uint64 *hashes, const char *marker, MemoryContext scratch)
{
	const char	 *group = pump->run->pipeline->consumer_group;
	SsFinding	 *findings = MemoryContextAllocZero(CurrentMemoryContext, sizeof(SsFinding) * n);
	bool		 *intruded = MemoryContextAllocZero(CurrentMemoryContext, sizeof(bool) * n);
	MemoryContext saved = MemoryContextSwitchTo(scratch);
	bool		  counts = !pump->run->tmpl->single || pump->share == 0;
	int64		  missed[CHUNK] = {0};
	SsArena		  arena;

	ask_about(pump, streams, n, hashes, findings, scratch);
	for (int i = 0; i < n; i++)
	{
		if (findings[i].aside != SS_STREAM_OK)
			wait_for_key(pump, streams[i]);
		else if (findings[i].unusual && !settle_unusual(pump, streams[i], &findings[i]))
			findings[i].aside = SS_STREAM_SET_ASIDE;
		MemoryContextReset(scratch);
	}

	/* before a marker says that we have looked */
	for (int i = 0; i < n; i++)
	{
		if (findings[i].aside == SS_STREAM_OK && !compare_positions(pump, streams[i], &findings[i]))
			findings[i].aside = SS_STREAM_SET_ASIDE;
		MemoryContextReset(scratch);
	}

	ss_arena_init(&arena, scratch, 0);
	SS_FAULT("before-group");
	for (int i = 0; i < n; i++)
		if (findings[i].aside == SS_STREAM_OK)
			append_changes(pump, streams[i], &findings[i], marker);
	SS_FAULT("group-made");
	for (int i = 0; i < n; i++)
		if (findings[i].aside == SS_STREAM_OK)
			intruded[i] = take_changes(pump, streams[i], &findings[i], &arena);
	SS_FAULT("after-group");

	/* Here the marker has nothing pending, and was not there before us. */
	for (int i = 0; i < n; i++)
		if (intruded[i])
			ss_stream_append_delconsumer(pump->redis, streams[i], group, marker);
	for (int i = 0; i < n; i++)
		if (intruded[i])
			(void) next_reply(pump, &arena);
	MemoryContextReset(scratch);

	for (int i = 0; i < n; i++)
		if (counts && streams[i]->prepared && !findings[i].make_group && !findings[i].set_position)
			missed[i] = ss_overrun_count(streams[i], &findings[i].info, &findings[i].group);
	ss_overrun_report(pump->run->pipeline, streams, missed, n);
	MemoryContextSwitchTo(saved);
	pfree(findings);
	pfree(intruded);
}

void
ss_group_prepare(SsPump *pump, SsStream **streams, int nstreams)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink groups", ALLOCSET_DEFAULT_SIZES);
	uint64		 *hashes = palloc_array(uint64, nstreams + 1);
	char		  marker[SS_MARKER_MAX];

	ss_marker_name(pump->run->pipeline, marker);
	load_highs(pump, streams, nstreams, hashes);
	for (int at = 0; at < nstreams; at += CHUNK)
	{
		CHECK_FOR_INTERRUPTS();
		prepare_chunk(pump, streams + at, Min(CHUNK, nstreams - at), hashes + at, marker, scratch);
	}
	pfree(hashes);
	MemoryContextDelete(scratch);
}

void
ss_group_watch(SsPump *pump, SsStream *stream, const SsStreamInfo *info, const SsGroupInfo *group,
			   const SsConsumerInfo *consumers, int nconsumers)
{
	bool alone = !(pump->run->tmpl->single && pump->nshares > 1);
	bool moved = false;

	if (!stream->prepared || !group->exists)
		return;
	if (ss_findings_is_touched(pump->run->pipeline, consumers, nconsumers))
		moved = true;

	/* Behind the stream's end, new entries would not be given out; before, somebody else took what lies between. */
	if (ss_entryid_compare(group->last_delivered, info->last_generated) > 0)
		moved = true;
	if (alone && !stream->foreign &&
		ss_entryid_compare(group->last_delivered, stream->passed) > 0 &&
		ss_entryid_compare(group->last_delivered, stream->delivered) > 0)
		moved = true;
	if (moved)
	{
		stream->prepared = false;
		stream->probe_at = 0;
		return;
	}

	/* Nothing is under way now: what is pending with us came without our asking (a claim of a session that went away). */
	if (ss_settle_acks_waiting(pump->acks) == 0)
		for (int i = 0; i < nconsumers; i++)
			if (consumers[i].pending > 0 && strcmp(consumers[i].name, pump->consumer) == 0)
			{
				stream->recovered = false;
				stream->pending_after = SS_ENTRYID_MIN;
			}
}
