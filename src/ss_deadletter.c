/*
 * ss_deadletter.c
 *	  Dead letters: the entries that were refused, every byte, with the reason.
 *
 * NOTES
 *	  Catalog snapshots are used to read, also of tables that are no catalogs:
 *	  they are taken anew for each scan, so what was committed while we waited
 *	  for the lock is seen, whatever the transaction's isolation level.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "ss_announce.h"
#include "ss_deadletter.h"
#include "ss_deadletterrow.h"
#include "ss_fault.h"
#include "ss_guc.h"
#include "ss_rawfields.h"

/* However long nobody removes one, a pipeline's dead letters are counted again after this time. */
#define RECOUNT_MS 60000

/* Bytes kept of a message. */
#define MAX_MESSAGE_BYTES 8192

/* ---- adding ---- */

/* A message as it is kept: cut at a character, never NULL. */
static Datum
message_datum(const char *message)
{
	int len;

	if (message == NULL)
		message = "";
	len = strlen(message);
	if (len > MAX_MESSAGE_BYTES)
		len = pg_mbcliplen(message, len, MAX_MESSAGE_BYTES);
	return PointerGetDatum(cstring_to_text_with_len(message, len));
}

static void
set_optional_text(Datum *values, bool *nulls, int column, const char *text)
{
	nulls[column - 1] = text == NULL;
	values[column - 1] = text == NULL ? (Datum) 0 : message_datum(text);
}

/* Set the columns that say why and when. */
static void
set_reason(Datum *values, bool *nulls, const SsRefusal *refusal, TimestampTz now)
{
	const ErrorData *error = refusal->error;

	values[LETTER_stage - 1] = CStringGetTextDatum(refusal->stage);
	values[LETTER_sqlstate - 1] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	values[LETTER_error - 1] = message_datum(error->message);
	set_optional_text(values, nulls, LETTER_detail, error->detail);
	set_optional_text(values, nulls, LETTER_table_name, error->table_name);
	set_optional_text(values, nulls, LETTER_column_name, error->column_name);
	set_optional_text(values, nulls, LETTER_constraint_name, error->constraint_name);
	values[LETTER_failed_at - 1] = TimestampTzGetDatum(now);
}

static void
insert_attempt(Relation attempts, CatalogIndexState indexes, int64 id, int32 attempt,
			   const SsRefusal *refusal, TimestampTz now)
{
	Datum values[ATTEMPT_NCOLUMNS];
	bool  nulls[ATTEMPT_NCOLUMNS] = {0};

	values[ATTEMPT_dead_letter - 1] = Int64GetDatum(id);
	values[ATTEMPT_attempt - 1] = Int32GetDatum(attempt);
	values[ATTEMPT_failed_at - 1] = TimestampTzGetDatum(now);
	values[ATTEMPT_stage - 1] = CStringGetTextDatum(refusal->stage);
	values[ATTEMPT_sqlstate - 1] = CStringGetTextDatum(unpack_sql_state(refusal->error->sqlerrcode));
	values[ATTEMPT_error - 1] = message_datum(refusal->error->message);
	CatalogTupleInsertWithInfo(attempts, heap_form_tuple(RelationGetDescr(attempts), values, nulls), indexes);
}

/* The error's detail, behind a word about what of the entry is not kept. */
static const char *
letter_detail(const SsEntry *entry, const SsRefusal *refusal, bool cut)
{
	const char *detail = refusal->error->detail;

	if (!cut)
		return detail;
	if (detail == NULL)
		return ss_rawfields_describe_cut(entry);
	return psprintf("%s %s", ss_rawfields_describe_cut(entry), detail);
}

