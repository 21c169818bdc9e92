/*
 * ss_stream.c
 *	  Redis's stream commands: reading, acknowledging, claiming, scanning.
 *
 * NOTES
 *	  Arguments are built in a scratch context per command; hiredis formats
 *	  them with their lengths, so that no name or value can be taken for
 *	  protocol.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "ss_fault.h"
#include "ss_stream.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * A full reply tells that there is more, unless one or two entries are full
 * and they are fresh.
 */
#define HOT_COUNT 16
#define RECENT_MS 1000

/* The arguments of one command under construction. */
typedef struct Arguments
{
	const char	**argv;
	size_t		 *len;
	int			  n;
	int			  max;
	MemoryContext cxt; /* scratch, deleted when the command is appended */
	MemoryContext saved;
} Arguments;

static void
start_command(Arguments *args, int max, const char *name)
{
	args->cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink command", ALLOCSET_SMALL_SIZES);
	args->saved = MemoryContextSwitchTo(args->cxt);
	args->argv = palloc_array(const char *, max);
	args->len = palloc_array(size_t, max);
	args->max = max;
	args->n = 0;
	args->argv[args->n] = name;
	args->len[args->n++] = strlen(name);
}

static void
add_bytes(Arguments *args, const char *str, size_t len)
{
	if (args->n >= args->max)
		elog(ERROR, "too many arguments for a Redis command");
	args->argv[args->n] = str;
	args->len[args->n++] = len;
}

static void
add_text(Arguments *args, const char *str)
{
	add_bytes(args, str, strlen(str));
}

static void
add_integer(Arguments *args, int64 value)
{
	add_text(args, psprintf(INT64_FORMAT, value));
}

static void
add_id(Arguments *args, SsEntryId id)
{
	char *buf = palloc(SS_ENTRYID_MAXLEN);

	add_bytes(args, buf, ss_entryid_print(id, buf));
}

/* "(ms-seq": from behind this id, exclusively */
static void
add_id_after(Arguments *args, SsEntryId id)
{
	char *buf = palloc(SS_ENTRYID_MAXLEN + 1);

	buf[0] = '(';
	add_bytes(args, buf, ss_entryid_print(id, buf + 1) + 1);
}

static void
add_key(Arguments *args, const SsStream *stream)
{
	add_bytes(args, stream->key, stream->key_len);
}

static void
finish_command(Arguments *args, SsRedis *redis)
{
	ss_redis_append(redis, args->n, args->argv, args->len);
	MemoryContextSwitchTo(args->saved);
	MemoryContextDelete(args->cxt);
}

static void unexpected(const char *what) pg_attribute_noreturn();

static void
unexpected(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("unexpected reply of Redis to %s", what)));
}

static SsEntryId
expect_id(const SsReply *reply, const char *what)
{
	SsEntryId id;

	if ((reply->type != SS_REPLY_STRING && reply->type != SS_REPLY_STATUS) ||
		!ss_entryid_parse(reply->str, reply->n, &id))
		unexpected(what);
	return id;
}

const char *
ss_stream_state_name(SsStreamState state)
{
	switch (state)
	{
		case SS_STREAM_OK:
			return "ok";
		case SS_STREAM_MISSING:
			return "missing";
		case SS_STREAM_WRONG_TYPE:
			return "wrong_type";
		case SS_STREAM_REPLACED:
			return "replaced";
		case SS_STREAM_WENT_BACK:
			return "went_back";
		case SS_STREAM_SET_ASIDE:
			return "set_aside";
	}
	return "unknown";
}

