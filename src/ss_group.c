/*
 * ss_group.c
 *	  Consumer groups and their markers.
 *
 * NOTES
 *	  A group and its marker consumer are made in one MULTI, so that a group
 *	  with our settled entries but without our marker was touched by somebody.
 *	  A group that is gone is made again where the pipeline began: everything
 *	  comes once more and the ledger drops what is settled, which is slower than
 *	  guessing a position and cannot lose anything.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_guc.h"
#include "ss_group.h"

#define MARKER_PREFIX "streamsink:marker:"

/* Streams asked about in one pipeline of commands. */
#define CHUNK 100

/* Bytes the replies about one stream may take. */
#define INFO_LIMIT ((Size) 512 * 1024 * 1024)

/* What is known of a stream while it is prepared. */
typedef struct Finding
{
	bool key_exists;
	bool make_group;
	bool make_marker;
} Finding;

void
ss_group_marker_name(const SsPipeline *pipeline, char *buf, size_t len)
{
	/* consumer is "streamsink:<identity>" */
	snprintf(buf, len, MARKER_PREFIX "%s:" UINT64_FORMAT ":%u:%d",
			 pipeline->consumer + strlen("streamsink:"),
			 GetSystemIdentifier(), MyDatabaseId, pipeline->incarnation);
}

static void
set_aside(SsStream *stream, SsStreamState state, const char *reason)
{
	stream->prepared = false;
	stream->state = state;
	strlcpy(stream->reason, reason ? reason : "", sizeof(stream->reason));
	stream->probe_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ss_guc_setup_retry);
}

static SsReply *
next_reply(SsRedis *redis, SsArena *arena)
{
	return ss_redis_receive(redis, arena, 0, PG_WAIT_EXTENSION);
}

/* Is a marker that is not ours among the consumers?  *ours is set when our own is. */
static bool
has_foreign_marker(const SsConsumerInfo *consumers, int n, const char *marker, bool *ours)
{
	bool foreign = false;

	*ours = false;
	for (int i = 0; i < n; i++)
	{
		if (strncmp(consumers[i].name, MARKER_PREFIX, strlen(MARKER_PREFIX)) != 0)
			continue;
		if (strcmp(consumers[i].name, marker) == 0)
			*ours = true;
		else
			foreign = true;
	}
	return foreign;
}

/* Decide about one stream from the three replies; true if something must be made. */
static bool
examine(const SsPipeline *pipeline, bool single, SsStream *stream, const char *marker,
		const SsReply *info_reply, const SsReply *groups_reply, const SsReply *consumers_reply,
		Finding *finding)
{
	SsStreamInfo	info;
	SsGroupInfo		group;
	SsConsumerInfo *consumers;
	int				nconsumers;
	SsStreamState	state = SS_STREAM_OK;
	bool			ours;
	bool			has_settled = ss_entryid_compare(stream->high, SS_ENTRYID_MIN) > 0;

	memset(finding, 0, sizeof(*finding));
	finding->key_exists = ss_stream_parse_info(info_reply, &info, &state);
	if (!finding->key_exists)
	{
		/* What holds settled entries and is gone may come back as another stream: do not make it ourselves. */
		if (state == SS_STREAM_MISSING && single && !has_settled)
		{
			finding->make_group = true;
			return true;
		}
		set_aside(stream, state, state == SS_STREAM_MISSING ? "there is no such key" : "the key does not hold a stream");

		/* Its producer may make it any moment; among many streams the look for new ones will see it. */
		if (state == SS_STREAM_MISSING)
			stream->probe_at = single ?
								   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ss_guc_discovery_interval) :
								   DT_NOEND;
		return false;
	}
	if (ss_entryid_compare(info.last_generated, stream->high) < 0)
	{
		set_aside(stream, SS_STREAM_WENT_BACK,
				  "its last id is below the highest settled one: Redis lost entries, or the stream was deleted and made anew");
		return false;
	}
	if (!ss_stream_parse_groups(groups_reply, pipeline->consumer_group, &group, &state))
	{
		set_aside(stream, state, "it vanished while it was looked at");
		return false;
	}
	if (!group.exists)
	{
		if (has_settled)
			ereport(WARNING,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("consumer group \"%s\" of stream \"%s\" was lost and is made again",
							pipeline->consumer_group, stream->name),
					 errdetail("Its entries are delivered once more; those settled before are dropped.")));
		finding->make_group = true;
		return true;
	}

	nconsumers = ss_stream_parse_consumers(consumers_reply, &consumers);
	if (has_foreign_marker(consumers, nconsumers, marker, &ours))
	{
		set_aside(stream, SS_STREAM_SET_ASIDE,
				  "its consumer group belongs to another streamsink pipeline");
		return false;
	}
	if (!ours)
	{
		if (has_settled)
			ereport(WARNING,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("the marker of consumer group \"%s\" of stream \"%s\" was missing and is made again",
							pipeline->consumer_group, stream->name)));
		finding->make_marker = true;
		return true;
	}
	stream->prepared = true;
	return false;
}

