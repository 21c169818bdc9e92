/*
 * ss_entryid.c
 *	  Arithmetic on entry ids, and where their types are found in the catalogs.
 *	  What SQL calls is in ss_entryid_type.c.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "ss_entryid.h"

/* Milliseconds from 1970 to 2000, where PostgreSQL counts from. */
#define EPOCH_DIFFERENCE_MS \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000)

/* The last timestamp there is, in microseconds of PostgreSQL. */
#define LAST_TIMESTAMP (END_TIMESTAMP - 1)

/* OIDs as looked up last; valid is cleared by invalidations. */
static struct
{
	bool registered;
	bool valid;
	Oid	 entry_id;
	Oid	 range;
	Oid	 multirange;
} types;

/* Read digits up to the end or the first other byte; false if there are none, or too many. */
static bool
parse_number(const char **pos, const char *end, uint64 *result)
{
	const char *p = *pos;
	uint64		value = 0;

	for (; p < end && *p >= '0' && *p <= '9'; p++)
	{
		uint64 digit = *p - '0';

		if (value > (PG_UINT64_MAX - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	if (p == *pos)
		return false;

	*pos = p;
	*result = value;
	return true;
}

bool
ss_entryid_parse(const char *str, size_t len, SsEntryId *result)
{
	const char *end = str + len;
	SsEntryId	id;

	id.seq = 0;
	if (!parse_number(&str, end, &id.ms))
		return false;
	if (str < end)
	{
		if (*str++ != '-')
			return false;
		if (!parse_number(&str, end, &id.seq) || str < end)
			return false;
	}

	*result = id;
	return true;
}

int
ss_entryid_print(SsEntryId id, char *buf)
{
	int len = pg_ulltoa_n(id.ms, buf);

	buf[len++] = '-';
	len += pg_ulltoa_n(id.seq, buf + len);
	buf[len] = '\0';
	return len;
}

bool
ss_entryid_next(SsEntryId id, SsEntryId *result)
{
	if (id.seq < PG_UINT64_MAX)
		id.seq++;
	else if (id.ms < PG_UINT64_MAX)
	{
		id.ms++;
		id.seq = 0;
	}
	else
		return false;

	*result = id;
	return true;
}

bool
ss_entryid_previous(SsEntryId id, SsEntryId *result)
{
	if (id.seq > 0)
		id.seq--;
	else if (id.ms > 0)
	{
		id.ms--;
		id.seq = PG_UINT64_MAX;
	}
	else
		return false;

	*result = id;
	return true;
}

TimestampTz
ss_entryid_time(SsEntryId id)
{
	if (id.ms > (uint64) (LAST_TIMESTAMP / 1000 + EPOCH_DIFFERENCE_MS))
		return LAST_TIMESTAMP;
	return ((int64) id.ms - EPOCH_DIFFERENCE_MS) * 1000;
}

SsEntryId
ss_entryid_from_time(TimestampTz when)
{
	SsEntryId id = SS_ENTRYID_MIN;
	int64	  ms;

	if (TIMESTAMP_IS_NOBEGIN(when))
		return id;
	if (TIMESTAMP_IS_NOEND(when))
	{
		id.ms = PG_UINT64_MAX;
		return id;
	}

	/* round down, also before 2000; and divide first: the sum could overflow */
	ms = when / 1000;
	if (when % 1000 < 0)
		ms--;
	ms += EPOCH_DIFFERENCE_MS;
	if (ms > 0)
		id.ms = (uint64) ms;
	return id;
}

static void
types_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	types.valid = false;
}

static Oid
find_type(const char *name, Oid namespace)
{
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
						   CStringGetDatum(name), ObjectIdGetDatum(namespace));
}

/* Make types hold the OIDs of now; ERROR if the extension is gone. */
static void
look_up_types(void)
{
	Oid namespace;

	if (types.valid && OidIsValid(types.multirange))
		return;

	if (!types.registered)
	{
		CacheRegisterSyscacheCallback(TYPEOID, types_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, types_changed, (Datum) 0);
		types.registered = true;
	}

	/*
	 * Called valid before the look-up: an invalidation that arrives meanwhile
	 * clears it, and the next call looks again.
	 */
	types.entry_id = types.range = types.multirange = InvalidOid;
	types.valid = true;

	namespace = get_namespace_oid("streamsink", true);
	if (OidIsValid(namespace))
	{
		types.entry_id = find_type("entry_id", namespace);
		types.range = find_type("entry_id_range", namespace);
		types.multirange = find_type("entry_id_multirange", namespace);
	}
	if (!OidIsValid(types.entry_id) || !OidIsValid(types.range) || !OidIsValid(types.multirange))
	{
		types.valid = false;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" is not installed in this database", "streamsink"),
				 errhint("Run CREATE EXTENSION streamsink.")));
	}
}

Oid
ss_entryid_type(void)
{
	look_up_types();
	return types.entry_id;
}

Oid
ss_entryid_range_type(void)
{
	look_up_types();
	return types.range;
}

Oid
ss_entryid_multirange_type(void)
{
	look_up_types();
	return types.multirange;
}
