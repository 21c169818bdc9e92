/*
 * ss_courier.h
 *	  The courier: the process that carries a database's outbox to Redis.
 */
#ifndef SS_COURIER_H
#define SS_COURIER_H

/* Entry point, found by name; main_arg is its slot, bgw_extra begins with SsWorkerArgs. */
extern SS_EXPORT void streamsink_courier_main(Datum main_arg);

#endif /* SS_COURIER_H */
