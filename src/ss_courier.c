/*
 * ss_courier.c
 *	  The courier: carries a database's outbox to Redis, then exits.
 *
 * NOTES
 *	  A short-lived background worker, which stays for a moment in case more
 *	  comes.  It reads a page of rows that are committed, makes sure that they
 *	  are flushed (a crash must not undo what Redis has been told), sends them
 *	  (ss_carry.c), and deletes those that Redis has answered.  No transaction is
 *	  open while it waits for Redis.  A crash between answer and deletion leaves
 *	  entries that are found to be there, and repeats other commands: at least once.
 *
 *	  Rows for one server and role go out in the order of their ids.  When the
 *	  server cannot be reached, all that is for it waits in a queue, and when
 *	  Redis refuses a command, all that has the same name (ss_outboxrow.h).  What
 *	  waits is the business of another process, the late courier, so that nobody
 *	  else waits for a server that does not answer.  At most one of each is
 *	  there for a database.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ss_carry.h"
#include "ss_courier.h"
#include "ss_fault.h"
#include "ss_guc.h"
#include "ss_shmem.h"
#include "ss_waits.h"
#include "ss_worker.h"

/* What is read at once. */
#define PAGE_ROWS  1000
#define PAGE_BYTES (16 * 1024 * 1024)

/* Connections that are kept open. */
#define MAX_OPEN 16

/* The first wait after a failure; doubled by each further one up to streamsink.backoff_max. */
#define FIRST_BACKOFF_MS 1000

/* How long a courier without work stays: its database cannot be dropped as long, but DROP DATABASE waits longer than that. */
#define LINGER_MS 1000

/* A courier that never comes to an end tells the late one so often. */
#define TELL_MS 1000

typedef struct Courier
{
	MemoryContext cxt;	/* channels */
	MemoryContext page; /* rows; reset for each page */
	List		 *channels;

	/* of the page */
	SsWaits waits;
	bool	stuck; /* something is left in the queue */

	int64 *sent; /* rows that were carried out, but somebody who has not committed yet is discarding them */
	int	   nsent;
	int	   sent_capacity;

	bool		left;  /* rows that somebody else is at were left as they are */
	bool		added; /* rows came to wait */
	TimestampTz due;   /* when the first queue is tried again; 0: there is none */
} Courier;

/*
 * Both couriers may find at the same moment that a server is away.  The younger
 * of the queues that they make goes into the older one, before anything of it is sent.
 */
static bool
is_superfluous(const Courier *courier, const SsOutboxRow *head)
{
	return head->queue < 0 && ss_waits_find(&courier->waits, head->server, head->role, NULL) != head->queue;
}

/* When the first queue is to be tried. */
static void
note_due(Courier *courier, const List *heads)
{
	ListCell *lc;

	courier->due = 0;
	foreach(lc, heads)
	{
		const SsOutboxRow *head = lfirst(lc);
		TimestampTz		   due = Max(head->retry_at, 1);

		if (head->queue > 0 && ss_waits_for_server(&courier->waits, head))
			continue;
		if (is_superfluous(courier, head))
			due = 1;
		if (courier->due == 0 || due < courier->due)
			courier->due = due;
	}
}

/* ---- pages ---- */

/*
 * Flush the log up to its end.  A position at the very start of a page is
 * reported behind the page's header, where nothing has been written yet and
 * which XLogFlush would refuse: step back to the end of what there is.
 */
static void
flush_log(void)
{
	XLogRecPtr end = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(end, wal_segment_size) == SizeOfXLogLongPHD)
		end -= SizeOfXLogLongPHD;
	else if (end % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		end -= SizeOfXLogShortPHD;
	XLogFlush(end);
}

/* The next page of a queue's rows, committed and flushed, and what waits as of the same moment. */
static List *
read_page(Courier *courier, int64 queue, int64 after)
{
	MemoryContext saved;
	List		 *rows;

	MemoryContextReset(courier->page);
	saved = MemoryContextSwitchTo(courier->page);
	ss_channel_begin();
	rows = ss_outboxrow_read(GetActiveSnapshot(), queue, after, PAGE_ROWS, PAGE_BYTES);
	if (rows != NIL)
		(void) ss_waits_load(&courier->waits);
	ss_channel_commit();
	MemoryContextSwitchTo(saved);
	if (rows != NIL)
		flush_log();
	return rows;
}

