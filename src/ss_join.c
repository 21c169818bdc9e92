/*
 * ss_join.c
 *	  Joins settled intervals of a stream between which there is nothing, so
 *	  that the ledger of a stream that is read in many batches stays short.
 *
 * NOTES
 *	  Redis is asked about the gaps between neighbours without a transaction;
 *	  then, in one, those are joined that are neighbours still.  What is proven
 *	  of a gap stays true (see ss_streamgap.c), so nothing can come between.
 *	  Young intervals stay apart for a while: should Redis lose its last
 *	  entries, the ledger still tells what was settled of them exactly.
 *
 *	  Where a producer trims its stream, or others read from the group too, most
 *	  gaps are never proven to be empty.  Far behind the newest intervals
 *	  (APART of them stay apart) those are joined as well, and counted in the
 *	  stream's row.
 *
 *	  Work is done in steps, so that reading is not held up: some gaps of some
 *	  streams, then again a second later until all streams had their turn.
 *	  Gaps that cannot be joined are tried once, once more when they have got
 *	  far behind, and then after each AGAIN_MS only.
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
#include "ss_guc.h"
#include "ss_marker.h"
#include "ss_pump.h"
#include "ss_reconcile.h"

/* Most work of one step. */
#define GAPS_A_STEP	   2000
#define STREAMS_A_STEP 100
#define FILLED_A_STEP  100 /* gaps that are looked into because there are entries in them */

/* Gaps asked about in one MULTI, while what lies in them is no more than so many bytes. */
#define GAPS_A_QUESTION 256
#define QUESTION_BYTES	(256 * 1024)

/* Newest intervals of a stream that are joined with each other over a gap that is proven empty only. */
#define APART ss_guc_ledger_apart

#define MORE_MS	 1000	 /* to the next step while there is more to do */
#define ROUND_MS 60000	 /* to the next round over all streams, at most */
#define AGAIN_MS 3600000 /* until gaps are tried again that could not be joined */

/* Rows of the log folded before joining: as many as a worker folds at a time. */
#define FOLD_ROWS (ss_guc_fold_rows * 16)

/* Gaps of one stream that may be tried. */
typedef struct Candidates
{
	SsStream *stream;
	SsGap	 *gaps;
	int		  n;
	bool	  more; /* others follow */
} Candidates;

/* Add gaps between old intervals, from an id on, up to the interval that begins with end.  In a transaction. */
static void
add_gaps(Candidates *found, SsEntryId from, SsEntryId end, bool loose, int max)
{
	TimestampTz young = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -(int64) ss_guc_ledger_join_age);
	SsInterval *intervals;
	bool		more;
	int			n = ss_ledger_folded(found->stream->id, from, max + 1, &intervals, &more);

	for (int i = 0; i + 1 < n; i++)
	{
		SsGap *gap = &found->gaps[found->n];

		if (ss_entryid_compare(intervals[i + 1].first, end) > 0)
		{
			more = false;
			break;
		}
		if (intervals[i].settled_at > young || intervals[i + 1].settled_at > young)
			continue;
		if (found->n == max)
		{
			found->more = true;
			break;
		}
		gap->before = intervals[i].last;
		gap->after = intervals[i + 1].first;
		gap->loose = loose;
		gap->kind = SS_GAP_KEPT;
		found->n++;
	}
	if (more && found->n > 0)
		found->more = true;
	if (n > 0)
		pfree(intervals);
}

/* The next gaps of a stream that may be tried, at most max.  In a transaction. */
static void
find_candidates(Candidates *found, SsStream *stream, int max)
{
	SsEntryId newest = ss_ledger_newest(stream->id, APART);

	found->stream = stream;
	found->gaps = palloc_array(SsGap, max + 1);
	found->n = 0;
	found->more = false;
	if (ss_entryid_compare(newest, stream->join_loose_after) > 0)
		add_gaps(found, stream->join_loose_after, newest, true, max);
	if (!found->more && found->n < max)
	{
		SsEntryId from = ss_entryid_compare(newest, stream->join_after) > 0 ? newest : stream->join_after;

		add_gaps(found, from, SS_ENTRYID_MAX, false, max);
	}
}

