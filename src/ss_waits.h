/*
 * ss_waits.h
 *	  What waits in the outbox: names and servers that have a queue.
 */
#ifndef SS_WAITS_H
#define SS_WAITS_H

#include "ss_outboxrow.h"

typedef struct SsWait SsWait;

/* All zero: nothing waits. */
typedef struct SsWaits
{
	MemoryContext cxt;
	SsWait		 *items; /* the first nsorted in order, then those that are new */
	int			  n;
	int			  nsorted;
	int			  capacity;
} SsWaits;

/*
 * Read what waits, into CurrentMemoryContext, under the active snapshot; what
 * was there before is forgotten, not freed.  Returns the heads of the queues.
 */
extern List *ss_waits_load(SsWaits *waits);

/* The queue of a name, or (name NULL) of all that is for a server and role, the oldest if there are more; 0: none. */
extern int64 ss_waits_find(const SsWaits *waits, const char *server, const char *role, const char *name);

/* Is all that is for the row's server waiting? */
extern bool ss_waits_for_server(const SsWaits *waits, const SsOutboxRow *row);

/* Has the row's server another queue beside the one that is found? */
extern bool ss_waits_is_split(const SsWaits *waits, const SsOutboxRow *row);

/* There is one more queue.  The strings are not copied. */
extern void ss_waits_add(SsWaits *waits, const char *server, const char *role, const char *name, int64 queue);

#endif /* SS_WAITS_H */