void
ss_stream_append_read(SsRedis *redis, const char *group, const char *consumer,
					  SsStream **streams, int nstreams, bool pending,
					  int count, int block_ms)
{
	Arguments args;

	start_command(&args, 10 + 2 * nstreams, "XREADGROUP");
	add_text(&args, "GROUP");
	add_text(&args, group);
	add_text(&args, consumer);
	add_text(&args, "COUNT");
	add_integer(&args, count);
	if (block_ms > 0)
	{
		add_text(&args, "BLOCK");
		add_integer(&args, block_ms);
	}
	add_text(&args, "STREAMS");
	for (int i = 0; i < nstreams; i++)
		add_key(&args, streams[i]);
	for (int i = 0; i < nstreams; i++)
	{
		if (pending)
			add_id(&args, streams[i]->pending_after);
		else
			add_bytes(&args, ">", 1);
	}
	finish_command(&args, redis);
}

/* One [id, fields] pair into the batch; fields may be nil (deleted, but pending). */
static void
parse_entry(const SsReply *reply, SsBatch *batch, SsStream *stream, const char *what)
{
	SsEntryId id;
	SsReply	 *fields;

	if (reply->type != SS_REPLY_ARRAY || reply->n != 2)
		unexpected(what);
	id = expect_id(&reply->items[0], what);
	fields = &reply->items[1];
	if (fields->type == SS_REPLY_NIL)
		fields = NULL;
	else
	{
		if (fields->type != SS_REPLY_ARRAY || fields->n % 2 != 0)
			unexpected(what);
		for (uint32 i = 0; i < fields->n; i++)
			if (fields->items[i].type != SS_REPLY_STRING)
				unexpected(what);
	}
	ss_batch_add(batch, id, fields);
	if (ss_entryid_compare(id, stream->delivered) > 0)
		stream->delivered = id;
}

/* By its id, made at most RECENT_MS before or after now (the clocks may differ)? */
static bool
is_recent(SsEntryId id, TimestampTz now)
{
	TimestampTz made = ss_entryid_time(id);

	return made >= TimestampTzPlusMilliseconds(now, -RECENT_MS) &&
		   made <= TimestampTzPlusMilliseconds(now, RECENT_MS);
}

int
ss_stream_parse_read(const SsReply *reply, SsStream **streams, int nstreams,
					 bool pending, int count, SsBatch *batch)
{
	const char *what = "XREADGROUP";
	TimestampTz now = GetCurrentTimestamp();
	int			at = 0;
	int			added = 0;

	for (int i = 0; i < nstreams; i++)
	{
		if (pending)
			streams[i]->recovered = true; /* until its part of the reply says otherwise */
		else
			streams[i]->hot = false;
	}
	if (reply->type == SS_REPLY_NIL)
		return 0;
	ss_reply_expect(reply, SS_REPLY_ARRAY, 0, what);

	for (uint32 i = 0; i < reply->n; i++)
	{
		const SsReply *pair = &reply->items[i];
		const SsReply *entries;
		SsStream	  *stream;

		if (pair->type != SS_REPLY_ARRAY || pair->n != 2 ||
			pair->items[0].type != SS_REPLY_STRING ||
			pair->items[1].type != SS_REPLY_ARRAY)
			unexpected(what);

		/* Streams without entries are left out, the others keep our order. */
		while (at < nstreams &&
			   (streams[at]->key_len != pair->items[0].n ||
				memcmp(streams[at]->key, pair->items[0].str, pair->items[0].n) != 0))
			at++;
		if (at == nstreams)
			unexpected(what);
		stream = streams[at++];
		entries = &pair->items[1];
		if (entries->n == 0)
			continue;
		if (entries->n > count)
			unexpected(what);

		ss_batch_begin_block(batch, stream, !pending);
		for (uint32 j = 0; j < entries->n; j++)
		{
			parse_entry(&entries->items[j], batch, stream, what);

			/* The ledger takes the first and the last for what lies between them. */
			if (j > 0 && ss_entryid_compare(batch->entries[batch->nentries - 2].id,
											batch->entries[batch->nentries - 1].id) >= 0)
				unexpected(what);
		}
		added += entries->n;
		if (pending)
		{
			stream->pending_after = batch->entries[batch->nentries - 1].id;
			stream->recovered = false;
		}
		else
		{
			stream->hot = entries->n == count &&
						  (count >= HOT_COUNT || !is_recent(batch->entries[batch->nentries - 1].id, now));
			stream->active_at = now;
		}
	}
	return added;
}