static SsChannel *
get_channel(Courier *courier, const SsOutboxRow *row)
{
	SsChannel	 *channel;
	MemoryContext saved;
	ListCell	 *lc;

	foreach(lc, courier->channels)
	{
		channel = lfirst(lc);
		if (strcmp(channel->server, row->server) == 0 && strcmp(channel->role, row->role) == 0)
			return channel;
	}
	saved = MemoryContextSwitchTo(courier->cxt);
	channel = ss_channel_create(courier->cxt, row->server, row->role);
	courier->channels = lappend(courier->channels, channel);
	MemoryContextSwitchTo(saved);
	return channel;
}

static void
limit_connections(Courier *courier)
{
	ListCell *lc;
	int		  open = 0;

	foreach(lc, courier->channels)
		if (((SsChannel *) lfirst(lc))->redis != NULL)
			open++;
	if (open < MAX_OPEN)
		return;
	foreach(lc, courier->channels)
		ss_channel_close(lfirst(lc));
}

/* Send what may be sent of a page, server by server. */
static void
send_page(Courier *courier, SsCarryItem *items, SsChannel **channels, const int64 *waits, int n)
{
	SsCarryItem **some = MemoryContextAlloc(courier->page, n * sizeof(SsCarryItem *));
	ListCell	 *lc;

	foreach(lc, courier->channels)
	{
		SsChannel *channel = lfirst(lc);
		int		   count = 0;

		for (int i = 0; i < n; i++)
			if (channels[i] == channel && waits[i] == 0 && items[i].outcome == SS_CARRY_LEFT)
				some[count++] = &items[i];
		if (count == 0)
			continue;
		CHECK_FOR_INTERRUPTS();
		channel->down = false;
		limit_connections(courier);
		ss_carry(channel, some, count, courier->page);
	}
}

/* The row failed: it is in a queue, which may be a new one.  Returns whether it is. */
static bool
fail_row(Courier *courier, SsOutboxEdit *edit, const SsOutboxRow *row, int64 queue, const char *error)
{
	int64		backoff = (int64) FIRST_BACKOFF_MS << Min(row->attempts, 20);
	TimestampTz due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(backoff, (int64) ss_guc_backoff_max));

	courier->added = true;
	if (ss_outboxrow_fail(edit, row->id, queue, error, due) != SS_OUTBOX_CHANGED)
	{
		courier->left = true;
		return false;
	}
	/* the first failure says so in the log, repetitions only in the row */
	if (row->attempts == 0)
		ereport(LOG,
				(errmsg("could not carry out outbox row %lld (%s) on server \"%s\": %s",
						(long long) row->id, row->kind, row->server, error)));
	return true;
}

static void
park_row(Courier *courier, SsOutboxEdit *edit, const SsOutboxRow *row, int64 queue)
{
	courier->added = true;
	if (ss_outboxrow_park(edit, row->id, queue) == SS_OUTBOX_HELD)
		courier->left = true;
}

/* A row was carried out.  One that cannot be deleted yet must not be carried out again meanwhile. */
static void
delete_row(Courier *courier, SsOutboxEdit *edit, const SsOutboxRow *row)
{
	if (ss_outboxrow_delete(edit, row->id, false) != SS_OUTBOX_HELD)
		return;
	courier->left = true;
	for (int i = 0; i < courier->nsent; i++)
		if (courier->sent[i] == row->id)
			return;
	if (courier->nsent == courier->sent_capacity)
	{
		courier->sent_capacity = Max(courier->sent_capacity * 2, 16);
		courier->sent = courier->sent == NULL ?
							MemoryContextAllocHuge(courier->cxt, courier->sent_capacity * sizeof(int64)) :
							repalloc_huge(courier->sent, courier->sent_capacity * sizeof(int64));
	}
	courier->sent[courier->nsent++] = row->id;
}

/* Try to delete what was carried out. */
static void
delete_sent(Courier *courier)
{
	SsOutboxEdit *edit;
	int			  n = 0;

	if (courier->nsent == 0)
		return;
	ss_channel_begin();
	edit = ss_outboxrow_begin();
	for (int i = 0; edit != NULL && i < courier->nsent; i++)
		if (ss_outboxrow_delete(edit, courier->sent[i], false) == SS_OUTBOX_HELD)
			courier->sent[n++] = courier->sent[i];
	if (edit != NULL)
		ss_outboxrow_end(edit);
	ss_channel_commit();
	courier->nsent = n;
}

