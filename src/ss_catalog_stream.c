/*
 * ss_catalog_stream.c
 *	  The table streamsink.stream: which streams a pipeline found.
 *
 * NOTES
 *	  A row belongs to the incarnation its pipeline had when the row was made.
 *	  Only rows of the current one count as the pipeline's streams; the ledger
 *	  refers to all of them by id.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "ss_catalog.h"

enum
{
	STREAM_id = 1,
	STREAM_pipeline,
	STREAM_name,
	STREAM_incarnation,
	STREAM_start_id,
	STREAM_found_at,
	STREAM_foreign_consumers,
	STREAM_unseen,
	STREAM_foreign_gaps,
	STREAM_missed,
	STREAM_trimmed,
	STREAM_NCOLUMNS = STREAM_trimmed
};

/* The incarnation a pipeline has now, or -1 if it is gone. */
static int32
current_incarnation(int32 pipeline_id)
{
	Datum values[SS_PIPELINE_NCOLUMNS];
	bool  nulls[SS_PIPELINE_NCOLUMNS];

	if (!ss_catalog_fetch(pipeline_id, values, nulls))
		return -1;
	return DatumGetInt32(values[SS_PIPELINE_incarnation - 1]);
}

static SysScanDesc
begin_scan(Relation rel, int32 pipeline_id, Snapshot snapshot)
{
	ScanKeyData key;

	ScanKeyInit(&key, STREAM_pipeline, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(pipeline_id));
	return systable_beginscan(rel, ss_catalog_relation("stream_name_key", false), true,
							  snapshot, 1, &key);
}

static int
compare_ids(const ListCell *a, const ListCell *b)
{
	int32 left = ((const SsStreamRow *) lfirst(a))->id;
	int32 right = ((const SsStreamRow *) lfirst(b))->id;

	return (left > right) - (left < right);
}

static List *
read_streams(Relation rel, int32 pipeline_id, int32 incarnation)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = begin_scan(rel, pipeline_id, snapshot);
	List	   *rows = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		TupleDesc	 desc = RelationGetDescr(rel);
		SsStreamRow *row;
		bool		 isnull; /* no column can be */

		if (DatumGetInt32(heap_getattr(tuple, STREAM_incarnation, desc, &isnull)) != incarnation)
			continue;
		row = palloc_object(SsStreamRow);
		row->id = DatumGetInt32(heap_getattr(tuple, STREAM_id, desc, &isnull));
		row->name = TextDatumGetCString(heap_getattr(tuple, STREAM_name, desc, &isnull));
		row->incarnation = incarnation;
		/* 16 bytes in the row, perhaps not aligned as the struct wants it */
		memcpy(&row->start,
			   DatumGetPointer(heap_getattr(tuple, STREAM_start_id, desc, &isnull)),
			   sizeof(SsEntryId));
		row->foreign = DatumGetBool(heap_getattr(tuple, STREAM_foreign_consumers, desc, &isnull));
		row->missed = DatumGetInt64(heap_getattr(tuple, STREAM_missed, desc, &isnull));
		rows = lappend(rows, row);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	list_sort(rows, compare_ids);
	return rows;
}

/*
 * Relations are locked in the order in which they were made, as DROP EXTENSION
 * locks them: the pipelines before their streams.
 */
List *
ss_catalog_streams(int32 pipeline_id)
{
	Relation pipelines = ss_catalog_open("pipeline", AccessShareLock, true);
	Relation rel = pipelines != NULL ? ss_catalog_open("stream", AccessShareLock, true) : NULL;
	List	*rows = NIL;
	int32	 incarnation;

	if (rel != NULL)
	{
		incarnation = current_incarnation(pipeline_id);
		if (incarnation >= 0)
			rows = read_streams(rel, pipeline_id, incarnation);
		table_close(rel, AccessShareLock);
	}
	if (pipelines != NULL)
		table_close(pipelines, AccessShareLock);
	return rows;
}

