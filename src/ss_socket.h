/*
 * ss_socket.h
 *	  A non-blocking socket as a good citizen of a backend: bytes in and out,
 *	  waits that serve interrupts, descriptors accounted.  Under ss_redis.c
 *	  only.
 *
 * NOTES
 *	  Failures are returned, not raised (but for interrupts): the connection
 *	  above says what was lost.  Encryption belongs into this file, between the
 *	  descriptor and read, write and is_quiet.
 */
#ifndef SS_SOCKET_H
#define SS_SOCKET_H

#include "ss_redis.h"

typedef struct SsSocket
{
	pgsocket fd;		  /* PGINVALID_SOCKET: closed */
	bool	 reserved;	  /* counted by fd.c */
	bool	 send_failed; /* the peer takes nothing more; what it said last can still be read */
} SsSocket;

/* Milliseconds of a clock that nobody sets. */
extern int64 ss_socket_now(void);

extern void ss_socket_init(SsSocket *sock);

/*
 * Connect to params' host or path until the deadline (of ss_socket_now).  NULL
 * when connected, else a sentence that says why not.  An interrupt leaves a
 * descriptor that ss_socket_close frees.  Looking up a name blocks and serves
 * no interrupts.
 */
extern const char *ss_socket_connect(SsSocket *sock, const SsRedisParams *params, int64 deadline, uint32 wait_event_info);

/* Close; may be called again; does not throw. */
extern void ss_socket_close(SsSocket *sock);

static inline bool
ss_socket_is_open(const SsSocket *sock)
{
	return sock->fd != PGINVALID_SOCKET;
}

/*
 * Bytes read or written, 0 if none can be now, -1 on failure with a sentence
 * in *failure.  A peer that hung up swallows what is written: it may have said
 * why, and reading comes to the loss.
 */
extern ssize_t ss_socket_read(SsSocket *sock, char *buf, size_t len, const char **failure);
extern ssize_t ss_socket_write(SsSocket *sock, const char *buf, size_t len, const char **failure);

/* Wait for WL_SOCKET_ events, the latch or the time (ms, -1: no limit).  Resets the latch, serves interrupts; returns the WL_ mask. */
extern int ss_socket_wait(SsSocket *sock, int events, int64 timeout_ms, uint32 wait_event_info);

/* Open, and nothing to be read, not even its end? */
extern bool ss_socket_is_quiet(SsSocket *sock);

#endif /* SS_SOCKET_H */
