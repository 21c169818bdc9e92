/*
 * ss_change.c
 *	  Control calls take effect at commit: the transaction's list of changed
 *	  pipelines.
 *
 * NOTES
 *	  The commit callback runs after the transaction is committed and visible,
 *	  so nothing in it may throw: it only looks at the list and calls
 *	  ss_shmem_commit_change.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "ss_shmem.h"

typedef struct SsChange
{
	struct SsChange *next;
	int32			 pipeline_id; /* 0: only the outbox, or all pipelines of the database */
	bool			 control;
	bool			 outbox;
	SubTransactionId subid;
} SsChange;

/* Newest first; its members live in TopTransactionContext. */
static SsChange *changes = NULL;

static void
end_transaction(XactEvent event, void *arg)
{
	SsChange *change;

	if (changes == NULL)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has changed a streamsink pipeline or its outbox")));
			break;
		case XACT_EVENT_COMMIT:
			change = changes;
			changes = NULL;
			for (; change != NULL; change = change->next)
				ss_shmem_commit_change(change->pipeline_id, change->control, change->outbox);
			break;
		case XACT_EVENT_ABORT:
			changes = NULL;
			break;
		default:
			break;
	}
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	SsChange **link = &changes;

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (*link != NULL)
	{
		if ((*link)->subid != subid)
			link = &(*link)->next;
		else if (event == SUBXACT_EVENT_ABORT_SUB)
			*link = (*link)->next;
		else
		{
			(*link)->subid = parent;
			link = &(*link)->next;
		}
	}
}

void
ss_shmem_changed_at_commit(int32 pipeline_id, bool with_outbox)
{
	static bool		 registered = false;
	SubTransactionId subid = GetCurrentSubTransactionId();
	bool			 control = pipeline_id != 0 || !with_outbox;
	SsChange		*change;

	if (!registered)
	{
		RegisterXactCallback(end_transaction, NULL);
		RegisterSubXactCallback(end_subtransaction, NULL);
		registered = true;
	}

	/* a transform may emit a row per entry: one member is enough */
	for (change = changes; change != NULL && change->subid == subid; change = change->next)
		if (change->pipeline_id == pipeline_id && change->control == control)
		{
			change->outbox |= with_outbox;
			return;
		}

	change = MemoryContextAlloc(TopTransactionContext, sizeof(SsChange));
	change->pipeline_id = pipeline_id;
	change->control = control;
	change->outbox = with_outbox;
	change->subid = subid;
	change->next = changes;
	changes = change;
}

bool
ss_shmem_has_uncommitted_change(int32 pipeline_id)
{
	SsChange *change;

	for (change = changes; change != NULL; change = change->next)
		if (change->control &&
			(pipeline_id == 0 || change->pipeline_id == 0 || change->pipeline_id == pipeline_id))
			return true;
	return false;
}
