/*
 * ss_login.h
 *	  The first commands of a connection: who we are, which database, and
 *	  whether this is Redis at all.
 */
#ifndef SS_LOGIN_H
#define SS_LOGIN_H

#include "ss_redis.h"

/*
 * AUTH, SELECT, CLIENT SETNAME and PING in one go, replies until the deadline
 * (of ss_socket_now).  ERROR as ss_redis_open says; the connection is to be
 * closed then.
 */
extern void ss_login_run(SsRedis *redis, const char *client_name, int64 deadline, uint32 wait_event_info);

#endif /* SS_LOGIN_H */
