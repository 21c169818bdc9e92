/*
 * ss_verify.h
 *	  Is what was settled of a stream still in it, as it was settled?
 *
 * NOTES
 *	  Redis that restarts from an old file, and a replica that was promoted,
 *	  lack the end of a stream: never something in the middle.  What was settled
 *	  there is settled still, but the ids may be given to new entries, which
 *	  must not be taken for it.
 */
#ifndef SS_VERIFY_H
#define SS_VERIFY_H

#include "ss_pump.h"

typedef enum SsVerdict
{
	SS_VERIFY_INTACT, /* the newest settled entry is there, or was trimmed or deleted; or nothing is settled */
	SS_VERIFY_DOUBT,  /* it is not there, or is another one: to be traced */
	SS_VERIFY_LOST,	  /* Redis lost the end of the stream, at least one older settled entry is there */
	SS_VERIFY_STRANGE /* nothing that was settled is there: it may be another stream */
} SsVerdict;

/*
 * What one question tells (the reply to ss_stream_append_one of stream->high;
 * hash is the settled one's): SS_VERIFY_INTACT or SS_VERIFY_DOUBT.
 */
extern SsVerdict ss_verify_newest(const SsStream *stream, uint64 hash, const SsStreamInfo *info, const SsReply *reply);

/* How far back the loss goes. */
typedef struct SsTrace
{
	SsVerdict verdict;	/* SS_VERIFY_LOST or SS_VERIFY_STRANGE */
	SsEntryId verified; /* up to it the stream is as it was settled; 0-0 if that is not known of any */
	SsEntryId keep;		/* ids above it do not count as settled any more */
	uint64	  hash;		/* of the entry at keep, if it is as it was settled; else 0 */
	SsEntryId doubtful; /* of what is in the stream behind verified and up to it, nobody knows whether it was settled; or 0-0 */
} SsTrace;

/* Follow the settled intervals back until one is there.  Asks Redis; nothing may be outstanding.  Not in a transaction of a worker. */
extern void ss_verify_trace(SsPump *pump, const SsStream *stream, const SsStreamInfo *info, SsTrace *trace);

/*
 * Cut the ledger as the trace says, with a WARNING, and make dead letters of
 * the doubtful entries, in one transaction that is flushed; sets stream->high.
 * False, and nothing was done, if the pipeline was changed meanwhile or somebody
 * else settled entries of the stream since it was looked at, or (then with state
 * and reason of the stream set) if too many entries are in doubt.
 */
extern bool ss_verify_cut(SsPump *pump, SsStream *stream, const SsTrace *trace);

/* Forget everything that was settled of a stream: it is another one now, read from its beginning.  False as above. */
extern bool ss_verify_forget(SsPump *pump, SsStream *stream);

#endif /* SS_VERIFY_H */
