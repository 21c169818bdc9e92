/*
 * ss_arguments.c
 *	  The arguments of a command, gathered one by one.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "ss_arguments.h"

void
ss_arguments_init(SsArguments *args)
{
	args->n = 0;
	args->size = 32;
	args->argv = palloc(args->size * sizeof(char *));
	args->lens = palloc(args->size * sizeof(size_t));
}

void
ss_arguments_add(SsArguments *args, const char *str, size_t len)
{
	if (len > SS_ARGUMENT_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a string of %zu bytes is more than Redis takes", len),
				 errdetail("The limit is %zu bytes.", SS_ARGUMENT_MAX)));
	if (args->n == args->size)
	{
		args->size *= 2;
		args->argv = repalloc_huge(args->argv, args->size * sizeof(char *));
		args->lens = repalloc_huge(args->lens, args->size * sizeof(size_t));
	}
	args->argv[args->n] = str;
	args->lens[args->n] = len;
	args->n++;
}

void
ss_arguments_add_text(SsArguments *args, const char *str, size_t len)
{
	char *converted = pg_server_to_any(str, (int) len, PG_UTF8);

	ss_arguments_add(args, converted, converted == str ? len : strlen(converted));
}

static void
add_value(SsArguments *args, const JsonbValue *value)
{
	char *text;

	switch (value->type)
	{
		case jbvString:
			ss_arguments_add_text(args, value->val.string.val, value->val.string.len);
			break;
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
			ss_arguments_add(args, text, strlen(text));
			break;
		case jbvBool:
			text = value->val.boolean ? "true" : "false";
			ss_arguments_add(args, text, strlen(text));
			break;
		case jbvBinary:
			text = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
			ss_arguments_add_text(args, text, strlen(text));
			break;
		default:
			elog(ERROR, "unexpected type of jsonb value: %d", (int) value->type);
	}
}

void
ss_arguments_add_fields(SsArguments *args, Jsonb *fields)
{
	JsonbIterator	  *it;
	JsonbIteratorToken token;
	JsonbValue		   value;
	JsonbValue		   name = {0};
	int				   before = args->n;

	if (!JB_ROOT_IS_OBJECT(fields))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("fields must be a JSON object")));

	it = JsonbIteratorInit(&fields->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = value;
		else if (token == WJB_VALUE && value.type != jbvNull)
		{
			ss_arguments_add_text(args, name.val.string.val, name.val.string.len);
			add_value(args, &value);
		}
	}
	if (args->n == before)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an entry needs at least one field"),
				 errdetail("Members that are null are left out.")));
}
