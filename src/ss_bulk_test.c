/*
 * ss_bulk_test.c
 *	  Which way rows go, for SQL, compiled into test builds only.
 *
 * NOTES
 *	  The install script does not know these functions: the test declares them.
 *
 *	  apply() makes a writer for each call.  A worker keeps one, and its plans
 *	  with it, and so do hold and write.
 */
#include "postgres.h"
#include "ss_compat.h"

#ifdef STREAMSINK_TEST

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "ss_bulk.h"
#include "ss_run.h"

SS_SQL_FUNCTION(streamsink_test_bulk_rows);
SS_SQL_FUNCTION(streamsink_test_bulk_tries);
SS_SQL_FUNCTION(streamsink_test_bulk_allow);
SS_SQL_FUNCTION(streamsink_test_bulk_hold);
SS_SQL_FUNCTION(streamsink_test_bulk_write);

static SsRun *held = NULL;

/* rows that went in bulk in this session, those of tries that failed later included */
Datum
streamsink_test_bulk_rows(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) ss_bulk_rows);
}

/* times that rows were tried in bulk in this session */
Datum
streamsink_test_bulk_tries(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) ss_bulk_tries);
}

/* (allowed): may rows go in bulk from now on in this session */
Datum
streamsink_test_bulk_allow(PG_FUNCTION_ARGS)
{
	ss_bulk_allowed = PG_GETARG_BOOL(0);
	PG_RETURN_VOID();
}

/* (pipeline): write to it from now on in this session; NULL: to none */
Datum
streamsink_test_bulk_hold(PG_FUNCTION_ARGS)
{
	if (held != NULL)
		ss_run_free(held);
	held = NULL;
	if (!PG_ARGISNULL(0))
		held = ss_run_load_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), TopMemoryContext);
	PG_RETURN_VOID();
}

static void
set_string(SsReply *reply, Datum string)
{
	reply->type = SS_REPLY_STRING;
	reply->str = TextDatumGetCString(string);
	reply->n = strlen(reply->str);
}

/* A batch of one entry for each text: names and values of fields, with "|" between them. */
static SsBatch *
make_batch(SsStream *stream, ArrayType *array)
{
	SsBatch		 *batch = ss_batch_create(CurrentMemoryContext, 0);
	MemoryContext saved = MemoryContextSwitchTo(batch->cxt);
	Datum		 *texts;
	int			  n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &texts, NULL, &n);
	ss_batch_begin_block(batch, stream, false);
	for (int i = 0; i < n; i++)
	{
		ArrayType *parts = DatumGetArrayTypeP(
			DirectFunctionCall2Coll(text_to_array, C_COLLATION_OID, texts[i], CStringGetTextDatum("|")));
		SsEntryId id = {1, i + 1};
		SsReply	 *fields = palloc0_object(SsReply);
		Datum	 *strings;
		int		  nstrings;

		deconstruct_array(parts, TEXTOID, -1, false, TYPALIGN_INT, &strings, NULL, &nstrings);
		fields->type = SS_REPLY_ARRAY;
		fields->n = nstrings;
		fields->items = palloc0_array(SsReply, nstrings + 1);
		for (int j = 0; j < nstrings; j++)
			set_string(&fields->items[j], strings[j]);
		ss_batch_add(batch, id, fields);
	}
	MemoryContextSwitchTo(saved);
	return batch;
}

/* (entries text[]) returns text: how many were written, how many of them in bulk, and what was refused with which SQLSTATE */
Datum
streamsink_test_bulk_write(PG_FUNCTION_ARGS)
{
	uint64		   before = ss_bulk_rows;
	SsStream	  *stream = palloc0_object(SsStream);
	StringInfoData result;
	SsIdentity	   identity;
	SsBatch		  *batch;
	int64		   us;
	int			   written = 0;

	if (held == NULL)
		elog(ERROR, "no pipeline is held");
	(void) ss_run_name_stream(held, stream, held->tmpl->key, CurrentMemoryContext);
	batch = make_batch(stream, PG_GETARG_ARRAYTYPE_P(0));

	ss_write_enter(held->pipeline, &identity);
	ss_run_refresh(held);
	ss_run_batch(held, batch, &us, &us);
	ss_identity_leave(&identity);

	for (int i = 0; i < batch->nentries; i++)
		written += batch->entries[i].outcome == SS_OUTCOME_WRITTEN;
	initStringInfo(&result);
	appendStringInfo(&result, "%d written, " UINT64_FORMAT " in bulk", written, ss_bulk_rows - before);
	for (int i = 0; i < batch->nrefusals; i++)
		appendStringInfo(&result, ", %d: %s %s", batch->refusals[i].entry + 1,
						 unpack_sql_state(batch->refusals[i].error->sqlerrcode), batch->refusals[i].error->message);
	PG_RETURN_TEXT_P(cstring_to_text(result.data));
}

#endif /* STREAMSINK_TEST */
