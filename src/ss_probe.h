/*
 * ss_probe.h
 *	  A look at Redis while a pipeline is defined: reads and checks only.
 */
#ifndef SS_PROBE_H
#define SS_PROBE_H

#include "ss_mapping.h"

/*
 * Connect as the pipeline's owner and look at its streams.  ERROR if Redis
 * cannot be reached or refuses us, or if a single key holds something else
 * than a stream (42809).  NOTICE if the group exists already, WARNING for a
 * column that must be filled and for which sampled entries have no field.
 * With from_now returns, as a List of SsStreamRow *, every stream there is
 * with its last id as start; NIL otherwise.  For sessions: it waits for Redis
 * inside the caller's transaction.
 */
extern List *ss_probe_streams(const SsPipeline *pipeline, const SsTemplate *tmpl,
							  const SsMapping *mapping, bool from_now);

#endif /* SS_PROBE_H */
