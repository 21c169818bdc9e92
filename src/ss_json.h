/*
 * ss_json.h
 *	  JSON texts out of strings.  The only file that calls cJSON is ss_json.c.
 */
#ifndef SS_JSON_H
#define SS_JSON_H

#include "postgres.h"

typedef struct SsJsonMember
{
	const char *name;
	const char *value;	  /* NULL: the member is left out */
	bool		verbatim; /* value is JSON already: a number, say */
} SsJsonMember;

/*
 * An object of strings, or an array of them, in CurrentMemoryContext, in the
 * encoding of the strings.  Names are distinct: the caller sees to that.
 * ERROR 53200 when memory does not suffice.
 */
extern char *ss_json_object(const SsJsonMember *members, int nmembers);
extern char *ss_json_array(const char *const *strings, int nstrings);

/* An array of members that are JSON already. */
extern char *ss_json_list(const char *const *values, int nvalues);

#endif /* SS_JSON_H */
