/*
 * ss_stats.c
 *	  Rates and samples: what workers report and the views show.
 *
 * NOTES
 *	  What goes with the pipeline lives in the fixed shared memory, under its
 *	  lock; its counters are in tables (ss_counter.c).  Samples of
 *	  streams, of which there may be many thousands, live in a hash table in
 *	  dynamic shared memory, which the first user makes; its partitions have
 *	  their own locks.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <math.h>

#include "common/int.h"
#include "lib/dshash.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ss_stats.h"

#define WINDOW_MS		30000	/* length of a window for rates */
#define SHARE_WINDOW_MS 1800000 /* longest of a window for the share of refused entries */

static const dshash_parameters samples_parameters = {
	.key_size = sizeof(((SsStreamSample *) 0)->key),
	.entry_size = sizeof(SsStreamSample),
	.compare_function = dshash_memcmp,
	.hash_function = dshash_memhash,
	SS_DSHASH_COPY_FUNCTION};

static dsa_area		*samples_area = NULL;
static dshash_table *samples = NULL;

/* ---- rates ---- */

static int
find_bucket(double ms)
{
	double bucket;

	if (ms <= 0.1)
		return 0;
	bucket = ceil(2.0 * log2(ms / 0.1));
	return bucket >= SS_LATENCY_BUCKETS ? SS_LATENCY_BUCKETS - 1 : (int) bucket;
}

static void
fill_histogram(const SsEntryId *ids, int nids, TimestampTz now, uint64 *latency)
{
	uint64 last_ms = 0;
	int	   bucket = -1;
	int	   i;

	for (i = 0; i < nids; i++)
	{
		/* neighbours often share their millisecond */
		if (bucket < 0 || ids[i].ms != last_ms)
		{
			last_ms = ids[i].ms;
			bucket = find_bucket((double) (now - ss_entryid_time(ids[i])) / 1000.0);
		}
		latency[bucket]++;
	}
}

/* Before a delta is added: begin a new window if the running one is over.  Lock held. */
static void
turn_window(SsPipelineShared *entry, TimestampTz now)
{
	if (entry->window_at[0] != 0 && now - entry->window_at[0] < WINDOW_MS * INT64CONST(1000))
		return;

	/* after a pause the last window says nothing */
	if (entry->window_at[0] == 0 || now - entry->last_batch_at > 2 * WINDOW_MS * INT64CONST(1000))
	{
		entry->window_at[1] = now;
		entry->window_read[1] = entry->read;
		entry->window_written[1] = entry->written;
	}
	else
	{
		entry->window_at[1] = entry->window_at[0];
		entry->window_read[1] = entry->window_read[0];
		entry->window_written[1] = entry->window_written[0];
	}
	entry->window_at[0] = now;
	entry->window_read[0] = entry->read;
	entry->window_written[0] = entry->written;
}

/* The same for the share of refused entries: a window with few of them goes on. */
static void
turn_share(SsPipelineShared *entry, TimestampTz now)
{
	int64 age = now - entry->share_at[0];
	bool  anew = entry->share_at[0] == 0 || now - entry->last_batch_at > 2 * SHARE_WINDOW_MS * INT64CONST(1000);

	if (!anew && age < SHARE_WINDOW_MS * INT64CONST(1000) &&
		(age < WINDOW_MS * INT64CONST(1000) || entry->read - entry->share_read[0] < SS_STATS_FEW))
		return;
	entry->share_at[1] = anew ? now : entry->share_at[0];
	entry->share_read[1] = anew ? entry->read : entry->share_read[0];
	entry->share_refused[1] = anew ? entry->refused : entry->share_refused[0];
	entry->share_at[0] = now;
	entry->share_read[0] = entry->read;
	entry->share_refused[0] = entry->refused;
}

void
ss_stats_batch(int32 pipeline_id, const SsCounters *delta, const SsEntryId *ids, int nids)
{
	uint64			  latency[SS_LATENCY_BUCKETS] = {0};
	TimestampTz		  now = GetCurrentTimestamp();
	SsPipelineShared *entry;
	int				  i;

	fill_histogram(ids, nids, now, latency);

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	/* a session's slot goes with its transaction */
	entry = MyPipelineShared != NULL ? MyPipelineShared : ss_shmem_pipeline_locked(MyDatabaseId, pipeline_id, false);
	if (entry != NULL)
	{
		turn_window(entry, now);
		turn_share(entry, now);
		entry->read += delta->read;
		entry->written += delta->written;
		entry->refused += delta->refused;
		for (i = 0; i < SS_LATENCY_BUCKETS; i++)
			entry->latency[i] += latency[i];
		entry->last_batch_at = now;
	}
	if (MySlot != NULL)
	{
		MySlot->read += delta->read;
		MySlot->written += delta->written;
		MySlot->settled_once = true;
	}
	LWLockRelease(ss_shmem->lock);
}

