/*
 * ss_catalog_write.c
 *	  Writing pipeline definitions.
 *
 * NOTES
 *	  Writers of one row take ShareUpdateExclusiveLock on the fence object
 *	  first and read the row afterwards, under a fresh snapshot: they wait for
 *	  each other instead of failing with "tuple concurrently updated".
 *	  The table's own lock is kept until commit, as for any user's table.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "ss_attempt.h"
#include "ss_catalog.h"
#include "ss_deadletter.h"
#include "ss_ledger.h"
#include "ss_shmem.h"

#define SET(column, datum) \
	(values[SS_PIPELINE_##column - 1] = (datum), nulls[SS_PIPELINE_##column - 1] = false)
#define SET_NULL(column) \
	(values[SS_PIPELINE_##column - 1] = (Datum) 0, nulls[SS_PIPELINE_##column - 1] = true)

static void
notify_shared_memory(int32 id)
{
	if (ss_shmem != NULL)
		ss_shmem_changed_at_commit(id, false);
}

/* Values may be toasted when they are stored, which needs a snapshot; workers come without one. */
static bool
push_snapshot(void)
{
	if (ActiveSnapshotSet())
		return false;
	PushActiveSnapshot(GetTransactionSnapshot());
	return true;
}

/* ERROR if another pipeline than id has this name; nobody can take it until commit. */
static void
claim_name(Relation rel, const char *name, int32 id)
{
	HeapTuple tuple;
	Datum	  values[SS_PIPELINE_NCOLUMNS];
	bool	  nulls[SS_PIPELINE_NCOLUMNS];

	ss_catalog_lock_names();
	tuple = ss_catalog_find_name(rel, name);
	if (!HeapTupleIsValid(tuple))
		return;
	ss_catalog_deform(rel, tuple, values, nulls);
	if (DatumGetInt32(values[SS_PIPELINE_id - 1]) != id)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("pipeline \"%s\" already exists", name),
				 errhint("Choose another name, or change that one with streamsink.alter_pipeline().")));
}

/*
 * WARNING if another pipeline than id reads the same stream in the same group:
 * the group bears the marker of one of them, and the other one waits.
 */
static void
warn_of_sharing(const char *server, const char *stream, const char *group, int32 id)
{
	ListCell *lc;

	foreach(lc, ss_catalog_list())
	{
		SsPipeline *other = lfirst(lc);

		if (other->id != id && strcmp(other->server, server) == 0 && strcmp(other->stream, stream) == 0 &&
			strcmp(other->consumer_group, group) == 0)
			ereport(WARNING,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("pipeline \"%s\" reads stream \"%s\" in consumer group \"%s\" already",
							other->name, stream, group),
					 errdetail("Only one of them can."),
					 errhint("Choose another consumer_group: each group gets every entry.")));
	}
}

/* A random UUID, version 4. */
static Datum
make_identity(void)
{
	pg_uuid_t *uuid = palloc_object(pg_uuid_t);

	if (!pg_strong_random(uuid->data, UUID_LEN))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	uuid->data[6] = (uuid->data[6] & 0x0f) | 0x40;
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;
	return UUIDPGetDatum(uuid);
}

