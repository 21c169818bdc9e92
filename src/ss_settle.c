/*
 * ss_settle.c
 *	  Settling a batch: one transaction for rows, dead letters and ledger.
 *
 * NOTES
 *	  This is the arrow "write (SPI) -> settle" and what follows the commit.
 *	  The order of the steps is the protocol; see the head of ss_worker.c.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ss_attempt.h"
#include "ss_breaker.h"
#include "ss_deadletter.h"
#include "ss_evolve.h"
#include "ss_fault.h"
#include "ss_ledger.h"
#include "ss_settle.h"
#include "ss_stats.h"

/* Mark what was settled before.  Entries above a stream's high mark need no look, unless others settle there too. */
static void
drop_settled(const SsPipeline *pipeline, SsBatch *batch, bool shared)
{
	int32		 *streams = palloc_array(int32, batch->nblocks + 1);
	SsEntryId	 *lows = palloc_array(SsEntryId, batch->nblocks + 1);
	int			  nstreams = 0;
	bool		  repeated = false;
	SsSettled	 *settled;
	MemoryContext scratch;
	MemoryContext saved;

	for (int i = 0; i < batch->nblocks; i++)
	{
		SsBlock	 *block = &batch->blocks[i];
		SsEntryId low = SS_ENTRYID_MAX;

		for (int j = block->first; j < block->first + block->count; j++)
			if (ss_entryid_compare(batch->entries[j].id, low) < 0)
				low = batch->entries[j].id;
		if (block->count > 0 && (shared || ss_entryid_compare(low, block->stream->high) <= 0))
		{
			streams[nstreams] = block->stream->id;
			lows[nstreams++] = low;
		}
	}
	if (nstreams == 0)
		return;

	scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink ledger check", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(scratch);
	settled = ss_ledger_load_above(pipeline->id, streams, nstreams, lows);
	for (int i = 0; i < batch->nentries; i++)
	{
		SsEntry *entry = &batch->entries[i];

		if ((shared || ss_entryid_compare(entry->id, entry->stream->high) <= 0) &&
			ss_ledger_contains(settled, entry->stream->id, entry->id))
		{
			entry->outcome = SS_OUTCOME_REPEATED;
			repeated = true;
		}
	}

	/*
	 * Who settled them may have committed without flushing.  A commit record
	 * of our own lies behind theirs, so that our flush covers them.
	 */
	if (repeated)
		(void) GetTopTransactionId();
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
}

/*
 * An id that is twice in one batch (claimed, and pending with us) is settled
 * once: of two entries of one stream the first counts.  Only runs of pending
 * entries can repeat what another run has.
 */
static void
drop_doubled(SsBatch *batch)
{
	for (int i = 0; i < batch->nblocks; i++)
	{
		SsBlock *later = &batch->blocks[i];

		for (int j = 0; j < i; j++)
		{
			SsBlock *earlier = &batch->blocks[j];

			if (earlier->stream != later->stream ||
				ss_entryid_compare(batch->entries[later->first].id,
								   batch->entries[earlier->first + earlier->count - 1].id) > 0)
				continue;
			for (int k = later->first; k < later->first + later->count; k++)
				for (int l = earlier->first; l < earlier->first + earlier->count; l++)
					if (ss_entryid_compare(batch->entries[k].id, batch->entries[l].id) == 0)
						batch->entries[k].outcome = SS_OUTCOME_REPEATED;
		}
	}
}

/* 0: it cannot be compared later, because we do not have all of it. */
static uint64
entry_hash(const SsEntry *entry)
{
	return entry->fields != NULL && !entry->truncated ? ss_batch_hash(entry) : 0;
}

/* What the batch settles, as intervals: a reply's run as one, pending entries one by one; and what it counted. */
static void
record_settled(const SsPipeline *pipeline, SsBatch *batch, const SsCounters *counters)
{
	SsInterval *intervals = palloc_array(SsInterval, batch->nentries + 1);
	int			n = 0;

	for (int i = 0; i < batch->nblocks; i++)
	{
		SsBlock *block = &batch->blocks[i];
		bool	 news = false;

		if (block->count == 0)
			continue;
		for (int j = block->first; j < block->first + block->count; j++)
		{
			SsEntry *entry = &batch->entries[j];

			if (entry->outcome == SS_OUTCOME_REPEATED)
				continue;
			news = true;
			if (block->contiguous)
				continue;
			intervals[n].stream = block->stream->id;
			intervals[n].first = intervals[n].last = entry->id;
			intervals[n].hash = entry_hash(entry);
			n++;
		}
		if (block->contiguous && news)
		{
			SsEntry *last = &batch->entries[block->first + block->count - 1];

			intervals[n].stream = block->stream->id;
			intervals[n].first = batch->entries[block->first].id;
			intervals[n].last = last->id;
			intervals[n].hash = entry_hash(last);
			n++;
		}
	}
	ss_ledger_append(pipeline->id, intervals, n, counters);
	pfree(intervals);
}