/* *detail gets the detail of the error as it is stored, or NULL. */
static HeapTuple
form_letter(Relation letters, int64 id, const SsPipeline *pipeline, const SsEntry *entry,
			const SsRefusal *refusal, TimestampTz now, const char **detail)
{
	Datum	  values[LETTER_NCOLUMNS] = {0};
	bool	  nulls[LETTER_NCOLUMNS] = {0};
	SsEntryId entry_id = entry->id;
	int		  cut;

	values[LETTER_id - 1] = Int64GetDatum(id);
	values[LETTER_pipeline - 1] = Int32GetDatum(pipeline->id);
	values[LETTER_stream - 1] = CStringGetTextDatum(entry->stream->name);
	values[LETTER_entry_id - 1] = EntryIdPGetDatum(&entry_id);
	values[LETTER_raw - 1] = PointerGetDatum(ss_rawfields_from_entry(entry, &cut));
	nulls[LETTER_edited - 1] = true;
	set_reason(values, nulls, refusal, now);
	*detail = letter_detail(entry, refusal, cut > 0);
	set_optional_text(values, nulls, LETTER_detail, *detail);
	values[LETTER_attempts - 1] = Int32GetDatum(refusal->attempts);
	values[LETTER_first_failed_at - 1] = TimestampTzGetDatum(now);
	values[LETTER_truncated - 1] = BoolGetDatum(cut > 0);

	return heap_form_tuple(RelationGetDescr(letters), values, nulls);
}

/* A pipeline that has count dead letters or more, of relation letters, as long as nobody removes one. */
static struct
{
	int32		pipeline;
	Oid			letters;
	int64		count;
	TimestampTz until;
} known = {0};

static void
forget_count(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == known.letters)
		known.until = 0;
}

/*
 * How many dead letters a pipeline has, up to the threshold of notifications.
 * A worker does not count those of a pipeline above it with every batch: that
 * would be a thousand rows each time.
 */
static int64
count_before(Relation letters, int32 pipeline_id, TimestampTz now)
{
	static bool registered = false;
	int64		most = Max(ss_guc_dead_letter_threshold, 1);
	int64		count;

	if (known.pipeline == pipeline_id && known.count >= most && now < known.until)
		return known.count;
	count = ss_deadletter_count(pipeline_id, most);

	/* a session may have added some itself, and roll back */
	if (count < most || MyBgworkerEntry == NULL)
		return count;
	if (!registered)
		CacheRegisterRelcacheCallback(forget_count, (Datum) 0);
	registered = true;
	known.pipeline = pipeline_id;
	known.letters = RelationGetRelid(letters);
	known.count = count;
	known.until = TimestampTzPlusMilliseconds(now, RECOUNT_MS);
	return count;
}

void
ss_deadletter_store(const SsPipeline *pipeline, const SsBatch *batch)
{
	Relation		  letters;
	Relation		  attempts;
	CatalogIndexState letter_indexes;
	CatalogIndexState attempt_indexes;
	MemoryContext	  work;
	MemoryContext	  oldcontext;
	TimestampTz		  now = GetCurrentTimestamp();
	int64			  before;
	int				  i;

	if (batch->nrefusals == 0)
		return;

	letters = ss_catalog_open("dead_letter", RowExclusiveLock, false);
	attempts = ss_catalog_open("dead_letter_attempt", RowExclusiveLock, false);
	letter_indexes = CatalogOpenIndexes(letters);
	attempt_indexes = CatalogOpenIndexes(attempts);
	work = AllocSetContextCreate(CurrentMemoryContext, "streamsink dead letters", ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(work);
	before = count_before(letters, pipeline->id, now);

	for (i = 0; i < batch->nrefusals; i++)
	{
		const SsRefusal *refusal = &batch->refusals[i];
		const SsEntry	*entry = &batch->entries[refusal->entry];
		const char		*detail;
		int64			 id = ss_catalog_nextval("dead_letter_id_seq");

		CHECK_FOR_INTERRUPTS();
		CatalogTupleInsertWithInfo(letters, form_letter(letters, id, pipeline, entry, refusal, now, &detail),
								   letter_indexes);
		SS_FAULT("in-dead-letter");
		insert_attempt(attempts, attempt_indexes, id, refusal->attempts, refusal, now);
		ss_announce_copy(pipeline, id, entry, refusal, detail, now);
		MemoryContextReset(work);
	}

	ss_announce_batch(pipeline, batch, before);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(work);
	CatalogCloseIndexes(attempt_indexes);
	CatalogCloseIndexes(letter_indexes);
	table_close(attempts, RowExclusiveLock);
	table_close(letters, RowExclusiveLock);
}

/* ---- finding ---- */

void
ss_deadletter_lock(int32 pipeline_id)
{
	LockDatabaseObject(ss_catalog_relation("dead_letter", false), (Oid) pipeline_id, 0, ExclusiveLock);
}

bool
ss_deadletter_try_lock(int32 pipeline_id)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ss_catalog_relation("dead_letter", false), (Oid) pipeline_id, 0);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return true;
}

