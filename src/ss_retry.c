/*
 * ss_retry.c
 *	  What people do with dead letters: retry, requeue, discard.
 *
 * NOTES
 *	  A dead letter is settled: the ledger is not concerned, and neither is
 *	  Redis until a requeue's command is carried out.  Everything happens in the
 *	  caller's transaction.  The lock on the pipeline's dead letters is held to
 *	  its end, so two sessions that retry the same ones do it once.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ss_deadletter.h"
#include "ss_identity.h"
#include "ss_ledger.h"
#include "ss_outbox.h"
#include "ss_write.h"

/* Ids read at a time, of all that a pipeline has. */
#define PAGE_IDS 1000

/* ... and those that somebody may ask for. */
#define MAX_PAGE_IDS 1000000

SS_SQL_FUNCTION(streamsink_retry_dead_letters);
SS_SQL_FUNCTION(streamsink_requeue_dead_letters);
SS_SQL_FUNCTION(streamsink_discard_dead_letters);
SS_SQL_FUNCTION(streamsink_discard_dead_letters_before);
SS_SQL_FUNCTION(streamsink_dead_letter_ids);

/* ---- which ones ---- */

/* The pipeline of a call, checked and locked against drop and alter; its dead letters are locked too. */
static SsPipeline *
open_pipeline(FunctionCallInfo fcinfo)
{
	SsPipeline *pipeline;
	char	   *name;
	int32		id;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of the pipeline must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	pipeline = ss_catalog_load(name, false);
	ss_identity_check(pipeline);

	/* as it is once nobody can change it any more */
	id = pipeline->id;
	ss_catalog_lock(id, AccessShareLock);
	pipeline = ss_catalog_load_by_id(id);
	if (pipeline == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" does not exist", name)));
	ss_identity_check(pipeline);
	ss_deadletter_lock(id);
	return pipeline;
}

static int
compare_ids(const void *a, const void *b)
{
	int64 x = *(const int64 *) a;
	int64 y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/* Sorted, distinct ids out of an array argument; their number is the result. */
static int64
ids_from_array(ArrayType *array, int64 **ids)
{
	int n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	int distinct = 0;
	int i;

	if (ARR_HASNULL(array) && array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("ids of dead letters must not be null")));

	*ids = palloc(Max(n, 1) * sizeof(int64));
	if (n > 0)
		memcpy(*ids, ARR_DATA_PTR(array), n * sizeof(int64));
	qsort(*ids, n, sizeof(int64), compare_ids);
	for (i = 0; i < n; i++)
	{
		if (distinct == 0 || (*ids)[i] != (*ids)[distinct - 1])
			(*ids)[distinct++] = (*ids)[i];
	}
	return distinct;
}

/* The ids that a call is about: its second argument, or all of the pipeline, which may be millions. */
typedef struct Ids
{
	int64 *ids;
	int64  n;
	int64  at;

	/* all: a page of them */
	bool  all;
	int32 pipeline;
	int64 newest; /* at the call: what comes later is left */
} Ids;

static void
begin_ids(Ids *ids, FunctionCallInfo fcinfo, const SsPipeline *pipeline)
{
	ids->at = ids->n = 0;
	ids->all = PG_NARGS() == 1;
	ids->pipeline = pipeline->id;
	if (ids->all)
	{
		ids->ids = palloc(PAGE_IDS * sizeof(int64));
		ids->newest = ss_deadletter_newest(pipeline->id);
	}
	else
		ids->n = ids_from_array(PG_GETARG_ARRAYTYPE_P(1), &ids->ids);
}

static bool
next_id(Ids *ids, int64 *id)
{
	CHECK_FOR_INTERRUPTS();
	if (ids->at == ids->n && ids->all)
	{
		int64 last = ids->n == 0 ? PG_INT64_MIN : ids->ids[ids->n - 1];

		ids->n = ss_deadletter_page(ids->pipeline, last, ids->newest, ids->ids, PAGE_IDS);
		ids->at = 0;
		ids->all = ids->n == PAGE_IDS;
	}
	if (ids->at == ids->n)
		return false;
	*id = ids->ids[ids->at++];
	return true;
}

