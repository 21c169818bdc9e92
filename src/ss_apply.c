/*
 * ss_apply.c
 *	  apply and preview: entries through decode, mapping, writing and dead
 *	  letters in the caller's transaction, with what became of each.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"
#include "utils/timestamp.h"

#include "ss_deadletter.h"
#include "ss_identity.h"
#include "ss_peek.h"

#define REPLY_LIMIT ((Size) 512 * 1024 * 1024)
#define MAX_PREVIEW 10000

static const char *
outcome_name(SsOutcome outcome)
{
	switch (outcome)
	{
		case SS_OUTCOME_WRITTEN:
			return "written";
		case SS_OUTCOME_REFUSED:
			return "refused";
		case SS_OUTCOME_IGNORED:
			return "ignored";
		case SS_OUTCOME_REPEATED:
			return "repeated";
		case SS_OUTCOME_SUPERSEDED:
			return "superseded";
		case SS_OUTCOME_VANISHED:
			return "vanished";
		case SS_OUTCOME_NEW:
			break;
	}
	elog(ERROR, "entry was left undecided");
	return NULL;
}

/* The mapped columns of the batch's row type, without those added to it. */
static TupleDesc
shown_columns(const SsMapping *mapping, int **attnos)
{
	TupleDesc desc = ss_mapping_desc(mapping);
	int		  n = 0;
	TupleDesc shown;

	*attnos = palloc_array(int, desc->natts);
	for (int i = 0; i < desc->natts; i++)
		if (i >= ss_mapping_ncolumns(mapping) || !ss_mapping_column(mapping, i)->is_meta)
			(*attnos)[n++] = i;
	shown = CreateTemplateTupleDesc(n);
	for (int i = 0; i < n; i++)
		TupleDescCopyEntry(shown, i + 1, desc, (*attnos)[i] + 1);
	return BlessTupleDesc(shown);
}

/* A typed row as jsonb, by the server's own row_to_json. */
static Datum
row_as_jsonb(TupleDesc shown, const int *attnos, const SsRow *row)
{
	Datum	 *values = palloc_array(Datum, shown->natts + 1);
	bool	 *isnull = palloc_array(bool, shown->natts + 1);
	HeapTuple tuple;
	Datum	  json;

	for (int i = 0; i < shown->natts; i++)
	{
		values[i] = row->values[attnos[i]];
		isnull[i] = row->isnull[attnos[i]];
	}
	tuple = heap_form_tuple(shown, values, isnull);
	json = DirectFunctionCall1(row_to_json, HeapTupleGetDatum(tuple));
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(json)));
}

/* Run the batch and put one result row for each entry. */
static void
run_and_report(SsRun *run, SsBatch *batch, bool keep_dead_letters, ReturnSetInfo *rsinfo)
{
	SsRow		 *rows;
	int			  nrows;
	int			  at = 0;
	int			  refusal = 0;
	TupleDesc	  shown;
	int			 *attnos;
	MemoryContext scratch;
	MemoryContext saved;

	nrows = ss_mapping_rows(run->mapping, batch, &rows);
	if (nrows > 0)
		ss_write_rows(run->writer, batch, rows, nrows);
	if (keep_dead_letters && batch->nrefusals > 0)
		ss_deadletter_store(run->pipeline, batch);

	shown = shown_columns(run->mapping, &attnos);
	scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink results", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < batch->nentries; i++)
	{
		SsEntry *entry = &batch->entries[i];
		Datum	 values[6] = {0};
		bool	 nulls[6] = {false, false, true, false, true, true};

		saved = MemoryContextSwitchTo(scratch);
		values[0] = CStringGetTextDatum(entry->stream->name);
		values[1] = EntryIdPGetDatum(&entry->id);
		while (at < nrows && rows[at].entry < i)
			at++;
		if (at < nrows && rows[at].entry == i)
		{
			values[2] = row_as_jsonb(shown, attnos, &rows[at]);
			nulls[2] = false;
		}
		values[3] = CStringGetTextDatum(outcome_name(entry->outcome));
		while (refusal < batch->nrefusals && batch->refusals[refusal].entry < i)
			refusal++;
		if (refusal < batch->nrefusals && batch->refusals[refusal].entry == i)
		{
			const ErrorData *error = batch->refusals[refusal].error;

			values[4] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
			values[5] = CStringGetTextDatum(error->message ? error->message : "");
			nulls[4] = nulls[5] = false;
		}
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		MemoryContextSwitchTo(saved);
		MemoryContextReset(scratch);
	}
}

