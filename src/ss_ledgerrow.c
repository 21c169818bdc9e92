/*
 * ss_ledgerrow.c
 *	  The form of a row of streamsink.ledger and of streamsink.ledger_log.
 *
 * NOTES
 *	  streamsink.ledger: settled is a multirange, hashes and settled_at have one
 *	  member for each of its ranges, in order.  A multirange joins ranges that
 *	  touch, so intervals are joined in the same way before a row is made.
 *	  lowest and highest are its ends once more, to choose rows by without
 *	  reading the rest.
 *
 *	  streamsink.ledger_log: intervals is a sequence of records of 44 bytes,
 *	  every number in network byte order:
 *
 *		 0	int32	stream
 *		 4	uint64	first.ms
 *		12	uint64	first.seq
 *		20	uint64	last.ms
 *		28	uint64	last.seq
 *		36	uint64	hash
 *
 *	  The columns behind it hold what the batch adds to the pipeline's counters,
 *	  NULL for zero, which takes no room.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "port/pg_bswap.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/multirangetypes.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "ss_ledgerrow.h"

#define RECORD_SIZE 44

#ifdef STREAMSINK_TEST
int ss_ledgerrow_segment = SS_LEDGER_SEGMENT;
#endif

#define DAMAGE_HINT "Restore the table from a backup, or drop the pipeline and create it again."

void
ss_ledgerrow_report(int32 pipeline, int32 stream, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("ledger of pipeline %d is damaged at stream %d", pipeline, stream),
			 errdetail_internal("%s", detail),
			 errhint(DAMAGE_HINT)));
}

static void
report_log_damage(int32 pipeline, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("ledger log of pipeline %d is damaged", pipeline),
			 errdetail_internal("%s", detail),
			 errhint(DAMAGE_HINT)));
}

/* ---- the ledger ---- */

void
ss_ledgerrow_open(HeapTuple tuple, TupleDesc desc, SsLedgerRow *row)
{
	Datum values[SS_LEDGER_NCOLUMNS];
	bool  nulls[SS_LEDGER_NCOLUMNS];

	if (desc->natts != SS_LEDGER_NCOLUMNS)
		elog(ERROR, "table streamsink.ledger has %d columns", desc->natts);
	heap_deform_tuple(tuple, desc, values, nulls);

	row->stream = nulls[SS_LEDGER_stream - 1] ? 0 : DatumGetInt32(values[SS_LEDGER_stream - 1]);
	row->pipeline = nulls[SS_LEDGER_pipeline - 1] ? 0 : DatumGetInt32(values[SS_LEDGER_pipeline - 1]);
	for (int i = 0; i < SS_LEDGER_NCOLUMNS; i++)
	{
		if (nulls[i])
			ss_ledgerrow_report(row->pipeline, row->stream, "A column is null.");
	}
	row->segment = DatumGetInt32(values[SS_LEDGER_segment - 1]);
	row->lowest = *DatumGetEntryIdP(values[SS_LEDGER_lowest - 1]);
	row->highest = *DatumGetEntryIdP(values[SS_LEDGER_highest - 1]);
	row->settled = values[SS_LEDGER_settled - 1];
	row->hashes = values[SS_LEDGER_hashes - 1];
	row->settled_at = values[SS_LEDGER_settled_at - 1];
}

static TypeCacheEntry *
get_range_typcache(void)
{
	TypeCacheEntry *typcache = lookup_type_cache(ss_entryid_range_type(), TYPECACHE_RANGE_INFO);

	if (typcache->rngelemtype == NULL)
		elog(ERROR, "type %u is not a range type", typcache->type_id);
	return typcache;
}

static MultirangeType *
get_settled(const SsLedgerRow *row)
{
	MultirangeType *settled = DatumGetMultirangeTypeP(row->settled);

	if (MultirangeTypeGetOid(settled) != ss_entryid_multirange_type())
		ss_ledgerrow_report(row->pipeline, row->stream, "The set of settled ids is of another type.");
	return settled;
}

