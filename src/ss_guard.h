/*
 * ss_guard.h
 *	  Refuses DROP SERVER while a pipeline uses the server.
 */
#ifndef SS_GUARD_H
#define SS_GUARD_H

/* Install the hook; called from _PG_init. */
extern void ss_guard_init(void);

#endif /* SS_GUARD_H */
