/*
 * ss_template.c
 *	  A pipeline's stream argument: a key, a glob, or a template.
 *
 * NOTES
 *	  A pattern is fixed runs (literals, ? and [..], one byte an item, as Redis
 *	  compares) with spans (* and placeholders) between them.  A span takes the
 *	  shortest run that lets the next fixed run match; the last one takes what
 *	  the end leaves.  Because a later span can always take more, the shortest
 *	  choice never has to be undone: matching costs at most length times
 *	  pattern, without backtracking.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "ss_template.h"

typedef enum PartKind
{
	PART_LITERAL,
	PART_ANY_BYTE,	 /* ? */
	PART_SET,		 /* [..] */
	PART_ANY,		 /* *: zero or more bytes */
	PART_PLACEHOLDER /* {name}: one or more bytes */
} PartKind;

typedef struct SsTemplatePart
{
	PartKind kind;
	char	*str; /* a literal's bytes, or what stands between the brackets */
	size_t	 len;
	int		 placeholder; /* number of the placeholder */
} SsTemplatePart;

/* State of a parse. */
typedef struct Parser
{
	const char	  *text;
	const char	  *at;
	SsTemplate	  *tmpl;
	int			   capacity;
	StringInfoData literal; /* literal bytes not stored yet */
	StringInfoData glob;
} Parser;

static bool
part_is_span(const SsTemplatePart *part)
{
	return part->kind == PART_ANY || part->kind == PART_PLACEHOLDER;
}

static void fail_parse(const Parser *parser, const char *at, const char *message, const char *hint) pg_attribute_noreturn();

static void
fail_parse(const Parser *parser, const char *at, const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid stream \"%s\": %s", parser->text, message),
			 errdetail("It stands at byte %d.", (int) (at - parser->text) + 1),
			 hint ? errhint("%s", hint) : 0));
}

static SsTemplatePart *
add_part(Parser *parser, PartKind kind)
{
	SsTemplate	   *tmpl = parser->tmpl;
	SsTemplatePart *part;

	if (tmpl->nparts == parser->capacity)
	{
		parser->capacity *= 2;
		tmpl->parts = repalloc(tmpl->parts, parser->capacity * sizeof(SsTemplatePart));
	}
	part = &tmpl->parts[tmpl->nparts++];
	memset(part, 0, sizeof(SsTemplatePart));
	part->kind = kind;
	return part;
}

/* Store the literal collected so far as a part. */
static void
end_literal(Parser *parser)
{
	SsTemplatePart *part;

	if (parser->literal.len == 0)
		return;
	part = add_part(parser, PART_LITERAL);
	part->len = parser->literal.len;
	part->str = pnstrdup(parser->literal.data, parser->literal.len);
	resetStringInfo(&parser->literal);
}

static void
add_literal_byte(Parser *parser, char byte)
{
	appendStringInfoCharMacro(&parser->literal, byte);
	if (strchr("*?[]\\", byte) != NULL)
		appendStringInfoCharMacro(&parser->glob, '\\');
	appendStringInfoCharMacro(&parser->glob, byte);
}

/* A span may follow a literal, ? or [..], and * may follow *. */
static void
check_neighbour(Parser *parser, PartKind kind, const char *at)
{
	SsTemplate *tmpl = parser->tmpl;

	for (int i = tmpl->nparts - 1; i >= 0 && tmpl->parts[i].kind != PART_LITERAL; i--)
	{
		PartKind before = tmpl->parts[i].kind;

		if (before == PART_PLACEHOLDER && kind == PART_PLACEHOLDER)
			fail_parse(parser, at, "two placeholders without a literal between them", NULL);
		if (i == tmpl->nparts - 1 &&
			((before == PART_PLACEHOLDER && kind == PART_ANY) ||
			 (before == PART_ANY && kind == PART_PLACEHOLDER)))
			fail_parse(parser, at, "a placeholder beside an asterisk", "A placeholder alone matches any text.");
	}
}

static bool
is_name_start(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || IS_HIGHBIT_SET(c);
}

static bool
is_name_byte(unsigned char c)
{
	return is_name_start(c) || (c >= '0' && c <= '9') || c == '$';
}