/* A string reply out of a jsonb scalar: strings unescaped, the rest as JSON text. */
static void
set_string(SsReply *reply, JsonbValue *value)
{
	char *text;

	memset(reply, 0, sizeof(*reply));
	reply->type = SS_REPLY_STRING;
	if (value->type == jbvString)
		text = pnstrdup(value->val.string.val, value->val.string.len);
	else
	{
		Jsonb *jsonb = JsonbValueToJsonb(value);

		text = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
	}
	text = pg_server_to_any(text, strlen(text), PG_UTF8);
	reply->str = text;
	reply->n = strlen(text);
}

/* Fields of one given entry; a member "_id" is its id, a null member is left out. */
static SsReply *
entry_fields(JsonbValue *object, SsEntryId *id)
{
	SsReply			  *fields = palloc0_object(SsReply);
	JsonbIterator	  *it;
	JsonbValue		   value;
	JsonbIteratorToken token;
	Jsonb			  *jsonb;

	if (object->type != jbvBinary || !JsonContainerIsObject(object->val.binary.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"entries\" must be an array of objects")));
	jsonb = JsonbValueToJsonb(object);
	fields->type = SS_REPLY_ARRAY;
	fields->items = palloc_array(SsReply, 2 * JB_ROOT_COUNT(jsonb) + 1);
	it = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		JsonbValue key;

		if (token != WJB_KEY)
			continue;
		key = value;
		token = JsonbIteratorNext(&it, &value, true);
		if (value.type == jbvNull)
			continue;
		if (key.val.string.len == 3 && memcmp(key.val.string.val, "_id", 3) == 0)
		{
			if (value.type != jbvString ||
				!ss_entryid_parse(value.val.string.val, value.val.string.len, id))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
						 errmsg("\"_id\" of a given entry is not an entry id")));
			continue;
		}
		set_string(&fields->items[fields->n++], &key);
		set_string(&fields->items[fields->n++], &value);
	}
	return fields;
}

static void
add_given(SsBatch *batch, SsStream *stream, Jsonb *entries)
{
	JsonbIterator	  *it;
	JsonbValue		   value;
	JsonbIteratorToken token;
	SsEntryId		   id;
	MemoryContext	   saved;

	if (!JB_ROOT_IS_ARRAY(entries) || JB_ROOT_IS_SCALAR(entries))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"entries\" must be an array of objects")));
	saved = MemoryContextSwitchTo(batch->cxt);
	id = ss_entryid_from_time(GetCurrentTimestamp());
	ss_batch_begin_block(batch, stream, false);
	it = JsonbIteratorInit(&entries->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		SsEntryId given = id;
		SsReply	 *fields;

		if (token != WJB_ELEM)
			continue;
		fields = entry_fields(&value, &given);
		ss_batch_add(batch, given, fields);
		(void) ss_entryid_next(id, &id);
	}
	MemoryContextSwitchTo(saved);
}

static SsStream *
given_stream(SsRun *run, char *name)
{
	SsStream *stream = palloc0_object(SsStream);

	if (!name && run->tmpl->nplaceholders > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the stream of the entries must be given"),
				 errdetail("The placeholders of \"%s\" are filled from it.", run->pipeline->stream)));
	if (!name)
		name = run->tmpl->single ? run->tmpl->key : run->pipeline->stream;
	else if (!ss_template_match(run->tmpl, name, strlen(name), NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream \"%s\" does not match \"%s\"", name, run->pipeline->stream)));
	(void) ss_run_name_stream(run, stream, name, CurrentMemoryContext);
	return stream;
}

static char *
name_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of a pipeline must not be null")));
	return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

/*
 * The pipeline, locked against alter and drop to the end of the transaction, as
 * batches lock it: what is being written, dead letters too, is its own.
 */
