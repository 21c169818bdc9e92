/*
 * ss_entryid_type.c
 *	  The SQL side of the data type entry_id: input and output, comparison,
 *	  hashing, sorting, casts, and the support functions of its range type.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <math.h>

#include "common/hashfn.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/rangetypes.h"
#include "utils/sortsupport.h"
#include "utils/timestamp.h"

#include "ss_entryid.h"

SS_SQL_FUNCTION(streamsink_entry_id_in);
SS_SQL_FUNCTION(streamsink_entry_id_out);
SS_SQL_FUNCTION(streamsink_entry_id_recv);
SS_SQL_FUNCTION(streamsink_entry_id_send);
SS_SQL_FUNCTION(streamsink_entry_id_lt);
SS_SQL_FUNCTION(streamsink_entry_id_le);
SS_SQL_FUNCTION(streamsink_entry_id_eq);
SS_SQL_FUNCTION(streamsink_entry_id_ne);
SS_SQL_FUNCTION(streamsink_entry_id_ge);
SS_SQL_FUNCTION(streamsink_entry_id_gt);
SS_SQL_FUNCTION(streamsink_entry_id_cmp);
SS_SQL_FUNCTION(streamsink_entry_id_sortsupport);
SS_SQL_FUNCTION(streamsink_entry_id_hash);
SS_SQL_FUNCTION(streamsink_entry_id_hash_extended);
SS_SQL_FUNCTION(streamsink_entry_id_larger);
SS_SQL_FUNCTION(streamsink_entry_id_smaller);
SS_SQL_FUNCTION(streamsink_entry_id);
SS_SQL_FUNCTION(streamsink_entry_time);
SS_SQL_FUNCTION(streamsink_entry_ms);
SS_SQL_FUNCTION(streamsink_entry_seq);
SS_SQL_FUNCTION(streamsink_entry_id_range_canonical);
SS_SQL_FUNCTION(streamsink_entry_id_range_subdiff);

static Datum
copy_datum(SsEntryId id)
{
	SsEntryId *result = palloc(sizeof(SsEntryId));

	*result = id;
	return EntryIdPGetDatum(result);
}

static inline int
compare_args(FunctionCallInfo fcinfo)
{
	return ss_entryid_compare(*PG_GETARG_ENTRYID_P(0), *PG_GETARG_ENTRYID_P(1));
}

/* ---- input and output ---- */

Datum
streamsink_entry_id_in(PG_FUNCTION_ARGS)
{
	char	 *str = PG_GETARG_CSTRING(0);
	SsEntryId id;

	if (!ss_entryid_parse(str, strlen(str), &id))
		ereturn(fcinfo->context, (Datum) 0,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid input syntax for type %s: \"%s\"", "entry_id", str),
				 errdetail("An entry id is \"milliseconds-sequence\" or \"milliseconds\", unsigned 64-bit numbers.")));

	return copy_datum(id);
}

Datum
streamsink_entry_id_out(PG_FUNCTION_ARGS)
{
	char *buf = palloc(SS_ENTRYID_MAXLEN);

	ss_entryid_print(*PG_GETARG_ENTRYID_P(0), buf);
	PG_RETURN_CSTRING(buf);
}

Datum
streamsink_entry_id_recv(PG_FUNCTION_ARGS)
{
	StringInfo buf = (StringInfo) PG_GETARG_POINTER(0);
	SsEntryId  id;

	id.ms = (uint64) pq_getmsgint64(buf);
	id.seq = (uint64) pq_getmsgint64(buf);
	return copy_datum(id);
}

Datum
streamsink_entry_id_send(PG_FUNCTION_ARGS)
{
	SsEntryId	  *id = PG_GETARG_ENTRYID_P(0);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendint64(&buf, id->ms);
	pq_sendint64(&buf, id->seq);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* ---- comparison ---- */

Datum
streamsink_entry_id_lt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) < 0);
}

Datum
streamsink_entry_id_le(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) <= 0);
}

Datum
streamsink_entry_id_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) == 0);
}

Datum
streamsink_entry_id_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) != 0);
}

Datum
streamsink_entry_id_ge(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) >= 0);
}

Datum
streamsink_entry_id_gt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_args(fcinfo) > 0);
}

Datum
streamsink_entry_id_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(compare_args(fcinfo));
}

Datum
streamsink_entry_id_larger(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(PG_GETARG_DATUM(compare_args(fcinfo) >= 0 ? 0 : 1));
}

Datum
streamsink_entry_id_smaller(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(PG_GETARG_DATUM(compare_args(fcinfo) <= 0 ? 0 : 1));
}

/* ---- sorting ---- */

static int
compare_datums(Datum a, Datum b, SortSupport ssup)
{
	return ss_entryid_compare(*DatumGetEntryIdP(a), *DatumGetEntryIdP(b));
}

#if SIZEOF_DATUM == 8

/*
 * 48 bits of milliseconds (until the year 10889) and 16 of the sequence, each
 * saturating: in order where it differs, and else the whole ids are compared.
 */