/* Begin a scan for one dead letter. */
static SysScanDesc
begin_letter_scan(Relation letters, int64 id)
{
	ScanKeyData key;

	ScanKeyInit(&key, LETTER_id, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	return systable_beginscan(letters, ss_catalog_relation("dead_letter_pkey", false), true, NULL, 1, &key);
}

SsDeadLetter *
ss_deadletter_fetch(int64 id)
{
	Relation	  letters = ss_catalog_open("dead_letter", AccessShareLock, false);
	SysScanDesc	  scan = begin_letter_scan(letters, id);
	HeapTuple	  tuple = systable_getnext(scan);
	SsDeadLetter *letter = NULL;

	if (HeapTupleIsValid(tuple))
	{
		Datum values[LETTER_NCOLUMNS];
		bool  nulls[LETTER_NCOLUMNS];

		heap_deform_tuple(tuple, RelationGetDescr(letters), values, nulls);
		letter = palloc0(sizeof(SsDeadLetter));
		letter->id = id;
		letter->pipeline = DatumGetInt32(values[LETTER_pipeline - 1]);
		letter->stream = TextDatumGetCString(values[LETTER_stream - 1]);
		letter->entry_id = *DatumGetEntryIdP(values[LETTER_entry_id - 1]);
		letter->edited = !nulls[LETTER_edited - 1];
		letter->truncated = DatumGetBool(values[LETTER_truncated - 1]);
		letter->attempts = DatumGetInt32(values[LETTER_attempts - 1]);
		if (letter->edited)
			letter->fields = ss_rawfields_from_jsonb(DatumGetJsonbPCopy(values[LETTER_edited - 1]));
		else
		{
			ArrayType *raw = DatumGetArrayTypeP(values[LETTER_raw - 1]);

			letter->fields = ss_rawfields_to_reply(raw);
			if ((Pointer) raw != DatumGetPointer(values[LETTER_raw - 1]))
				pfree(raw);
		}
	}
	systable_endscan(scan);
	table_close(letters, AccessShareLock);
	return letter;
}

/* One int4 column of a dead letter; false if it is gone. */
static bool
read_int32(int64 id, int column, int32 *value)
{
	Relation	letters = ss_catalog_open("dead_letter", AccessShareLock, false);
	SysScanDesc scan = begin_letter_scan(letters, id);
	HeapTuple	tuple = systable_getnext(scan);
	bool		found = HeapTupleIsValid(tuple);
	bool		isnull;

	if (found)
		*value = DatumGetInt32(heap_getattr(tuple, column, RelationGetDescr(letters), &isnull));
	systable_endscan(scan);
	table_close(letters, AccessShareLock);
	return found;
}

bool
ss_deadletter_pipeline(int64 id, int32 *pipeline_id)
{
	return read_int32(id, LETTER_pipeline, pipeline_id);
}

/* ---- changing ---- */

void
ss_deadletter_delete_attempts(Relation attempts, int64 id)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, ATTEMPT_dead_letter, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	scan = systable_beginscan(attempts, ss_catalog_relation("dead_letter_attempt_pkey", false),
							  true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		CatalogTupleDelete(attempts, &tuple->t_self);
	systable_endscan(scan);
}

bool
ss_deadletter_delete(int64 id)
{
	Relation	letters = ss_catalog_open("dead_letter", RowExclusiveLock, false);
	Relation	attempts = ss_catalog_open("dead_letter_attempt", RowExclusiveLock, false);
	SysScanDesc scan = begin_letter_scan(letters, id);
	HeapTuple	tuple = systable_getnext(scan);
	bool		found = HeapTupleIsValid(tuple);

	if (found)
	{
		CatalogTupleDelete(letters, &tuple->t_self);
		ss_deadletter_delete_attempts(attempts, id);
		CacheInvalidateRelcache(letters); /* for those who know how many there are */
	}
	systable_endscan(scan);
	table_close(attempts, RowExclusiveLock);
	table_close(letters, RowExclusiveLock);
	CommandCounterIncrement();
	return found;
}

/* Replace columns of one dead letter; false if it is gone. */
static bool
update_letter(int64 id, const Datum *values, const bool *nulls, const bool *replace)
{
	Relation	letters = ss_catalog_open("dead_letter", RowExclusiveLock, false);
	SysScanDesc scan = begin_letter_scan(letters, id);
	HeapTuple	tuple = systable_getnext(scan);
	bool		found = HeapTupleIsValid(tuple);

	if (found)
	{
		HeapTuple changed = heap_modify_tuple(tuple, RelationGetDescr(letters), unconstify(Datum *, values),
											  unconstify(bool *, nulls), unconstify(bool *, replace));

		CatalogTupleUpdate(letters, &tuple->t_self, changed);
		heap_freetuple(changed);
	}
	systable_endscan(scan);
	table_close(letters, RowExclusiveLock);
	CommandCounterIncrement();
	return found;
}

bool
ss_deadletter_fail_again(int64 id, const SsRefusal *refusal)
{
	Datum			  values[LETTER_NCOLUMNS] = {0};
	bool			  nulls[LETTER_NCOLUMNS] = {0};
	bool			  replace[LETTER_NCOLUMNS] = {0};
	TimestampTz		  now = GetCurrentTimestamp();
	int32			  attempt;
	Relation		  attempts;
	CatalogIndexState indexes;
	int				  column;

	if (!read_int32(id, LETTER_attempts, &attempt))
		return false;
	attempt++;

	set_reason(values, nulls, refusal, now);
	for (column = LETTER_stage; column <= LETTER_constraint_name; column++)
		replace[column - 1] = true;
	replace[LETTER_failed_at - 1] = true;
	values[LETTER_attempts - 1] = Int32GetDatum(attempt);
	replace[LETTER_attempts - 1] = true;
	if (!update_letter(id, values, nulls, replace))
		return false;

	attempts = ss_catalog_open("dead_letter_attempt", RowExclusiveLock, false);
	indexes = CatalogOpenIndexes(attempts);
	insert_attempt(attempts, indexes, id, attempt, refusal, now);
	CatalogCloseIndexes(indexes);
	table_close(attempts, RowExclusiveLock);
	CommandCounterIncrement();
	return true;
}

bool
ss_deadletter_edit(int64 id, Jsonb *fields)
{
	Datum values[LETTER_NCOLUMNS] = {0};
	bool  nulls[LETTER_NCOLUMNS] = {0};
	bool  replace[LETTER_NCOLUMNS] = {0};

	if (fields != NULL && !JB_ROOT_IS_OBJECT(fields))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("fields of a dead letter must be a JSON object")));

	replace[LETTER_edited - 1] = true;
	nulls[LETTER_edited - 1] = fields == NULL;
	if (fields != NULL)
		values[LETTER_edited - 1] = JsonbPGetDatum(fields);
	return update_letter(id, values, nulls, replace);
}