/* The ids from the i'th range of a set, both ends included. */
static void
get_range(const SsLedgerRow *row, TypeCacheEntry *typcache, MultirangeType *settled,
		  uint32 i, SsInterval *interval)
{
	RangeBound lower;
	RangeBound upper;
	bool	   good = true;

	multirange_get_bounds(typcache, settled, i, &lower, &upper);

	interval->stream = row->stream;
	if (lower.infinite)
		interval->first = SS_ENTRYID_MIN;
	else
	{
		interval->first = *DatumGetEntryIdP(lower.val);
		if (!lower.inclusive)
			good = ss_entryid_next(interval->first, &interval->first);
	}
	if (upper.infinite)
		interval->last = SS_ENTRYID_MAX;
	else
	{
		interval->last = *DatumGetEntryIdP(upper.val);
		if (!upper.inclusive)
			good = good && ss_entryid_previous(interval->last, &interval->last);
	}
	if (!good || ss_entryid_compare(interval->first, interval->last) > 0)
		ss_ledgerrow_report(row->pipeline, row->stream, "The set of settled ids has an empty range.");
}

/* The members of an array of 8-byte integers (or timestamps) that must have n of them. */
static const int64 *
get_numbers(const SsLedgerRow *row, Datum array, Oid type, uint32 n, const char *detail)
{
	ArrayType *numbers = DatumGetArrayTypeP(array);
	int		   ndim = ARR_NDIM(numbers);

	if (ARR_ELEMTYPE(numbers) != type || ARR_HASNULL(numbers) ||
		ndim != (n > 0 ? 1 : 0) ||
		(ndim == 1 && ARR_DIMS(numbers)[0] != n) ||
		VARSIZE(numbers) < ARR_OVERHEAD_NONULLS(ndim) + (Size) n * sizeof(int64))
		ss_ledgerrow_report(row->pipeline, row->stream, detail);

	return (const int64 *) ARR_DATA_PTR(numbers);
}

void
ss_ledgerrow_read(const SsLedgerRow *row, SsIntervals *into)
{
	TypeCacheEntry *typcache = get_range_typcache();
	MultirangeType *settled = get_settled(row);
	uint32			n = settled->rangeCount;
	const int64	   *hashes = get_numbers(row, row->hashes, INT8OID, n, "It does not have one hash for each range.");
	const int64	   *times = get_numbers(row, row->settled_at, TIMESTAMPTZOID, n, "It does not have one time for each range.");

	if (n == 0)
		ss_ledgerrow_report(row->pipeline, row->stream, "The set of settled ids is empty.");
	for (uint32 i = 0; i < n; i++)
	{
		SsInterval interval;

		get_range(row, typcache, settled, i, &interval);
		interval.hash = (uint64) hashes[i];
		interval.settled_at = times[i];
		if ((i == 0 && ss_entryid_compare(interval.first, row->lowest) != 0) ||
			(i == n - 1 && ss_entryid_compare(interval.last, row->highest) != 0))
			ss_ledgerrow_report(row->pipeline, row->stream, "The set of settled ids does not have the ends that the row names.");
		ss_interval_add(into, &interval);
	}
}

size_t
ss_ledgerrow_count(const SsLedgerRow *row)
{
	Size size = toast_raw_datum_size(row->hashes);

	return size > ARR_OVERHEAD_NONULLS(1) ? (size - ARR_OVERHEAD_NONULLS(1)) / sizeof(int64) : 0;
}

uint64
ss_ledgerrow_last_hash(const SsLedgerRow *row)
{
	size_t		 n = ss_ledgerrow_count(row);
	const int64 *hashes = get_numbers(row, row->hashes, INT8OID, (uint32) n, "Its hashes are damaged.");

	return n > 0 ? (uint64) hashes[n - 1] : 0;
}

Datum
ss_ledgerrow_multirange(const SsInterval *intervals, size_t n)
{
	TypeCacheEntry *typcache = get_range_typcache();
	RangeType	  **ranges = palloc(n * sizeof(RangeType *));
	MultirangeType *settled;

	for (size_t i = 0; i < n; i++)
	{
		SsEntryId  first = intervals[i].first;
		SsEntryId  end = intervals[i].last;
		RangeBound lower = {.val = EntryIdPGetDatum(&first), .inclusive = true, .lower = true};
		RangeBound upper = {.val = EntryIdPGetDatum(&end)};

		/* the type's own normal form, so that it need not be called */
		upper.infinite = !ss_entryid_next(end, &end);
		ranges[i] = range_serialize(typcache, &lower, &upper, false, NULL);
	}

	settled = make_multirange(ss_entryid_multirange_type(), typcache, (int32) n, ranges);
	return MultirangeTypePGetDatum(settled);
}

