/*
 * ss_ledger.c
 *	  The exact set of settled entry ids: append to the log, load, delete.
 *
 * NOTES
 *	  A batch appends one row to streamsink.ledger_log and touches nothing
 *	  else.  Folding (ss_ledgerfold.c) moves rows of the log into
 *	  streamsink.ledger in one transaction: under any snapshot an interval is
 *	  in exactly one of the two.  There the intervals of a stream are cut into
 *	  segments, disjoint and numbered in the order of their ids, so that a scan
 *	  from the last one down need not go further than it wants to know.
 *	  Only the holder of the folder's lock writes to streamsink.ledger and
 *	  deletes from the log.
 *
 *	  Readers use the latest snapshot, not the transaction's: what another
 *	  worker committed a moment ago counts.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <limits.h>

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ss_catalog.h"
#include "ss_interval.h"
#include "ss_ledger.h"
#include "ss_ledgerrow.h"
#include "ss_ledgerscan.h"

/* Slice of one stream in the intervals of a loaded set. */
typedef struct SettledStream
{
	int32	  stream; /* hash key */
	SsEntryId low;	  /* nothing is known of ids below it */
	size_t	  first;
	size_t	  n;
} SettledStream;

struct SsSettled
{
	bool		all;	 /* every stream of the pipeline, so an unknown one has nothing settled */
	HTAB	   *streams; /* of SettledStream */
	SsIntervals intervals;
};

/* Highest id of one stream. */
typedef struct HighStream
{
	int32	  stream; /* hash key */
	SsEntryId high;
	uint64	  hash; /* 0: unknown, or not wanted */
} HighStream;

typedef struct HighRead
{
	HTAB *streams; /* of HighStream */
	bool  hashes;  /* wanted */
} HighRead;

