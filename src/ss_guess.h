/*
 * ss_guess.h
 *	  Which type a column needs for the values that a field was seen with.
 *	  Pure but for PostgreSQL's JSON parser.
 */
#ifndef SS_GUESS_H
#define SS_GUESS_H

#include "ss_decode.h"

/* The kinds of values that were seen: the union over all of them. */
typedef uint32 SsGuess;

#define SS_GUESS_BOOLEAN 0x0001
#define SS_GUESS_INTEGER 0x0002 /* with so few digits that a double keeps them */
#define SS_GUESS_LONG	 0x0004 /* other integers of 64 bits */
#define SS_GUESS_DOUBLE	 0x0008 /* a fraction or exponent that a double keeps digit for digit */
#define SS_GUESS_NUMERIC 0x0010
#define SS_GUESS_TIME	 0x0020 /* ISO 8601 with date and time */
#define SS_GUESS_JSON	 0x0040 /* an object or array */
#define SS_GUESS_TEXT	 0x0080
#define SS_GUESS_RAW	 0x0100 /* some of them came as text, not as members of a payload */

/* The kind of one value, in server encoding, terminated; 0 for a JSON null.  Leaves memory behind in CurrentMemoryContext. */
extern SsGuess ss_guess_value(SsFieldKind kind, const char *value, size_t len);

/* The type that takes all of them without losing a digit; InvalidOid if nothing but nulls was seen. */
extern Oid ss_guess_type(SsGuess seen);

#endif /* SS_GUESS_H */
