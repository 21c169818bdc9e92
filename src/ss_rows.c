/*
 * ss_rows.c
 *	  Entries to typed rows: the hot loop of a mapping.
 *
 * NOTES
 *	  Rows run in one subtransaction until an error; it is rolled back, the
 *	  entry refused, and the next one begins behind it.  A caught error without
 *	  a rollback would not be safe: domains, enums and regclass read catalogs.
 *
 *	  A default whose function may write, such as one that keeps a count, ends
 *	  the subtransaction with its row: a later row's error must not take back
 *	  what stands behind a value that is kept.
 *
 *	  Whatever a row keeps is in the batch's context; what input functions leave
 *	  behind is in a scratch context that every row empties.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "ss_convert.h"
#include "ss_error.h"

#define PAUSE_ENTRIES 128 /* converted between two moments for the connection */

static void
report_context(void *arg)
{
	SsConvert *convert = arg;
	char	   id[SS_ENTRYID_MAXLEN];

	if (convert->entry == NULL)
		return;
	ss_entryid_print(convert->entry->id, id);
	if (convert->in_payload)
		errcontext("payload field \"%s\" of entry %s of stream \"%s\"",
				   convert->mapping->members.names[convert->mapping->payload], id, convert->entry->stream->name);
	else if (convert->column)
		errcontext("column \"%s\" of entry %s of stream \"%s\"",
				   convert->column->pub.name, id, convert->entry->stream->name);
	else
		errcontext("entry %s of stream \"%s\"", id, convert->entry->stream->name);
}

/* ---- entries ---- */

static void refuse_truncated(SsConvert *convert) pg_attribute_noreturn();

static void
refuse_truncated(SsConvert *convert)
{
	const SsEntry *entry = convert->entry;

	for (uint32 i = 0; i < entry->nfields * 2; i++)
	{
		const SsReply *item = &entry->fields[i];

		if (!item->truncated)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("entry is larger than max_entry_bytes"),
				 i % 2 == 0 ?
					 errdetail("The name of a field has " UINT64_FORMAT " bytes, max_entry_bytes is " INT64_FORMAT ".",
							   item->full_len, convert->mapping->max_entry_bytes) :
					 errdetail("Field \"%s\" has " UINT64_FORMAT " bytes, max_entry_bytes is " INT64_FORMAT ".",
							   ss_reply_printable(item[-1].str, item[-1].n, NAMEDATALEN),
							   item->full_len, convert->mapping->max_entry_bytes)));
	}
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("entry is larger than max_entry_bytes"),
			 errdetail("The entry has %u bytes, max_entry_bytes is " INT64_FORMAT ".",
					   entry->bytes, convert->mapping->max_entry_bytes)));
}

static void
keep_left(SsConvert *convert, uint32 number)
{
	if (convert->nleft == convert->left_capacity)
	{
		Size size;

		convert->left_capacity = Max(64, convert->left_capacity * 2);
		size = convert->left_capacity * sizeof(uint32);
		convert->left = convert->left ? repalloc_huge(convert->left, size) :
										MemoryContextAlloc(convert->batch->cxt, size);
	}
	convert->left[convert->nleft++] = number;
}

/* The members of the payload, behind the entry's own fields. */
static void
find_members(SsConvert *convert)
{
	SsMapping *mapping = convert->mapping;
	SsFound	  *payload = &convert->found[mapping->payload];
	char	  *json;
	size_t	   len;
	uint32	   fields_stamp = convert->stamp;

	if (payload->stamp != convert->stamp)
		return;

	convert->in_payload = true;
	json = ss_decode_text(payload->value, payload->len);
	len = json == payload->value ? payload->len : strlen(json);
	convert->nmembers = ss_decode_payload(json, len, &convert->members);
	convert->in_payload = false;

	for (int i = 0; i < convert->nmembers; i++)
	{
		SsField *member = &convert->members[i];
		int		 name = ss_names_find(&mapping->members, i, member->name, member->name_len);
		SsFound *found;

		if (name < 0)
		{
			mapping->met_unknown = true;
			continue;
		}
		found = &convert->found[name];
		if (found->stamp != fields_stamp)
		{
			found->stamp = fields_stamp;
			found->kind = member->kind;
			found->value = member->value;
			found->len = member->value_len;
		}
		member->name = NULL;
	}
}

