/*
 * ss_carry.h
 *	  Commands of the outbox to one server: in order, entries once.
 */
#ifndef SS_CARRY_H
#define SS_CARRY_H

#include "ss_channel.h"
#include "ss_outboxrow.h"

typedef enum SsCarryOutcome
{
	SS_CARRY_LEFT = 0, /* not carried out: the channel is down */
	SS_CARRY_DONE,
	SS_CARRY_REFUSED, /* by Redis, and would be again: see error */
	SS_CARRY_BEHIND,  /* must not overtake one of the same name that was refused */
	SS_CARRY_HELD	  /* somebody is discarding it, or one of the same name before it */
} SsCarryOutcome;

typedef struct SsCarryItem
{
	const SsOutboxRow *row;
	SsCarryOutcome	   outcome;
	char			  *error; /* in the channel's page context */

	/* of ss_carry.c */
	bool	  has_id;	 /* the id it is sent with is chosen, and committed */
	bool	  doubtful;	 /* it may be in the stream with that id */
	bool	  too_small; /* Redis refused the id because the stream has larger ones */
	SsEntryId id;
} SsCarryItem;

/*
 * Send the commands of some rows, which are flushed, in order.  Sets the outcome of each, and
 * channel->down if they could not all be tried.  Only FATAL leaves this
 * function.  In no transaction; errors' texts are in cxt.
 */
extern void ss_carry(SsChannel *channel, SsCarryItem **items, int n, MemoryContext cxt);

#endif /* SS_CARRY_H */
