/*
 * ss_redis.c
 *	  A connection to Redis: commands out, replies in.
 *
 * NOTES
 *	  hiredis parses the replies, with the constructors of ss_reply.c; commands
 *	  are formatted by ss_command.c, so that nothing but the reader's input
 *	  buffer lies outside palloc.
 *
 *	  The input buffer is bounded: a read takes one chunk, everything that is
 *	  complete is parsed before the next read, and what stays unfinished is
 *	  looked at (ss_skip.c): a line may not be endless, and of a string
 *	  that is longer than params.max_bulk only a prefix is buffered, the rest is
 *	  thrown away as it comes.  The parser never notices: once the string is
 *	  over it is fed the prefix with a length to match, and the element is marked
 *	  as truncated with its true length.  An overlong string that arrives within
 *	  one chunk is cut by the constructor.
 */
#include "postgres.h"
#define SS_NEED_HIREDIS
#include "ss_compat.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "ss_command.h"
#include "ss_login.h"
#include "ss_redis.h"
#include "ss_skip.h"
#include "ss_socket.h"

#define READ_CHUNK	 (64 * 1024)
#define POLL_BUDGET	 (16 * 1024 * 1024) /* bytes one poll reads before it returns to its caller */
#define BULK_DEFAULT ((uint64) 512 * 1024 * 1024)
#define KEEP_BUFFER	 (4 * 1024 * 1024) /* idle buffers larger than this are given back */
#define SOAK_BYTES	 (2 * 1024 * 1024) /* of replies that are buffered before somebody asks for them */

struct SsRedis
{
	MemoryContext		  cxt;
	MemoryContextCallback callback;
	SsRedisParams		  params;	 /* a copy in cxt */
	SsSocket			  sock;		 /* closed: the connection is dead */
	bool				  ready;	 /* logged in; before that, errors say "could not connect" */
	bool				  receiving; /* inside ss_redis_receive; stays set if an interrupt left it */
	int					  outstanding;
	uint64				  received;
	StringInfoData		  out; /* out.cursor bytes of it are sent */
	redisReader			 *reader;
	SsReader			  building;

	SsSkip skip; /* an overlong string being thrown away */
};

static char read_buffer[READ_CHUNK]; /* contents do not outlive read_more */

static uint32 connect_wait_event = 0;
static uint32 command_wait_event = 0;

/* ---- the end of a connection ---- */

/* Make the connection dead.  Does not throw; may be called again. */
static void
release_resources(SsRedis *redis)
{
	ss_socket_close(&redis->sock);
	if (redis->reader != NULL)
	{
		redisReaderFree(redis->reader);
		redis->reader = NULL;
	}
	if (redis->out.data != NULL)
		explicit_bzero(redis->out.data, redis->out.maxlen);
}

static void
release_callback(void *arg)
{
	SsRedis *redis = arg;

	release_resources(redis);
	if (redis->params.password != NULL)
		explicit_bzero(redis->params.password, strlen(redis->params.password));
}

/* Close and raise.  detail is a sentence, without secrets and without the peer's bytes. */
static void pg_attribute_noreturn()
	fail_connection(SsRedis *redis, const char *detail)
{
	bool ready = redis->ready;

	release_resources(redis);
	if (ready)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to Redis server \"%s\"", redis->params.server_name),
				 errdetail("%s", detail)));
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not connect to Redis server \"%s\"", redis->params.server_name),
			 errdetail("%s", detail),
			 errhint("Check the options of the server, and that Redis listens there.")));
}

/* The same for a reply that cannot be taken. */
static void pg_attribute_noreturn()
	fail_reply(SsRedis *redis, int sqlstate, const char *detail)
{
	bool ready = redis->ready;

	release_resources(redis);
	if (sqlstate == ERRCODE_PROGRAM_LIMIT_EXCEEDED)
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg("reply of Redis server \"%s\" is too large", redis->params.server_name),
				 errdetail("%s", detail)));
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("invalid reply from Redis server \"%s\"", redis->params.server_name),
			 errdetail("%s", detail),
			 ready ? 0 : errhint("Check that the server's options lead to a Redis server that does not expect TLS.")));
}

/* Every verb begins here. */
static void
check_usable(SsRedis *redis)
{
	/* an interrupt ended the wait for a reply: it would be taken for the next command's */
	if (redis->receiving)
		release_resources(redis);
	if (!ss_socket_is_open(&redis->sock))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_DOES_NOT_EXIST),
				 errmsg("connection to Redis server \"%s\" is closed", redis->params.server_name)));
}

