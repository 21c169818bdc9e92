/*
 * ss_rest.c
 *	  What no column takes: the jsonb object of an entry's remaining fields.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "ss_rest.h"

static void
begin_object(SsRest *rest)
{
	if (rest->state == NULL)
		pushJsonbValue(&rest->state, WJB_BEGIN_OBJECT, NULL);
}

static void
push_string(SsRest *rest, JsonbIteratorToken token, const char *str, size_t len)
{
	JsonbValue string;

	string.type = jbvString;
	string.val.string.val = unconstify(char *, str);
	string.val.string.len = len;
	pushJsonbValue(&rest->state, token, &string);
}

static Jsonb *
parse_jsonb(const char *text)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

void
ss_rest_add(SsRest *rest, const SsField *field)
{
	JsonbValue value;

	begin_object(rest);
	push_string(rest, WJB_KEY, field->name, field->name_len);

	switch (field->kind)
	{
		case SS_FIELD_TEXT:
		case SS_FIELD_JSON_STRING:
			push_string(rest, WJB_VALUE, field->value, field->value_len);
			return;
		case SS_FIELD_JSON_NULL:
			value.type = jbvNull;
			break;
		case SS_FIELD_JSON_SCALAR:
			if (field->value[0] == 't' || field->value[0] == 'f')
			{
				value.type = jbvBool;
				value.val.boolean = (field->value[0] == 't');
			}
			else
			{
				value.type = jbvNumeric;
				value.val.numeric =
					DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(field->value),
														ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
			}
			break;
		case SS_FIELD_JSON_OBJECT:
		case SS_FIELD_JSON_ARRAY:
		{
			Jsonb *jsonb = parse_jsonb(field->value);

			value.type = jbvBinary;
			value.val.binary.data = &jsonb->root;
			value.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
		}
		break;
	}
	pushJsonbValue(&rest->state, WJB_VALUE, &value);
}

/* Does the field hold a JSON object, as far as its first character tells? */
static bool
is_object(const SsField *field)
{
	if (field->kind == SS_FIELD_TEXT)
		return field->value[strspn(field->value, " \t\n\r")] == '{';
	return field->kind == SS_FIELD_JSON_OBJECT;
}

void
ss_rest_merge(SsRest *rest, const SsField *field)
{
	JsonbIterator	  *iterator;
	JsonbIteratorToken token;
	JsonbValue		   value;

	if (field->kind == SS_FIELD_JSON_NULL)
		return;
	if (!is_object(field))
	{
		ss_rest_add(rest, field);
		return;
	}

	begin_object(rest);
	iterator = JsonbIteratorInit(&parse_jsonb(field->value)->root);
	(void) JsonbIteratorNext(&iterator, &value, true); /* the brace */
	while ((token = JsonbIteratorNext(&iterator, &value, true)) == WJB_KEY || token == WJB_VALUE)
		pushJsonbValue(&rest->state, token, &value);
}

Datum
ss_rest_end(SsRest *rest)
{
	JsonbValue *object;

	begin_object(rest);
	object = pushJsonbValue(&rest->state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(object));
}
