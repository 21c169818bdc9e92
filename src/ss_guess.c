/*
 * ss_guess.c
 *	  Which type a column needs for the values that a field was seen with.
 *
 * NOTES
 *	  A type is guessed only where its input function takes every value of that
 *	  form and gives it back as it was: '007', '+1' and 'now' are text, and so is
 *	  a time with nanoseconds.  Numbers with more digits than a double
 *	  keeps are numeric.
 */
#include "postgres.h"
#define SS_NEED_JSON
#include "ss_compat.h"

#include <ctype.h>
#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"

#include "ss_guess.h"

#define SAFE_DIGITS	  15   /* significant ones that every double has room for */
#define DOUBLE_DIGITS 17   /* no double needs more */
#define DOUBLE_SCALE  307  /* power of ten of the first digit; beyond it digits get lost */
#define NUMBER_LENGTH 1000 /* longer ones are text: numeric has limits too */
#define NUMBER_SCALE  1000
#define JSON_DEPTH	  1000 /* nested deeper, it may be more than the server's stack takes */
#define JSON_LENGTH	  (1024 * 1024)

/* ---- numbers ---- */

/* A number's significant digits and the power of ten of the first one. */
typedef struct Number
{
	char digits[DOUBLE_DIGITS + 1]; /* terminated, without zeros at either end */
	int	 ndigits;					/* counted on where there is no more room */
	int	 scale;
	bool negative;
	bool integer; /* written without point and exponent */
} Number;

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Read [-] digits [. digits] [e [+-] digits] whole; no superfluous zero before the point. */
static bool
read_number(const char *str, size_t len, Number *number)
{
	const char *end = str + len;
	const char *whole;
	int			nwhole = 0;
	int			place = -1;		 /* of the digit behind the point, counted down */
	int			zeros = 0;		 /* since the last digit that is none */
	bool		started = false; /* a digit that is no zero was seen */
	int			exponent = 0;

	memset(number, 0, sizeof(*number));
	if (len > NUMBER_LENGTH)
		return false;
	if (str < end && *str == '-')
	{
		number->negative = true;
		str++;
	}
	for (whole = str; str < end && is_digit(*str); str++)
		nwhole++;
	if (nwhole > 1 && *whole == '0')
		return false;
	number->integer = str == end && nwhole > 0;
	place = nwhole - 1;

	for (const char *at = whole; at < end; at++)
	{
		if (*at == '.' && at == whole + nwhole)
		{
			str = at + 1;
			continue;
		}
		if (!is_digit(*at))
			break;
		str = at + 1;
		if (*at == '0')
			zeros += started ? 1 : 0;
		else
		{
			if (!started)
				number->scale = place;
			started = true;
			for (; zeros > 0; zeros--, number->ndigits++)
				if (number->ndigits < DOUBLE_DIGITS)
					number->digits[number->ndigits] = '0';
			if (number->ndigits < DOUBLE_DIGITS)
				number->digits[number->ndigits] = *at;
			number->ndigits++;
		}
		place--;
	}
	number->digits[Min(number->ndigits, DOUBLE_DIGITS)] = '\0';
	if (place == -1 && nwhole == 0)
		return false; /* no digit at all */

	if (str < end && (*str == 'e' || *str == 'E'))
	{
		bool negative = false;

		if (++str < end && (*str == '-' || *str == '+'))
			negative = *str++ == '-';
		if (str == end)
			return false;
		for (; str < end && is_digit(*str); str++)
			exponent = Min(exponent * 10 + (*str - '0'), 1000000);
		number->scale += negative ? -exponent : exponent;
	}
	return str == end;
}

/* Are these the digits that the nearest double prints? */
static bool
survives_as_double(const char *str, const Number *number)
{
	char   buf[DOUBLE_SHORTEST_DECIMAL_LEN];
	Number back;
	int	   len;
	double value = strtod(str, NULL);

	if (isinf(value) || isnan(value))
		return false;
	len = double_to_shortest_decimal_buf(value, buf);
	return read_number(buf, len, &back) && back.ndigits == number->ndigits &&
		   back.scale == number->scale && strcmp(back.digits, number->digits) == 0;
}

