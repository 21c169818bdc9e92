/*
 * ss_reply.c
 *	  Replies of Redis: hiredis's constructors over an arena, and checks of
 *	  what came.
 *
 * NOTES
 *	  The constructors run inside hiredis, which a longjmp would leave in an
 *	  undefined state: nothing there may throw.  Elements of an array lie in a
 *	  block that the array's header sized; each constructor fills one slot
 *	  wholly, so the block need not be zeroed (an array header is a few bytes
 *	  that could make us touch megabytes).  Where hiredis knows more types than
 *	  RESP2 has, they are refused: every element of a reply handed out is one of
 *	  ours.
 */
#include "postgres.h"
#define SS_NEED_HIREDIS
#include "ss_compat.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "ss_reply.h"

/* Arena blocks double from the first to the second; what is larger gets a block of its own. */
#define ARENA_MIN_BLOCK ((Size) 8 * 1024)
#define ARENA_MAX_BLOCK ((Size) 1024 * 1024)

/* First words of error replies, and what they mean here. */
static const struct
{
	const char *word;
	int			sqlstate;
	const char *hint;
} error_words[] =
	{
		{"LOADING", ERRCODE_CANNOT_CONNECT_NOW, NULL},
		{"BUSY", ERRCODE_CANNOT_CONNECT_NOW, NULL},
		{"MASTERDOWN", ERRCODE_CANNOT_CONNECT_NOW, NULL},
		{"TRYAGAIN", ERRCODE_CANNOT_CONNECT_NOW, NULL},
		{"CLUSTERDOWN", ERRCODE_CANNOT_CONNECT_NOW, NULL},
		{"NOREPLICAS", ERRCODE_CANNOT_CONNECT_NOW, NULL},
		{"MISCONF", ERRCODE_CANNOT_CONNECT_NOW, NULL},
		{"OOM", ERRCODE_CANNOT_CONNECT_NOW, NULL},
		{"EXECABORT", ERRCODE_CANNOT_CONNECT_NOW, NULL},
		{"READONLY", ERRCODE_CONNECTION_FAILURE, "The server is a replica: streamsink needs the master."},
		{"UNBLOCKED", ERRCODE_CONNECTION_FAILURE, NULL},
		{"NOAUTH", ERRCODE_INVALID_PASSWORD, "Set password, and username if needed, in the user mapping."},
		{"WRONGPASS", ERRCODE_INVALID_PASSWORD, "Check username and password of the user mapping."},
		{"DENIED", ERRCODE_INVALID_PASSWORD, "The Redis server is in protected mode: it wants a password before it admits other hosts."},
		{"NOPERM", ERRCODE_INSUFFICIENT_PRIVILEGE, "Allow the Redis user the command and the key with ACL SETUSER."},
		{"WRONGTYPE", ERRCODE_WRONG_OBJECT_TYPE, NULL},
		{"NOGROUP", ERRCODE_UNDEFINED_OBJECT, NULL},
		{"BUSYGROUP", ERRCODE_DUPLICATE_OBJECT, NULL},
		{"MOVED", ERRCODE_FEATURE_NOT_SUPPORTED, "Redis Cluster is not supported: name a server that is not part of a cluster."},
		{"ASK", ERRCODE_FEATURE_NOT_SUPPORTED, "Redis Cluster is not supported: name a server that is not part of a cluster."},
		{"CROSSSLOT", ERRCODE_FEATURE_NOT_SUPPORTED, "Redis Cluster is not supported: name a server that is not part of a cluster."},
};

/* The one condition that servers report without a word of its own. */
static const char too_many_clients[] = "ERR max number of clients";

/* ---- the arena ---- */

void
ss_arena_init(SsArena *arena, MemoryContext cxt, Size limit)
{
	arena->cxt = cxt;
	arena->next = NULL;
	arena->end = NULL;
	arena->used = 0;
	arena->limit = limit > 0 ? limit : MaxAllocSize;
}

static bool
arena_fits(const SsArena *arena, Size size)
{
	return size <= MaxAllocSize - 8 && arena->used <= arena->limit && size <= arena->limit - arena->used;
}

void *
ss_arena_alloc(SsArena *arena, Size size)
{
	char *result;
	Size  block;

	/* the first comparison keeps the alignment from overflowing */
	if (!arena_fits(arena, size))
		return NULL;
	size = TYPEALIGN(8, size);

	if (size <= (Size) (arena->end - arena->next))
	{
		result = arena->next;
		arena->next += size;
		arena->used += size;
		return result;
	}

	block = Min(Max(arena->used, ARENA_MIN_BLOCK), ARENA_MAX_BLOCK);
	if (size > block / 4)
	{
		/* a block of its own; the rest of the current one stays in use */
		result = MemoryContextAllocExtended(arena->cxt, size, MCXT_ALLOC_NO_OOM);
		if (result != NULL)
			arena->used += size;
		return result;
	}

	result = MemoryContextAllocExtended(arena->cxt, block, MCXT_ALLOC_NO_OOM);
	if (result == NULL)
		return NULL;
	arena->next = result + size;
	arena->end = result + block;
	arena->used += size;
	return result;
}

