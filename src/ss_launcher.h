/*
 * ss_launcher.h
 *	  The launcher: one static process that starts scans, workers and couriers
 *	  and owns restart pacing.
 */
#ifndef SS_LAUNCHER_H
#define SS_LAUNCHER_H

#include "postgres.h"
#include "ss_compat.h"

/* Register the launcher; called from _PG_init under shared_preload_libraries. */
extern void ss_launcher_register(void);

/* Entry points found by name.  The scan's main_arg is its slot's index. */
extern SS_EXPORT void streamsink_launcher_main(Datum main_arg);
extern SS_EXPORT void streamsink_scan_main(Datum main_arg);

#endif /* SS_LAUNCHER_H */
