/*
 * ss_skip.c
 *	  What the parser of replies could not finish: refused if it can come to no
 *	  good end, skipped if it is a string too long to keep.
 */
#include "postgres.h"
#define SS_NEED_HIREDIS
#include "ss_compat.h"

#include "ss_skip.h"

#define LINE_MAX_BYTES (64 * 1024)					 /* of a status or an error */
#define BULK_ABSURD	   ((uint64) 1024 * 1024 * 1024) /* no entry of a stream can be longer */

const char *
ss_skip_inspect(redisReader *reader, uint64 max_bulk, SsSkip *skip)
{
	const char *head = reader->buf + reader->pos;
	size_t		len = reader->len - reader->pos;
	const char *eol;
	uint64		bulk = 0;
	size_t		have;
	int			type;

	if (reader->ridx < 0 || len == 0)
		return NULL;
	type = ss_compat_reader_task(reader)->type;

	if (type == REDIS_REPLY_STATUS || type == REDIS_REPLY_ERROR)
	{
		if (len > LINE_MAX_BYTES)
			return "A line of the reply does not end.";
		return NULL;
	}

	eol = memchr(head, '\n', Min(len, HEADER_MAX_BYTES));
	if (eol == NULL)
	{
		if (len >= HEADER_MAX_BYTES)
			return "A number of the reply does not end.";
		return NULL;
	}
	if (type != REDIS_REPLY_STRING)
		return "The reply does not follow the Redis protocol.";

	/* at most HEADER_MAX_BYTES digits: stop before the sum overflows */
	for (const char *p = head; p < eol - 1; p++)
	{
		if (*p < '0' || *p > '9')
			return "The reply announces a string without a proper length.";
		bulk = bulk * 10 + (*p - '0');
		if (bulk > BULK_ABSURD)
			return "The reply announces a string of absurd length.";
	}
	if (eol == head || eol[-1] != '\r')
		return "The reply announces a string without a proper length.";
	if (bulk <= max_bulk)
		return NULL;

	/* too long: once its prefix is here, keep that and drop the rest */
	skip->prefix_len = (int) Min(bulk, SS_REDIS_PREFIX);
	have = len - (eol + 1 - head);
	if (have < skip->prefix_len)
		return NULL;
	memcpy(skip->prefix, eol + 1, skip->prefix_len);
	skip->full_len = bulk;
	skip->left = bulk + 2 - have; /* > 0, or it would be finished */
	sdssetlen(reader->buf, reader->pos);
	reader->buf[reader->pos] = '\0';
	reader->len = reader->pos;
	return NULL;
}