/* ---- sending ---- */

static void
reset_output(SsRedis *redis)
{
	if (redis->out.maxlen > KEEP_BUFFER)
	{
		MemoryContext  old = MemoryContextSwitchTo(redis->cxt);
		StringInfoData fresh;

		initStringInfo(&fresh);
		MemoryContextSwitchTo(old);
		pfree(redis->out.data);
		redis->out = fresh;
	}
	else
		resetStringInfo(&redis->out);
}

static bool
flush_output(SsRedis *redis)
{
	if (redis->out.len == 0)
		return true;
	while (redis->out.cursor < redis->out.len)
	{
		const char *failure;
		ssize_t		n = ss_socket_write(&redis->sock, redis->out.data + redis->out.cursor,
										redis->out.len - redis->out.cursor, &failure);

		if (n < 0)
			fail_connection(redis, failure);
		if (n == 0)
			return false;
		redis->out.cursor += (int) n;
	}
	reset_output(redis);
	return true;
}

void
ss_redis_append(SsRedis *redis, int argc, const char *const *argv, const size_t *argvlen)
{
	check_usable(redis);
	if (!ss_command_append(&redis->out, argc, argv, argvlen))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("command for Redis server \"%s\" is too large", redis->params.server_name)));
	redis->outstanding++;
}

bool
ss_redis_flush(SsRedis *redis)
{
	check_usable(redis);
	return flush_output(redis);
}

Size
ss_redis_unsent(const SsRedis *redis)
{
	return redis->out.len - redis->out.cursor;
}

/* ---- receiving ---- */

static void
feed_reader(SsRedis *redis, const char *buf, size_t len)
{
	if (redisReaderFeed(redis->reader, buf, len) != REDIS_OK)
		fail_reply(redis, ERRCODE_OUT_OF_MEMORY, "Out of memory.");
}

static void
make_reader(SsRedis *redis)
{
	redis->reader = redisReaderCreateWithFunctions(&ss_reply_functions);
	if (redis->reader == NULL)
		fail_reply(redis, ERRCODE_OUT_OF_MEMORY, "Out of memory.");
	redis->reader->privdata = &redis->building;
	redis->reader->maxbuf = 0; /* we do it in shrink_reader; older versions abort there when out of memory */
}

/* Between replies: give back what a large one needed. */
static void
shrink_reader(SsRedis *redis)
{
	redisReader *reader = redis->reader;

	if (reader->pos == reader->len && sdsavail(reader->buf) + sdslen(reader->buf) > KEEP_BUFFER)
	{
		redisReaderFree(reader);
		redis->reader = NULL;
		make_reader(redis);
	}
}

/* The overlong string is over: give the reader its prefix in its stead.  The "$" has been consumed. */
static void
substitute_prefix(SsRedis *redis)
{
	char header[HEADER_MAX_BYTES];
	int	 n = pg_ulltoa_n(redis->skip.prefix_len, header);

	memcpy(header + n, "\r\n", 2);
	redis->building.truncated_len = redis->skip.full_len;
	feed_reader(redis, header, n + 2);
	feed_reader(redis, redis->skip.prefix, redis->skip.prefix_len);
	feed_reader(redis, "\r\n", 2);
}

/* Read one chunk into the reader; the number of bytes, 0 if there are none. */
static size_t
read_more(SsRedis *redis)
{
	const char *failure;
	ssize_t		got = ss_socket_read(&redis->sock, read_buffer, sizeof(read_buffer), &failure);
	size_t		n = (size_t) got;
	size_t		skipped;

	if (got < 0)
		fail_connection(redis, failure);
	redis->received += n;
	skipped = Min(n, redis->skip.left);
	if (skipped > 0)
	{
		redis->skip.left -= skipped;
		if (redis->skip.left == 0)
			substitute_prefix(redis);
	}
	if (n > skipped)
		feed_reader(redis, read_buffer + skipped, n - skipped);
	return n;
}

