/*
 * ss_xadd.c
 *	  xadd(): add an entry to a stream at once, from SQL.
 *
 * NOTES
 *	  Not transactional: the entry is there when the call returns, and a
 *	  rollback leaves it.  A lost connection during the call leaves open whether
 *	  it was added; nothing is repeated.
 *
 *	  A session keeps one connection for each pair of server and role.  It is
 *	  dropped when a server or user mapping changes, when it is found closed, and
 *	  after every error.  Privileges are checked in each call.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "ss_arguments.h"
#include "ss_entryid.h"
#include "ss_server.h"

SS_SQL_FUNCTION(streamsink_xadd);

#define REPLY_MAX (64 * 1024)

typedef struct ConnectionKey
{
	Oid server;
	Oid role;
} ConnectionKey;

typedef struct Connection
{
	ConnectionKey key;	 /* first */
	SsRedis		 *redis; /* or NULL */
	bool		  stale; /* made with options that may have changed */
} Connection;

static HTAB *connections = NULL;

/* ---- connections ---- */

static void
mark_stale(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS seq;
	Connection	   *connection;

	hash_seq_init(&seq, connections);
	while ((connection = hash_seq_search(&seq)) != NULL)
		connection->stale = true;
}

static void
drop_connection(Connection *connection)
{
	SsRedis *redis = connection->redis;

	connection->redis = NULL;
	ss_redis_close(redis);
}

/* The session's open connection for the current user; params are what it is opened with. */
static Connection *
find_connection(const SsRedisParams *params)
{
	ConnectionKey key;
	Connection	 *connection;
	char		  client_name[64];
	bool		  found;

	if (connections == NULL)
	{
		HASHCTL ctl = {0};
		HTAB   *made;

		ctl.keysize = sizeof(ConnectionKey);
		ctl.entrysize = sizeof(Connection);
		made = hash_create("streamsink connections", 8, &ctl, HASH_ELEM | HASH_BLOBS);
		/* in this order: the callbacks look into the table, and cannot be taken back */
		connections = made;
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, mark_stale, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, mark_stale, (Datum) 0);
	}

	key.server = ss_server_oid(params->server_name);
	key.role = GetUserId();
	connection = hash_search(connections, &key, HASH_ENTER, &found);
	if (!found)
	{
		connection->redis = NULL;
		connection->stale = false;
	}

	if (connection->redis != NULL && (connection->stale || !ss_redis_is_alive(connection->redis)))
		drop_connection(connection);
	if (connection->redis == NULL)
	{
		/* before, not after: an invalidation that arrives while connecting counts */
		connection->stale = false;
		snprintf(client_name, sizeof(client_name), "streamsink:session:%d", MyProcPid);
		connection->redis = ss_redis_open(params, TopMemoryContext, client_name);
	}
	return connection;
}

/* ---- the command ---- */

/* "*", "ms-*", "ms" or "ms-seq": checked here, so that the message is ours. */
static void
check_id(const char *id)
{
	size_t	  len = strlen(id);
	SsEntryId parsed;

	if (strcmp(id, "*") == 0)
		return;
	if (len > 2 && strcmp(id + len - 2, "-*") == 0)
	{
		len -= 2;
		if (memchr(id, '-', len) == NULL && ss_entryid_parse(id, len, &parsed))
			return;
	}
	else if (ss_entryid_parse(id, len, &parsed))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid entry id \"%s\"", id),
			 errhint("Use *, or an id such as 1712345678901-0 or 1712345678901-*.")));
}

static void
require_argument(bool isnull, const char *name)
{
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

/* xadd(server text, stream text, fields jsonb, id text, maxlen bigint) */
Datum
streamsink_xadd(PG_FUNCTION_ARGS)
{
	SsArguments	   args;
	SsRedisParams *params;
	Connection	  *connection;
	SsReply *volatile reply = NULL;
	SsArena	   arena;
	SsEntryId *result;
	text	  *stream;
	char	  *id;
	char	   number[32];

	require_argument(PG_ARGISNULL(0), "server");
	require_argument(PG_ARGISNULL(1), "stream");
	require_argument(PG_ARGISNULL(2), "fields");
	stream = PG_GETARG_TEXT_PP(1);
	id = PG_ARGISNULL(3) ? "*" : text_to_cstring(PG_GETARG_TEXT_PP(3));
	check_id(id);
	params = ss_server_params(text_to_cstring(PG_GETARG_TEXT_PP(0)), GetUserId());

	ss_arguments_init(&args);
	ss_arguments_add(&args, "XADD", 4);
	ss_arguments_add_text(&args, VARDATA_ANY(stream), VARSIZE_ANY_EXHDR(stream));
	if (!PG_ARGISNULL(4))
	{
		int64 maxlen = PG_GETARG_INT64(4);

		if (maxlen < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("maxlen must not be negative")));
		snprintf(number, sizeof(number), INT64_FORMAT, maxlen);
		ss_arguments_add(&args, "MAXLEN", 6);
		ss_arguments_add(&args, "~", 1);
		ss_arguments_add(&args, number, strlen(number));
	}
	ss_arguments_add(&args, id, strlen(id));
	ss_arguments_add_fields(&args, PG_GETARG_JSONB_P(2));

	connection = find_connection(params);
	ss_arena_init(&arena, CurrentMemoryContext, REPLY_MAX);
	PG_TRY();
	{
		reply = ss_redis_call(connection->redis, &arena, args.n, args.argv, args.lens);
	}
	PG_CATCH();
	{
		drop_connection(connection);
		PG_RE_THROW();
	}
	PG_END_TRY();

	/* an error reply is a complete one: the connection stays good */
	ss_reply_expect(reply, SS_REPLY_STRING, 0, "XADD");
	result = palloc(sizeof(SsEntryId));
	if (!ss_entryid_parse(reply->str, reply->n, result))
	{
		drop_connection(connection);
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected reply to XADD"),
				 errdetail("The server did not send the id of the entry.")));
	}
	PG_RETURN_ENTRYID_P(result);
}
