/*
 * ss_trim.c
 *	  trim_after: entries that everybody is done with are removed from their
 *	  streams.
 *
 * NOTES
 *	  An entry may go if all of this is true of it and of everything before it:
 *	  - its id is a time, longer ago than trim_after by Redis's clock;
 *	  - it is settled here, without a gap from the stream's first entry on.
 *	    Only what is joined to one interval counts: of that it was proven that
 *	    nothing lies between, and the proof could not be had later;
 *	  - every consumer group of the stream was given it, and none has it pending.
 *	  Nothing of this is taken back by itself, so the answers hold until Redis
 *	  trims.  A group that somebody makes or moves back in that very moment is
 *	  not seen, and readers without a group never are.
 *
 *	  MINID ~ removes whole nodes of the stream, never more than was said.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_fault.h"
#include "ss_pump.h"

/* Most work of one step, which comes with every sample. */
#define STREAMS_A_STEP 100
#define TRIMS_A_STREAM 20 /* Redis removes about 10,000 entries at a time */

/* Between two lines in the log, and between writing down the numbers. */
#define REPORT_MS 60000

/* 1973: a producer's own numbers are lower. */
#define TIME_LIKE_MS UINT64CONST(100000000000)

#define REPLY_LIMIT ((Size) 64 * 1024 * 1024)

/* A stream, and the id below which its entries may go. */
typedef struct Candidate
{
	SsStream *stream;
	SsEntryId limit;
} Candidate;

static bool
is_below(SsEntryId a, SsEntryId b)
{
	return ss_entryid_compare(a, b) < 0;
}

static void
lower_limit(Candidate *candidate, SsEntryId id)
{
	if (is_below(id, candidate->limit))
		candidate->limit = id;
}

static const SsReply *
receive(SsPump *pump)
{
	SsArena *arena = palloc_object(SsArena);

	ss_arena_init(arena, CurrentMemoryContext, REPLY_LIMIT);
	return ss_redis_receive(pump->redis, arena, 0, PG_WAIT_EXTENSION);
}

/* Redis's clock, or ours if it may not be asked: milliseconds since 1970. */
static uint64
read_clock(SsPump *pump)
{
	const SsReply *reply;
	uint64		   ms;

	ss_stream_append_time(pump->redis);
	reply = receive(pump);
	if (!ss_stream_parse_time(reply, &ms))
		ms = ss_entryid_from_time(GetCurrentTimestamp()).ms;
	return ms;
}

/* Streams that have old entries, from the cursor on, which goes behind those looked at. */
static int
find_old(SsPump *pump, uint64 age, Candidate *found)
{
	int n = 0;

	for (int looked = 0; looked < pump->nstreams && n < STREAMS_A_STEP; looked++)
	{
		SsStream *stream = pump->streams[pump->trim_cursor++ % pump->nstreams];

		if (!stream->prepared || stream->state != SS_STREAM_OK || stream->seen_at == 0 || stream->seen_empty ||
			stream->first.ms < TIME_LIKE_MS || stream->first.ms >= age)
			continue;
		found[n].stream = stream;
		found[n].limit = (SsEntryId){age, 0};
		n++;
	}
	pump->trim_cursor %= pump->nstreams;
	return n;
}

/* Lower the limits to what is settled without a gap; false if the pipeline is being changed at this moment. */
static bool
limit_to_settled(SsPump *pump, Candidate *candidates, int n)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	MemoryContext	  saved = CurrentMemoryContext;
	bool			  current;

	StartTransactionCommand();
	current = ss_catalog_try_lock(pipeline->id, AccessShareLock) && ss_catalog_is_current(pipeline);
	for (int i = 0; current && i < n; i++)
	{
		Candidate  *candidate = &candidates[i];
		SsInterval *intervals;
		SsEntryId	end = SS_ENTRYID_MIN;
		bool		more;
		int			count = ss_ledger_folded(candidate->stream->id, candidate->stream->first, 1, &intervals, &more);

		if (count == 0 || is_below(candidate->stream->first, intervals[0].first) ||
			!ss_entryid_next(intervals[0].last, &end))
			end = SS_ENTRYID_MIN;
		lower_limit(candidate, end);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	return current;
}

/* Lower the limit to what all groups are done with. */
static void
limit_to_groups(SsPump *pump, Candidate *candidate)
{
	SsStream	*stream = candidate->stream;
	const char	*ours = pump->run->pipeline->consumer_group;
	SsGroupLine *groups;
	bool		 found = false;
	int			 n;

	ss_stream_append_groups(pump->redis, stream);
	n = ss_stream_parse_group_lines(receive(pump), &groups);
	for (int i = 0; i < n; i++)
	{
		SsEntryId end;

		if (groups[i].name_len == strlen(ours) && memcmp(groups[i].name, ours, groups[i].name_len) == 0)
			found = true;
		if (!ss_entryid_next(groups[i].last_delivered, &end))
			end = SS_ENTRYID_MIN;
		lower_limit(candidate, end);
	}
	if (!found)
		candidate->limit = SS_ENTRYID_MIN;

	for (int i = 0; i < n && is_below(stream->first, candidate->limit); i++)
	{
		const char *argv[3] = {"XPENDING", stream->key, groups[i].name};
		size_t		lens[3] = {8, stream->key_len, groups[i].name_len};
		SsEntryId	first;

		ss_redis_append(pump->redis, 3, argv, lens);
		if (ss_stream_parse_pending_first(receive(pump), &first))
			lower_limit(candidate, first);
	}
}