/* Redis may not let us ask: the ledger is longer then, and nothing else. */
static bool
is_refusal(const SsReply *reply)
{
	return reply->type == SS_REPLY_ERROR && ss_reply_sqlstate(reply) == ERRCODE_INSUFFICIENT_PRIVILEGE;
}

/* Ask about n gaps at once.  False if there is no sense in asking on about this stream. */
static bool
ask(SsPump *pump, const SsStream *stream, const char *marker, SsGap *gaps, int n, MemoryContext cxt)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	SsReply			 *reply = NULL;
	bool			  refused = false;
	int				  replies;
	SsArena			  arena;

	ss_arena_init(&arena, cxt, pump->reply_limit);
	replies = ss_stream_append_gaps(pump->redis, stream, pipeline->consumer_group, gaps, n);
	for (int i = 0; i < replies; i++)
	{
		bool last = i == replies - 1;

		reply = ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION);
		if (reply->type != SS_REPLY_ERROR || (last && refused))
			continue;
		if (!is_refusal(reply))
			ss_reply_raise(reply, "MULTI");
		if (!refused && !pump->join_refused)
			ereport(LOG,
					(errmsg("the ledger of pipeline \"%s\" is not shortened: Redis does not permit a command",
							pipeline->name),
					 errdetail_internal("%s", ss_reply_printable(reply->str, reply->n, 200)),
					 errhint("Permit the commands MULTI, EXEC, XINFO, XRANGE and XPENDING.")));
		refused = pump->join_refused = true;
	}
	return !refused &&
		   ss_stream_parse_gaps(reply, pipeline, stream, marker, gaps, n);
}

/* Ask about a stream's gaps, more at a time while they turn out to be empty; returns how many may be joined. */
static int
ask_all(SsPump *pump, Candidates *candidates)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink gaps", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(cxt);
	char		  marker[SS_MARKER_MAX];
	int			  size = 8;
	int			  closed = 0;
	bool		  going = true;

	ss_marker_name(pump->run->pipeline, marker);
	for (int at = 0; going && at < candidates->n;)
	{
		uint64 received = ss_redis_received(pump->redis);
		int	   n = Min(size, candidates->n - at);

		going = ask(pump, candidates->stream, marker, candidates->gaps + at, n, cxt);
		for (int i = at; i < at + n; i++)
			if (candidates->gaps[i].kind != SS_GAP_KEPT)
				closed++;
		at += n;
		if (ss_redis_received(pump->redis) - received < QUESTION_BYTES)
			size = Min(size * 2, GAPS_A_QUESTION);
		else
			size = Max(size / 8, 1);
		MemoryContextReset(cxt);
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(cxt);
	return closed;
}

/* Remember how far a stream's gaps were tried. */
static void
advance(const Candidates *candidates)
{
	for (int i = 0; i < candidates->n; i++)
	{
		const SsGap *gap = &candidates->gaps[i];

		if (gap->loose)
			candidates->stream->join_loose_after = gap->after;
		else
			candidates->stream->join_after = gap->after;
	}
}

/*
 * Join what is proven, in one transaction.  False if that was not possible at
 * this moment: somebody else folds, or the pipeline is being changed.
 */
