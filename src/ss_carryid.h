/*
 * ss_carryid.h
 *	  Ids of the entries that the courier adds: parts of ss_carry.c.
 */
#ifndef SS_CARRYID_H
#define SS_CARRYID_H

#include "ss_carry.h"

/* One call of ss_carry. */
typedef struct SsCarry
{
	SsChannel	 *channel;
	SsCarryItem **items;
	int			  n;
	MemoryContext cxt;		 /* errors' texts, lists */
	MemoryContext work;		 /* replies; reset with each */
	List		 *refused;	 /* names (char *) whose commands wait from now on */
	List		 *held;		 /* ... because somebody is about to discard one */
	List		 *tops;		 /* where streams are that refused ids */
	TimestampTz	  chosen_at; /* when ids were chosen last */
	int			  choices;	 /* times that something had to be tried again */
} SsCarry;

/* Is the id of the entry ours to choose? */
extern bool ss_carryid_is_entry(const SsCarryItem *item);

/* Entries that may be in their streams already are done if they are. */
extern void ss_carryid_look(SsCarry *carry);

/* Choose ids for the entries that have none, commit and flush them. */
extern void ss_carryid_choose(SsCarry *carry);

/*
 * Redis refused ids of a stream: its other entries need new ones as well, or
 * each group of them would be refused in turn.
 */
extern void ss_carryid_refused(SsCarry *carry, const char *name);

/* ---- ss_carry.c ---- */

/* A list of names and one more, if it is not there yet. */
extern bool	 ss_carry_has_name(const List *names, const char *name);
extern List *ss_carry_add_name(SsCarry *carry, List *names, const char *name);

/* The command is refused; what has the same name waits. */
extern void ss_carry_refuse(SsCarry *carry, SsCarryItem *item, const char *error);

/* An error reply to a command: refused, or ERROR if it is the server's fault. */
extern void ss_carry_take_error(SsCarry *carry, SsCarryItem *item, const SsReply *reply);
extern bool ss_carry_is_servers_fault(const SsReply *reply);

/* The next reply, in the work context, which is reset. */
extern const SsReply *ss_carry_receive(SsCarry *carry, SsArena *arena, Size limit);

/* Replies are short: a status, an id, a number or an error. */
#define SS_CARRY_REPLY_BYTES (64 * 1024)

#endif /* SS_CARRYID_H */
