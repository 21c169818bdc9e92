/*
 * ss_decode.h
 *	  One entry to named fields: raw fields, the members of a JSON payload,
 *	  placeholders.  Pure but for PostgreSQL's JSON lexer and encoding checks.
 */
#ifndef SS_DECODE_H
#define SS_DECODE_H

#include "ss_batch.h"

typedef enum SsFieldKind
{
	SS_FIELD_TEXT = 0,	  /* bytes as they came */
	SS_FIELD_JSON_STRING, /* a JSON string's value, unescaped */
	SS_FIELD_JSON_SCALAR, /* number, true, false: its lexeme */
	SS_FIELD_JSON_NULL,
	SS_FIELD_JSON_OBJECT, /* its text */
	SS_FIELD_JSON_ARRAY	  /* its text */
} SsFieldKind;

typedef struct SsField
{
	const char *name; /* terminated; server encoding once verified */
	uint32		name_len;
	SsFieldKind kind;
	const char *value; /* terminated */
	uint32		value_len;
} SsField;

/*
 * The members of a JSON object as fields, in CurrentMemoryContext.  json has
 * len bytes in server encoding.  ERROR 22P02 (invalid JSON, or not an object), 22P05 (\u0000).
 * Numbers keep every digit: lexemes, never doubles.  Of doubled members the last counts.
 */
extern int ss_decode_payload(const char *json, size_t len, SsField **fields);

/* Bytes of a peer to a terminated server-encoding string (UTF-8 in, converted if needed).  ERROR 22021 for a NUL byte or bad bytes, 22P05 unmappable.  May return str itself. */
extern char *ss_decode_text(const char *str, size_t len);

/*
 * The same for text that need not be representable: NULL where the server's
 * encoding has no string for it, and no ERROR for that.  str is terminated, and may be returned itself.
 * Outside a transaction a conversion begins one of its own.
 */
extern char *ss_decode_try_text(const char *str, size_t len);

/*
 * An entry's raw fields as a jsonb object (Datum in CurrentMemoryContext): of
 * doubled names the last.  Values are strings; a payload's members are not spread.  ERROR as
 * ss_decode_text.
 */
extern Datum ss_decode_fields_jsonb(const SsEntry *entry);

#endif /* SS_DECODE_H */
