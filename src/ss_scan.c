/*
 * ss_scan.c
 *	  The scan: a short-lived worker that reports the pipelines of one database
 *	  to shared memory.
 *
 * NOTES
 *	  While it is connected its database cannot be dropped, so it waits for
 *	  nothing: locks it does not get soon end it, and the launcher tries again.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <signal.h>

#include "access/xact.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "ss_catalog.h"
#include "ss_launcher.h"
#include "ss_outbox.h"
#include "ss_shmem.h"
#include "ss_template.h"
#include "ss_worker.h"

/* Settings of the database or of the role must not bend or end the scan. */
static void
pin_settings(void)
{
	SetConfigOption("search_path", "", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "2s", PGC_SUSET, PGC_S_OVERRIDE);
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
}

/* Is the stream argument one key?  A definition that cannot be parsed is for its worker to complain about. */
static bool
is_single(const char *stream)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool result = false;

	/* parsing allocates memory and converts text at the most, so there is nothing to clean up */
	PG_TRY();
	{
		result = ss_template_parse(stream)->single;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}

static SsPipelineShared *
read_pipelines(int *nitems)
{
	List			 *pipelines = ss_catalog_list();
	SsPipelineShared *items = palloc0(Max(list_length(pipelines), 1) * sizeof(SsPipelineShared));
	int				  n = 0;
	ListCell		 *cell;

	foreach(cell, pipelines)
	{
		SsPipeline		 *pipeline = lfirst(cell);
		SsPipelineShared *item = &items[n++];

		item->id = pipeline->id;
		ss_shmem_copy_text(item->name, pipeline->name, SS_NAME_MAX);
		item->owner = pipeline->owner_oid;
		item->enabled = pipeline->enabled;
		item->workers = pipeline->workers;
		item->single = is_single(pipeline->stream);
		item->generation = pipeline->generation;
	}
	*nitems = n;
	return items;
}

void
streamsink_scan_main(Datum main_arg)
{
	SsWorkerArgs	  args;
	SsPipelineShared *items = NULL;
	int				  nitems = 0;
	bool			  outbox = false;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	if (!ss_shmem_attach(DatumGetInt32(main_arg), args.slot_generation))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(args.database, InvalidOid, 0);
	pin_settings();

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (OidIsValid(get_extension_oid("streamsink", true)))
	{
		items = read_pipelines(&nitems);
		outbox = ss_outbox_pending();
	}
	if (!ss_shmem_report_database(args.database, items, nitems, outbox))
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("all streamsink.max_pipelines are in use"),
				 errhint("Increase streamsink.max_pipelines and restart the server.")));
	PopActiveSnapshot();
	CommitTransactionCommand();
}
