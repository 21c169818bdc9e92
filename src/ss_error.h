/*
 * ss_error.h
 *	  From a SQLSTATE to what is done: errors are data, machine or set-up.
 */
#ifndef SS_ERROR_H
#define SS_ERROR_H

#include "utils/elog.h"

typedef enum SsDecision
{
	SS_ERROR_REFUSE, /* data: isolate, one dead letter each, keep the rest */
	SS_ERROR_RETRY,	 /* machine: the same entries again, with backoff */
	SS_ERROR_WAIT,	 /* set-up: say why, try again at most every 30 s */
	SS_ERROR_HALVE	 /* our own batch deadline, memory with more than one row: halve, a single row is refused */
} SsDecision;

/* The table of DESIGN.md.  single: one row alone caused it. */
extern SsDecision ss_error_decide(int sqlstate, bool single);

/* Is it about the values of an entry, whatever the rest of the table makes of it? */
extern bool ss_error_is_data(int sqlstate);

/* Is this error that of a statement which looks for "batch" where it cannot be seen? */
extern bool ss_error_misses_batch(const ErrorData *error);

/* Was the ERROR being handled our batch deadline (set by the worker's timeout handler), not a user's cancel? */
extern bool ss_error_deadline_passed(void);
extern void ss_error_set_deadline(bool passed);

/*
 * After a deadline was turned into smaller tries: clears the flag and calls
 * the worker's function that arms the timer again (NULL: none), so that every
 * try has a deadline of its own.  Nothing happens if no deadline had passed.
 */
extern void ss_error_next_try(void);
extern void ss_error_on_next_try(void (*rearm)(void));

/* A machine error that is no order to stop, and not the doing of other transactions: max_retries counts it. */
extern bool ss_error_counts(int sqlstate);

/* Two transactions were in each other's way: a deadlock, a serialization failure. */
extern bool ss_error_is_collision(int sqlstate);

/* A one-line hint: the error's own, else one for a set-up error, or NULL.  Not palloc'd. */
extern const char *ss_error_hint(const ErrorData *error);

#endif /* SS_ERROR_H */
