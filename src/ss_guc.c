/*
 * ss_guc.c
 *	  Settings streamsink.*
 *
 * NOTES
 *	  Without shared_preload_libraries the settings that size shared memory
 *	  cannot be defined any more, and keep their defaults, unused.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <limits.h>

#include "access/htup_details.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "ss_guc.h"

int	 ss_guc_max_workers = 8;
int	 ss_guc_max_pipelines = 128;
int	 ss_guc_max_databases = 64;
int	 ss_guc_discovery_interval = 1000;
int	 ss_guc_block_time = 5000;
int	 ss_guc_command_timeout = 15000;
int	 ss_guc_backoff_max = 30000;
int	 ss_guc_setup_retry = 30000;
int	 ss_guc_failover_delay = 30000;
int	 ss_guc_batch_timeout = 300000;
int	 ss_guc_sample_interval = 2000;
int	 ss_guc_fold_rows = 256;
int	 ss_guc_ledger_join_age = 600000;
int	 ss_guc_ledger_apart = 1000;
int	 ss_guc_dead_letter_threshold = 1000;
int	 ss_guc_max_columns = 200;
bool ss_guc_bulk_insert = true;

static void
define_int(const char *name, const char *description, const char *more,
		   int *variable, int low, int high, GucContext context, int flags)
{
	DefineCustomIntVariable(name, description, more, variable, *variable, low, high,
							context, flags, NULL, NULL, NULL);
}

void
ss_guc_init(void)
{
	define_int("streamsink.discovery_interval",
			   "Sets the time between looks for new streams that match a pipeline.",
			   NULL, &ss_guc_discovery_interval, 100, 3600000, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("streamsink.block_time",
			   "Sets the longest time a read waits inside Redis for new entries.",
			   NULL, &ss_guc_block_time, 10, 5000, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("streamsink.command_timeout",
			   "Sets the time a reply of Redis may take before the connection is given up.",
			   "A blocking read may take streamsink.block_time longer.",
			   &ss_guc_command_timeout, 100, 600000, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("streamsink.backoff_max",
			   "Sets the longest wait between tries to connect, or to start a worker again.",
			   NULL, &ss_guc_backoff_max, 1000, 3600000, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("streamsink.setup_retry",
			   "Sets the time between tries after an error that somebody has to mend.",
			   NULL, &ss_guc_setup_retry, 100, 3600000, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("streamsink.failover_delay",
			   "Sets how long the workers of a copy of this server must have been silent before those of this one take over.",
			   NULL, &ss_guc_failover_delay, 100, 3600000, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("streamsink.batch_timeout",
			   "Sets the longest time one batch may take.",
			   "A batch that takes longer is tried again by halves. Zero turns the limit off.",
			   &ss_guc_batch_timeout, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("streamsink.sample_interval",
			   "Sets the time between samples of the lengths and lags of streams.",
			   NULL, &ss_guc_sample_interval, 100, 3600000, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("streamsink.fold_rows",
			   "Sets the number of rows in the ledger's log that starts a fold.",
			   NULL, &ss_guc_fold_rows, 1, 1000000, PGC_SIGHUP, 0);
	define_int("streamsink.ledger_join_age",
			   "Sets the age from which neighbouring intervals of settled entries may be joined.",
			   "They are joined when Redis holds nothing between them.",
			   &ss_guc_ledger_join_age, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("streamsink.ledger_apart",
			   "Sets the number of a stream's newest intervals of settled entries that are kept apart by what was trimmed or read by others.",
			   "Older ones are joined over such gaps, which are counted.",
			   &ss_guc_ledger_apart, 1, INT_MAX, PGC_SIGHUP, GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE);
	define_int("streamsink.dead_letter_threshold",
			   "Sets the number of dead letters of a pipeline that is notified.",
			   "When a batch brings it there, the channel streamsink_dead_letters is told. Zero turns that off.",
			   &ss_guc_dead_letter_threshold, 0, 100000, PGC_SIGHUP, 0);
	define_int("streamsink.max_columns",
			   "Sets the number of columns up to which create_target and evolve add columns for fields.",
			   "Dropped columns count, as they do for the server's own limit.",
			   &ss_guc_max_columns, 1, MaxHeapAttributeNumber, PGC_SIGHUP, 0);
	DefineCustomBoolVariable("streamsink.bulk_insert",
							 "Inserts rows by the page where the generated INSERT does nothing else.",
							 "Off: the statement is executed always, and seen by extensions that watch statements.",
							 &ss_guc_bulk_insert, ss_guc_bulk_insert, PGC_SUSET, 0, NULL, NULL, NULL);

	if (!process_shared_preload_libraries_in_progress)
		return;

	define_int("streamsink.max_workers",
			   "Sets the maximum number of workers that run at the same time.",
			   "Each takes one of max_worker_processes.",
			   &ss_guc_max_workers, 0, 1024, PGC_POSTMASTER, 0);
	define_int("streamsink.max_pipelines",
			   "Sets the maximum number of pipelines of all databases.",
			   NULL, &ss_guc_max_pipelines, 1, 65536, PGC_POSTMASTER, 0);
	define_int("streamsink.max_databases",
			   "Sets the number of databases that can be looked after at the same time.",
			   NULL, &ss_guc_max_databases, 4, 65536, PGC_POSTMASTER, 0);

	MarkGUCPrefixReserved("streamsink");
}
