/*
 * ss_socket.c
 *	  A non-blocking socket: name, connection, bytes, waits.
 *
 * NOTES
 *	  Looking up a name (getaddrinfo) blocks and serves no interrupts until the
 *	  resolver gives up.  An address as host, or a unix socket, avoids that.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/latch.h"

#include "ss_socket.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

/* One resolved address. */
typedef struct Address
{
	int						family;
	int						protocol;
	socklen_t				len;
	struct sockaddr_storage addr;
} Address;

int64
ss_socket_now(void)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

void
ss_socket_init(SsSocket *sock)
{
	sock->fd = PGINVALID_SOCKET;
	sock->reserved = false;
	sock->send_failed = false;
}

static void
close_descriptor(SsSocket *sock)
{
	if (sock->fd != PGINVALID_SOCKET)
	{
		closesocket(sock->fd);
		sock->fd = PGINVALID_SOCKET;
	}
}

void
ss_socket_close(SsSocket *sock)
{
	close_descriptor(sock);
	if (sock->reserved)
	{
		ReleaseExternalFD();
		sock->reserved = false;
	}
}

/* ---- bytes ---- */

ssize_t
ss_socket_read(SsSocket *sock, char *buf, size_t len, const char **failure)
{
	for (;;)
	{
		ssize_t n = recv(sock->fd, buf, len, 0);

		if (n > 0)
			return n;
		if (n == 0)
		{
			*failure = "The server closed the connection.";
			return -1;
		}
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		if (errno != EINTR)
		{
			*failure = psprintf("Reading failed: %s.", pg_strerror(errno));
			return -1;
		}
	}
}