/* {name}; at stands on the brace. */
static void
parse_placeholder(Parser *parser)
{
	static const char *const reserved[] = {"_id", "_stream", "_time", "_seq", "_fields"};
	SsTemplate				*tmpl = parser->tmpl;
	const char				*open = parser->at;
	const char				*close = strchr(open, '}');
	char					*name;
	const char				*c;
	SsTemplatePart			*part;

	if (close == NULL)
		fail_parse(parser, open, "unclosed brace", "Write {{ for a literal brace.");
	if (close == open + 1)
		fail_parse(parser, open, "placeholder without a name", "Write {{ and }} for literal braces.");

	for (c = open + 1; c < close; c++)
	{
		if (c == open + 1 ? !is_name_start(*c) : !is_name_byte(*c))
			fail_parse(parser, c, "a placeholder's name is not an identifier",
					   "Write {{ and }} for literal braces.");
	}
	if (close - open - 1 >= NAMEDATALEN)
		fail_parse(parser, open, "placeholder's name is too long", NULL);

	name = pnstrdup(open + 1, close - open - 1);
	for (int i = 0; i < lengthof(reserved); i++)
	{
		if (strcmp(name, reserved[i]) == 0)
			fail_parse(parser, open, "placeholder with a reserved name", NULL);
	}
	for (int i = 0; i < tmpl->nplaceholders; i++)
	{
		if (strcmp(name, tmpl->names[i]) == 0)
			fail_parse(parser, open, "placeholder that was used before", NULL);
	}

	end_literal(parser);
	check_neighbour(parser, PART_PLACEHOLDER, open);
	part = add_part(parser, PART_PLACEHOLDER);
	part->placeholder = tmpl->nplaceholders;
	tmpl->names = tmpl->nplaceholders == 0 ? palloc(sizeof(char *)) :
											 repalloc(tmpl->names, (tmpl->nplaceholders + 1) * sizeof(char *));
	tmpl->names[tmpl->nplaceholders++] = name;
	appendStringInfoChar(&parser->glob, '*');
	parser->at = close + 1;
}

/* [..]; at stands on the bracket. */
static void
parse_set(Parser *parser)
{
	const char	   *open = parser->at;
	const char	   *c = open + 1;
	SsTemplatePart *part;

	while (*c != '\0' && *c != ']')
		c += (c[0] == '\\' && c[1] != '\0') ? 2 : 1;
	if (*c == '\0')
		fail_parse(parser, open, "unclosed bracket", "Write \\[ for a literal bracket.");

	end_literal(parser);
	part = add_part(parser, PART_SET);
	part->len = c - open - 1;
	part->str = pnstrdup(open + 1, part->len);
	appendBinaryStringInfo(&parser->glob, open, c + 1 - open);
	parser->at = c + 1;
}

/* What stands at the parser's place, one item. */
static void
parse_item(Parser *parser)
{
	const char *c = parser->at;

	switch (*c)
	{
		case '\\':
			/* a last one stands for itself, as in Redis */
			if (c[1] != '\0')
				c++;
			add_literal_byte(parser, *c);
			parser->at = c + 1;
			break;
		case '{':
			if (c[1] != '{')
			{
				parse_placeholder(parser);
				break;
			}
			add_literal_byte(parser, *c);
			parser->at = c + 2;
			break;
		case '}':
			if (c[1] != '}')
				fail_parse(parser, c, "closing brace without an opening one", "Write }} for a literal brace.");
			add_literal_byte(parser, *c);
			parser->at = c + 2;
			break;
		case '[':
			parse_set(parser);
			break;
		case '*':
		case '?':
			end_literal(parser);
			if (*c == '*')
				check_neighbour(parser, PART_ANY, c);
			add_part(parser, *c == '*' ? PART_ANY : PART_ANY_BYTE);
			appendStringInfoChar(&parser->glob, *c);
			parser->at = c + 1;
			break;
		default:
			add_literal_byte(parser, *c);
			parser->at = c + 1;
	}
}

