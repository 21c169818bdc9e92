/*
 * ss_streaminfo.c
 *	  Replies about streams, groups and consumers, every shape checked.
 *
 * NOTES
 *	  XINFO's replies are flat lists of names and values whose order and number
 *	  differ between versions of Redis: members are found by name, and what is
 *	  missing stays unknown.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "ss_stream.h"

/* The value of a member in a flat list of names and values, or NULL. */
static const SsReply *
find_member(const SsReply *list, const char *name)
{
	for (uint32 i = 0; i + 1 < list->n; i += 2)
		if (ss_reply_is(&list->items[i], name))
			return &list->items[i + 1];
	return NULL;
}

static int64
integer_member(const SsReply *list, const char *name)
{
	const SsReply *value = find_member(list, name);

	return value && value->type == SS_REPLY_INTEGER ? value->integer : -1;
}

static SsEntryId
id_member(const SsReply *list, const char *name)
{
	const SsReply *value = find_member(list, name);
	SsEntryId	   id;

	if (!value || value->type != SS_REPLY_STRING || !ss_entryid_parse(value->str, value->n, &id))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected reply of Redis to XINFO"),
				 errdetail("There is no \"%s\" in it.", name)));
	return id;
}

/* An id that only newer versions tell; 0-0 if it is not there. */
static SsEntryId
optional_id_member(const SsReply *list, const char *name)
{
	const SsReply *value = find_member(list, name);
	SsEntryId	   id = SS_ENTRYID_MIN;

	if (value && value->type == SS_REPLY_STRING)
		(void) ss_entryid_parse(value->str, value->n, &id);
	return id;
}

int64
ss_stream_parse_length(const SsReply *reply)
{
	return reply->type == SS_REPLY_INTEGER ? reply->integer : -1;
}

/* A missing key and one of another type are facts to act on, not failures. */
static bool
check_key(const SsReply *reply, SsStreamState *state)
{
	if (reply->type != SS_REPLY_ERROR)
		return true;
	if (ss_reply_error_is(reply, "WRONGTYPE"))
		*state = SS_STREAM_WRONG_TYPE;
	else if (strstr(reply->str, "no such key") != NULL || ss_reply_error_is(reply, "NOGROUP"))
		*state = SS_STREAM_MISSING;
	else
		ss_reply_raise(reply, "XINFO");
	return false;
}

/* The id of an entry that stands in the list, 0-0 if there is none. */
static SsEntryId
entry_member(const SsReply *list, const char *name)
{
	const SsReply *entry = find_member(list, name);
	SsEntryId	   id = SS_ENTRYID_MIN;

	if (entry && entry->type == SS_REPLY_ARRAY && entry->n > 0 &&
		entry->items[0].type == SS_REPLY_STRING)
		(void) ss_entryid_parse(entry->items[0].str, entry->items[0].n, &id);
	return id;
}

bool
ss_stream_parse_info(const SsReply *reply, SsStreamInfo *info, SsStreamState *state)
{
	if (!check_key(reply, state))
		return false;
	ss_reply_expect(reply, SS_REPLY_ARRAY, 2, "XINFO STREAM");
	info->length = integer_member(reply, "length");
	info->last_generated = id_member(reply, "last-generated-id");
	info->first = entry_member(reply, "first-entry");
	info->last = entry_member(reply, "last-entry");
	info->entries_added = integer_member(reply, "entries-added");
	info->max_deleted = optional_id_member(reply, "max-deleted-entry-id");
	return true;
}

bool
ss_stream_parse_groups(const SsReply *reply, const char *group, SsGroupInfo *info, SsStreamState *state)
{
	memset(info, 0, sizeof(*info));
	info->lag = info->entries_read = -1;
	if (!check_key(reply, state))
		return false;
	ss_reply_expect(reply, SS_REPLY_ARRAY, 0, "XINFO GROUPS");
	for (uint32 i = 0; i < reply->n; i++)
	{
		const SsReply *line = ss_reply_expect(&reply->items[i], SS_REPLY_ARRAY, 2, "XINFO GROUPS");
		const SsReply *name = find_member(line, "name");

		if (!name || !ss_reply_is(name, group))
			continue;
		info->exists = true;
		info->last_delivered = id_member(line, "last-delivered-id");
		info->pending = integer_member(line, "pending");
		info->lag = integer_member(line, "lag");
		info->entries_read = integer_member(line, "entries-read");
	}
	return true;
}

int
ss_stream_parse_group_lines(const SsReply *reply, SsGroupLine **lines)
{
	SsStreamState state;

	*lines = NULL;
	if (!check_key(reply, &state))
		return 0;
	ss_reply_expect(reply, SS_REPLY_ARRAY, 0, "XINFO GROUPS");
	*lines = palloc_array(SsGroupLine, reply->n + 1);
	for (uint32 i = 0; i < reply->n; i++)
	{
		const SsReply *line = ss_reply_expect(&reply->items[i], SS_REPLY_ARRAY, 2, "XINFO GROUPS");
		const SsReply *name = find_member(line, "name");

		if (!name || name->type != SS_REPLY_STRING)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("unexpected reply of Redis to XINFO"),
					 errdetail("There is no \"%s\" in it.", "name")));
		(*lines)[i].name = name->str;
		(*lines)[i].name_len = name->n;
		(*lines)[i].last_delivered = id_member(line, "last-delivered-id");
	}
	return (int) reply->n;
}

