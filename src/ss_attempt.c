/*
 * ss_attempt.c
 *	  The crash-loop guard: an entry that crashes the server again and again
 *	  becomes a dead letter.
 *
 * NOTES
 *	  A crash while a batch is written leaves its entries pending, and they are
 *	  read first after the next connect.  Only such recovery batches are guarded:
 *	  a committed note says that one is being tried, and goes in the transaction
 *	  that settles it.  A note that is found after a crash means:
 *
 *	  - of a whole batch: from now on, until nothing of ours is pending any more, each
 *		pending entry is tried alone, with a note of its own;
 *	  - of a single entry: it was at work when the server went down.  The
 *		second time it is refused without being tried.
 *
 *	  A note counts only if the shared memory was made anew since, and crash
 *	  recovery has run since: the server resets its statistics in it, and in no other
 *	  start.  So neither a worker that was terminated, failed or was stopped counts, nor
 *	  a server that was shut down in order.  What Redis counts never does.
 *
 *	  While an entry is tried alone no other recovery batch of the server is at
 *	  work, of whatever pipeline (a session lock, which batches share), or what crashes
 *	  there would be blamed on it.
 *
 *	  What is noted is flushed, but does not wait for standbys: as long as that takes
 *	  nothing is being tried.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "ss_attempt.h"
#include "ss_shmem.h"

#define MAX_COUNTED 1000 /* entries whose crashes are kept in memory; more are tried again */

enum
{
	ATTEMPT_pipeline = 1,
	ATTEMPT_share,
	ATTEMPT_stream, /* 0: a whole batch */
	ATTEMPT_entry_id,
	ATTEMPT_trying,
	ATTEMPT_crashes,
	ATTEMPT_birth,
	ATTEMPT_started_at,
	ATTEMPT_NCOLUMNS = ATTEMPT_started_at
};

/* What a note is about. */
typedef struct Note
{
	int32	  pipeline;
	int32	  share;  /* of batches; an entry may come to another one */
	int32	  stream; /* 0: a batch */
	SsEntryId id;
	int32	  crashes;
} Note;

struct SsAttempts
{
	const SsPipeline *pipeline;
	int				  share;
	bool			  alone;
	bool			  ending; /* this batch ends that */
	Note			 *counted;
	int				  ncounted;
};

/* What this process tries, to be undone after an error. */
static bool		marked = false;
static Note		mark;
static LOCKMODE locked = NoLock;

/* ---- the table ---- */

static Relation
open_notes(bool missing_ok)
{
	return ss_catalog_open("attempt", RowExclusiveLock, missing_ok);
}

static SysScanDesc
begin_scan(Relation notes, int32 pipeline)
{
	ScanKeyData key;

	ScanKeyInit(&key, ATTEMPT_pipeline, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(pipeline));
	return systable_beginscan(notes, ss_catalog_relation("attempt_pipeline_idx", false), true, NULL, 1, &key);
}

static Note
read_note(Relation notes, HeapTuple tuple, bool *trying, TimestampTz *birth, TimestampTz *started_at)
{
	Datum values[ATTEMPT_NCOLUMNS];
	bool  nulls[ATTEMPT_NCOLUMNS];
	Note  note;

	heap_deform_tuple(tuple, RelationGetDescr(notes), values, nulls);
	note.pipeline = DatumGetInt32(values[ATTEMPT_pipeline - 1]);
	note.share = DatumGetInt32(values[ATTEMPT_share - 1]);
	note.stream = DatumGetInt32(values[ATTEMPT_stream - 1]);
	note.id = *DatumGetEntryIdP(values[ATTEMPT_entry_id - 1]);
	note.crashes = DatumGetInt32(values[ATTEMPT_crashes - 1]);
	*trying = DatumGetBool(values[ATTEMPT_trying - 1]);
	*birth = DatumGetTimestampTz(values[ATTEMPT_birth - 1]);
	*started_at = DatumGetTimestampTz(values[ATTEMPT_started_at - 1]);
	return note;
}

static bool
is_about_same(const Note *a, const Note *b)
{
	if (a->pipeline != b->pipeline || a->stream != b->stream)
		return false;
	return a->stream == 0 ? a->share == b->share : ss_entryid_compare(a->id, b->id) == 0;
}

