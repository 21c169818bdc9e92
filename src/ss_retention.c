/*
 * ss_retention.c
 *	  Removing dead letters that are too old, or too many.
 *
 * NOTES
 *	  The pipeline's first worker does it between batches, and a session at the
 *	  end of ingest.  A round goes through the phases of SsRetentionPhase in
 *	  steps, each a short transaction, so that batches, retries and control calls
 *	  wait for a step at most.  Counting is a walk over an index, which is spared
 *	  when no dead letter was added since the last round.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "pgstat.h"
#include "utils/timestamp.h"

#include "ss_deadletter.h"
#include "ss_retention.h"

#define ROUND_MS   60000 /* between rounds, unless what is removed is younger than that */
#define ROUND_MIN  1000
#define BUSY_MS	   1000 /* somebody else has the lock: no try before */
#define STEP_ROWS  500
#define STEP_MS	   20
#define COUNT_STEP 5000 /* dead letters counted in a step */
#define TURN_MS	   200	/* steps of an idle worker's turn */
#define PAUSE	   5	/* times as long as a step took there is none while batches come */
#define MANY_ADDED 1000 /* a round is due early when so many were added, or a tenth of the limit */

/* Does the pipeline ask for it, and is a step due? */
static bool
is_due(const SsPipeline *pipeline, const SsRetention *retention, TimestampTz now)
{
	if (pipeline->dead_letter_retention_ms < 0 && pipeline->max_dead_letters < 0)
		return false;
	if (now >= retention->next_at)
		return true;
	return retention->phase == SS_RETENTION_IDLE && now >= retention->not_before &&
		   pipeline->max_dead_letters >= 0 &&
		   retention->added >= Max(MANY_ADDED, pipeline->max_dead_letters / 10);
}

static void
begin_round(const SsPipeline *pipeline, SsRetention *retention, TimestampTz now)
{
	retention->phase = SS_RETENTION_OLD;
	retention->added = 0;
	retention->from = DT_NOBEGIN;
	retention->before = DT_NOBEGIN;
	if (pipeline->dead_letter_retention_ms >= 0 && pipeline->dead_letter_retention_ms < now / 1000)
		retention->before = TimestampTzPlusMilliseconds(now, -pipeline->dead_letter_retention_ms);
	retention->removed_old = retention->removed_surplus = 0;
}

static void
end_round(const SsPipeline *pipeline, SsRetention *retention, TimestampTz now)
{
	int64 pause = ROUND_MS;

	if (pipeline->dead_letter_retention_ms >= 0)
		pause = Min(pause, Max(pipeline->dead_letter_retention_ms, ROUND_MIN));
	retention->phase = SS_RETENTION_IDLE;
	retention->next_at = TimestampTzPlusMilliseconds(now, pause);
	if (retention->removed_old + retention->removed_surplus > 0)
		ereport(LOG,
				(errmsg("removed " INT64_FORMAT " dead letters of pipeline \"%s\"",
						retention->removed_old + retention->removed_surplus, pipeline->name),
				 errdetail(INT64_FORMAT " were older than dead_letter_retention, " INT64_FORMAT " were more than max_dead_letters.",
						   retention->removed_old, retention->removed_surplus)));
}

/* Is there something to count?  Then the walk begins at the newest one. */
static bool
begin_count(const SsPipeline *pipeline, SsRetention *retention)
{
	int64 newest;

	if (pipeline->max_dead_letters < 0)
		return false;
	newest = ss_deadletter_newest(pipeline->id);
	if (newest == 0 || (retention->counted && retention->newest == newest))
		return false;
	retention->newest = newest;
	retention->below = PG_INT64_MAX;
	retention->left = pipeline->max_dead_letters;
	return true;
}

/* Take the round one step further; false when it is over. */
static bool
work(const SsPipeline *pipeline, SsRetention *retention)
{
	static const SsDeadLetterStep step = {STEP_ROWS, STEP_MS};
	int64						  n;

	switch (retention->phase)
	{
		case SS_RETENTION_IDLE:
			break;
		case SS_RETENTION_OLD:
			n = ss_deadletter_remove_failed(pipeline->id, &retention->from, retention->before, &step);
			retention->removed_old += n;
			if (n > 0)
				return true;
			if (!begin_count(pipeline, retention))
				return false;
			retention->phase = SS_RETENTION_COUNTS;
			return true;
		case SS_RETENTION_COUNTS:
			n = ss_deadletter_skip_newest(pipeline->id, retention->below,
										  Min(COUNT_STEP, retention->left), &retention->below);
			retention->left -= n;
			if (n > 0 && retention->left > 0)
				return true;
			retention->counted = true;
			if (retention->left > 0)
				return false;
			retention->phase = SS_RETENTION_SURPLUS;
			retention->after = PG_INT64_MIN;
			return true;
		case SS_RETENTION_SURPLUS:
			n = ss_deadletter_remove_low(pipeline->id, &retention->after, retention->below, &step);
			retention->removed_surplus += n;
			return n > 0;
	}
	return false;
}

bool
ss_retention_step(const SsPipeline *pipeline, SsRetention *retention)
{
	TimestampTz now = GetCurrentTimestamp();

	/* the fence: what alter_pipeline has changed holds once it has returned */
	if (!ss_catalog_try_lock(pipeline->id, AccessShareLock) || !ss_catalog_is_current(pipeline) ||
		!ss_deadletter_try_lock(pipeline->id))
	{
		retention->next_at = retention->not_before = TimestampTzPlusMilliseconds(now, BUSY_MS);
		return false;
	}
	if (retention->phase == SS_RETENTION_IDLE)
		begin_round(pipeline, retention, now);
	if (work(pipeline, retention))
		return true;
	end_round(pipeline, retention, now);
	return false;
}

void
ss_retention_turn(const SsPipeline *pipeline, SsRetention *retention, bool idle)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now = began;
	bool		more = true;

	if (!is_due(pipeline, retention, began))
		return;
	while (more && (now == began || (idle && !TimestampDifferenceExceeds(began, now, TURN_MS))))
	{
		StartTransactionCommand();
		more = ss_retention_step(pipeline, retention);
		CommitTransactionCommand();
		now = GetCurrentTimestamp();
	}
	if (more)
		retention->next_at = idle ? now : now + (now - began) * PAUSE;
	pgstat_report_stat(false);
}
