/*
 * ss_sample.c
 *	  Samples of streams for the views: lengths, positions, pending entries.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_group.h"
#include "ss_overrun.h"
#include "ss_pump.h"
#include "ss_stats.h"

/* Streams sampled in one step: four commands each. */
#define STREAMS_A_STEP 200

/* Bytes the replies about one stream may take. */
#define INFO_LIMIT ((Size) 512 * 1024 * 1024)

/* Keep what later tasks want to know of a stream. */
static void
remember(SsStream *stream, const SsStreamInfo *info, const SsGroupInfo *group, int64 foreign)
{
	stream->seen_at = GetCurrentTimestamp();
	stream->seen_empty = info->length == 0;
	stream->first = info->first;
	stream->last_generated = info->last_generated;
	stream->last_delivered = group->last_delivered;
	stream->foreign_pending = foreign;
}

/*
 * When the oldest entry that is not delivered came: behind the last one that
 * is, and behind everything that the last look found delivered.
 */
static TimestampTz
waiting_since(SsStream *stream, const SsStreamSample *sample)
{
	SsEntryId base = sample->last_delivered;

	if (sample->lag == 0)
		stream->caught_up_at = sample->sampled_at;
	if (sample->lag <= 0)
		return 0;
	if (ss_entryid_compare(base, sample->first_id) < 0)
		base = sample->first_id;
	return Max(ss_entryid_time(base), stream->caught_up_at);
}

/* Fill a sample from the replies about one stream; returns the entries that were missed since the last one. */
static int64
fill_sample(SsPump *pump, SsStream *stream, const SsReply *info_reply, const SsReply *groups_reply,
			const SsReply *pending_reply, const SsReply *consumers_reply, SsStreamSample *sample)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	SsStreamState	  state = stream->state;
	SsStreamInfo	  info;
	SsGroupInfo		  group;
	int64			  ours;
	int64			  foreign;
	int64			  missed = 0;
	SsConsumerInfo	 *consumers;
	int				  nconsumers;

	stream->seen_at = 0;
	sample->key.database = MyDatabaseId;
	sample->key.pipeline = pipeline->id;
	sample->key.stream = stream->id;
	sample->worker_pid = MyProcPid;
	sample->length = sample->lag = sample->pending = sample->foreign_pending = -1;
	sample->sampled_at = GetCurrentTimestamp();

	if (ss_stream_parse_info(info_reply, &info, &state))
	{
		sample->length = info.length;
		sample->first_id = info.first;
		sample->last_id = info.last_generated;
		if (info.last_generated.ms > 0)
			sample->last_entry_at = ss_entryid_time(info.last_generated);
		if (ss_stream_parse_groups(groups_reply, pipeline->consumer_group, &group, &state) && group.exists)
		{
			sample->last_delivered = group.last_delivered;
			sample->lag = group.lag;
			if (ss_entryid_compare(group.last_delivered, info.last_generated) >= 0)
				sample->lag = 0;
			/* what was trimmed before it was delivered does not lag behind any more */
			else if (info.length >= 0)
				sample->lag = Min(sample->lag, info.length);
			sample->waiting_since = waiting_since(stream, sample);
			if (ss_stream_parse_pending_summary(pending_reply, pipeline->consumer, &ours, &foreign,
												&sample->oldest_pending))
			{
				sample->pending = ours;
				sample->foreign_pending = foreign;
				remember(stream, &info, &group, foreign);
				if (stream->prepared && state == SS_STREAM_OK && (!pump->run->tmpl->single || pump->share == 0))
					missed = ss_overrun_count(stream, &info, &group);
			}
			nconsumers = ss_stream_parse_consumers(consumers_reply, &consumers);
			ss_group_watch(pump, stream, &info, &group, consumers, nconsumers);
		}
	}
	sample->state = state;
	strlcpy(sample->reason, stream->reason, sizeof(sample->reason));
	return missed;
}

/* The length of the dead letter stream, which one worker looks at for all. */
static void
sample_dead_letters(SsPump *pump)
{
	const SsRun	  *run = pump->run;
	SsStreamSample sample = {0};
	SsArena		   arena;

	if (pump->share != 0)
		return;
	if (!run->dead_letter_key)
	{
		ss_stats_forget_sample(MyDatabaseId, run->pipeline->id, 0);
		return;
	}
	ss_arena_init(&arena, CurrentMemoryContext, INFO_LIMIT);
	ss_stream_append_length(pump->redis, run->dead_letter_key);
	sample.key.database = MyDatabaseId;
	sample.key.pipeline = run->pipeline->id;
	sample.worker_pid = MyProcPid;
	sample.length = ss_stream_parse_length(ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION));
	sample.lag = sample.pending = sample.foreign_pending = -1;
	sample.sampled_at = GetCurrentTimestamp();
	ss_stats_sample(&sample);
}

void
ss_sample_step(SsPump *pump)
{
	MemoryContext scratch;
	MemoryContext saved;
	SsArena		  arena;
	int			  n = Min(STREAMS_A_STEP, pump->nstreams);
	int			  at = pump->sample_cursor;
	SsStream	 *streams[STREAMS_A_STEP];
	int64		  missed[STREAMS_A_STEP];

	scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink samples", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(scratch);
	sample_dead_letters(pump);
	for (int i = 0; i < n; i++)
	{
		const SsStream *stream = streams[i] = pump->streams[(at + i) % pump->nstreams];

		ss_stream_append_info(pump->redis, stream);
		ss_stream_append_groups(pump->redis, stream);
		ss_stream_append_pending_summary(pump->redis, stream, pump->run->pipeline->consumer_group);
		ss_stream_append_consumers(pump->redis, stream, pump->run->pipeline->consumer_group);
	}
	for (int i = 0; i < n; i++)
	{
		SsReply		  *info;
		SsReply		  *groups;
		SsReply		  *pending;
		SsReply		  *consumers;
		SsStreamSample sample = {0};

		/* XINFO STREAM brings two entries whole: one stream's at a time */
		ss_arena_init(&arena, scratch, INFO_LIMIT);
		info = ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION);
		groups = ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION);
		pending = ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION);
		consumers = ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION);
		missed[i] = fill_sample(pump, streams[i], info, groups, pending, consumers, &sample);
		ss_stats_sample(&sample);
		MemoryContextReset(scratch);
	}
	if (n > 0)
		pump->sample_cursor = (at + n) % pump->nstreams;
	ss_overrun_report(pump->run->pipeline, streams, missed, n);
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
}
