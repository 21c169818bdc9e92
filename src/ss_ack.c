/*
 * ss_ack.c
 *	  Acknowledgements that wait for their commit to be flushed.
 *
 * NOTES
 *	  An entry may leave Redis's pending list only when its row can no longer
 *	  be lost: at or below the flush pointer here and, where the commit level
 *	  waits for synchronous standbys, confirmed by them.  A cancelled wait for a
 *	  standby looks like success to the committing process, so the shared
 *	  position is asked instead of the return of the commit.
 *	  Part of ss_settle.h.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "utils/memutils.h"

#include "ss_fault.h"
#include "ss_settle.h"
#include "ss_stream.h"

/* Whether synchronous standbys are configured: the flag became a status word in minor releases. */
#ifdef SYNC_STANDBY_DEFINED
#define SS_SYNC_STANDBYS_DEFINED(ctl) (((ctl)->sync_standbys_status & SYNC_STANDBY_DEFINED) != 0)
#else
#define SS_SYNC_STANDBYS_DEFINED(ctl) ((ctl)->sync_standbys_defined)
#endif

/* Ids one XACK carries at most. */
#define MAX_ACK_IDS 1000

/* What one batch settled of one stream. */
typedef struct AckRun
{
	const SsStream *stream;
	int				first; /* into ids */
	int				count;
} AckRun;

typedef struct AckBatch
{
	struct AckBatch *next;
	MemoryContext	 cxt;
	XLogRecPtr		 lsn; /* may be sent once this is durable */
	AckRun			*runs;
	int				 nruns;
	SsEntryId		*ids;
	int				 nids;
} AckBatch;

struct SsAcks
{
	MemoryContext cxt;
	const char	 *group;
	AckBatch	 *head;
	AckBatch	 *tail;
	int64		  waiting;
};

SsAcks *
ss_settle_acks_create(MemoryContext parent, const char *group)
{
	MemoryContext cxt = AllocSetContextCreate(parent, "streamsink acknowledgements", ALLOCSET_DEFAULT_SIZES);
	SsAcks		 *acks = MemoryContextAllocZero(cxt, sizeof(SsAcks));

	acks->cxt = cxt;
	acks->group = MemoryContextStrdup(cxt, group);
	return acks;
}

void
ss_settle_acks_free(SsAcks *acks)
{
	MemoryContextDelete(acks->cxt);
}

void
ss_settle_acks_add(SsAcks *acks, const SsBatch *batch, XLogRecPtr lsn)
{
	MemoryContext cxt;
	MemoryContext saved;
	AckBatch	 *entry;

	if (batch->nentries == 0)
		return;
	cxt = AllocSetContextCreate(acks->cxt, "streamsink acknowledged batch", ALLOCSET_SMALL_SIZES);
	saved = MemoryContextSwitchTo(cxt);
	entry = palloc0_object(AckBatch);
	entry->cxt = cxt;
	entry->lsn = lsn;
	entry->runs = palloc_array(AckRun, batch->nblocks);
	entry->ids = palloc_array(SsEntryId, batch->nentries);
	for (int i = 0; i < batch->nblocks; i++)
	{
		SsBlock *block = &batch->blocks[i];

		if (block->count == 0)
			continue;
		entry->runs[entry->nruns].stream = block->stream;
		entry->runs[entry->nruns].first = entry->nids;
		entry->runs[entry->nruns].count = block->count;
		entry->nruns++;
		for (int j = 0; j < block->count; j++)
			entry->ids[entry->nids++] = batch->entries[block->first + j].id;
	}
	MemoryContextSwitchTo(saved);

	if (acks->tail)
		acks->tail->next = entry;
	else
		acks->head = entry;
	acks->tail = entry;
	acks->waiting += entry->nids;
}

/* Up to which position commits are safe from loss under this commit level. */
static XLogRecPtr
durable_position(void)
{
	XLogRecPtr durable = GetFlushRecPtr(NULL);

	if (SyncRepRequested() && SS_SYNC_STANDBYS_DEFINED(WalSndCtl))
	{
		int mode;

		switch (synchronous_commit)
		{
			case SYNCHRONOUS_COMMIT_REMOTE_WRITE:
				mode = SYNC_REP_WAIT_WRITE;
				break;
			case SYNCHRONOUS_COMMIT_REMOTE_APPLY:
				mode = SYNC_REP_WAIT_APPLY;
				break;
			case SYNCHRONOUS_COMMIT_REMOTE_FLUSH:
				mode = SYNC_REP_WAIT_FLUSH;
				break;
			default:
				mode = SYNC_REP_NO_WAIT;
		}
		if (mode != SYNC_REP_NO_WAIT)
		{
			/* An aligned 8-byte load that only grows: no lock is needed to read a lower bound. */
			XLogRecPtr confirmed = ((volatile WalSndCtlData *) WalSndCtl)->lsn[mode];

			durable = Min(durable, confirmed);
		}
	}
	return durable;
}

int
ss_settle_acks_send(SsAcks *acks, SsRedis *redis, bool flush)
{
	XLogRecPtr durable;
	int		   commands = 0;

	if (!acks->head)
		return 0;
	if (flush)
		XLogFlush(acks->tail->lsn);
	durable = durable_position();
	SS_FAULT("before-ack");
	while (acks->head && acks->head->lsn <= durable)
	{
		AckBatch *entry = acks->head;

		for (int i = 0; i < entry->nruns; i++)
		{
			AckRun *run = &entry->runs[i];

			for (int sent = 0; sent < run->count; sent += MAX_ACK_IDS)
			{
				ss_stream_append_ack(redis, run->stream, acks->group,
									 entry->ids + run->first + sent,
									 Min(MAX_ACK_IDS, run->count - sent));
				commands++;
				if (SS_FAULT_SET("between-acks"))
				{
					(void) ss_redis_flush(redis);
					SS_FAULT("between-acks");
				}
			}
		}
		acks->waiting -= entry->nids;
		acks->head = entry->next;
		if (!acks->head)
			acks->tail = NULL;
		MemoryContextDelete(entry->cxt);
	}
	return commands;
}

int64
ss_settle_acks_waiting(const SsAcks *acks)
{
	return acks->waiting;
}