/* ---- constructors, called by hiredis: must not throw ---- */

static void *
refuse_element(SsReader *reader, int sqlstate, const char *reason)
{
	reader->refusal = reason;
	reader->refusal_code = sqlstate;
	return NULL;
}

static void *
refuse_allocation(SsReader *reader, Size size)
{
	if (arena_fits(reader->arena, size))
		return refuse_element(reader, ERRCODE_OUT_OF_MEMORY, "Out of memory.");
	return refuse_element(reader, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "The reply needs more memory than one reply may.");
}

/* Where the element of a task goes. */
static SsReply *
find_slot(const redisReadTask *task)
{
	if (task->parent == NULL)
		return &((SsReader *) task->privdata)->root;
	return &((SsReply *) task->parent->obj)->items[task->idx];
}

/* str lies in the reader's buffer and is followed by the two bytes that should end it. */
static void *
create_string(const redisReadTask *task, char *str, size_t len)
{
	SsReader *reader = task->privdata;
	SsReply	 *slot = find_slot(task);
	uint64	  full_len = len;
	bool	  truncated = false;
	Size	  room;
	char	 *copy;

	if (str[len] != '\r' || str[len + 1] != '\n')
		return refuse_element(reader, ERRCODE_PROTOCOL_VIOLATION, "A string does not end where its length says.");

	switch (task->type)
	{
		case REDIS_REPLY_STRING:
			slot->type = SS_REPLY_STRING;
			if (reader->truncated_len > 0)
			{
				truncated = true;
				full_len = reader->truncated_len;
				reader->truncated_len = 0;
			}
			else if (reader->max_bulk > 0 && len > reader->max_bulk)
			{
				/* it came in one piece with what is before it */
				truncated = true;
				len = Min(len, SS_REDIS_PREFIX);
			}
			break;
		case REDIS_REPLY_STATUS:
			slot->type = SS_REPLY_STATUS;
			break;
		case REDIS_REPLY_ERROR:
			slot->type = SS_REPLY_ERROR;
			break;
		default:
			return refuse_element(reader, ERRCODE_PROTOCOL_VIOLATION, "The reply has a type that RESP2 does not have.");
	}

	/* the arena aligns to 8: a header right before the string is aligned too */
	room = len >= SS_REPLY_LARGE ? 8 : 0;
	copy = ss_arena_alloc(reader->arena, room + len + 1);
	if (copy == NULL)
		return refuse_allocation(reader, room + len + 1);
	copy += room;
	memcpy(copy, str, len);
	copy[len] = '\0';

	slot->truncated = truncated;
	slot->headroom = room > 0;
	slot->n = (uint32) len;
	slot->str = copy;
	slot->full_len = full_len;
	return slot;
}

static void *
create_array(const redisReadTask *task, ss_compat_count elements)
{
	SsReader *reader = task->privdata;
	SsReply	 *slot = find_slot(task);
	int		  depth = 0;

	if (task->type != REDIS_REPLY_ARRAY)
		return refuse_element(reader, ERRCODE_PROTOCOL_VIOLATION, "The reply has a type that RESP2 does not have.");
	for (const redisReadTask *up = task->parent; up != NULL; up = up->parent)
		depth++;
	if (depth >= SS_REPLY_MAX_DEPTH)
		return refuse_element(reader, ERRCODE_PROTOCOL_VIOLATION, "The reply is nested too deeply.");
	if ((uint64) elements > SS_REPLY_MAX_ELEMENTS)
		return refuse_element(reader, ERRCODE_PROTOCOL_VIOLATION, "The reply announces an array with too many elements.");

	slot->type = SS_REPLY_ARRAY;
	slot->truncated = false;
	slot->headroom = false;
	slot->n = (uint32) elements;
	slot->items = NULL;
	slot->full_len = 0;
	if (elements > 0)
	{
		Size size = (Size) elements * sizeof(SsReply);

		slot->items = ss_arena_alloc(reader->arena, size);
		if (slot->items == NULL)
			return refuse_allocation(reader, size);
	}
	return slot;
}

static void *
create_integer(const redisReadTask *task, long long value)
{
	SsReply *slot = find_slot(task);

	slot->type = SS_REPLY_INTEGER;
	slot->truncated = false;
	slot->headroom = false;
	slot->n = 0;
	slot->integer = value;
	slot->full_len = 0;
	return slot;
}

