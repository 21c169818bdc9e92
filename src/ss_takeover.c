/*
 * ss_takeover.c
 *	  Pending entries of our own consumers that have no live worker.
 *
 * NOTES
 *	  Workers of one key have a consumer each, "<identity>:<share>".  When a
 *	  share has no worker any more (fewer workers wanted, or it cannot start),
 *	  its name is held in shared memory, so that it cannot come to life, while
 *	  its entries are claimed at once: the server knows that it is dead.  They
 *	  then are pending with us and read like all our own.
 *	  Repeated, because a command buffered in a dead connection can run later.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "ss_fault.h"
#include "ss_pump.h"

#define CLAIM_IDS	 1000
#define PAGES_A_STEP 50

#define REPLY_LIMIT ((Size) 64 * 1024 * 1024)

/* The share a consumer name of ours belongs to, or -1. */
static int
consumer_share(const SsPipeline *pipeline, const char *name)
{
	size_t len = strlen(pipeline->consumer);
	char  *end;
	long   share;

	if (strncmp(name, pipeline->consumer, len) != 0 || name[len] != ':')
		return -1;
	share = strtol(name + len + 1, &end, 10);
	if (end == name + len + 1 || *end != '\0' || share < 0 || share > 10000)
		return -1;
	return (int) share;
}

/* False if nothing is left, true if the batch is full or enough was claimed for one step. */
static bool
claim_all(SsPump *pump, SsStream *stream, const char *consumer, int *pages)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	SsEntryId		  after = SS_ENTRYID_MIN;
	MemoryContext	  scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink takeover page", ALLOCSET_DEFAULT_SIZES);
	MemoryContext	  saved = MemoryContextSwitchTo(scratch);
	bool			  more = true;

	while (more && pump->batch->nentries < pipeline->batch_size && (*pages)-- > 0)
	{
		SsPendingEntry *pending;
		SsEntryId	   *ids;
		SsArena			arena;
		int				n;

		ss_arena_init(&arena, scratch, REPLY_LIMIT);
		ss_stream_append_pending(pump->redis, stream, pipeline->consumer_group, 0, after, true, SS_ENTRYID_MAX, CLAIM_IDS, consumer);
		n = ss_stream_parse_pending(ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION), &pending);
		more = n > 0;
		if (more)
		{
			ids = palloc_array(SsEntryId, n);
			for (int i = 0; i < n; i++)
				ids[i] = pending[i].id;
			SS_FAULT("before-claim");
			(void) ss_claim_ids(pump, stream, ids, n, 0, consumer);
			SS_FAULT("after-claim");
			after = ids[n - 1];
		}
		MemoryContextReset(scratch);
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
	return more;
}

bool
ss_takeover_step(SsPump *pump)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink takeover", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(scratch);
	bool		  more = false;
	int			  pages = PAGES_A_STEP;

	for (int i = 0; i < pump->nstreams; i++)
	{
		SsStream	   *stream = pump->streams[i];
		SsConsumerInfo *consumers;
		SsArena			arena;
		int				n;

		if (!stream->prepared)
			continue;
		MemoryContextReset(scratch);
		ss_arena_init(&arena, scratch, REPLY_LIMIT);
		ss_stream_append_consumers(pump->redis, stream, pump->run->pipeline->consumer_group);
		n = ss_stream_parse_consumers(ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION), &consumers);
		for (int j = 0; j < n; j++)
		{
			int share = consumer_share(pump->run->pipeline, consumers[j].name);

			if (share < 0 || share == pump->share || consumers[j].pending <= 0 ||
				!ss_shmem_hold_share(share))
				continue;
			ereport(LOG,
					(errmsg("pipeline \"%s\" takes over " INT64_FORMAT " pending entries of stream \"%s\" from worker %d, which does not run",
							pump->run->pipeline->name, consumers[j].pending, stream->name, share)));
			if (claim_all(pump, stream, consumers[j].name, &pages))
				more = true;
			(void) ss_shmem_hold_share(-1);
		}
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
	return more;
}
