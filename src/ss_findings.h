/*
 * ss_findings.h
 *	  What is found at a stream and its group, and what that means.
 */
#ifndef SS_FINDINGS_H
#define SS_FINDINGS_H

#include "ss_marker.h"
#include "ss_verify.h"

/* The replies about one stream. */
typedef struct SsReplies
{
	const SsReply *info;	  /* XINFO STREAM */
	const SsReply *groups;	  /* XINFO GROUPS */
	const SsReply *consumers; /* XINFO CONSUMERS */
	const SsReply *newest;	  /* XRANGE of the highest settled id */
} SsReplies;

typedef struct SsFinding
{
	/* what is there */
	SsStreamInfo info;
	SsGroupInfo	 group;
	bool		 ours;					/* a marker of this pipeline here is in the group */
	bool		 ahead;					/* ... of a later life than this one */
	char		 marker[SS_MARKER_MAX]; /* ... that is to be replaced, or "" */
	SsVerdict	 verdict;
	bool		 replaced; /* the stream is another one: no entry was ever removed from it, and the settled one is not there */

	/* the stream is not read: its state (else SS_STREAM_OK), why, and when it is looked at again */
	SsStreamState aside;
	const char	 *reason;
	long		  probe_ms;

	/* what is to be done */
	bool	  unusual; /* something to be decided for this stream alone */
	bool	  make_group;
	SsEntryId position; /* of that group */
	bool	  mkstream;
	bool	  make_marker;
	bool	  set_position; /* the group stands behind the stream's end: set it there */
	bool	  all_gaps;		/* look for unsettled entries between all settled ones */
} SsFinding;

/* Fill a finding from the replies.  Sets stream->foreign, in the catalog too.  Not in a transaction of a worker. */
extern void ss_findings_examine(SsPump *pump, SsStream *stream, uint64 hash, const SsReplies *replies, SsFinding *finding);

/* Is our exact marker missing, or one of somebody else there? */
extern bool ss_findings_is_touched(const SsPipeline *pipeline, const SsConsumerInfo *consumers, int nconsumers);

#endif /* SS_FINDINGS_H */
