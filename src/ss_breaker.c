/*
 * ss_breaker.c
 *	  The circuit breaker: too many refused entries stop their pipeline.
 *
 * NOTES
 *	  One window for each process, over the last entries it settled: what was
 *	  dropped as repeated, or had vanished, says nothing about the entries to
 *	  come.  It is looked at after every single entry, so that a long batch with a bad
 *	  stretch in its middle trips it as short ones do, but not before it has
 *	  seen so many that a share means something.
 *
 *	  A window belongs to one generation of the definition: start() and
 *	  alter_pipeline() begin a new one, or a pipeline that was stopped could not be
 *	  started again.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "ss_breaker.h"

#define WINDOW_ENTRIES 1000 /* looked back at */
#define LEAST_ENTRIES  100	/* seen before it can trip */

typedef struct Window
{
	int32 pipeline;
	int64 generation;
	int	  seen; /* at most WINDOW_ENTRIES */
	int	  at;	/* where the next one goes */
	int	  refused;
	bool  was_refused[WINDOW_ENTRIES];
} Window;

static Window settled; /* as of the last commit */
static Window trial;   /* with the batch that is being settled */

static void
see(Window *window, bool refused)
{
	if (window->seen == WINDOW_ENTRIES)
		window->refused -= window->was_refused[window->at];
	else
		window->seen++;
	window->was_refused[window->at] = refused;
	window->refused += refused;
	window->at = (window->at + 1) % WINDOW_ENTRIES;
}

bool
ss_breaker_trips(const SsPipeline *pipeline, const SsBatch *batch)
{
	/* a rate of 0.1 is a little more than that in binary: a tenth is not above it */
	double rate = (double) pipeline->max_dead_letter_rate + 1e-6;

	if (pipeline->max_dead_letter_rate <= 0)
		return false;
	if (settled.pipeline != pipeline->id || settled.generation != pipeline->generation)
	{
		ss_breaker_reset();
		settled.pipeline = pipeline->id;
		settled.generation = pipeline->generation;
	}
	trial = settled;
	for (int i = 0; i < batch->nentries; i++)
	{
		SsOutcome outcome = (SsOutcome) batch->entries[i].outcome;

		if (outcome == SS_OUTCOME_REPEATED || outcome == SS_OUTCOME_VANISHED)
			continue;
		see(&trial, outcome == SS_OUTCOME_REFUSED);
		if (outcome == SS_OUTCOME_REFUSED && trial.seen >= LEAST_ENTRIES &&
			trial.refused > rate * trial.seen)
			return true;
	}
	return false;
}

void
ss_breaker_settled(const SsPipeline *pipeline)
{
	if (pipeline->max_dead_letter_rate > 0)
		settled = trial;
}

void
ss_breaker_reset(void)
{
	memset(&settled, 0, sizeof(settled));
}

char *
ss_breaker_explain(const SsPipeline *pipeline)
{
	return psprintf("%d of the last %d entries were refused, more than max_dead_letter_rate %g permits",
					trial.refused, trial.seen, pipeline->max_dead_letter_rate);
}
