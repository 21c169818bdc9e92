/*
 * ss_guess_test.c
 *	  What guesses types, for SQL, compiled into test builds only.
 *
 * NOTES
 *	  The install script does not know this function: the test declares it.
 */
#include "postgres.h"
#include "ss_compat.h"

#ifdef STREAMSINK_TEST

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "ss_guess.h"

SS_SQL_FUNCTION(streamsink_test_guess);

/* (values text[], members bool): the type for a field with these values, or for members of payloads with these JSON values */
Datum
streamsink_test_guess(PG_FUNCTION_ARGS)
{
	Datum  *items;
	int		n;
	bool	is_member = PG_GETARG_BOOL(1);
	SsGuess seen = 0;
	Oid		type;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &items, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		char   *value = TextDatumGetCString(items[i]);
		SsField field = {.kind = SS_FIELD_TEXT, .value = value, .value_len = strlen(value)};

		if (is_member)
		{
			SsField *members;

			value = psprintf("{\"v\": %s}", value);
			(void) ss_decode_payload(value, strlen(value), &members);
			field = members[0];
		}
		seen |= ss_guess_value(field.kind, field.value, field.value_len);
	}
	type = ss_guess_type(seen);
	if (!OidIsValid(type))
		PG_RETURN_NULL();
	PG_RETURN_OID(type);
}

#endif /* STREAMSINK_TEST */
