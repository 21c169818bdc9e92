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

int64
ss_waits_find(const SsWaits *waits, const char *server, const char *role, const char *name)
{
	SsWait		  key = {server, role, name, 0};
	const SsWait *found = NULL;

	if (waits->nsorted > 0)
		found = bsearch(&key, waits->items, waits->nsorted, sizeof(SsWait), compare_waits);
	for (int i = waits->nsorted; found == NULL && i < waits->n; i++)
		if (compare_waits(&key, &waits->items[i]) == 0)
			found = &waits->items[i];
	return found != NULL ? found->queue : 0;
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
	waits->items[waits->n++] = (SsWait){server, role, name, queue};
}

List *
ss_waits_load(SsWaits *waits)
{
	List	 *heads = ss_outboxrow_heads(GetActiveSnapshot());
	ListCell *lc;

	memset(waits, 0, sizeof(*waits));
	waits->cxt = CurrentMemoryContext;
	foreach(lc, heads)
	{
		const SsOutboxRow *head = lfirst(lc);

		ss_waits_add(waits, head->server, head->role, head->queue < 0 ? NULL : head->name, head->queue);
	}
	if (waits->n > 0)
		qsort(waits->items, waits->n, sizeof(SsWait), compare_waits);
	waits->nsorted = waits->n;
	return heads;
}
