/*
 * ss_outbox.c
 *	  Effects on Redis that SQL asked for: rows of streamsink.outbox_queue.
 *
 * NOTES
 *	  A row is carried out only in the system and the database that wrote it:
 *	  what a restored dump or a template database brings is held.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "ss_catalog.h"
#include "ss_outbox.h"
#include "ss_shmem.h"

/* Bytes kept of an error's message. */
#define MAX_ERROR_BYTES 1000

/* Workers wait for commands about their groups for so long after these were given. */
#define HOLD_UP_MS 10000

enum
{
	OUTBOX_id = 1,
	OUTBOX_server,
	OUTBOX_role,
	OUTBOX_kind,
	OUTBOX_name,
	OUTBOX_pipeline,
	OUTBOX_args,
	OUTBOX_created_at,
	OUTBOX_attempts,
	OUTBOX_last_error,
	OUTBOX_origin_system,
	OUTBOX_origin_database,
	OUTBOX_NCOLUMNS = OUTBOX_origin_database
};

static char *
system_identifier(void)
{
	return psprintf(UINT64_FORMAT, GetSystemIdentifier());
}

/* A bytea[] out of strings with lengths. */
static ArrayType *
args_to_array(int nargs, const char *const *args, const size_t *arglens)
{
	Datum	  *elements = MemoryContextAllocExtended(CurrentMemoryContext, Max(nargs, 1) * sizeof(Datum),
													 MCXT_ALLOC_HUGE);
	ArrayType *array;
	int		   i;

	for (i = 0; i < nargs; i++)
		elements[i] = PointerGetDatum(cstring_to_text_with_len(args[i], arglens[i]));
	array = construct_array(elements, nargs, BYTEAOID, -1, false, TYPALIGN_INT);
	for (i = 0; i < nargs; i++)
		pfree(DatumGetPointer(elements[i]));
	pfree(elements);
	return array;
}

