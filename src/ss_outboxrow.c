/*
 * ss_outboxrow.c
 *	  Rows of streamsink.outbox_queue, read and changed one by one.
 *
 * NOTES
 *	  Whoever discards a command may take his time to commit.  The courier does
 *	  not wait for that: it leaves such a row as it is.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ss_catalog.h"
#include "ss_outboxrow.h"

/* Bytes kept of an error's message. */
#define MAX_ERROR_BYTES 1000

struct SsOutboxEdit
{
	Relation		  outbox;
	CatalogIndexState indexes;
	TupleTableSlot	 *slot;
};

/* ---- reading ---- */

char *
ss_outboxrow_system(void)
{
	return psprintf(UINT64_FORMAT, GetSystemIdentifier());
}

bool
ss_outboxrow_is_ours(HeapTuple tuple, TupleDesc desc, const char *system)
{
	bool  isnull;
	Datum value;
	char *origin;
	bool  result;

	value = heap_getattr(tuple, OUTBOX_origin_database, desc, &isnull);
	if (isnull || DatumGetObjectId(value) != MyDatabaseId)
		return false;
	origin = TextDatumGetCString(heap_getattr(tuple, OUTBOX_origin_system, desc, &isnull));
	result = strcmp(origin, system) == 0;
	pfree(origin);
	return result;
}

static void
form_args(SsOutboxRow *row, Datum args)
{
	/* a copy of the whole array: the arguments stay where they are in it */
	ArrayType *array = DatumGetArrayTypePCopy(args);
	Datum	  *elements;
	int		   i;

	deconstruct_array(array, BYTEAOID, -1, false, TYPALIGN_INT, &elements, NULL, &row->nargs);
	row->args = MemoryContextAllocExtended(CurrentMemoryContext, Max(row->nargs, 1) * sizeof(char *), MCXT_ALLOC_HUGE);
	row->arglens = MemoryContextAllocExtended(CurrentMemoryContext, Max(row->nargs, 1) * sizeof(size_t), MCXT_ALLOC_HUGE);
	for (i = 0; i < row->nargs; i++)
	{
		row->args[i] = VARDATA_ANY(DatumGetPointer(elements[i]));
		row->arglens[i] = VARSIZE_ANY_EXHDR(DatumGetPointer(elements[i]));
	}
	pfree(elements);
	row->bytes = VARSIZE(array);
}

static SsOutboxRow *
form_row(HeapTuple tuple, TupleDesc desc, bool with_args)
{
	SsOutboxRow *row = palloc0(sizeof(SsOutboxRow));
	Datum		 values[OUTBOX_NCOLUMNS];
	bool		 nulls[OUTBOX_NCOLUMNS];

	heap_deform_tuple(tuple, desc, values, nulls);
	row->id = DatumGetInt64(values[OUTBOX_id - 1]);
	row->queue = DatumGetInt64(values[OUTBOX_queue - 1]);
	row->server = TextDatumGetCString(values[OUTBOX_server - 1]);
	row->role = pstrdup(NameStr(*DatumGetName(values[OUTBOX_role - 1])));
	row->kind = TextDatumGetCString(values[OUTBOX_kind - 1]);
	row->name = TextDatumGetCString(values[OUTBOX_name - 1]);
	row->name = pg_server_to_any(row->name, strlen(row->name), PG_UTF8);
	row->attempts = DatumGetInt32(values[OUTBOX_attempts - 1]);
	if (!nulls[OUTBOX_retry_at - 1])
		row->retry_at = DatumGetTimestampTz(values[OUTBOX_retry_at - 1]);
	row->has_id = !nulls[OUTBOX_entry_id - 1];
	if (row->has_id)
		row->entry_id = *DatumGetEntryIdP(values[OUTBOX_entry_id - 1]);
	if (with_args)
		form_args(row, values[OUTBOX_args - 1]);
	return row;
}

