/*
 * ss_ledger_test.c
 *	  The ledger's verbs for SQL, compiled into test builds only.
 *
 * NOTES
 *	  The install script does not know these functions: the test declares them.
 */
#include "postgres.h"
#include "ss_compat.h"

#ifdef STREAMSINK_TEST

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "ss_ledger.h"
#include "ss_ledgerrow.h"

SS_SQL_FUNCTION(streamsink_test_ledger_append);
SS_SQL_FUNCTION(streamsink_test_ledger_replace);
SS_SQL_FUNCTION(streamsink_test_ledger_fold);
SS_SQL_FUNCTION(streamsink_test_ledger_delete_all);
SS_SQL_FUNCTION(streamsink_test_ledger_intervals);
SS_SQL_FUNCTION(streamsink_test_ledger_contains);
SS_SQL_FUNCTION(streamsink_test_ledger_high);
SS_SQL_FUNCTION(streamsink_test_ledger_highs);
SS_SQL_FUNCTION(streamsink_test_ledger_segment);
SS_SQL_FUNCTION(streamsink_test_ledger_above);
SS_SQL_FUNCTION(streamsink_test_ledger_folded);
SS_SQL_FUNCTION(streamsink_test_ledger_join);
SS_SQL_FUNCTION(streamsink_test_ledger_join_kinds);
SS_SQL_FUNCTION(streamsink_test_ledger_newest);
SS_SQL_FUNCTION(streamsink_test_ledger_prune);

static Datum *
get_array(ArrayType *array, int *n)
{
	Datum *members;

	if (ARR_ELEMTYPE(array) == INT4OID)
		deconstruct_array(array, INT4OID, 4, true, TYPALIGN_INT, &members, NULL, n);
	else if (ARR_ELEMTYPE(array) == INT8OID)
		deconstruct_array(array, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &members, NULL, n);
	else
		deconstruct_array(array, ss_entryid_type(), sizeof(SsEntryId), false, TYPALIGN_DOUBLE, &members, NULL, n);
	return members;
}

/* Arguments at first_arg: streams int4[], first entry_id[], last entry_id[], hash int8[]; all of one length. */
static SsInterval *
get_intervals(FunctionCallInfo fcinfo, int first_arg, int *n)
{
	Datum	   *members[4];
	SsInterval *intervals;

	for (int i = 0; i < 4; i++)
	{
		int length;

		members[i] = get_array(PG_GETARG_ARRAYTYPE_P(first_arg + i), &length);
		if (i > 0 && length != *n)
			elog(ERROR, "arrays of different lengths");
		*n = length;
	}

	intervals = palloc0(Max(*n, 1) * sizeof(SsInterval));
	for (int i = 0; i < *n; i++)
	{
		intervals[i].stream = DatumGetInt32(members[0][i]);
		intervals[i].first = *DatumGetEntryIdP(members[1][i]);
		intervals[i].last = *DatumGetEntryIdP(members[2][i]);
		intervals[i].hash = (uint64) DatumGetInt64(members[3][i]);
		intervals[i].settled_at = GetCurrentTimestamp();
	}
	return intervals;
}

/* (pipeline, streams, first, last, hash) */
Datum
streamsink_test_ledger_append(PG_FUNCTION_ARGS)
{
	int			n;
	SsInterval *intervals = get_intervals(fcinfo, 1, &n);

	ss_ledger_append(PG_GETARG_INT32(0), intervals, n, NULL);
	PG_RETURN_VOID();
}

/* (pipeline, stream, streams, first, last, hash) */
Datum
streamsink_test_ledger_replace(PG_FUNCTION_ARGS)
{
	int			n;
	SsInterval *intervals = get_intervals(fcinfo, 2, &n);

	ss_ledger_lock_wait(PG_GETARG_INT32(0));
	ss_ledger_replace(PG_GETARG_INT32(0), PG_GETARG_INT32(1), intervals, n);
	PG_RETURN_VOID();
}

/* (pipeline, max_rows) */
Datum
streamsink_test_ledger_fold(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ss_ledger_fold(PG_GETARG_INT32(0), PG_GETARG_INT32(1), 0, NULL));
}

/* (pipeline) */
Datum
streamsink_test_ledger_delete_all(PG_FUNCTION_ARGS)
{
	ss_ledger_delete_all(PG_GETARG_INT32(0));
	PG_RETURN_VOID();
}

