/*
 * ss_decode.c
 *	  One entry to named fields: text in the server's encoding, the members of
 *	  a JSON payload, an entry's fields as jsonb.
 */
#include "postgres.h"
#define SS_NEED_JSON
#include "ss_compat.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/ascii.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "ss_decode.h"

/* Up to here doubled members are looked for one by one. */
#define FEW_MEMBERS 16

/* State of a payload's parse. */
typedef struct Payload
{
	JsonLexContext *lex;
	SsField		   *fields;
	int				nfields;
	int				capacity;
	const char	   *not_object;	 /* what the payload is, unless an object */
	const char	   *value_start; /* of the member being parsed */
} Payload;

/* Only ASCII, and no NUL: the same in every server encoding. */
static inline bool
is_plain(const char *str, size_t len)
{
	size_t chunks = len & ~(size_t) 15; /* what the vectors of any server version divide */

	if (chunks > 0 && !is_valid_ascii((const unsigned char *) str, (int) chunks))
		return false;
	for (size_t i = chunks; i < len; i++)
	{
		if ((signed char) str[i] <= 0) /* plain char is unsigned on some machines */
			return false;
	}
	return true;
}

char *
ss_decode_text(const char *str, size_t len)
{
	char *text = unconstify(char *, str);

	if (len >= MaxAllocSize)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a field of %zu bytes is too long", len)));

	if (is_plain(str, len))
		return text;

	switch (GetDatabaseEncoding())
	{
		case PG_UTF8:
			(void) pg_verify_mbstr(PG_UTF8, str, (int) len, false);
			return text;
		case PG_SQL_ASCII:
			/* no encoding is promised, but text ends at a NUL */
			if (memchr(str, '\0', len) != NULL)
				report_invalid_encoding(PG_SQL_ASCII, memchr(str, '\0', len), 1);
			return text;
		default:
			return pg_any_to_server(str, (int) len, PG_UTF8);
	}
}

/* Valid UTF-8 in another encoding, or NULL; in a transaction. */
static char *
try_conversion(const char *str, int len, int encoding)
{
	Oid	  proc = FindDefaultConversionProc(PG_UTF8, encoding);
	Size  room = (Size) len * MAX_CONVERSION_GROWTH + 1;
	char *converted;

	if (!OidIsValid(proc))
		return NULL;
	converted = MemoryContextAllocExtended(CurrentMemoryContext, room, MCXT_ALLOC_HUGE);
	if (pg_do_encoding_conversion_buf(proc, PG_UTF8, encoding, (unsigned char *) unconstify(char *, str), len,
									  (unsigned char *) converted, (int) Min(room, (Size) PG_INT32_MAX), true) != len)
		return NULL;
	return converted;
}

char *
ss_decode_try_text(const char *str, size_t len)
{
	MemoryContext cxt = CurrentMemoryContext;
	int			  encoding = GetDatabaseEncoding();
	bool		  begun = false;
	char		 *converted;

	if (is_plain(str, len))
		return unconstify(char *, str);
	if (len >= MaxAllocSize || memchr(str, '\0', len) != NULL ||
		!pg_verify_mbstr(PG_UTF8, str, (int) len, true))
		return NULL;
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return unconstify(char *, str);

	/* the conversion is looked up in the catalogs */
	if (!IsTransactionState())
	{
		StartTransactionCommand();
		begun = true;
	}
	MemoryContextSwitchTo(cxt);
	converted = try_conversion(str, (int) len, encoding);
	if (begun)
		CommitTransactionCommand();
	MemoryContextSwitchTo(cxt);
	return converted;
}

/* ---- payload ---- */

static ss_compat_json_result
payload_array_start(void *state)
{
	Payload *payload = state;

	if (payload->lex->lex_level == 0)
		payload->not_object = "an array";
	SS_JSON_CONTINUE;
}

static ss_compat_json_result
payload_field_start(void *state, char *name, bool isnull)
{
	Payload *payload = state;
	SsField *field;

	if (payload->lex->lex_level != 1)
	{
		pfree(name);
		SS_JSON_CONTINUE;
	}

	if (payload->nfields == payload->capacity)
	{
		payload->capacity *= 2;
		payload->fields = repalloc_huge(payload->fields, payload->capacity * sizeof(SsField));
	}
	field = &payload->fields[payload->nfields++];
	field->name = name;
	field->name_len = strlen(name);
	field->kind = SS_FIELD_JSON_NULL;
	field->value = "";
	field->value_len = 0;
	payload->value_start = payload->lex->token_start;
	SS_JSON_CONTINUE;
}