int32
ss_catalog_insert(Datum *values, bool *nulls)
{
	Relation	rel = ss_catalog_open("pipeline", RowExclusiveLock, false);
	TupleDesc	desc = RelationGetDescr(rel);
	TimestampTz now = GetCurrentTimestamp();
	bool		pushed;
	int32		id;
	Datum	   *row_values;
	bool	   *row_nulls;

	claim_name(rel, TextDatumGetCString(values[SS_PIPELINE_name - 1]), 0);
	warn_of_sharing(TextDatumGetCString(values[SS_PIPELINE_server - 1]), TextDatumGetCString(values[SS_PIPELINE_stream - 1]),
					TextDatumGetCString(values[SS_PIPELINE_consumer_group - 1]), 0);
	id = (int32) ss_catalog_nextval("pipeline_id_seq");

	SET(id, Int32GetDatum(id));
	SET(identity, make_identity());
	SET(incarnation, Int32GetDatum(1));
	SET(generation, Int64GetDatum(1));
	SET(enabled, BoolGetDatum(false));
	SET_NULL(enabled_system);
	SET_NULL(enabled_database);
	SET_NULL(failure);
	SET(created_at, TimestampTzGetDatum(now));
	SET(altered_at, TimestampTzGetDatum(now));

	/* a later version of the table may have more columns */
	row_values = palloc0(sizeof(Datum) * Max(desc->natts, SS_PIPELINE_NCOLUMNS));
	row_nulls = palloc(sizeof(bool) * Max(desc->natts, SS_PIPELINE_NCOLUMNS));
	memset(row_nulls, true, sizeof(bool) * Max(desc->natts, SS_PIPELINE_NCOLUMNS));
	memcpy(row_values, values, sizeof(Datum) * SS_PIPELINE_NCOLUMNS);
	memcpy(row_nulls, nulls, sizeof(bool) * SS_PIPELINE_NCOLUMNS);

	pushed = push_snapshot();
	CatalogTupleInsert(rel, heap_form_tuple(desc, row_values, row_nulls));
	if (pushed)
		PopActiveSnapshot();
	table_close(rel, NoLock);
	CommandCounterIncrement();
	notify_shared_memory(id);
	return id;
}

/* Store changed columns of a row that was just found. */
static void
store_row(Relation rel, HeapTuple tuple, const Datum *values, const bool *nulls,
		  const bool *replace)
{
	TupleDesc desc = RelationGetDescr(rel);
	Datum	 *row_values = palloc0(sizeof(Datum) * desc->natts);
	bool	 *row_nulls = palloc0(sizeof(bool) * desc->natts);
	bool	 *row_replace = palloc0(sizeof(bool) * desc->natts);
	bool	  pushed;

	memcpy(row_values, values, sizeof(Datum) * SS_PIPELINE_NCOLUMNS);
	memcpy(row_nulls, nulls, sizeof(bool) * SS_PIPELINE_NCOLUMNS);
	memcpy(row_replace, replace, sizeof(bool) * SS_PIPELINE_NCOLUMNS);

	pushed = push_snapshot();
	CatalogTupleUpdate(rel, &tuple->t_self,
					   heap_modify_tuple(tuple, desc, row_values, row_nulls, row_replace));
	if (pushed)
		PopActiveSnapshot();
	CommandCounterIncrement();
}

/* The row with its columns, or ERROR when it is gone. */
static HeapTuple
find_for_update(Relation rel, int32 id, Datum *values, bool *nulls)
{
	HeapTuple tuple;

	ss_catalog_lock(id, ShareUpdateExclusiveLock);
	tuple = ss_catalog_find(rel, id);
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline %d does not exist any more", id)));
	ss_catalog_deform(rel, tuple, values, nulls);
	return tuple;
}

void
ss_catalog_update(int32 id, const Datum *new_values, const bool *new_nulls, const bool *new_replace)
{
	Relation  rel = ss_catalog_open("pipeline", RowExclusiveLock, false);
	Datum	  old_values[SS_PIPELINE_NCOLUMNS];
	bool	  old_nulls[SS_PIPELINE_NCOLUMNS];
	Datum	  values[SS_PIPELINE_NCOLUMNS];
	bool	  nulls[SS_PIPELINE_NCOLUMNS];
	bool	  replace[SS_PIPELINE_NCOLUMNS];
	HeapTuple tuple = find_for_update(rel, id, old_values, old_nulls);

	memcpy(values, new_values, sizeof(values));
	memcpy(nulls, new_nulls, sizeof(nulls));
	memcpy(replace, new_replace, sizeof(replace));

	if (replace[SS_PIPELINE_name - 1])
		claim_name(rel, TextDatumGetCString(values[SS_PIPELINE_name - 1]), id);
	if (replace[SS_PIPELINE_server - 1] || replace[SS_PIPELINE_stream - 1] || replace[SS_PIPELINE_consumer_group - 1])
		warn_of_sharing(TextDatumGetCString((replace[SS_PIPELINE_server - 1] ? values : old_values)[SS_PIPELINE_server - 1]),
						TextDatumGetCString((replace[SS_PIPELINE_stream - 1] ? values : old_values)[SS_PIPELINE_stream - 1]),
						TextDatumGetCString((replace[SS_PIPELINE_consumer_group - 1] ? values : old_values)[SS_PIPELINE_consumer_group - 1]),
						id);

	SET(generation, Int64GetDatum(DatumGetInt64(old_values[SS_PIPELINE_generation - 1]) + 1));
	SET(altered_at, TimestampTzGetDatum(GetCurrentTimestamp()));
	replace[SS_PIPELINE_generation - 1] = true;
	replace[SS_PIPELINE_altered_at - 1] = true;
	store_row(rel, tuple, values, nulls, replace);
	table_close(rel, NoLock);
	notify_shared_memory(id);
}

