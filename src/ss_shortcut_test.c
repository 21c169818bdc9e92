/*
 * ss_shortcut_test.c
 *	  Shortcuts against the input functions, for SQL, compiled into test builds only.
 *
 * NOTES
 *	  The install script does not know these functions: the test declares them.
 */
#include "postgres.h"
#include "ss_compat.h"

#ifdef STREAMSINK_TEST

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "ss_shortcut.h"

SS_SQL_FUNCTION(streamsink_test_shortcut);
SS_SQL_FUNCTION(streamsink_test_shortcuts);

/* A type as a column has it. */
typedef struct Tested
{
	Oid		   type;
	int32	   typmod;
	int16	   typlen;
	bool	   byval;
	Oid		   ioparam;
	FmgrInfo   input;
	SsShortcut shortcut;
} Tested;

static void
begin_tested(Tested *tested, Oid type, int32 typmod)
{
	Oid input;

	tested->type = type;
	tested->typmod = typmod;
	getTypeInputInfo(type, &input, &tested->ioparam);
	get_typlenbyval(type, &tested->typlen, &tested->byval);
	fmgr_info(input, &tested->input);
	tested->shortcut = ss_shortcut_choose(type, input, typmod);
}

/* False: the shortcut was not taken.  An ERROR of the input function for a text that was taken is a failure too. */
static bool
try_text(Tested *tested, char *text, size_t len, bool *same)
{
	Datum value;

	if (!ss_shortcut_run(tested->shortcut, tested->typmod, text, len, &value))
		return false;
	*same = datumIsEqual(value, InputFunctionCall(&tested->input, text, tested->ioparam, tested->typmod),
						 tested->byval, tested->typlen);
	return true;
}

/* (type, typmod, text): NULL if the shortcut was not taken, else whether it gave the same */
Datum
streamsink_test_shortcut(PG_FUNCTION_ARGS)
{
	char  *str = text_to_cstring(PG_GETARG_TEXT_PP(2));
	Tested tested;
	bool   same;

	begin_tested(&tested, PG_GETARG_OID(0), PG_GETARG_INT32(1));
	if (!try_text(&tested, str, strlen(str), &same))
		PG_RETURN_NULL();
	PG_RETURN_BOOL(same);
}

/* ---- random texts ---- */

static uint64 state; /* of this call */