static bool
fits_bigint(const char *str, bool negative)
{
	static const char largest[] = "9223372036854775807";
	static const char smallest[] = "9223372036854775808";
	size_t			  len = strlen(negative ? ++str : str);

	return len < sizeof(largest) - 1 ||
		   (len == sizeof(largest) - 1 && strcmp(str, negative ? smallest : largest) <= 0);
}

static SsGuess
guess_number(const char *str, size_t len)
{
	Number number;

	if (!read_number(str, len, &number))
		return SS_GUESS_TEXT;
	if (number.integer && !(number.negative && number.ndigits == 0)) /* a bigint has no -0 */
	{
		if (number.scale < SAFE_DIGITS)
			return SS_GUESS_INTEGER;
		return fits_bigint(str, number.negative) ? SS_GUESS_LONG : SS_GUESS_NUMERIC;
	}
	if (number.ndigits == 0 ||
		(number.ndigits <= SAFE_DIGITS && abs(number.scale) <= DOUBLE_SCALE) ||
		(number.ndigits <= DOUBLE_DIGITS && abs(number.scale) <= DOUBLE_SCALE && survives_as_double(str, &number)))
		return SS_GUESS_DOUBLE;
	return abs(number.scale) <= NUMBER_SCALE ? SS_GUESS_NUMERIC : SS_GUESS_TEXT;
}

/* ---- times ---- */

/* Take n digits; -1 if they are not there. */
static int
take_digits(const char **str, int n)
{
	int value = 0;

	for (int i = 0; i < n; i++)
	{
		if (!is_digit((*str)[i]))
			return -1;
		value = value * 10 + ((*str)[i] - '0');
	}
	*str += n;
	return value;
}

static bool
take_char(const char **str, char c)
{
	if (**str != c)
		return false;
	(*str)++;
	return true;
}

static bool
take_date(const char **str)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int				 year = take_digits(str, 4);
	int				 month;
	int				 day;

	if (year < 1 || !take_char(str, '-'))
		return false;
	month = take_digits(str, 2);
	if (month < 1 || month > 12 || !take_char(str, '-'))
		return false;
	day = take_digits(str, 2);
	if (month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0))
		return day >= 1 && day <= 29;
	return day >= 1 && day <= days[month - 1];
}

/* hh:mm, with seconds and their fraction if they are there: of the fraction what a timestamp keeps. */
static bool
take_time(const char **str)
{
	int hour = take_digits(str, 2);
	int minute;
	int second;
	int ndigits = 0;

	if (hour < 0 || hour > 23 || !take_char(str, ':'))
		return false;
	minute = take_digits(str, 2);
	if (minute < 0 || minute > 59)
		return false;
	if (!take_char(str, ':'))
		return true;
	second = take_digits(str, 2);
	if (second < 0 || second > 59)
		return false;
	if (!take_char(str, '.'))
		return true;
	for (; is_digit(**str); (*str)++)
	{
		if (++ndigits > 6 && **str != '0')
			return false;
	}
	return ndigits > 0 && ndigits <= 9;
}

/* Z, +hh, +hhmm, +hh:mm, or nothing. */
static bool
take_zone(const char **str)
{
	int hour;
	int minute;

	if (**str == '\0' || take_char(str, 'Z'))
		return true;
	if (!take_char(str, '+') && !take_char(str, '-'))
		return false;
	hour = take_digits(str, 2);
	if (hour < 0 || hour > 15)
		return false;
	if (**str == '\0')
		return true;
	(void) take_char(str, ':');
	minute = take_digits(str, 2);
	return minute >= 0 && minute <= 59;
}

static bool
is_time(const char *str)
{
	if (!take_date(&str) || (!take_char(&str, 'T') && !take_char(&str, ' ')))
		return false;
	return take_time(&str) && take_zone(&str) && *str == '\0';
}

