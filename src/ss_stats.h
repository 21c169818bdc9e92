/*
 * ss_stats.h
 *	  Rates and samples: what workers report and the views show.
 */
#ifndef SS_STATS_H
#define SS_STATS_H

#include "ss_counter.h"
#include "ss_shmem.h"

/* What a worker last saw of one stream.  Key first. */
typedef struct SsStreamSample
{
	struct
	{
		Oid	  database;
		int32 pipeline;
		int32 stream; /* streamsink.stream.id; 0: the dead letter stream, only length and sampled_at */
	} key;
	pid_t		worker_pid;
	uint8		state; /* SsStreamState, ss_stream.h */
	char		reason[128];
	int64		length; /* -1: unknown, here and below */
	SsEntryId	first_id;
	SsEntryId	last_id; /* last generated */
	SsEntryId	last_delivered;
	int64		lag;		   /* entries not delivered yet */
	TimestampTz waiting_since; /* not later the first of them came, as far as is known */
	int64		pending;	   /* delivered to us, not acknowledged */
	int64		foreign_pending;
	SsEntryId	oldest_pending; /* 0-0: none */
	TimestampTz last_entry_at;	/* 0: never */
	TimestampTz sampled_at;
} SsStreamSample;

/* Add a batch's outcome to the pipeline's and the slot's numbers, last_batch_at, latency histogram (from ids to now) and rate windows. */
extern void ss_stats_batch(int32 pipeline_id, const SsCounters *delta, const SsEntryId *ids, int nids);

/* Redis refused an acknowledgement: batches settled before count for nothing in the pacing of tries. */
extern void ss_stats_refused_ack(void);

/* Add to the time sums of my slot, microseconds. */
extern void ss_stats_times(int64 wait_redis, int64 map, int64 write, int64 commit);

/* What my slot shows of the worker itself: consumer name, streams read, bytes of memory contexts. */
extern void ss_stats_worker(const char *consumer, int streams, int64 memory);

/* Store (or forget) a sample.  Not in a transaction that could hold locks for long. */
extern void ss_stats_sample(const SsStreamSample *sample);
extern void ss_stats_forget_sample(Oid database, int32 pipeline, int32 stream);
extern void ss_stats_forget_pipeline(Oid database, int32 pipeline);

/* The samples of a pipeline (0: all) of a database, into a palloc'd array; returns their number. */
extern int ss_stats_samples(Oid database, int32 pipeline, SsStreamSample **samples);

/* Upper bound in milliseconds of the bucket that holds the given share (0 to 1) of a histogram; -1 if it is empty. */
extern double ss_stats_percentile(const uint64 *latency, double share);

/* Entries read and written a second over the last half to one minute. */
extern void ss_stats_rates(const SsPipelineShared *entry, TimestampTz now, double *read, double *written);

/*
 * How many entries were read, and how many of them refused, over the last half
 * to one minute; where that were few, over at least SS_STATS_FEW of them, but none
 * from more than about an hour ago.
 */
#define SS_STATS_FEW 100
extern void ss_stats_refused(const SsPipelineShared *entry, TimestampTz now, int64 *read, int64 *refused);

/* Microseconds that the oldest entry which is not delivered had waited when the sample was taken; false if unknown. */
extern bool ss_stats_lag_time(const SsStreamSample *sample, int64 *usecs);

/* Forget rates, latency and last error of a pipeline; the second one with the lock of shared memory held. */
extern void ss_stats_reset(Oid database, int32 pipeline);
extern void ss_stats_reset_locked(SsPipelineShared *entry);

#endif /* SS_STATS_H */