void
ss_stats_refused_ack(void)
{
	if (MySlot != NULL)
		MySlot->settled_once = false;
}

void
ss_stats_times(int64 wait_redis, int64 map, int64 write, int64 commit)
{
	if (MySlot == NULL)
		return;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	MySlot->time_wait_redis += wait_redis;
	MySlot->time_map += map;
	MySlot->time_write += write;
	MySlot->time_commit += commit;
	LWLockRelease(ss_shmem->lock);
}

void
ss_stats_worker(const char *consumer, int streams, int64 memory)
{
	if (MySlot == NULL)
		return;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	strlcpy(MySlot->consumer, consumer, sizeof(MySlot->consumer));
	MySlot->streams = streams;
	MySlot->memory_bytes = memory;
	LWLockRelease(ss_shmem->lock);
}

void
ss_stats_reset_locked(SsPipelineShared *entry)
{
	entry->read = entry->written = entry->refused = 0;
	memset(entry->latency, 0, sizeof(entry->latency));
	memset(entry->window_at, 0, sizeof(entry->window_at));
	memset(entry->window_read, 0, sizeof(entry->window_read));
	memset(entry->window_written, 0, sizeof(entry->window_written));
	memset(entry->share_at, 0, sizeof(entry->share_at));
	memset(entry->share_read, 0, sizeof(entry->share_read));
	memset(entry->share_refused, 0, sizeof(entry->share_refused));
	entry->last_batch_at = 0;
	entry->last_error[0] = entry->last_sqlstate[0] = '\0';
	entry->last_error_at = 0;
}

void
ss_stats_reset(Oid database, int32 pipeline)
{
	SsPipelineShared *entry;

	if (ss_shmem == NULL)
		return;
	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	entry = ss_shmem_pipeline_locked(database, pipeline, false);
	if (entry != NULL)
		ss_stats_reset_locked(entry);
	LWLockRelease(ss_shmem->lock);
}

double
ss_stats_percentile(const uint64 *latency, double share)
{
	uint64 total = 0;
	uint64 sum = 0;
	int	   i;

	for (i = 0; i < SS_LATENCY_BUCKETS; i++)
		total += latency[i];
	if (total == 0)
		return -1;
	for (i = 0; i < SS_LATENCY_BUCKETS - 1; i++)
	{
		sum += latency[i];
		if ((double) sum >= share * (double) total)
			break;
	}
	return 0.1 * pow(2.0, i / 2.0);
}

void
ss_stats_rates(const SsPipelineShared *entry, TimestampTz now, double *read, double *written)
{
	int	   base = now - entry->window_at[0] >= WINDOW_MS * INT64CONST(1000) ? 0 : 1;
	double seconds = (double) (now - entry->window_at[base]) / 1000000.0;

	*read = *written = 0;
	if (entry->window_at[0] == 0 || now - entry->last_batch_at > 2 * WINDOW_MS * INT64CONST(1000))
		return;
	seconds = Max(seconds, 1.0);
	*read = (double) (entry->read - entry->window_read[base]) / seconds;
	*written = (double) (entry->written - entry->window_written[base]) / seconds;
}

void
ss_stats_refused(const SsPipelineShared *entry, TimestampTz now, int64 *read, int64 *refused)
{
	*read = *refused = 0;
	if (entry->share_at[0] == 0 || now - entry->last_batch_at > 2 * SHARE_WINDOW_MS * INT64CONST(1000))
		return;
	*read = (int64) (entry->read - entry->share_read[1]);
	*refused = (int64) (entry->refused - entry->share_refused[1]);
}

/* ---- samples ---- */

/* Make area and table, unless another process is faster; true if they are ours. */
static bool
create_samples(void)
{
	dshash_parameters parameters = samples_parameters;
	bool			  mine;

	parameters.tranche_id = ss_shmem->lwtranche_hash;
	samples_area = dsa_create(ss_shmem->lwtranche_dsa);
	samples = dshash_create(samples_area, &parameters, NULL);

	LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
	mine = ss_shmem->samples_table == InvalidDsaPointer;
	if (mine)
	{
		dsa_pin(samples_area);
		ss_shmem->samples_dsa = dsa_get_handle(samples_area);
		ss_shmem->samples_table = dshash_get_hash_table_handle(samples);
	}
	LWLockRelease(ss_shmem->lock);

	if (!mine)
	{
		dshash_detach(samples);
		dsa_detach(samples_area); /* and so it is gone */
		samples = NULL;
		samples_area = NULL;
	}
	return mine;
}