/* Find the fields that columns take. */
static void
find_fields(SsConvert *convert)
{
	SsMapping	  *mapping = convert->mapping;
	const SsReply *item = convert->entry->fields;
	uint32		   nfields = convert->entry->nfields;
	bool		   keep = mapping->rest >= 0;

	convert->nleft = 0;
	convert->nmembers = 0;
	for (uint32 i = 0; i < nfields; i++, item += 2)
	{
		int name = ss_names_find(&mapping->raw, i, item[0].str, item[0].n);

		if (name >= 0)
		{
			SsFound *found = &convert->found[name];

			found->stamp = convert->stamp;
			found->kind = SS_FIELD_TEXT;
			found->value = item[1].str;
			found->len = item[1].n;
			found->headroom = item[1].headroom;
		}
		else
		{
			mapping->met_unknown = true;
			if (keep)
				keep_left(convert, i);
		}
	}
	if (mapping->payload >= 0)
		find_members(convert);
}

/* Forget what was computed for the last entry's stream. */
static void
change_stream(SsConvert *convert)
{
	const SsStream *stream = convert->entry->stream;
	MemoryContext	old = MemoryContextSwitchTo(convert->batch->cxt);

	convert->stream_text = PointerGetDatum(cstring_to_text_with_len(stream->name, stream->name_len));
	memset(convert->constant_known, 0, convert->mapping->ncolumns * sizeof(bool));
	convert->stream = stream;
	MemoryContextSwitchTo(old);
}

/* The columns with a value as a set; entries alike share one. */
static Bitmapset *
present_set(SsConvert *convert)
{
	Size		  size = convert->present_words * sizeof(uint64);
	MemoryContext old;

	if (convert->last_set != NULL && memcmp(convert->present, convert->last_present, size) == 0)
		return convert->last_set;

	old = MemoryContextSwitchTo(convert->batch->cxt);
	convert->last_set = NULL;
	for (int i = 0; i < convert->mapping->ncolumns; i++)
	{
		if (convert->present[i / 64] & (UINT64CONST(1) << (i % 64)))
			convert->last_set = bms_add_member(convert->last_set, i);
	}
	memcpy(convert->last_present, convert->present, size);
	MemoryContextSwitchTo(old);
	return convert->last_set;
}

/* One entry to one row.  False: the error is in convert->error. */
static bool
convert_entry(SsConvert *convert)
{
	SsMapping *mapping = convert->mapping;
	int		   ncolumns = mapping->ncolumns;
	SsRow	  *row = &convert->rows[convert->nrows];
	Datum	  *values = convert->values + (Size) convert->nrows * ncolumns;
	bool	  *isnull = convert->isnull + (Size) convert->nrows * ncolumns;

	if (convert->entry->truncated)
		refuse_truncated(convert);
	if (convert->entry->stream != convert->stream)
		change_stream(convert);

	convert->stamp++;
	convert->nmissing = 0;
	find_fields(convert);

	if (mapping->track_present)
		memset(convert->present, 0, convert->present_words * sizeof(uint64));
	for (int i = 0; i < ncolumns; i++)
	{
		SsColumn *column = &mapping->columns[i];
		bool	  present;

		convert->column = column;
		if (!ss_convert_column(convert, column, &values[i], &isnull[i], &present))
			return false;
		if (present && mapping->track_present && column->pub.insert)
			convert->present[i / 64] |= UINT64CONST(1) << (i % 64);
	}
	for (int i = 0; i < convert->nmissing; i++)
	{
		int missing = convert->missing[i];

		convert->column = &mapping->columns[missing];
		if (!ss_convert_missing(convert, convert->column, &values[missing], &isnull[missing]))
			return false;
	}
	convert->column = NULL;

	row->entry = convert->at;
	row->values = values;
	row->isnull = isnull;
	row->present = mapping->track_present ? present_set(convert) : NULL;
	convert->nrows++;
	return true;
}

