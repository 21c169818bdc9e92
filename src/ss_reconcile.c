/*
 * ss_reconcile.c
 *	  Entries that a group has passed, but that are not settled: read again.
 *
 * NOTES
 *	  There are some when this database was set back (a restored backup, a
 *	  standby that was promoted before it had everything), when somebody moved
 *	  the group forward, or took pending entries from it.
 *	  Making an entry pending with ourselves is always safe: what is settled by
 *	  the time it is read is dropped then.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "ss_control.h"
#include "ss_fault.h"
#include "ss_ledger.h"
#include "ss_reconcile.h"

#define GAPS_A_QUESTION 64
#define PAGE_IDS		1000 /* entries claimed at a time */
#define FIRST_COUNT		8	 /* entries asked for first, more while they are small */
#define LARGE_REPLY		(256 * 1024)
#define REPLY_LIMIT		((Size) 512 * 1024 * 1024)

/* Where unsettled entries may be: behind one id, up to another. */
typedef struct Gap
{
	SsEntryId after;
	SsEntryId end; /* included */
} Gap;

static SsReply *
receive(SsPump *pump)
{
	SsArena *arena = palloc_object(SsArena);

	ss_arena_init(arena, CurrentMemoryContext, REPLY_LIMIT);
	return ss_redis_receive(pump->redis, arena, 0, PG_WAIT_EXTENSION);
}

/* The gaps between settled ids behind "after" and up to the end, in CurrentMemoryContext. */
static Gap *
find_gaps(const SsPump *pump, const SsStream *stream, SsEntryId after, SsEntryId end, int *n)
{
	MemoryContext	  saved = CurrentMemoryContext;
	const SsInterval *intervals;
	SsSettled		 *settled;
	int				  nintervals;
	Gap				 *gaps;

	if (!pump->session)
		StartTransactionCommand();
	MemoryContextSwitchTo(saved);
	settled = ss_ledger_load_above(pump->run->pipeline->id, &stream->id, 1, &after);
	nintervals = ss_ledger_intervals(settled, stream->id, &intervals);
	gaps = MemoryContextAllocHuge(saved, sizeof(Gap) * ((Size) nintervals + 1));
	*n = 0;
	for (int i = 0; i <= nintervals && ss_entryid_compare(after, end) < 0; i++)
	{
		Gap gap = {.after = after, .end = end};

		if (i < nintervals)
		{
			(void) ss_entryid_previous(intervals[i].first, &gap.end);
			if (ss_entryid_compare(gap.end, end) > 0)
				gap.end = end;
			if (ss_entryid_compare(intervals[i].last, after) > 0)
				after = intervals[i].last;
		}
		if (ss_entryid_compare(gap.after, gap.end) < 0)
			gaps[(*n)++] = gap;
	}
	if (!pump->session)
		CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	return gaps;
}

/* Of the ids, in order, those that are not pending in the group; returns their number. */
static int
drop_pending(SsPump *pump, const SsStream *stream, SsEntryId after, SsEntryId *ids, int n)
{
	SsEntryId last = ids[n - 1];
	int		  left = 0;
	int		  at = 0;

	while (at < n)
	{
		SsPendingEntry *pending;
		int				npending;
		int				i = 0;

		ss_stream_append_pending(pump->redis, stream, pump->run->pipeline->consumer_group, 0, after, true, last, PAGE_IDS, NULL);
		npending = ss_stream_parse_pending(receive(pump), &pending);

		/* ids behind the last one of a full page are for the next page */
		for (; at < n; at++)
		{
			if (npending == PAGE_IDS && ss_entryid_compare(ids[at], pending[npending - 1].id) > 0)
				break;
			while (i < npending && ss_entryid_compare(pending[i].id, ids[at]) < 0)
				i++;
			if (i == npending || ss_entryid_compare(pending[i].id, ids[at]) != 0)
				ids[left++] = ids[at];
		}
		if (npending < PAGE_IDS)
			break;
		after = pending[npending - 1].id;
	}
	return left;
}

/*
 * Of the ids, those that are not settled by now.  Another worker may have
 * settled and acknowledged some while we asked: whatever was not pending any
 * more was settled before that.
 */
static int
drop_settled(SsPump *pump, const SsStream *stream, SsEntryId *ids, int n)
{
	MemoryContext saved = CurrentMemoryContext;
	SsSettled	 *settled;
	int			  left = 0;

	if (n == 0)
		return 0;
	if (!pump->session)
		StartTransactionCommand();
	MemoryContextSwitchTo(saved);
	settled = ss_ledger_load_above(pump->run->pipeline->id, &stream->id, 1, &ids[0]);
	for (int i = 0; i < n; i++)
		if (!ss_ledger_contains(settled, stream->id, ids[i]))
			ids[left++] = ids[i];
	if (!pump->session)
		CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	return left;
}

