/*
 * ss_repair.h
 *	  What is decided for one stream alone, when it or its group is not as we
 *	  left it.
 */
#ifndef SS_REPAIR_H
#define SS_REPAIR_H

#include "ss_findings.h"

/*
 * Decide about a stream whose finding is unusual, and add to the finding what
 * is to be done with its group.  False: it cannot be read now, and is set aside
 * or looked at again soon.  Asks Redis; nothing may be outstanding.  Not in a
 * transaction of a worker.  Leaves memory behind in CurrentMemoryContext.
 */
extern bool ss_repair_stream(SsPump *pump, SsStream *stream, SsFinding *finding);

/*
 * Set the start of a stream, on disk before Redis is told anything that rests
 * on it.  False: a worker has to do that, the stream is set aside.  Not in a
 * transaction of a worker.
 */
extern bool ss_repair_start_at(SsPump *pump, SsStream *stream, SsEntryId position);

/* The stream is not read for so long, for this reason. */
extern void ss_repair_set_aside(SsStream *stream, SsStreamState state, const char *reason, long probe_ms);

#endif /* SS_REPAIR_H */