static bool
join_proven(SsPump *pump, const Candidates *candidates, int n)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	bool			  done = false;

	SS_FAULT("before-join");
	StartTransactionCommand();
	ss_catalog_lock_stream_table(); /* before the ledger, as DROP EXTENSION locks them */
	if (ss_catalog_try_lock(pipeline->id, AccessShareLock) &&
		ss_catalog_is_current(pipeline) &&
		ss_ledger_fold(pipeline->id, FOLD_ROWS, 0, NULL) >= 0)
	{
		for (int i = 0; i < n; i++)
		{
			int32 stream = candidates[i].stream->id;
			int64 kinds[SS_GAP_KINDS] = {0};

			(void) ss_ledger_join(pipeline->id, stream, candidates[i].gaps, candidates[i].n, kinds);
			ss_catalog_count_stream(pipeline->id, stream, kinds[SS_GAP_UNSEEN], kinds[SS_GAP_FOREIGN], 0);
		}
		done = true;
	}
	SS_FAULT("in-join");
	CommitTransactionCommand();
	pgstat_report_stat(false);
	return done;
}

/* Collect a step's candidates, from join_cursor on, which goes behind the streams looked at. */
static int
find_work(SsPump *pump, Candidates *work, MemoryContext scratch)
{
	int			room = GAPS_A_STEP;
	int			n = 0;
	TimestampTz now = GetCurrentTimestamp();

	StartTransactionCommand();
	MemoryContextSwitchTo(scratch);
	for (int looked = 0; looked < STREAMS_A_STEP && room > 0 && pump->join_cursor < pump->nstreams; looked++)
	{
		SsStream *stream = pump->streams[pump->join_cursor];

		if (stream->prepared && stream->state == SS_STREAM_OK)
		{
			if (now >= stream->join_again)
			{
				stream->join_after = stream->join_loose_after = SS_ENTRYID_MIN;
				stream->join_again = TimestampTzPlusMilliseconds(now, AGAIN_MS);
			}
			find_candidates(&work[n], stream, room);
			room -= work[n].n;
			if (work[n].n > 0 && work[n++].more)
				break;
		}
		pump->join_cursor++;
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(scratch);
	return n;
}

/*
 * Entries between what is settled that nobody has pending: somebody moved the
 * group, or acknowledged by hand, while we did not look.  They are read again.
 */
static void
look_into(SsPump *pump, const Candidates *candidates, int *looked)
{
	for (int i = 0; i < candidates->n && *looked < FILLED_A_STEP; i++)
	{
		const SsGap *gap = &candidates->gaps[i];
		SsEntryId	 end;

		if (!gap->filled || gap->kind != SS_GAP_KEPT || ss_entryid_compare(gap->before, candidates->stream->start) < 0)
			continue;
		(void) ss_entryid_previous(gap->after, &end);
		if (ss_reconcile_stream(pump, candidates->stream, gap->before, end) > 0)
			candidates->stream->join_again = 0; /* the gaps beside it can be closed then */
		(*looked)++;
	}
}

void
ss_join_step(SsPump *pump)
{
	MemoryContext scratch;
	MemoryContext saved;
	Candidates	 *work;
	int			  n;
	int			  closed = 0;
	int			  looked = 0;
	int			  cursor = pump->join_cursor;
	bool		  done = true;
	long		  round_ms = Max(MORE_MS, Min(ROUND_MS, ss_guc_ledger_join_age));

	/* Of a stream that all workers read, one of them does it. */
	if (pump->join_refused || (pump->run->tmpl->single && pump->share != 0))
	{
		pump->join_due = DT_NOEND;
		return;
	}

	scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink join", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(scratch);
	work = palloc_array(Candidates, STREAMS_A_STEP);
	n = find_work(pump, work, scratch);
	for (int i = 0; i < n && !pump->join_refused; i++)
	{
		closed += ask_all(pump, &work[i]);
		look_into(pump, &work[i], &looked);
	}
	if (closed > 0)
		done = join_proven(pump, work, n);
	if (done)
	{
		for (int i = 0; i < n; i++)
			advance(&work[i]);
	}
	else
		pump->join_cursor = cursor;

	if (pump->join_cursor >= pump->nstreams)
		pump->join_cursor = 0;
	pump->join_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 done && pump->join_cursor == 0 && (n == 0 || !work[n - 1].more) ? round_ms : MORE_MS);
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
}