static void
prepare_chunk(SsRedis *redis, const SsPipeline *pipeline, bool single,
			  SsStream **streams, int nstreams, const char *marker, MemoryContext scratch)
{
	SsStream *taken[CHUNK];
	int		  ntaken = 0;
	Finding	  findings[CHUNK];
	SsArena	  arena;

	for (int i = 0; i < nstreams; i++)
	{
		ss_stream_append_info(redis, streams[i]);
		ss_stream_append_groups(redis, streams[i]);
		ss_stream_append_consumers(redis, streams[i], pipeline->consumer_group);
	}
	for (int i = 0; i < nstreams; i++)
	{
		SsReply *info;
		SsReply *groups;
		SsReply *consumers;

		/* XINFO STREAM brings two entries whole: one stream's at a time */
		ss_arena_init(&arena, scratch, INFO_LIMIT);
		info = next_reply(redis, &arena);
		groups = next_reply(redis, &arena);
		consumers = next_reply(redis, &arena);
		streams[i]->state = SS_STREAM_OK;
		streams[i]->reason[0] = '\0';
		(void) examine(pipeline, single, streams[i], marker, info, groups, consumers, &findings[i]);
		MemoryContextReset(scratch);
	}
	ss_arena_init(&arena, scratch, 0);

	for (int i = 0; i < nstreams; i++)
	{
		if (findings[i].make_group)
			ss_stream_append_create(redis, streams[i], pipeline->consumer_group,
									streams[i]->start, marker, single && !findings[i].key_exists);
		else if (findings[i].make_marker)
			ss_stream_append_createconsumer(redis, streams[i], pipeline->consumer_group, marker);
	}
	for (int i = 0; i < nstreams; i++)
	{
		if (findings[i].make_group)
		{
			SsReply *reply = NULL;
			bool	 intruded;

			for (int j = 0; j < SS_STREAM_CREATE_REPLIES; j++)
			{
				reply = next_reply(redis, &arena);
				if (j < SS_STREAM_CREATE_REPLIES - 1 && reply->type == SS_REPLY_ERROR)
					ss_reply_raise(reply, "XGROUP");
			}
			/* Made by somebody else at this moment: it is looked at again, and not marked as ours before. */
			streams[i]->prepared = ss_stream_parse_create(reply, &intruded);
			if (intruded)
				taken[ntaken++] = streams[i];
		}
		else if (findings[i].make_marker)
		{
			ss_reply_expect(next_reply(redis, &arena), SS_REPLY_INTEGER, 0, "XGROUP CREATECONSUMER");
			streams[i]->prepared = true;
		}
	}

	/* Here the marker has nothing pending, and was not there before us. */
	for (int i = 0; i < ntaken; i++)
		ss_stream_append_delconsumer(redis, taken[i], pipeline->consumer_group, marker);
	for (int i = 0; i < ntaken; i++)
		(void) next_reply(redis, &arena);
}

void
ss_group_prepare(SsRedis *redis, const SsPipeline *pipeline, bool single,
				 SsStream **streams, int nstreams)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink groups", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(scratch);
	char		  marker[160];

	ss_group_marker_name(pipeline, marker, sizeof(marker));
	for (int at = 0; at < nstreams; at += CHUNK)
	{
		prepare_chunk(redis, pipeline, single, streams + at, Min(CHUNK, nstreams - at), marker, scratch);
		MemoryContextReset(scratch);
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
}
