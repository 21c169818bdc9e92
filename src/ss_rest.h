/*
 * ss_rest.h
 *	  What no column takes: the jsonb object of an entry's remaining fields.
 */
#ifndef SS_REST_H
#define SS_REST_H

#include "utils/jsonb.h"
#include "ss_decode.h"

/* One object being made, in CurrentMemoryContext of the calls.  Zeroed at first. */
typedef struct SsRest
{
	JsonbParseState *state; /* NULL: nothing collected yet */
} SsRest;

/*
 * Add a field under its name; of one name the last added counts.  Text becomes
 * a JSON string, a payload's member keeps its JSON kind.  Name and value are
 * in server encoding and must stay until ss_rest_end.
 */
extern void ss_rest_add(SsRest *rest, const SsField *field);

/*
 * Add what the field of the column's own name holds: the members of a JSON
 * object, or anything else as ss_rest_add does (but nothing for a JSON null).  Text that begins with a
 * brace must be JSON: ERROR 22P02 otherwise.
 */
extern void ss_rest_merge(SsRest *rest, const SsField *field);

/* The object as jsonb in CurrentMemoryContext; an empty one if nothing was added. */
extern Datum ss_rest_end(SsRest *rest);

#endif /* SS_REST_H */