/* Read one that belongs to the pipeline and can be used again; NULL, with a WARNING where it is there but cannot. */
static SsDeadLetter *
fetch_usable(const SsPipeline *pipeline, int64 id)
{
	SsDeadLetter *letter = ss_deadletter_fetch(id);

	if (letter == NULL || letter->pipeline != pipeline->id)
		return NULL;
	if (letter->truncated && !letter->edited)
	{
		ereport(WARNING,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("dead letter %lld of pipeline \"%s\" is left as it is", (long long) id, pipeline->name),
				 errdetail("Its entry was too large to be kept whole."),
				 errhint("Set its fields in streamsink.dead_letters first, or discard it.")));
		return NULL;
	}
	return letter;
}

/* ---- retry ---- */

typedef struct Retry
{
	SsPipeline *pipeline;
	SsTemplate *tmpl;
	SsMapping  *mapping;
	SsWriter   *writer;
	SsBatch	   *batch;
	int64	   *ids; /* of the batch's entries */
	int			capacity;
	List	   *streams; /* stand-ins of the batch, of SsStream *, in its context */
} Retry;

/* Make mapping and writer, again if something behind them changed. */
static void
prepare_writing(Retry *retry)
{
	if (retry->mapping != NULL && ss_mapping_is_valid(retry->mapping))
		return;
	if (retry->writer != NULL)
		ss_write_free(retry->writer);
	if (retry->mapping != NULL)
		ss_mapping_free(retry->mapping);
	retry->writer = NULL;
	retry->mapping = NULL;
	retry->mapping = ss_mapping_build(retry->pipeline, retry->tmpl, CurrentMemoryContext);
	retry->writer = ss_write_create(retry->pipeline, retry->mapping, CurrentMemoryContext);
	ss_write_prepare(retry->writer);
}

/* A stand-in for a stream, which gives its name and placeholders; NULL if the pipeline's template does not match it. */
static SsStream *
get_stream(Retry *retry, const char *name)
{
	SsStream *stream;
	ListCell *lc;

	foreach(lc, retry->streams)
	{
		stream = lfirst(lc);
		if (strcmp(stream->name, name) == 0)
			return stream;
	}

	stream = palloc0(sizeof(SsStream));
	stream->name = pstrdup(name);
	stream->name_len = strlen(name);
	stream->placeholders = palloc0(Max(retry->tmpl->nplaceholders, 1) * sizeof(SsSlice));
	/* a name that does not match any more harms only where placeholders come from it */
	if (!ss_template_match(retry->tmpl, stream->name, stream->name_len, stream->placeholders) &&
		retry->tmpl->nplaceholders > 0)
		return NULL;
	retry->streams = lappend(retry->streams, stream);
	return stream;
}

/* Add one dead letter to the batch, if it is there and can be used. */
static void
add_letter(Retry *retry, int64 id, SsStream **last_stream)
{
	SsDeadLetter *letter;
	SsStream	 *stream;
	MemoryContext oldcontext;

	/* fields and stream live as long as the batch */
	oldcontext = MemoryContextSwitchTo(retry->batch->cxt);
	letter = fetch_usable(retry->pipeline, id);
	stream = letter == NULL ? NULL : get_stream(retry, letter->stream);
	MemoryContextSwitchTo(oldcontext);
	if (letter == NULL)
		return;
	if (stream == NULL)
	{
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dead letter %lld of pipeline \"%s\" is left as it is", (long long) id, retry->pipeline->name),
				 errdetail("Its stream \"%s\" does not match \"%s\".", letter->stream, retry->pipeline->stream)));
		return;
	}

	if (stream != *last_stream)
		ss_batch_begin_block(retry->batch, stream, false);
	*last_stream = stream;
	ss_batch_add(retry->batch, letter->entry_id, letter->fields);
	if (retry->batch->nentries > retry->capacity)
		elog(ERROR, "a batch of dead letters has more entries than were added");
	retry->ids[retry->batch->nentries - 1] = id;
}

