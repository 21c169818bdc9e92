/*
 * ss_fault.h
 *	  Named fault points, compiled into test builds only (STREAMSINK_TEST).
 */
#ifndef SS_FAULT_H
#define SS_FAULT_H

#ifdef STREAMSINK_TEST
/* Acts when the setting streamsink.fault names this point: "name:kill", "name:error", "name:fatal" or "name:wait" (until the setting changes), joined by commas. */
extern void ss_fault_point(const char *name);
extern void ss_fault_init(void);
#define SS_FAULT(name) ss_fault_point(name)
#else
#define SS_FAULT(name)	((void) 0)
#define ss_fault_init() ((void) 0)
#endif

#endif /* SS_FAULT_H */
