/*
 * ss_channel.h
 *	  A server as one role reaches it: the courier's connections.
 */
#ifndef SS_CHANNEL_H
#define SS_CHANNEL_H

#include "ss_redis.h"

typedef struct SsChannel
{
	char		 *server;
	char		 *role;
	MemoryContext cxt;
	SsRedis		 *redis;   /* or NULL */
	bool		  down;	   /* it failed: nothing goes there until somebody resets this */
	char		 *error;   /* ... why */
	bool		  singly;  /* commands go one by one, because this user may not use MULTI */
	uint64		  last_ms; /* of the last id that was chosen */
	int			  margin;  /* ms that ids are ahead of Redis's clock, because others write to the same streams */
} SsChannel;

/* A closed one. */
extern SsChannel *ss_channel_create(MemoryContext parent, const char *server, const char *role);

/*
 * Connect, unless that is done already and as the definitions are now.  In no
 * transaction; ERROR if the server, the role, its right to use the server or
 * Redis is not there.
 */
extern void ss_channel_open(SsChannel *channel);
extern void ss_channel_close(SsChannel *channel);

/* It failed, for the reason. */
extern void ss_channel_fail(SsChannel *channel, const char *error);

/* A transaction of the courier's, with a snapshot; the memory context is the caller's after both. */
extern void ss_channel_begin(void);
extern void ss_channel_commit(void);

#endif /* SS_CHANNEL_H */
