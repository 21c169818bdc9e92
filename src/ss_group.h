/*
 * ss_group.h
 *	  Consumer groups and their markers: made, recognised, refused.
 */
#ifndef SS_GROUP_H
#define SS_GROUP_H

#include "ss_catalog.h"
#include "ss_stream.h"

/*
 * The name of the consumer that marks a group as ours: identity, system,
 * database and incarnation.  A clone or a second database has another one.
 */
extern void ss_group_marker_name(const SsPipeline *pipeline, char *buf, size_t len);

/*
 * Bring streams into the state in which they can be read: group and marker
 * are there, and the stream is not behind what was settled.  Sets prepared of
 * those that are, and state and reason of the others.  Nothing else may be
 * outstanding on the connection; waits for Redis, so not in a transaction of a worker.
 */
extern void ss_group_prepare(SsRedis *redis, const SsPipeline *pipeline, bool single,
							 SsStream **streams, int nstreams);

#endif /* SS_GROUP_H */
