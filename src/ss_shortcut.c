/*
 * ss_shortcut.c
 *	  Values in their usual syntax, without the type's input function.
 *
 * NOTES
 *	  A shortcut takes a text only if the input function would take it too and
 *	  return the same, whatever the settings are.  All else, and so every error,
 *	  is the input function's.  The syntax of each stands above its function.
 *
 *	  test/sql/shortcut.sql compares both, test builds have the functions for it
 *	  (ss_shortcut_test.c).
 */
#include "postgres.h"
#define SS_NEED_DATETIME
#include "ss_compat.h"

#include <float.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "ss_shortcut.h"

static inline bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* ---- bool ---- */

/* true false t f 1 0 */
static bool
run_bool(const char *text, size_t len, Datum *value)
{
	bool truth;

	if (len == 1)
	{
		truth = *text == 't' || *text == '1';
		if (!truth && *text != 'f' && *text != '0')
			return false;
	}
	else if (len == 4 && memcmp(text, "true", 4) == 0)
		truth = true;
	else if (len == 5 && memcmp(text, "false", 5) == 0)
		truth = false;
	else
		return false;
	*value = BoolGetDatum(truth);
	return true;
}

/* ---- numbers ---- */

/* [-]digits, 1 to 19 of them: not enough to overflow 64 bits without a sign. */
static bool
parse_integer(const char *text, size_t len, int64 max, int64 *result)
{
	const char *end = text + len;
	bool		negative = len > 0 && *text == '-';
	uint64		magnitude = 0;

	if (negative)
		text++;
	if (text == end || end - text > 19)
		return false;
	for (; text < end; text++)
	{
		if (!is_digit(*text))
			return false;
		magnitude = magnitude * 10 + (*text - '0');
	}

	/* the smallest of all numbers is left to the input function */
	if (magnitude > (uint64) max)
		return false;
	*result = negative ? -(int64) magnitude : (int64) magnitude;
	return true;
}

/*
 * [-]digits[.digits][e[+|-]digits], with digits on one side of the point at least.
 *
 * The number is m * 10^e or m / 10^-e with m at most 2^53 and |e| at most 22.
 * Both operands are doubles without an error, and one operation rounds once: the
 * result is the double nearest to the number, which is what strtod() gives.
 * That needs arithmetic in double itself, see run_float8.
 */
