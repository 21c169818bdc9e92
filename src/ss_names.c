/*
 * ss_names.c
 *	  The names a mapping looks for, found fast.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "mb/pg_wchar.h"

#include "ss_names.h"

void
ss_names_build(SsNames *table, const List *names, bool utf8)
{
	uint32	  size = 4;
	ListCell *lc;

	memset(table, 0, sizeof(SsNames));
	memset(table->hints, -1, sizeof(table->hints));
	while (size < (uint32) list_length(names) * 4)
		size *= 2;
	table->mask = size - 1;
	table->slots = palloc(size * sizeof(int16));
	memset(table->slots, -1, size * sizeof(int16));
	table->names = palloc((list_length(names) + 1) * sizeof(char *));
	table->lens = palloc((list_length(names) + 1) * sizeof(uint32));

	foreach(lc, names)
	{
		const char *name = lfirst(lc);
		uint32		len;
		uint32		at;

		if (utf8)
			name = pg_server_to_any(name, strlen(name), PG_UTF8);
		len = strlen(name);

		at = hash_bytes((const unsigned char *) name, len) & table->mask;
		while (table->slots[at] >= 0)
			at = (at + 1) & table->mask;
		table->slots[at] = table->nnames;
		table->names[table->nnames] = name;
		table->lens[table->nnames] = len;
		table->nnames++;
	}
}
