/*
 * ss_stream.h
 *	  Redis's stream commands as typed verbs: commands out of our structures,
 *	  and replies, every shape checked, into them.
 *
 * NOTES
 *	  The append verbs put one command into the connection's output buffer; the
 *	  parse verbs take the reply to it.  Replies are error replies as often as
 *	  not: what is expected there is said at each verb, all else is raised by
 *	  ss_reply_raise.
 */
#ifndef SS_STREAM_H
#define SS_STREAM_H

#include "ss_batch.h"
#include "ss_catalog.h"
#include "ss_ledger.h"
#include "ss_redis.h"

typedef enum SsStreamState
{
	SS_STREAM_OK = 0,	  /* read in turn */
	SS_STREAM_MISSING,	  /* no such key: read again when discovery sees it */
	SS_STREAM_WRONG_TYPE, /* the key holds something else: probed now and then */
	SS_STREAM_REPLACED,	  /* deleted and made anew */
	SS_STREAM_WENT_BACK,  /* its last id is below what we settled: Redis lost a tail */
	SS_STREAM_SET_ASIDE	  /* its group belongs to somebody else, or its last probe failed */
} SsStreamState;

/* "ok", "missing", ... as the view streams shows it. */
extern const char *ss_stream_state_name(SsStreamState state);

/* Most keys one XREADGROUP names. */
#define SS_STREAM_MAX_KEYS 500

/*
 * XREADGROUP over streams: new entries (">"), or our own pending ones behind
 * each stream's pending_after.  block_ms 0: do not block.
 */
extern void ss_stream_append_read(SsRedis *redis, const char *group, const char *consumer,
								  SsStream **streams, int nstreams, bool pending,
								  int count, int block_ms);

/*
 * Take its reply into the batch; returns the entries added.  The streams must
 * be those of the command, in order.  Sets hot, active_at, delivered,
 * pending_after and recovered of each.  Not for error replies.
 */
extern int ss_stream_parse_read(const SsReply *reply, SsStream **streams, int nstreams,
								bool pending, int count, SsBatch *batch);

/* XACK of some ids.  The reply is an integer; one of 0 is no error. */
extern void ss_stream_append_ack(SsRedis *redis, const SsStream *stream, const char *group,
								 const SsEntryId *ids, int nids);

/* SCAN cursor MATCH glob TYPE stream.  parse returns the next cursor ("0" at the end; points into the reply) and the keys' array. */
extern void		   ss_stream_append_scan(SsRedis *redis, const char *cursor, const char *glob);
extern const char *ss_stream_parse_scan(const SsReply *reply, const SsReply **keys);

/* What XINFO STREAM tells. */
typedef struct SsStreamInfo
{
	int64	  length;
	SsEntryId last_generated;
	SsEntryId first;		 /* 0-0 if empty */
	SsEntryId last;			 /* likewise; last_generated may be higher, that entry was deleted */
	int64	  entries_added; /* ever; -1: unknown, as before Redis 7 */
	SsEntryId max_deleted;	 /* highest id that XDEL removed; 0-0: none, or unknown */
} SsStreamInfo;

/* What XINFO GROUPS tells of one group. */
typedef struct SsGroupInfo
{
	bool	  exists;
	SsEntryId last_delivered;
	int64	  pending;
	int64	  lag;			/* -1: unknown */
	int64	  entries_read; /* of those ever added, how many up to last_delivered; -1: unknown */
} SsGroupInfo;

/* One line of XINFO CONSUMERS. */
typedef struct SsConsumerInfo
{
	const char *name; /* terminated, in the reply's arena */
	uint32		name_len;
	int64		pending;
	int64		idle; /* ms since it last asked for something; -1: unknown */
} SsConsumerInfo;

extern void ss_stream_append_info(SsRedis *redis, const SsStream *stream);
extern void ss_stream_append_length(SsRedis *redis, const char *key);
extern void ss_stream_append_groups(SsRedis *redis, const SsStream *stream);
extern void ss_stream_append_consumers(SsRedis *redis, const SsStream *stream, const char *group);

/* TIME; false for an error reply.  Milliseconds since 1970. */
extern void ss_stream_append_time(SsRedis *redis);
extern bool ss_stream_parse_time(const SsReply *reply, uint64 *ms);

/* One line of XINFO GROUPS. */
typedef struct SsGroupLine
{
	const char *name; /* bytes, in the reply's arena */
	uint32		name_len;
	SsEntryId	last_delivered;
} SsGroupLine;

/* All groups of XINFO GROUPS, their array in CurrentMemoryContext; 0 also for a missing key. */
extern int ss_stream_parse_group_lines(const SsReply *reply, SsGroupLine **lines);

/* The lowest id that XPENDING's summary tells of; false if nothing is pending, or the group is gone. */
extern bool ss_stream_parse_pending_first(const SsReply *reply, SsEntryId *first);

/* -1 where Redis does not tell. */
extern int64 ss_stream_parse_length(const SsReply *reply);

/* False for "no such key" (state MISSING) and WRONGTYPE (state WRONG_TYPE), with *state set; raises other errors. */
extern bool ss_stream_parse_info(const SsReply *reply, SsStreamInfo *info, SsStreamState *state);
extern bool ss_stream_parse_groups(const SsReply *reply, const char *group, SsGroupInfo *info, SsStreamState *state);

