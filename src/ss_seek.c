/*
 * ss_seek.c
 *	  seek(): what is settled of a pipeline's streams ends at a position.
 *
 * NOTES
 *	  Backward, the ledger is cut: what lies behind the position is applied
 *	  again.  Forward, it is extended: what lies before the position counts as
 *	  settled, so that what is pending there is acknowledged and not applied.
 *	  Either way the ledger alone says what is done with an entry, whenever and
 *	  however often it is delivered.
 *
 *	  The consumer groups are moved through the outbox, after commit; workers
 *	  wait for that.  Should they not wait long enough, or should it never come,
 *	  they find the group somewhere else than the ledger is, and read what is
 *	  missing, or drop what is too much.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ss_control.h"
#include "ss_define.h"
#include "ss_ledger.h"
#include "ss_marker.h"
#include "ss_outbox.h"
#include "ss_peek.h"
#include "ss_stream.h"

/* Rows of the log that are folded at a time. */
#define FOLD_ROWS 10000

/* XINFO STREAM brings two entries whole. */
#define REPLY_LIMIT ((Size) 512 * 1024 * 1024)

SS_SQL_FUNCTION(streamsink_seek);

/* A stream and where it is moved to. */
typedef struct Target
{
	SsStreamRow *row;
	SsEntryId	 position;
} Target;

/* ---- which streams ---- */

static Target *
make_target(SsStreamRow *row, SsEntryId position)
{
	Target *target = palloc_object(Target);

	target->row = row;
	target->position = position;
	return target;
}

/* A name that is one of the pipeline's streams, whether it was found yet or not; ERROR 42704 otherwise. */
static void
check_stream(SsRun *run, const char *name)
{
	SsStream stream = {0};
	bool	 matches;

	if (run->tmpl->single)
		matches = strcmp(run->tmpl->key, name) == 0;
	else
		matches = ss_run_name_stream(run, &stream, pstrdup(name), CurrentMemoryContext);
	if (!matches)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" does not read stream \"%s\"", run->pipeline->name, name),
				 errdetail("Its stream is \"%s\".", run->pipeline->stream)));
}

/* Names (char *) of the streams that are meant. */
static List *
find_names(SsRun *run, const char *stream, SsRedis *redis)
{
	List	 *names = NIL;
	ListCell *lc;

	if (stream != NULL)
	{
		check_stream(run, stream);
		return list_make1(pstrdup(stream));
	}
	if (run->tmpl->single)
		return list_make1(run->tmpl->key);
	if (redis != NULL)
	{
		foreach(lc, ss_peek_streams(redis, run, 0))
			names = lappend(names, ((SsStream *) lfirst(lc))->name);
		return names;
	}
	foreach(lc, ss_catalog_streams(run->pipeline->id))
		names = lappend(names, ((SsStreamRow *) lfirst(lc))->name);
	return names;
}

/* The last id that a stream ever had; 0-0 if there is none. */
static SsEntryId
ask_end(SsRun *run, SsRedis *redis, const char *name, MemoryContext scratch)
{
	MemoryContext saved = MemoryContextSwitchTo(scratch);
	SsStream	  stream = {0};
	SsStreamInfo  info;
	SsStreamState state;
	SsEntryId	  end = SS_ENTRYID_MIN;

	(void) ss_run_name_stream(run, &stream, pstrdup(name), scratch);
	ss_stream_append_info(redis, &stream);
	if (ss_stream_parse_info(ss_peek_reply(redis, REPLY_LIMIT), &info, &state))
		end = info.last_generated;
	else if (state != SS_STREAM_MISSING)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("key \"%s\" does not hold a stream", name)));
	MemoryContextSwitchTo(saved);
	MemoryContextReset(scratch);
	return end;
}

/* The streams with their rows, which are made where there are none yet. */
static List *
find_targets(SsRun *run, const char *stream, const char *to_position)
{
	SsEntryId	  position = SS_ENTRYID_MIN;
	bool		  to_end = !ss_define_position(to_position, &position);
	SsRedis		 *redis = to_end ? ss_peek_connect(run->pipeline, CurrentMemoryContext) : NULL;
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink seek", ALLOCSET_DEFAULT_SIZES);
	List		 *targets = NIL;
	List		 *rows = NIL;
	ListCell	 *lc;

	foreach(lc, find_names(run, stream, redis))
	{
		SsStreamRow *row = palloc0_object(SsStreamRow);

		CHECK_FOR_INTERRUPTS();
		row->name = lfirst(lc);
		row->start = to_end ? ask_end(run, redis, row->name, scratch) : position;
		targets = lappend(targets, make_target(row, row->start));
		rows = lappend(rows, row);
	}
	if (redis != NULL)
		ss_redis_close(redis);
	MemoryContextDelete(scratch);

	/* of those that were there already, start is as it was stored then */
	if (rows != NIL)
		ss_catalog_add_streams(run->pipeline->id, rows);
	return targets;
}