SsTemplate *
ss_template_parse(const char *text)
{
	SsTemplate *tmpl = palloc0(sizeof(SsTemplate));
	Parser		parser;

	if (text[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream must not be empty")));

	parser.text = text;
	parser.at = text;
	parser.tmpl = tmpl;
	parser.capacity = 8;
	tmpl->parts = palloc(parser.capacity * sizeof(SsTemplatePart));
	initStringInfo(&parser.literal);
	initStringInfo(&parser.glob);

	while (*parser.at != '\0')
		parse_item(&parser);
	end_literal(&parser);
	pfree(parser.literal.data);

	tmpl->glob = pg_server_to_any(parser.glob.data, parser.glob.len, PG_UTF8);
	tmpl->single = tmpl->nparts == 1 && tmpl->parts[0].kind == PART_LITERAL;
	if (tmpl->single)
		tmpl->key = pstrdup(tmpl->parts[0].str);
	return tmpl;
}

/* Is the byte in the set?  Ranges, ^ for "not in", backslash escapes, as in Redis. */
static bool
set_holds(const SsTemplatePart *set, unsigned char byte)
{
	const char *c = set->str;
	const char *end = set->str + set->len;
	bool		negated = false;
	bool		found = false;

	if (c < end && *c == '^')
	{
		negated = true;
		c++;
	}
	while (c < end)
	{
		unsigned char low;
		unsigned char high;

		if (end - c >= 2 && c[0] == '\\')
		{
			low = high = c[1];
			c += 2;
		}
		else if (end - c >= 3 && c[1] == '-')
		{
			low = Min((unsigned char) c[0], (unsigned char) c[2]);
			high = Max((unsigned char) c[0], (unsigned char) c[2]);
			c += 3;
		}
		else
			low = high = *c++;
		found |= (byte >= low && byte <= high);
	}
	return found != negated;
}

SsTemplate *
ss_template_parse_except(const char *text, const char *except)
{
	SsTemplate *tmpl = ss_template_parse(text);

	tmpl->except = except;
	return tmpl;
}

/* Bytes that a run of fixed parts matches. */
static size_t
fixed_length(const SsTemplatePart *parts, int nparts)
{
	size_t len = 0;

	for (int i = 0; i < nparts; i++)
		len += parts[i].kind == PART_LITERAL ? parts[i].len : 1;
	return len;
}

/* Does a run of fixed parts match here?  The key has enough bytes. */
static bool
fixed_matches(const SsTemplatePart *parts, int nparts, const char *key)
{
	for (int i = 0; i < nparts; i++)
	{
		const SsTemplatePart *part = &parts[i];

		if (part->kind == PART_LITERAL)
		{
			if (memcmp(key, part->str, part->len) != 0)
				return false;
			key += part->len;
		}
		else
		{
			if (part->kind == PART_SET && !set_holds(part, *key))
				return false;
			key++;
		}
	}
	return true;
}

bool
ss_template_match(const SsTemplate *tmpl, const char *key, size_t len, SsSlice *values)
{
	const SsTemplatePart *parts = tmpl->parts;
	size_t				  at = 0;
	int					  i = 0;

	if (tmpl->except && strlen(tmpl->except) == len && memcmp(tmpl->except, key, len) == 0)
		return false;
	for (;;)
	{
		const SsTemplatePart *span = i < tmpl->nparts && part_is_span(&parts[i]) ? &parts[i] : NULL;
		int					  first = span ? i + 1 : i;
		int					  next = first;
		size_t				  start = at;
		size_t				  least = at;
		size_t				  fixed;
		bool				  last;

		while (next < tmpl->nparts && !part_is_span(&parts[next]))
			next++;
		last = (next == tmpl->nparts);
		fixed = fixed_length(&parts[first], next - first);

		if (span && span->kind == PART_PLACEHOLDER)
			least++;
		if (least > len || fixed > len - least)
			return false;

		if (last)
		{
			/* only the end can match the end */
			at = len - fixed;
			if (!span && at != least)
				return false;
			if (!fixed_matches(&parts[first], next - first, key + at))
				return false;
		}
		else
		{
			at = least;
			while (!fixed_matches(&parts[first], next - first, key + at))
			{
				at++;
				if (!span || fixed > len - at)
					return false;
			}
		}

		if (span && span->kind == PART_PLACEHOLDER && values)
		{
			values[span->placeholder].str = key + start;
			values[span->placeholder].len = at - start;
		}
		at += fixed;
		if (last)
			return true;
		i = next;
	}
}