/* Write down what became of a row. */
static void
record_item(Courier *courier, SsOutboxEdit *edit, const SsCarryItem *item, const SsChannel *channel)
{
	const SsOutboxRow *row = item->row;
	int64			   wait;

	switch (item->outcome)
	{
		case SS_CARRY_DONE:
			delete_row(courier, edit, row);
			break;

		case SS_CARRY_REFUSED:
			wait = ss_waits_find(&courier->waits, row->server, row->role, row->name);
			if (row->queue > 0)
			{
				if (!courier->stuck)
					(void) fail_row(courier, edit, row, row->queue, item->error);
				courier->stuck = true;
			}
			else if (wait != 0)
				park_row(courier, edit, row, wait);
			else if (fail_row(courier, edit, row, row->id, item->error))
				ss_waits_add(&courier->waits, row->server, row->role, row->name, row->id);
			break;

		case SS_CARRY_BEHIND:
			wait = ss_waits_find(&courier->waits, row->server, row->role, row->name);
			if (wait == 0)
				courier->left = true;
			else if (row->queue != wait)
				park_row(courier, edit, row, wait);
			break;

		case SS_CARRY_HELD:
			courier->left = true;
			break;

		case SS_CARRY_LEFT:
			wait = ss_waits_find(&courier->waits, row->server, row->role, NULL);
			if (row->queue < 0)
			{
				if (!courier->stuck)
					(void) fail_row(courier, edit, row, row->queue, channel->error);
			}
			else if (wait == 0)
			{
				if (fail_row(courier, edit, row, -row->id, channel->error))
					ss_waits_add(&courier->waits, row->server, row->role, NULL, -row->id);
			}
			else if (row->queue == 0)
				park_row(courier, edit, row, wait);
			courier->stuck = true;
			break;
	}
}

/* Carry the next page of a queue; the id it ends with, or 0 if there is none. */
static int64
carry_page(Courier *courier, int64 queue, int64 after)
{
	List		 *rows = read_page(courier, queue, after);
	int			  n = list_length(rows);
	MemoryContext saved;
	SsCarryItem	 *items;
	SsChannel	**channels;
	int64		 *waits;
	SsOutboxEdit *edit;

	if (n == 0)
		return 0;

	saved = MemoryContextSwitchTo(courier->page);
	items = palloc0_array(SsCarryItem, n);
	channels = palloc_array(SsChannel *, n);
	waits = palloc0_array(int64, n);
	for (int i = 0; i < n; i++)
	{
		const SsOutboxRow *row = items[i].row = list_nth(rows, i);

		channels[i] = get_channel(courier, row);
		if (queue == 0 || is_superfluous(courier, row))
			waits[i] = ss_waits_find(&courier->waits, row->server, row->role, NULL);
		if (waits[i] == 0 && queue <= 0)
			waits[i] = ss_waits_find(&courier->waits, row->server, row->role, row->name);
		for (int j = 0; j < courier->nsent; j++)
			if (courier->sent[j] == row->id)
				items[i].outcome = SS_CARRY_DONE;
	}

	courier->stuck = false;
	if (queue < 0 && ss_waits_is_split(&courier->waits, items[0].row))
	{
		courier->left = courier->stuck = true;
		MemoryContextSwitchTo(saved);
		return items[n - 1].row->id;
	}
	send_page(courier, items, channels, waits, n);

	ss_channel_begin();
	edit = ss_outboxrow_begin();
	for (int i = 0; edit != NULL && i < n; i++)
	{
		if (waits[i] != 0)
			park_row(courier, edit, items[i].row, waits[i]);
		else
			record_item(courier, edit, &items[i], channels[i]);
	}
	if (edit != NULL)
		ss_outboxrow_end(edit);
	ss_channel_commit();
	SS_FAULT("after-outbox");
	MemoryContextSwitchTo(saved);
	return items[n - 1].row->id;
}

/* ---- the two couriers ---- */

/* The heads of all queues, in the page's context. */
static List *
read_heads(Courier *courier)
{
	MemoryContext saved;
	List		 *heads;

	MemoryContextReset(courier->page);
	saved = MemoryContextSwitchTo(courier->page);
	ss_channel_begin();
	heads = ss_waits_load(&courier->waits);
	ss_channel_commit();
	MemoryContextSwitchTo(saved);
	note_due(courier, heads);
	return heads;
}

/* Something may be for the late courier. */
static void
tell_late(Courier *courier, bool first)
{
	(void) read_heads(courier);
	if (courier->due != 0 && (first || courier->added || courier->due <= GetCurrentTimestamp()))
		ss_shmem_courier_late(courier->due, courier->added);
	courier->added = false;
}

