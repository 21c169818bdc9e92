/*
 * ss_overrun_test.c
 *	  What counts missed entries, for SQL, compiled into test builds only.
 *
 * NOTES
 *	  The install script does not know this function: the test declares it.
 */
#include "postgres.h"
#include "ss_compat.h"

#ifdef STREAMSINK_TEST

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "ss_overrun.h"

SS_SQL_FUNCTION(streamsink_test_overrun);

/* (base, length, entries_added, first, last_generated, last_delivered, entries_read) returns {missed, base as if it was reported} */
Datum
streamsink_test_overrun(PG_FUNCTION_ARGS)
{
	SsStream	 stream = {.overrun_base = PG_GETARG_INT64(0)};
	SsStreamInfo info = {.length = PG_GETARG_INT64(1), .entries_added = PG_GETARG_INT64(2)};
	SsGroupInfo	 group = {.exists = true, .entries_read = PG_GETARG_INT64(6)};
	int64		 missed;
	Datum		 result[2];

	info.first = *PG_GETARG_ENTRYID_P(3);
	info.last_generated = *PG_GETARG_ENTRYID_P(4);
	group.last_delivered = *PG_GETARG_ENTRYID_P(5);
	missed = ss_overrun_count(&stream, &info, &group);
	result[0] = Int64GetDatum(missed);
	result[1] = Int64GetDatum(stream.overrun_base + missed);
	PG_RETURN_ARRAYTYPE_P(construct_array(result, 2, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

#endif /* STREAMSINK_TEST */