static SsRun *
open_locked(const char *name)
{
	SsRun *run = ss_run_load_by_name(name, CurrentMemoryContext);
	int32  id = run->pipeline->id;

	ss_identity_check(run->pipeline);
	ss_run_free(run);
	ss_catalog_lock(id, AccessShareLock);
	run = ss_run_load(id, CurrentMemoryContext);
	if (run == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" does not exist", name),
				 errdetail("It was dropped meanwhile.")));
	ss_identity_check(run->pipeline);
	return run;
}

SS_SQL_FUNCTION(streamsink_apply);

/* apply(name, entries, stream) setof outcome */
Datum
streamsink_apply(PG_FUNCTION_ARGS)
{
	char	  *name = name_argument(fcinfo);
	SsIdentity identity;
	SsRun	  *run;
	SsBatch	  *batch;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"entries\" must not be null")));
	InitMaterializedSRF(fcinfo, 0);
	run = open_locked(name);
	batch = ss_batch_create(CurrentMemoryContext, 0);
	add_given(batch, given_stream(run, PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2))),
			  PG_GETARG_JSONB_P(1));

	ss_write_enter(run->pipeline, &identity);
	ss_run_refresh(run);
	run_and_report(run, batch, run->pipeline->on_error == SS_ON_ERROR_DEAD_LETTER,
				   (ReturnSetInfo *) fcinfo->resultinfo);
	ss_identity_leave(&identity);
	ss_run_free(run);
	return (Datum) 0;
}

/* The next entries of the group, or of where it would begin, into the batch. */
static void
peek_entries(SsRedis *redis, SsRun *run, SsBatch *batch, int n)
{
	List	 *streams = ss_peek_streams(redis, run, 0);
	ListCell *cell;

	foreach(cell, streams)
	{
		SsStream	 *stream = lfirst(cell);
		SsStreamState state;
		SsGroupInfo	  group;
		SsEntryId	  after = SS_ENTRYID_MIN;

		CHECK_FOR_INTERRUPTS();
		if (batch->nentries >= n)
			break;
		ss_stream_append_groups(redis, stream);
		if (!ss_stream_parse_groups(ss_peek_reply(redis, REPLY_LIMIT), run->pipeline->consumer_group, &group, &state))
			continue;
		if (group.exists)
			after = group.last_delivered;
		else
			(void) ss_entryid_parse(run->pipeline->start_from, strlen(run->pipeline->start_from), &after);
		ss_stream_append_range(redis, stream, after, n - batch->nentries);
		(void) ss_stream_parse_range(ss_redis_receive(redis, &batch->arena, 0, PG_WAIT_EXTENSION), stream, batch);
	}
}

SS_SQL_FUNCTION(streamsink_preview);

/* preview(name, n) setof outcome: nothing is consumed, nothing is kept */
Datum
streamsink_preview(PG_FUNCTION_ARGS)
{
	char		 *name = name_argument(fcinfo);
	int			  n = PG_ARGISNULL(1) ? 10 : PG_GETARG_INT32(1);
	MemoryContext outer = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	SsIdentity	  identity;
	SsRun		 *run;
	SsBatch		 *batch;
	SsRedis		 *redis;

	if (n < 0 || n > MAX_PREVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"n\" must be between 0 and %d", MAX_PREVIEW)));
	InitMaterializedSRF(fcinfo, 0);
	run = ss_run_load_by_name(name, outer);
	ss_identity_check(run->pipeline);
	redis = ss_peek_connect(run->pipeline, outer);
	batch = ss_batch_create(outer, REPLY_LIMIT);
	peek_entries(redis, run, batch, n);
	ss_redis_close(redis);

	/* All that the entries do is undone; who catches an error out of it must not find our subtransaction open. */
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(outer);
	PG_TRY();
	{
		ss_write_enter(run->pipeline, &identity);
		ss_run_refresh(run);
		run_and_report(run, batch, false, (ReturnSetInfo *) fcinfo->resultinfo);
		ss_identity_leave(&identity);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(outer);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(outer);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(outer);
	CurrentResourceOwner = owner;
	ss_run_free(run);
	return (Datum) 0;
}
