/*
 * ss_names.h
 *	  The names a mapping looks for, found fast: fields mostly come in the same
 *	  order, so the name last seen at a place is tried before the hash.
 */
#ifndef SS_NAMES_H
#define SS_NAMES_H

#include "common/hashfn.h"
#include "nodes/pg_list.h"

#define SS_NAMES_HINTS 64

typedef struct SsNames
{
	const char **names;
	uint32		*lens;
	int			 nnames;
	int16		*slots; /* open hash of indexes into names; -1: free */
	uint32		 mask;
	int16		 hints[SS_NAMES_HINTS]; /* index last found at this place of an entry */
} SsNames;

/*
 * Index the names of a List of char * (in server encoding, no doubles, fewer
 * than 32768), in CurrentMemoryContext.  utf8: as Redis sends them.
 */
extern void ss_names_build(SsNames *table, const List *names, bool utf8);

/* Index of a name in the list, or -1.  place: where it stands in its entry. */
static inline int
ss_names_find(SsNames *table, uint32 place, const char *name, uint32 len)
{
	int16 *hint = place < SS_NAMES_HINTS ? &table->hints[place] : NULL;
	uint32 at;

	if (hint && *hint >= 0 && table->lens[*hint] == len && memcmp(table->names[*hint], name, len) == 0)
		return *hint;
	if (table->nnames == 0)
		return -1;

	at = hash_bytes((const unsigned char *) name, len) & table->mask;
	for (; table->slots[at] >= 0; at = (at + 1) & table->mask)
	{
		int found = table->slots[at];

		if (table->lens[found] == len && memcmp(table->names[found], name, len) == 0)
		{
			if (hint)
				*hint = found;
			return found;
		}
	}
	return -1;
}

#endif /* SS_NAMES_H */
