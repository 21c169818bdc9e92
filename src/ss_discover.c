/*
 * ss_discover.c
 *	  The streams of a share: known ones from the catalog, new ones by SCAN.
 *
 * NOTES
 *	  The streams of a template or glob are divided by a hash of their name, so
 *	  that each has one reader at a time.  A single key belongs to all workers.
 *	  SCAN gives a key at least once if it was there all the time: adding is
 *	  idempotent, and what was missed is seen the next time.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_decode.h"
#include "ss_group.h"
#include "ss_guc.h"
#include "ss_pump.h"


/* A look for new streams may take this part of the time at most: 1 / SCAN_SHARE. */
#define SCAN_SHARE 20

typedef struct NameEntry
{
	const char *name; /* key: pointer to a terminated string */
	SsStream   *stream;
} NameEntry;

static uint32
hash_name(const void *key, Size keysize)
{
	const char *name = *(const char *const *) key;

	return hash_bytes((const unsigned char *) name, strlen(name));
}

static int
match_name(const void *a, const void *b, Size keysize)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static bool
is_mine(const SsPump *pump, const char *name)
{
	if (pump->run->tmpl->single || pump->nshares <= 1)
		return true;
	return hash_bytes((const unsigned char *) name, strlen(name)) % pump->nshares == pump->share;
}

static SsStream *
find_stream(const SsPump *pump, const char *name)
{
	NameEntry *entry = hash_search(pump->by_name, &name, HASH_FIND, NULL);

	return entry ? entry->stream : NULL;
}

/* Add streams from catalog rows to the share.  Their high marks come when they are prepared. */
static void
add_rows(SsPump *pump, List *rows)
{
	MemoryContext saved = MemoryContextSwitchTo(pump->cxt);
	ListCell	 *cell;

	foreach(cell, rows)
	{
		SsStreamRow *row = lfirst(cell);
		SsStream	*stream = palloc0_object(SsStream);
		NameEntry	*entry;
		bool		 found;

		if (!ss_run_name_stream(pump->run, stream, pstrdup(row->name), pump->cxt))
			continue; /* the template was changed, this one belongs to the past */
		entry = hash_search(pump->by_name, &stream->name, HASH_ENTER, &found);
		if (found)
			continue;
		entry->stream = stream;
		stream->id = row->id;
		stream->incarnation = row->incarnation;
		stream->start = row->start;
		stream->foreign = row->foreign;
		stream->limit = SS_ENTRYID_MAX;
		stream->overrun_base = row->missed;
		if (pump->nstreams == pump->streams_capacity)
		{
			pump->streams_capacity *= 2;
			pump->streams = repalloc_huge(pump->streams,
										  sizeof(SsStream *) * (Size) pump->streams_capacity);
		}
		pump->streams[pump->nstreams++] = stream;
	}
	MemoryContextSwitchTo(saved);
	pump->quiet = 0;
}