ssize_t
ss_socket_write(SsSocket *sock, const char *buf, size_t len, const char **failure)
{
	for (;;)
	{
		ssize_t n;

		if (sock->send_failed)
			return len;
		n = send(sock->fd, buf, len, MSG_NOSIGNAL);
		if (n > 0)
			return n;
		if (n == 0 || errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		if (errno == EPIPE || errno == ECONNRESET)
			sock->send_failed = true;
		else if (errno != EINTR)
		{
			*failure = psprintf("Sending failed: %s.", pg_strerror(errno));
			return -1;
		}
	}
}

int
ss_socket_wait(SsSocket *sock, int events, int64 timeout_ms, uint32 wait_event_info)
{
	int rc;

	events |= WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	if (timeout_ms >= 0)
		events |= WL_TIMEOUT;
	rc = WaitLatchOrSocket(MyLatch, events, sock->fd, (long) Min(timeout_ms, INT_MAX), wait_event_info);
	if (rc & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return rc;
}

bool
ss_socket_is_quiet(SsSocket *sock)
{
	char byte;

	if (sock->fd == PGINVALID_SOCKET || sock->send_failed)
		return false;
	return recv(sock->fd, &byte, 1, MSG_PEEK) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* ---- connecting ---- */

/* The addresses to try, in CurrentMemoryContext; their number, or 0 with *failure set. */
static int
resolve_host(const SsRedisParams *params, Address **addresses, const char **failure)
{
	struct addrinfo	 hints = {0};
	struct addrinfo *found = NULL;
	char			 port[16];
	int				 n = 0;
	int				 rc;

	if (params->path != NULL)
	{
		struct sockaddr_un *un;

		*addresses = palloc0(sizeof(Address));
		un = (struct sockaddr_un *) &(*addresses)->addr;
		if (strlen(params->path) >= sizeof(un->sun_path))
		{
			*failure = psprintf("The path of a unix socket has at most %d bytes.",
								(int) sizeof(un->sun_path) - 1);
			return 0;
		}
		un->sun_family = AF_UNIX;
		strlcpy(un->sun_path, params->path, sizeof(un->sun_path));
		(*addresses)->family = AF_UNIX;
		(*addresses)->len = sizeof(struct sockaddr_un);
		return 1;
	}

	hints.ai_family = AF_UNSPEC;
	hints.ai_socktype = SOCK_STREAM;
	snprintf(port, sizeof(port), "%d", params->port);
	rc = getaddrinfo(params->host, port, &hints, &found);
	if (rc != 0)
	{
		*failure = psprintf("Could not translate host name \"%s\" to an address: %s.",
							params->host, gai_strerror(rc));
		return 0;
	}

	/* copied, so that no error can leak the list; allocated without throwing for the same reason */
	for (struct addrinfo *ai = found; ai != NULL; ai = ai->ai_next)
		n++;
	*addresses = MemoryContextAllocExtended(CurrentMemoryContext, Max(n, 1) * sizeof(Address),
											MCXT_ALLOC_NO_OOM | MCXT_ALLOC_ZERO);
	n = 0;
	for (struct addrinfo *ai = found; ai != NULL && *addresses != NULL; ai = ai->ai_next)
	{
		Address *address = &(*addresses)[n];

		if (ai->ai_addrlen > sizeof(address->addr))
			continue;
		address->family = ai->ai_family;
		address->protocol = ai->ai_protocol;
		address->len = ai->ai_addrlen;
		memcpy(&address->addr, ai->ai_addr, ai->ai_addrlen);
		n++;
	}
	freeaddrinfo(found);
	if (n == 0)
		*failure = psprintf("Host name \"%s\" has no usable address.", params->host);
	return n;
}

static void
set_option(SsSocket *sock, int level, int option, int value)
{
	/* best effort: the connection works without */
	(void) setsockopt(sock->fd, level, option, &value, sizeof(value));
}

/* A peer that is gone without a word is noticed within a minute or the time a reply may take. */
static void
set_tcp_options(SsSocket *sock, const SsRedisParams *params)
{
	set_option(sock, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(sock, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
	set_option(sock, IPPROTO_TCP, TCP_KEEPIDLE, 30);
#endif
#ifdef TCP_KEEPINTVL
	set_option(sock, IPPROTO_TCP, TCP_KEEPINTVL, 10);
#endif
#ifdef TCP_KEEPCNT
	set_option(sock, IPPROTO_TCP, TCP_KEEPCNT, 3);
#endif
#ifdef TCP_USER_TIMEOUT
	set_option(sock, IPPROTO_TCP, TCP_USER_TIMEOUT, Max(params->command_timeout, 1000));
#endif
}

/* Wait for a connection under way; 0, or an errno. */
static int
finish_connect(SsSocket *sock, int64 deadline, uint32 wait_event_info)
{
	for (;;)
	{
		int64	  left = deadline - ss_socket_now();
		int		  err = 0;
		socklen_t len = sizeof(err);

		if (left <= 0)
			return ETIMEDOUT;
		if (!(ss_socket_wait(sock, WL_SOCKET_CONNECTED, left, wait_event_info) & WL_SOCKET_CONNECTED))
			continue;
		if (getsockopt(sock->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
			return errno;
		return err;
	}
}

/* Begin to connect and wait for the end of it; 0, or an errno. */
static int
connect_descriptor(SsSocket *sock, const Address *address, int64 deadline, uint32 wait_event_info)
{
	for (;;)
	{
		if (connect(sock->fd, (const struct sockaddr *) &address->addr, address->len) == 0)
			return 0;
		if (errno == EINPROGRESS || errno == EINTR)
			return finish_connect(sock, deadline, wait_event_info);
		if (errno != EAGAIN)
			return errno;

		/* a unix socket whose queue is full: no event tells when it has room */
		if (ss_socket_now() >= deadline)
			return ETIMEDOUT;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10L, wait_event_info);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Try one address; 0, or an errno with the descriptor closed. */
static int
connect_address(SsSocket *sock, const Address *address, const SsRedisParams *params,
				int64 deadline, uint32 wait_event_info)
{
	int err;

	sock->fd = socket(address->family, SOCK_STREAM, address->protocol);
	if (sock->fd == PGINVALID_SOCKET)
		return errno;
	if (!pg_set_noblock(sock->fd) || fcntl(sock->fd, F_SETFD, FD_CLOEXEC) < 0)
		err = errno;
	else
	{
		if (address->family != AF_UNIX)
			set_tcp_options(sock, params);
		err = connect_descriptor(sock, address, deadline, wait_event_info);
	}
	if (err != 0)
		close_descriptor(sock);
	return err;
}

const char *
ss_socket_connect(SsSocket *sock, const SsRedisParams *params, int64 deadline, uint32 wait_event_info)
{
	Address	   *addresses = NULL;
	const char *failure = NULL;
	int			err = ETIMEDOUT;
	int			n;

	if (!AcquireExternalFD())
		return "There are too many open files on the local server.";
	sock->reserved = true;

	n = resolve_host(params, &addresses, &failure);
	if (n == 0)
		return failure;

	/* the first address that answers; each gets its share of the time */
	for (int i = 0; i < n; i++)
	{
		int64 now = ss_socket_now();

		if (now >= deadline)
			break;
		err = connect_address(sock, &addresses[i], params, now + (deadline - now) / (n - i), wait_event_info);
		if (err == 0)
			break;
	}
	pfree(addresses);
	if (err == 0)
		return NULL;
	if (params->path != NULL)
		return psprintf("Unix socket \"%s\": %s.", params->path, pg_strerror(err));
	return psprintf("Host \"%s\", port %d: %s.", params->host, params->port, pg_strerror(err));
}
