/*
 * ss_carry.c
 *	  Commands of the outbox to one server: in order, entries once.
 *
 * NOTES
 *	  Many commands go out in one MULTI: Redis carries out all of them or, when
 *	  it does not accept one, none, so that nothing overtakes what was refused.
 *
 *	  An entry is never sent with the id *, which would add it again when a
 *	  crash hides the answer.  Its id is chosen here, committed, and on disk
 *	  before it is sent; after a crash the stream tells whether it has an entry
 *	  of that id.  If it has none, the same id is sent again: a command that
 *	  still lies in a dead connection then finds its id taken.  Only when Redis
 *	  refuses the id because the stream has larger ones, and still has no such
 *	  entry, another is chosen.  So an entry is added twice only if it was
 *	  removed from the stream, or the stream itself was, before anybody looked.
 *
 *	  Ids are Redis's time and a sequence that begins at a random number: those
 *	  that are in one MULTI are refused all or not at all, because nobody else has an
 *	  id between them.  Others of the stream are in another MULTI.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_carry.h"
#include "ss_carryid.h"
#include "ss_fault.h"
#include "ss_marker.h"
#include "ss_shmem.h"
#include "ss_stream.h"

/* Bytes of arguments that one MULTI carries, unless one command alone has more. */
#define GROUP_BYTES (4 * 1024 * 1024)

/* A group may have many consumers. */
#define MAX_CONSUMER_BYTES (16 * 1024 * 1024)

/* How often ids are chosen anew because others were faster. */
#define MAX_CHOICES 20

/* A command of the outbox: its words, then the row's name, then its arguments. */
typedef struct Command
{
	const char *kind;
	const char *words[2]; /* the second may be NULL */
	int			min_args;
	bool		grouped; /* many in one MULTI */
	bool		removes; /* what is gone already is as good as removed */
	bool		markers; /* one for each marker that is found */
	bool		moves;	 /* not if the group is another pipeline's */
} Command;

static const Command commands[] = {
	{"xadd", {"XADD", NULL}, 3, true, false, false, false},
	{"publish", {"PUBLISH", NULL}, 1, true, false, false, false},
	{"group_destroy", {"XGROUP", "DESTROY"}, 1, false, true, false, false},
	{"group_setid", {"XGROUP", "SETID"}, 3, false, true, false, true},
	{"marker_delete", {"XGROUP", "DELCONSUMER"}, 2, false, true, true, false},
};

/* ---- small things ---- */

static const Command *
find_command(const SsOutboxRow *row)
{
	for (int i = 0; i < lengthof(commands); i++)
	{
		if (strcmp(commands[i].kind, row->kind) == 0)
			return row->nargs >= commands[i].min_args ? &commands[i] : NULL;
	}
	return NULL;
}

