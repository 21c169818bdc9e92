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

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/syscache.h"

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

/* The arguments of a command. */
typedef struct Arguments
{
	const char **argv;
	size_t		*lens;
	int			 n;
	int			 size;
} Arguments;

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

static void
add_argument(Arguments *args, const char *str, size_t len)
{
	if (args->n == args->size)
	{
		args->size *= 2;
		args->argv = repalloc(args->argv, args->size * sizeof(char *));
		args->lens = repalloc(args->lens, args->size * sizeof(size_t));
	}
	args->argv[args->n] = str;
	args->lens[args->n] = len;
	args->n++;
}

/* Add text of the server's encoding as UTF-8. */
static void
add_text(Arguments *args, const char *str, size_t len)
{
	char *converted = pg_server_to_any(str, (int) len, PG_UTF8);

	add_argument(args, converted, converted == str ? len : strlen(converted));
}

/* A member's value: strings as they are, numbers, booleans and containers as JSON text. */
static void
add_value(Arguments *args, const JsonbValue *value)
{
	char *text;

	switch (value->type)
	{
		case jbvString:
			add_text(args, value->val.string.val, value->val.string.len);
			break;
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
			add_argument(args, text, strlen(text));
			break;
		case jbvBool:
			text = value->val.boolean ? "true" : "false";
			add_argument(args, text, strlen(text));
			break;
		case jbvBinary:
			text = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
			add_text(args, text, strlen(text));
			break;
		default:
			elog(ERROR, "unexpected type of jsonb value: %d", (int) value->type);
	}
}

/* The members of an object as fields and values.  Null members are left out: a field that is missing reads as NULL. */
static void
add_fields(Arguments *args, Jsonb *fields)
{
	JsonbIterator	  *it;
	JsonbIteratorToken token;
	JsonbValue		   value;
	JsonbValue		   name = {0};
	int				   before = args->n;

	if (!JB_ROOT_IS_OBJECT(fields))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("fields must be a JSON object")));

	it = JsonbIteratorInit(&fields->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = value;
		else if (token == WJB_VALUE && value.type != jbvNull)
		{
			add_text(args, name.val.string.val, name.val.string.len);
			add_value(args, &value);
		}
	}
	if (args->n == before)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an entry needs at least one field"),
				 errdetail("Members that are null are left out.")));
}

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
	Arguments	   args;
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

	args.n = 0;
	args.size = 32;
	args.argv = palloc(args.size * sizeof(char *));
	args.lens = palloc(args.size * sizeof(size_t));
	add_argument(&args, "XADD", 4);
	add_text(&args, VARDATA_ANY(stream), VARSIZE_ANY_EXHDR(stream));
	if (!PG_ARGISNULL(4))
	{
		int64 maxlen = PG_GETARG_INT64(4);

		if (maxlen < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("maxlen must not be negative")));
		snprintf(number, sizeof(number), INT64_FORMAT, maxlen);
		add_argument(&args, "MAXLEN", 6);
		add_argument(&args, "~", 1);
		add_argument(&args, number, strlen(number));
	}
	add_argument(&args, id, strlen(id));
	add_fields(&args, PG_GETARG_JSONB_P(2));

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
