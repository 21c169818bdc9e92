/*
 * ss_streamgap.c
 *	  Asks Redis whether gaps between ids of a stream are empty.
 *
 * NOTES
 *	  A gap is empty for good if, at one moment (a MULTI),
 *	  - the group has our marker: it is the group whose entries we settled;
 *	  - the stream's first entry is not behind the left id: nothing of the gap
 *	    was trimmed away unread, for trimming takes the lowest ids;
 *	  - the stream's last id is not before the right one: Redis did not lose
 *	    its end, so that no entry can get an id in the gap any more;
 *	  - there is no entry in it.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "ss_stream.h"

static void
append_word(SsRedis *redis, const char *word)
{
	ss_redis_append(redis, 1, &word, NULL);
}

/* XRANGE between two ids, both excluded: one entry shows that there are some. */
static void
append_range(SsRedis *redis, const SsStream *stream, const SsGap *gap)
{
	char		low[SS_ENTRYID_MAXLEN + 1] = "(";
	char		high[SS_ENTRYID_MAXLEN + 1] = "(";
	const char *argv[6] = {"XRANGE", stream->key, low, high, "COUNT", "1"};
	size_t		len[6] = {6, stream->key_len, 0, 0, 5, 1};

	len[2] = 1 + ss_entryid_print(gap->before, low + 1);
	len[3] = 1 + ss_entryid_print(gap->after, high + 1);
	ss_redis_append(redis, 6, argv, len);
}

void
ss_stream_append_gaps(SsRedis *redis, const SsStream *stream, const char *group,
					  const SsGap *gaps, int n)
{
	append_word(redis, "MULTI");
	ss_stream_append_consumers(redis, stream, group);
	ss_stream_append_info(redis, stream);
	for (int i = 0; i < n; i++)
		append_range(redis, stream, &gaps[i]);
	append_word(redis, "EXEC");
}

static bool
has_consumer(const SsReply *reply, const char *name)
{
	SsConsumerInfo *consumers;
	int				n = ss_stream_parse_consumers(reply, &consumers);

	for (int i = 0; i < n; i++)
		if (consumers[i].name_len == strlen(name) && memcmp(consumers[i].name, name, consumers[i].name_len) == 0)
			return true;
	return false;
}

bool
ss_stream_parse_gaps(const SsReply *reply, const char *marker, SsGap *gaps, int n)
{
	SsStreamState state;
	SsStreamInfo  info;

	for (int i = 0; i < n; i++)
		gaps[i].empty = false;
	ss_reply_expect(reply, SS_REPLY_ARRAY, n + 2, "EXEC");
	if (!has_consumer(&reply->items[0], marker) ||
		!ss_stream_parse_info(&reply->items[1], &info, &state) ||
		info.length <= 0 || ss_entryid_compare(info.first, SS_ENTRYID_MIN) == 0)
		return false;

	for (int i = 0; i < n; i++)
	{
		const SsReply *entries = ss_reply_expect(&reply->items[i + 2], SS_REPLY_ARRAY, 0, "XRANGE");

		gaps[i].empty = entries->n == 0 &&
						ss_entryid_compare(info.first, gaps[i].before) <= 0 &&
						ss_entryid_compare(info.last_generated, gaps[i].after) >= 0;
	}
	return true;
}