bool
ss_carry_has_name(const List *names, const char *name)
{
	ListCell *lc;

	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

List *
ss_carry_add_name(SsCarry *carry, List *names, const char *name)
{
	MemoryContext saved = MemoryContextSwitchTo(carry->cxt);

	if (!ss_carry_has_name(names, name))
		names = lappend(names, unconstify(char *, name));
	MemoryContextSwitchTo(saved);
	return names;
}

void
ss_carry_refuse(SsCarry *carry, SsCarryItem *item, const char *error)
{
	item->outcome = SS_CARRY_REFUSED;
	item->error = MemoryContextStrdup(carry->cxt, error);
	item->doubtful = false;
	carry->refused = ss_carry_add_name(carry, carry->refused, item->row->name);
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
bool
ss_carry_is_servers_fault(const SsReply *reply)
{
	int sqlstate = ss_reply_sqlstate(reply);

	return sqlstate == ERRCODE_CANNOT_CONNECT_NOW || sqlstate == ERRCODE_INVALID_PASSWORD ||
		   sqlstate == ERRCODE_TOO_MANY_CONNECTIONS ||
		   ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_CONNECTION_EXCEPTION;
}

void
ss_carry_take_error(SsCarry *carry, SsCarryItem *item, const SsReply *reply)
{
	MemoryContext saved;

	if (ss_carry_is_servers_fault(reply))
		ss_reply_raise(reply, "the command");
	saved = MemoryContextSwitchTo(carry->work);
	ss_carry_refuse(carry, item, ss_reply_printable(reply->str, reply->n, SS_TEXT_MAX));
	MemoryContextSwitchTo(saved);
}

const SsReply *
ss_carry_receive(SsCarry *carry, SsArena *arena, Size limit)
{
	MemoryContextReset(carry->work);
	ss_arena_init(arena, carry->work, limit);
	return ss_redis_receive(carry->channel->redis, arena, 0, PG_WAIT_EXTENSION);
}

/* ---- sending ---- */

static void
append_command(SsCarry *carry, const SsCarryItem *item)
{
	const SsOutboxRow *row = item->row;
	const Command	  *command = find_command(row);
	int				   nwords = command->words[1] != NULL ? 2 : 1;
	int				   argc = nwords + 1 + row->nargs;
	const char		 **argv = MemoryContextAllocExtended(carry->work, argc * sizeof(char *), MCXT_ALLOC_HUGE);
	size_t			  *lengths = MemoryContextAllocExtended(carry->work, argc * sizeof(size_t), MCXT_ALLOC_HUGE);
	char			   id[SS_ENTRYID_MAXLEN];

	for (int i = 0; i < nwords; i++)
	{
		argv[i] = command->words[i];
		lengths[i] = strlen(argv[i]);
	}
	argv[nwords] = row->name;
	lengths[nwords] = strlen(row->name);
	for (int i = 0; i < row->nargs; i++)
	{
		argv[nwords + 1 + i] = row->args[i];
		lengths[nwords + 1 + i] = row->arglens[i];
	}
	if (ss_carryid_is_entry(item))
	{
		lengths[nwords + 1] = ss_entryid_print(item->id, id);
		argv[nwords + 1] = id;
	}
	ss_redis_append(carry->channel->redis, argc, argv, lengths);
	pfree(argv);
	pfree(lengths);
}

/* What became of a command that was carried out; false if ids of its stream must be chosen again. */
static bool
take_result(SsCarry *carry, SsCarryItem *item, const SsReply *reply)
{
	item->doubtful = false;
	if (reply->type != SS_REPLY_ERROR || (find_command(item->row)->removes && is_gone(reply)))
		item->outcome = SS_CARRY_DONE;
	else if (ss_carryid_is_entry(item) && strstr(reply->str, "equal or smaller") != NULL)
	{
		/* before another id is chosen the stream is asked: a late command of a dead connection may have added it */
		item->doubtful = item->too_small = true;
		return false;
	}
	else
		ss_carry_take_error(carry, item, reply);
	return true;
}

/*
 * The replies to a MULTI.  False: the rest must not be sent before what was not
 * carried out.  ERROR if the server is at fault.
 */
static bool
receive_group(SsCarry *carry, SsCarryItem **group, int n)
{
	SsArena		   arena;
	const SsReply *reply = ss_carry_receive(carry, &arena, SS_CARRY_REPLY_BYTES);
	bool		   multi = reply->type != SS_REPLY_ERROR;
	bool		   aborted = false;
	bool		   in_order = true;

	/* who may not use it has sent single commands */
	if (!multi && ss_carry_is_servers_fault(reply))
		ss_reply_raise(reply, "MULTI");
	carry->channel->singly = !multi;

	for (int i = 0; i < n; i++)
	{
		reply = ss_carry_receive(carry, &arena, SS_CARRY_REPLY_BYTES);
		if (!multi)
			in_order = take_result(carry, group[i], reply) && in_order;
		else if (reply->type == SS_REPLY_ERROR)
		{
			aborted = true;
			ss_carry_take_error(carry, group[i], reply);
		}
	}

	reply = ss_carry_receive(carry, &arena, (Size) SS_CARRY_REPLY_BYTES + (Size) n * 1024);
	if (aborted)
	{
		for (int i = 0; i < n; i++)
			group[i]->doubtful = false;
		return false;
	}
	if (!multi)
		return in_order;
	ss_reply_expect(reply, SS_REPLY_ARRAY, n, "EXEC");
	for (int i = 0; i < n; i++)
		in_order = take_result(carry, group[i], &reply->items[i]) && in_order;
	return in_order;
}

/* Send some commands as one and wait for the answers; see receive_group. */
static bool
send_group(SsCarry *carry, SsCarryItem **group, int n)
{
	static const char *const multi[] = {"MULTI"};
	static const char *const exec[] = {"EXEC"};
	SsRedis					*redis = carry->channel->redis;
	SsArena					 arena;
	List					*again = NIL;
	bool					 in_order;

	if (n == 0)
		return true;

	SS_FAULT("before-carry");
	if (n > 1)
		ss_redis_append(redis, 1, multi, NULL);
	for (int i = 0; i < n; i++)
	{
		append_command(carry, group[i]);
		group[i]->doubtful = ss_carryid_is_entry(group[i]);
	}
	if (SS_FAULT_SET("in-carry"))
		(void) ss_redis_flush(redis);
	SS_FAULT("in-carry");
	if (n > 1)
		ss_redis_append(redis, 1, exec, NULL);
	if (SS_FAULT_SET("sent-carry"))
		(void) ss_redis_flush(redis);
	SS_FAULT("sent-carry");
	if (n > 1)
		in_order = receive_group(carry, group, n);
	else
		in_order = take_result(carry, group[0], ss_carry_receive(carry, &arena, SS_CARRY_REPLY_BYTES));
	MemoryContextReset(carry->work);
	SS_FAULT("after-carry");

	for (int i = 0; i < n; i++)
	{
		const char *name = group[i]->row->name;

		if (group[i]->outcome != SS_CARRY_LEFT || !group[i]->too_small || ss_carry_has_name(again, name))
			continue;
		again = ss_carry_add_name(carry, again, name);
		ss_carryid_refused(carry, name);
	}
	return in_order;
}

/*
 * Remove the consumers of a group whose names begin as the row says; they have
 * nothing pending.  The marker that takes their place, if the row names one, is
 * made at the same moment: nobody finds the group without one.  Returns the
 * error reply, or NULL.
 */
static const SsReply *
delete_markers(SsCarry *carry, const SsOutboxRow *row)
{
	SsRedis		   *redis = carry->channel->redis;
	const char	   *argv[5] = {"XINFO", "CONSUMERS", row->name, row->args[0]};
	size_t			lengths[5] = {5, 9, strlen(row->name), row->arglens[0]};
	const SsReply  *reply;
	const SsReply  *error = NULL;
	SsConsumerInfo *consumers;
	SsArena			arena;
	int				n;
	int				sent = 0;

	ss_redis_append(redis, 4, argv, lengths);
	reply = ss_carry_receive(carry, &arena, MAX_CONSUMER_BYTES);
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
			ss_stream_append_multi(redis);
		argv[4] = consumers[i].name;
		lengths[4] = consumers[i].name_len;
		ss_redis_append(redis, 5, argv, lengths);
	}
	if (sent == 0)
		return NULL;
	if (row->nargs > 2)
	{
		argv[1] = "CREATECONSUMER";
		lengths[1] = strlen(argv[1]);
		argv[4] = row->args[2];
		lengths[4] = row->arglens[2];
		ss_redis_append(redis, 5, argv, lengths);
		sent++;
	}
	ss_stream_append_exec(redis);

	for (int i = 0; i < sent + 2; i++)
	{
		reply = ss_redis_receive(redis, &arena, 0, PG_WAIT_EXTENSION);
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

/*
 * Move a group, unless it bears a marker that does not begin as the row says.
 * Returns the error reply, or NULL.
 */
static const SsReply *
move_group(SsCarry *carry, const SsOutboxRow *row)
{
	SsRedis		   *redis = carry->channel->redis;
	const char	   *argv[5] = {"XINFO", "CONSUMERS", row->name, row->args[0]};
	size_t			lengths[5] = {5, 9, strlen(row->name), row->arglens[0]};
	const SsReply  *reply;
	SsConsumerInfo *consumers;
	SsArena			arena;
	int				n;

	ss_redis_append(redis, 4, argv, lengths);
	reply = ss_carry_receive(carry, &arena, MAX_CONSUMER_BYTES);
	if (reply->type == SS_REPLY_ERROR)
		return is_missing(reply) ? NULL : reply;
	n = ss_stream_parse_consumers(reply, &consumers);
	for (int i = 0; i < n; i++)
	{
		if (ss_marker_is_marker(consumers[i].name) &&
			(consumers[i].name_len < row->arglens[2] ||
			 memcmp(consumers[i].name, row->args[2], row->arglens[2]) != 0))
			return NULL;
	}
	argv[0] = "XGROUP";
	lengths[0] = 6;
	argv[1] = "SETID";
	lengths[1] = 5;
	argv[4] = row->args[1];
	lengths[4] = row->arglens[1];
	ss_redis_append(redis, 5, argv, lengths);
	reply = ss_carry_receive(carry, &arena, SS_CARRY_REPLY_BYTES);
	return reply->type == SS_REPLY_ERROR && !is_gone(reply) ? reply : NULL;
}

/* A command about a group that takes more than one question. */
static void
carry_alone(SsCarry *carry, SsCarryItem *item, const Command *command)
{
	MemoryContext  saved = MemoryContextSwitchTo(carry->work);
	const SsReply *error;

	SS_FAULT("before-carry");
	error = command->moves ? move_group(carry, item->row) : delete_markers(carry, item->row);
	if (error != NULL)
		ss_carry_take_error(carry, item, error);
	else
		item->outcome = SS_CARRY_DONE;
	MemoryContextSwitchTo(saved);
	MemoryContextReset(carry->work);
	SS_FAULT("after-carry");
}

/* What follows something that was refused or is held waits. */
static bool
must_wait(SsCarry *carry, SsCarryItem *item)
{
	if (ss_carry_has_name(carry->refused, item->row->name))
		item->outcome = SS_CARRY_BEHIND;
	else if (ss_carry_has_name(carry->held, item->row->name))
		item->outcome = SS_CARRY_HELD;
	return item->outcome != SS_CARRY_LEFT;
}

/*
 * May an entry share a MULTI with those of its stream that are in it?  Ids that
 * were chosen at different times may be refused apart from each other, and
 * then a later entry would be before an earlier one.
 */
static bool
fits_group(SsCarryItem **group, int n, const SsCarryItem *item)
{
	if (!ss_carryid_is_entry(item))
		return true;
	for (int i = n - 1; i >= 0; i--)
		if (ss_carryid_is_entry(group[i]) && strcmp(group[i]->row->name, item->row->name) == 0)
			return group[i]->id.ms == item->id.ms;
	return true;
}

/* Everything that is left, once, in order; false if something must be tried again, and nothing behind it was. */
static bool
send_all(SsCarry *carry)
{
	SsCarryItem **group = MemoryContextAlloc(carry->cxt, carry->n * sizeof(SsCarryItem *));
	Size		  bytes = 0;
	int			  n = 0;
	bool		  in_order = true;

	for (int i = 0; in_order && i < carry->n; i++)
	{
		SsCarryItem	  *item = carry->items[i];
		const Command *command = find_command(item->row);

		CHECK_FOR_INTERRUPTS();
		if (item->outcome != SS_CARRY_LEFT || must_wait(carry, item))
			continue;
		if (command == NULL)
		{
			ss_carry_refuse(carry, item, "not a command that can be carried out");
			continue;
		}
		if (n > 0 && (!command->grouped || bytes + item->row->bytes > GROUP_BYTES || carry->channel->singly ||
					  !fits_group(group, n, item)))
		{
			in_order = send_group(carry, group, n);
			n = 0;
			bytes = 0;
			i--; /* what was refused may concern this one */
			continue;
		}
		if (command->markers || command->moves)
			carry_alone(carry, item, command);
		else if (!command->grouped)
			in_order = send_group(carry, &item, 1);
		else
		{
			group[n++] = item;
			bytes += item->row->bytes;
		}
	}
	if (in_order)
		in_order = send_group(carry, group, n);
	pfree(group);
	return in_order;
}

static void
carry_items(SsCarry *carry)
{
	bool done = false;

	ss_channel_open(carry->channel);
	while (!done)
	{
		for (int i = 0; i < carry->n; i++)
		{
			SsCarryItem *item = carry->items[i];

			if (item->outcome == SS_CARRY_LEFT && item->too_small && carry->choices >= MAX_CHOICES)
				ss_carry_refuse(carry, item, "others keep adding entries with larger ids to the stream");
		}
		ss_carryid_look(carry);
		for (int i = 0; i < carry->n; i++)
		{
			if (carry->items[i]->outcome == SS_CARRY_LEFT)
				(void) must_wait(carry, carry->items[i]);
		}
		ss_carryid_choose(carry);
		done = send_all(carry);
		carry->choices++;
	}
	if (carry->choices == 1)
		carry->channel->margin /= 2;
}

void
ss_carry(SsChannel *channel, SsCarryItem **items, int n, MemoryContext cxt)
{
	MemoryContext saved = CurrentMemoryContext;
	SsCarry		 *carry = MemoryContextAllocZero(cxt, sizeof(SsCarry));

	carry->channel = channel;
	carry->items = items;
	carry->n = n;
	carry->cxt = cxt;
	carry->work = AllocSetContextCreate(cxt, "streamsink courier command", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < n; i++)
	{
		items[i]->has_id = items[i]->doubtful = items[i]->row->has_id;
		items[i]->id = items[i]->row->entry_id;
	}

	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		carry_items(carry);
	}
	PG_CATCH();
	{
		ErrorData *edata;

		MemoryContextSwitchTo(cxt);
		edata = CopyErrorData();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(cxt);
		ss_channel_close(channel);
		ss_channel_fail(channel, edata->message != NULL ? edata->message : "unknown error");
	}
	PG_END_TRY();
	MemoryContextSwitchTo(saved);
	MemoryContextDelete(carry->work);
}