/* splitmix64: the same numbers everywhere */
static uint32
pick(uint32 n)
{
	uint64 z = (state += UINT64CONST(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return (uint32) ((z ^ (z >> 31)) >> 32) % n;
}

#define pick_of(array) ((array)[pick(lengthof(array))])

static void
add_digits(StringInfo text, int n)
{
	for (int i = 0; i < n; i++)
		appendStringInfoChar(text, '0' + pick(10));
}

static void
add_number(StringInfo text)
{
	static const char *const edges[] = {
		"32767", "32768", "65535", "2147483647", "2147483648", "4294967295", "9007199254740991",
		"9007199254740992", "9007199254740993", "9223372036854775807", "9223372036854775808",
		"18446744073709551615", "18446744073709551616", "99999999999999999999", "123456789012345", "0", "1", "0.1"};
	static const char *const signs[] = {"", "", "", "-", "-", "+", " ", "--"};
	static const char *const exponent_signs[] = {"", "-", "+"};

	appendStringInfoString(text, pick_of(signs));
	if (pick(4) == 0)
		appendStringInfoString(text, pick_of(edges));
	else
	{
		if (pick(8) == 0)
			appendStringInfoString(text, "000");
		add_digits(text, pick(2) ? pick(6) : pick(21));
	}
	if (pick(2) == 0)
	{
		appendStringInfoChar(text, '.');
		if (pick(8) == 0)
			appendStringInfoString(text, "000000");
		add_digits(text, pick(2) ? pick(4) : pick(18));
	}
	if (pick(4) == 0)
	{
		appendStringInfoChar(text, pick(2) ? 'e' : 'E');
		appendStringInfoString(text, pick_of(exponent_signs));
		appendStringInfo(text, "%d", (int) pick(pick(4) ? 30 : 400));
	}
}

static void
add_timestamp(StringInfo text)
{
	static const char *const years[] = {
		"0000", "0001", "0002", "0004", "0099", "0100", "0400", "1582", "1752", "1900", "1969", "1970", "1999",
		"2000", "2001", "2024", "2038", "2100", "9999"};
	static const char *const days[] = {
		"01-01", "01-31", "01-32", "02-28", "02-29", "02-30", "03-01", "03-31", "04-30", "04-31", "05-31", "06-30",
		"06-31", "07-31", "08-31", "09-30", "09-31", "10-31", "11-30", "11-31", "12-31", "12-32", "00-10", "13-10",
		"10-00", "12-13"};
	static const char *const times[] = {
		"00:00:00", "23:59:59", "23:59:60", "24:00:00", "24:00:01", "23:60:00", "12:00:00", "00:59:59"};
	static const char *const zones[] = {
		"Z", "Z", "Z", "z", "+00", "-00", "+05:30", "-08:00", "+15", "+15:59", "-15:59", "+16", "-16:00", "+0545",
		"-0330", "+1560", "+05:60", "+5", "+5:30", "+123456", " Z", " +02", "UTC", " UTC", " Europe/Berlin", "EST", "", "",
		"+01:02:03", " BC", "+00 BC", " AD", " PM"};

	if (pick(2))
		appendStringInfo(text, "%04d", (int) (pick(2) ? pick(10000) : 1950 + pick(100)));
	else
		appendStringInfoString(text, pick_of(years));
	if (pick(2))
		appendStringInfo(text, "-%02d-%02d", (int) (1 + pick(12)), (int) (1 + pick(31)));
	else
		appendStringInfo(text, "-%s", pick_of(days));
	appendStringInfoChar(text, pick(16) == 0 ? 't' : pick(2) ? 'T' :
															   ' ');
	if (pick(4))
		appendStringInfo(text, "%02d:%02d:%02d", (int) pick(24), (int) pick(60), (int) pick(60));
	else
		appendStringInfoString(text, pick_of(times));
	if (pick(2))
	{
		appendStringInfoChar(text, '.');
		if (pick(8) == 0)
			appendStringInfoString(text, pick(2) ? "99999" : "00000");
		add_digits(text, pick(8));
	}
	appendStringInfoString(text, pick_of(zones));
}

static void
add_word(StringInfo text)
{
	static const char *const words[] = {
		"true", "false", "t", "f", "1", "0", "tr", "fal", "yes", "no", "on", "off", "TRUE", "False", "T", "F", "2", "o", " t", "t "};

	appendStringInfoString(text, pick_of(words));
}

static void
add_uuid(StringInfo text)
{
	static const char digits[] = "0123456789abcdefABCDEF";
	bool			  dashes = pick(8) > 0;

	for (int i = 0; i < 32; i++)
	{
		if (dashes && (i == 8 || i == 12 || i == 16 || i == 20))
			appendStringInfoChar(text, '-');
		appendStringInfoChar(text, digits[pick(22)]);
	}
}

static void
add_string(StringInfo text)
{
	for (int i = pick(12); i > 0; i--)
		appendStringInfoChar(text, pick(4) ? 'a' + pick(26) : ' ');
}

/* Change one character, or add or drop one. */
static void
mutate(StringInfo text)
{
	static const char alphabet[] = "00123456789+-:. TZtzeEfx_/,abn\t\"{}";
	char			  c = alphabet[pick(sizeof(alphabet) - 1)];
	int				  at = pick(text->len + 1);

	if (at < text->len && pick(2))
		text->data[at] = c;
	else if (at < text->len && pick(2))
	{
		memmove(text->data + at, text->data + at + 1, text->len - at);
		text->len--;
	}
	else
	{
		appendStringInfoChar(text, ' ');
		memmove(text->data + at + 1, text->data + at, text->len - 1 - at);
		text->data[at] = c;
	}
}

static void
add_text(StringInfo text, Oid type)
{
	switch (type)
	{
		case BOOLOID:
			add_word(text);
			break;
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			add_timestamp(text);
			break;
		case UUIDOID:
			add_uuid(text);
			break;
		case VARCHAROID:
			add_string(text);
			break;
		default:
			add_number(text);
	}
	for (int i = pick(4) == 0 ? 1 + pick(2) : 0; i > 0; i--)
		mutate(text);
}

/* (type, typmod, seed, n): how many of n texts were taken, how many of them gave something else, and one of these */
Datum
streamsink_test_shortcuts(PG_FUNCTION_ARGS)
{
	int			   n = PG_GETARG_INT32(3);
	int			   taken = 0;
	int			   wrong = 0;
	char		  *example = NULL;
	MemoryContext  scratch = AllocSetContextCreate(CurrentMemoryContext, "streamsink test", ALLOCSET_DEFAULT_SIZES);
	Datum		   values[3];
	bool		   isnull[3] = {false};
	TupleDesc	   desc;
	Tested		   tested;
	StringInfoData text;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "not a row type");
	begin_tested(&tested, PG_GETARG_OID(0), PG_GETARG_INT32(1));
	state = PG_GETARG_INT64(2);
	initStringInfo(&text);

	for (int i = 0; i < n; i++)
	{
		MemoryContext old;
		bool		  same;

		CHECK_FOR_INTERRUPTS();
		resetStringInfo(&text);
		add_text(&text, tested.type);
		old = MemoryContextSwitchTo(scratch);
		if (try_text(&tested, text.data, text.len, &same))
		{
			taken++;
			if (!same && wrong++ == 0)
				example = MemoryContextStrdup(old, text.data);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}

	values[0] = Int32GetDatum(taken);
	values[1] = Int32GetDatum(wrong);
	if (example != NULL)
		values[2] = CStringGetTextDatum(example);
	isnull[2] = (example == NULL);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}

#endif /* STREAMSINK_TEST */
