/*
 * ss_adopt.c
 *	  adopt(): take over consumer groups that bear the marker of somebody else.
 *
 * NOTES
 *	  Needed when a database has moved: pg_upgrade, a restored dump, CREATE
 *	  DATABASE ... TEMPLATE; or to decide between a server and its copy.  The
 *	  markers are replaced through the outbox, after commit, by one that
 *	  seems to be from an earlier life of this pipeline; the workers wait for
 *	  that, look for what is missing and make their own.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "ss_control.h"
#include "ss_marker.h"
#include "ss_outbox.h"
#include "ss_peek.h"

/* Streams asked about in one pipeline of commands, and bytes of one reply. */
#define CHUNK		100
#define REPLY_LIMIT ((Size) 64 * 1024 * 1024)

SS_SQL_FUNCTION(streamsink_adopt);

/* Queue the removal of the markers of others among the consumers of a group; their number. */
static int
queue_foreign(const SsPipeline *pipeline, const SsStream *stream, const SsReply *reply)
{
	SsConsumerInfo *consumers;
	int				n = ss_stream_parse_consumers(reply, &consumers);
	char			marker[SS_MARKER_MAX];
	int				found = 0;

	ss_marker_adopted_name(pipeline, marker);
	for (int i = 0; i < n; i++)
	{
		SsMarkerKind kind = ss_marker_classify(pipeline, consumers[i].name);
		const char	*args[3] = {pipeline->consumer_group, consumers[i].name, marker};
		size_t		 lens[3] = {strlen(args[0]), consumers[i].name_len, strlen(marker)};

		if (kind != SS_MARKER_FOREIGN && kind != SS_MARKER_ELSEWHERE)
			continue;
		ss_outbox_add(pipeline->server, pipeline->owner, "marker_delete", stream->name, pipeline->name, 3, args, lens);
		found++;
	}
	return found;
}

/* The same for all streams of a pipeline; in how many there were some. */
static int
adopt_streams(SsRun *run, MemoryContext cxt)
{
	SsPipeline	 *pipeline = run->pipeline;
	SsRedis		 *redis = ss_peek_connect(pipeline, cxt);
	List		 *streams = ss_peek_streams(redis, run, 0);
	int			  n = list_length(streams);
	int			  adopted = 0;
	MemoryContext scratch = AllocSetContextCreate(cxt, "streamsink consumers", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(scratch);

	for (int begin = 0; begin < n; begin += CHUNK)
	{
		int end = Min(n, begin + CHUNK);

		for (int i = begin; i < end; i++)
			ss_stream_append_consumers(redis, list_nth(streams, i), pipeline->consumer_group);
		for (int i = begin; i < end; i++)
		{
			SsArena arena;

			ss_arena_init(&arena, scratch, REPLY_LIMIT);
			if (queue_foreign(pipeline, list_nth(streams, i), ss_redis_receive(redis, &arena, 0, PG_WAIT_EXTENSION)) > 0)
				adopted++;
			MemoryContextReset(scratch);
		}
	}
	MemoryContextSwitchTo(saved);
	ss_redis_close(redis);
	return adopted;
}

/* adopt(name): the groups of the pipeline's streams are this one's, whoever marked them. */
Datum
streamsink_adopt(PG_FUNCTION_ARGS)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink adopt", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(cxt);
	SsRun		 *run = ss_control_open(fcinfo, "adopt()", cxt);
	int			  adopted = adopt_streams(run, cxt);

	if (adopted == 0)
		ereport(NOTICE,
				(errmsg("no consumer group of pipeline \"%s\" bears the marker of another one", run->pipeline->name)));
	ss_catalog_touch(run->pipeline->id);
	ss_run_free(run);
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(cxt);
	PG_RETURN_VOID();
}