void
ss_stream_append_ack(SsRedis *redis, const SsStream *stream, const char *group,
					 const SsEntryId *ids, int nids)
{
	Arguments args;

	start_command(&args, 3 + nids, "XACK");
	add_key(&args, stream);
	add_text(&args, group);
	for (int i = 0; i < nids; i++)
		add_id(&args, ids[i]);
	finish_command(&args, redis);
}

void
ss_stream_append_scan(SsRedis *redis, const char *cursor, const char *glob)
{
	Arguments args;

	start_command(&args, 8, "SCAN");
	add_text(&args, cursor);
	add_text(&args, "MATCH");
	add_text(&args, glob);
	add_text(&args, "COUNT");
	add_integer(&args, 1000);
	add_text(&args, "TYPE");
	add_text(&args, "stream");
	finish_command(&args, redis);
}

const char *
ss_stream_parse_scan(const SsReply *reply, const SsReply **keys)
{
	ss_reply_expect(reply, SS_REPLY_ARRAY, 2, "SCAN");
	if (reply->items[0].type != SS_REPLY_STRING || reply->items[1].type != SS_REPLY_ARRAY)
		unexpected("SCAN");
	*keys = &reply->items[1];
	return reply->items[0].str;
}

void
ss_stream_append_pending(SsRedis *redis, const SsStream *stream, const char *group, int64 idle_ms,
						 SsEntryId from, bool behind, SsEntryId end, int count, const char *consumer)
{
	Arguments args;

	start_command(&args, 9, "XPENDING");
	add_key(&args, stream);
	add_text(&args, group);
	if (idle_ms > 0)
	{
		add_text(&args, "IDLE");
		add_integer(&args, idle_ms);
	}
	if (!behind || ss_entryid_compare(from, SS_ENTRYID_MIN) == 0)
		add_id(&args, from);
	else
		add_id_after(&args, from);
	add_id(&args, end);
	add_integer(&args, count);
	if (consumer)
		add_text(&args, consumer);
	finish_command(&args, redis);
}

int
ss_stream_parse_pending(const SsReply *reply, SsPendingEntry **entries)
{
	ss_reply_expect(reply, SS_REPLY_ARRAY, 0, "XPENDING");
	*entries = palloc_array(SsPendingEntry, reply->n + 1);
	for (uint32 i = 0; i < reply->n; i++)
	{
		const SsReply *line = &reply->items[i];

		if (line->type != SS_REPLY_ARRAY || line->n < 4 || line->items[1].type != SS_REPLY_STRING)
			unexpected("XPENDING");
		(*entries)[i].id = expect_id(&line->items[0], "XPENDING");
		(*entries)[i].consumer = line->items[1].str;
	}
	return reply->n;
}

void
ss_stream_append_claim(SsRedis *redis, const SsStream *stream, const char *group,
					   const char *consumer, int64 idle_ms, const SsEntryId *ids, int nids)
{
	Arguments args;

	start_command(&args, 6 + nids, "XCLAIM");
	add_key(&args, stream);
	add_text(&args, group);
	add_text(&args, consumer);
	add_integer(&args, idle_ms);
	for (int i = 0; i < nids; i++)
		add_id(&args, ids[i]);
	add_text(&args, "JUSTID");
	finish_command(&args, redis);
}

int
ss_stream_parse_claim(const SsReply *reply, SsEntryId **ids)
{
	int n = 0;

	ss_reply_expect(reply, SS_REPLY_ARRAY, 0, "XCLAIM");
	*ids = palloc_array(SsEntryId, reply->n + 1);
	for (uint32 i = 0; i < reply->n; i++)
		if (reply->items[i].type != SS_REPLY_NIL)
			(*ids)[n++] = expect_id(&reply->items[i], "XCLAIM");
	return n;
}

void
ss_stream_append_multi(SsRedis *redis)
{
	Arguments args;

	start_command(&args, 1, "MULTI");
	finish_command(&args, redis);
}