static HTAB *
create_hash(const char *name, Size entry_size, int n)
{
	HASHCTL ctl = {.keysize = sizeof(int32), .entrysize = entry_size, .hcxt = CurrentMemoryContext};

	return hash_create(name, Max(n, 16), &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Show the log of a pipeline to a visitor. */
static void
visit_log(int32 pipeline_id, Snapshot snapshot, SsLedgerVisitor visit, void *arg)
{
	SsLedgerTable log = ss_ledgerscan_open_log(AccessShareLock);

	ss_ledgerscan_visit(&log, pipeline_id, ForwardScanDirection, snapshot, visit, arg);
	ss_ledgerscan_close(&log);
}

/* ---- append ---- */

void
ss_ledger_append(int32 pipeline_id, const SsInterval *intervals, int n, const SsCounters *counters)
{
	Relation	log;
	Snapshot	snapshot;
	TimestampTz now;
	int			done = 0;

	if (n <= 0 && (counters == NULL || ss_counter_is_zero(counters)))
		return;

	log = table_open(ss_catalog_relation("ledger_log", false), RowExclusiveLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	now = GetCurrentTimestamp();
	do
	{
		int		  part = Min(n - done, SS_LEDGER_LOG_ROW_MAX);
		HeapTuple tuple = ss_ledgerrow_make_log(RelationGetDescr(log), pipeline_id, now, intervals + done, part,
												done == 0 ? counters : NULL);

		CatalogTupleInsert(log, tuple);
		heap_freetuple(tuple);
		done += part;
	} while (done < n);
	UnregisterSnapshot(snapshot);
	table_close(log, NoLock);
	CommandCounterIncrement();
}

/* ---- load ---- */

/* One stream's segments are being loaded, from the last one down. */
typedef struct SegmentLoad
{
	SsSettled *settled;
	SsEntryId  low;	  /* segments below it are not wanted */
	SsEntryId  bound; /* lowest id seen so far */
	bool	   bounded;
} SegmentLoad;

static bool
load_segment(HeapTuple tuple, TupleDesc desc, void *arg)
{
	SegmentLoad *load = arg;
	SsLedgerRow	 row;

	ss_ledgerrow_open(tuple, desc, &row);
	if (load->bounded && ss_entryid_compare(row.highest, load->bound) >= 0)
		ss_ledgerrow_report(row.pipeline, row.stream, "Its segments are not in order.");
	load->bound = row.lowest;
	load->bounded = true;
	if (ss_entryid_compare(row.highest, load->low) < 0)
		return false;
	ss_ledgerrow_read(&row, &load->settled->intervals);
	return ss_entryid_compare(row.lowest, load->low) > 0;
}

static bool
load_row(HeapTuple tuple, TupleDesc desc, void *arg)
{
	SsSettled  *settled = arg;
	SsLedgerRow row;

	ss_ledgerrow_open(tuple, desc, &row);
	ss_ledgerrow_read(&row, &settled->intervals);
	return true;
}

static bool
load_log_row(HeapTuple tuple, TupleDesc desc, void *arg)
{
	SsSettled *settled = arg;
	SsLogRow   row;
	SsInterval interval;

	ss_ledgerrow_open_log(tuple, desc, &row);
	while (ss_ledgerrow_next(&row, &interval))
	{
		if (settled->all || hash_search(settled->streams, &interval.stream, HASH_FIND, NULL) != NULL)
			ss_interval_add(&settled->intervals, &interval);
	}
	return true;
}

/* Read the segments of the streams that are wanted. */
static void
load_streams(SsSettled *settled, Snapshot snapshot)
{
	SsLedgerTable	ledger = ss_ledgerscan_open_streams(AccessShareLock);
	HASH_SEQ_STATUS status;
	SettledStream  *slice;

	hash_seq_init(&status, settled->streams);
	while ((slice = hash_seq_search(&status)) != NULL)
	{
		SegmentLoad load = {.settled = settled, .low = slice->low};

		ss_ledgerscan_visit(&ledger, slice->stream, BackwardScanDirection, snapshot, load_segment, &load);
	}
	ss_ledgerscan_close(&ledger);
}

/* Merge what was loaded, and give each stream its slice of it. */
static void
slice_streams(SsSettled *settled)
{
	SettledStream *slice = NULL;

	settled->intervals.n = ss_interval_merge(settled->intervals.items, settled->intervals.n, false);
	for (size_t i = 0; i < settled->intervals.n; i++)
	{
		int32 stream = settled->intervals.items[i].stream;

		if (slice == NULL || slice->stream != stream)
		{
			bool found;

			slice = hash_search(settled->streams, &stream, HASH_ENTER, &found);
			if (!found)
				slice->low = SS_ENTRYID_MIN;
			slice->first = i;
			slice->n = 0;
		}
		slice->n++;
	}
}

SsSettled *
ss_ledger_load_above(int32 pipeline_id, const int32 *streams, int nstreams, const SsEntryId *low)
{
	SsSettled *settled = palloc0(sizeof(SsSettled));
	Snapshot   snapshot;

	settled->all = streams == NULL;
	settled->streams = create_hash("streamsink settled streams", sizeof(SettledStream), nstreams);
	settled->intervals.cxt = CurrentMemoryContext;

	for (int i = 0; streams != NULL && i < nstreams; i++)
	{
		SsEntryId	   from = low != NULL ? low[i] : SS_ENTRYID_MIN;
		bool		   found;
		SettledStream *slice = hash_search(settled->streams, &streams[i], HASH_ENTER, &found);

		if (!found || ss_entryid_compare(from, slice->low) < 0)
			slice->low = from;
		slice->first = slice->n = 0;
	}

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (settled->all)
	{
		SsLedgerTable ledger = ss_ledgerscan_open_pipelines(AccessShareLock);

		ss_ledgerscan_visit(&ledger, pipeline_id, ForwardScanDirection, snapshot, load_row, settled);
		ss_ledgerscan_close(&ledger);
	}
	else
		load_streams(settled, snapshot);
	visit_log(pipeline_id, snapshot, load_log_row, settled);
	UnregisterSnapshot(snapshot);

	slice_streams(settled);
	return settled;
}

SsSettled *
ss_ledger_load(int32 pipeline_id, const int32 *streams, int nstreams)
{
	return ss_ledger_load_above(pipeline_id, streams, nstreams, NULL);
}

/* The intervals of a loaded stream; NULL and 0 if there are none. */
static const SsInterval *
get_slice(const SsSettled *settled, int32 stream, size_t *n)
{
	SettledStream *slice = hash_search(settled->streams, &stream, HASH_FIND, NULL);

	/* taking it for a stream without settled ids would double its entries */
	if (slice == NULL && !settled->all)
		elog(ERROR, "ledger of stream %d was not loaded", stream);

	*n = slice != NULL ? slice->n : 0;
	return *n > 0 ? settled->intervals.items + slice->first : NULL;
}

bool
ss_ledger_contains(const SsSettled *settled, int32 stream, SsEntryId id)
{
	const SettledStream *slice = hash_search(settled->streams, &stream, HASH_FIND, NULL);
	size_t				 n;
	const SsInterval	*intervals = get_slice(settled, stream, &n);

	if (slice != NULL && ss_entryid_compare(id, slice->low) < 0)
		elog(ERROR, "ledger of stream %d was loaded from higher ids on", stream);
	return ss_interval_contains(intervals, n, id);
}

bool
ss_ledger_high(const SsSettled *settled, int32 stream, SsEntryId *high, uint64 *hash)
{
	size_t			  n;
	const SsInterval *intervals = get_slice(settled, stream, &n);

	if (n == 0)
		return false;
	*high = intervals[n - 1].last;
	if (hash != NULL)
		*hash = intervals[n - 1].hash;
	return true;
}

Datum
ss_ledger_multirange(const SsSettled *settled, int32 stream)
{
	const SsInterval *intervals;
	int				  n = ss_ledger_intervals(settled, stream, &intervals);

	return n > 0 ? ss_ledgerrow_multirange(intervals, (size_t) n) : (Datum) 0;
}

int
ss_ledger_intervals(const SsSettled *settled, int32 stream, const SsInterval **intervals)
{
	size_t n;

	*intervals = get_slice(settled, stream, &n);
	if (n > INT_MAX)
		elog(ERROR, "stream %d has %zu intervals", stream, n);
	return (int) n;
}

/* ---- highest ids ---- */

static void
raise_high(HTAB *highs, int32 stream, SsEntryId id, uint64 hash)
{
	HighStream *high = hash_search(highs, &stream, HASH_FIND, NULL);

	if (high == NULL || ss_entryid_compare(id, high->high) < 0)
		return;

	/* the same one again, later: as when intervals are united */
	if (ss_entryid_compare(id, high->high) > 0 || hash != 0)
		high->hash = hash;
	high->high = id;
}

/* The last segment holds it. */
static bool
raise_by_segment(HeapTuple tuple, TupleDesc desc, void *arg)
{
	HighRead   *read = arg;
	SsLedgerRow row;

	ss_ledgerrow_open(tuple, desc, &row);
	raise_high(read->streams, row.stream, row.highest, read->hashes ? ss_ledgerrow_last_hash(&row) : 0);
	return false;
}

static bool
raise_by_log_row(HeapTuple tuple, TupleDesc desc, void *arg)
{
	HighRead  *read = arg;
	SsLogRow   row;
	SsInterval interval;

	ss_ledgerrow_open_log(tuple, desc, &row);
	while (ss_ledgerrow_next(&row, &interval))
		raise_high(read->streams, interval.stream, interval.last, interval.hash);
	return true;
}

void
ss_ledger_highs(int32 pipeline_id, const int32 *streams, int nstreams, SsEntryId *high, uint64 *hash)
{
	HighRead	  read = {.hashes = hash != NULL};
	SsLedgerTable ledger;
	Snapshot	  snapshot;

	if (nstreams <= 0)
		return;

	read.streams = create_hash("streamsink highest ids", sizeof(HighStream), nstreams);
	ledger = ss_ledgerscan_open_streams(AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	for (int i = 0; i < nstreams; i++)
	{
		bool		found;
		HighStream *stream = hash_search(read.streams, &streams[i], HASH_ENTER, &found);

		if (found)
			continue;
		stream->high = SS_ENTRYID_MIN;
		stream->hash = 0;
		ss_ledgerscan_visit(&ledger, streams[i], BackwardScanDirection, snapshot, raise_by_segment, &read);
	}
	visit_log(pipeline_id, snapshot, raise_by_log_row, &read);
	UnregisterSnapshot(snapshot);
	ss_ledgerscan_close(&ledger);

	for (int i = 0; i < nstreams; i++)
	{
		HighStream *stream = hash_search(read.streams, &streams[i], HASH_FIND, NULL);

		high[i] = stream->high;
		if (hash != NULL)
			hash[i] = stream->hash;
	}
	hash_destroy(read.streams);
}

/* ---- the folder's lock ---- */

static bool
acquire_lock(int32 pipeline_id, bool wait)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ss_catalog_relation("ledger", false), (Oid) pipeline_id, 0);
	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

bool
ss_ledger_lock(int32 pipeline_id)
{
	return acquire_lock(pipeline_id, false);
}

void
ss_ledger_lock_wait(int32 pipeline_id)
{
	(void) acquire_lock(pipeline_id, true);
}

/* ---- delete ---- */

static bool
delete_row(HeapTuple tuple, TupleDesc desc, void *arg)
{
	CatalogTupleDelete((Relation) arg, &tuple->t_self);
	return true;
}

void
ss_ledger_delete_all(int32 pipeline_id)
{
	SsLedgerTable ledger = ss_ledgerscan_open_pipelines(RowExclusiveLock);
	SsLedgerTable log = ss_ledgerscan_open_log(RowExclusiveLock);
	Snapshot	  snapshot;

	ss_ledger_lock_wait(pipeline_id);

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ss_ledgerscan_visit(&ledger, pipeline_id, ForwardScanDirection, snapshot, delete_row, ledger.rel);
	ss_ledgerscan_visit(&log, pipeline_id, ForwardScanDirection, snapshot, delete_row, log.rel);
	UnregisterSnapshot(snapshot);
	ss_counter_delete(pipeline_id);
	ss_ledgerscan_close(&log);
	ss_ledgerscan_close(&ledger);
	CommandCounterIncrement();
}
