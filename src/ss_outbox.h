/*
 * ss_outbox.h
 *	  Effects on Redis that SQL asked for: rows of streamsink.outbox_queue,
 *	  carried out in order after commit and flush, at least once.
 */
#ifndef SS_OUTBOX_H
#define SS_OUTBOX_H

#include "postgres.h"
#include "nodes/pg_list.h"

/*
 * Queue a command for a server under a role's user mapping.  kind is one of
 * "xadd" (name: stream; args: id, field, value, ...), "group_destroy" (name: stream; args: group),
 * "marker_delete" (name: stream; args: group, what the consumers' names begin with,
 * and perhaps the marker that takes their place), "publish" (name: channel; args: message).  Wakes the launcher at
 * commit.  pipeline may be NULL.  args are bytes for Redis (text in UTF-8), names are in server encoding.
 */
extern void ss_outbox_add(const char *server, const char *role, const char *kind,
						  const char *name, const char *pipeline,
						  int nargs, const char *const *args, const size_t *arglens);

/* Are there rows that may be carried out?  A held (restored) outbox does not count. */
extern bool ss_outbox_pending(void);

/*
 * Are there young commands about a pipeline's groups, by the same role for the same server, that were not tried yet?  Its
 * workers wait for them: they were given before.
 */
extern bool ss_outbox_holds_up(const char *pipeline, const char *server, const char *role);

/* A row as the courier needs it. */
typedef struct SsOutboxRow
{
	int64		 id;
	char		*server;
	char		*role;
	char		*kind;
	char		*name;	   /* in UTF-8 */
	int32		 attempts; /* that failed so far */
	int			 nargs;
	const char **args;
	size_t		*arglens;
} SsOutboxRow;

/*
 * The next rows behind an id that may be carried out, in order, as a List of
 * SsOutboxRow * in CurrentMemoryContext.  At least one if there is any, then up to
 * max_rows and about max_bytes of arguments.  NIL also when the extension is gone.
 */
extern List *ss_outbox_read(int64 after, int max_rows, Size max_bytes);

/* It was carried out: delete it.  Gone already is fine. */
extern void ss_outbox_delete(int64 id);

/* It failed: one more attempt, with the reason. */
extern void ss_outbox_fail(int64 id, const char *error);

/* Entry point of the courier, a short-lived background worker; main_arg is its slot, bgw_extra begins with SsWorkerArgs. */
extern void streamsink_courier_main(Datum main_arg);

#endif /* SS_OUTBOX_H */