static ss_compat_json_result
payload_scalar(void *state, char *token, JsonTokenType type)
{
	Payload *payload = state;
	SsField *field;

	if (payload->lex->lex_level != 1)
	{
		if (payload->lex->lex_level == 0)
			payload->not_object = "a scalar";
		pfree(token);
		SS_JSON_CONTINUE;
	}
	if (payload->nfields == 0) /* a scalar in an outermost array */
		SS_JSON_CONTINUE;

	field = &payload->fields[payload->nfields - 1];
	if (type == JSON_TOKEN_NULL)
		SS_JSON_CONTINUE;
	field->kind = type == JSON_TOKEN_STRING ? SS_FIELD_JSON_STRING : SS_FIELD_JSON_SCALAR;
	field->value = token;
	field->value_len = strlen(token);
	SS_JSON_CONTINUE;
}

static ss_compat_json_result
payload_field_end(void *state, char *name, bool isnull)
{
	Payload	   *payload = state;
	const char *start = payload->value_start;
	SsField	   *field;

	if (payload->lex->lex_level != 1 || (*start != '{' && *start != '['))
		SS_JSON_CONTINUE;

	field = &payload->fields[payload->nfields - 1];
	field->kind = *start == '{' ? SS_FIELD_JSON_OBJECT : SS_FIELD_JSON_ARRAY;
	field->value_len = payload->lex->prev_token_terminator - start;
	field->value = pnstrdup(start, field->value_len);
	SS_JSON_CONTINUE;
}

static bool
names_equal(const SsField *a, const SsField *b)
{
	return a->name_len == b->name_len && memcmp(a->name, b->name, a->name_len) == 0;
}

/* Of doubled members keep the last one, at the first one's place.  Returns how many are left. */
static int
drop_doubled(SsField *fields, int nfields)
{
	uint32 size = 16;
	int	  *table;
	int	   kept = 0;

	if (nfields <= FEW_MEMBERS)
	{
		for (int i = 0; i < nfields; i++)
		{
			int j = 0;

			while (j < kept && !names_equal(&fields[i], &fields[j]))
				j++;
			fields[j] = fields[i];
			kept = Max(kept, j + 1);
		}
		return kept;
	}

	while (size < (uint32) nfields * 2)
		size *= 2;
	table = palloc_extended(size * sizeof(int), MCXT_ALLOC_HUGE);
	memset(table, -1, size * sizeof(int));
	for (int i = 0; i < nfields; i++)
	{
		uint32 at = hash_bytes((const unsigned char *) fields[i].name, fields[i].name_len) & (size - 1);

		while (table[at] >= 0 && !names_equal(&fields[i], &fields[table[at]]))
			at = (at + 1) & (size - 1);
		if (table[at] < 0)
			table[at] = kept++;
		fields[table[at]] = fields[i];
	}
	pfree(table);
	return kept;
}

int
ss_decode_payload(const char *json, size_t len, SsField **fields)
{
	Payload			   payload = {0};
	JsonSemAction	   actions = {0};
	JsonParseErrorType error;

	payload.lex = ss_compat_json_lexer(json, len, true);
	payload.capacity = FEW_MEMBERS;
	payload.fields = palloc(payload.capacity * sizeof(SsField));

	actions.semstate = &payload;
	actions.array_start = payload_array_start;
	actions.object_field_start = payload_field_start;
	actions.object_field_end = payload_field_end;
	actions.scalar = payload_scalar;

	error = pg_parse_json(payload.lex, &actions);
	if (error != JSON_SUCCESS)
		ereport(ERROR,
				(errcode(ss_compat_json_untranslatable(error) ?
							 ERRCODE_UNTRANSLATABLE_CHARACTER :
							 ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("payload is not valid JSON"),
				 errdetail_internal("%s", json_errdetail(error, payload.lex))));
	if (payload.not_object != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("payload is not a JSON object"),
				 errdetail("It is %s.", payload.not_object)));

	*fields = payload.fields;
	return drop_doubled(payload.fields, payload.nfields);
}

/* ---- jsonb ---- */

Datum
ss_decode_fields_jsonb(const SsEntry *entry)
{
	JsonbParseState *state = NULL;
	JsonbValue		*result;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (uint32 i = 0; i < entry->nfields * 2; i++)
	{
		const SsReply *item = &entry->fields[i];
		char		  *text = ss_decode_text(item->str, item->n);
		JsonbValue	   string;

		string.type = jbvString;
		string.val.string.val = text;
		string.val.string.len = text == item->str ? item->n : strlen(text);
		pushJsonbValue(&state, i % 2 == 0 ? WJB_KEY : WJB_VALUE, &string);
	}
	result = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(result));
}