/* Remove some of what may go, and say whether there was any; false if Redis does not let us. */
static bool
trim_some(SsPump *pump, const Candidate *candidate, bool *any)
{
	char		   id[SS_ENTRYID_MAXLEN];
	const char	  *argv[5] = {"XTRIM", candidate->stream->key, "MINID", "~", id};
	size_t		   lens[5] = {5, candidate->stream->key_len, 5, 1, 0};
	const SsReply *reply;

	*any = false;
	lens[4] = ss_entryid_print(candidate->limit, id);
	SS_FAULT("before-trim");
	ss_redis_append(pump->redis, 5, argv, lens);
	reply = receive(pump);
	if (reply->type == SS_REPLY_ERROR)
	{
		int sqlstate = ss_reply_sqlstate(reply);

		/* gone, or something else by now: the next look at it finds that */
		if (sqlstate == ERRCODE_WRONG_OBJECT_TYPE)
			return true;
		if (sqlstate != ERRCODE_INSUFFICIENT_PRIVILEGE && sqlstate != ERRCODE_FDW_ERROR)
			ss_reply_raise(reply, "XTRIM");
		ereport(WARNING,
				(errcode(sqlstate),
				 errmsg("streams of pipeline \"%s\" are not trimmed: Redis does not permit it", pump->run->pipeline->name),
				 errdetail_internal("%s", ss_reply_printable(reply->str, reply->n, 200)),
				 errhint("Permit the command XTRIM, which needs Redis 6.2, or reset trim_after.")));
		return false;
	}
	ss_reply_expect(reply, SS_REPLY_INTEGER, 0, "XTRIM");
	candidate->stream->trimmed += Max(reply->integer, 0);
	*any = reply->integer > 0;
	return true;
}

static bool
trim_stream(SsPump *pump, const Candidate *candidate)
{
	bool any = true;

	for (int i = 0; any && i < TRIMS_A_STREAM; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!trim_some(pump, candidate, &any))
			return false;
	}
	return true;
}

/* Tell what was trimmed since the last time. */
static void
report(SsPump *pump)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	MemoryContext	  saved = CurrentMemoryContext;
	int64			  sum = 0;
	int				  streams = 0;

	for (int i = 0; i < pump->nstreams; i++)
	{
		sum += pump->streams[i]->trimmed;
		streams += pump->streams[i]->trimmed > 0;
	}
	if (sum == 0)
		return;

	StartTransactionCommand();
	if (ss_catalog_try_lock(pipeline->id, AccessShareLock) && ss_catalog_is_current(pipeline))
	{
		for (int i = 0; i < pump->nstreams; i++)
		{
			SsStream *stream = pump->streams[i];

			if (stream->trimmed > 0)
				ss_catalog_count_trimmed(pipeline->id, stream->id, stream->trimmed);
			stream->trimmed = 0;
		}
		ereport(LOG,
				(errmsg(INT64_FORMAT " entries of pipeline \"%s\" were trimmed from %d streams",
						sum, pipeline->name, streams),
				 errdetail("They are settled, and older than trim_after.")));
		pump->trim_report_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), REPORT_MS);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	pgstat_report_stat(false);
}

void
ss_trim_step(SsPump *pump)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	MemoryContext	  scratch;
	MemoryContext	  saved;
	Candidate		 *candidates;
	uint64			  now;
	int				  n = 0;

	/* of a stream that all workers read, one of them does it */
	if (pipeline->trim_after_ms < 0 || pump->trim_refused || pump->nstreams == 0 ||
		(pump->run->tmpl->single && pump->share != 0))
		return;

	scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink trim", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(scratch);
	candidates = palloc_array(Candidate, STREAMS_A_STEP);
	now = read_clock(pump);
	if (now > (uint64) pipeline->trim_after_ms)
		n = find_old(pump, now - (uint64) pipeline->trim_after_ms, candidates);
	if (n > 0 && !limit_to_settled(pump, candidates, n))
		n = 0;
	for (int i = 0; i < n && !pump->trim_refused; i++)
	{
		if (!is_below(candidates[i].stream->first, candidates[i].limit))
			continue;
		CHECK_FOR_INTERRUPTS();
		limit_to_groups(pump, &candidates[i]);
		if (is_below(candidates[i].stream->first, candidates[i].limit) && !trim_stream(pump, &candidates[i]))
			pump->trim_refused = true;
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
	if (GetCurrentTimestamp() >= pump->trim_report_due)
		report(pump);
}
