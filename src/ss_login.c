/*
 * ss_login.c
 *	  The first commands of a connection.
 *
 * NOTES
 *	  Of what the server says to AUTH only known error words are shown: some
 *	  servers repeat the arguments of a command they do not know.
 *
 *	  Where the user "default" needs no password, Redis takes any for it when it
 *	  is named, and refuses one that is sent alone.  So it is never named: who must
 *	  bring a password cannot make one up.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/memutils.h"

#include "ss_login.h"

#define LOGIN_REPLY_MAX (64 * 1024)

typedef enum LoginCommand
{
	LOGIN_AUTH,
	LOGIN_SELECT,
	LOGIN_SETNAME,
	LOGIN_PING
} LoginCommand;

static void pg_attribute_noreturn()
	refuse_login(const SsRedisParams *params, const SsReply *reply)
{
	const char *word = ss_reply_error_word(reply);
	int			code = ss_reply_sqlstate(reply);

	if (code == ERRCODE_TOO_MANY_CONNECTIONS)
		ereport(ERROR,
				(errcode(code),
				 errmsg("Redis server \"%s\" has too many clients", params->server_name)));
	if (code == ERRCODE_CANNOT_CONNECT_NOW)
		ereport(ERROR,
				(errcode(code),
				 errmsg("Redis server \"%s\" does not accept commands now", params->server_name),
				 errdetail("The server answered %s.", word)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PASSWORD),
			 errmsg("Redis server \"%s\" refused the log-in", params->server_name),
			 word ? errdetail("The server answered %s.", word) : 0,
			 params->password == NULL ?
				 errhint("Set password, and username if needed, in the user mapping.") :
				 errhint("Check username and password of the user mapping; the server may expect none.")));
}

static void
check_reply(const SsRedisParams *params, const SsReply *reply, LoginCommand command)
{
	int code;

	if (reply->type != SS_REPLY_ERROR)
	{
		ss_reply_expect(reply, SS_REPLY_STATUS, 0, "the log-in");
		return;
	}

	code = ss_reply_sqlstate(reply);
	if (command == LOGIN_AUTH ||
		code == ERRCODE_INVALID_PASSWORD || code == ERRCODE_TOO_MANY_CONNECTIONS ||
		ss_reply_error_is(reply, "LOADING") || ss_reply_error_is(reply, "BUSY") ||
		ss_reply_error_is(reply, "MASTERDOWN"))
		refuse_login(params, reply);
	if (command == LOGIN_SELECT)
		ss_reply_raise(reply, "SELECT");

	/* the name is for show, and PING is refused in states and by rules that leave other commands be */
}

/* A name that Redis takes: printable, without blanks. */
static char *
clean_client_name(const char *name)
{
	char *result = pstrdup(name);

	for (char *p = result; *p; p++)
	{
		if (*p < '!' || *p > '~')
			*p = '_';
	}
	return result;
}

void
ss_login_run(SsRedis *redis, const char *client_name, int64 deadline, uint32 wait_event_info)
{
	const SsRedisParams *params = ss_redis_params(redis);
	MemoryContext		 cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink log-in", ALLOCSET_SMALL_SIZES);
	MemoryContext		 old = MemoryContextSwitchTo(cxt);
	LoginCommand		 sent[4];
	int					 nsent = 0;
	SsArena				 arena;
	const char			*argv[3];
	char				 number[16];

	if (params->password != NULL)
	{
		bool named = params->username != NULL && strcmp(params->username, "default") != 0;

		argv[0] = "AUTH";
		argv[1] = named ? params->username : params->password;
		argv[2] = params->password;
		ss_redis_append(redis, named ? 3 : 2, argv, NULL);
		sent[nsent++] = LOGIN_AUTH;
	}
	if (params->db != 0)
	{
		snprintf(number, sizeof(number), "%d", params->db);
		argv[0] = "SELECT";
		argv[1] = number;
		ss_redis_append(redis, 2, argv, NULL);
		sent[nsent++] = LOGIN_SELECT;
	}
	if (client_name != NULL)
	{
		argv[0] = "CLIENT";
		argv[1] = "SETNAME";
		argv[2] = clean_client_name(client_name);
		ss_redis_append(redis, 3, argv, NULL);
		sent[nsent++] = LOGIN_SETNAME;
	}
	/* something is always asked: only an answer shows that Redis is there, and ready */
	argv[0] = "PING";
	ss_redis_append(redis, 1, argv, NULL);
	sent[nsent++] = LOGIN_PING;

	ss_arena_init(&arena, cxt, LOGIN_REPLY_MAX);
	for (int i = 0; i < nsent; i++)
		check_reply(params, ss_redis_receive_by(redis, &arena, deadline, wait_event_info), sent[i]);

	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
}
