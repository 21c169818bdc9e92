/*
 * ss_group.c
 *	  Consumer groups: made, recognised as ours, watched.
 *
 * NOTES
 *	  A group and its marker consumer are made in one MULTI, so that a group
 *	  with our settled entries but without our marker was touched by somebody.
 *	  What is found decides (ss_findings.c); what that takes is done here for
 *	  many streams at once where it is usual, and one by one in ss_repair.c
 *	  where it is not.
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
#include "ss_overrun.h"
#include "ss_reconcile.h"
#include "ss_repair.h"

/* Streams asked about in one pipeline of commands. */
#define CHUNK 100

/* Bytes the replies about one stream may take. */
#define INFO_LIMIT ((Size) 512 * 1024 * 1024)

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
			ss_repair_set_aside(streams[i], findings[i].aside, findings[i].reason, findings[i].probe_ms);
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
		return ss_entryid_compare(stream->start, stream->passed) == 0 || ss_repair_start_at(pump, stream, stream->passed);
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
		else if (findings[i].unusual && !ss_repair_stream(pump, streams[i], &findings[i]))
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