bool
ss_stream_parse_pending_first(const SsReply *reply, SsEntryId *first)
{
	SsStreamState state;

	if (!check_key(reply, &state))
		return false;
	ss_reply_expect(reply, SS_REPLY_ARRAY, 4, "XPENDING");
	ss_reply_expect(&reply->items[0], SS_REPLY_INTEGER, 0, "XPENDING");
	if (reply->items[0].integer == 0)
		return false;
	ss_reply_expect(&reply->items[1], SS_REPLY_STRING, 0, "XPENDING");
	if (!ss_entryid_parse(reply->items[1].str, reply->items[1].n, first))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected reply to %s", "XPENDING")));
	return true;
}

void
ss_stream_append_time(SsRedis *redis)
{
	const char *argv[1] = {"TIME"};

	ss_redis_append(redis, 1, argv, NULL);
}

static uint64
parse_number(const SsReply *reply)
{
	SsEntryId number;

	ss_reply_expect(reply, SS_REPLY_STRING, 0, "TIME");
	if (!ss_entryid_parse(reply->str, reply->n, &number))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected reply to %s", "TIME")));
	return number.ms;
}

bool
ss_stream_parse_time(const SsReply *reply, uint64 *ms)
{
	if (reply->type == SS_REPLY_ERROR)
		return false;
	ss_reply_expect(reply, SS_REPLY_ARRAY, 2, "TIME");
	*ms = parse_number(&reply->items[0]) * 1000 + parse_number(&reply->items[1]) / 1000;
	return true;
}

int
ss_stream_parse_consumers(const SsReply *reply, SsConsumerInfo **consumers)
{
	SsStreamState state;
	int			  n = 0;

	*consumers = NULL;
	if (!check_key(reply, &state))
		return 0;
	ss_reply_expect(reply, SS_REPLY_ARRAY, 0, "XINFO CONSUMERS");
	*consumers = palloc_array(SsConsumerInfo, reply->n + 1);
	for (uint32 i = 0; i < reply->n; i++)
	{
		const SsReply *line = ss_reply_expect(&reply->items[i], SS_REPLY_ARRAY, 2, "XINFO CONSUMERS");
		const SsReply *name = find_member(line, "name");

		if (!name || name->type != SS_REPLY_STRING)
			continue;
		(*consumers)[n].name = name->str;
		(*consumers)[n].name_len = name->n;
		(*consumers)[n].pending = integer_member(line, "pending");
		(*consumers)[n].idle = integer_member(line, "idle");
		n++;
	}
	return n;
}

bool
ss_stream_parse_create(const SsReply *reply, bool *intruded)
{
	ss_reply_expect(reply, SS_REPLY_ARRAY, 2, "EXEC");
	*intruded = false;
	for (uint32 i = 0; i < reply->n; i++)
	{
		if (reply->items[i].type != SS_REPLY_ERROR)
			continue;
		if (ss_reply_error_is(&reply->items[i], "BUSYGROUP"))
		{
			const SsReply *marker = &reply->items[1];

			*intruded = marker->type == SS_REPLY_INTEGER && marker->integer == 1;
			return false;
		}
		ss_reply_raise(&reply->items[i], "XGROUP");
	}
	return true;
}

bool
ss_stream_parse_pending_summary(const SsReply *reply, const char *prefix,
								int64 *ours, int64 *foreign, SsEntryId *oldest)
{
	SsStreamState state;
	size_t		  prefix_len = strlen(prefix);

	*ours = *foreign = 0;
	*oldest = SS_ENTRYID_MIN;
	if (!check_key(reply, &state))
		return false;
	ss_reply_expect(reply, SS_REPLY_ARRAY, 4, "XPENDING");
	if (reply->items[1].type == SS_REPLY_STRING)
		(void) ss_entryid_parse(reply->items[1].str, reply->items[1].n, oldest);
	if (reply->items[3].type != SS_REPLY_ARRAY)
		return true;
	for (uint32 i = 0; i < reply->items[3].n; i++)
	{
		const SsReply *line = ss_reply_expect(&reply->items[3].items[i], SS_REPLY_ARRAY, 2, "XPENDING");
		int64		   count = 0;

		if (line->items[0].type != SS_REPLY_STRING)
			continue;
		if (line->items[1].type == SS_REPLY_STRING)
			count = strtoll(line->items[1].str, NULL, 10);
		else if (line->items[1].type == SS_REPLY_INTEGER)
			count = line->items[1].integer;
		if (line->items[0].n >= prefix_len && memcmp(line->items[0].str, prefix, prefix_len) == 0)
			*ours += count;
		else
			*foreign += count;
	}
	return true;
}