static void
count_outcomes(const SsBatch *batch, SsCounters *counters)
{
	memset(counters, 0, sizeof(*counters));
	counters->read = batch->nentries;
	counters->rows = batch->rows;
	counters->batches = 1;
	for (int i = 0; i < batch->nentries; i++)
	{
		switch ((SsOutcome) batch->entries[i].outcome)
		{
			case SS_OUTCOME_WRITTEN:
				counters->written++;
				break;
			case SS_OUTCOME_REFUSED:
				counters->refused++;
				break;
			case SS_OUTCOME_IGNORED:
				counters->ignored++;
				break;
			case SS_OUTCOME_REPEATED:
				counters->repeated++;
				break;
			case SS_OUTCOME_SUPERSEDED:
				counters->superseded++;
				break;
			case SS_OUTCOME_VANISHED:
				counters->vanished++;
				break;
			case SS_OUTCOME_NEW:
				elog(ERROR, "entry %d of a batch was left undecided", i);
		}
	}
}

/* More than max_entry_bytes in all: refused here, since no single string was cut. */
static void
refuse_oversized(const SsPipeline *pipeline, SsBatch *batch)
{
	for (int i = 0; i < batch->nentries; i++)
	{
		SsEntry	  *entry = &batch->entries[i];
		ErrorData *error;

		if (entry->outcome != SS_OUTCOME_NEW || entry->truncated ||
			(int64) entry->bytes <= pipeline->max_entry_bytes)
			continue;
		error = MemoryContextAllocZero(batch->cxt, sizeof(ErrorData));
		error->elevel = ERROR;
		error->sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		error->message = "entry is larger than max_entry_bytes";
		error->detail = MemoryContextStrdup(batch->cxt,
											psprintf("The entry has %u bytes, max_entry_bytes is " INT64_FORMAT ".",
													 entry->bytes, pipeline->max_entry_bytes));
		ss_batch_refuse(batch, i, "decode", error);
	}
}

SsSettleResult
ss_settle_batch(SsRun *run, SsBatch *batch, bool shared, SsCounters *counters)
{
	SsPipeline *pipeline = run->pipeline;
	int64		map_us = 0;
	int64		write_us = 0;
	int			level;
	bool		written;

	/* The fence: control calls hold this lock exclusively until they commit. */
	ss_catalog_lock(pipeline->id, AccessShareLock);
	if (!ss_catalog_is_current(pipeline))
		return SS_SETTLE_CHANGED;
	SS_FAULT("after-fence");

	ss_run_refresh(run);

	/* A retry begins with a clean sheet. */
	batch->nrefusals = 0;
	batch->rows = 0;
	for (int i = 0; i < batch->nentries; i++)
		batch->entries[i].outcome = batch->entries[i].fields ? SS_OUTCOME_NEW : SS_OUTCOME_VANISHED;

	drop_settled(pipeline, batch, shared);
	drop_doubled(batch);
	SS_FAULT("after-ledger-check");
	refuse_oversized(pipeline, batch);
	if (batch->crashes >= SS_ATTEMPT_CRASHES)
		ss_attempt_refuse(batch);
	SS_FAULT("before-write");
	/* what the user's functions SET does not outlive the batch: a worker would keep it for ever */
	level = NewGUCNestLevel();
	written = ss_run_batch(run, batch, &map_us, &write_us);
	AtEOXact_GUC(false, level);
	if (!written)
		return SS_SETTLE_EVOLVE;
	SS_FAULT("after-write");
	ss_stats_times(0, map_us, write_us, 0);

	if (batch->nrefusals > 0 && pipeline->on_error == SS_ON_ERROR_STOP)
		return SS_SETTLE_STOP;
	if (ss_breaker_trips(pipeline, batch))
		return SS_SETTLE_TRIPPED;

	/* the ledger before the dead letters, as DROP EXTENSION locks them */
	count_outcomes(batch, counters);
	counters->errors = ss_counter_unsaved_errors();
	record_settled(pipeline, batch, counters);
	SS_FAULT("after-ledger");
	if (batch->nrefusals > 0 && pipeline->on_error == SS_ON_ERROR_DEAD_LETTER)
		ss_deadletter_store(pipeline, batch);
	SS_FAULT("after-dead-letters");
	ss_evolve_settled(run);
	SS_FAULT("before-commit");
	return SS_SETTLE_DONE;
}

void
ss_settle_advance(SsBatch *batch)
{
	for (int i = 0; i < batch->nentries; i++)
	{
		SsEntry *entry = &batch->entries[i];

		if (ss_entryid_compare(entry->id, entry->stream->high) > 0)
			entry->stream->high = entry->id;
	}
}

void
ss_settle_publish(const SsBatch *batch)
{
	SsRange *ranges = palloc_array(SsRange, batch->nblocks + 1);
	int		 n = 0;

	for (int i = 0; i < batch->nblocks; i++)
	{
		SsBlock *block = &batch->blocks[i];

		if (block->count == 0)
			continue;
		ranges[n].stream = block->stream->id;
		ranges[n].first = batch->entries[block->first].id;
		ranges[n].last = batch->entries[block->first + block->count - 1].id;
		n++;
	}
	while (!ss_shmem_publish(ranges, n))
	{
		ss_shmem_wait_ranges(1000);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(ranges);
}

void
ss_settle_count(const SsPipeline *pipeline, const SsBatch *batch, const SsCounters *counters)
{
	SsEntryId *ids = palloc_array(SsEntryId, batch->nentries + 1);
	int		   n = 0;

	/* End-to-end latency is a matter of what was written just now, not of what was repeated. */
	for (int i = 0; i < batch->nentries; i++)
		if (batch->entries[i].outcome == SS_OUTCOME_WRITTEN)
			ids[n++] = batch->entries[i].id;
	ss_counter_saved_errors(counters->errors);
	ss_stats_batch(pipeline->id, counters, ids, n);
	pfree(ids);
}
