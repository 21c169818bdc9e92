/*
 * ss_emit.c
 *	  emit() and publish(): an entry for a stream, a message for a channel,
 *	  sent after commit.
 *
 * NOTES
 *	  The calls check what can be checked without Redis and put a row into the
 *	  outbox, in the caller's transaction; all else is the courier's
 *	  (ss_courier.c).  Whose rights count is the current user: inside a function
 *	  with SECURITY DEFINER its owner.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "ss_arguments.h"
#include "ss_emit.h"
#include "ss_outbox.h"
#include "ss_server.h"
#include "ss_shmem.h"

SS_SQL_FUNCTION(streamsink_emit);
SS_SQL_FUNCTION(streamsink_publish);

const SsPipeline *MyPipeline = NULL;

static void
require_argument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

/* The transaction can take commands, and something will carry them out. */
static void
check_state(const char *function)
{
	PreventCommandDuringRecovery(function);
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	ss_shmem_require();
}

/* The server of an argument, by default the pipeline's, if the current user may use it. */
static char *
get_server(FunctionCallInfo fcinfo, int arg)
{
	char *server;

	if (!PG_ARGISNULL(arg))
		server = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	else if (MyPipeline != NULL)
		server = pstrdup(MyPipeline->server);
	else
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", "server"),
				 errdetail("Only in the statements of a pipeline its own server is meant."),
				 errhint("Give a server: server => '...'.")));

	/* it exists, is one of ours, may be used, and there is a password if one is needed */
	(void) ss_server_params(server, GetUserId());
	return server;
}

static void
queue_command(const char *server, const char *kind, const text *name, const SsArguments *args)
{
	SsArguments converted;

	/* a name that is no text could not be sent later */
	ss_arguments_init(&converted);
	ss_arguments_add_text(&converted, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	ss_outbox_add(server, GetUserNameFromId(GetUserId(), false), kind, text_to_cstring(name),
				  MyPipeline != NULL ? MyPipeline->name : NULL, args->n, args->argv, args->lens);
}

/* emit(stream text, fields jsonb, server text) */
Datum
streamsink_emit(PG_FUNCTION_ARGS)
{
	SsArguments args;
	char	   *server;

	check_state("emit()");
	require_argument(fcinfo, 0, "stream");
	require_argument(fcinfo, 1, "fields");
	server = get_server(fcinfo, 2);

	ss_arguments_init(&args);
	ss_arguments_add(&args, "*", 1);
	ss_arguments_add_fields(&args, PG_GETARG_JSONB_P(1));
	queue_command(server, "xadd", PG_GETARG_TEXT_PP(0), &args);
	PG_RETURN_VOID();
}

/* publish(channel text, message text, server text) */
Datum
streamsink_publish(PG_FUNCTION_ARGS)
{
	SsArguments args;
	text	   *message;
	char	   *server;

	check_state("publish()");
	require_argument(fcinfo, 0, "channel");
	require_argument(fcinfo, 1, "message");
	server = get_server(fcinfo, 2);

	message = PG_GETARG_TEXT_PP(1);
	ss_arguments_init(&args);
	ss_arguments_add_text(&args, VARDATA_ANY(message), VARSIZE_ANY_EXHDR(message));
	queue_command(server, "publish", PG_GETARG_TEXT_PP(0), &args);
	PG_RETURN_VOID();
}