/* What is new, in order. */
static void
carry_new(Courier *courier)
{
	int64		after = 0;
	TimestampTz told_at = GetCurrentTimestamp();

	courier->left = false;
	while ((after = carry_page(courier, 0, after)) != 0)
	{
		CHECK_FOR_INTERRUPTS();
		/* while more comes all the time, what waits has its turn, and vacuum hears of what is deleted */
		if (TimestampDifferenceExceeds(told_at, GetCurrentTimestamp(), TELL_MS))
		{
			tell_late(courier, false);
			pgstat_report_stat(false);
			told_at = GetCurrentTimestamp();
		}
	}
}

/* What waits and is due. */
static void
carry_late(Courier *courier)
{
	List		 *heads = read_heads(courier);
	TimestampTz	  now = GetCurrentTimestamp();
	MemoryContext cxt = AllocSetContextCreate(courier->cxt, "streamsink courier queues", ALLOCSET_DEFAULT_SIZES);
	int64		 *queues = MemoryContextAllocHuge(cxt, Max(list_length(heads), 1) * sizeof(int64));
	int			  n = 0;
	ListCell	 *lc;

	foreach(lc, heads)
	{
		const SsOutboxRow *head = lfirst(lc);

		if (head->queue > 0 ? head->retry_at <= now && !ss_waits_for_server(&courier->waits, head) :
							  head->retry_at <= now || is_superfluous(courier, head))
			queues[n++] = head->queue;
	}

	courier->left = false;
	for (int i = 0; i < n; i++)
	{
		int64 after = 0;

		/* a server that went away meanwhile holds up its other queues */
		do
		{
			CHECK_FOR_INTERRUPTS();
			after = carry_page(courier, queues[i], after);
		} while (after != 0 && !courier->stuck);
	}
	MemoryContextDelete(cxt);
	(void) read_heads(courier);
}

/* Wait a moment for more; false if nothing comes. */
static bool
wait_for_more(const Courier *courier)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LINGER_MS);

	pgstat_report_activity(STATE_IDLE, NULL);
	for (;;)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (ss_shmem_courier_changed())
			return true;
		if (left <= 0 || (courier->nsent == 0 && ss_shmem_courier_crowded()))
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

static void
run_new(Courier *courier)
{
	bool first = true;

	do
	{
		pgstat_report_activity(STATE_RUNNING, "carrying the outbox to Redis");
		ss_shmem_courier_look();
		delete_sent(courier);
		carry_new(courier);
		/* a crash repeats messages whose rows it brings back: those of a moment at most */
		XLogFlush(XactLastCommitEnd);
		tell_late(courier, first);
		first = false;
		pgstat_report_stat(false);
	} while (wait_for_more(courier) || courier->nsent > 0);
	ss_shmem_courier_done(courier->left, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_BACKOFF_MS));
}

static void
run_late(Courier *courier)
{
	TimestampTz due;

	pgstat_report_activity(STATE_RUNNING, "carrying what waits in the outbox to Redis");
	for (;;)
	{
		ss_shmem_courier_look();
		carry_late(courier);
		if (courier->nsent == 0)
			break;
		/* whoever is at what was carried out may take his time: all else does not wait for that */
		(void) wait_for_more(courier);
		CHECK_FOR_INTERRUPTS();
		delete_sent(courier);
	}
	due = courier->due;
	if (courier->left)
		due = Max(due, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_BACKOFF_MS));
	ss_shmem_courier_done(courier->due != 0, due);
}

/* ---- the process ---- */

/* What the role's and the database's settings must not bend. */
static void
pin_settings(void)
{
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);

	/* deletions need not wait for the disk: what a crash takes back is looked for, or sent again */
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);
}

void
streamsink_courier_main(Datum main_arg)
{
	SsWorkerArgs args;
	Courier		 courier = {0};

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	if (ss_shmem == NULL || !ss_shmem_attach(DatumGetInt32(main_arg), args.slot_generation))
		proc_exit(0);

	BackgroundWorkerInitializeConnectionByOid(args.database, InvalidOid, 0);
	pin_settings();

	courier.cxt = AllocSetContextCreate(TopMemoryContext, "streamsink courier", ALLOCSET_DEFAULT_SIZES);
	courier.page = AllocSetContextCreate(courier.cxt, "streamsink courier page", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(courier.cxt);

	if (MySlot->late)
		run_late(&courier);
	else
		run_new(&courier);
	proc_exit(0);
}
