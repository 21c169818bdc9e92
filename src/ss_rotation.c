/*
 * ss_rotation.c
 *	  Which streams the next read names, and how many entries of each.
 *
 * NOTES
 *	  COUNT is per key, so keys times COUNT stays within the budget.  Own
 *	  pending entries come first.  Then streams whose last reply was full, a few
 *	  at a time with a large COUNT each: long runs of one stream make short
 *	  ledgers.  Between them the others get their turn, so often that each one
 *	  has it about every ROTATION_MS, but never twice in a row.
 *
 *	  Redis drops a client whose replies take too much of its memory, and says
 *	  nothing.  So when connections were lost twice in a row while a reply was due,
 *	  reads ask for less; what a process found out holds over its connections.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/timestamp.h"

#include "ss_pump.h"

#define SWEEP_MS	 50	  /* at most between two commands for those that are not hot */
#define ROTATION_MS	 1000 /* for all commands that name each of them once */
#define HOT_SHARE	 100  /* entries a hot stream is asked for, at least, if the budget allows */
#define MAX_HOT_KEYS 16
#define LOST_SHARE	 4	   /* after replies that did not come: this part of what was asked for */
#define LOST_MS		 60000 /* until twice as much is asked for */

static int		   lost = 0;			/* replies in a row with which the connection was lost */
static int		   most_entries = 0;	/* entries a read may ask for on account of that; 0: no limit */
static TimestampTz most_entries_at = 0; /* when that was set */

bool
ss_rotation_is_live(const SsStream *stream)
{
	return stream->prepared && stream->state == SS_STREAM_OK &&
		   ss_entryid_compare(stream->delivered, stream->limit) < 0;
}

int
ss_rotation_count_live(const SsPump *pump)
{
	int n = 0;

	for (int i = 0; i < pump->nstreams; i++)
		if (ss_rotation_is_live(pump->streams[i]))
			n++;
	return n;
}

/*
 * Entries the next reply may bring: what the batch has room for, by count and
 * by bytes of memory.  A read sent ahead is for a batch that is empty still.
 */
static int
room(const SsPump *pump)
{
	const SsPipeline *pipeline = pump->run->pipeline;
	int64			  entries = ss_pump_batch_size(pump);
	int64			  bytes = pipeline->batch_bytes;

	if (!pump->ahead)
	{
		entries -= pump->batch->nentries;
		bytes -= pump->batch->arena.used;
	}
	entries = Min(entries, pump->budget);
	if (most_entries > 0)
		entries = Min(entries, most_entries);
	if (pump->entry_bytes > 0)
		entries = Min(entries, bytes / pump->entry_bytes);
	return (int) Max(entries, 1);
}

static int
choose_pending(SsPump *pump, int max)
{
	int n = 0;

	for (int i = 0; i < pump->nstreams && n < max; i++)
		if (ss_rotation_is_live(pump->streams[i]) && !pump->streams[i]->recovered)
			pump->read_streams[n++] = pump->streams[i];
	return n;
}

static int
choose_hot(SsPump *pump, int max)
{
	int n = 0;
	int at = pump->hot_cursor;

	for (int i = 0; i < pump->nstreams && n < max; i++)
	{
		at = (at + 1) % pump->nstreams;
		if (pump->streams[at]->hot && ss_rotation_is_live(pump->streams[at]))
		{
			pump->read_streams[n++] = pump->streams[at];
			pump->hot_cursor = at;
		}
	}
	return n;
}

static int
choose_next(SsPump *pump, int max)
{
	int n = 0;
	int at = pump->cursor;

	for (int i = 0; i < pump->nstreams && n < max; i++)
	{
		at = (at + 1) % pump->nstreams;
		if (ss_rotation_is_live(pump->streams[at]))
		{
			pump->read_streams[n++] = pump->streams[at];
			pump->cursor = at;
		}
	}
	return n;
}

/* True if some live stream is not hot: a sweep could bring something a hot read does not. */
static bool
has_cold(const SsPump *pump)
{
	for (int i = 0; i < pump->nstreams; i++)
		if (!pump->streams[i]->hot && ss_rotation_is_live(pump->streams[i]))
			return true;
	return false;
}

/* Is it time for the streams that are not hot? */
static bool
sweep_is_due(const SsPump *pump, TimestampTz now)
{
	int commands = pump->nstreams / SS_STREAM_MAX_KEYS + 1;

	return TimestampDifferenceExceeds(pump->swept_at, now, Min(SWEEP_MS, ROTATION_MS / commands)) && has_cold(pump);
}

bool
ss_rotation_choose(SsPump *pump, bool idle)
{
	int			entries = room(pump);
	int			max_keys = Min(entries, SS_STREAM_MAX_KEYS);
	TimestampTz now = GetCurrentTimestamp();

	if (pump->nstreams == 0)
		return false;
	pump->hot_cursor %= pump->nstreams;
	pump->cursor %= pump->nstreams;

	pump->read_pending = true;
	pump->nread = choose_pending(pump, max_keys);
	if (pump->nread == 0)
	{
		pump->read_pending = false;
		if (!idle && (pump->swept || !sweep_is_due(pump, now)))
			pump->nread = choose_hot(pump, Min(MAX_HOT_KEYS, Max(1, entries / HOT_SHARE)));
		pump->swept = (pump->nread == 0);
		if (pump->swept)
		{
			/* An idle pump waits on as many keys as one command may name, whatever the budget: few of them will answer. */
			pump->nread = choose_next(pump, idle ? SS_STREAM_MAX_KEYS : max_keys);
			pump->swept_at = now;
		}
	}
	if (pump->nread == 0)
		return false;
	pump->read_count = Max(1, entries / pump->nread);
	return true;
}

void
ss_rotation_lost(const SsPump *pump)
{
	/* who waits for new entries loses his connection whenever Redis ends */
	if (pump->session || !pump->reading || pump->read_blocks)
		return;
	if (++lost < 2)
		return;
	most_entries = Max(1, pump->read_count * pump->nread / LOST_SHARE);
	most_entries_at = GetCurrentTimestamp();
}

void
ss_rotation_came(const SsPump *pump)
{
	TimestampTz now;

	if (pump->session)
		return;
	lost = 0;
	if (most_entries == 0)
		return;
	now = GetCurrentTimestamp();
	if (!TimestampDifferenceExceeds(most_entries_at, now, LOST_MS))
		return;
	most_entries *= 2;
	most_entries_at = now;
	if (most_entries >= pump->run->pipeline->batch_size)
		most_entries = 0;
}