static bool
parse_float8(const char *text, size_t len, float8 *result)
{
	static const float8 powers[] = {
		1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
		1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
	const uint64 max_mantissa = UINT64CONST(1) << 53;
	const char	*end = text + len;
	const char	*start;
	bool		 negative = len > 0 && *text == '-';
	uint64		 mantissa = 0;
	int			 exponent = 0;
	int			 ndigits;

	if (negative)
		text++;

	/* no product overflows: the mantissa was at most 2^53 before */
	for (start = text; text < end && is_digit(*text); text++)
	{
		mantissa = mantissa * 10 + (*text - '0');
		if (mantissa > max_mantissa)
			return false;
	}
	ndigits = text - start;
	if (text < end && *text == '.')
	{
		for (start = ++text; text < end && is_digit(*text); text++)
		{
			mantissa = mantissa * 10 + (*text - '0');
			if (mantissa > max_mantissa)
				return false;
		}
		if (text - start > 99)
			return false;
		exponent = -(int) (text - start);
		ndigits += text - start;
	}
	if (ndigits == 0)
		return false;

	if (text < end && (*text == 'e' || *text == 'E'))
	{
		bool small;
		int	 written = 0;

		text++;
		small = text < end && *text == '-';
		if (text < end && (*text == '-' || *text == '+'))
			text++;
		if (text == end || end - text > 3)
			return false;
		for (; text < end && is_digit(*text); text++)
			written = written * 10 + (*text - '0');
		exponent += small ? -written : written;
	}
	if (text != end || exponent < -22 || exponent > 22)
		return false;

	*result = (float8) mantissa;
	if (exponent < 0)
		*result /= powers[-exponent];
	else
		*result *= powers[exponent];
	if (negative)
		*result = -*result;
	return true;
}

static bool
run_float8(const char *text, size_t len, Datum *value)
{
	float8 result;

	/* wider arithmetic (x87) would round twice */
#if FLT_EVAL_METHOD == 0
	if (parse_float8(text, len, &result))
	{
		*value = Float8GetDatum(result);
		return true;
	}
#else
	(void) result;
#endif
	return false;
}

/* ---- timestamps ---- */

static inline bool
two_digits(const char *text, int *number)
{
	*number = (text[0] - '0') * 10 + (text[1] - '0');
	return is_digit(text[0]) && is_digit(text[1]);
}

/* Z, +HH, +HHMM, +HH:MM (or -).  *zulu: it is Z.  *east is in seconds. */
static bool
parse_zone(const char *text, size_t len, bool *zulu, int *east)
{
	int hour;
	int minute = 0;

	*zulu = (len == 1 && *text == 'Z');
	*east = 0;
	if (*zulu)
		return true;

	if ((len != 3 && len != 5 && len != 6) || (*text != '+' && *text != '-'))
		return false;
	if (!two_digits(text + 1, &hour) || hour > MAX_TZDISP_HOUR)
		return false;
	if (len == 6 && text[3] != ':')
		return false;
	if (len > 3 && (!two_digits(text + len - 2, &minute) || minute >= MINS_PER_HOUR))
		return false;
	*east = (hour * MINS_PER_HOUR + minute) * SECS_PER_MINUTE;
	if (*text == '-')
		*east = -*east;
	return true;
}

/*
 * T and Z are words that the server first looks up among the abbreviations of
 * time zones, which a setting may redefine: do they mean what they should?  They
 * are at the places that the server counts them at, and so in its cache.
 */
static bool
words_are_usual(bool t, bool zulu)
{
	int type;
	int offset;

	if (t && (!ss_compat_timezone_abbrev(1, "t", &type, &offset) || type != UNKNOWN_FIELD))
		return false;
	return !zulu || (ss_compat_timezone_abbrev(t ? 3 : 2, "z", &type, &offset) && type == TZ && offset == 0);
}

/*
 * YYYY-MM-DD{T| }HH:MM:SS[.digits][zone], with 1 to 6 digits and a zone as above.
 *
 * A year of four digits in front is a year under every DateStyle.  Without a zone
 * the instant depends on TimeZone, so timestamp with time zone needs one; the one without
 * ignores it.  The server's own strtod() and rint() give the same microseconds, as
 * six digits are far from any half of one.
 */
static bool
run_timestamp(bool with_zone, const char *text, size_t len, Datum *value)
{
	const char *end = text + len;
	const char *rest = text + 19;
	int			century;
	int			year;
	int			month;
	int			day;
	int			hour;
	int			minute;
	int			second;
	int			microseconds = 0;
	int			east = 0;
	bool		zulu = false;
	int64		result;

	if (len < 19 || text[4] != '-' || text[7] != '-' || (text[10] != 'T' && text[10] != ' ') ||
		text[13] != ':' || text[16] != ':')
		return false;
	if (!two_digits(text, &century) || !two_digits(text + 2, &year) ||
		!two_digits(text + 5, &month) || !two_digits(text + 8, &day) ||
		!two_digits(text + 11, &hour) || !two_digits(text + 14, &minute) || !two_digits(text + 17, &second))
		return false;

	year += century * 100;
	if (year < 1 || month < 1 || month > MONTHS_PER_YEAR || day < 1 || day > day_tab[isleap(year)][month - 1])
		return false;
	/* 24:00:00 and leap seconds are left to the input function */
	if (hour >= HOURS_PER_DAY || minute >= MINS_PER_HOUR || second >= SECS_PER_MINUTE)
		return false;

	if (rest < end && *rest == '.')
	{
		int scale = USECS_PER_SEC;

		for (rest++; rest < end && is_digit(*rest) && scale > 1; rest++)
		{
			scale /= 10;
			microseconds += (*rest - '0') * scale;
		}
		if (scale == USECS_PER_SEC)
			return false;
	}
	if (rest < end ? !parse_zone(rest, end - rest, &zulu, &east) : with_zone)
		return false;
	if (!words_are_usual(text[10] == 'T', zulu))
		return false;

	result = (int64) (date2j(year, month, day) - POSTGRES_EPOCH_JDATE) * SECS_PER_DAY;
	result += (hour * MINS_PER_HOUR + minute) * SECS_PER_MINUTE + second;
	if (with_zone)
		result -= east;
	*value = TimestampGetDatum(result * USECS_PER_SEC + microseconds);
	return true;
}

/* ---- by-reference types ---- */

/* Bytes that are no more than characters may be; without a length all fit. */
static bool
run_varchar(int32 typmod, const char *text, size_t len, Datum *value)
{
	if (typmod >= VARHDRSZ && len > typmod - VARHDRSZ)
		return false;
	*value = PointerGetDatum(cstring_to_text_with_len(text, len));
	return true;
}

static inline int
hex_digit(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* 8-4-4-4-12 hex digits */
static bool
run_uuid(const char *text, size_t len, Datum *value)
{
	pg_uuid_t  uuid;
	pg_uuid_t *result;

	if (len != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-')
		return false;
	for (int i = 0; i < UUID_LEN; i++)
	{
		int high;
		int low;

		if (i == 4 || i == 6 || i == 8 || i == 10)
			text++;
		high = hex_digit(*text++);
		low = hex_digit(*text++);
		if (high < 0 || low < 0)
			return false;
		uuid.data[i] = high << 4 | low;
	}

	result = palloc_object(pg_uuid_t);
	*result = uuid;
	*value = UUIDPGetDatum(result);
	return true;
}

/* ---- all ---- */

SsShortcut
ss_shortcut_choose(Oid type, Oid input_function, int32 typmod)
{
	static const struct
	{
		Oid		   type;
		Oid		   input;
		SsShortcut shortcut;
	} known[] = {
		{BOOLOID, F_BOOLIN, SS_SHORTCUT_BOOL},
		{INT2OID, F_INT2IN, SS_SHORTCUT_INT2},
		{INT4OID, F_INT4IN, SS_SHORTCUT_INT4},
		{INT8OID, F_INT8IN, SS_SHORTCUT_INT8},
		{FLOAT8OID, F_FLOAT8IN, SS_SHORTCUT_FLOAT8},
		{TIMESTAMPOID, F_TIMESTAMP_IN, SS_SHORTCUT_TIMESTAMP},
		{TIMESTAMPTZOID, F_TIMESTAMPTZ_IN, SS_SHORTCUT_TIMESTAMPTZ},
		{VARCHAROID, F_VARCHARIN, SS_SHORTCUT_VARCHAR},
		{UUIDOID, F_UUID_IN, SS_SHORTCUT_UUID}};

	for (int i = 0; i < lengthof(known); i++)
	{
		if (known[i].type == type && known[i].input == input_function)
			return typmod == -1 || type == VARCHAROID ? known[i].shortcut : SS_SHORTCUT_NONE;
	}
	return SS_SHORTCUT_NONE;
}

bool
ss_shortcut_run(SsShortcut shortcut, int32 typmod, const char *text, size_t len, Datum *value)
{
	int64 integer;

	switch (shortcut)
	{
		case SS_SHORTCUT_NONE:
			return false;
		case SS_SHORTCUT_BOOL:
			return run_bool(text, len, value);
		case SS_SHORTCUT_INT2:
			if (!parse_integer(text, len, PG_INT16_MAX, &integer))
				return false;
			*value = Int16GetDatum((int16) integer);
			return true;
		case SS_SHORTCUT_INT4:
			if (!parse_integer(text, len, PG_INT32_MAX, &integer))
				return false;
			*value = Int32GetDatum((int32) integer);
			return true;
		case SS_SHORTCUT_INT8:
			if (!parse_integer(text, len, PG_INT64_MAX, &integer))
				return false;
			*value = Int64GetDatum(integer);
			return true;
		case SS_SHORTCUT_FLOAT8:
			return run_float8(text, len, value);
		case SS_SHORTCUT_TIMESTAMP:
		case SS_SHORTCUT_TIMESTAMPTZ:
			return run_timestamp(shortcut == SS_SHORTCUT_TIMESTAMPTZ, text, len, value);
		case SS_SHORTCUT_VARCHAR:
			return run_varchar(typmod, text, len, value);
		case SS_SHORTCUT_UUID:
			return run_uuid(text, len, value);
	}
	return false;
}