/* Attach to the samples for the life of this process; with make they are made.  False if there are none. */
static bool
attach_samples(bool make)
{
	dshash_parameters	parameters = samples_parameters;
	MemoryContext		old;
	dsa_handle			area;
	dshash_table_handle table;

	if (samples != NULL)
		return true;
	if (ss_shmem == NULL)
		return false;

	LWLockRegisterTranche(ss_shmem->lwtranche_dsa, "StreamsinkSamplesDSA");
	LWLockRegisterTranche(ss_shmem->lwtranche_hash, "StreamsinkSamplesHash");
	LWLockAcquire(ss_shmem->lock, LW_SHARED);
	area = ss_shmem->samples_dsa;
	table = ss_shmem->samples_table;
	LWLockRelease(ss_shmem->lock);
	if (table == InvalidDsaPointer && !make)
		return false;

	/* an error on the way leaves an area behind that nobody else knows */
	samples = NULL;
	old = MemoryContextSwitchTo(TopMemoryContext);
	if (table != InvalidDsaPointer || !create_samples())
	{
		if (table == InvalidDsaPointer)
		{
			LWLockAcquire(ss_shmem->lock, LW_SHARED);
			area = ss_shmem->samples_dsa;
			table = ss_shmem->samples_table;
			LWLockRelease(ss_shmem->lock);
		}
		parameters.tranche_id = ss_shmem->lwtranche_hash;
		samples_area = dsa_attach(area);
		samples = dshash_attach(samples_area, &parameters, table, NULL);
	}
	dsa_pin_mapping(samples_area);
	MemoryContextSwitchTo(old);
	return true;
}

void
ss_stats_sample(const SsStreamSample *sample)
{
	SsStreamSample *stored;
	bool			found;

	PG_TRY();
	{
		if (attach_samples(true))
		{
			stored = dshash_find_or_insert(samples, &sample->key, &found);
			*stored = *sample;
			dshash_release_lock(samples, stored);
		}
	}
	PG_CATCH();
	{
		/* out of memory, with a lock of the table held and perhaps no transaction to release it */
		LWLockReleaseAll();
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (MyPipelineShared != NULL)
	{
		LWLockAcquire(ss_shmem->lock, LW_EXCLUSIVE);
		MyPipelineShared->sampled_at = sample->sampled_at;
		LWLockRelease(ss_shmem->lock);
	}
}

bool
ss_stats_lag_time(const SsStreamSample *sample, int64 *usecs)
{
	*usecs = 0;
	if (sample->lag <= 0)
		return sample->lag == 0;
	if (sample->waiting_since == 0 || pg_sub_s64_overflow(sample->sampled_at, sample->waiting_since, usecs))
		return false;
	*usecs = Max(*usecs, 0);
	return true;
}

static bool
is_of(const SsStreamSample *sample, Oid database, int32 pipeline)
{
	return sample->key.database == database && (pipeline == 0 || sample->key.pipeline == pipeline);
}

void
ss_stats_forget_sample(Oid database, int32 pipeline, int32 stream)
{
	SsStreamSample sample = {0};

	sample.key.database = database;
	sample.key.pipeline = pipeline;
	sample.key.stream = stream;
	if (attach_samples(false))
		(void) dshash_delete_key(samples, &sample.key);
}

void
ss_stats_forget_pipeline(Oid database, int32 pipeline)
{
	dshash_seq_status status;
	SsStreamSample	 *sample;

	if (!attach_samples(false))
		return;
	dshash_seq_init(&status, samples, true);
	while ((sample = dshash_seq_next(&status)) != NULL)
		if (is_of(sample, database, pipeline))
			dshash_delete_current(&status);
	dshash_seq_term(&status);
}

int
ss_stats_samples(Oid database, int32 pipeline, SsStreamSample **result)
{
	dshash_seq_status status;
	SsStreamSample	 *sample;
	int				  capacity = 64;
	int				  n = 0;

	*result = palloc(capacity * sizeof(SsStreamSample));
	if (!attach_samples(false))
		return 0;
	dshash_seq_init(&status, samples, false);
	while ((sample = dshash_seq_next(&status)) != NULL)
	{
		if (!is_of(sample, database, pipeline))
			continue;
		if (n == capacity)
		{
			capacity *= 2;
			*result = repalloc_huge(*result, capacity * sizeof(SsStreamSample));
		}
		(*result)[n++] = *sample;
	}
	dshash_seq_term(&status);
	return n;
}
