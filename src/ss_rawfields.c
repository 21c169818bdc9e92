/*
 * ss_rawfields.c
 *	  The fields of a dead letter: the bytes as they were received, or as
 *	  somebody edited them.
 *
 * NOTES
 *	  Entries may be large, so an array is filled in place, not through one
 *	  copy per element.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/tupmacs.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "ss_decode.h"
#include "ss_rawfields.h"
#include "ss_redis.h"

/* Most bytes of a bytea[]: the row around it must stay below 1 GB too. */
#define MAX_RAW_BYTES ((uint64) 1000 * 1000 * 1000)

/* A jsonb object's strings together stay below what its entries can count. */
#define MAX_JSONB_BYTES ((uint64) 0x0FFFFFFF)

SS_SQL_FUNCTION(streamsink_raw_fields);

/* ---- to bytea[] ---- */

static inline uint32
kept_length(const SsReply *str, uint32 most)
{
	return Min(str->n, most);
}

/* Bytes of the array's elements when each string is cut to most bytes. */
static uint64
array_bytes(const SsEntry *entry, uint32 most)
{
	uint64 bytes = 0;
	uint64 i;

	for (i = 0; i < 2 * (uint64) entry->nfields; i++)
		bytes += INTALIGN(VARHDRSZ + (uint64) kept_length(&entry->fields[i], most));
	return bytes;
}

/* The longest length to which strings must be cut for the array to be possible. */
static uint32
longest_kept(const SsEntry *entry)
{
	static const uint32 lengths[] = {PG_UINT32_MAX, 1024 * 1024, SS_REDIS_PREFIX, 64, 0};
	int					i = 0;

	while (lengths[i] > 0 && array_bytes(entry, lengths[i]) > MAX_RAW_BYTES)
		i++;
	return lengths[i];
}

ArrayType *
ss_rawfields_from_entry(const SsEntry *entry, int *cut)
{
	uint32	   most = longest_kept(entry);
	uint64	   nelements = 2 * (uint64) entry->nfields;
	Size	   size;
	ArrayType *array;
	char	  *next;
	uint64	   i;

	if (cut != NULL)
		*cut = 0;
	if (nelements == 0)
		return construct_empty_array(BYTEAOID);

	size = ARR_OVERHEAD_NONULLS(1) + array_bytes(entry, most);
	array = palloc0(size);
	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->dataoffset = 0;
	array->elemtype = BYTEAOID;
	ARR_DIMS(array)
	[0] = (int) nelements;
	ARR_LBOUND(array)
	[0] = 1;

	next = ARR_DATA_PTR(array);
	for (i = 0; i < nelements; i++)
	{
		const SsReply *str = &entry->fields[i];
		uint32		   len = kept_length(str, most);

		SET_VARSIZE(next, VARHDRSZ + len);
		if (len > 0)
			memcpy(VARDATA(next), str->str, len);
		next += INTALIGN(VARHDRSZ + (Size) len);
		if (cut != NULL && (str->truncated || len < str->n))
			(*cut)++;
	}
	return array;
}

char *
ss_rawfields_describe_cut(const SsEntry *entry)
{
	uint32 most = longest_kept(entry);
	uint64 i;

	for (i = 0; i < 2 * (uint64) entry->nfields; i++)
	{
		const SsReply *str = &entry->fields[i];
		const SsReply *name = &entry->fields[i - i % 2];
		uint32		   len = kept_length(str, most);

		if (!str->truncated && len == str->n)
			continue;
		return psprintf("The %s of field \"%s\" has " UINT64_FORMAT " bytes, of which the first %u are kept.",
						i % 2 == 0 ? "name" : "value",
						ss_reply_printable(name->str, kept_length(name, most), NAMEDATALEN),
						str->truncated ? str->full_len : (uint64) str->n,
						len);
	}
	return pstrdup("");
}

/* ---- to replies ---- */

