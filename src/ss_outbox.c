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
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "ss_catalog.h"
#include "ss_outbox.h"
#include "ss_outboxrow.h"
#include "ss_shmem.h"

/* Workers wait for commands about their groups for so long after these were given. */
#define HOLD_UP_MS 10000

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
	values[OUTBOX_origin_system - 1] = CStringGetTextDatum(ss_outboxrow_system());
	values[OUTBOX_origin_database - 1] = ObjectIdGetDatum(MyDatabaseId);
	values[OUTBOX_queue - 1] = Int64GetDatum(0);
	nulls[OUTBOX_retry_at - 1] = true;
	nulls[OUTBOX_entry_id - 1] = true;

	tuple = heap_form_tuple(RelationGetDescr(outbox), values, nulls);
	CatalogTupleInsert(outbox, tuple);
	heap_freetuple(tuple);
	pfree(array);
	table_close(outbox, RowExclusiveLock);
	CommandCounterIncrement();

	if (ss_shmem != NULL)
		ss_shmem_changed_at_commit(0, true);
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

	system = ss_outboxrow_system();
	scan = systable_beginscan(outbox, InvalidOid, false, NULL, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = ss_outboxrow_is_ours(tuple, RelationGetDescr(outbox), system);
	systable_endscan(scan);
	table_close(outbox, AccessShareLock);
	pfree(system);
	return found;
}

bool
ss_outbox_holds_up(const char *pipeline, const char *server, const char *role)
{
	Relation	outbox = ss_catalog_open("outbox_queue", AccessShareLock, true);
	Relation	index;
	TupleDesc	desc;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *system;
	bool		found = false;
	TimestampTz young = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -HOLD_UP_MS);

	if (outbox == NULL)
		return false;

	system = ss_outboxrow_system();
	desc = RelationGetDescr(outbox);
	index = index_open(ss_catalog_relation("outbox_queue_pkey", false), AccessShareLock);
	scan = systable_beginscan_ordered(outbox, index, NULL, 0, NULL);
	/* the newest first: there may be very many old ones */
	while (!found && HeapTupleIsValid(tuple = systable_getnext_ordered(scan, BackwardScanDirection)))
	{
		bool  isnull;
		Datum name;
		char *kind;

		CHECK_FOR_INTERRUPTS();
		/* a server that does not answer holds nothing up for ever */
		if (DatumGetTimestampTz(heap_getattr(tuple, OUTBOX_created_at, desc, &isnull)) < young)
			break;
		name = heap_getattr(tuple, OUTBOX_pipeline, desc, &isnull);
		if (isnull || strcmp(TextDatumGetCString(name), pipeline) != 0 ||
			strcmp(NameStr(*DatumGetName(heap_getattr(tuple, OUTBOX_role, desc, &isnull))), role) != 0 ||
			strcmp(TextDatumGetCString(heap_getattr(tuple, OUTBOX_server, desc, &isnull)), server) != 0)
			continue;
		kind = TextDatumGetCString(heap_getattr(tuple, OUTBOX_kind, desc, &isnull));
		found = (strcmp(kind, "marker_delete") == 0 || strcmp(kind, "group_destroy") == 0 || strcmp(kind, "group_setid") == 0) &&
				DatumGetInt32(heap_getattr(tuple, OUTBOX_attempts, desc, &isnull)) == 0 &&
				ss_outboxrow_is_ours(tuple, desc, system);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(outbox, AccessShareLock);
	pfree(system);
	return found;
}
