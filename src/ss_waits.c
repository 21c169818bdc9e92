/*
 * ss_waits.c
 *	  What waits in the outbox: names and servers that have a queue.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "ss_waits.h"

struct SsWait
{
	const char *server;
	const char *role;
	const char *name; /* NULL: everything */
	int64		queue;
	bool		split; /* there are more queues for it */
};

static int
compare_waits(const void *a, const void *b)
{
	const SsWait *x = a;
	const SsWait *y = b;
	int			  result = strcmp(x->server, y->server);

	if (result == 0)
		result = strcmp(x->role, y->role);
	if (result == 0)
		result = (x->name != NULL) - (y->name != NULL);
	if (result == 0 && x->name != NULL)
		result = strcmp(x->name, y->name);
	return result;
}

/* The oldest of the queues for the same first. */
static int
compare_queues(const void *a, const void *b)
{
	int	  result = compare_waits(a, b);
	int64 x = ((const SsWait *) a)->queue;
	int64 y = ((const SsWait *) b)->queue;

	if (result == 0 && x < 0)
		result = (x < y) - (x > y);
	else if (result == 0)
		result = (x > y) - (x < y);
	return result;
}

static const SsWait *
find_wait(const SsWaits *waits, const char *server, const char *role, const char *name)
{
	SsWait		  key = {server, role, name, 0, false};
	const SsWait *found = NULL;

	if (waits->nsorted > 0)
		found = bsearch(&key, waits->items, waits->nsorted, sizeof(SsWait), compare_waits);
	for (int i = waits->nsorted; found == NULL && i < waits->n; i++)
		if (compare_waits(&key, &waits->items[i]) == 0)
			found = &waits->items[i];
	return found;
}

int64
ss_waits_find(const SsWaits *waits, const char *server, const char *role, const char *name)
{
	const SsWait *found = find_wait(waits, server, role, name);

	return found != NULL ? found->queue : 0;
}

bool
ss_waits_is_split(const SsWaits *waits, const SsOutboxRow *row)
{
	const SsWait *found = find_wait(waits, row->server, row->role, NULL);

	return found != NULL && found->split && found->queue == row->queue;
}

bool
ss_waits_for_server(const SsWaits *waits, const SsOutboxRow *row)
{
	return ss_waits_find(waits, row->server, row->role, NULL) != 0;
}

void
ss_waits_add(SsWaits *waits, const char *server, const char *role, const char *name, int64 queue)
{
	if (waits->n == waits->capacity)
	{
		waits->capacity = Max(waits->capacity * 2, 16);
		if (waits->items == NULL)
			waits->items = MemoryContextAllocHuge(waits->cxt, waits->capacity * sizeof(SsWait));
		else
			waits->items = repalloc_huge(waits->items, waits->capacity * sizeof(SsWait));
	}
	waits->items[waits->n++] = (SsWait){server, role, name, queue, false};
}

List *
ss_waits_load(SsWaits *waits)
{
	List	 *heads = ss_outboxrow_heads(GetActiveSnapshot());
	ListCell *lc;
	int		  n = 0;

	memset(waits, 0, sizeof(*waits));
	waits->cxt = CurrentMemoryContext;
	foreach(lc, heads)
	{
		const SsOutboxRow *head = lfirst(lc);

		ss_waits_add(waits, head->server, head->role, head->queue < 0 ? NULL : head->name, head->queue);
	}
	if (waits->n > 0)
		qsort(waits->items, waits->n, sizeof(SsWait), compare_queues);
	for (int i = 0; i < waits->n; i++)
	{
		if (n > 0 && compare_waits(&waits->items[n - 1], &waits->items[i]) == 0)
			waits->items[n - 1].split = true;
		else
			waits->items[n++] = waits->items[i];
	}
	waits->n = waits->nsorted = n;
	return heads;
}
