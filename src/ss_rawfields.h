/*
 * ss_rawfields.h
 *	  The fields of a dead letter: the bytes as they were received (bytea[] of
 *	  name, value, name, value), or as somebody edited them (jsonb).
 */
#ifndef SS_RAWFIELDS_H
#define SS_RAWFIELDS_H

#include "utils/array.h"
#include "utils/jsonb.h"
#include "ss_batch.h"

/*
 * An entry's fields as bytea[], in CurrentMemoryContext.  *cut (may be NULL) tells how
 * many strings are kept in part only: those that arrived truncated, and, of
 * an entry that no bytea[] can hold, all long ones.
 */
extern ArrayType *ss_rawfields_from_entry(const SsEntry *entry, int *cut);

/* What was cut, in a sentence, palloc'd: the first field's name and true length. */
extern char *ss_rawfields_describe_cut(const SsEntry *entry);

/* Back to the reply that ss_batch_add takes, in CurrentMemoryContext. */
extern SsReply *ss_rawfields_to_reply(ArrayType *raw);

/*
 * Members of an edited object as fields, in UTF-8, in CurrentMemoryContext: strings unescaped, other
 * values as JSON text.  A null is left out: the field is missing then.
 */
extern SsReply *ss_rawfields_from_jsonb(Jsonb *edited);

#endif /* SS_RAWFIELDS_H */