/* What lies in one gap. */
static int64
claim_gap(SsPump *pump, SsStream *stream, const Gap *gap)
{
	MemoryContext page = AllocSetContextCreate(CurrentMemoryContext, "streamsink reconcile", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(page);
	SsEntryId	  after = gap->after;
	int			  count = FIRST_COUNT;
	int64		  claimed = 0;

	while (ss_entryid_compare(after, gap->end) < 0)
	{
		uint64	   received = ss_redis_received(pump->redis);
		SsEntryId *ids;
		SsEntryId  last;
		int		   n;

		ss_stream_append_between(pump->redis, stream, after, gap->end, count);
		n = ss_stream_parse_ids(receive(pump), &ids);
		if (n == 0)
			break;
		last = ids[n - 1];
		n = drop_pending(pump, stream, after, ids, n);
		n = drop_settled(pump, stream, ids, n);
		if (n > 0)
		{
			ss_stream_append_claim_forced(pump->redis, stream, pump->run->pipeline->consumer_group,
										  pump->consumer, ids, n);
			ss_reply_expect(receive(pump), SS_REPLY_ARRAY, 0, "XCLAIM");
			claimed += n;
			SS_FAULT("after-claim");
		}
		after = last;
		if (ss_redis_received(pump->redis) - received < LARGE_REPLY)
			count = Min(count * 2, PAGE_IDS);
		else
			count = Max(count / 4, 1);
		MemoryContextReset(page);
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(page);
	return claimed;
}

int64
ss_reconcile_stream(SsPump *pump, SsStream *stream, SsEntryId after, SsEntryId delivered)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "streamsink gaps", ALLOCSET_DEFAULT_SIZES);
	MemoryContext question = AllocSetContextCreate(work, "streamsink question", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(work);
	int			  ngaps;
	Gap			 *gaps = find_gaps(pump, stream, after, delivered, &ngaps);
	int64		  claimed = 0;

	for (int begin = 0; begin < ngaps; begin += GAPS_A_QUESTION)
	{
		int	 end = Min(ngaps, begin + GAPS_A_QUESTION);
		bool filled[GAPS_A_QUESTION];

		/* most gaps are empty: ask about many at once */
		MemoryContextSwitchTo(question);
		for (int i = begin; i < end; i++)
			ss_stream_append_between(pump->redis, stream, gaps[i].after, gaps[i].end, 1);
		for (int i = begin; i < end; i++)
		{
			SsEntryId *ids;

			filled[i - begin] = ss_stream_parse_ids(receive(pump), &ids) > 0;
			MemoryContextReset(question);
		}
		MemoryContextSwitchTo(work);
		for (int i = begin; i < end; i++)
			if (filled[i - begin])
				claimed += claim_gap(pump, stream, &gaps[i]);
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(work);

	if (claimed > 0)
	{
		stream->recovered = false;
		stream->pending_after = SS_ENTRYID_MIN;
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg(INT64_FORMAT " entries of stream \"%s\" are read again for pipeline \"%s\"",
						claimed, stream->name, pump->run->pipeline->name),
				 errdetail("The consumer group has passed them, but they are neither settled here nor pending.")));
	}
	return claimed;
}

/* ---- the SQL function ---- */

SS_SQL_FUNCTION(streamsink_reconcile);

/*
 * Entries may have been trimmed away that were given out and are not settled
 * (any more).  Nobody can tell, but the range can be told.
 */
static void
report_trimmed(SsPump *pump, const SsStream *stream)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "streamsink trimmed", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(work);
	SsStreamInfo  info;
	SsStreamState state;
	SsEntryId	  before;
	int			  n;
	Gap			 *gaps;
	char		  after_text[SS_ENTRYID_MAXLEN];
	char		  first_text[SS_ENTRYID_MAXLEN];

	ss_stream_append_info(pump->redis, stream);
	if (ss_stream_parse_info(receive(pump), &info, &state) && info.length > 0 &&
		info.entries_added != info.length &&
		ss_entryid_previous(info.first, &before) && ss_entryid_compare(before, stream->passed) < 0)
	{
		gaps = find_gaps(pump, stream, stream->start, before, &n);
		if (n > 0 && ss_entryid_compare(gaps[n - 1].end, before) == 0)
		{
			ss_entryid_print(gaps[n - 1].after, after_text);
			ss_entryid_print(info.first, first_text);
			ereport(NOTICE,
					(errmsg("stream \"%s\" was trimmed up to %s, and nothing between %s and that is settled",
							stream->name, first_text, after_text),
					 errdetail("Entries that were there, if any, cannot be read again.")));
		}
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(work);
}

static int64
reconcile_all(SsPump *pump)
{
	int64 claimed = 0;

	ss_discover_all(pump);
	for (int i = 0; i < pump->nstreams; i++)
	{
		SsStream *stream = pump->streams[i];

		if (!stream->prepared)
			ereport(WARNING,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("stream \"%s\" was left out: %s", stream->name,
							stream->reason[0] != '\0' ? stream->reason : "it cannot be read now")));
		else if (stream->foreign)
			ereport(WARNING,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("stream \"%s\" was left out: others read in its consumer group", stream->name),
					 errdetail("Which entries they took and which are missing cannot be told apart.")));
		else
		{
			report_trimmed(pump, stream);
			claimed += ss_reconcile_stream(pump, stream, stream->start, stream->passed);
		}
	}
	return claimed;
}

/* reconcile(name): compare what is settled with the streams and their groups, and read again what is missing; how many entries. */
Datum
streamsink_reconcile(PG_FUNCTION_ARGS)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink reconcile", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(cxt);
	SsRun		 *run = ss_control_open(fcinfo, "reconcile()", cxt);
	SsPump		 *pump = ss_pump_open(run, 0, 1, true, NULL, cxt);
	int64		  claimed = reconcile_all(pump);

	ss_pump_close(pump);

	/* the workers begin anew, with what is pending */
	ss_catalog_touch(run->pipeline->id);
	ss_run_free(run);
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(cxt);
	PG_RETURN_INT64(claimed);
}