/* ---- JSON ---- */

/* What its parser does not mind, but jsonb does. */
static ss_compat_json_result
look_at_scalar(void *state, char *token, JsonTokenType type)
{
	if (type == JSON_TOKEN_NUMBER && guess_number(token, strlen(token)) == SS_GUESS_TEXT)
		*(bool *) state = false;
	SS_JSON_CONTINUE;
}

/* Brackets that are open at the same time, at most. */
static int
nesting(const char *str, size_t len)
{
	int	 depth = 0;
	int	 deepest = 0;
	bool in_string = false;

	for (size_t i = 0; i < len; i++)
	{
		if (in_string)
		{
			if (str[i] == '\\')
				i++;
			else if (str[i] == '"')
				in_string = false;
		}
		else if (str[i] == '"')
			in_string = true;
		else if (str[i] == '{' || str[i] == '[')
		{
			depth++;
			deepest = Max(deepest, depth);
		}
		else if (str[i] == '}' || str[i] == ']')
			depth--;
	}
	return deepest;
}

/* An object or array that jsonb takes? */
static bool
is_document(const char *str, size_t len)
{
	JsonSemAction actions = {0};
	bool		  good = true;
	const char	 *first = str + strspn(str, " \t\n\r");

	if ((*first != '{' && *first != '[') || len > JSON_LENGTH || nesting(str, len) > JSON_DEPTH)
		return false;
	actions.semstate = &good;
	actions.scalar = look_at_scalar;
	return pg_parse_json(ss_compat_json_lexer(str, len, true), &actions) == JSON_SUCCESS && good;
}

/* ---- all of them ---- */

SsGuess
ss_guess_value(SsFieldKind kind, const char *value, size_t len)
{
	SsGuess guess;

	switch (kind)
	{
		case SS_FIELD_JSON_NULL:
			return 0;
		case SS_FIELD_JSON_STRING:
			return is_time(value) ? SS_GUESS_TIME : SS_GUESS_TEXT;
		case SS_FIELD_JSON_SCALAR:
			return *value == 't' || *value == 'f' ? SS_GUESS_BOOLEAN : guess_number(value, len);
		case SS_FIELD_JSON_OBJECT:
		case SS_FIELD_JSON_ARRAY:
			return is_document(value, len) ? SS_GUESS_JSON : SS_GUESS_TEXT | SS_GUESS_RAW;
		case SS_FIELD_TEXT:
			break;
	}
	if (strcmp(value, "true") == 0 || strcmp(value, "false") == 0)
		guess = SS_GUESS_BOOLEAN;
	else if (is_time(value))
		guess = SS_GUESS_TIME;
	else if (is_document(value, len))
		guess = SS_GUESS_JSON;
	else
		guess = guess_number(value, len);
	return guess | SS_GUESS_RAW;
}

Oid
ss_guess_type(SsGuess seen)
{
	SsGuess kinds = seen & ~SS_GUESS_RAW;

	if (kinds == 0)
		return InvalidOid;
	if (kinds == SS_GUESS_BOOLEAN)
		return BOOLOID;
	if (kinds == SS_GUESS_TIME)
		return TIMESTAMPTZOID;
	if ((kinds & ~(SS_GUESS_INTEGER | SS_GUESS_LONG)) == 0)
		return INT8OID;
	if ((kinds & ~(SS_GUESS_INTEGER | SS_GUESS_DOUBLE)) == 0)
		return FLOAT8OID;
	if ((kinds & ~(SS_GUESS_INTEGER | SS_GUESS_LONG | SS_GUESS_DOUBLE | SS_GUESS_NUMERIC)) == 0)
		return NUMERICOID;

	/* members of a payload keep their kind in jsonb; a text that is no JSON would be refused */
	if (kinds == SS_GUESS_JSON || ((kinds & SS_GUESS_JSON) != 0 && (seen & SS_GUESS_RAW) == 0))
		return JSONBOID;
	return TEXTOID;
}
