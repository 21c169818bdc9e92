/*
 * ss_group.h
 *	  Consumer groups: made, recognised as ours, watched.
 */
#ifndef SS_GROUP_H
#define SS_GROUP_H

#include "ss_pump.h"

/*
 * Bring streams into the state in which they can be read: group and marker
 * are there, and what was settled is still in the stream, or the ledger was cut
 * where it is not.  Sets prepared of those that are, and state and reason of the
 * others.  Nothing else may be outstanding on the connection; waits for Redis,
 * so not in a transaction of a worker.
 */
extern void ss_group_prepare(SsPump *pump, SsStream **streams, int nstreams);

/*
 * A look at a prepared stream while it is read: is the group still ours, and
 * where we left it?  If not, the stream is prepared anew.
 */
extern void ss_group_watch(SsPump *pump, SsStream *stream, const SsStreamInfo *info, const SsGroupInfo *group,
						   const SsConsumerInfo *consumers, int nconsumers);

#endif /* SS_GROUP_H */