static HeapTuple
form_note(Relation notes, const Note *note, bool trying)
{
	Datum	  values[ATTEMPT_NCOLUMNS];
	bool	  nulls[ATTEMPT_NCOLUMNS] = {0};
	SsEntryId id = note->id;

	values[ATTEMPT_pipeline - 1] = Int32GetDatum(note->pipeline);
	values[ATTEMPT_share - 1] = Int32GetDatum(note->share);
	values[ATTEMPT_stream - 1] = Int32GetDatum(note->stream);
	values[ATTEMPT_entry_id - 1] = EntryIdPGetDatum(&id);
	values[ATTEMPT_trying - 1] = BoolGetDatum(trying);
	values[ATTEMPT_crashes - 1] = Int32GetDatum(note->crashes);
	values[ATTEMPT_birth - 1] = TimestampTzGetDatum(ss_shmem->made_at);
	values[ATTEMPT_started_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	return heap_form_tuple(RelationGetDescr(notes), values, nulls);
}

/* Leave a note in place of the one about the same thing; what is not tried needs none. */
static void
put_note(const Note *note, bool trying)
{
	Relation	notes = open_notes(false);
	SysScanDesc scan = begin_scan(notes, note->pipeline);
	HeapTuple	tuple;
	bool		found = false;

	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		was_trying;
		TimestampTz birth;
		TimestampTz started_at;
		Note		old = read_note(notes, tuple, &was_trying, &birth, &started_at);

		found = is_about_same(&old, note);
		if (found)
			CatalogTupleUpdate(notes, &tuple->t_self, form_note(notes, note, trying));
	}
	systable_endscan(scan);
	if (!found && trying)
		CatalogTupleInsert(notes, form_note(notes, note, trying));
	table_close(notes, RowExclusiveLock);
	CommandCounterIncrement();
}

/* Delete the note about something, or with NULL all of the pipeline. */
static void
delete_notes(int32 pipeline, const Note *note)
{
	Relation	notes = open_notes(true);
	SysScanDesc scan;
	HeapTuple	tuple;

	if (notes == NULL)
		return;
	scan = begin_scan(notes, pipeline);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		trying;
		TimestampTz birth;
		TimestampTz started_at;
		Note		old = read_note(notes, tuple, &trying, &birth, &started_at);

		if (note == NULL || is_about_same(&old, note))
			CatalogTupleDelete(notes, &tuple->t_self);
	}
	systable_endscan(scan);
	table_close(notes, RowExclusiveLock);
	CommandCounterIncrement();
}

void
ss_attempt_delete_all(int32 pipeline_id)
{
	delete_notes(pipeline_id, NULL);
}

/* Begin a transaction about notes: its commit is flushed here, and waits for nobody else. */
static void
begin_transaction(void)
{
	StartTransactionCommand();
	(void) set_config_option("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	ForceSyncCommit();
}

/* ---- after a start ---- */

/* Has crash recovery run since?  It resets what the server counts; who resets the archiver's statistics by hand looks alike. */
static bool
crashed_since(TimestampTz time)
{
	return pgstat_fetch_stat_archiver()->stat_reset_timestamp >= time;
}

/*
 * Close the notes of a pipeline that say "trying" though nobody does, and count
 * those whose try a crash ended.  With change false, only tell whether there are any.
 */
static bool
count_crashes(int32 pipeline, int share, bool change)
{
	Relation	notes = open_notes(false);
	SysScanDesc scan = begin_scan(notes, pipeline);
	HeapTuple	tuple;
	bool		any = false;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		trying;
		TimestampTz birth;
		TimestampTz started_at;
		Note		note = read_note(notes, tuple, &trying, &birth, &started_at);

		if (!trying || (birth == ss_shmem->made_at && note.share != share))
			continue;
		any = true;
		if (!change)
			break;
		if (birth != ss_shmem->made_at && crashed_since(started_at))
			note.crashes++;
		CatalogTupleUpdate(notes, &tuple->t_self, form_note(notes, &note, false));
	}
	systable_endscan(scan);
	table_close(notes, RowExclusiveLock);
	if (change)
		CommandCounterIncrement();
	return any;
}

/* Remember what was counted, as far as it concerns us. */
static void
read_counted(SsAttempts *attempts, MemoryContext cxt)
{
	Relation	notes = open_notes(false);
	SysScanDesc scan = begin_scan(notes, attempts->pipeline->id);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		trying;
		TimestampTz birth;
		TimestampTz started_at;
		Note		note = read_note(notes, tuple, &trying, &birth, &started_at);

		if (note.crashes == 0)
			continue;
		if (note.stream == 0)
			attempts->alone |= note.share == attempts->share;
		else if (attempts->ncounted < MAX_COUNTED)
		{
			if (attempts->counted == NULL)
				attempts->counted = MemoryContextAlloc(cxt, MAX_COUNTED * sizeof(Note));
			attempts->counted[attempts->ncounted++] = note;
		}
	}
	systable_endscan(scan);
	table_close(notes, RowExclusiveLock);
}

