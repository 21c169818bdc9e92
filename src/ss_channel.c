/*
 * ss_channel.c
 *	  A server as one role reaches it: the courier's connections.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "ss_channel.h"
#include "ss_server.h"

SsChannel *
ss_channel_create(MemoryContext parent, const char *server, const char *role)
{
	MemoryContext cxt = AllocSetContextCreate(parent, "streamsink channel", ALLOCSET_SMALL_SIZES);
	SsChannel	 *channel = MemoryContextAllocZero(cxt, sizeof(SsChannel));

	channel->cxt = cxt;
	channel->server = MemoryContextStrdup(cxt, server);
	channel->role = MemoryContextStrdup(cxt, role);
	return channel;
}

void
ss_channel_begin(void)
{
	MemoryContext saved = CurrentMemoryContext;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(saved);
}

void
ss_channel_commit(void)
{
	MemoryContext saved = CurrentMemoryContext;

	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool
same_params(const SsRedisParams *a, const SsRedisParams *b)
{
	return same_text(a->host, b->host) && a->port == b->port && same_text(a->path, b->path) && a->db == b->db &&
		   a->connect_timeout == b->connect_timeout && a->command_timeout == b->command_timeout &&
		   same_text(a->username, b->username) && same_text(a->password, b->password);
}

void
ss_channel_open(SsChannel *channel)
{
	SsRedisParams *params;

	ss_channel_begin();
	params = ss_server_params(channel->server, get_role_oid(channel->role, false));
	ss_channel_commit();

	if (channel->redis != NULL &&
		(!same_params(params, ss_redis_params(channel->redis)) || !ss_redis_is_alive(channel->redis)))
		ss_channel_close(channel);
	if (channel->redis == NULL)
		channel->redis = ss_redis_open(params, channel->cxt, "streamsink courier");
}

void
ss_channel_close(SsChannel *channel)
{
	SsRedis *redis = channel->redis;

	channel->redis = NULL;
	ss_redis_close(redis);
}

void
ss_channel_fail(SsChannel *channel, const char *error)
{
	if (channel->error != NULL)
		pfree(channel->error);
	channel->error = NULL;
	channel->down = true;
	channel->error = MemoryContextStrdup(channel->cxt, error);
}