/* ---- errors ---- */

/* Say in the error where it happened, as far as it does not itself. */
static void
complete_error(SsConvert *convert, ErrorData *error)
{
	SsMapping *mapping = convert->mapping;
	SsColumn  *column = convert->column;

	if (convert->in_payload)
	{
		const char *name = mapping->members.names[mapping->payload];

		error->detail = error->detail ? psprintf("Field \"%s\": %s", name, error->detail) :
										psprintf("It is in field \"%s\".", name);
		return;
	}
	if (column == NULL)
		return;

	if (error->column_name == NULL)
		error->column_name = unconstify(char *, column->pub.name);
	if (error->table_name == NULL && mapping->relname != NULL)
	{
		error->schema_name = mapping->nspname;
		error->table_name = mapping->relname;
	}
	if (error->detail == NULL && column->name >= 0 &&
		strcmp(mapping->members.names[column->name], column->pub.name) != 0)
		error->detail = psprintf("The value is that of field \"%s\".", mapping->members.names[column->name]);
}

/*
 * The stage that the entry is refused with, or NULL if it is not its fault.  A
 * cancel never is; our deadline, and a want of memory, only if the entry was
 * alone: other rows may have caused it.  A worker then tries fewer at a time.
 */
static const char *
refusal_stage(SsConvert *convert, const ErrorData *error)
{
	int		   category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	SsDecision decision;

	if (category == ERRCODE_OPERATOR_INTERVENTION)
		return convert->alone && ss_error_deadline_passed() ? "decode" : NULL;
	/* an escape such as \u00e4 in JSON, where no encoding could take it */
	if (error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED && GetDatabaseEncoding() == PG_SQL_ASCII)
		return "decode";
	decision = ss_error_decide(error->sqlerrcode, convert->alone || category != ERRCODE_INSUFFICIENT_RESOURCES);
	if (decision == SS_ERROR_RETRY && convert->batch->final && ss_error_counts(error->sqlerrcode))
		return "retries";
	return decision == SS_ERROR_REFUSE ? "decode" : NULL;
}

/* Convert from convert->at on; ends behind the last entry, behind one whose defaults had effects, or by an error. */
static void
convert_run(SsConvert *convert)
{
	SsBatch *batch = convert->batch;

	for (; convert->at < batch->nentries; convert->at++)
	{
		SsEntry *entry = &batch->entries[convert->at];

		if (entry->outcome != SS_OUTCOME_NEW || entry->fields == NULL)
			continue;
		CHECK_FOR_INTERRUPTS();
		if (convert->at % PAUSE_ENTRIES == 0)
			ss_batch_pause(batch);
		convert->entry = entry;
		if (!convert_entry(convert))
		{
			const char *stage = refusal_stage(convert, convert->error);

			convert->error->elevel = ERROR;
			if (stage == NULL)
				ThrowErrorData(convert->error);
			complete_error(convert, convert->error);
			ss_batch_refuse(batch, convert->at, stage, convert->error);
			convert->column = NULL;
		}
		MemoryContextReset(convert->scratch);
		if (convert->defaults.effects)
		{
			convert->at++;
			break;
		}
	}
	convert->entry = NULL;
	convert->defaults.effects = false;
}

