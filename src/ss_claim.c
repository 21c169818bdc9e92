/*
 * ss_claim.c
 *	  Claims pending entries of other consumers for ours.
 *
 * NOTES
 *	  Not XAUTOCLAIM: it takes from live consumers of ours as well.
 *	  XCLAIM drops ids whose entry was deleted, and does not name them.  So the
 *	  pending list is read once more with it, in one MULTI: what is pending
 *	  there, was asked for and was not given, has vanished if the stream does not
 *	  hold it.  Such ids go into the batch, as entries without a body: they are
 *	  settled as others are, and counted.  (Before Redis 7, XCLAIM gives those
 *	  ids too, and reading them as our own pending entries shows the same.)
 *
 *	  What was claimed is pending with us and is read like all our own.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "ss_marker.h"
#include "ss_pump.h"

#define PAGE		   100 /* pending entries looked at in one command */
#define PAGES_A_STEP   50
#define CLAIMS_A_STEP  1000
#define STREAMS_A_STEP 100

#define REPLY_LIMIT ((Size) 64 * 1024 * 1024)

/* The bodies of entries that exist after all are read too. */
#define ENTRY_LIMIT ((Size) 768 * 1024 * 1024)

static SsReply *
next_reply(SsPump *pump, SsArena *arena)
{
	return ss_redis_receive(pump->redis, arena, 0, PG_WAIT_EXTENSION);
}

/* Put those of the ids into the batch that the stream does not hold. */
static void
add_vanished(SsPump *pump, SsStream *stream, const SsEntryId *ids, int n)
{
	MemoryContext scratch;
	MemoryContext saved;
	bool		  begun = false;

	if (n == 0)
		return;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink vanished", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(scratch);
	for (int i = 0; i < n; i++)
		ss_stream_append_one(pump->redis, stream, ids[i]);
	for (int i = 0; i < n; i++)
	{
		SsArena arena;
		bool	there;

		ss_arena_init(&arena, scratch, ENTRY_LIMIT);
		there = ss_reply_expect(next_reply(pump, &arena), SS_REPLY_ARRAY, 0, "XRANGE")->n > 0;
		MemoryContextReset(scratch);
		if (there)
			continue;
		if (!begun)
			ss_batch_begin_block(pump->batch, stream, false);
		begun = true;
		(void) ss_batch_add(pump->batch, ids[i], NULL);
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
}

/* Is the id among those of an ascending list, from *at on? */
static bool
is_in(const SsEntryId *ids, int n, SsEntryId id, int *at)
{
	while (*at < n && ss_entryid_compare(ids[*at], id) < 0)
		(*at)++;
	return *at < n && ss_entryid_compare(ids[*at], id) == 0;
}

int
ss_claim_ids(SsPump *pump, SsStream *stream, const SsEntryId *ids, int n, int64 idle_ms, const char *consumer)
{
	const char	   *group = pump->run->pipeline->consumer_group;
	SsPendingEntry *pending;
	SsEntryId	   *given;
	SsEntryId	   *missing;
	int				npending;
	int				ngiven;
	int				nmissing = 0;
	int				asked_at = 0;
	int				given_at = 0;
	SsReply		   *reply = NULL;
	SsArena			arena;

	ss_arena_init(&arena, CurrentMemoryContext, REPLY_LIMIT);
	ss_stream_append_multi(pump->redis);
	ss_stream_append_pending(pump->redis, stream, group, idle_ms, ids[0], false, ids[n - 1], n * 2, consumer);
	ss_stream_append_claim(pump->redis, stream, group, pump->consumer, idle_ms, ids, n);
	ss_stream_append_exec(pump->redis);
	for (int i = 0; i < 4; i++)
	{
		reply = next_reply(pump, &arena);
		if (reply->type == SS_REPLY_ERROR)
			ss_reply_raise(reply, "XCLAIM");
	}
	ss_reply_expect(reply, SS_REPLY_ARRAY, 2, "EXEC");
	npending = ss_stream_parse_pending(&reply->items[0], &pending);
	ngiven = ss_stream_parse_claim(&reply->items[1], &given);

	missing = palloc_array(SsEntryId, npending + 1);
	for (int i = 0; i < npending; i++)
		if (is_in(ids, n, pending[i].id, &asked_at) && !is_in(given, ngiven, pending[i].id, &given_at))
			missing[nmissing++] = pending[i].id;
	add_vanished(pump, stream, missing, nmissing);

	if (ngiven > 0)
	{
		stream->recovered = false;
		stream->pending_after = SS_ENTRYID_MIN;
	}
	return ngiven;
}

/* Claim what is idle of one stream, from claim_after on.  False if the step's work is done before its end. */
static bool
claim_stream(SsPump *pump, SsStream *stream, int *pages, int *room)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	MemoryContext	  scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink claims", ALLOCSET_DEFAULT_SIZES);
	MemoryContext	  saved = MemoryContextSwitchTo(scratch);
	int				  claimed = 0;
	bool			  done = false;

	while (!done && (*pages)-- > 0 && *room > 0)
	{
		SsPendingEntry *pending;
		SsEntryId	   *ids;
		SsArena			arena;
		int				found;
		int				n = 0;

		ss_arena_init(&arena, scratch, REPLY_LIMIT);
		ss_stream_append_pending(pump->redis, stream, pipeline->consumer_group, pipeline->claim_idle_ms,
								 pump->claim_after, true, SS_ENTRYID_MAX, Min(PAGE, *room), NULL);
		found = ss_stream_parse_pending(next_reply(pump, &arena), &pending);
		ids = palloc_array(SsEntryId, found + 1);
		for (int i = 0; i < found; i++)
			if (!ss_marker_is_marker(pending[i].consumer) && !ss_marker_is_worker(pipeline, pending[i].consumer))
				ids[n++] = pending[i].id;
		done = found < Min(PAGE, *room);
		if (found > 0)
			pump->claim_after = pending[found - 1].id;
		if (n > 0)
			claimed += ss_claim_ids(pump, stream, ids, n, pipeline->claim_idle_ms, NULL);
		*room -= n;
		MemoryContextReset(scratch);
	}
	if (claimed > 0)
		ereport(LOG,
				(errmsg("pipeline \"%s\" claims %d entries of stream \"%s\" that were pending with other consumers for longer than claim_idle",
						pipeline->name, claimed, stream->name)));
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
	return done;
}

bool
ss_claim_step(SsPump *pump)
{
	int pages = PAGES_A_STEP;
	int room = CLAIMS_A_STEP;
	int asked = 0;

	if (pump->run->pipeline->claim_idle_ms < 0 || (pump->run->tmpl->single && pump->share != 0))
		return false;
	for (int looked = 0; looked < pump->nstreams; looked++)
	{
		SsStream *stream = pump->streams[pump->claim_cursor % pump->nstreams];

		/* Not before our own are settled: what cannot be written would be hoarded. */
		if (stream->prepared && stream->state == SS_STREAM_OK && stream->recovered &&
			stream->seen_at != 0 && stream->foreign_pending > 0)
		{
			if (asked++ >= STREAMS_A_STEP || !claim_stream(pump, stream, &pages, &room))
				return true;
		}
		pump->claim_after = SS_ENTRYID_MIN;
		pump->claim_cursor = (pump->claim_cursor + 1) % pump->nstreams;
	}
	return false;
}
