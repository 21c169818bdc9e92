/*
 * ss_error_test.c
 *	  What happens after errors, for SQL, compiled into test builds only.
 *
 * NOTES
 *	  The install script does not know these functions: the test declares them.
 */
#include "postgres.h"
#include "ss_compat.h"

#ifdef STREAMSINK_TEST

#include <signal.h>

#include "miscadmin.h"

#include "ss_trouble.h"

SS_SQL_FUNCTION(streamsink_test_crash);
SS_SQL_FUNCTION(streamsink_test_backoff);

/* end this process as a bad pointer in a function of somebody else would */
Datum
streamsink_test_crash(PG_FUNCTION_ARGS)
{
	kill(MyProcPid, SIGSEGV);
	PG_RETURN_VOID();
}

/* (first, longest, growth, set-up error, failures in a row) returns milliseconds without jitter */
Datum
streamsink_test_backoff(PG_FUNCTION_ARGS)
{
	SsPipeline pipeline = {0};

	pipeline.retry_backoff_ms = PG_GETARG_INT64(0);
	pipeline.retry_backoff_max_ms = PG_GETARG_INT64(1);
	pipeline.retry_growth = (SsGrowth) PG_GETARG_INT32(2);
	PG_RETURN_INT64(ss_trouble_backoff(&pipeline, PG_GETARG_BOOL(3) ? SS_ERROR_WAIT : SS_ERROR_RETRY, PG_GETARG_INT32(4)));
}

#endif /* STREAMSINK_TEST */