/* For a row: its arrays have one member for each range. */
static Datum
make_multirange_datum(const SsInterval *intervals, size_t n)
{
	Datum settled = ss_ledgerrow_multirange(intervals, n);

	if (DatumGetMultirangeTypeP(settled)->rangeCount != n)
		elog(ERROR, "%zu intervals became %u ranges", n, DatumGetMultirangeTypeP(settled)->rangeCount);
	return settled;
}

static Datum
make_array(Datum *members, size_t n, Oid type)
{
	return PointerGetDatum(construct_array(members, (int) n, type, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

HeapTuple
ss_ledgerrow_make(TupleDesc desc, int32 pipeline, int32 stream, int32 segment,
				  const SsInterval *intervals, size_t n)
{
	SsEntryId lowest;
	SsEntryId highest;
	Datum	  values[SS_LEDGER_NCOLUMNS];
	bool	  nulls[SS_LEDGER_NCOLUMNS] = {false};
	Datum	 *members;

	if (desc->natts != SS_LEDGER_NCOLUMNS)
		elog(ERROR, "table streamsink.ledger has %d columns", desc->natts);
	if (n == 0 || n > ss_ledgerrow_segment)
		elog(ERROR, "segment of stream %d with %zu intervals", stream, n);
	lowest = intervals[0].first;
	highest = intervals[n - 1].last;

	values[SS_LEDGER_stream - 1] = Int32GetDatum(stream);
	values[SS_LEDGER_segment - 1] = Int32GetDatum(segment);
	values[SS_LEDGER_pipeline - 1] = Int32GetDatum(pipeline);
	values[SS_LEDGER_lowest - 1] = EntryIdPGetDatum(&lowest);
	values[SS_LEDGER_highest - 1] = EntryIdPGetDatum(&highest);
	values[SS_LEDGER_settled - 1] = make_multirange_datum(intervals, n);

	members = palloc(n * sizeof(Datum));
	for (size_t i = 0; i < n; i++)
		members[i] = Int64GetDatum((int64) intervals[i].hash);
	values[SS_LEDGER_hashes - 1] = make_array(members, n, INT8OID);
	for (size_t i = 0; i < n; i++)
		members[i] = TimestampTzGetDatum(intervals[i].settled_at);
	values[SS_LEDGER_settled_at - 1] = make_array(members, n, TIMESTAMPTZOID);

	return heap_form_tuple(desc, values, nulls);
}

HeapTuple
ss_ledgerrow_renumber(HeapTuple tuple, TupleDesc desc, int32 segment)
{
	Datum values[SS_LEDGER_NCOLUMNS] = {0};
	bool  nulls[SS_LEDGER_NCOLUMNS] = {false};
	bool  replaced[SS_LEDGER_NCOLUMNS] = {false};

	values[SS_LEDGER_segment - 1] = Int32GetDatum(segment);
	replaced[SS_LEDGER_segment - 1] = true;
	return heap_modify_tuple(tuple, desc, values, nulls, replaced);
}

/* ---- the log ---- */

static char *
put_number(char *to, uint64 number)
{
	number = pg_hton64(number);
	memcpy(to, &number, sizeof(number));
	return to + sizeof(number);
}

static const char *
get_number(const char *from, uint64 *number)
{
	memcpy(number, from, sizeof(*number));
	*number = pg_ntoh64(*number);
	return from + sizeof(*number);
}

HeapTuple
ss_ledgerrow_make_log(TupleDesc desc, int32 pipeline, TimestampTz settled_at, const SsInterval *intervals, int n, const SsCounters *counters)
{
	Datum  values[SS_LEDGER_LOG_NCOLUMNS];
	bool   nulls[SS_LEDGER_LOG_NCOLUMNS] = {false};
	Size   size = VARHDRSZ + (Size) n * RECORD_SIZE;
	bytea *packed;
	char  *to;

	Assert(n >= 0 && n <= SS_LEDGER_LOG_ROW_MAX);
	if (desc->natts != SS_LEDGER_LOG_NCOLUMNS)
		elog(ERROR, "table streamsink.ledger_log has %d columns", desc->natts);

	packed = palloc(size);
	SET_VARSIZE(packed, size);
	to = VARDATA(packed);
	for (int i = 0; i < n; i++)
	{
		const SsInterval *interval = &intervals[i];
		uint32			  stream = pg_hton32((uint32) interval->stream);

		if (ss_entryid_compare(interval->first, interval->last) > 0)
			elog(ERROR, "interval of stream %d ends before it begins", interval->stream);

		memcpy(to, &stream, sizeof(stream));
		to += sizeof(stream);
		to = put_number(to, interval->first.ms);
		to = put_number(to, interval->first.seq);
		to = put_number(to, interval->last.ms);
		to = put_number(to, interval->last.seq);
		to = put_number(to, interval->hash);
	}
	Assert(to == (char *) packed + size);

	values[SS_LEDGER_LOG_pipeline - 1] = Int32GetDatum(pipeline);
	values[SS_LEDGER_LOG_settled_at - 1] = TimestampTzGetDatum(settled_at);
	values[SS_LEDGER_LOG_intervals - 1] = PointerGetDatum(packed);
	for (int i = 0; i < SS_COUNTER_NSTORED; i++)
	{
		int64 count = counters != NULL ? *ss_counter_stored(unconstify(SsCounters *, counters), i) : 0;

		values[SS_LEDGER_LOG_counters - 1 + i] = Int64GetDatum(count);
		nulls[SS_LEDGER_LOG_counters - 1 + i] = count == 0;
	}
	return heap_form_tuple(desc, values, nulls);
}

void
ss_ledgerrow_open_log(HeapTuple tuple, TupleDesc desc, SsLogRow *row)
{
	Datum  values[SS_LEDGER_LOG_NCOLUMNS];
	bool   nulls[SS_LEDGER_LOG_NCOLUMNS];
	bytea *packed;

	if (desc->natts != SS_LEDGER_LOG_NCOLUMNS)
		elog(ERROR, "table streamsink.ledger_log has %d columns", desc->natts);
	heap_deform_tuple(tuple, desc, values, nulls);

	row->pipeline = nulls[SS_LEDGER_LOG_pipeline - 1] ? 0 : DatumGetInt32(values[SS_LEDGER_LOG_pipeline - 1]);
	for (int i = 0; i < SS_LEDGER_LOG_counters - 1; i++)
	{
		if (nulls[i])
			report_log_damage(row->pipeline, "A column is null.");
	}
	row->settled_at = DatumGetTimestampTz(values[SS_LEDGER_LOG_settled_at - 1]);

	packed = DatumGetByteaPP(values[SS_LEDGER_LOG_intervals - 1]);
	if (VARSIZE_ANY_EXHDR(packed) % RECORD_SIZE != 0)
		report_log_damage(row->pipeline, "A row's intervals are cut off.");
	row->position = VARDATA_ANY(packed);
	row->end = row->position + VARSIZE_ANY_EXHDR(packed);
}

bool
ss_ledgerrow_next(SsLogRow *row, SsInterval *interval)
{
	const char *from = row->position;
	uint32		stream;

	if (from >= row->end)
		return false;

	memcpy(&stream, from, sizeof(stream));
	from += sizeof(stream);
	interval->stream = (int32) pg_ntoh32(stream);
	from = get_number(from, &interval->first.ms);
	from = get_number(from, &interval->first.seq);
	from = get_number(from, &interval->last.ms);
	from = get_number(from, &interval->last.seq);
	from = get_number(from, &interval->hash);
	interval->settled_at = row->settled_at;
	row->position = from;

	if (ss_entryid_compare(interval->first, interval->last) > 0)
		report_log_damage(row->pipeline, "An interval ends before it begins.");
	return true;
}

void
ss_ledgerrow_add_counters(HeapTuple tuple, TupleDesc desc, SsCounters *sum)
{
	if (desc->natts != SS_LEDGER_LOG_NCOLUMNS)
		elog(ERROR, "table streamsink.ledger_log has %d columns", desc->natts);
	for (int i = 0; i < SS_COUNTER_NSTORED; i++)
	{
		bool  isnull;
		Datum count = heap_getattr(tuple, SS_LEDGER_LOG_counters + i, desc, &isnull);

		if (!isnull)
			*ss_counter_stored(sum, i) += DatumGetInt64(count);
	}
}
