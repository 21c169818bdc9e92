/*
 * ss_heartbeat.c
 *	  Shows in Redis that this server's workers live.
 *
 * NOTES
 *	  A copy of this server must not take our groups while we read them.  Redis
 *	  counts how long a consumer has been idle, but before version 7.2 a read
 *	  that finds no new entries does not count.  Reading a consumer's own
 *	  pending entries always does: our marker, which has none, does that for
 *	  every stream now and then.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_guc.h"
#include "ss_marker.h"
#include "ss_pump.h"

#define STREAMS_A_COMMAND 100
#define REPLY_LIMIT		  ((Size) 16 * 1024 * 1024)

/* One command for some streams.  An error about one of them is for the next read to meet. */
static void
beat(SsPump *pump, SsStream **streams, int n, const char *marker)
{
	SsArena	 arena;
	SsReply *reply;

	ss_stream_append_heartbeat(pump->redis, streams, n, pump->run->pipeline->consumer_group, marker);
	ss_arena_init(&arena, CurrentMemoryContext, REPLY_LIMIT);
	reply = ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION);
	if (reply->type == SS_REPLY_ERROR && n > 1)
		for (int i = 0; i < n; i++)
			beat(pump, &streams[i], 1, marker);
}

void
ss_heartbeat_step(SsPump *pump)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink heartbeat", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(scratch);
	char		  marker[SS_MARKER_MAX];
	SsStream	 *streams[STREAMS_A_COMMAND];
	int			  n = 0;

	ss_marker_name(pump->run->pipeline, marker);
	for (int i = 0; i < pump->nstreams; i++)
	{
		if (pump->streams[i]->prepared)
			streams[n++] = pump->streams[i];
		if (n > 0 && (n == STREAMS_A_COMMAND || i == pump->nstreams - 1))
		{
			beat(pump, streams, n, marker);
			MemoryContextReset(scratch);
			n = 0;
		}
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
}