void
ss_outbox_add(const char *server, const char *role, const char *kind,
			  const char *name, const char *pipeline,
			  int nargs, const char *const *args, const size_t *arglens)
{
	Relation   outbox = ss_catalog_open("outbox_queue", RowExclusiveLock, false);
	Datum	   values[OUTBOX_NCOLUMNS] = {0};
	bool	   nulls[OUTBOX_NCOLUMNS] = {0};
	NameData   role_name;
	ArrayType *array = args_to_array(nargs, args, arglens);
	HeapTuple  tuple;

	namestrcpy(&role_name, role);
	values[OUTBOX_id - 1] = Int64GetDatum(ss_catalog_nextval("outbox_id_seq"));
	values[OUTBOX_server - 1] = CStringGetTextDatum(server);
	values[OUTBOX_role - 1] = NameGetDatum(&role_name);
	values[OUTBOX_kind - 1] = CStringGetTextDatum(kind);
	values[OUTBOX_name - 1] = CStringGetTextDatum(name);
	nulls[OUTBOX_pipeline - 1] = pipeline == NULL;
	if (pipeline != NULL)
		values[OUTBOX_pipeline - 1] = CStringGetTextDatum(pipeline);
	values[OUTBOX_args - 1] = PointerGetDatum(array);
	values[OUTBOX_created_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[OUTBOX_attempts - 1] = Int32GetDatum(0);
	nulls[OUTBOX_last_error - 1] = true;
	values[OUTBOX_origin_system - 1] = CStringGetTextDatum(system_identifier());
	values[OUTBOX_origin_database - 1] = ObjectIdGetDatum(MyDatabaseId);

	tuple = heap_form_tuple(RelationGetDescr(outbox), values, nulls);
	CatalogTupleInsert(outbox, tuple);
	heap_freetuple(tuple);
	pfree(array);
	table_close(outbox, RowExclusiveLock);
	CommandCounterIncrement();

	if (ss_shmem != NULL)
		ss_shmem_changed_at_commit(0, true);
}

/* ---- reading ---- */

/* Did this system and this database write the row? */
static bool
is_ours(HeapTuple tuple, TupleDesc desc, const char *system)
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

static SsOutboxRow *
form_row(HeapTuple tuple, TupleDesc desc, Size *bytes)
{
	SsOutboxRow *row = palloc0(sizeof(SsOutboxRow));
	Datum		 values[OUTBOX_NCOLUMNS];
	bool		 nulls[OUTBOX_NCOLUMNS];
	ArrayType	*array;
	Datum		*elements;
	int			 i;

	heap_deform_tuple(tuple, desc, values, nulls);
	row->id = DatumGetInt64(values[OUTBOX_id - 1]);
	row->server = TextDatumGetCString(values[OUTBOX_server - 1]);
	row->role = pstrdup(NameStr(*DatumGetName(values[OUTBOX_role - 1])));
	row->kind = TextDatumGetCString(values[OUTBOX_kind - 1]);
	row->name = TextDatumGetCString(values[OUTBOX_name - 1]);
	row->name = pg_server_to_any(row->name, strlen(row->name), PG_UTF8);
	row->attempts = DatumGetInt32(values[OUTBOX_attempts - 1]);

	/* a copy of the whole array: the arguments stay where they are in it */
	array = DatumGetArrayTypePCopy(values[OUTBOX_args - 1]);
	deconstruct_array(array, BYTEAOID, -1, false, TYPALIGN_INT, &elements, NULL, &row->nargs);
	row->args = MemoryContextAllocExtended(CurrentMemoryContext, Max(row->nargs, 1) * sizeof(char *), MCXT_ALLOC_HUGE);
	row->arglens = MemoryContextAllocExtended(CurrentMemoryContext, Max(row->nargs, 1) * sizeof(size_t), MCXT_ALLOC_HUGE);
	for (i = 0; i < row->nargs; i++)
	{
		row->args[i] = VARDATA_ANY(DatumGetPointer(elements[i]));
		row->arglens[i] = VARSIZE_ANY_EXHDR(DatumGetPointer(elements[i]));
	}
	pfree(elements);
	*bytes += VARSIZE(array);
	return row;
}

List *
ss_outbox_read(int64 after, int max_rows, Size max_bytes)
{
	Relation	outbox = ss_catalog_open("outbox_queue", AccessShareLock, true);
	Relation	index;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *system;
	List	   *rows = NIL;
	Size		bytes = 0;

	if (outbox == NULL)
		return NIL;

	system = system_identifier();
	index = index_open(ss_catalog_relation("outbox_queue_pkey", false), AccessShareLock);
	ScanKeyInit(&key, OUTBOX_id, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	scan = systable_beginscan_ordered(outbox, index, NULL, 1, &key);
	while (list_length(rows) < max_rows && bytes < max_bytes &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		CHECK_FOR_INTERRUPTS();
		if (is_ours(tuple, RelationGetDescr(outbox), system))
			rows = lappend(rows, form_row(tuple, RelationGetDescr(outbox), &bytes));
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(outbox, AccessShareLock);
	pfree(system);
	return rows;
}

bool
ss_outbox_pending(void)
{
	Relation	outbox = ss_catalog_open("outbox_queue", AccessShareLock, true);
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *system;
	bool		found = false;

	if (outbox == NULL)
		return false;

	system = system_identifier();
	scan = systable_beginscan(outbox, InvalidOid, false, NULL, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = is_ours(tuple, RelationGetDescr(outbox), system);
	systable_endscan(scan);
	table_close(outbox, AccessShareLock);
	pfree(system);
	return found;
}

bool
ss_outbox_holds_up(const char *pipeline, const char *server, const char *role)
{
	Relation	outbox = ss_catalog_open("outbox_queue", AccessShareLock, true);
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *system;
	bool		found = false;
	TimestampTz young = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -HOLD_UP_MS);

	if (outbox == NULL)
		return false;

	system = system_identifier();
	scan = systable_beginscan(outbox, InvalidOid, false, NULL, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		TupleDesc desc = RelationGetDescr(outbox);
		bool	  isnull;
		Datum	  name = heap_getattr(tuple, OUTBOX_pipeline, desc, &isnull);
		char	 *kind;

		CHECK_FOR_INTERRUPTS();
		if (isnull || strcmp(TextDatumGetCString(name), pipeline) != 0)
			continue;
		kind = TextDatumGetCString(heap_getattr(tuple, OUTBOX_kind, desc, &isnull));
		/* a server that does not answer holds nothing up for ever */
		if (DatumGetTimestampTz(heap_getattr(tuple, OUTBOX_created_at, desc, &isnull)) < young ||
			strcmp(NameStr(*DatumGetName(heap_getattr(tuple, OUTBOX_role, desc, &isnull))), role) != 0 ||
			strcmp(TextDatumGetCString(heap_getattr(tuple, OUTBOX_server, desc, &isnull)), server) != 0)
			continue;
		found = (strcmp(kind, "marker_delete") == 0 || strcmp(kind, "group_destroy") == 0) &&
				DatumGetInt32(heap_getattr(tuple, OUTBOX_attempts, desc, &isnull)) == 0 &&
				is_ours(tuple, desc, system);
	}
	systable_endscan(scan);
	table_close(outbox, AccessShareLock);
	pfree(system);
	return found;
}

/* ---- what became of a row ---- */

/* Open the table and find one row by id; NULL with *outbox NULL if the extension is gone. */
static SysScanDesc
find_row(int64 id, Relation *outbox, HeapTuple *tuple)
{
	ScanKeyData key;
	SysScanDesc scan;

	*tuple = NULL;
	*outbox = ss_catalog_open("outbox_queue", RowExclusiveLock, true);
	if (*outbox == NULL)
		return NULL;
	ScanKeyInit(&key, OUTBOX_id, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	scan = systable_beginscan(*outbox, ss_catalog_relation("outbox_queue_pkey", false), true, NULL, 1, &key);
	*tuple = systable_getnext(scan);
	return scan;
}

void
ss_outbox_delete(int64 id)
{
	Relation	outbox;
	HeapTuple	tuple;
	SysScanDesc scan = find_row(id, &outbox, &tuple);

	if (outbox == NULL)
		return;
	if (HeapTupleIsValid(tuple))
		CatalogTupleDelete(outbox, &tuple->t_self);
	systable_endscan(scan);
	table_close(outbox, RowExclusiveLock);
}

void
ss_outbox_fail(int64 id, const char *error)
{
	Relation	outbox;
	HeapTuple	tuple;
	SysScanDesc scan = find_row(id, &outbox, &tuple);

	if (outbox == NULL)
		return;
	if (HeapTupleIsValid(tuple))
	{
		TupleDesc desc = RelationGetDescr(outbox);
		Datum	  values[OUTBOX_NCOLUMNS] = {0};
		bool	  nulls[OUTBOX_NCOLUMNS] = {0};
		bool	  replace[OUTBOX_NCOLUMNS] = {0};
		bool	  isnull;
		int32	  attempts = DatumGetInt32(heap_getattr(tuple, OUTBOX_attempts, desc, &isnull));
		int		  len = pg_mbcliplen(error, strlen(error), MAX_ERROR_BYTES);
		HeapTuple changed;

		values[OUTBOX_attempts - 1] = Int32GetDatum(attempts < PG_INT32_MAX ? attempts + 1 : attempts);
		replace[OUTBOX_attempts - 1] = true;
		values[OUTBOX_last_error - 1] = PointerGetDatum(cstring_to_text_with_len(error, len));
		replace[OUTBOX_last_error - 1] = true;
		changed = heap_modify_tuple(tuple, desc, values, nulls, replace);
		CatalogTupleUpdate(outbox, &tuple->t_self, changed);
		heap_freetuple(changed);
	}
	systable_endscan(scan);
	table_close(outbox, RowExclusiveLock);
}