/* Call convert_run in a subtransaction; refuse the entry that made it fail. */
static void
convert_guarded(SsConvert *convert)
{
	MemoryContext old_cxt = CurrentMemoryContext;
	ResourceOwner old_owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(convert->scratch);
	PG_TRY();
	{
		convert_run(convert);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(old_cxt);
		CurrentResourceOwner = old_owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;
		const char *stage;

		MemoryContextSwitchTo(convert->scratch);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = old_owner;

		ss_default_release(convert->mapping, &convert->defaults, true);
		if (convert->column != NULL)
			ss_convert_reset(convert->column);
		MemoryContextSwitchTo(convert->scratch);
		complete_error(convert, error);
		stage = convert->entry == NULL ? NULL : refusal_stage(convert, error);
		if (stage == NULL)
		{
			MemoryContextSwitchTo(old_cxt);
			ReThrowError(error);
		}
		ss_error_next_try();

		/* before it, others used up the time: once more */
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && !convert->fresh)
			convert->fresh = true;
		else
		{
			if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
				error->message = pstrdup("the entry alone took longer than a batch may take");
			ss_batch_refuse(convert->batch, convert->at, stage, error);
			convert->at++;
		}
		convert->column = NULL;
		convert->in_payload = false;
		MemoryContextReset(convert->scratch);
		MemoryContextSwitchTo(old_cxt);
	}
	PG_END_TRY();
}

/* ---- batches ---- */

static SsConvert *
begin_convert(SsMapping *mapping, SsBatch *batch, int nentries)
{
	MemoryContext old = MemoryContextSwitchTo(batch->cxt);
	SsConvert	 *convert = palloc0(sizeof(SsConvert));
	int			  ncolumns = mapping->ncolumns;

	convert->mapping = mapping;
	convert->batch = batch;
	convert->alone = (nentries == 1);
	convert->scratch = AllocSetContextCreate(batch->cxt, "streamsink row",
											 0, 32 * 1024, ALLOCSET_DEFAULT_MAXSIZE);
	convert->rows = palloc_extended(nentries * sizeof(SsRow), MCXT_ALLOC_HUGE);
	convert->values = palloc_extended((Size) nentries * ncolumns * sizeof(Datum), MCXT_ALLOC_HUGE);
	convert->isnull = palloc_extended((Size) nentries * ncolumns * sizeof(bool), MCXT_ALLOC_HUGE);
	convert->ids = palloc_extended(nentries * sizeof(SsEntryId), MCXT_ALLOC_HUGE);
	convert->found = palloc0((mapping->raw.nnames + 1) * sizeof(SsFound));
	convert->constants = palloc(ncolumns * sizeof(Datum));
	convert->constant_known = palloc0(ncolumns * sizeof(bool));
	convert->missing = palloc(ncolumns * sizeof(int));
	convert->present_words = (ncolumns + 63) / 64;
	convert->present = palloc(convert->present_words * sizeof(uint64));
	convert->last_present = palloc(convert->present_words * sizeof(uint64));
	MemoryContextSwitchTo(old);
	return convert;
}

int
ss_mapping_rows(SsMapping *mapping, SsBatch *batch, SsRow **rows)
{
	ErrorContextCallback callback;
	SsConvert			*convert;
	int					 nentries = 0;

	*rows = NULL;
	mapping->met_unknown = false;
	for (int i = 0; i < batch->nentries; i++)
	{
		if (batch->entries[i].outcome == SS_OUTCOME_NEW && batch->entries[i].fields != NULL)
			nentries++;
	}
	if (nentries == 0)
		return 0;

	/* nothing that functions keep crosses from one transaction to another */
	ss_default_begin(mapping);
	for (int i = 0; i < mapping->ncolumns; i++)
		ss_convert_reset(&mapping->columns[i]);
	convert = begin_convert(mapping, batch, nentries);
	callback.callback = report_context;
	callback.arg = convert;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	PushActiveSnapshot(GetTransactionSnapshot());

	while (convert->at < batch->nentries)
		convert_guarded(convert);

	PopActiveSnapshot();
	error_context_stack = callback.previous;
	ss_default_release(mapping, &convert->defaults, false);
	MemoryContextDelete(convert->scratch);

	*rows = convert->rows;
	return convert->nrows;
}