/* An array reply of n strings with a buffer for all their bytes and terminators. */
static SsReply *
make_reply(uint32 n, Size bytes, char **buffer)
{
	SsReply *reply = palloc0(sizeof(SsReply));

	reply->type = SS_REPLY_ARRAY;
	reply->n = n;
	reply->items = n == 0 ? NULL :
							MemoryContextAllocExtended(CurrentMemoryContext, n * sizeof(SsReply), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	*buffer = MemoryContextAllocExtended(CurrentMemoryContext, bytes + n + 1, MCXT_ALLOC_HUGE);
	return reply;
}

static void
fill_string(SsReply *item, char **buffer, const char *str, uint32 len)
{
	item->type = SS_REPLY_STRING;
	item->n = len;
	item->str = *buffer;
	memcpy(*buffer, str, len);
	(*buffer)[len] = '\0';
	*buffer += len + 1;
}

SsReply *
ss_rawfields_to_reply(ArrayType *raw)
{
	SsReply *reply;
	char	*buffer;
	char	*next = ARR_DATA_PTR(raw);
	char	*end = (char *) raw + VARSIZE(raw);
	int		 n = ArrayGetNItems(ARR_NDIM(raw), ARR_DIMS(raw));
	int		 i;

	if (ARR_ELEMTYPE(raw) != BYTEAOID || ARR_NDIM(raw) > 1 || ARR_HASNULL(raw) || n % 2 != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("raw fields are not a list of names and values")));

	reply = make_reply(n, VARSIZE(raw), &buffer);
	for (i = 0; i < n; i++)
	{
		if (next >= end)
			elog(ERROR, "raw fields end early");
		fill_string(&reply->items[i], &buffer, VARDATA_ANY(next), VARSIZE_ANY_EXHDR(next));
		next += VARSIZE_ANY(next);
		next = (char *) att_align_nominal(next, TYPALIGN_INT);
	}
	return reply;
}

/* A member's value as a field's text, in server encoding; NULL for a JSON null. */
static char *
member_text(const JsonbValue *value, int *len)
{
	char *text;

	switch (value->type)
	{
		case jbvNull:
			return NULL;
		case jbvString:
			*len = value->val.string.len;
			return value->val.string.val;
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
			break;
		case jbvBool:
			text = value->val.boolean ? "true" : "false";
			break;
		case jbvBinary:
			text = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
			break;
		default:
			elog(ERROR, "unexpected kind of jsonb value: %d", (int) value->type);
	}
	*len = strlen(text);
	return text;
}

SsReply *
ss_rawfields_from_jsonb(Jsonb *edited)
{
	JsonbIterator	  *iterator = JsonbIteratorInit(&edited->root);
	JsonbIteratorToken token;
	JsonbValue		   value;
	uint32			   capacity = JB_ROOT_COUNT(edited);
	const char		 **strings;
	int				  *lengths;
	Size			   bytes = 0;
	uint32			   n = 0;
	SsReply			  *reply;
	char			  *buffer;
	uint32			   i;

	Assert(JB_ROOT_IS_OBJECT(edited));
	strings = palloc(2 * (Size) Max(capacity, 1) * sizeof(char *));
	lengths = palloc(2 * (Size) Max(capacity, 1) * sizeof(int));

	token = JsonbIteratorNext(&iterator, &value, true);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		const char *text;
		int			len = 0;

		if (token == WJB_KEY)
		{
			Assert(n + 2 <= 2 * capacity);
			strings[n] = value.val.string.val;
			lengths[n] = value.val.string.len;
		}
		else if (token == WJB_VALUE && (text = member_text(&value, &len)) != NULL)
		{
			strings[n + 1] = text;
			lengths[n + 1] = len;
			n += 2;
		}
	}

	for (i = 0; i < n; i++)
	{
		char *converted = pg_server_to_any(strings[i], lengths[i], PG_UTF8);

		if (converted != strings[i])
		{
			strings[i] = converted;
			lengths[i] = strlen(converted);
		}
		bytes += lengths[i];
	}

	reply = make_reply(n, bytes, &buffer);
	for (i = 0; i < n; i++)
		fill_string(&reply->items[i], &buffer, strings[i], lengths[i]);
	return reply;
}

/* ---- to jsonb, for the view ---- */

/* raw_fields(raw bytea[]): the fields as a jsonb object, of doubled names the last; NULL where they cannot be. */
Datum
streamsink_raw_fields(PG_FUNCTION_ARGS)
{
	SsReply			*reply = ss_rawfields_to_reply(PG_GETARG_ARRAYTYPE_P(0));
	JsonbParseState *state = NULL;
	JsonbValue		*object;
	uint64			 bytes = 0;
	uint32			 i;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (i = 0; i < reply->n; i++)
	{
		JsonbValue value;
		char	  *text = ss_decode_try_text(reply->items[i].str, reply->items[i].n);
		int		   len;

		if (text == NULL)
			PG_RETURN_NULL();
		len = text == reply->items[i].str ? (int) reply->items[i].n : (int) strlen(text);
		bytes += len;
		if (bytes > MAX_JSONB_BYTES)
			PG_RETURN_NULL();
		value.type = jbvString;
		value.val.string.val = text;
		value.val.string.len = len;
		pushJsonbValue(&state, i % 2 == 0 ? WJB_KEY : WJB_VALUE, &value);
	}
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(object));
}
