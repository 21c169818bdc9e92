/*
 * ss_courier.c
 *	  The courier: carries a database's outbox to Redis, then exits.
 *
 * NOTES
 *	  A short-lived background worker, at most one per database.  It reads rows
 *	  that are committed, makes sure that they are flushed (a crash must not
 *	  undo what Redis has been told), sends one command after the other, and
 *	  deletes each row once Redis has answered.  No transaction is open while it
 *	  waits for Redis.  A crash between answer and deletion repeats a command:
 *	  at least once.
 *
 *	  Rows for one server and role go out in the order of their ids.  When the connection
 *	  fails, or Redis is not ready, that server and role are left alone until the next try;
 *	  when Redis refuses one command, only its key is, so that one bad key does not hold
 *	  up the others.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_fault.h"
#include "ss_guc.h"
#include "ss_outbox.h"
#include "ss_server.h"
#include "ss_shmem.h"
#include "ss_stream.h"
#include "ss_worker.h"

/* What is read at once. */
#define PAGE_ROWS  64
#define PAGE_BYTES (16 * 1024 * 1024)

/* Connections that are kept open. */
#define MAX_OPEN 16

/* The first wait after a failure; doubled by each further one up to streamsink.backoff_max. */
#define FIRST_BACKOFF_MS 1000

/* Replies are short: a status, an id, a number or an error. */
#define MAX_REPLY_BYTES (64 * 1024)

/* ... but a group may have many consumers. */
#define MAX_CONSUMER_BYTES (16 * 1024 * 1024)

/* A command of the outbox: its words, then the row's name, then its arguments. */
typedef struct Command
{
	const char *kind;
	const char *words[2]; /* the second may be NULL */
	int			min_args;
	bool		removes; /* what is gone already is as good as removed */
	bool		markers; /* one for each marker that is found */
} Command;

static const Command commands[] = {
	{"xadd", {"XADD", NULL}, 3, false, false},
	{"publish", {"PUBLISH", NULL}, 1, false, false},
	{"group_destroy", {"XGROUP", "DESTROY"}, 1, true, false},
	{"marker_delete", {"XGROUP", "DELCONSUMER"}, 2, true, true},
};

/* A server as one role reaches it. */
typedef struct Channel
{
	char	*server;
	char	*role;
	SsRedis *redis;	  /* or NULL */
	bool	 down;	  /* nothing more goes there in this pass */
	List	*blocked; /* keys (char *) that are left alone in this pass */
} Channel;

typedef struct Courier
{
	MemoryContext cxt;	/* channels */
	MemoryContext page; /* rows; reset for each page */
	MemoryContext work; /* one command; reset for each */
	List		 *channels;
	int			  open;
	bool		  more;		/* rows are left */
	TimestampTz	  retry_at; /* when to try them again */
} Courier;

/* ---- transactions ---- */

static void
begin_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
}

/*
 * Flush the log up to its end.  A position at the very start of a page is
 * reported behind the page's header, where nothing has been written yet and
 * which XLogFlush would refuse: step back to the end of what there is.
 */
static void
flush_log(void)
{
	XLogRecPtr end = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(end, wal_segment_size) == SizeOfXLogLongPHD)
		end -= SizeOfXLogLongPHD;
	else if (end % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		end -= SizeOfXLogShortPHD;
	XLogFlush(end);
}

/* The next page of rows, committed and flushed. */
static List *
read_page(Courier *courier, int64 after)
{
	List *rows;

	MemoryContextReset(courier->page);
	begin_transaction();
	MemoryContextSwitchTo(courier->page);
	rows = ss_outbox_read(after, PAGE_ROWS, PAGE_BYTES);
	CommitTransactionCommand();
	MemoryContextSwitchTo(courier->cxt);
	if (rows != NIL)
		flush_log();
	return rows;
}

static void
delete_row(Courier *courier, const SsOutboxRow *row)
{
	begin_transaction();
	ss_outbox_delete(row->id);
	CommitTransactionCommand();
	MemoryContextSwitchTo(courier->cxt);
}