/* Write the batch, then delete what was written and note what was refused again.  What that needs is in the work context, and given back.  Returns how many are gone. */
static int64
retry_batch(Retry *retry, MemoryContext work)
{
	SsBatch		 *batch = retry->batch;
	MemoryContext saved;
	SsRow		 *rows;
	int64		  done = 0;
	int			  nrows;
	int			  i;

	prepare_writing(retry);
	saved = MemoryContextSwitchTo(work);
	nrows = ss_mapping_rows(retry->mapping, batch, &rows);
	ss_write_rows(retry->writer, batch, rows, nrows);

	for (i = 0; i < batch->nentries; i++)
	{
		switch (batch->entries[i].outcome)
		{
			case SS_OUTCOME_WRITTEN:
			case SS_OUTCOME_SUPERSEDED:
			case SS_OUTCOME_IGNORED:
				if (ss_deadletter_delete(retry->ids[i]))
					done++;
				break;
			default:
				break;
		}
	}
	for (i = 0; i < batch->nrefusals; i++)
		ss_deadletter_fail_again(retry->ids[batch->refusals[i].entry], &batch->refusals[i]);
	MemoryContextSwitchTo(saved);
	MemoryContextReset(work);
	return done;
}

static int64
retry_letters(SsPipeline *pipeline, Ids *ids)
{
	Retry		  retry = {0};
	SsIdentity	  identity;
	SsStream	 *last_stream = NULL;
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "streamsink retry", ALLOCSET_DEFAULT_SIZES);
	int64		  done = 0;
	int64		  id;
	bool		  more = true;

	retry.pipeline = pipeline;
	retry.tmpl = ss_template_parse_except(pipeline->stream, pipeline->dead_letter_stream);
	retry.capacity = Max(pipeline->batch_size, 1);
	retry.ids = palloc(retry.capacity * sizeof(int64));
	retry.batch = ss_batch_create(CurrentMemoryContext, 0);

	ss_write_enter(pipeline, &identity);
	while (more)
	{
		more = next_id(ids, &id);
		if (more)
			add_letter(&retry, id, &last_stream);
		if (retry.batch->nentries == retry.capacity ||
			retry.batch->bytes >= pipeline->batch_bytes ||
			(!more && retry.batch->nentries > 0))
		{
			done += retry_batch(&retry, work);
			ss_batch_reset(retry.batch);
			retry.streams = NIL;
			last_stream = NULL;
		}
	}
	if (retry.writer != NULL)
		ss_write_free(retry.writer);
	if (retry.mapping != NULL)
		ss_mapping_free(retry.mapping);
	ss_identity_leave(&identity);
	MemoryContextDelete(work);
	return done;
}

/* retry_dead_letters(name [, ids]): through mapping and writing again, as the owner; how many are gone now. */
Datum
streamsink_retry_dead_letters(PG_FUNCTION_ARGS)
{
	SsPipeline *pipeline;
	SsCounters	counters = {0};
	Ids			ids;

	/* the ledger before the dead letters, as DROP EXTENSION locks them */
	LockRelationOid(ss_catalog_relation("ledger_log", false), RowExclusiveLock);
	pipeline = open_pipeline(fcinfo);
	begin_ids(&ids, fcinfo, pipeline);
	counters.retried = retry_letters(pipeline, &ids);
	ss_ledger_append(pipeline->id, NULL, 0, &counters);
	PG_RETURN_INT64(counters.retried);
}

/* ---- requeue, discard ---- */