void
ss_catalog_touch(int32 id)
{
	Relation  rel = ss_catalog_open("pipeline", RowExclusiveLock, false);
	Datum	  values[SS_PIPELINE_NCOLUMNS];
	bool	  nulls[SS_PIPELINE_NCOLUMNS];
	bool	  replace[SS_PIPELINE_NCOLUMNS] = {false};
	HeapTuple tuple = find_for_update(rel, id, values, nulls);

	SET(generation, Int64GetDatum(DatumGetInt64(values[SS_PIPELINE_generation - 1]) + 1));
	replace[SS_PIPELINE_generation - 1] = true;
	store_row(rel, tuple, values, nulls, replace);
	table_close(rel, NoLock);
	notify_shared_memory(id);
}

void
ss_catalog_set_enabled(int32 id, bool enabled, const char *failure)
{
	Relation  rel = ss_catalog_open("pipeline", RowExclusiveLock, false);
	Datum	  values[SS_PIPELINE_NCOLUMNS];
	bool	  nulls[SS_PIPELINE_NCOLUMNS];
	bool	  replace[SS_PIPELINE_NCOLUMNS] = {false};
	HeapTuple tuple = find_for_update(rel, id, values, nulls);

	SET(generation, Int64GetDatum(DatumGetInt64(values[SS_PIPELINE_generation - 1]) + 1));
	replace[SS_PIPELINE_generation - 1] = true;

	SET(enabled, BoolGetDatum(enabled));
	if (enabled)
	{
		char system[24];

		snprintf(system, sizeof(system), UINT64_FORMAT, GetSystemIdentifier());
		SET(enabled_system, CStringGetTextDatum(system));
		SET(enabled_database, ObjectIdGetDatum(MyDatabaseId));
	}
	else
	{
		SET_NULL(enabled_system);
		SET_NULL(enabled_database);
	}
	if (failure != NULL)
		SET(failure, CStringGetTextDatum(failure));
	else
		SET_NULL(failure);
	replace[SS_PIPELINE_enabled - 1] = true;
	replace[SS_PIPELINE_enabled_system - 1] = true;
	replace[SS_PIPELINE_enabled_database - 1] = true;
	replace[SS_PIPELINE_failure - 1] = true;

	store_row(rel, tuple, values, nulls, replace);
	table_close(rel, NoLock);
	notify_shared_memory(id);
}

void
ss_catalog_delete(int32 id)
{
	Relation  rel = ss_catalog_open("pipeline", RowExclusiveLock, false);
	HeapTuple tuple;

	ss_catalog_lock(id, ShareUpdateExclusiveLock);
	ss_ledger_delete_all(id);
	ss_deadletter_delete_all(id);
	ss_attempt_delete_all(id);
	ss_catalog_delete_streams(id);
	tuple = ss_catalog_find(rel, id);
	if (HeapTupleIsValid(tuple))
		CatalogTupleDelete(rel, &tuple->t_self);
	table_close(rel, NoLock);
	CommandCounterIncrement();
	notify_shared_memory(id);
}
