/*
 * ss_fault.h
 *	  Named fault points, compiled into test builds only (STREAMSINK_TEST).
 */
#ifndef SS_FAULT_H
#define SS_FAULT_H

#ifdef STREAMSINK_TEST
/* Acts when the setting streamsink.fault names this point; the head of ss_fault.c has what it may say. */
extern void ss_fault_point(const char *name);
extern void ss_fault_init(void);
/* Whether something is set for it: to bring about first what the point shall come in the middle of. */
extern bool ss_fault_is_set(const char *name);
#define SS_FAULT(name)	   ss_fault_point(name)
#define SS_FAULT_SET(name) ss_fault_is_set(name)
#else
#define SS_FAULT(name)	   ((void) 0)
#define SS_FAULT_SET(name) false
#define ss_fault_init()	   ((void) 0)
#endif

#endif /* SS_FAULT_H */
