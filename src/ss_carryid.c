/*
 * ss_carryid.c
 *	  Ids of the entries that the courier adds: see ss_carry.c.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "common/pg_prng.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ss_carryid.h"
#include "ss_fault.h"
#include "ss_stream.h"

/* An entry that is looked for comes back, and a stream's description has two of them. */
#define MAX_ENTRY_BYTES ((Size) 1024 * 1024 * 1024)

/* How far ids are ahead of Redis's clock at most, in ms. */
#define MAX_MARGIN 500

/*
 * Where sequences begin: beyond those that Redis gives within a millisecond.
 * And how far they are apart: when the stream's last id is one of ours and
 * ahead of the clock, Redis gives others those behind it, one by one, and the next
 * of ours must not be among them: it would be taken for ours that is there already.
 */
#define SEQUENCE_MIN  (UINT64CONST(1) << 32)
#define SEQUENCE_MAX  (UINT64CONST(1) << 62)
#define SEQUENCE_STEP (UINT64CONST(1) << 32)

/* A stream that refused an id. */
typedef struct Top
{
	const char *name;
	uint64		ms; /* of the largest id that it ever had */
} Top;

bool
ss_carryid_is_entry(const SsCarryItem *item)
{
	const SsOutboxRow *row = item->row;

	return strcmp(row->kind, "xadd") == 0 && row->nargs > 0 && row->arglens[0] == 1 && row->args[0][0] == '*';
}

void
ss_carryid_look(SsCarry *carry)
{
	SsArena arena;

	for (int i = 0; i < carry->n; i++)
	{
		SsCarryItem	  *item = carry->items[i];
		char		   id[SS_ENTRYID_MAXLEN];
		const char	  *argv[4] = {"XRANGE", item->row->name, id, id};
		const SsReply *reply;

		if (item->outcome != SS_CARRY_LEFT || !item->doubtful)
			continue;
		(void) ss_entryid_print(item->id, id);
		ss_redis_append(carry->channel->redis, 4, argv, NULL);
		reply = ss_carry_receive(carry, &arena, MAX_ENTRY_BYTES);
		if (reply->type == SS_REPLY_ERROR)
		{
			ss_carry_take_error(carry, item, reply);
			continue;
		}
		ss_reply_expect(reply, SS_REPLY_ARRAY, 0, "XRANGE");
		item->doubtful = false;
		if (reply->n > 0)
			item->outcome = SS_CARRY_DONE;
		else if (item->too_small)
			item->has_id = false;
		item->too_small = false;
	}
	MemoryContextReset(carry->work);
}

/* Redis's clock, or ours if it may not be asked: milliseconds since 1970. */
static uint64
read_clock(SsCarry *carry)
{
	SsArena		   arena;
	const SsReply *reply;
	uint64		   ms;

	ss_stream_append_time(carry->channel->redis);
	reply = ss_carry_receive(carry, &arena, SS_CARRY_REPLY_BYTES);
	if (reply->type == SS_REPLY_ERROR && ss_carry_is_servers_fault(reply))
		ss_reply_raise(reply, "TIME");
	if (!ss_stream_parse_time(reply, &ms))
		ms = ss_entryid_from_time(GetCurrentTimestamp()).ms;
	return ms;
}

/* Remember where a stream that refused an id is. */
static void
note_top(SsCarry *carry, const char *name)
{
	const char	 *argv[3] = {"XINFO", "STREAM", name};
	SsArena		  arena;
	SsStreamInfo  info;
	SsStreamState state;
	MemoryContext saved;
	Top			 *top = NULL;
	ListCell	 *lc;

	foreach(lc, carry->tops)
	{
		if (strcmp(((Top *) lfirst(lc))->name, name) == 0)
			top = lfirst(lc);
	}
	if (top == NULL)
	{
		saved = MemoryContextSwitchTo(carry->cxt);
		top = palloc(sizeof(Top));
		top->name = name;
		carry->tops = lappend(carry->tops, top);
		MemoryContextSwitchTo(saved);
	}
	ss_redis_append(carry->channel->redis, 3, argv, NULL);
	top->ms = ss_stream_parse_info(ss_carry_receive(carry, &arena, MAX_ENTRY_BYTES), &info, &state) ? info.last_generated.ms : 0;
}

/* A millisecond that no id of the stream has, as far as we know; 0: there is none. */
static uint64
choose_ms(SsCarry *carry, const char *name, uint64 ms)
{
	ListCell *lc;

	foreach(lc, carry->tops)
	{
		const Top *top = lfirst(lc);

		if (strcmp(top->name, name) != 0)
			continue;
		if (top->ms == PG_UINT64_MAX)
			return 0;
		return Max(ms, top->ms + 1);
	}
	return ms;
}

void
ss_carryid_choose(SsCarry *carry)
{
	SsOutboxEdit *edit;
	uint64		  sequence = pg_prng_uint64_range(&pg_global_prng_state, SEQUENCE_MIN, SEQUENCE_MAX);
	uint64		  ms;
	int			  wanted = 0;

	for (int i = 0; i < carry->n; i++)
	{
		SsCarryItem *item = carry->items[i];

		if (item->outcome == SS_CARRY_LEFT && ss_carryid_is_entry(item) && !item->has_id)
			wanted++;
	}
	if (wanted == 0)
		return;

	ms = read_clock(carry) + carry->channel->margin;
	ms = carry->channel->last_ms = Max(ms, carry->channel->last_ms + 1);
	carry->chosen_at = GetCurrentTimestamp();
	MemoryContextReset(carry->work);

	SS_FAULT("before-choose");
	ss_channel_begin();
	edit = ss_outboxrow_begin();
	for (int i = 0; edit != NULL && i < carry->n; i++)
	{
		SsCarryItem *item = carry->items[i];

		if (item->outcome != SS_CARRY_LEFT || !ss_carryid_is_entry(item) || item->has_id)
			continue;
		if (ss_carry_has_name(carry->held, item->row->name))
		{
			item->outcome = SS_CARRY_HELD;
			continue;
		}
		item->id.ms = choose_ms(carry, item->row->name, ms);
		item->id.seq = sequence;
		sequence += SEQUENCE_STEP;
		if (item->id.ms == 0)
		{
			ss_carry_refuse(carry, item, "the stream has the largest id there is");
			continue;
		}
		switch (ss_outboxrow_choose(edit, item->row->id, item->id))
		{
			case SS_OUTBOX_CHANGED:
				item->has_id = true;
				break;
			case SS_OUTBOX_GONE:
				item->outcome = SS_CARRY_DONE;
				break;
			case SS_OUTBOX_HELD:
				item->outcome = SS_CARRY_HELD;
				carry->held = ss_carry_add_name(carry, carry->held, item->row->name);
				break;
		}
	}
	if (edit != NULL)
		ss_outboxrow_end(edit);
	ss_channel_commit();
	XLogFlush(XactLastCommitEnd);
	SS_FAULT("after-choose");
}

void
ss_carryid_refused(SsCarry *carry, const char *name)
{
	int64 late = TimestampDifferenceMilliseconds(carry->chosen_at, GetCurrentTimestamp());

	for (int i = 0; i < carry->n; i++)
	{
		SsCarryItem *item = carry->items[i];

		if (item->outcome != SS_CARRY_LEFT || !ss_carryid_is_entry(item) || !item->has_id || strcmp(item->row->name, name) != 0)
			continue;
		if (item->doubtful)
			item->too_small = true;
		else
			item->has_id = false;
	}
	note_top(carry, name);
	carry->channel->margin = (int) Min(Max(2 * late, 2), MAX_MARGIN);
}
