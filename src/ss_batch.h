/*
 * ss_batch.h
 *	  A batch: what one transaction settles.  Entries as they came from Redis,
 *	  in order, and what became of each.
 *
 * NOTES
 *	  Everything but the SsBatch itself lives in batch->cxt and goes with it.
 */
#ifndef SS_BATCH_H
#define SS_BATCH_H

#include "utils/elog.h"
#include "ss_entryid.h"
#include "ss_reply.h"
#include "ss_template.h"

/* One stream as a running pipeline knows it. */
typedef struct SsStream
{
	int32		id;	  /* streamsink.stream.id; 0 in apply() */
	char	   *name; /* key, in server encoding */
	size_t		name_len;
	int32		incarnation;
	SsEntryId	start;
	SsEntryId	high;		   /* highest settled id; ids above it need no look at the ledger */
	SsSlice	   *placeholders;  /* values, in the template's order, pointing into name */
	uint8		state;		   /* SsStreamState, ss_stream.h */
	bool		prepared;	   /* group and marker are known to be there */
	bool		hot;		   /* the last reply was full: there is more */
	bool		recovered;	   /* own pending entries were read since the connect */
	SsEntryId	pending_after; /* where the reading of own pending entries stands */
	TimestampTz active_at;	   /* last time it gave entries */
	TimestampTz probe_at;	   /* when set aside: next probe */
	const char *key;		   /* the key as Redis has it: name in UTF-8 */
	size_t		key_len;
	SsEntryId	delivered;		  /* highest id read since the connect */
	SsEntryId	limit;			  /* ingest: do not read on once delivered has reached it */
	char		reason[128];	  /* why it is set aside, or "" */
	SsEntryId	join_after;		  /* gaps between settled intervals below it were tried */
	SsEntryId	join_loose_after; /* ... those that may be joined loosely */
	TimestampTz join_again;		  /* when to begin again with the first one */
	bool		foreign;		  /* consumers of others were seen in its group */
	SsEntryId	passed;			  /* the group's last-delivered id when it was last looked at */
	uint64		high_hash;		  /* of the highest settled entry when the stream was prepared; 0: unknown */

	/* as last seen by a look at the stream, from seen_at on */
	TimestampTz seen_at; /* 0: never */
	bool		seen_empty;
	SsEntryId	first;			/* 0-0 if it is empty */
	SsEntryId	last_generated; /* highest id it ever gave */
	SsEntryId	last_delivered; /* by its group */
	int64		foreign_pending;
	TimestampTz caught_up_at; /* the last look that found everything delivered; 0: none did */
	int64		trimmed;	  /* entries that were trimmed and are not counted yet */

	/* ss_overrun.c */
	int64	  overrun_base;	  /* of the missed entries that Redis's counters show, those that are no news */
	bool	  overrun_warned; /* ... at this position of the group */
	SsEntryId overrun_at;
} SsStream;

typedef enum SsOutcome
{
	SS_OUTCOME_NEW = 0, /* not decided yet */
	SS_OUTCOME_WRITTEN,
	SS_OUTCOME_REFUSED, /* dead letter (or discarded by on_error) */
	SS_OUTCOME_IGNORED,
	SS_OUTCOME_REPEATED,   /* settled before */
	SS_OUTCOME_SUPERSEDED, /* a later entry of the batch had the same key */
	SS_OUTCOME_VANISHED	   /* id without a body */
} SsOutcome;

typedef struct SsEntry
{
	SsStream *stream;
	SsEntryId id;
	SsReply	 *fields; /* 2 * nfields strings: name, value, name, value */
	uint32	  nfields;
	uint32	  bytes;	 /* of all names and values, saturating */
	uint8	  outcome;	 /* SsOutcome */
	bool	  truncated; /* some string passed max_entry_bytes */
} SsEntry;

/*
 * A run of entries of one stream out of one reply.  contiguous: the reply was
 * to ">", so nothing lies between first and last that was not delivered to us
 * in this very reply; recorded as one interval.  Otherwise every entry is
 * recorded by itself.
 */
typedef struct SsBlock
{
	SsStream *stream;
	int		  first; /* index into entries */
	int		  count;
	bool	  contiguous;
} SsBlock;

/* Why an entry was refused. */
typedef struct SsRefusal
{
	int			entry;	  /* index into entries */
	const char *stage;	  /* "decode", "write", "refused", "retries", "crash" */
	ErrorData  *error;	  /* copied into batch->cxt */
	int			attempts; /* tries that it had, this one included */
} SsRefusal;

typedef struct SsBatch
{
	MemoryContext cxt;
	SsArena		  arena; /* replies */
	SsEntry		 *entries;
	int			  nentries;
	int			  capacity;
	SsBlock		 *blocks;
	int			  nblocks;
	int			  blocks_capacity;
	int64		  bytes;	  /* of all entries' names and values */
	TimestampTz	  started_at; /* when its first entry arrived */
	SsRefusal	 *refusals;	  /* ordered by entry */
	int			  nrefusals;
	int			  refusals_capacity;
	uint64		  rows;	   /* rows the statements reported */
	bool		  final;   /* it was tried often enough: machine errors isolate like data */
	int			  tries;   /* failed ones before this one, as far as max_retries counts them */
	int			  crashes; /* of the server, while its only entry with a body was tried */

	/* called now and then while the batch is worked on, or NULL; stays over resets */
	void (*interlude)(void *arg);
	void *interlude_arg;
} SsBatch;

/* A new empty batch in a new child context of parent; arena_limit as in ss_arena_init. */
extern SsBatch *ss_batch_create(MemoryContext parent, Size arena_limit);

/* Empty it, giving the memory back; the pointer stays valid. */
extern void ss_batch_reset(SsBatch *batch);

/* Between two pieces of work on the batch: a moment for its connection.  Must be called every few hundred entries. */
static inline void
ss_batch_pause(const SsBatch *batch)
{
	if (batch->interlude != NULL)
		batch->interlude(batch->interlude_arg);
}

/* Give it back whole.  Deleting the parent context does as well. */
extern void ss_batch_free(SsBatch *batch);

/*
 * Add one entry.  fields as an array reply of strings (even length, else ERROR
 * 08P01) or NULL for an entry without a body.  begin_block starts a new run;
 * an entry belongs to the last one.
 */
extern void		ss_batch_begin_block(SsBatch *batch, SsStream *stream, bool contiguous);
extern SsEntry *ss_batch_add(SsBatch *batch, SsEntryId id, SsReply *fields);

/* Refuse an entry: sets its outcome and keeps the error, copied.  A second refusal of one entry replaces the first. */
extern void ss_batch_refuse(SsBatch *batch, int entry, const char *stage, ErrorData *error);

/* 64-bit hash of an entry's id and raw fields (lengths included), equal on every machine of one byte order. */
extern uint64 ss_batch_hash(const SsEntry *entry);

#endif /* SS_BATCH_H */
