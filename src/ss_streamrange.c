/*
 * ss_streamrange.c
 *	  Redis's stream commands for repairs: what a stream holds between two ids,
 *	  entries made pending again, groups set to a position.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "ss_stream.h"

/* A word of a command with its length. */
typedef struct Words
{
	const char **words;
	size_t		*lens;
	int			 n;
	char		*ids; /* room for ids */
} Words;

static void
begin(Words *words, int max)
{
	words->words = palloc_array(const char *, max);
	words->lens = palloc_array(size_t, max);
	words->ids = palloc((SS_ENTRYID_MAXLEN + 1) * (Size) max);
	words->n = 0;
}

static void
put(Words *words, const char *word, size_t len)
{
	words->words[words->n] = word;
	words->lens[words->n++] = len;
}

static void
put_text(Words *words, const char *word)
{
	put(words, word, strlen(word));
}

/* An id; with exclusive "(" before it. */
static void
put_id(Words *words, SsEntryId id, bool exclusive)
{
	char *buf = words->ids + (SS_ENTRYID_MAXLEN + 1) * (Size) words->n;

	buf[0] = '(';
	put(words, exclusive ? buf : buf + 1, ss_entryid_print(id, buf + 1) + (exclusive ? 1 : 0));
}

static void
finish(Words *words, SsRedis *redis)
{
	ss_redis_append(redis, words->n, words->words, words->lens);
	pfree(words->words);
	pfree(words->lens);
	pfree(words->ids);
}

void
ss_stream_append_between(SsRedis *redis, const SsStream *stream, SsEntryId after, SsEntryId end, int count)
{
	Words words;
	char  number[16];

	snprintf(number, sizeof(number), "%d", count);
	begin(&words, 6);
	put_text(&words, "XRANGE");
	put(&words, stream->key, stream->key_len);
	put_id(&words, after, true);
	put_id(&words, end, false);
	put_text(&words, "COUNT");
	put_text(&words, number);
	finish(&words, redis);
}

void
ss_stream_append_one(SsRedis *redis, const SsStream *stream, SsEntryId id)
{
	Words words;

	begin(&words, 6);
	put_text(&words, "XRANGE");
	put(&words, stream->key, stream->key_len);
	put_id(&words, id, false);
	put_id(&words, id, false);
	put_text(&words, "COUNT");
	put_text(&words, "1");
	finish(&words, redis);
}

void
ss_stream_append_newest(SsRedis *redis, const SsStream *stream, SsEntryId before, int count)
{
	Words words;
	char  number[16];

	snprintf(number, sizeof(number), "%d", count);
	begin(&words, 6);
	put_text(&words, "XREVRANGE");
	put(&words, stream->key, stream->key_len);
	if (ss_entryid_compare(before, SS_ENTRYID_MAX) == 0)
		put_text(&words, "+");
	else
		put_id(&words, before, true);
	put_text(&words, "-");
	put_text(&words, "COUNT");
	put_text(&words, number);
	finish(&words, redis);
}

static void raise_unexpected(const char *what) pg_attribute_noreturn();

static void
raise_unexpected(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("unexpected reply of Redis to %s", what)));
}

int
ss_stream_parse_ids(const SsReply *reply, SsEntryId **ids)
{
	ss_reply_expect(reply, SS_REPLY_ARRAY, 0, "XRANGE");
	*ids = palloc_array(SsEntryId, reply->n + 1);
	for (uint32 i = 0; i < reply->n; i++)
	{
		const SsReply *pair = &reply->items[i];

		if (pair->type != SS_REPLY_ARRAY || pair->n != 2 || pair->items[0].type != SS_REPLY_STRING ||
			!ss_entryid_parse(pair->items[0].str, pair->items[0].n, &(*ids)[i]) ||
			(i > 0 && ss_entryid_compare((*ids)[i - 1], (*ids)[i]) >= 0))
			raise_unexpected("XRANGE");
	}
	return (int) reply->n;
}

bool
ss_stream_parse_one(const SsReply *reply, SsEntryId id, uint64 *hash)
{
	const SsReply *pair;
	SsEntry		   entry = {.id = id};
	SsEntryId	   found;

	ss_reply_expect(reply, SS_REPLY_ARRAY, 0, "XRANGE");
	if (reply->n == 0)
		return false;
	pair = &reply->items[0];
	if (reply->n != 1 || pair->type != SS_REPLY_ARRAY || pair->n != 2 ||
		pair->items[0].type != SS_REPLY_STRING || pair->items[1].type != SS_REPLY_ARRAY ||
		pair->items[1].n % 2 != 0 ||
		!ss_entryid_parse(pair->items[0].str, pair->items[0].n, &found) ||
		ss_entryid_compare(found, id) != 0)
		raise_unexpected("XRANGE");
	entry.fields = pair->items[1].items;
	entry.nfields = pair->items[1].n / 2;
	*hash = 0;
	for (uint32 i = 0; i < pair->items[1].n; i++)
	{
		if (entry.fields[i].type != SS_REPLY_STRING)
			raise_unexpected("XRANGE");
		if (entry.fields[i].truncated)
			return true;
	}
	*hash = ss_batch_hash(&entry);
	return true;
}

void
ss_stream_append_claim_forced(SsRedis *redis, const SsStream *stream, const char *group,
							  const char *consumer, const SsEntryId *ids, int nids)
{
	Words words;

	begin(&words, 7 + nids);
	put_text(&words, "XCLAIM");
	put(&words, stream->key, stream->key_len);
	put_text(&words, group);
	put_text(&words, consumer);
	put_text(&words, "0");
	for (int i = 0; i < nids; i++)
		put_id(&words, ids[i], false);
	put_text(&words, "FORCE");
	put_text(&words, "JUSTID");
	finish(&words, redis);
}

void
ss_stream_append_heartbeat(SsRedis *redis, SsStream **streams, int n, const char *group, const char *marker)
{
	Words words;

	begin(&words, 7 + 2 * n);
	put_text(&words, "XREADGROUP");
	put_text(&words, "GROUP");
	put_text(&words, group);
	put_text(&words, marker);
	put_text(&words, "COUNT");
	put_text(&words, "1");
	put_text(&words, "STREAMS");
	for (int i = 0; i < n; i++)
		put(&words, streams[i]->key, streams[i]->key_len);
	for (int i = 0; i < n; i++)
		put_text(&words, "0");
	finish(&words, redis);
}

void
ss_stream_append_setid(SsRedis *redis, const SsStream *stream, const char *group, SsEntryId id)
{
	Words words;

	begin(&words, 5);
	put_text(&words, "XGROUP");
	put_text(&words, "SETID");
	put(&words, stream->key, stream->key_len);
	put_text(&words, group);
	put_id(&words, id, false);
	finish(&words, redis);
}
