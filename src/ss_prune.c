/*
 * ss_prune.c
 *	  Forgets settled intervals that Redis has no entries of any more.
 *
 * NOTES
 *	  What lies before a stream's first entry cannot be handed out again, unless
 *	  an older state of Redis is restored: so it is kept for ledger_retention
 *	  nevertheless.  Where a stream begins is known from its last sample, and
 *	  only gets later.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ss_guc.h"
#include "ss_pump.h"

/* Most work of one step. */
#define INTERVALS_A_STEP 20000
#define STREAMS_A_STEP	 500

#define MORE_MS	 1000	/* to the next step while there is more to do */
#define ROUND_MS 600000 /* to the next round over all streams, at most */

/* The id from which on a stream has, or can get, entries; false if it is not known. */
static bool
find_begin(const SsStream *stream, SsEntryId *begin)
{
	if (stream->seen_at == 0 || !stream->prepared || stream->state != SS_STREAM_OK)
		return false;
	if (!stream->seen_empty)
		*begin = stream->first;
	else if (!ss_entryid_next(stream->last_generated, begin))
		return false;
	return true;
}

/* Prune streams from prune_cursor on; false if that was not possible at this moment. */
static bool
prune_some(SsPump *pump)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	TimestampTz		  before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -pipeline->ledger_retention_ms);
	int				  room = INTERVALS_A_STEP;

	if (!ss_catalog_try_lock(pipeline->id, AccessShareLock) || !ss_catalog_is_current(pipeline) ||
		!ss_ledger_lock(pipeline->id))
		return false;
	for (int i = 0; i < STREAMS_A_STEP && room > 0 && pump->prune_cursor < pump->nstreams; i++)
	{
		const SsStream *stream = pump->streams[pump->prune_cursor];
		SsEntryId		begin;

		if (find_begin(stream, &begin))
			room -= ss_ledger_prune(pipeline->id, stream->id, begin, stream->last_generated, before, room);
		if (room > 0)
			pump->prune_cursor++;
	}
	return true;
}

void
ss_prune_step(SsPump *pump)
{
	MemoryContext saved = CurrentMemoryContext;
	int			  round_ms = Max(MORE_MS, Min(ROUND_MS, ss_guc_ledger_join_age));
	bool		  done;

	if (pump->run->tmpl->single && pump->share != 0)
	{
		pump->prune_due = DT_NOEND;
		return;
	}
	StartTransactionCommand();
	done = prune_some(pump);
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	pgstat_report_stat(false);
	if (pump->prune_cursor < pump->nstreams)
		done = false;
	else
		pump->prune_cursor = 0;
	pump->prune_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), done ? round_ms : MORE_MS);
}
