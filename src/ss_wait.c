/*
 * ss_wait.c
 *	  wait_for: until everything that is in the streams now is settled and
 *	  acknowledged.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_identity.h"
#include "ss_outbox.h"
#include "ss_peek.h"
#include "ss_shmem.h"

#define REPLY_LIMIT	   (64 * 1024 * 1024)
#define INFO_LIMIT	   ((Size) 512 * 1024 * 1024)
#define FIRST_NAP_MS   5
#define LONGEST_NAP_MS 100

/* What one stream must reach. */
typedef struct Goal
{
	SsStream *stream;
	SsEntryId delivered;   /* its last entry */
	SsEntryId pending_end; /* nothing of ours may be pending up to here */
} Goal;

static List *
set_goals(SsRedis *redis, SsRun *run)
{
	List		 *streams = ss_peek_streams(redis, run, 0);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink replies", ALLOCSET_DEFAULT_SIZES);
	List		 *goals = NIL;
	ListCell	 *cell;

	foreach(cell, streams)
	{
		SsStream	 *stream = lfirst(cell);
		SsStreamInfo  info;
		SsStreamState state;
		Goal		 *goal;
		MemoryContext saved;
		bool		  exists;

		/* the reply holds two entries whole */
		saved = MemoryContextSwitchTo(scratch);
		ss_stream_append_info(redis, stream);
		exists = ss_stream_parse_info(ss_peek_reply(redis, INFO_LIMIT), &info, &state);
		MemoryContextSwitchTo(saved);
		MemoryContextReset(scratch);
		if (!exists)
			continue;
		goal = palloc_object(Goal);
		goal->stream = stream;
		goal->delivered = info.last;
		goal->pending_end = info.last_generated;
		goals = lappend(goals, goal);
	}
	MemoryContextDelete(scratch);
	return goals;
}

/*
 * Is nothing of our consumers pending up to the goal?  All are asked that the
 * group knows: there were more workers once, perhaps.
 */
static bool
look_at_consumers(SsRedis *redis, const SsPipeline *pipeline, const Goal *goal)
{
	size_t			len = strlen(pipeline->consumer);
	SsConsumerInfo *consumers;
	int				n;

	ss_stream_append_consumers(redis, goal->stream, pipeline->consumer_group);
	n = ss_stream_parse_consumers(ss_peek_reply(redis, REPLY_LIMIT), &consumers);
	for (int i = 0; i < n; i++)
	{
		SsPendingEntry *pending;

		if (consumers[i].pending == 0 || strncmp(consumers[i].name, pipeline->consumer, len) != 0 ||
			(consumers[i].name[len] != ':' && consumers[i].name[len] != '\0'))
			continue;
		ss_stream_append_pending(redis, goal->stream, pipeline->consumer_group, 0,
								 SS_ENTRYID_MIN, true, goal->pending_end, 1, consumers[i].name);
		if (ss_stream_parse_pending(ss_peek_reply(redis, REPLY_LIMIT), &pending) > 0)
			return false;
	}
	return true;
}

/* The second look finds what was taken over from one consumer to another during the first. */
static bool
is_acknowledged(SsRedis *redis, const SsPipeline *pipeline, const Goal *goal)
{
	return look_at_consumers(redis, pipeline, goal) && look_at_consumers(redis, pipeline, goal);
}

static bool
is_reached(SsRedis *redis, const SsRun *run, const Goal *goal)
{
	SsGroupInfo	  group;
	SsStreamState state;

	ss_stream_append_groups(redis, goal->stream);
	if (!ss_stream_parse_groups(ss_peek_reply(redis, REPLY_LIMIT), run->pipeline->consumer_group, &group, &state))
		return state == SS_STREAM_MISSING; /* gone meanwhile: nothing to wait for */
	if (!group.exists || ss_entryid_compare(group.last_delivered, goal->delivered) < 0)
		return false;
	return is_acknowledged(redis, run->pipeline, goal);
}

SS_SQL_FUNCTION(streamsink_wait_for);

/* wait_for(name, timeout) bool */
Datum
streamsink_wait_for(PG_FUNCTION_ARGS)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink wait_for", ALLOCSET_DEFAULT_SIZES);
	MemoryContext scratch;
	MemoryContext saved = MemoryContextSwitchTo(cxt);
	SsRun		 *run;
	SsRedis		 *redis;
	List		 *goals;
	TimestampTz	  give_up;
	long		  nap = FIRST_NAP_MS;
	bool		  reached = false;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of a pipeline must not be null")));
	ss_shmem_require();
	give_up = DT_NOEND;
	if (!PG_ARGISNULL(1))
	{
		int64 timeout_ms;

		if (!ss_catalog_interval_ms(PG_GETARG_INTERVAL_P(1), &timeout_ms))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"timeout\" must not have months or years")));
		give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	}
	run = ss_run_load_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), cxt);
	ss_identity_check(run->pipeline);
	if (!run->pipeline->enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" is not running", run->pipeline->name),
				 errhint("Start it with streamsink.start(), or drain it with CALL streamsink.ingest().")));

	redis = ss_peek_connect(run->pipeline, cxt);
	goals = set_goals(redis, run);
	scratch = AllocSetContextCreate(cxt, "streamsink replies", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		MemoryContextSwitchTo(scratch);
		/* a group that is about to be moved back has not reached anything */
		while (goals != NIL &&
			   !ss_outbox_holds_up(run->pipeline->name, run->pipeline->server, run->pipeline->owner) &&
			   is_reached(redis, run, linitial(goals)))
		{
			goals = list_delete_first(goals);
			MemoryContextReset(scratch);
		}
		reached = (goals == NIL);
		if (reached || GetCurrentTimestamp() >= give_up)
			break;
		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, nap,
					  PG_WAIT_EXTENSION) &
			WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		nap = Min(nap * 2, LONGEST_NAP_MS);
		MemoryContextReset(scratch);
	}
	MemoryContextSwitchTo(saved);
	ss_redis_close(redis);
	MemoryContextDelete(cxt);
	PG_RETURN_BOOL(reached);
}