/* Queue an XADD of one dead letter's fields to the stream it came from. */
static void
requeue_letter(const SsPipeline *pipeline, const SsDeadLetter *letter)
{
	uint32		 nargs = letter->fields->n + 1;
	const char **args = MemoryContextAllocExtended(CurrentMemoryContext, nargs * sizeof(char *), MCXT_ALLOC_HUGE);
	size_t		*lengths = MemoryContextAllocExtended(CurrentMemoryContext, nargs * sizeof(size_t), MCXT_ALLOC_HUGE);
	uint32		 i;

	args[0] = "*";
	lengths[0] = 1;
	for (i = 1; i < nargs; i++)
	{
		args[i] = letter->fields->items[i - 1].str;
		lengths[i] = letter->fields->items[i - 1].n;
	}
	ss_outbox_add(pipeline->server, pipeline->owner, "xadd", letter->stream, pipeline->name, nargs, args, lengths);
}

/* requeue_dead_letters(name [, ids]): back to the end of their streams, after commit; how many. */
Datum
streamsink_requeue_dead_letters(PG_FUNCTION_ARGS)
{
	SsPipeline	 *pipeline = open_pipeline(fcinfo);
	Ids			  ids;
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "streamsink requeue", ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext;
	int64		  done = 0;
	int64		  id;

	begin_ids(&ids, fcinfo, pipeline);
	oldcontext = MemoryContextSwitchTo(work);
	while (next_id(&ids, &id))
	{
		SsDeadLetter *letter = fetch_usable(pipeline, id);

		if (letter != NULL && letter->fields->n == 0)
			ereport(WARNING,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("dead letter %lld of pipeline \"%s\" is left as it is", (long long) id, pipeline->name),
					 errdetail("It has no fields, and Redis takes no entry without one.")));
		else if (letter != NULL)
		{
			requeue_letter(pipeline, letter);
			if (ss_deadletter_delete(id))
				done++;
		}
		MemoryContextReset(work);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(work);
	PG_RETURN_INT64(done);
}

/* discard_dead_letters(name [, ids]): delete them; how many. */
Datum
streamsink_discard_dead_letters(PG_FUNCTION_ARGS)
{
	SsPipeline *pipeline = open_pipeline(fcinfo);
	Ids			ids;
	int64		done = 0;
	int64		id;

	begin_ids(&ids, fcinfo, pipeline);
	while (next_id(&ids, &id))
	{
		int32 owner;

		if (ss_deadletter_pipeline(id, &owner) && owner == pipeline->id && ss_deadletter_delete(id))
			done++;
	}
	PG_RETURN_INT64(done);
}

/* discard_dead_letters_before(name, before): delete those whose last failure is older; how many. */
Datum
streamsink_discard_dead_letters_before(PG_FUNCTION_ARGS)
{
	SsPipeline *pipeline = open_pipeline(fcinfo);

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("time before which dead letters are discarded must not be null")));
	PG_RETURN_INT64(ss_deadletter_delete_before(pipeline->id, PG_GETARG_TIMESTAMPTZ(1)));
}

/* dead_letter_ids(name, after, n): a page of ids, which the view with its many joins finds only by reading all. */
Datum
streamsink_dead_letter_ids(PG_FUNCTION_ARGS)
{
	SsPipeline *pipeline = ss_catalog_load(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	int			most = PG_GETARG_INT32(2);
	int64	   *ids;
	Datum	   *elements;
	int			n;

	ss_identity_check(pipeline);
	if (most < 0 || most > MAX_PAGE_IDS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for \"%s\": %d", "n", most),
				 errdetail("It must be from 0 to %d.", MAX_PAGE_IDS)));
	ids = palloc_array(int64, most + 1);
	elements = palloc_array(Datum, most + 1);
	n = ss_deadletter_page(pipeline->id, PG_GETARG_INT64(1), PG_INT64_MAX, ids, most);
	for (int i = 0; i < n; i++)
		elements[i] = Int64GetDatum(ids[i]);
	PG_RETURN_ARRAYTYPE_P(construct_array(elements, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
