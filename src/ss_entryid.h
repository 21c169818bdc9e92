/*
 * ss_entryid.h
 *	  The data type entry_id: a Redis stream entry's id, two unsigned 64-bit
 *	  numbers (milliseconds, sequence).
 */
#ifndef SS_ENTRYID_H
#define SS_ENTRYID_H

#include "datatype/timestamp.h"
#include "fmgr.h"

typedef struct SsEntryId
{
	uint64 ms;	/* milliseconds since 1970-01-01 00:00 UTC */
	uint64 seq; /* counter within the millisecond */
} SsEntryId;

/* "18446744073709551615-18446744073709551615" and the terminator */
#define SS_ENTRYID_MAXLEN 42

#define SS_ENTRYID_MIN ((SsEntryId){0, 0})
#define SS_ENTRYID_MAX ((SsEntryId){PG_UINT64_MAX, PG_UINT64_MAX})

#define PG_GETARG_ENTRYID_P(n) ((SsEntryId *) PG_GETARG_POINTER(n))
#define PG_RETURN_ENTRYID_P(p) PG_RETURN_POINTER(p)
#define DatumGetEntryIdP(d)	   ((SsEntryId *) DatumGetPointer(d))
#define EntryIdPGetDatum(p)	   PointerGetDatum(p)

/* -1, 0, 1: milliseconds first, then sequence. */
static inline int
ss_entryid_compare(SsEntryId a, SsEntryId b)
{
	if (a.ms != b.ms)
		return a.ms < b.ms ? -1 : 1;
	if (a.seq != b.seq)
		return a.seq < b.seq ? -1 : 1;
	return 0;
}

/* Parse len bytes "ms-seq" or "ms" (then seq is 0).  False if it is no id: sign, blank, overflow, anything else. */
extern bool ss_entryid_parse(const char *str, size_t len, SsEntryId *result);

/* Print as "ms-seq" with a terminator into buf, which has SS_ENTRYID_MAXLEN bytes; returns the length. */
extern int ss_entryid_print(SsEntryId id, char *buf);

/* The next (previous) id in order; false, and *result untouched, at the end of the range. */
extern bool ss_entryid_next(SsEntryId id, SsEntryId *result);
extern bool ss_entryid_previous(SsEntryId id, SsEntryId *result);

/* The id's milliseconds as a timestamp, saturating at the end of timestamptz's range. */
extern TimestampTz ss_entryid_time(SsEntryId id);

/* The first id of a timestamp's millisecond; times before 1970 give 0-0. */
extern SsEntryId ss_entryid_from_time(TimestampTz when);

/*
 * OIDs of the types entry_id, entry_id_range and entry_id_multirange of the
 * extension in this database, looked up once and cached until an
 * invalidation of pg_type.  ERROR (undefined_object) when the extension is
 * gone.  Needs a transaction.
 */
extern Oid ss_entryid_type(void);
extern Oid ss_entryid_range_type(void);
extern Oid ss_entryid_multirange_type(void);

#endif /* SS_ENTRYID_H */