/* Parse what is buffered; NULL if no reply is complete. */
static SsReply *
parse_reply(SsRedis *redis)
{
	void	   *obj = NULL;
	SsReply	   *reply;
	const char *failure;

	if (redis->skip.left > 0)
		return NULL;

	redis->building.refusal = NULL;
	if (redisReaderGetReply(redis->reader, &obj) != REDIS_OK)
	{
		if (redis->building.refusal != NULL)
			fail_reply(redis, redis->building.refusal_code, redis->building.refusal);
		/* hiredis's own words may quote the peer */
		fail_reply(redis, ERRCODE_PROTOCOL_VIOLATION, "The reply does not follow the Redis protocol.");
	}
	if (obj == NULL)
	{
		failure = ss_skip_inspect(redis->reader, redis->building.max_bulk, &redis->skip);
		if (failure != NULL)
			fail_reply(redis, ERRCODE_PROTOCOL_VIOLATION, failure);
		return NULL;
	}
	if (obj != &redis->building.root)
		fail_reply(redis, ERRCODE_PROTOCOL_VIOLATION, "The reply has a type that RESP2 does not have.");
	if (redis->outstanding == 0)
		fail_reply(redis, ERRCODE_PROTOCOL_VIOLATION, "The server sent a reply that belongs to no command.");
	redis->outstanding--;

	reply = ss_arena_alloc(redis->building.arena, sizeof(SsReply));
	if (reply == NULL)
		fail_reply(redis, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "The reply needs more memory than one reply may.");
	*reply = redis->building.root;
	shrink_reader(redis);
	return reply;
}

static SsReply *
poll_reply(SsRedis *redis, SsArena *arena)
{
	size_t total = 0;

	if (redis->reader->ridx < 0)
		redis->building.arena = arena;
	else if (redis->building.arena != arena)
		elog(ERROR, "a reply of Redis must be continued in the arena it was begun in");

	for (;;)
	{
		SsReply *reply = parse_reply(redis);
		size_t	 n;

		if (reply != NULL)
			return reply;
		if (total >= POLL_BUDGET)
			return NULL;
		CHECK_FOR_INTERRUPTS();
		n = read_more(redis);
		if (n == 0)
			return NULL;
		total += n;
	}
}

SsReply *
ss_redis_poll(SsRedis *redis, SsArena *arena)
{
	check_usable(redis);
	return poll_reply(redis, arena);
}

void
ss_redis_soak(SsRedis *redis)
{
	const char *failure;

	if (!ss_socket_is_open(&redis->sock) || redis->receiving)
		return;
	while (redis->skip.left == 0 && redis->reader->len - redis->reader->pos < SOAK_BYTES)
	{
		ssize_t got = ss_socket_read(&redis->sock, read_buffer, sizeof(read_buffer), &failure);

		/* what is wrong now is still wrong when a reply is wanted */
		if (got <= 0)
			break;
		redis->received += (size_t) got;
		if (redisReaderFeed(redis->reader, read_buffer, (size_t) got) != REDIS_OK)
			break; /* out of memory; the reader will say so */
	}
}

int
ss_redis_wait(SsRedis *redis, long timeout_ms, uint32 wait_event_info)
{
	int events = WL_SOCKET_READABLE;

	check_usable(redis);
	if (redis->out.cursor < redis->out.len)
		events |= WL_SOCKET_WRITEABLE;
	return ss_socket_wait(&redis->sock, events, timeout_ms, wait_event_info);
}

/*
 * Flush, and wait for the next reply.  With allowed_ms > 0, bytes that keep
 * coming move the deadline: a slow line that makes progress is not a dead one.
 */
static SsReply *
receive_until(SsRedis *redis, SsArena *arena, int64 deadline, int64 allowed_ms, uint32 wait_event_info)
{
	uint64 mark = redis->received;

	for (;;)
	{
		int		 events = WL_SOCKET_READABLE;
		SsReply *reply;
		int64	 left;

		if (!flush_output(redis))
			events |= WL_SOCKET_WRITEABLE;
		reply = poll_reply(redis, arena);
		if (reply != NULL)
			return reply;
		if (allowed_ms > 0 && redis->received - mark >= READ_CHUNK)
		{
			mark = redis->received;
			deadline = ss_socket_now() + allowed_ms;
		}
		left = deadline - ss_socket_now();
		if (left <= 0)
			fail_connection(redis, "The server did not reply in time.");
		ss_socket_wait(&redis->sock, events, left, wait_event_info);
	}
}

SsReply *
ss_redis_receive_by(SsRedis *redis, SsArena *arena, int64 deadline, uint32 wait_event_info)
{
	check_usable(redis);
	return receive_until(redis, arena, deadline, 0, wait_event_info);
}