/* ---- moving ---- */

static void
fold_log(int32 pipeline_id)
{
	bool all = false;

	ss_ledger_lock_wait(pipeline_id);
	while (!all)
	{
		CHECK_FOR_INTERRUPTS();
		(void) ss_ledger_fold(pipeline_id, FOLD_ROWS, 0, &all);
	}
}

/* What is settled of a stream ends at the position; returns where the stream begins now. */
static SsEntryId
move_ledger(int32 pipeline_id, const SsStreamRow *row, SsEntryId position)
{
	SsInterval *intervals;
	SsEntryId	high;
	bool		more;
	int			kept = 0;
	int			n = ss_ledger_folded(row->id, SS_ENTRYID_MIN, PG_INT32_MAX, &intervals, &more);

	if (n == 0)
		return position;

	high = intervals[n - 1].last;
	if (ss_entryid_compare(position, high) >= 0)
	{
		/* one interval without a hole; the hash of its end is known if that was settled */
		if (ss_entryid_compare(position, high) > 0)
			intervals[n - 1].hash = 0;
		intervals[n - 1].first = (SsEntryId){0, 1};
		intervals[n - 1].last = position;
		intervals[n - 1].settled_at = GetCurrentTimestamp();
		ss_ledger_replace(pipeline_id, row->id, &intervals[n - 1], 1);
		return position;
	}

	while (kept < n && ss_entryid_compare(intervals[kept].first, position) <= 0)
	{
		if (ss_entryid_compare(intervals[kept].last, position) > 0)
		{
			intervals[kept].last = position;
			intervals[kept].hash = 0;
		}
		kept++;
	}
	ss_ledger_replace(pipeline_id, row->id, intervals, kept);
	return ss_entryid_compare(position, row->start) < 0 ? position : row->start;
}

/* Move the group, after commit. */
static void
queue_group(const SsPipeline *pipeline, const SsStreamRow *row, SsEntryId position)
{
	char		id[SS_ENTRYID_MAXLEN];
	char		marker[SS_MARKER_MAX];
	const char *args[3] = {pipeline->consumer_group, id, marker};
	size_t		lens[3];

	ss_marker_prefix(pipeline, marker);
	lens[0] = strlen(args[0]);
	lens[1] = ss_entryid_print(position, id);
	lens[2] = strlen(marker);
	ss_outbox_add(pipeline->server, pipeline->owner, "group_setid", row->name, pipeline->name, 3, args, lens);
}

static void
move_streams(const SsPipeline *pipeline, List *targets)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "streamsink seek", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(work);
	ListCell	 *lc;

	/* the streams before the ledger, as DROP EXTENSION locks them */
	ss_catalog_lock_stream_table();
	fold_log(pipeline->id);
	foreach(lc, targets)
	{
		const Target *target = lfirst(lc);
		SsEntryId	  start = move_ledger(pipeline->id, target->row, target->position);

		ss_catalog_set_stream_start(pipeline->id, target->row->id, start);
		queue_group(pipeline, target->row, target->position);
		MemoryContextReset(work);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(work);
}

/* seek(name, to_position, stream): entries behind the position are read next, whatever was settled. */
Datum
streamsink_seek(PG_FUNCTION_ARGS)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink seek", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved = MemoryContextSwitchTo(cxt);
	SsRun		 *run;
	List		 *targets;
	char		 *stream = NULL;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", "to_position")));
	if (!PG_ARGISNULL(2))
		stream = text_to_cstring(PG_GETARG_TEXT_PP(2));

	run = ss_control_open(fcinfo, "seek()", cxt);
	targets = find_targets(run, stream, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (targets == NIL)
		ereport(NOTICE,
				(errmsg("no stream of pipeline \"%s\" is known yet", run->pipeline->name),
				 errhint("Streams are found when it runs; use start_from, or name a stream.")));
	move_streams(run->pipeline, targets);

	/* the workers begin anew */
	ss_catalog_touch(run->pipeline->id);
	ss_run_free(run);
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(cxt);
	PG_RETURN_VOID();
}