void
ss_discover_load(SsPump *pump)
{
	HASHCTL	  ctl = {0};
	List	 *rows;
	List	 *mine = NIL;
	ListCell *cell;

	ctl.keysize = sizeof(char *);
	ctl.entrysize = sizeof(NameEntry);
	ctl.hash = hash_name;
	ctl.match = match_name;
	ctl.hcxt = pump->cxt;
	pump->by_name = hash_create("streamsink streams", 256, &ctl,
								HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	pump->streams_capacity = 64;
	pump->streams = MemoryContextAlloc(pump->cxt, sizeof(SsStream *) * pump->streams_capacity);

	rows = ss_catalog_streams(pump->run->pipeline->id);
	pump->first_scan = (rows == NIL);
	foreach(cell, rows)
	{
		if (is_mine(pump, ((SsStreamRow *) lfirst(cell))->name))
			mine = lappend(mine, lfirst(cell));
	}
	add_rows(pump, mine);
}

/* Write new streams into the catalog and take them up. */
static void
add_new(SsPump *pump, List *names)
{
	SsEntryId	  start = SS_ENTRYID_MIN;
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext scratch;
	MemoryContext saved;
	List		 *rows = NIL;
	List		 *mine = NIL;
	ListCell	 *cell;
	const char	 *start_from = pump->run->pipeline->start_from;

	/* Streams found later begin at their beginning: nothing of them was there when the user chose. */
	if (pump->first_scan || pump->run->tmpl->single)
		if (!ss_entryid_parse(start_from, strlen(start_from), &start))
			elog(ERROR, "pipeline \"%s\" has no resolved start position", pump->run->pipeline->name);

	if (!pump->session)
		StartTransactionCommand();
	scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink new streams", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(scratch);
	foreach(cell, names)
	{
		SsStreamRow *row = palloc0_object(SsStreamRow);

		row->name = lfirst(cell);
		row->incarnation = pump->run->pipeline->incarnation;
		row->start = start;
		rows = lappend(rows, row);
	}

	/* What an old definition matches and begins with must not get into the streams of a new one. */
	ss_catalog_lock(pump->run->pipeline->id, AccessShareLock);
	if (ss_catalog_is_current(pump->run->pipeline))
	{
		ss_catalog_add_streams(pump->run->pipeline->id, rows);
		foreach(cell, rows)
			if (is_mine(pump, ((SsStreamRow *) lfirst(cell))->name))
				mine = lappend(mine, lfirst(cell));
		add_rows(pump, mine);
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
	if (!pump->session)
		CommitTransactionCommand();
	MemoryContextSwitchTo(outer);
}

/* A key as a name in the server's encoding, or NULL if it cannot be one (said once for each look). */
static char *
key_name(const SsReply *key, bool *complained)
{
	const char *why;
	char	   *name;

	if (key->type != SS_REPLY_STRING)
		return NULL;
	if (key->n > SS_STREAM_NAME_MAX)
		why = "it is longer than 2000 bytes";
	else
	{
		name = ss_decode_try_text(key->str, key->n);
		if (name)
			return pstrdup(name);
		why = "its name is not valid UTF-8 text, or has characters that the database's encoding lacks";
	}
	if (!*complained)
		ereport(LOG,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("stream \"%s\" is not read: %s",
						ss_reply_printable(key->str, key->n, 100), why)));
	*complained = true;
	return NULL;
}

/*
 * The first look for streams, which begin at start_from, collects those of all
 * shares and adds them at its end in one transaction: whether a stream was
 * there before is the same for all workers, whenever they come or go.
 */
static void
take_keys(SsPump *pump, const SsReply *keys)
{
	MemoryContext saved;
	List		 *names = NIL;
	bool		  complained = false;

	for (uint32 i = 0; i < keys->n; i++)
	{
		char	 *name = key_name(&keys->items[i], &complained);
		SsStream *known;

		if (!name || !ss_template_match(pump->run->tmpl, name, strlen(name), NULL))
			continue;
		if (pump->first_scan)
		{
			saved = MemoryContextSwitchTo(pump->cxt);
			pump->first_names = lappend(pump->first_names, pstrdup(name));
			MemoryContextSwitchTo(saved);
			continue;
		}
		if (!is_mine(pump, name))
			continue;
		known = find_stream(pump, name);
		if (!known)
			names = lappend(names, name);
		else if (known->state == SS_STREAM_MISSING)
			known->probe_at = 0; /* it is back */
	}
	if (names != NIL)
		add_new(pump, names);
}

void
ss_discover_step(SsPump *pump)
{
	MemoryContext  scratch;
	MemoryContext  saved;
	TimestampTz	   started = GetCurrentTimestamp();
	SsArena		   arena;
	const SsReply *keys;
	const char	  *cursor;

	if (pump->run->tmpl->single)
	{
		if (pump->nstreams == 0)
			add_new(pump, list_make1(pump->run->tmpl->key));
		pump->scan_due = DT_NOEND;
		return;
	}

	scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink scan", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(scratch);
	ss_arena_init(&arena, scratch, 64 * 1024 * 1024);
	ss_stream_append_scan(pump->redis, pump->scan_cursor ? pump->scan_cursor : "0", pump->run->tmpl->glob);
	cursor = ss_stream_parse_scan(ss_redis_receive(pump->redis, &arena, 0, PG_WAIT_EXTENSION), &keys);
	take_keys(pump, keys);

	if (pump->scan_cursor)
		pfree(pump->scan_cursor);
	pump->scan_cursor = NULL;
	if (strcmp(cursor, "0") != 0)
	{
		pump->scan_cursor = MemoryContextStrdup(pump->cxt, cursor);
		pump->scan_due = GetCurrentTimestamp();
	}
	else
	{
		long took = TimestampDifferenceMilliseconds(started, GetCurrentTimestamp());

		if (pump->first_names != NIL)
		{
			add_new(pump, pump->first_names);
			list_free_deep(pump->first_names);
			pump->first_names = NIL;
		}
		pump->first_scan = false;
		pump->scan_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 Max(ss_guc_discovery_interval, took * SCAN_SHARE));
	}
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(scratch);
}

void
ss_discover_all(SsPump *pump)
{
	do
	{
		pump->scan_due = 0;
		ss_pump_tasks(pump);
		CHECK_FOR_INTERRUPTS();
	} while (pump->scan_cursor);
	if (ss_discover_unprepared(pump, GetCurrentTimestamp()))
		ss_pump_tasks(pump);
}

bool
ss_discover_unprepared(const SsPump *pump, TimestampTz now)
{
	for (int i = 0; i < pump->nstreams; i++)
		if (!pump->streams[i]->prepared && pump->streams[i]->probe_at <= now)
			return true;
	return false;
}

void
ss_discover_prepare(SsPump *pump)
{
	TimestampTz now = GetCurrentTimestamp();
	SsStream  **due = palloc_array(SsStream *, pump->nstreams + 1);
	int			n = 0;

	for (int i = 0; i < pump->nstreams; i++)
	{
		if (pump->streams[i]->prepared || pump->streams[i]->probe_at > now)
			continue;
		due[n++] = pump->streams[i];
	}
	ss_group_prepare(pump, due, n);
	for (int i = 0; i < n; i++)
	{
		if (!due[i]->prepared)
			continue;
		due[i]->recovered = false;
		due[i]->pending_after = SS_ENTRYID_MIN;
	}
	pump->quiet = 0;
	pfree(due);
}
