/*
 * ss_shortcut.h
 *	  Values in their usual syntax, without the type's input function.
 */
#ifndef SS_SHORTCUT_H
#define SS_SHORTCUT_H

typedef enum SsShortcut
{
	SS_SHORTCUT_NONE,
	SS_SHORTCUT_BOOL,
	SS_SHORTCUT_INT2,
	SS_SHORTCUT_INT4,
	SS_SHORTCUT_INT8,
	SS_SHORTCUT_FLOAT8,
	SS_SHORTCUT_TIMESTAMP,
	SS_SHORTCUT_TIMESTAMPTZ,
	SS_SHORTCUT_VARCHAR,
	SS_SHORTCUT_UUID
} SsShortcut;

/* The shortcut for a type with this input function; NONE for domains, and for a timestamp of a stated precision. */
extern SsShortcut ss_shortcut_choose(Oid type, Oid input_function, int32 typmod);

/*
 * What the input function would make of a text, if that is in a syntax known
 * here: by-reference results in CurrentMemoryContext.  False: ask the input
 * function; nothing happened, *value is as it was.  text is in server encoding and has
 * len bytes, none of them NUL.  No ERROR but the input function's own, on 15, about a
 * time zone abbreviation that its configuration gets wrong.
 */
extern bool ss_shortcut_run(SsShortcut shortcut, int32 typmod, const char *text, size_t len, Datum *value);

#endif /* SS_SHORTCUT_H */
