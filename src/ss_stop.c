/*
 * ss_stop.c
 *	  A policy stops its pipeline: on_error => 'stop', max_dead_letter_rate.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "ss_attempt.h"
#include "ss_breaker.h"
#include "ss_shmem.h"
#include "ss_stop.h"

/* The entry whose refusal is named: of a breaker that tripped, the last one. */
static const SsRefusal *
named_refusal(const SsBatch *batch, SsSettleResult result)
{
	return &batch->refusals[result == SS_SETTLE_TRIPPED ? batch->nrefusals - 1 : 0];
}

char *
ss_stop_reason(const SsPipeline *pipeline, const SsBatch *batch, SsSettleResult result)
{
	const SsRefusal *refusal = named_refusal(batch, result);
	const SsEntry	*entry = &batch->entries[refusal->entry];
	const char		*message = refusal->error->message ? refusal->error->message : "unknown error";
	char			 id[SS_ENTRYID_MAXLEN];

	ss_entryid_print(entry->id, id);
	if (result == SS_SETTLE_TRIPPED)
		return psprintf("%s; entry %s of stream \"%s\": %s", ss_breaker_explain(pipeline), id,
						entry->stream->name, message);
	return psprintf("entry %s of stream \"%s\" was refused: %s", id, entry->stream->name, message);
}

void
ss_stop_pipeline(const SsPipeline *pipeline, const SsBatch *batch, SsSettleResult result, MemoryContext cxt)
{
	MemoryContext saved = MemoryContextSwitchTo(cxt);
	char		 *reason = ss_stop_reason(pipeline, batch, result);

	MemoryContextSwitchTo(saved);
	ss_shmem_note_error(unpack_sql_state(named_refusal(batch, result)->error->sqlerrcode), reason);
	StartTransactionCommand();
	ss_catalog_lock(pipeline->id, AccessExclusiveLock);
	if (ss_catalog_is_current(pipeline))
	{
		/* who starts it again has mended what crashed: the entry is tried then, not refused unseen for ever */
		if (batch->crashes >= SS_ATTEMPT_CRASHES)
			ss_attempt_delete_all(pipeline->id);
		ss_catalog_set_enabled(pipeline->id, false, reason);
	}
	CommitTransactionCommand();
	ereport(LOG,
			(errmsg("pipeline \"%s\" was stopped by its %s setting", pipeline->name,
					result == SS_SETTLE_TRIPPED ? "max_dead_letter_rate" : "on_error"),
			 errdetail_internal("%s", reason)));
}
