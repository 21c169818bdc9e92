/*
 * feed.c
 *	  A producer at a steady rate, for measuring latency.
 *
 *	  feed SOCKET DB STREAM STREAMS RATE TOTAL
 *
 * NOTES
 *	  Every entry holds the microsecond it was sent at, by the system's clock,
 *	  as the field "sent".  Each XADD waits for its reply; one that is late is
 *	  sent at once, and its time is when it should have been sent: a stall of
 *	  Redis counts for every entry it delays.  With STREAMS above 1 they
 *	  are written in turn, named STREAM:0, STREAM:1, ...
 */
#include <hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "feed: %s: %s\n", what, why);
	exit(1);
}

static long long
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void
wait_until(long long when)
{
	struct timespec t = {when / 1000000000LL, when % 1000000000LL};

	while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL) != 0)
		;
}

int
main(int argc, char **argv)
{
	redisContext *redis;
	redisReply *reply;
	long		streams;
	long		rate;
	long		total;
	long long	started;

	if (argc != 7)
		fail("usage", "feed SOCKET DB STREAM STREAMS RATE TOTAL");
	streams = atol(argv[4]);
	rate = atol(argv[5]);
	total = atol(argv[6]);
	if (streams < 1 || rate < 1)
		fail("usage", "STREAMS and RATE must be positive");
	redis = redisConnectUnix(argv[1]);
	if (!redis || redis->err)
		fail("connect", redis ? redis->errstr : "out of memory");
	freeReplyObject(redisCommand(redis, "SELECT %s", argv[2]));

	started = now_ns() + 1000000;
	for (long i = 0; i < total; i++)
	{
		long long	due = started + i * 1000000000LL / rate;
		char		stream[128];

		snprintf(stream, sizeof(stream), streams > 1 ? "%s:%ld" : "%s", argv[3], i % streams);
		if (now_ns() < due)
			wait_until(due);
		reply = redisCommand(redis, "XADD %s * device_id dev-%ld sensor_type temperature value %f "
							 "timestamp 2026-03-01T12:00:00Z metadata {\"unit\":\"C\",\"battery\":87} sent %lld",
							 stream, i % 1000, (double) i / 7, due / 1000);
		if (!reply || reply->type == REDIS_REPLY_ERROR)
			fail("XADD", reply ? reply->str : redis->errstr);
		freeReplyObject(reply);
	}
	printf("{\"entries\": %ld, \"seconds\": %.6f}\n", total, (now_ns() - started) / 1e9);
	redisFree(redis);
	return 0;
}
