/*
 * ss_trouble.c
 *	  What a worker remembers of its failures, over connections.
 *
 * NOTES
 *	  A connection is thrown away after every error and the entries are read
 *	  again, perhaps in other batches.  So the batch that max_retries counts is
 *	  known by its first entry: whatever batch has that entry is the one.  What else
 *	  was pending, or is taken over, and is settled meanwhile does not end the count.
 *
 *	  Two workers that lock the same rows in different order are no fault of an
 *	  entry.  They wait, each for another time; if that does not help, their
 *	  batches become smaller: a transaction that holds one row collides with
 *	  nobody for long.  The same limit is the way out for a batch that takes too
 *	  long, or too much memory, before its rows are written.  It doubles with
 *	  every batch that goes through.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "common/pg_prng.h"

#include "ss_guc.h"
#include "ss_trouble.h"

#define FEWEST_MS		10
#define FALLBACK_MS		500
#define FALLBACK_MAX_MS 60000
#define MAX_COLLISIONS	3 /* in a row, before batches become smaller */

int64
ss_trouble_backoff(const SsPipeline *pipeline, SsDecision decision, int failures)
{
	int64	 first = pipeline ? pipeline->retry_backoff_ms : FALLBACK_MS;
	int64	 longest = pipeline ? pipeline->retry_backoff_max_ms : FALLBACK_MAX_MS;
	SsGrowth growth = pipeline ? pipeline->retry_growth : SS_GROWTH_EXPONENTIAL;
	int64	 wait = first;

	if (decision == SS_ERROR_WAIT)
	{
		longest = ss_guc_setup_retry;
		growth = SS_GROWTH_EXPONENTIAL;
	}
	if (growth == SS_GROWTH_LINEAR)
		wait = first * failures;
	else if (growth == SS_GROWTH_EXPONENTIAL)
		wait = failures > 20 ? longest : first << (failures - 1);
	return Max(Min(wait, longest), FEWEST_MS);
}

int64
ss_trouble_wait(const SsPipeline *pipeline, SsDecision decision, int failures)
{
	int64 wait = ss_trouble_backoff(pipeline, decision, failures);

	return wait + (int64) (pg_prng_double(&pg_global_prng_state) * wait / 5);
}

/* Has the batch the entry that failures are counted for? */
static bool
has_entry(const SsTrouble *trouble, const SsBatch *batch)
{
	for (int i = 0; i < batch->nentries; i++)
		if (batch->entries[i].stream->id == trouble->stream &&
			ss_entryid_compare(batch->entries[i].id, trouble->entry) == 0)
			return true;
	return false;
}

bool
ss_trouble_failed(SsTrouble *trouble, const SsBatch *batch, int sqlstate, bool deadline)
{
	if (batch->nentries == 0)
		return false;
	if (deadline || sqlstate == ERRCODE_OUT_OF_MEMORY)
	{
		trouble->limit = Max(1, batch->nentries / 2);
		return batch->nentries > 1;
	}
	if (ss_error_is_collision(sqlstate))
	{
		if (++trouble->collisions >= MAX_COLLISIONS)
			trouble->limit = Max(1, batch->nentries / 2);
		return false;
	}
	if (!ss_error_counts(sqlstate))
		return false;
	if (trouble->retries == 0 || !has_entry(trouble, batch))
	{
		trouble->retries = 0;
		trouble->stream = batch->entries[0].stream->id;
		trouble->entry = batch->entries[0].id;
	}
	if (trouble->retries < PG_INT32_MAX)
		trouble->retries++;
	return false;
}

void
ss_trouble_prepare(const SsTrouble *trouble, const SsPipeline *pipeline, SsBatch *batch)
{
	batch->tries = trouble->retries > 0 && has_entry(trouble, batch) ? trouble->retries : 0;
	/* The last of the retries is the one in pieces. */
	batch->final = pipeline->max_retries >= 0 && batch->tries >= Max(1, pipeline->max_retries);
}

void
ss_trouble_settled(SsTrouble *trouble, const SsPipeline *pipeline, const SsBatch *batch)
{
	trouble->collisions = 0;
	if (trouble->retries > 0 && has_entry(trouble, batch))
		trouble->retries = 0;
	if (trouble->limit > 0)
	{
		trouble->limit *= 2;
		if (trouble->limit >= pipeline->batch_size)
			trouble->limit = 0;
	}
}
