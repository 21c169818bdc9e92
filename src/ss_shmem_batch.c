/*
 * ss_shmem_batch.c
 *	  Batches: when one may begin, and which ids it holds meanwhile.
 *
 * NOTES
 *	  Two transactions never hold one entry: a batch publishes its ranges of ids
 *	  before it looks at the ledger, and withdraws them after commit or abort.
 *	  Who overlaps waits without having published, so that nobody waits for him.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <signal.h>

#include "miscadmin.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_shmem.h"

uint32
ss_shmem_changes(void)
{
	return MyPipelineShared ? MyPipelineShared->changed : 0;
}

bool
ss_shmem_begin_batch(int64 generation, int64 entries, int64 bytes)
{
	bool result;

	if (MySlot == NULL || MyPipelineShared == NULL)
		return false;
	for (;;)
	{
		bool yield;

		CHECK_FOR_INTERRUPTS();
		LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
		/* a caller that knows a newer generation than the last scan is right */
		result = MyPipelineShared->generation <= generation;
		if (MySlot->kind == SS_SLOT_WORKER && !MyPipelineShared->enabled &&
			(MyPipelineShared->generation == generation || !MyPipelineShared->reported))
			result = false;
		yield = MyPipelineShared->yielders > 0;
		if (result && !yield)
		{
			MySlot->in_batch = true;
			MySlot->batch_entries = entries;
			MySlot->batch_bytes = bytes;
			MySlot->batch_started_at = GetCurrentTimestamp();
		}
		LWLockRelease(ss_shmem->lock);
		if (!result || !yield)
			break;
		ConditionVariableTimedSleep(&MyPipelineShared->batch_done, 1000, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return result;
}

void
ss_shmem_end_batch(void)
{
	if (MySlot == NULL || (!MySlot->in_batch && MySlot->nranges == 0))
		return;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	MySlot->in_batch = false;
	MySlot->batch_entries = MySlot->batch_bytes = 0;
	MySlot->batch_started_at = 0;
	MySlot->nranges = 0;
	LWLockRelease(ss_shmem->lock);
	if (MyPipelineShared != NULL)
		ConditionVariableBroadcast(&MyPipelineShared->batch_done);
}

/* One range per stream, or one that overlaps everything; returns their number. */
static int
merge_ranges(const SsRange *ranges, int nranges, SsRange *merged)
{
	int n = 0;
	int i,
		j;

	for (i = 0; i < nranges; i++)
	{
		for (j = 0; j < n && merged[j].stream != ranges[i].stream; j++)
			/* look further */;
		if (j == SS_MAX_RANGES)
		{
			merged[0].stream = 0;
			merged[0].first = SS_ENTRYID_MIN;
			merged[0].last = SS_ENTRYID_MAX;
			return 1;
		}
		if (j == n)
		{
			merged[n++] = ranges[i];
			continue;
		}
		if (ss_entryid_compare(ranges[i].first, merged[j].first) < 0)
			merged[j].first = ranges[i].first;
		if (ss_entryid_compare(ranges[i].last, merged[j].last) > 0)
			merged[j].last = ranges[i].last;
	}
	return n;
}

static bool
overlaps(const SsRange *a, int na, const SsRange *b, int nb)
{
	int i,
		j;

	for (i = 0; i < na; i++)
		for (j = 0; j < nb; j++)
		{
			if (a[i].stream == 0 || b[j].stream == 0)
				return true;
			if (a[i].stream == b[j].stream &&
				ss_entryid_compare(a[i].first, b[j].last) <= 0 &&
				ss_entryid_compare(b[j].first, a[i].last) <= 0)
				return true;
		}
	return false;
}

bool
ss_shmem_publish(const SsRange *ranges, int nranges)
{
	SsRange merged[SS_MAX_RANGES];
	bool	result = true;
	int		i;

	if (MySlot == NULL || MyPipelineShared == NULL)
		return false;
	if (nranges <= 0)
		return true;
	if (nranges <= SS_MAX_RANGES)
		memcpy(merged, ranges, nranges * sizeof(SsRange));
	else
		nranges = merge_ranges(ranges, nranges, merged);

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	for (i = 0; result && i < ss_shmem->max_slots; i++)
	{
		SsSlot *slot = &ss_shmem->slots[i];

		if (slot != MySlot && slot->in_use && slot->pipeline == MySlot->pipeline)
			result = !overlaps(merged, nranges, slot->ranges, slot->nranges);
	}
	if (result)
	{
		memcpy(MySlot->ranges, merged, nranges * sizeof(SsRange));
		MySlot->nranges = nranges;
	}
	LWLockRelease(ss_shmem->lock);
	if (result)
		ConditionVariableCancelSleep();
	return result;
}

/* The first call after a failed publish only queues up, and returns: what ended in between is not missed. */
void
ss_shmem_wait_ranges(long timeout_ms)
{
	if (MyPipelineShared != NULL)
		ConditionVariableTimedSleep(&MyPipelineShared->batch_done, timeout_ms, PG_WAIT_EXTENSION);
}

SsPipelineShared *
ss_shmem_yield(int32 pipeline_id)
{
	SsPipelineShared *entry;

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	entry = ss_shmem_pipeline_locked(MyDatabaseId, pipeline_id, true);
	if (entry != NULL)
		entry->yielders++;
	LWLockRelease(ss_shmem->lock);
	return entry;
}

void
ss_shmem_unyield(SsPipelineShared *entry)
{
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	Assert(entry->yielders > 0);
	entry->yielders--;
	ConditionVariableBroadcast(&entry->batch_done);
	ss_shmem_free_unused_locked(entry);
	LWLockRelease(ss_shmem->lock);
}

int
ss_shmem_busy(SsPipelineShared *entry, bool cancel)
{
	int index = entry - ss_shmem->pipelines;
	int count = 0;
	int i;

	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	for (i = 0; i < ss_shmem->max_slots; i++)
	{
		SsSlot *slot = &ss_shmem->slots[i];

		if (!slot->in_use || slot->kind != SS_SLOT_WORKER || slot->pipeline != index || !slot->in_batch)
			continue;
		count++;
		/* a slot is released under the lock before its process ends: the pid is his */
		if (cancel && slot->pid != 0)
			kill(slot->pid, SIGINT);
	}
	LWLockRelease(ss_shmem->lock);
	return count;
}