static void
put_intervals(FunctionCallInfo fcinfo, const SsInterval *intervals, int n)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
	{
		Datum	  values[4];
		bool	  nulls[4] = {false};
		SsEntryId first = intervals[i].first;
		SsEntryId last = intervals[i].last;

		values[0] = EntryIdPGetDatum(&first);
		values[1] = EntryIdPGetDatum(&last);
		values[2] = Int64GetDatum((int64) intervals[i].hash);
		values[3] = TimestampTzGetDatum(intervals[i].settled_at);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* (pipeline, stream, only) returns setof (first, last, hash, settled_at); without only, all streams are loaded */
Datum
streamsink_test_ledger_intervals(PG_FUNCTION_ARGS)
{
	int32			  stream = PG_GETARG_INT32(1);
	bool			  only = PG_GETARG_BOOL(2);
	SsSettled		 *settled = ss_ledger_load(PG_GETARG_INT32(0), only ? &stream : NULL, only ? 1 : 0);
	const SsInterval *intervals;
	int				  n = ss_ledger_intervals(settled, stream, &intervals);

	put_intervals(fcinfo, intervals, n);
	return (Datum) 0;
}

/* (pipeline, stream, low) returns setof (first, last, hash, settled_at): what is loaded from low on */
Datum
streamsink_test_ledger_above(PG_FUNCTION_ARGS)
{
	int32			  streams[2] = {PG_GETARG_INT32(1), PG_GETARG_INT32(1)};
	SsEntryId		  lows[2] = {SS_ENTRYID_MAX, *PG_GETARG_ENTRYID_P(2)};
	SsSettled		 *settled = ss_ledger_load_above(PG_GETARG_INT32(0), streams, 2, lows);
	const SsInterval *intervals;
	int				  n = ss_ledger_intervals(settled, streams[0], &intervals);
	SsEntryId		  below;

	if (!ss_ledger_contains(settled, streams[0], lows[1]) && n > 0 &&
		ss_entryid_compare(intervals[0].first, lows[1]) <= 0 && ss_entryid_compare(intervals[0].last, lows[1]) >= 0)
		elog(ERROR, "contains denies what was loaded");
	if (ss_entryid_previous(lows[1], &below))
	{
		volatile bool thrown = false;
		MemoryContext cxt = CurrentMemoryContext;

		PG_TRY();
		{
			(void) ss_ledger_contains(settled, streams[0], below);
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(cxt);
			FlushErrorState();
			thrown = true;
		}
		PG_END_TRY();
		if (!thrown)
			elog(ERROR, "contains knows what was not loaded");
	}
	put_intervals(fcinfo, intervals, n);
	return (Datum) 0;
}

/* (stream, from, max) returns setof (first, last, hash, settled_at); a last row of nulls says that others follow */
Datum
streamsink_test_ledger_folded(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SsInterval	  *intervals;
	bool		   more;
	int			   n = ss_ledger_folded(PG_GETARG_INT32(0), *PG_GETARG_ENTRYID_P(1), PG_GETARG_INT32(2), &intervals, &more);

	put_intervals(fcinfo, intervals, n);
	if (more)
	{
		Datum values[4] = {0};
		bool  nulls[4] = {true, true, true, true};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* (pipeline, stream, before, after, empty): of gaps with these ends; returns how many were joined */
Datum
streamsink_test_ledger_join(PG_FUNCTION_ARGS)
{
	int	   n;
	int	   nafter;
	Datum *before = get_array(PG_GETARG_ARRAYTYPE_P(2), &n);
	Datum *after = get_array(PG_GETARG_ARRAYTYPE_P(3), &nafter);
	Datum *empty;
	int	   nempty;
	SsGap *gaps = palloc0(Max(n, 1) * sizeof(SsGap));

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(4), BOOLOID, 1, true, TYPALIGN_CHAR, &empty, NULL, &nempty);
	if (nafter != n || nempty != n)
		elog(ERROR, "arrays of different lengths");
	for (int i = 0; i < n; i++)
	{
		gaps[i].before = *DatumGetEntryIdP(before[i]);
		gaps[i].after = *DatumGetEntryIdP(after[i]);
		gaps[i].kind = DatumGetBool(empty[i]) ? SS_GAP_EMPTY : SS_GAP_KEPT;
	}
	ss_ledger_lock_wait(PG_GETARG_INT32(0));
	PG_RETURN_INT32(ss_ledger_join(PG_GETARG_INT32(0), PG_GETARG_INT32(1), gaps, n, NULL));
}

/* (pipeline, stream, before, after, kind int4[]): of gaps with these ends; returns how many of each kind were joined */
Datum
streamsink_test_ledger_join_kinds(PG_FUNCTION_ARGS)
{
	int	   n;
	int	   nafter;
	int	   nkind;
	Datum *before = get_array(PG_GETARG_ARRAYTYPE_P(2), &n);
	Datum *after = get_array(PG_GETARG_ARRAYTYPE_P(3), &nafter);
	Datum *kind = get_array(PG_GETARG_ARRAYTYPE_P(4), &nkind);
	SsGap *gaps = palloc0(Max(n, 1) * sizeof(SsGap));
	int64  counts[SS_GAP_KINDS] = {0};
	Datum  result[SS_GAP_KINDS];

	if (nafter != n || nkind != n)
		elog(ERROR, "arrays of different lengths");
	for (int i = 0; i < n; i++)
	{
		gaps[i].before = *DatumGetEntryIdP(before[i]);
		gaps[i].after = *DatumGetEntryIdP(after[i]);
		gaps[i].kind = (SsGapKind) DatumGetInt32(kind[i]);
	}
	ss_ledger_lock_wait(PG_GETARG_INT32(0));
	(void) ss_ledger_join(PG_GETARG_INT32(0), PG_GETARG_INT32(1), gaps, n, counts);
	for (int i = 0; i < SS_GAP_KINDS; i++)
		result[i] = Int64GetDatum(counts[i]);
	PG_RETURN_ARRAYTYPE_P(construct_array(result, SS_GAP_KINDS, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* (stream, n): where the newest n intervals begin */
Datum
streamsink_test_ledger_newest(PG_FUNCTION_ARGS)
{
	SsEntryId *id = palloc_object(SsEntryId);

	*id = ss_ledger_newest(PG_GETARG_INT32(0), PG_GETARG_INT32(1));
	return EntryIdPGetDatum(id);
}

/* (pipeline, stream, begin, last, before, max): returns how many were forgotten */
Datum
streamsink_test_ledger_prune(PG_FUNCTION_ARGS)
{
	ss_ledger_lock_wait(PG_GETARG_INT32(0));
	PG_RETURN_INT32(ss_ledger_prune(PG_GETARG_INT32(0), PG_GETARG_INT32(1), *PG_GETARG_ENTRYID_P(2),
									*PG_GETARG_ENTRYID_P(3), PG_GETARG_TIMESTAMPTZ(4), PG_GETARG_INT32(5)));
}

/* (size): intervals in a segment from now on in this session */
Datum
streamsink_test_ledger_segment(PG_FUNCTION_ARGS)
{
	ss_ledgerrow_segment = PG_GETARG_INT32(0);
	PG_RETURN_VOID();
}

/* (pipeline, stream, id, loaded): asks for stream after loading the stream loaded only */
Datum
streamsink_test_ledger_contains(PG_FUNCTION_ARGS)
{
	int32	   loaded = PG_GETARG_INT32(3);
	SsSettled *settled = ss_ledger_load(PG_GETARG_INT32(0), &loaded, 1);

	PG_RETURN_BOOL(ss_ledger_contains(settled, PG_GETARG_INT32(1), *PG_GETARG_ENTRYID_P(2)));
}

/* (pipeline, stream): the highest id and its hash as text */
Datum
streamsink_test_ledger_high(PG_FUNCTION_ARGS)
{
	int32	   stream = PG_GETARG_INT32(1);
	SsSettled *settled = ss_ledger_load(PG_GETARG_INT32(0), &stream, 1);
	SsEntryId  high;
	uint64	   hash;
	char	   buf[SS_ENTRYID_MAXLEN];

	if (!ss_ledger_high(settled, stream, &high, &hash))
		PG_RETURN_NULL();
	ss_entryid_print(high, buf);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s " INT64_FORMAT, buf, (int64) hash)));
}

/* (pipeline, streams) returns entry_id[] */
Datum
streamsink_test_ledger_highs(PG_FUNCTION_ARGS)
{
	int		   n;
	Datum	  *members = get_array(PG_GETARG_ARRAYTYPE_P(1), &n);
	int32	  *streams = palloc(Max(n, 1) * sizeof(int32));
	SsEntryId *highs = palloc(Max(n, 1) * sizeof(SsEntryId));

	for (int i = 0; i < n; i++)
		streams[i] = DatumGetInt32(members[i]);
	ss_ledger_highs(PG_GETARG_INT32(0), streams, n, highs, NULL);
	for (int i = 0; i < n; i++)
		members[i] = EntryIdPGetDatum(&highs[i]);
	PG_RETURN_ARRAYTYPE_P(construct_array(members, n, ss_entryid_type(), sizeof(SsEntryId), false, TYPALIGN_DOUBLE));
}

#endif /* STREAMSINK_TEST */
