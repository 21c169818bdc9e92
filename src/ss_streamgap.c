/*
 * ss_streamgap.c
 *	  Asks Redis what lies in gaps between ids of a stream.
 *
 * NOTES
 *	  A gap is empty for good if, at one moment (a MULTI),
 *	  - the group has our marker: it is the group whose entries we settled;
 *	  - the stream's first entry is not behind the left id: nothing of the gap
 *	    was trimmed away unread, for trimming takes the lowest ids;
 *	  - the stream's last id is not before the right one: Redis did not lose
 *	    its end, so that no entry can get an id in the gap any more;
 *	  - there is no entry in it.
 *
 *	  Of a gap that may be joined loosely less is asked.  Everything in it was
 *	  delivered (the group's last delivered id is not before the right one) and
 *	  nothing of it is pending with anybody.  Then, if it holds no entry, what
 *	  was there is trimmed: unseen.  And if there are, or were seen, consumers that
 *	  are not ours, they were given it and acknowledged it: foreign.  Without them an
 *	  entry in the gap is one that we should have settled, and it stays open.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "ss_marker.h"
#include "ss_stream.h"

/* Replies within the EXEC before those about gaps. */
#define HEAD_REPLIES 3

/* What lies between two ids, both excluded: one entry, or one that is pending, shows that there are some. */
static void
append_questions(SsRedis *redis, const SsStream *stream, const char *group, const SsGap *gap)
{
	char		low[SS_ENTRYID_MAXLEN + 1] = "(";
	char		high[SS_ENTRYID_MAXLEN + 1] = "(";
	const char *range[6] = {"XRANGE", stream->key, low, high, "COUNT", "1"};
	size_t		range_len[6] = {6, stream->key_len, 0, 0, 5, 1};
	const char *pending[6] = {"XPENDING", stream->key, group, low, high, "1"};
	size_t		pending_len[6] = {8, stream->key_len, strlen(group), 0, 0, 1};

	range_len[2] = pending_len[3] = 1 + ss_entryid_print(gap->before, low + 1);
	range_len[3] = pending_len[4] = 1 + ss_entryid_print(gap->after, high + 1);
	ss_redis_append(redis, 6, range, range_len);
	if (gap->loose)
		ss_redis_append(redis, 6, pending, pending_len);
}

/* Commands that ask about gaps. */
static int
count_questions(const SsGap *gaps, int n)
{
	int questions = n;

	for (int i = 0; i < n; i++)
		if (gaps[i].loose)
			questions++;
	return questions;
}

int
ss_stream_append_gaps(SsRedis *redis, const SsStream *stream, const char *group,
					  const SsGap *gaps, int n)
{
	ss_stream_append_multi(redis);
	ss_stream_append_consumers(redis, stream, group);
	ss_stream_append_info(redis, stream);
	ss_stream_append_groups(redis, stream);
	for (int i = 0; i < n; i++)
		append_questions(redis, stream, group, &gaps[i]);
	ss_stream_append_exec(redis);
	return HEAD_REPLIES + count_questions(gaps, n) + 2;
}

/* Is our marker among the consumers, and is anybody that is not ours? */
static void
look_at_consumers(const SsReply *reply, const SsPipeline *pipeline, const char *marker, bool *marked, bool *foreign)
{
	SsConsumerInfo *consumers;
	int				n = ss_stream_parse_consumers(reply, &consumers);

	*marked = *foreign = false;
	for (int i = 0; i < n; i++)
	{
		const SsConsumerInfo *consumer = &consumers[i];

		if (consumer->name_len == strlen(marker) && memcmp(consumer->name, marker, consumer->name_len) == 0)
			*marked = true;
		else if (!ss_marker_is_marker(consumer->name) && !ss_marker_is_worker(pipeline, consumer->name))
			*foreign = true;
	}
}

bool
ss_stream_parse_gaps(const SsReply *reply, const SsPipeline *pipeline, const SsStream *stream,
					 const char *marker, SsGap *gaps, int n)
{
	SsStreamState  state;
	SsStreamInfo   info;
	SsGroupInfo	   group;
	const SsReply *answer;
	bool		   marked;
	bool		   foreign;
	bool		   holds_entries;

	for (int i = 0; i < n; i++)
	{
		gaps[i].kind = SS_GAP_KEPT;
		gaps[i].filled = false;
	}
	ss_reply_expect(reply, SS_REPLY_ARRAY, HEAD_REPLIES + count_questions(gaps, n), "EXEC");
	look_at_consumers(&reply->items[0], pipeline, marker, &marked, &foreign);
	if (!marked ||
		!ss_stream_parse_info(&reply->items[1], &info, &state) ||
		!ss_stream_parse_groups(&reply->items[2], pipeline->consumer_group, &group, &state) || !group.exists)
		return false;

	holds_entries = info.length > 0 && ss_entryid_compare(info.first, SS_ENTRYID_MIN) > 0;
	answer = &reply->items[HEAD_REPLIES];
	for (int i = 0; i < n; i++)
	{
		SsGap *gap = &gaps[i];
		bool   empty = ss_reply_expect(answer++, SS_REPLY_ARRAY, 0, "XRANGE")->n == 0;
		bool   pending = gap->loose && ss_reply_expect(answer++, SS_REPLY_ARRAY, 0, "XPENDING")->n > 0;

		gap->filled = !empty && !foreign && !stream->foreign &&
					  ss_entryid_compare(group.last_delivered, gap->after) >= 0;
		if (ss_entryid_compare(info.last_generated, gap->after) < 0)
			continue;
		if (empty && holds_entries && ss_entryid_compare(info.first, gap->before) <= 0)
			gap->kind = SS_GAP_EMPTY;
		else if (gap->loose && !pending && ss_entryid_compare(group.last_delivered, gap->after) >= 0)
		{
			if (empty)
				gap->kind = SS_GAP_UNSEEN;
			else if (foreign || stream->foreign)
				gap->kind = SS_GAP_FOREIGN;
		}
	}
	return true;
}