SsAttempts *
ss_attempt_load(const SsPipeline *pipeline, int share, MemoryContext cxt)
{
	SsAttempts	 *attempts = MemoryContextAllocZero(cxt, sizeof(SsAttempts));
	MemoryContext saved = CurrentMemoryContext;

	attempts->pipeline = pipeline;
	attempts->share = share;
	begin_transaction();
	if (ss_catalog_is_current(pipeline))
	{
		if (count_crashes(pipeline->id, share, false))
		{
			/* other workers of the pipeline look too: count once */
			ss_catalog_lock(pipeline->id, AccessShareLock);
			LockDatabaseObject(ss_catalog_relation("attempt", false), (Oid) pipeline->id, 0, ExclusiveLock);
			(void) count_crashes(pipeline->id, share, true);
		}
		read_counted(attempts, cxt);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	if (attempts->alone)
		ereport(LOG,
				(errmsg("pipeline \"%s\", worker %d, tries its pending entries one by one", pipeline->name, share),
				 errdetail("The server crashed while they were being tried.")));
	return attempts;
}

bool
ss_attempt_alone(const SsAttempts *attempts)
{
	return attempts->alone;
}

/* ---- around a batch ---- */

/* Does a batch hold what was pending? */
static bool
is_recovery(const SsBatch *batch)
{
	for (int i = 0; i < batch->nblocks; i++)
		if (!batch->blocks[i].contiguous && batch->blocks[i].count > 0)
			return true;
	return false;
}

/* The only entry with a body, or -1: those that vanished crash nothing. */
static int
find_single(const SsBatch *batch)
{
	int single = -1;

	for (int i = 0; i < batch->nentries; i++)
	{
		if (batch->entries[i].fields == NULL)
			continue;
		if (single >= 0)
			return -1;
		single = i;
	}
	return single;
}

static Note
describe_batch(const SsAttempts *attempts, const SsBatch *batch)
{
	Note note = {.pipeline = attempts->pipeline->id, .share = attempts->share};
	int	 single = attempts->alone ? find_single(batch) : -1;

	if (single >= 0)
	{
		note.stream = batch->entries[single].stream->id;
		note.id = batch->entries[single].id;
		for (int i = 0; i < attempts->ncounted; i++)
			if (is_about_same(&attempts->counted[i], &note))
				note.crashes = attempts->counted[i].crashes;
	}
	else if (attempts->alone)
		note.crashes = 1;
	return note;
}

static void
lock_turn(LOCKMODE mode)
{
	LockSharedObjectForSession(ExtensionRelationId, InvalidOid, 0, mode);
	locked = mode;
}

void
ss_attempt_begin(SsAttempts *attempts, SsBatch *batch)
{
	MemoryContext saved = CurrentMemoryContext;

	attempts->ending = false;
	if (!is_recovery(batch))
	{
		attempts->ending = attempts->alone;
		return;
	}
	mark = describe_batch(attempts, batch);
	if (mark.stream != 0)
	{
		batch->crashes = mark.crashes;
		if (mark.crashes >= SS_ATTEMPT_CRASHES)
			return;
	}

	begin_transaction();
	lock_turn(mark.stream != 0 ? ExclusiveLock : ShareLock);
	ss_catalog_lock(attempts->pipeline->id, AccessShareLock);
	if (ss_catalog_is_current(attempts->pipeline))
	{
		put_note(&mark, true);
		marked = true;
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
}

void
ss_attempt_settle(SsAttempts *attempts, const SsBatch *batch)
{
	if (marked || batch->crashes >= SS_ATTEMPT_CRASHES)
		delete_notes(mark.pipeline, &mark);
	if (attempts->ending)
	{
		Note note = {.pipeline = attempts->pipeline->id, .share = attempts->share};

		delete_notes(note.pipeline, &note);
	}
}

void
ss_attempt_settled(SsAttempts *attempts)
{
	marked = false;
	ss_attempt_reset();
	if (attempts->ending)
		attempts->alone = attempts->ending = false;
}

void
ss_attempt_reset(void)
{
	if (locked != NoLock)
		UnlockSharedObjectForSession(ExtensionRelationId, InvalidOid, 0, locked);
	locked = NoLock;
}

void
ss_attempt_withdraw(void)
{
	MemoryContext saved = CurrentMemoryContext;

	if (!marked)
		return;
	marked = false;
	begin_transaction();
	if (ss_catalog_generation(mark.pipeline, NULL) >= 0)
	{
		ss_catalog_lock(mark.pipeline, AccessShareLock);
		put_note(&mark, false);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
}

void
ss_attempt_refuse(SsBatch *batch)
{
	ErrorData *error = MemoryContextAllocZero(batch->cxt, sizeof(ErrorData));
	int		   single = find_single(batch);

	if (single < 0 || batch->entries[single].outcome != SS_OUTCOME_NEW)
		return;
	error->elevel = ERROR;
	error->sqlerrcode = ERRCODE_SYSTEM_ERROR;
	error->message = MemoryContextStrdup(batch->cxt,
										 psprintf("the server crashed %d times while this entry alone was being written",
												  batch->crashes));
	error->detail = "It was not tried again.";
	error->hint = "Look into the server log for what crashed: a function, type or trigger of the target. Retrying the entry may crash the server again.";
	ss_batch_refuse(batch, single, "crash", error);
}
