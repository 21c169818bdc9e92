/*
 * ss_interval.c
 *	  Sets of settled intervals: collect, sort, merge, search.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/memutils.h"

#include "ss_interval.h"

#define FIRST_CAPACITY 64

void
ss_interval_add(SsIntervals *set, const SsInterval *interval)
{
	if (set->n == set->capacity)
	{
		size_t capacity = set->capacity == 0 ? FIRST_CAPACITY : set->capacity * 2;

		if (set->items == NULL)
			set->items = MemoryContextAlloc(set->cxt, capacity * sizeof(SsInterval));
		else
			set->items = repalloc_huge(set->items, capacity * sizeof(SsInterval));
		set->capacity = capacity;
	}
	set->items[set->n++] = *interval;
}

static int
compare_intervals(const void *a, const void *b)
{
	const SsInterval *x = a;
	const SsInterval *y = b;
	int				  order;

	if (x->stream != y->stream)
		return x->stream < y->stream ? -1 : 1;
	order = ss_entryid_compare(x->first, y->first);
	if (order == 0)
		order = ss_entryid_compare(x->last, y->last);
	return order;
}

/*
 * Whether b describes the end of a union of a and b: it ends later, or at the
 * same id and tells more about it.  The choice does not depend on the order in
 * which parts are united.
 */
static bool
is_better_end(const SsInterval *a, const SsInterval *b)
{
	int order = ss_entryid_compare(b->last, a->last);

	if (order != 0)
		return order > 0;
	if ((a->hash == 0) != (b->hash == 0))
		return a->hash == 0;
	if (a->settled_at != b->settled_at)
		return b->settled_at > a->settled_at;
	return b->hash > a->hash;
}

/* Whether b, which does not begin before a, belongs into one interval with it. */
static bool
is_united(const SsInterval *a, const SsInterval *b, bool touching)
{
	SsEntryId next;

	if (a->stream != b->stream)
		return false;
	if (ss_entryid_compare(b->first, a->last) <= 0)
		return true;
	return touching && ss_entryid_next(a->last, &next) && ss_entryid_compare(b->first, next) == 0;
}

size_t
ss_interval_merge(SsInterval *intervals, size_t n, bool touching)
{
	size_t left = 0;

	if (n == 0)
		return 0;

	qsort(intervals, n, sizeof(SsInterval), compare_intervals);

	for (size_t i = 1; i < n; i++)
	{
		SsInterval		 *current = &intervals[left];
		const SsInterval *following = &intervals[i];

		if (!is_united(current, following, touching))
			intervals[++left] = *following;
		else if (is_better_end(current, following))
		{
			current->last = following->last;
			current->hash = following->hash;
			current->settled_at = following->settled_at;
		}
	}

	return left + 1;
}

bool
ss_interval_contains(const SsInterval *intervals, size_t n, SsEntryId id)
{
	size_t low = 0;
	size_t high = n;

	/* find the first interval that does not end before id */
	while (low < high)
	{
		size_t middle = low + (high - low) / 2;

		if (ss_entryid_compare(intervals[middle].last, id) < 0)
			low = middle + 1;
		else
			high = middle;
	}

	return low < n && ss_entryid_compare(intervals[low].first, id) <= 0;
}