SsReply *
ss_redis_receive(SsRedis *redis, SsArena *arena, long timeout_ms, uint32 wait_event_info)
{
	int64	 allowed_ms = (int64) Max(timeout_ms, 0) + Max(redis->params.command_timeout, 1);
	SsReply *reply;

	check_usable(redis);
	if (redis->outstanding == 0)
		elog(ERROR, "no command of Redis is waiting for its reply");

	redis->receiving = true;
	reply = receive_until(redis, arena, ss_socket_now() + allowed_ms, allowed_ms, wait_event_info);
	redis->receiving = false;
	return reply;
}

SsReply *
ss_redis_call(SsRedis *redis, SsArena *arena, int argc, const char *const *argv, const size_t *argvlen)
{
	check_usable(redis);
	if (redis->outstanding > 0)
		elog(ERROR, "another command of Redis is waiting for its reply");
	ss_redis_append(redis, argc, argv, argvlen);
	return ss_redis_receive(redis, arena, 0, ss_compat_wait_event(command_wait_event, "StreamsinkCommand"));
}

/* ---- opening ---- */

/* An output buffer that need not grow for the log-in: growing would leave copies of the password behind. */
static void
make_output(SsRedis *redis, const char *client_name)
{
	const SsRedisParams *params = &redis->params;

	initStringInfo(&redis->out);
	enlargeStringInfo(&redis->out, 1024 +
									   (params->password ? (int) strlen(params->password) : 0) +
									   (params->username ? (int) strlen(params->username) : 0) +
									   (client_name ? (int) strlen(client_name) : 0));
}

static char *
copy_string(MemoryContext cxt, const char *str)
{
	return str ? MemoryContextStrdup(cxt, str) : NULL;
}

SsRedis *
ss_redis_open(const SsRedisParams *params, MemoryContext parent, const char *client_name)
{
	uint32		  wait_event_info = ss_compat_wait_event(connect_wait_event, "StreamsinkConnect");
	int64		  deadline = ss_socket_now() + Max(params->connect_timeout, 1);
	MemoryContext cxt = AllocSetContextCreate(parent, "streamsink connection", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	SsRedis		 *redis = palloc0(sizeof(SsRedis));
	const char	 *failure;

	redis->cxt = cxt;
	ss_socket_init(&redis->sock);
	redis->callback.func = release_callback;
	redis->callback.arg = redis;
	MemoryContextRegisterResetCallback(cxt, &redis->callback);

	PG_TRY();
	{
		redis->params = *params;
		redis->params.password = NULL; /* until it is a copy: the callback wipes it */
		redis->params.server_name = copy_string(cxt, params->server_name);
		redis->params.host = copy_string(cxt, params->host);
		redis->params.path = copy_string(cxt, params->path);
		redis->params.username = copy_string(cxt, params->username);
		redis->params.password = copy_string(cxt, params->password);
		redis->building.max_bulk = params->max_bulk > 0 ? Min((uint64) params->max_bulk, BULK_DEFAULT) : BULK_DEFAULT;
		make_output(redis, client_name);
		make_reader(redis);

		failure = ss_socket_connect(&redis->sock, &redis->params, deadline, wait_event_info);
		if (failure != NULL)
			fail_connection(redis, failure);
		ss_login_run(redis, client_name, deadline, wait_event_info);
		explicit_bzero(redis->out.data, redis->out.maxlen);
		redis->building.arena = NULL;
		redis->ready = true;
	}
	PG_CATCH();
	{
		/* the error's own text is in ErrorContext */
		MemoryContextSwitchTo(old);
		MemoryContextDelete(cxt);
		PG_RE_THROW();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(old);
	return redis;
}

void
ss_redis_close(SsRedis *redis)
{
	if (redis != NULL)
		MemoryContextDelete(redis->cxt);
}

/* ---- looking at a connection ---- */

bool
ss_redis_is_alive(SsRedis *redis)
{
	if (redis == NULL || !ss_socket_is_open(&redis->sock) || redis->receiving ||
		redis->outstanding > 0 || redis->skip.left > 0 ||
		redis->out.cursor < redis->out.len || redis->reader->pos < redis->reader->len)
		return false;
	return ss_socket_is_quiet(&redis->sock);
}

bool
ss_redis_is_open(const SsRedis *redis)
{
	return ss_socket_is_open(&redis->sock);
}

int
ss_redis_outstanding(const SsRedis *redis)
{
	return redis->outstanding;
}

uint64
ss_redis_received(const SsRedis *redis)
{
	return redis->received;
}

const SsRedisParams *
ss_redis_params(const SsRedis *redis)
{
	return &redis->params;
}
