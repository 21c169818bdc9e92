/*
 * ss_outboxrow.h
 *	  Rows of streamsink.outbox_queue, read and changed one by one: for the
 *	  courier, and for who discards commands.
 *
 * NOTES
 *	  Every row is in a queue.  Queue 0 has what was not looked at yet.  A
 *	  command that cannot be carried out now heads a queue of its own, in which
 *	  those that must not overtake it wait: queue n, where n is its id, those
 *	  with the same name (stream or channel); queue -n all for the same server
 *	  and role.  So what waits is not read again and again while others go out.
 */
#ifndef SS_OUTBOXROW_H
#define SS_OUTBOXROW_H

#include "postgres.h"
#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "ss_entryid.h"

/* Columns of outbox_queue. */
enum
{
	OUTBOX_id = 1,
	OUTBOX_server,
	OUTBOX_role,
	OUTBOX_kind,
	OUTBOX_name,
	OUTBOX_pipeline,
	OUTBOX_args,
	OUTBOX_created_at,
	OUTBOX_attempts,
	OUTBOX_last_error,
	OUTBOX_origin_system,
	OUTBOX_origin_database,
	OUTBOX_queue,
	OUTBOX_retry_at,
	OUTBOX_entry_id,
	OUTBOX_NCOLUMNS = OUTBOX_entry_id
};

typedef struct SsOutboxRow
{
	int64		 id;
	int64		 queue;
	char		*server;
	char		*role;
	char		*kind;
	char		*name;	   /* in UTF-8 */
	int32		 attempts; /* that failed so far */
	TimestampTz	 retry_at; /* of a queue's head; 0: now */
	bool		 has_id;   /* entry_id is what it was, or will be, sent with */
	SsEntryId	 entry_id;
	Size		 bytes; /* of the arguments */
	int			 nargs;
	const char **args;
	size_t		*arglens;
} SsOutboxRow;

/* Did this system and this database write the row?  system: ss_outboxrow_system(). */
extern char *ss_outboxrow_system(void);
extern bool	 ss_outboxrow_is_ours(HeapTuple tuple, TupleDesc desc, const char *system);

/*
 * The next rows of a queue behind an id that may be carried out, in order, as a List of
 * SsOutboxRow * in CurrentMemoryContext.  At least one if there is any, then up to
 * max_rows and about max_bytes of arguments.  NIL also when the extension is gone.
 */
extern List *ss_outboxrow_read(Snapshot snapshot, int64 queue, int64 after, int max_rows, Size max_bytes);

/* The head of each queue but 0, without arguments, queues of servers first. */
extern List *ss_outboxrow_heads(Snapshot snapshot);

/* ---- what becomes of rows ---- */

typedef enum SsOutboxResult
{
	SS_OUTBOX_CHANGED,
	SS_OUTBOX_GONE, /* somebody discarded it */
	SS_OUTBOX_HELD	/* somebody who has not committed yet is about to: it is left as it is */
} SsOutboxResult;

typedef struct SsOutboxEdit SsOutboxEdit;

/* Several rows are changed in one transaction, each once: begin, change, end.  NULL: the extension is gone. */
extern SsOutboxEdit *ss_outboxrow_begin(void);
extern void			 ss_outboxrow_end(SsOutboxEdit *edit);

/* It was carried out, or (wait: unless that is undone by whoever else is at it) is not wanted any more. */
extern SsOutboxResult ss_outboxrow_delete(SsOutboxEdit *edit, int64 id, bool wait);

/* It failed: one more attempt, with the reason; it is in, or heads, this queue. */
extern SsOutboxResult ss_outboxrow_fail(SsOutboxEdit *edit, int64 id, int64 queue, const char *error, TimestampTz retry_at);

/* It waits in a queue. */
extern SsOutboxResult ss_outboxrow_park(SsOutboxEdit *edit, int64 id, int64 queue);

/* The entry's id was chosen. */
extern SsOutboxResult ss_outboxrow_choose(SsOutboxEdit *edit, int64 id, SsEntryId entry_id);

#endif /* SS_OUTBOXROW_H */