/* Number of consumers, their array in CurrentMemoryContext; 0 also for a missing key or group. */
extern int ss_stream_parse_consumers(const SsReply *reply, SsConsumerInfo **consumers);

/* XGROUP CREATE and CREATECONSUMER in one MULTI: four replies, the last one counts.  mkstream makes a missing key. */
#define SS_STREAM_CREATE_REPLIES 4
extern void ss_stream_append_create(SsRedis *redis, const SsStream *stream, const char *group,
									SsEntryId start, const char *marker, bool mkstream);

/*
 * The EXEC's reply: true made, false the group was there already (then
 * *intruded says that our marker was put into it nevertheless); raises others.
 */
extern bool ss_stream_parse_create(const SsReply *reply, bool *intruded);

extern void ss_stream_append_createconsumer(SsRedis *redis, const SsStream *stream, const char *group, const char *consumer);
extern void ss_stream_append_delconsumer(SsRedis *redis, const SsStream *stream, const char *group, const char *consumer);

/* One line of XPENDING. */
typedef struct SsPendingEntry
{
	SsEntryId	id;
	const char *consumer; /* terminated, in the reply's arena */
} SsPendingEntry;

/*
 * XPENDING key group [IDLE ms] from end count [consumer]: lines in order, in
 * CurrentMemoryContext.  From behind an id or including it; those that were delivered
 * at least idle_ms ago (0: all); consumer NULL: everybody's.
 */
extern void ss_stream_append_pending(SsRedis *redis, const SsStream *stream, const char *group, int64 idle_ms,
									 SsEntryId from, bool behind, SsEntryId end, int count, const char *consumer);
extern int	ss_stream_parse_pending(const SsReply *reply, SsPendingEntry **entries);

/* XPENDING key group, the summary: total, lowest id, and how many belong to consumers whose name begins with prefix. */
extern void ss_stream_append_pending_summary(SsRedis *redis, const SsStream *stream, const char *group);
extern bool ss_stream_parse_pending_summary(const SsReply *reply, const char *prefix,
											int64 *ours, int64 *foreign, SsEntryId *oldest);

/* XCLAIM key group consumer idle_ms ids JUSTID.  parse returns the number of ids that were given, in CurrentMemoryContext. */
extern void ss_stream_append_claim(SsRedis *redis, const SsStream *stream, const char *group,
								   const char *consumer, int64 idle_ms, const SsEntryId *ids, int nids);
extern int	ss_stream_parse_claim(const SsReply *reply, SsEntryId **ids);

extern void ss_stream_append_multi(SsRedis *redis);
extern void ss_stream_append_exec(SsRedis *redis);

/* XRANGE key (after + COUNT n: entries into the batch as a run of their own; returns their number. */
extern void ss_stream_append_range(SsRedis *redis, const SsStream *stream, SsEntryId after, int count);
extern int	ss_stream_parse_range(const SsReply *reply, SsStream *stream, SsBatch *batch);

/* ---- ss_streamrange.c ---- */

/* XRANGE key (after end COUNT n; the ids of its reply, ascending, in CurrentMemoryContext, and their number. */
extern void ss_stream_append_between(SsRedis *redis, const SsStream *stream, SsEntryId after, SsEntryId end, int count);
extern int	ss_stream_parse_ids(const SsReply *reply, SsEntryId **ids);

/* XREVRANGE key (before - COUNT n, newest first: ss_stream_parse_range takes its reply.  SS_ENTRYID_MAX: from the newest one. */
extern void ss_stream_append_newest(SsRedis *redis, const SsStream *stream, SsEntryId before, int count);

/* XRANGE key id id: false if there is no such entry, else its ss_batch_hash; 0 if it was too large to be read whole. */
extern void ss_stream_append_one(SsRedis *redis, const SsStream *stream, SsEntryId id);
extern bool ss_stream_parse_one(const SsReply *reply, SsEntryId id, uint64 *hash);

/* XCLAIM ... FORCE JUSTID: entries that the group has passed are pending with us, whether or not they were with anybody. */
extern void ss_stream_append_claim_forced(SsRedis *redis, const SsStream *stream, const char *group,
										  const char *consumer, const SsEntryId *ids, int nids);

/* XREADGROUP of the pending entries of the marker, which has none: Redis sees that we live.  The reply tells nothing. */
extern void ss_stream_append_heartbeat(SsRedis *redis, SsStream **streams, int n, const char *group, const char *marker);

/* XGROUP SETID. */
extern void ss_stream_append_setid(SsRedis *redis, const SsStream *stream, const char *group, SsEntryId id);

/* ---- ss_streamgap.c ---- */

/* Ask about gaps between ids in one MULTI: returns the number of replies, the last one counts. */
extern int ss_stream_append_gaps(SsRedis *redis, const SsStream *stream, const char *group,
								 const SsGap *gaps, int n);

/*
 * The EXEC's reply: sets the kind of each gap.  False if nothing is proven of
 * any: the stream, the group, or our marker in it is not there.
 */
extern bool ss_stream_parse_gaps(const SsReply *reply, const SsPipeline *pipeline, const SsStream *stream,
								 const char *marker, SsGap *gaps, int n);

#endif /* SS_STREAM_H */