static void *
create_nil(const redisReadTask *task)
{
	SsReply *slot = find_slot(task);

	slot->type = SS_REPLY_NIL;
	slot->truncated = false;
	slot->headroom = false;
	slot->n = 0;
	slot->str = NULL;
	slot->full_len = 0;
	return slot;
}

/* RESP3 only; without these hiredis would hand out a number for a pointer. */
static pg_attribute_unused() void *refuse_double(const redisReadTask *task, double value, char *str, size_t len)
{
	return refuse_element(task->privdata, ERRCODE_PROTOCOL_VIOLATION, "The reply has a type that RESP2 does not have.");
}

static pg_attribute_unused() void *refuse_bool(const redisReadTask *task, int value)
{
	return refuse_element(task->privdata, ERRCODE_PROTOCOL_VIOLATION, "The reply has a type that RESP2 does not have.");
}

/* No freeObject: the arena owns everything. */
struct redisReplyObjectFunctions ss_reply_functions = {
	.createString = create_string,
	.createArray = create_array,
	.createInteger = create_integer,
	.createNil = create_nil,
	SS_COMPAT_RESP3_FUNCTIONS(refuse_double, refuse_bool)};

/* ---- looking at replies ---- */

bool
ss_reply_is(const SsReply *reply, const char *text)
{
	size_t len = strlen(text);

	return (reply->type == SS_REPLY_STRING || reply->type == SS_REPLY_STATUS) &&
		   !reply->truncated && reply->n == len && memcmp(reply->str, text, len) == 0;
}

bool
ss_reply_error_is(const SsReply *reply, const char *word)
{
	size_t len = strlen(word);

	return reply->type == SS_REPLY_ERROR && reply->n >= len &&
		   memcmp(reply->str, word, len) == 0 &&
		   (reply->n == len || reply->str[len] == ' ');
}

/* Index into error_words, or -1. */
static int
find_error_word(const SsReply *reply)
{
	for (int i = 0; i < lengthof(error_words); i++)
	{
		if (ss_reply_error_is(reply, error_words[i].word))
			return i;
	}
	return -1;
}

const char *
ss_reply_error_word(const SsReply *reply)
{
	int i = find_error_word(reply);

	return i < 0 ? NULL : error_words[i].word;
}

int
ss_reply_sqlstate(const SsReply *reply)
{
	int i = find_error_word(reply);

	if (i >= 0)
		return error_words[i].sqlstate;
	if (reply->type == SS_REPLY_ERROR && strncmp(reply->str, too_many_clients, strlen(too_many_clients)) == 0)
		return ERRCODE_TOO_MANY_CONNECTIONS;
	return ERRCODE_FDW_ERROR;
}

void
ss_reply_raise(const SsReply *reply, const char *what)
{
	int			i;
	const char *hint;

	if (reply->type != SS_REPLY_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected reply to %s", what)));

	i = find_error_word(reply);
	hint = i < 0 ? NULL : error_words[i].hint;
	ereport(ERROR,
			(errcode(ss_reply_sqlstate(reply)),
			 errmsg("Redis refused %s: %s", what, ss_reply_printable(reply->str, reply->n, 400)),
			 hint ? errhint("%s", hint) : 0));
}

const SsReply *
ss_reply_expect(const SsReply *reply, SsReplyType type, uint32 min_elements, const char *what)
{
	static const char *const type_names[] = {"nil", "string", "status", "error", "integer", "array"};

	if (reply->type == type && (type != SS_REPLY_ARRAY || reply->n >= min_elements))
		return reply;
	if (reply->type == SS_REPLY_ERROR)
		ss_reply_raise(reply, what);
	if (reply->type == type)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected reply to %s", what),
				 errdetail("An array has %u elements where at least %u were expected.",
						   reply->n, min_elements)));
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("unexpected reply to %s", what),
			 errdetail("A value of type %s came where %s was expected.",
					   reply->type < lengthof(type_names) ? type_names[reply->type] : "unknown",
					   type_names[type])));
	return NULL; /* keep compiler quiet */
}

char *
ss_reply_printable(const char *str, size_t len, size_t max)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) str[i];
		bool		  plain = c >= 0x20 && c < 0x7f;
		size_t		  need = plain ? 1 : 4;

		/* leave room for the dots, unless this is the end */
		if (buf.len + need + (i + 1 < len ? 3 : 0) > max)
		{
			if (max >= 3)
				appendStringInfoString(&buf, "...");
			break;
		}
		if (plain)
			appendStringInfoCharMacro(&buf, c);
		else
			appendStringInfo(&buf, "\\x%02x", c);
	}
	return buf.data;
}