static Datum
abbreviate_datum(Datum original, SortSupport ssup)
{
	SsEntryId *id = DatumGetEntryIdP(original);

	if (id->ms >> 48 != 0)
		return (Datum) PG_UINT64_MAX;
	return (Datum) ((id->ms << 16) | Min(id->seq, 0xFFFF));
}

/* The abbreviation costs next to nothing, so it is never given up. */
static bool
abort_abbreviation(int memtupcount, SortSupport ssup)
{
	return false;
}

#endif

Datum
streamsink_entry_id_sortsupport(PG_FUNCTION_ARGS)
{
	SortSupport ssup = (SortSupport) PG_GETARG_POINTER(0);

	ssup->comparator = compare_datums;
#if SIZEOF_DATUM == 8
	if (ssup->abbreviate)
	{
		ssup->comparator = ssup_datum_unsigned_cmp;
		ssup->abbrev_converter = abbreviate_datum;
		ssup->abbrev_abort = abort_abbreviation;
		ssup->abbrev_full_comparator = compare_datums;
	}
#endif
	PG_RETURN_VOID();
}

/* ---- hashing ---- */

Datum
streamsink_entry_id_hash(PG_FUNCTION_ARGS)
{
	return hash_any((unsigned char *) PG_GETARG_ENTRYID_P(0), sizeof(SsEntryId));
}

Datum
streamsink_entry_id_hash_extended(PG_FUNCTION_ARGS)
{
	return hash_any_extended((unsigned char *) PG_GETARG_ENTRYID_P(0), sizeof(SsEntryId),
							 (uint64) PG_GETARG_INT64(1));
}

/* ---- casts and parts ---- */

Datum
streamsink_entry_id(PG_FUNCTION_ARGS)
{
	return copy_datum(ss_entryid_from_time(PG_GETARG_TIMESTAMPTZ(0)));
}

Datum
streamsink_entry_time(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(ss_entryid_time(*PG_GETARG_ENTRYID_P(0)));
}

static Datum
make_numeric(uint64 value)
{
	char buf[MAXINT8LEN + 1];

	if (value <= PG_INT64_MAX)
		return NumericGetDatum(int64_to_numeric((int64) value));

	buf[pg_ulltoa_n(value, buf)] = '\0';
	return DirectFunctionCall3(numeric_in, CStringGetDatum(buf),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

Datum
streamsink_entry_ms(PG_FUNCTION_ARGS)
{
	return make_numeric(PG_GETARG_ENTRYID_P(0)->ms);
}

Datum
streamsink_entry_seq(PG_FUNCTION_ARGS)
{
	return make_numeric(PG_GETARG_ENTRYID_P(0)->seq);
}

/* ---- the range type ---- */

/*
 * [a,b] becomes [a,next(b)), (a, becomes [next(a),.  There is nothing above the
 * highest id: as an upper bound it becomes no bound, behind it is nothing.
 */
Datum
streamsink_entry_id_range_canonical(PG_FUNCTION_ARGS)
{
	RangeType	   *range = PG_GETARG_RANGE_P(0);
	TypeCacheEntry *typcache = range_get_typcache(fcinfo, RangeTypeGetOid(range));
	RangeBound		lower;
	RangeBound		upper;
	SsEntryId		first;
	SsEntryId		end;
	bool			empty;

	range_deserialize(typcache, range, &lower, &upper, &empty);
	if (empty)
		PG_RETURN_RANGE_P(range);

	if (!lower.infinite && !lower.inclusive)
	{
		if (!ss_entryid_next(*DatumGetEntryIdP(lower.val), &first))
			PG_RETURN_RANGE_P(make_empty_range(typcache));
		lower.val = EntryIdPGetDatum(&first);
		lower.inclusive = true;
	}
	if (!upper.infinite && upper.inclusive)
	{
		if (ss_entryid_next(*DatumGetEntryIdP(upper.val), &end))
			upper.val = EntryIdPGetDatum(&end);
		else
			upper.infinite = true;
		upper.inclusive = false;
	}

	PG_RETURN_RANGE_P(range_serialize(typcache, &lower, &upper, false, fcinfo->context));
}

/* The distance in milliseconds, the sequence behind the point. */
Datum
streamsink_entry_id_range_subdiff(PG_FUNCTION_ARGS)
{
	SsEntryId *a = PG_GETARG_ENTRYID_P(0);
	SsEntryId *b = PG_GETARG_ENTRYID_P(1);
	float8	   ms;
	float8	   seq;

	/* subtract as integers: neighbours must not round to the same number */
	ms = a->ms >= b->ms ? (float8) (a->ms - b->ms) : -(float8) (b->ms - a->ms);
	seq = a->seq >= b->seq ? (float8) (a->seq - b->seq) : -(float8) (b->seq - a->seq);
	PG_RETURN_FLOAT8(ms + ldexp(seq, -64));
}