List *
ss_outboxrow_read(Snapshot snapshot, int64 queue, int64 after, int max_rows, Size max_bytes)
{
	Relation	outbox = ss_catalog_open("outbox_queue", AccessShareLock, true);
	Relation	index;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *system;
	List	   *rows = NIL;
	Size		bytes = 0;

	if (outbox == NULL)
		return NIL;

	system = ss_outboxrow_system();
	index = index_open(ss_catalog_relation("outbox_queue_turn_idx", false), AccessShareLock);
	ScanKeyInit(&keys[0], OUTBOX_queue, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(queue));
	ScanKeyInit(&keys[1], OUTBOX_id, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	scan = systable_beginscan_ordered(outbox, index, snapshot, 2, keys);
	while (list_length(rows) < max_rows && bytes < max_bytes &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		SsOutboxRow *row;

		CHECK_FOR_INTERRUPTS();
		if (!ss_outboxrow_is_ours(tuple, RelationGetDescr(outbox), system))
			continue;
		row = form_row(tuple, RelationGetDescr(outbox), true);
		bytes += row->bytes;
		rows = lappend(rows, row);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(outbox, AccessShareLock);
	pfree(system);
	return rows;
}

/* The first row of the first queue from a number to another; NULL if there is none. */
static SsOutboxRow *
find_head(Relation outbox, Relation index, Snapshot snapshot, int64 from, int64 to, const char *system, bool *ours)
{
	ScanKeyData	 keys[2];
	SysScanDesc	 scan;
	HeapTuple	 tuple;
	SsOutboxRow *row = NULL;

	ScanKeyInit(&keys[0], OUTBOX_queue, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
	ScanKeyInit(&keys[1], OUTBOX_queue, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(to));
	scan = systable_beginscan_ordered(outbox, index, snapshot, 2, keys);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (HeapTupleIsValid(tuple))
	{
		row = form_row(tuple, RelationGetDescr(outbox), false);
		*ours = ss_outboxrow_is_ours(tuple, RelationGetDescr(outbox), system);
	}
	systable_endscan_ordered(scan);
	return row;
}

List *
ss_outboxrow_heads(Snapshot snapshot)
{
	Relation	 outbox = ss_catalog_open("outbox_queue", AccessShareLock, true);
	Relation	 index;
	SsOutboxRow *row;
	List		*heads = NIL;
	char		*system;
	bool		 ours;

	if (outbox == NULL)
		return NIL;

	system = ss_outboxrow_system();
	index = index_open(ss_catalog_relation("outbox_queue_turn_idx", false), AccessShareLock);
	/* not over queue 0, which may be long, also of rows that are deleted already: ids begin with 1 */
	for (int side = 0; side < 2; side++)
	{
		int64 from = side == 0 ? PG_INT64_MIN : 1;
		int64 to = side == 0 ? -1 : PG_INT64_MAX;

		while (from <= to && (row = find_head(outbox, index, snapshot, from, to, system, &ours)) != NULL)
		{
			CHECK_FOR_INTERRUPTS();
			if (ours)
				heads = lappend(heads, row);
			if (row->queue == to)
				break;
			from = row->queue + 1;
		}
	}
	index_close(index, AccessShareLock);
	table_close(outbox, AccessShareLock);
	pfree(system);
	return heads;
}

/* ---- what becomes of rows ---- */

SsOutboxEdit *
ss_outboxrow_begin(void)
{
	Relation	  outbox = ss_catalog_open("outbox_queue", RowExclusiveLock, true);
	SsOutboxEdit *edit;

	if (outbox == NULL)
		return NULL;
	edit = palloc(sizeof(SsOutboxEdit));
	edit->outbox = outbox;
	edit->indexes = CatalogOpenIndexes(outbox);
	edit->slot = table_slot_create(outbox, NULL);
	return edit;
}

void
ss_outboxrow_end(SsOutboxEdit *edit)
{
	ExecDropSingleTupleTableSlot(edit->slot);
	CatalogCloseIndexes(edit->indexes);
	table_close(edit->outbox, RowExclusiveLock);
	pfree(edit);
}

/* Find a row and lock it; its tuple is in the slot then. */
static SsOutboxResult
lock_row(SsOutboxEdit *edit, int64 id, LockWaitPolicy policy)
{
	ScanKeyData	   key;
	SysScanDesc	   scan;
	HeapTuple	   tuple;
	TM_FailureData failure;
	SsOutboxResult result = SS_OUTBOX_GONE;

	ScanKeyInit(&key, OUTBOX_id, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	scan = systable_beginscan(edit->outbox, ss_catalog_relation("outbox_queue_pkey", false), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		switch (table_tuple_lock(edit->outbox, &tuple->t_self, SnapshotAny, edit->slot, GetCurrentCommandId(true),
								 LockTupleExclusive, policy, TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure))
		{
			case TM_Ok:
				result = SS_OUTBOX_CHANGED;
				break;
			case TM_WouldBlock:
				result = SS_OUTBOX_HELD;
				break;
			default:
				break;
		}
	}
	systable_endscan(scan);
	return result;
}

SsOutboxResult
ss_outboxrow_delete(SsOutboxEdit *edit, int64 id, bool wait)
{
	SsOutboxResult result = lock_row(edit, id, wait ? LockWaitBlock : LockWaitSkip);

	if (result == SS_OUTBOX_CHANGED)
		CatalogTupleDelete(edit->outbox, &edit->slot->tts_tid);
	ExecClearTuple(edit->slot);
	return result;
}

static SsOutboxResult
update_row(SsOutboxEdit *edit, int64 id, Datum *values, bool *nulls, bool *replace)
{
	SsOutboxResult result = lock_row(edit, id, LockWaitSkip);

	if (result == SS_OUTBOX_CHANGED)
	{
		TupleDesc desc = RelationGetDescr(edit->outbox);
		bool	  free_tuple;
		HeapTuple tuple = ExecFetchSlotHeapTuple(edit->slot, false, &free_tuple);
		HeapTuple changed;

		if (replace[OUTBOX_attempts - 1])
		{
			bool  isnull;
			int32 attempts = DatumGetInt32(heap_getattr(tuple, OUTBOX_attempts, desc, &isnull));

			values[OUTBOX_attempts - 1] = Int32GetDatum(attempts < PG_INT32_MAX ? attempts + 1 : attempts);
		}
		changed = heap_modify_tuple(tuple, desc, values, nulls, replace);
		CatalogTupleUpdateWithInfo(edit->outbox, &tuple->t_self, changed, edit->indexes);
		heap_freetuple(changed);
		if (free_tuple)
			heap_freetuple(tuple);
	}
	ExecClearTuple(edit->slot);
	return result;
}

SsOutboxResult
ss_outboxrow_fail(SsOutboxEdit *edit, int64 id, int64 queue, const char *error, TimestampTz retry_at)
{
	Datum values[OUTBOX_NCOLUMNS] = {0};
	bool  nulls[OUTBOX_NCOLUMNS] = {0};
	bool  replace[OUTBOX_NCOLUMNS] = {0};
	int	  len = pg_mbcliplen(error, strlen(error), MAX_ERROR_BYTES);

	replace[OUTBOX_attempts - 1] = true;
	replace[OUTBOX_last_error - 1] = replace[OUTBOX_queue - 1] = replace[OUTBOX_retry_at - 1] = true;
	values[OUTBOX_last_error - 1] = PointerGetDatum(cstring_to_text_with_len(error, len));
	values[OUTBOX_queue - 1] = Int64GetDatum(queue);
	values[OUTBOX_retry_at - 1] = TimestampTzGetDatum(retry_at);
	return update_row(edit, id, values, nulls, replace);
}

SsOutboxResult
ss_outboxrow_park(SsOutboxEdit *edit, int64 id, int64 queue)
{
	Datum values[OUTBOX_NCOLUMNS] = {0};
	bool  nulls[OUTBOX_NCOLUMNS] = {0};
	bool  replace[OUTBOX_NCOLUMNS] = {0};

	replace[OUTBOX_queue - 1] = replace[OUTBOX_retry_at - 1] = true;
	values[OUTBOX_queue - 1] = Int64GetDatum(queue);
	nulls[OUTBOX_retry_at - 1] = true;
	return update_row(edit, id, values, nulls, replace);
}

SsOutboxResult
ss_outboxrow_choose(SsOutboxEdit *edit, int64 id, SsEntryId entry_id)
{
	Datum values[OUTBOX_NCOLUMNS] = {0};
	bool  nulls[OUTBOX_NCOLUMNS] = {0};
	bool  replace[OUTBOX_NCOLUMNS] = {0};

	replace[OUTBOX_entry_id - 1] = true;
	values[OUTBOX_entry_id - 1] = EntryIdPGetDatum(&entry_id);
	return update_row(edit, id, values, nulls, replace);
}
