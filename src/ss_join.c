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
 *	  Work is done in steps, so that reading is not held up: some gaps of some
 *	  streams, then again a second later until all streams had their turn.
 *	  Gaps that cannot be joined (what lies in them is another consumer's, or
 *	  was trimmed away) are tried once and then after each AGAIN_MS only.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_guc.h"
#include "ss_marker.h"
#include "ss_pump.h"

/* Most work of one step. */
#define GAPS_A_STEP	   2000
#define STREAMS_A_STEP 100

/* Gaps asked about in one MULTI, while what lies in them is no more than so many bytes. */
#define GAPS_A_QUESTION 256
#define QUESTION_BYTES	(256 * 1024)

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

/* The next gaps between old intervals of a stream, at most max.  In a transaction. */
static void
find_candidates(Candidates *found, SsStream *stream, int max)
{
	TimestampTz young = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -(int64) ss_guc_ledger_join_age);
	SsInterval *intervals;
	bool		more;
	int			n = ss_ledger_folded(stream->id, stream->join_after, max + 1, &intervals, &more);

	found->stream = stream;
	found->gaps = palloc_array(SsGap, Min(n, max) + 1);
	found->n = 0;
	found->more = false;
	for (int i = 0; i + 1 < n; i++)
	{
		if (intervals[i].settled_at > young || intervals[i + 1].settled_at > young)
			continue;
		if (found->n == max)
		{
			found->more = true;
			break;
		}
		found->gaps[found->n].before = intervals[i].last;
		found->gaps[found->n].after = intervals[i + 1].first;
		found->gaps[found->n++].empty = false;
	}
	if (more && found->n > 0)
		found->more = true;
	if (n > 0)
		pfree(intervals);
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
	SsReply *reply = NULL;
	bool	 refused = false;
	SsArena	 arena;

	ss_arena_init(&arena, cxt, pump->reply_limit);
	ss_stream_append_gaps(pump->redis, stream, pump->run->pipeline->consumer_group, gaps, n);
	for (int i = 0; i < SS_STREAM_GAP_REPLIES(n); i++)
	{
		bool last = i == SS_STREAM_GAP_REPLIES(n) - 1;

		reply = ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION);
		if (reply->type != SS_REPLY_ERROR || (last && refused))
			continue;
		if (!is_refusal(reply))
			ss_reply_raise(reply, "MULTI");
		if (!refused && !pump->join_refused)
			ereport(LOG,
					(errmsg("the ledger of pipeline \"%s\" is not shortened: Redis does not permit a command",
							pump->run->pipeline->name),
					 errdetail_internal("%s", ss_reply_printable(reply->str, reply->n, 200)),
					 errhint("Permit the commands MULTI, EXEC, XINFO and XRANGE.")));
		refused = pump->join_refused = true;
	}
	return !refused && ss_stream_parse_gaps(reply, marker, gaps, n);
}

/* Ask about a stream's gaps, more at a time while they turn out to be empty; returns how many are. */
static int
ask_all(SsPump *pump, Candidates *candidates)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink gaps", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(cxt);
	char		  marker[SS_MARKER_MAX];
	int			  size = 8;
	int			  empty = 0;
	bool		  going = true;

	ss_marker_name(pump->run->pipeline, marker);
	for (int at = 0; going && at < candidates->n;)
	{
		uint64 received = ss_redis_received(pump->redis);
		int	   n = Min(size, candidates->n - at);

		going = ask(pump, candidates->stream, marker, candidates->gaps + at, n, cxt);
		for (int i = at; i < at + n; i++)
			if (candidates->gaps[i].empty)
				empty++;
		at += n;
		if (ss_redis_received(pump->redis) - received < QUESTION_BYTES)
			size = Min(size * 2, GAPS_A_QUESTION);
		else
			size = Max(size / 8, 1);
		MemoryContextReset(cxt);
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(cxt);
	return empty;
}

/* Remember how far a stream's gaps were tried. */
static void
advance(const Candidates *candidates)
{
	if (candidates->n > 0)
		candidates->stream->join_after = candidates->gaps[candidates->n - 1].after;
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

	StartTransactionCommand();
	if (ss_catalog_try_lock(pipeline->id, AccessShareLock) &&
		ss_catalog_is_current(pipeline) &&
		ss_ledger_fold(pipeline->id, FOLD_ROWS, 0, NULL) >= 0)
	{
		for (int i = 0; i < n; i++)
			(void) ss_ledger_join(pipeline->id, candidates[i].stream->id, candidates[i].gaps, candidates[i].n);
		done = true;
	}
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
				stream->join_after = SS_ENTRYID_MIN;
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

void
ss_join_step(SsPump *pump)
{
	MemoryContext scratch;
	MemoryContext saved;
	Candidates	 *work;
	int			  n;
	int			  empty = 0;
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
		empty += ask_all(pump, &work[i]);
	if (empty > 0)
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
