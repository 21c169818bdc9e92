/*
 * ss_redis.h
 *	  A connection to Redis: the only way to network input and output (below it
 *	  lie ss_socket and ss_login, used by nobody else).
 *
 * NOTES
 *	  hiredis's reader is the codec; the socket is ours, non-blocking, and every
 *	  wait is one WaitLatchOrSocket that serves interrupts.  A connection lives in a memory context of its own whose reset
 *	  callback closes the socket and frees the reader: an ERROR that unwinds
 *	  past it leaks nothing once the parent context goes.
 *	  After any error or time-out on a connection it is closed and never used
 *	  again.  Runs in workers and in backends.
 */
#ifndef SS_REDIS_H
#define SS_REDIS_H

#include "ss_reply.h"

typedef struct SsRedis SsRedis;

/* Where Redis is and who we are; made by ss_server_params. */
typedef struct SsRedisParams
{
	char *server_name; /* for messages */
	char *host;		   /* name or address; NULL with path */
	int	  port;
	char *path;			   /* unix socket, or NULL */
	int	  db;			   /* SELECT this database */
	int	  connect_timeout; /* milliseconds, for name, connection and log-in together */
	int	  command_timeout; /* milliseconds a reply may take beyond a command's own BLOCK */
	char *username;		   /* or NULL */
	char *password;		   /* or NULL: no AUTH is sent */
	Size  max_bulk;		   /* strings longer than this arrive truncated to SS_REDIS_PREFIX bytes; 0: 512 MB */
} SsRedisParams;

/*
 * Connect, AUTH, SELECT, CLIENT SETNAME, check ROLE/INFO is not needed here.
 * The object lives in a new child context of parent.  ERROR: 08001 cannot
 * connect, 28P01 refused, 57P03 loading or busy, 08P01 not a Redis server.
 * client_name may be NULL.  Must not be called with a transaction's snapshot
 * held by workers; backends may.
 */
extern SsRedis *ss_redis_open(const SsRedisParams *params, MemoryContext parent, const char *client_name);

/* Close and free.  NULL is allowed. */
extern void ss_redis_close(SsRedis *redis);

/* Append a command to the output buffer; nothing is sent yet.  argvlen NULL: C strings. */
extern void ss_redis_append(SsRedis *redis, int argc, const char *const *argv, const size_t *argvlen);

/* Send what can be sent without waiting.  True if the output buffer is empty now.  ERROR 08006. */
extern bool ss_redis_flush(SsRedis *redis);

/* Bytes not yet sent. */
extern Size ss_redis_unsent(const SsRedis *redis);

/* Commands whose replies have not been received. */
extern int ss_redis_outstanding(const SsRedis *redis);

/*
 * Take the next reply if it is complete, reading what the socket has without
 * waiting; NULL if more must come.  The reply is built in arena; a reply half
 * parsed must be continued with the same arena.  ERROR 08006 lost connection,
 * 08P01 protocol violation, 54000 the reply passes the arena's limit.
 * An error reply of Redis is returned, not raised.  Serves interrupts, and
 * returns NULL after some megabytes so that the caller can look at its clock.
 * The arena must not be reset between a NULL and the reply that follows it.
 */
extern SsReply *ss_redis_poll(SsRedis *redis, SsArena *arena);

/*
 * Take bytes of replies off the socket without parsing them, at most some
 * megabytes, so that Redis can send on while its client is busy.  Neither waits
 * nor throws: what fails is left for the next verb to report.
 */
extern void ss_redis_soak(SsRedis *redis);

/*
 * Wait until the socket can be read (or written while bytes are unsent), the
 * latch is set, or timeout_ms pass (-1: for ever).  Resets the latch and
 * serves interrupts (CHECK_FOR_INTERRUPTS, SIGHUP is the caller's).  Returns
 * the WL_ mask.  Poll first, and flush when it can be written: replies that
 * are in the reader's buffer already do not end the wait.
 */
extern int ss_redis_wait(SsRedis *redis, long timeout_ms, uint32 wait_event_info);

/*
 * Flush, then wait for the next reply until the deadline (timeout_ms on top
 * of the connection's command_timeout; each 64 kB that come start it anew).
 * ERROR 08006 on time-out: the connection is closed then.  An interrupt that
 * ends the wait closes it too, at the next use.
 */
extern SsReply *ss_redis_receive(SsRedis *redis, SsArena *arena, long timeout_ms, uint32 wait_event_info);

/* The same with a fixed deadline (of ss_socket_now), for the log-in. */
extern SsReply *ss_redis_receive_by(SsRedis *redis, SsArena *arena, int64 deadline, uint32 wait_event_info);

/* Append, flush and receive one command.  Error replies are returned. */
extern SsReply *ss_redis_call(SsRedis *redis, SsArena *arena, int argc, const char *const *argv, const size_t *argvlen);

/* Is an idle connection still there?  Looks without waiting: readable while idle means closed or out of step. */
extern bool ss_redis_is_alive(SsRedis *redis);

/* False: it ended, and every verb would say so. */
extern bool ss_redis_is_open(const SsRedis *redis);

/* Bytes received since the connection was made. */
extern uint64 ss_redis_received(const SsRedis *redis);

extern const SsRedisParams *ss_redis_params(const SsRedis *redis);

#endif /* SS_REDIS_H */
