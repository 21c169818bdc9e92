/*
 * ss_overrun.c
 *	  Entries that were trimmed before the group was given them.
 *
 * NOTES
 *	  Nobody can get them back, so they are counted and reported.  From Redis 7
 *	  on a stream tells how many entries were ever added to it, and a group how
 *	  many of these it has passed.  While the stream's first entry lies behind
 *	  the group's last delivered one, everything that is gone and was not passed
 *	  was missed: entries-added - length - entries-read.
 *
 *	  Redis 7.0 and 7.2 do not count what was missed as passed once the group
 *	  reads on, later versions do.  So that nothing is counted twice, a stream's
 *	  overrun_base keeps how much of that figure is no news.  It shows itself
 *	  where everything was delivered; a figure below it says that Redis has
 *	  counted anew.  After a restart it is what was reported so far.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "pgstat.h"
#include "utils/memutils.h"

#include "ss_overrun.h"

int64
ss_overrun_count(SsStream *stream, const SsStreamInfo *info, const SsGroupInfo *group)
{
	int	  ahead;
	int64 gone;

	stream->last_delivered = group->last_delivered;
	if (info->length < 0 || info->entries_added < 0 || group->entries_read < 0)
		return 0;
	ahead = ss_entryid_compare(info->last_generated, group->last_delivered);
	if (ahead == 0)
		stream->overrun_base = Max(info->entries_added - group->entries_read, 0);
	if (ahead <= 0 ||
		(info->length > 0 && ss_entryid_compare(info->first, group->last_delivered) <= 0))
		return 0;

	gone = info->entries_added - info->length - group->entries_read;
	if (gone < stream->overrun_base)
		stream->overrun_base = 0;
	return Max(gone - stream->overrun_base, 0);
}

static void
warn(const SsPipeline *pipeline, const SsStream *stream, int64 missed)
{
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("at least " INT64_FORMAT " entries of stream \"%s\" were removed before pipeline \"%s\" was given them",
					missed, stream->name, pipeline->name),
			 errdetail("They were trimmed or deleted in Redis and cannot be had any more."),
			 errhint("Trim the stream less, or see why the pipeline is behind. The column missed of streamsink.streams counts them.")));
}

/* Write the numbers down; false if the pipeline is being changed at this moment. */
static bool
store(const SsPipeline *pipeline, SsStream **streams, const int64 *missed, int n)
{
	if (!ss_catalog_try_lock(pipeline->id, AccessShareLock) || !ss_catalog_is_current(pipeline))
		return false;
	for (int i = 0; i < n; i++)
		ss_catalog_count_stream(pipeline->id, streams[i]->id, 0, 0, missed[i]);
	return true;
}

void
ss_overrun_report(const SsPipeline *pipeline, SsStream **streams, const int64 *missed, int n)
{
	MemoryContext saved = CurrentMemoryContext;
	bool		  own = !IsTransactionState();
	bool		  stored;
	int64		  sum = 0;

	for (int i = 0; i < n; i++)
		sum += missed[i];
	if (sum == 0)
		return;

	if (own)
		StartTransactionCommand();
	stored = store(pipeline, streams, missed, n);
	if (own)
	{
		CommitTransactionCommand();
		pgstat_report_stat(false);
	}
	MemoryContextSwitchTo(saved);

	for (int i = 0; stored && i < n; i++)
	{
		SsStream *stream = streams[i];

		if (missed[i] <= 0)
			continue;
		stream->overrun_base += missed[i];
		/* what is trimmed on while the group stays where it is belongs to the same occurrence */
		if (stream->overrun_warned && ss_entryid_compare(stream->overrun_at, stream->last_delivered) == 0)
			continue;
		warn(pipeline, stream, missed[i]);
		stream->overrun_warned = true;
		stream->overrun_at = stream->last_delivered;
	}
}
