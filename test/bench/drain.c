/*
 * drain.c
 *	  The limit of reading: XREADGROUP and XACK over a whole stream with stock
 *	  hiredis replies and nothing else.
 *
 *	  drain SOCKET DB STREAM GROUP COUNT TOTAL
 *
 * NOTES
 *	  The next read is sent together with the acknowledgement of the last, so
 *	  that Redis is never kept waiting for a round trip.  Prints one line of
 *	  JSON: entries, seconds, cpu_seconds.
 */
#include <hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "drain: %s: %s\n", what, why);
	exit(1);
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static redisReply *
next_reply(redisContext *redis)
{
	void	   *reply = NULL;

	if (redisGetReply(redis, &reply) != REDIS_OK)
		fail("read", redis->errstr);
	if (((redisReply *) reply)->type == REDIS_REPLY_ERROR)
		fail("reply", ((redisReply *) reply)->str);
	return reply;
}

static void
send_read(redisContext *redis, const char *stream, const char *group, const char *count)
{
	if (redisAppendCommand(redis, "XREADGROUP GROUP %s drain COUNT %s STREAMS %s >", group, count, stream) != REDIS_OK)
		fail("XREADGROUP", redis->errstr);
}

/* The entries of a reply to a read of one stream, or NULL. */
static redisReply *
entries_of(redisReply *reply)
{
	if (reply->type == REDIS_REPLY_NIL)
		return NULL;
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 1 || reply->element[0]->elements != 2)
		fail("XREADGROUP", "unexpected reply");
	return reply->element[0]->element[1];
}

static void
send_ack(redisContext *redis, const char *stream, const char *group, redisReply *entries, const char **argv, size_t *lens)
{
	argv[0] = "XACK";
	argv[1] = stream;
	argv[2] = group;
	for (int i = 0; i < 3; i++)
		lens[i] = strlen(argv[i]);
	for (size_t i = 0; i < entries->elements; i++)
	{
		argv[3 + i] = entries->element[i]->element[0]->str;
		lens[3 + i] = entries->element[i]->element[0]->len;
	}
	if (redisAppendCommandArgv(redis, 3 + entries->elements, argv, lens) != REDIS_OK)
		fail("XACK", redis->errstr);
}

int
main(int argc, char **argv)
{
	redisContext *redis;
	redisReply *reply;
	struct rusage usage;
	const char **args;
	size_t	   *lens;
	long		total;
	long		count;
	long		done = 0;
	double		started;

	if (argc != 7)
		fail("usage", "drain SOCKET DB STREAM GROUP COUNT TOTAL");
	count = atol(argv[5]);
	total = atol(argv[6]);
	if (count < 1 || count > 100000)
		fail("COUNT", "must be from 1 to 100000");
	args = malloc((count + 3) * sizeof(*args));
	lens = malloc((count + 3) * sizeof(*lens));
	redis = redisConnectUnix(argv[1]);
	if (!args || !lens || !redis || redis->err)
		fail("connect", redis ? redis->errstr : "out of memory");
	redisAppendCommand(redis, "SELECT %s", argv[2]);
	redisAppendCommand(redis, "XGROUP CREATE %s %s 0", argv[3], argv[4]);
	freeReplyObject(next_reply(redis));
	freeReplyObject(next_reply(redis));

	started = now();
	send_read(redis, argv[3], argv[4], argv[5]);
	reply = next_reply(redis);
	while (done < total)
	{
		redisReply *entries = entries_of(reply);
		redisReply *next = NULL;

		if (!entries)
			fail("stream", "ended early");
		done += entries->elements;
		send_ack(redis, argv[3], argv[4], entries, args, lens);
		if (done < total)
			send_read(redis, argv[3], argv[4], argv[5]);
		freeReplyObject(reply);
		freeReplyObject(next_reply(redis));
		if (done < total)
			next = next_reply(redis);
		reply = next;
	}
	started = now() - started;
	getrusage(RUSAGE_SELF, &usage);
	printf("{\"entries\": %ld, \"seconds\": %.6f, \"cpu_seconds\": %.3f}\n", done, started,
		   usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
	redisFree(redis);
	return 0;
}
