/*
 * ss_retention.h
 *	  Removing dead letters that are too old, or too many.
 */
#ifndef SS_RETENTION_H
#define SS_RETENTION_H

#include "ss_catalog.h"

typedef enum SsRetentionPhase
{
	SS_RETENTION_IDLE,	 /* -> old */
	SS_RETENTION_OLD,	 /* removing by age -> counting, idle */
	SS_RETENTION_COUNTS, /* counting back from the newest -> surplus, idle */
	SS_RETENTION_SURPLUS /* removing what is older than those -> idle */
} SsRetentionPhase;

/* Where a process stands with it. */
typedef struct SsRetention
{
	SsRetentionPhase phase;
	TimestampTz		 next_at;	 /* of the next step, or the next round */
	TimestampTz		 not_before; /* however many are added meanwhile */
	int64			 added;		 /* dead letters that this process stored since the last round */
	bool			 counted;	 /* a round has counted */
	int64			 newest;	 /* ... when this one was the newest */

	/* the round that is under way */
	TimestampTz from;
	TimestampTz before;
	int64		below; /* counted down to this id */
	int64		left;  /* of those that may stay */
	int64		after;
	int64		removed_old;
	int64		removed_surplus;
} SsRetention;

/*
 * One step of a round, in the current transaction, which the caller commits:
 * some milliseconds.  True if more of the round is left, and another step may
 * follow at once.  Waits for nobody: when dead letters are being dealt with,
 * or the pipeline is being changed, it is tried again a second later.
 */
extern bool ss_retention_step(const SsPipeline *pipeline, SsRetention *retention);

/*
 * A worker's turn, outside of a transaction: steps that are due, if any.  An
 * idle worker takes several, another leaves pauses between them.
 */
extern void ss_retention_turn(const SsPipeline *pipeline, SsRetention *retention, bool idle);

#endif /* SS_RETENTION_H */
