/*
 * ss_interval.h
 *	  Sets of settled intervals: collect, sort, merge, search.  Nothing is read
 *	  here and no catalog is needed.
 */
#ifndef SS_INTERVAL_H
#define SS_INTERVAL_H

#include "utils/palloc.h"
#include "ss_ledger.h"

/* Intervals while they are collected; may grow past 1 GB.  Zeroed but for cxt, where it lives, it is empty. */
typedef struct SsIntervals
{
	SsInterval	 *items;
	size_t		  n;
	size_t		  capacity;
	MemoryContext cxt;
} SsIntervals;

extern void ss_interval_add(SsIntervals *set, const SsInterval *interval);

/*
 * Sort n intervals by stream and first id, and unite in place those of one
 * stream that overlap; with touching also those between which there is no id.
 * A union keeps hash and time of the part that ends last.  Returns how many
 * are left: sorted and disjoint.
 */
extern size_t ss_interval_merge(SsInterval *intervals, size_t n, bool touching);

/* Whether one of n sorted and disjoint intervals of one stream holds the id. */
extern bool ss_interval_contains(const SsInterval *intervals, size_t n, SsEntryId id);

#endif /* SS_INTERVAL_H */