/* Note why a row failed, and when the next try is due. */
static void
fail_row(Courier *courier, const SsOutboxRow *row, const char *error)
{
	int64		backoff = (int64) FIRST_BACKOFF_MS << Min(row->attempts, 20);
	TimestampTz due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(backoff, (int64) ss_guc_backoff_max));

	begin_transaction();
	ss_outbox_fail(row->id, error);
	CommitTransactionCommand();
	MemoryContextSwitchTo(courier->cxt);

	if (!courier->more || due < courier->retry_at)
		courier->retry_at = due;
	courier->more = true;
}

/* ---- channels ---- */

static Channel *
get_channel(Courier *courier, const SsOutboxRow *row)
{
	Channel	 *channel;
	ListCell *lc;

	foreach(lc, courier->channels)
	{
		channel = lfirst(lc);
		if (strcmp(channel->server, row->server) == 0 && strcmp(channel->role, row->role) == 0)
			return channel;
	}
	channel = palloc0(sizeof(Channel));
	channel->server = pstrdup(row->server);
	channel->role = pstrdup(row->role);
	courier->channels = lappend(courier->channels, channel);
	return channel;
}

static void
close_channel(Courier *courier, Channel *channel)
{
	SsRedis *redis = channel->redis;

	if (redis == NULL)
		return;
	channel->redis = NULL;
	courier->open--;
	ss_redis_close(redis);
}

/* Connect, unless that is done.  ERROR if the server, the role or Redis is not there. */
static void
open_channel(Courier *courier, Channel *channel)
{
	SsRedisParams *params;
	Oid			   role;
	ListCell	  *lc;

	if (channel->redis != NULL)
		return;

	if (courier->open >= MAX_OPEN)
	{
		foreach(lc, courier->channels)
			close_channel(courier, lfirst(lc));
	}

	begin_transaction();
	MemoryContextSwitchTo(courier->work);
	role = get_role_oid(channel->role, false);
	params = ss_server_params(channel->server, role);
	CommitTransactionCommand();
	MemoryContextSwitchTo(courier->work);

	channel->redis = ss_redis_open(params, courier->cxt, "streamsink courier");
	courier->open++;
}