void
ss_stream_append_exec(SsRedis *redis)
{
	Arguments args;

	start_command(&args, 1, "EXEC");
	finish_command(&args, redis);
}

void
ss_stream_append_range(SsRedis *redis, const SsStream *stream, SsEntryId after, int count)
{
	Arguments args;

	start_command(&args, 6, "XRANGE");
	add_key(&args, stream);
	if (ss_entryid_compare(after, SS_ENTRYID_MIN) == 0)
		add_text(&args, "-");
	else
		add_id_after(&args, after);
	add_text(&args, "+");
	add_text(&args, "COUNT");
	add_integer(&args, count);
	finish_command(&args, redis);
}

int
ss_stream_parse_range(const SsReply *reply, SsStream *stream, SsBatch *batch)
{
	ss_reply_expect(reply, SS_REPLY_ARRAY, 0, "XRANGE");
	if (reply->n == 0)
		return 0;
	ss_batch_begin_block(batch, stream, false);
	for (uint32 i = 0; i < reply->n; i++)
		parse_entry(&reply->items[i], batch, stream, "XRANGE");
	return reply->n;
}

void
ss_stream_append_info(SsRedis *redis, const SsStream *stream)
{
	Arguments args;

	start_command(&args, 3, "XINFO");
	add_text(&args, "STREAM");
	add_key(&args, stream);
	finish_command(&args, redis);
}

void
ss_stream_append_length(SsRedis *redis, const char *key)
{
	Arguments args;

	start_command(&args, 2, "XLEN");
	add_text(&args, key);
	finish_command(&args, redis);
}

void
ss_stream_append_groups(SsRedis *redis, const SsStream *stream)
{
	Arguments args;

	start_command(&args, 3, "XINFO");
	add_text(&args, "GROUPS");
	add_key(&args, stream);
	finish_command(&args, redis);
}

void
ss_stream_append_consumers(SsRedis *redis, const SsStream *stream, const char *group)
{
	Arguments args;

	start_command(&args, 4, "XINFO");
	add_text(&args, "CONSUMERS");
	add_key(&args, stream);
	add_text(&args, group);
	finish_command(&args, redis);
}

void
ss_stream_append_pending_summary(SsRedis *redis, const SsStream *stream, const char *group)
{
	Arguments args;

	start_command(&args, 3, "XPENDING");
	add_key(&args, stream);
	add_text(&args, group);
	finish_command(&args, redis);
}

static void
append_group_command(SsRedis *redis, const char *command, const SsStream *stream, const char *group,
					 const char *consumer)
{
	Arguments args;

	start_command(&args, 5, "XGROUP");
	add_text(&args, command);
	add_key(&args, stream);
	add_text(&args, group);
	add_text(&args, consumer);
	finish_command(&args, redis);
}

void
ss_stream_append_createconsumer(SsRedis *redis, const SsStream *stream, const char *group,
								const char *consumer)
{
	append_group_command(redis, "CREATECONSUMER", stream, group, consumer);
}

void
ss_stream_append_delconsumer(SsRedis *redis, const SsStream *stream, const char *group,
							 const char *consumer)
{
	append_group_command(redis, "DELCONSUMER", stream, group, consumer);
}

void
ss_stream_append_create(SsRedis *redis, const SsStream *stream, const char *group,
						SsEntryId start, const char *marker, bool mkstream)
{
	Arguments args;

	ss_stream_append_multi(redis);

	start_command(&args, 6, "XGROUP");
	add_text(&args, "CREATE");
	add_key(&args, stream);
	add_text(&args, group);
	add_id(&args, start);
	if (mkstream)
		add_text(&args, "MKSTREAM");
	finish_command(&args, redis);

	if (SS_FAULT_SET("in-group"))
	{
		(void) ss_redis_flush(redis);
		SS_FAULT("in-group");
	}
	ss_stream_append_createconsumer(redis, stream, group, marker);
	ss_stream_append_exec(redis);
}
