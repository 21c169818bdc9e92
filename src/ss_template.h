/*
 * ss_template.h
 *	  A pipeline's stream argument: a key, a glob, or a template such as
 *	  mqtt_stream:{device_id}:{sensor_type}.  Pure: no server state.
 */
#ifndef SS_TEMPLATE_H
#define SS_TEMPLATE_H

#include "postgres.h"

typedef struct SsTemplate
{
	bool				   single; /* one key: no glob character, no placeholder */
	char				  *key;	   /* the key, if single (escapes resolved) */
	char				  *glob;   /* pattern for SCAN MATCH, in UTF-8; literal glob characters escaped */
	const char			  *except; /* a key that does not match whatever the pattern says, or NULL */
	int					   nplaceholders;
	char				 **names;  /* placeholder names */
	int					   nparts; /* internal: literals and placeholders in order */
	struct SsTemplatePart *parts;
} SsTemplate;

typedef struct SsSlice
{
	const char *str; /* not terminated */
	size_t		len;
} SsSlice;

/*
 * Parse, in CurrentMemoryContext.  ERROR 22023 with the position for an
 * unclosed or stray brace, an empty, doubled or malformed placeholder name
 * (identifier), two placeholders without a literal between them, an empty
 * text.  {{ and }} are literal braces.  Without braces, the glob characters
 * * ? [ ] act as in Redis's KEYS, a backslash makes the next one literal; in
 * a template too.
 */
extern SsTemplate *ss_template_parse(const char *text);

/* The same for one that never matches the key except (kept, not copied; may be NULL). */
extern SsTemplate *ss_template_parse_except(const char *text, const char *except);

/*
 * Does the key match as a whole?  A placeholder is one or more characters up
 * to the next literal.  values (nplaceholders members) then point into key;
 * may be NULL.
 */
extern bool ss_template_match(const SsTemplate *tmpl, const char *key, size_t len, SsSlice *values);

#endif /* SS_TEMPLATE_H */