static bool
is_blocked(const Channel *channel, const char *name)
{
	ListCell *lc;

	if (channel->down)
		return true;
	foreach(lc, channel->blocked)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

/* ---- one command ---- */

/* How a row is sent; NULL if it is of no kind we know, or lacks arguments. */
static const Command *
find_command(const SsOutboxRow *row)
{
	int i;

	for (i = 0; i < lengthof(commands); i++)
	{
		if (strcmp(commands[i].kind, row->kind) == 0)
			return row->nargs >= commands[i].min_args ? &commands[i] : NULL;
	}
	return NULL;
}

/* Does the reply say that what should be removed is not there? */
static bool
is_gone(const SsReply *reply)
{
	static const char no_key[] = "ERR The XGROUP subcommand requires the key to exist";

	return ss_reply_error_is(reply, "NOGROUP") || ss_reply_error_is(reply, "WRONGTYPE") ||
		   strncmp(reply->str, no_key, sizeof(no_key) - 1) == 0;
}

/* Is there no such stream or group? */
static bool
is_missing(const SsReply *reply)
{
	return is_gone(reply) || strstr(reply->str, "no such key") != NULL;
}

/* Would every command fail like this now, whatever its key? */
static bool
is_servers_fault(const SsReply *reply)
{
	int sqlstate = ss_reply_sqlstate(reply);

	return sqlstate == ERRCODE_CANNOT_CONNECT_NOW || sqlstate == ERRCODE_INVALID_PASSWORD ||
		   ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_CONNECTION_EXCEPTION;
}

static SsReply *
next_reply(Channel *channel, SsArena *arena)
{
	return ss_redis_receive(channel->redis, arena, 0, PG_WAIT_EXTENSION);
}

/*
 * Remove the consumers of a group whose names begin as the row says; they have
 * nothing pending.  The marker that takes their place, if the row names one, is
 * made at the same moment: nobody finds the group without one.
 */
static const SsReply *
delete_markers(Courier *courier, Channel *channel, const SsOutboxRow *row)
{
	const char	   *argv[5] = {"XINFO", "CONSUMERS", row->name, row->args[0]};
	size_t			lengths[5] = {5, 9, strlen(row->name), row->arglens[0]};
	SsConsumerInfo *consumers;
	SsReply		   *reply;
	SsReply		   *error = NULL;
	SsArena			arena;
	int				n;
	int				sent = 0;

	open_channel(courier, channel);
	ss_arena_init(&arena, courier->work, MAX_CONSUMER_BYTES);
	reply = ss_redis_call(channel->redis, &arena, 4, argv, lengths);
	if (reply->type == SS_REPLY_ERROR && !is_missing(reply))
		return reply;
	n = ss_stream_parse_consumers(reply, &consumers);

	argv[0] = "XGROUP";
	lengths[0] = strlen(argv[0]);
	argv[1] = "DELCONSUMER";
	lengths[1] = strlen(argv[1]);
	for (int i = 0; i < n; i++)
	{
		if (consumers[i].name_len < row->arglens[1] ||
			memcmp(consumers[i].name, row->args[1], row->arglens[1]) != 0)
			continue;
		if (sent++ == 0)
			ss_stream_append_multi(channel->redis);
		argv[4] = consumers[i].name;
		lengths[4] = consumers[i].name_len;
		ss_redis_append(channel->redis, 5, argv, lengths);
	}
	if (sent == 0)
		return NULL;
	if (row->nargs > 2)
	{
		argv[1] = "CREATECONSUMER";
		lengths[1] = strlen(argv[1]);
		argv[4] = row->args[2];
		lengths[4] = row->arglens[2];
		ss_redis_append(channel->redis, 5, argv, lengths);
		sent++;
	}
	ss_stream_append_exec(channel->redis);

	for (int i = 0; i < sent + 2; i++)
	{
		reply = next_reply(channel, &arena);
		if (reply->type == SS_REPLY_ERROR && error == NULL)
			error = reply;
	}
	if (error != NULL)
		return error;
	ss_reply_expect(reply, SS_REPLY_ARRAY, sent, "EXEC");
	for (int i = 0; i < sent; i++)
		if (reply->items[i].type == SS_REPLY_ERROR && !is_gone(&reply->items[i]))
			return &reply->items[i];
	return NULL;
}

/* Send one row's command and wait for the answer: NULL if it is done, else the error reply. */
static const SsReply *
send_row(Courier *courier, Channel *channel, const Command *command, const SsOutboxRow *row)
{
	int			 nwords = command->words[1] != NULL ? 2 : 1;
	int			 argc = nwords + 1 + row->nargs;
	const char **argv;
	size_t		*lengths;
	SsArena		 arena;
	SsReply		*reply;
	int			 i;

	open_channel(courier, channel);

	argv = MemoryContextAllocExtended(courier->work, argc * sizeof(char *), MCXT_ALLOC_HUGE);
	lengths = MemoryContextAllocExtended(courier->work, argc * sizeof(size_t), MCXT_ALLOC_HUGE);
	for (i = 0; i < nwords; i++)
	{
		argv[i] = command->words[i];
		lengths[i] = strlen(command->words[i]);
	}
	argv[nwords] = row->name;
	lengths[nwords] = strlen(row->name);
	for (i = 0; i < row->nargs; i++)
	{
		argv[nwords + 1 + i] = row->args[i];
		lengths[nwords + 1 + i] = row->arglens[i];
	}

	ss_arena_init(&arena, courier->work, MAX_REPLY_BYTES);
	reply = ss_redis_call(channel->redis, &arena, argc, argv, lengths);
	if (reply->type != SS_REPLY_ERROR || (command->removes && is_gone(reply)))
		return NULL;
	return reply;
}

/*
 * Send one row's command: NULL if it is done, else why not, in the work
 * context.  Only FATAL leaves this function; the channel is closed after an
 * error of ours, and is down or the key is blocked as the error has it.
 */
static const char *
try_row(Courier *courier, Channel *channel, const SsOutboxRow *row)
{
	const Command *command = find_command(row);
	const SsReply *volatile refused = NULL;
	const char *volatile error = NULL;

	if (command == NULL)
	{
		channel->blocked = lappend(channel->blocked, pstrdup(row->name));
		return "not a command that can be carried out";
	}

	PG_TRY();
	{
		MemoryContextSwitchTo(courier->work);
		if (command->markers)
			refused = delete_markers(courier, channel, row);
		else
			refused = send_row(courier, channel, command, row);
	}
	PG_CATCH();
	{
		ErrorData *edata;

		MemoryContextSwitchTo(courier->work);
		edata = CopyErrorData();
		FlushErrorState();
		if (IsTransactionState())
			AbortCurrentTransaction();
		close_channel(courier, channel);
		channel->down = true;
		error = edata->message != NULL ? edata->message : "unknown error";
	}
	PG_END_TRY();

	if (refused != NULL)
	{
		MemoryContextSwitchTo(courier->work);
		error = ss_reply_printable(refused->str, refused->n, SS_TEXT_MAX);
		MemoryContextSwitchTo(courier->cxt);
		if (is_servers_fault(refused))
			channel->down = true;
		else
			channel->blocked = lappend(channel->blocked, pstrdup(row->name));
	}
	MemoryContextSwitchTo(courier->cxt);
	return error;
}

static void
carry_row(Courier *courier, const SsOutboxRow *row)
{
	Channel	   *channel = get_channel(courier, row);
	const char *error;

	if (is_blocked(channel, row->name))
	{
		courier->more = true;
		return;
	}

	SS_FAULT("before-carry");
	error = try_row(courier, channel, row);
	if (error == NULL)
	{
		SS_FAULT("after-carry");
		delete_row(courier, row);
	}
	else
	{
		/* the first failure says so in the log, repetitions only in the row */
		if (row->attempts == 0)
			ereport(LOG,
					(errmsg("could not carry out outbox row %lld (%s) on server \"%s\": %s",
							(long long) row->id, row->kind, row->server, error)));
		fail_row(courier, row, error);
	}
	MemoryContextReset(courier->work);
}

/* Everything there is, once, in order. */
static void
carry_outbox(Courier *courier)
{
	int64 after = 0;
	List *rows;

	while ((rows = read_page(courier, after)) != NIL)
	{
		ListCell *lc;

		foreach(lc, rows)
		{
			const SsOutboxRow *row = lfirst(lc);

			CHECK_FOR_INTERRUPTS();
			carry_row(courier, row);
			after = row->id;
		}
	}
}

/* ---- the process ---- */

/* What the role's and the database's settings must not bend. */
static void
pin_settings(void)
{
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);

	/* deletions need not wait for the disk: what a crash takes back is sent again */
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);
}

SS_EXPORT void
streamsink_courier_main(Datum main_arg)
{
	SsWorkerArgs args;
	Courier		 courier = {0};

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	if (ss_shmem == NULL || !ss_shmem_attach(DatumGetInt32(main_arg), args.slot_generation))
		proc_exit(0);

	BackgroundWorkerInitializeConnectionByOid(args.database, InvalidOid, 0);
	pin_settings();
	pgstat_report_activity(STATE_RUNNING, "carrying the outbox to Redis");

	courier.cxt = AllocSetContextCreate(TopMemoryContext, "streamsink courier", ALLOCSET_DEFAULT_SIZES);
	courier.page = AllocSetContextCreate(courier.cxt, "streamsink courier page", ALLOCSET_DEFAULT_SIZES);
	courier.work = AllocSetContextCreate(courier.cxt, "streamsink courier command", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(courier.cxt);

	ss_shmem_courier_look();
	carry_outbox(&courier);
	ss_shmem_courier_done(MyDatabaseId, courier.more, courier.more ? courier.retry_at : 0);
	proc_exit(0);
}
