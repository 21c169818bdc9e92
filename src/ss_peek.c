/*
 * ss_peek.c
 *	  Looking at a pipeline's streams from a session.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "ss_decode.h"
#include "ss_peek.h"
#include "ss_server.h"

#define REPLY_LIMIT (64 * 1024 * 1024)

SsRedis *
ss_peek_connect(const SsPipeline *pipeline, MemoryContext parent)
{
	SsRedisParams *params = ss_server_params(pipeline->server, pipeline->owner_oid);

	params->max_bulk = pipeline->max_entry_bytes;
	return ss_redis_open(params, parent, "streamsink session");
}

SsReply *
ss_peek_reply(SsRedis *redis, Size limit)
{
	SsArena *arena = palloc_object(SsArena);

	ss_arena_init(arena, CurrentMemoryContext, limit);
	return ss_redis_receive(redis, arena, 0, PG_WAIT_EXTENSION);
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(((SsStream *) lfirst(a))->name, ((SsStream *) lfirst(b))->name);
}

/* SCAN may give a key more than once. */
static List *
drop_doubles(List *streams)
{
	List	 *unique = NIL;
	ListCell *cell;

	list_sort(streams, compare_names);
	foreach(cell, streams)
		if (unique == NIL ||
			strcmp(((SsStream *) llast(unique))->name, ((SsStream *) lfirst(cell))->name) != 0)
			unique = lappend(unique, lfirst(cell));
	return unique;
}

static List *
add_stream(SsRun *run, List *streams, char *name)
{
	SsStream *stream = palloc0_object(SsStream);

	if (!ss_run_name_stream(run, stream, name, CurrentMemoryContext))
		return streams;
	stream->limit = SS_ENTRYID_MAX;
	return lappend(streams, stream);
}

List *
ss_peek_streams(SsRedis *redis, SsRun *run, int max)
{
	List		 *streams = NIL;
	char		 *cursor;
	MemoryContext kept = CurrentMemoryContext;
	MemoryContext page;

	if (run->tmpl->single)
		return add_stream(run, NIL, pstrdup(run->tmpl->key));

	/* a large database has very many pages, most of them empty */
	page = AllocSetContextCreate(kept, "streamsink scan", ALLOCSET_DEFAULT_SIZES);
	cursor = pstrdup("0");
	do
	{
		const SsReply *keys;
		const char	  *next;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(page);
		MemoryContextSwitchTo(page);
		ss_stream_append_scan(redis, cursor, run->tmpl->glob);
		next = ss_stream_parse_scan(ss_peek_reply(redis, REPLY_LIMIT), &keys);
		MemoryContextSwitchTo(kept);
		for (uint32 i = 0; i < keys->n; i++)
		{
			const SsReply *key = &keys->items[i];
			char		  *name;

			if (key->type != SS_REPLY_STRING)
				continue;
			name = ss_decode_try_text(key->str, key->n);
			if (name)
				streams = add_stream(run, streams, pstrdup(name));
		}
		pfree(cursor);
		cursor = pstrdup(next);
	} while (strcmp(cursor, "0") != 0 && (max == 0 || list_length(streams) < max));
	MemoryContextDelete(page);
	return drop_doubles(streams);
}