static void
insert_stream(Relation rel, CatalogIndexState indexes, int32 pipeline_id, SsStreamRow *row)
{
	TupleDesc desc = RelationGetDescr(rel);
	int		  ncolumns = Max(desc->natts, STREAM_NCOLUMNS);
	Datum	 *values = palloc0_array(Datum, ncolumns);
	bool	 *nulls = palloc0_array(bool, ncolumns);
	HeapTuple tuple;

	/* a later version of the table may have more columns */
	for (int i = STREAM_NCOLUMNS; i < ncolumns; i++)
		nulls[i] = true;
	values[STREAM_id - 1] = Int32GetDatum(row->id);
	values[STREAM_pipeline - 1] = Int32GetDatum(pipeline_id);
	values[STREAM_name - 1] = CStringGetTextDatum(row->name);
	values[STREAM_incarnation - 1] = Int32GetDatum(row->incarnation);
	values[STREAM_start_id - 1] = EntryIdPGetDatum(&row->start);
	values[STREAM_found_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[STREAM_foreign_consumers - 1] = BoolGetDatum(false);
	values[STREAM_unseen - 1] = Int64GetDatum(0);
	values[STREAM_foreign_gaps - 1] = Int64GetDatum(0);
	values[STREAM_missed - 1] = Int64GetDatum(0);
	values[STREAM_trimmed - 1] = Int64GetDatum(0);

	tuple = heap_form_tuple(desc, values, nulls);
	CatalogTupleInsertWithInfo(rel, tuple, indexes);
	heap_freetuple(tuple);
	pfree(values);
	pfree(nulls);
}

typedef struct KnownStream
{
	const char	*name; /* the key */
	SsStreamRow *row;
} KnownStream;

static uint32
hash_name(const void *key, Size keysize)
{
	const char *name = *(const char *const *) key;

	return string_hash(name, strlen(name) + 1);
}

static int
match_name(const void *a, const void *b, Size keysize)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

void
ss_catalog_add_streams(int32 pipeline_id, List *rows)
{
	Relation		  pipelines = ss_catalog_open("pipeline", AccessShareLock, false);
	Relation		  rel = ss_catalog_open("stream", RowExclusiveLock, false);
	CatalogIndexState indexes;
	HASHCTL			  ctl = {0};
	HTAB			 *known;
	ListCell		 *lc;
	int32			  incarnation;

	/* adders of one pipeline wait for each other; batches and control calls do not */
	LockDatabaseObject(ss_catalog_relation("pipeline", false), (Oid) pipeline_id, 1,
					   ExclusiveLock);

	incarnation = current_incarnation(pipeline_id);
	if (incarnation < 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline %d does not exist any more", pipeline_id)));

	ctl.keysize = sizeof(const char *);
	ctl.entrysize = sizeof(KnownStream);
	ctl.hash = hash_name;
	ctl.match = match_name;
	ctl.hcxt = CurrentMemoryContext;
	known = hash_create("streamsink known streams", 256, &ctl,
						HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	foreach(lc, read_streams(rel, pipeline_id, incarnation))
	{
		SsStreamRow *row = (SsStreamRow *) lfirst(lc);
		const char	*name = row->name;
		KnownStream *entry = hash_search(known, &name, HASH_ENTER, NULL);

		entry->row = row;
	}

	indexes = CatalogOpenIndexes(rel);
	foreach(lc, rows)
	{
		SsStreamRow *row = (SsStreamRow *) lfirst(lc);
		const char	*name = row->name;
		KnownStream *entry;
		bool		 found;

		if (strlen(name) > SS_STREAM_NAME_MAX)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("name of a stream is too long"),
					 errdetail("It has %zu bytes, at most %d are possible.",
							   strlen(name), SS_STREAM_NAME_MAX)));

		entry = hash_search(known, &name, HASH_ENTER, &found);
		if (found)
		{
			row->id = entry->row->id;
			row->incarnation = entry->row->incarnation;
			row->start = entry->row->start;
			row->missed = entry->row->missed;
			continue;
		}
		row->id = (int32) ss_catalog_nextval("stream_id_seq");
		row->incarnation = incarnation;
		insert_stream(rel, indexes, pipeline_id, row);
		entry->row = row;
	}
	CatalogCloseIndexes(indexes);
	hash_destroy(known);
	table_close(rel, NoLock);
	table_close(pipelines, NoLock);
	CommandCounterIncrement();
}

/* Replace some columns of one stream, or add to them, which hold int8 then. */
static void
update_stream(int32 pipeline_id, int32 stream_id, const int *columns, const Datum *news, int n, bool add)
{
	Relation	rel = ss_catalog_open("stream", RowExclusiveLock, false);
	TupleDesc	desc = RelationGetDescr(rel);
	ScanKeyData key;
	Snapshot	snapshot;
	SysScanDesc scan;
	HeapTuple	tuple;

	LockDatabaseObject(ss_catalog_relation("pipeline", false), (Oid) pipeline_id, 1,
					   ExclusiveLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyInit(&key, STREAM_id, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(stream_id));
	scan = systable_beginscan(rel, ss_catalog_relation("stream_pkey", false), true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Datum	 *values = palloc0_array(Datum, desc->natts);
		bool	 *nulls = palloc0_array(bool, desc->natts);
		bool	 *replace = palloc0_array(bool, desc->natts);
		HeapTuple changed;

		for (int i = 0; i < n; i++)
		{
			int	  at = columns[i] - 1;
			bool  isnull; /* no column can be */
			Datum old = heap_getattr(tuple, columns[i], desc, &isnull);

			values[at] = add ? Int64GetDatum(DatumGetInt64(old) + DatumGetInt64(news[i])) : news[i];
			replace[at] = true;
		}
		changed = heap_modify_tuple(tuple, desc, values, nulls, replace);
		CatalogTupleUpdate(rel, &tuple->t_self, changed);
		heap_freetuple(changed);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

void
ss_catalog_lock_stream_table(void)
{
	LockRelationOid(ss_catalog_relation("stream", false), RowExclusiveLock);
}

bool
ss_catalog_read_stream(int32 stream_id, SsStreamRow *row)
{
	Relation	rel = ss_catalog_open("stream", AccessShareLock, false);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;

	ScanKeyInit(&key, STREAM_id, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(stream_id));
	scan = systable_beginscan(rel, ss_catalog_relation("stream_pkey", false), true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		TupleDesc desc = RelationGetDescr(rel);

		memcpy(&row->start, DatumGetPointer(heap_getattr(tuple, STREAM_start_id, desc, &isnull)), sizeof(SsEntryId));
		row->foreign = DatumGetBool(heap_getattr(tuple, STREAM_foreign_consumers, desc, &isnull));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

void
ss_catalog_set_stream_start(int32 pipeline_id, int32 stream_id, SsEntryId start)
{
	int	  column = STREAM_start_id;
	Datum value = EntryIdPGetDatum(&start);

	update_stream(pipeline_id, stream_id, &column, &value, 1, false);
}

void
ss_catalog_set_stream_foreign(int32 pipeline_id, int32 stream_id)
{
	int	  column = STREAM_foreign_consumers;
	Datum value = BoolGetDatum(true);

	update_stream(pipeline_id, stream_id, &column, &value, 1, false);
}

void
ss_catalog_count_stream(int32 pipeline_id, int32 stream_id, int64 unseen, int64 foreign_gaps, int64 missed)
{
	int	  columns[] = {STREAM_unseen, STREAM_foreign_gaps, STREAM_missed};
	Datum values[] = {Int64GetDatum(unseen), Int64GetDatum(foreign_gaps), Int64GetDatum(missed)};

	if (unseen > 0 || foreign_gaps > 0 || missed > 0)
		update_stream(pipeline_id, stream_id, columns, values, lengthof(columns), true);
}

void
ss_catalog_count_trimmed(int32 pipeline_id, int32 stream_id, int64 trimmed)
{
	int	  column = STREAM_trimmed;
	Datum value = Int64GetDatum(trimmed);

	update_stream(pipeline_id, stream_id, &column, &value, 1, true);
}

void
ss_catalog_delete_streams(int32 pipeline_id)
{
	Relation	rel = ss_catalog_open("stream", RowExclusiveLock, false);
	Snapshot	snapshot;
	SysScanDesc scan;
	HeapTuple	tuple;

	LockDatabaseObject(ss_catalog_relation("pipeline", false), (Oid) pipeline_id, 1,
					   ExclusiveLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = begin_scan(rel, pipeline_id, snapshot);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		CatalogTupleDelete(rel, &tuple->t_self);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}
