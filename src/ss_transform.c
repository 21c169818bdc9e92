/*
 * ss_transform.c
 *	  The text of a transform: what statements it has, and which may stand there.
 *
 * NOTES
 *	  The server's own parser takes the text apart.  Each statement then is
 *	  prepared from its own part of the text, so that what the server says
 *	  of it quotes no other one.
 *
 *	  SELECT INTO would make a table.  Here INTO and the name after it are
 *	  replaced by blanks, as many as they have characters, so that positions stay,
 *	  and the result becomes a relation in memory.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "catalog/pg_class.h"
#include "mb/pg_wchar.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "parser/scanner.h"
#include "parser/scansup.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "ss_transform.h"

#define MAX_STATEMENTS 100

#define ALLOWED "A transform consists of SELECT, INSERT, UPDATE, DELETE, MERGE, CALL, NOTIFY and LOCK TABLE."

/* Errors of the parser and of ours tell a position in the transform, not in what the user typed around it. */
static void
transpose_position(void *arg)
{
	int position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery(arg);
}

/* Report a byte of the transform as the place of an error. */
static int
at_byte(const char *transform, int byte)
{
	return errposition(pg_mbstrlen_with_len(transform, byte) + 1);
}

/* Where a statement begins: behind blanks and comments. */
static int
skip_blanks(const char *text, int at)
{
	for (;;)
	{
		while (scanner_isspace(text[at]))
			at++;
		if (text[at] == '-' && text[at + 1] == '-')
		{
			while (text[at] != '\0' && text[at] != '\n' && text[at] != '\r')
				at++;
		}
		else if (text[at] == '/' && text[at + 1] == '*')
		{
			int depth = 0;

			do
			{
				if (text[at] == '/' && text[at + 1] == '*')
				{
					depth++;
					at += 2;
				}
				else if (text[at] == '*' && text[at + 1] == '/')
				{
					depth--;
					at += 2;
				}
				else
					at++;
			} while (depth > 0 && text[at] != '\0');
		}
		else
			return at;
	}
}

/* What to do instead of a statement that is refused. */
static const char *
hint_for(const Node *raw)
{
	switch (nodeTag(raw))
	{
		case T_TransactionStmt:
			return "A batch is one transaction, which streamsink ends by itself.";
		case T_CopyStmt:
			return "The entries are in the relation \"batch\": use INSERT INTO ... SELECT ... FROM batch.";
		case T_TruncateStmt:
			return "Use DELETE.";
		case T_VariableSetStmt:
			return "Name the setting in the pipeline's \"settings\".";
		case T_DoStmt:
			return "Make it a function or a procedure, which the transform can call.";
		case T_CreateTableAsStmt:
		case T_CreateStmt:
			return "SELECT ... INTO name makes a relation for the statements after it. Create tables before.";
		default:
			return ALLOWED;
	}
}

static bool
is_allowed(const Node *raw)
{
	switch (nodeTag(raw))
	{
		case T_SelectStmt:
		case T_InsertStmt:
		case T_UpdateStmt:
		case T_DeleteStmt:
		case T_MergeStmt:
		case T_CallStmt:
		case T_NotifyStmt:
		case T_LockStmt:
			return true;
		default:
			return false;
	}
}

/* The INTO clause of a SELECT, which in a UNION is the first one's; NULL if there is none. */
static IntoClause *
find_into(Node *raw)
{
	SelectStmt *select;

	if (!IsA(raw, SelectStmt))
		return NULL;
	select = (SelectStmt *) raw;
	while (select->op != SETOP_NONE)
		select = select->larg;
	return select->intoClause;
}

static void
check_into(const char *transform, const IntoClause *into, List *before)
{
	const RangeVar *name = into->rel;
	ListCell	   *lc;

	if (name->relpersistence != RELPERSISTENCE_PERMANENT || name->schemaname != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("SELECT INTO makes a relation in memory, not a table"),
				 errhint("Write INTO and a name without a schema. To fill a table, use INSERT INTO ... SELECT."),
				 at_byte(transform, name->location)));
	foreach(lc, before)
	{
		const SsTransformStatement *other = lfirst(lc);

		if (other->into != NULL && strcmp(other->into, name->relname) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_TABLE),
					 errmsg("relation \"%s\" is made twice", name->relname),
					 at_byte(transform, name->location)));
	}
	if (strcmp(name->relname, SS_BATCH_RELATION) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" is there already", SS_BATCH_RELATION),
				 errhint("Choose another name."),
				 at_byte(transform, name->location)));
}

/*
 * The bytes of a text from INTO up to what follows the name, which stands at
 * a byte that the parser told.
 */
static void
find_into_clause(const char *text, int name, int *from, int *to)
{
	int				   keyword = ScanKeywordLookup("into", &ScanKeywords);
	int				   into = keyword >= 0 ? ScanKeywordTokens[keyword] : 0;
	core_yy_extra_type extra;
	core_yyscan_t	   scanner = scanner_init(text, &extra, &ScanKeywords, ScanKeywordTokens);
	core_YYSTYPE	   value;
	YYLTYPE			   at;
	int				   token;

	*from = *to = -1;
	while ((token = core_yylex(&value, &at, scanner)) != 0 && at <= name)
	{
		if (token == into)
			*from = at;
	}
	*to = token != 0 ? at : (int) strlen(text);
	scanner_finish(scanner);
	if (*from < 0)
		elog(ERROR, "SELECT INTO without INTO");
}

/* A text with a blank for each character of a part of it. */
static char *
blank_out(const char *text, int from, int to)
{
	StringInfoData result;
	int			   blanks = pg_mbstrlen_with_len(text + from, to - from);

	initStringInfo(&result);
	appendBinaryStringInfo(&result, text, from);
	appendStringInfoSpaces(&result, blanks);
	appendStringInfoString(&result, text + to);
	return result.data;
}

static SsTransformStatement *
take_statement(const char *transform, RawStmt *raw, List *before)
{
	SsTransformStatement *statement = palloc0(sizeof(SsTransformStatement));
	int					  from = skip_blanks(transform, raw->stmt_location);
	int					  to = raw->stmt_len > 0 ? raw->stmt_location + raw->stmt_len : (int) strlen(transform);
	IntoClause			 *into;

	statement->raw = raw->stmt;
	statement->command = CreateCommandName(raw->stmt);
	if (!is_allowed(raw->stmt))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is not allowed in a transform", statement->command),
				 errhint("%s", hint_for(raw->stmt)),
				 at_byte(transform, from)));
	statement->is_utility = IsA(raw->stmt, CallStmt) || IsA(raw->stmt, NotifyStmt) || IsA(raw->stmt, LockStmt);

	while (to > from && scanner_isspace(transform[to - 1]))
		to--;
	statement->offset = pg_mbstrlen_with_len(transform, from);
	statement->sql = pnstrdup(transform + from, to - from);

	into = find_into(raw->stmt);
	if (into != NULL)
	{
		int first;
		int end;

		check_into(transform, into, before);
		statement->into = into->rel->relname;
		find_into_clause(statement->sql, into->rel->location - from, &first, &end);
		statement->sql = blank_out(statement->sql, first, end);
	}
	return statement;
}

List *
ss_transform_parse(const char *transform)
{
	ErrorContextCallback callback;
	int					 level = NewGUCNestLevel();
	List				*statements = NIL;
	ListCell			*lc;

	callback.callback = transpose_position;
	callback.arg = unconstify(char *, transform);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	/* as ss_identity.c has it wherever the statements run */
	(void) set_config_option("standard_conforming_strings", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	foreach(lc, raw_parser(transform, RAW_PARSE_DEFAULT))
	{
		if (list_length(statements) == MAX_STATEMENTS)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("a transform cannot have more than %d statements", MAX_STATEMENTS)));
		statements = lappend(statements, take_statement(transform, lfirst_node(RawStmt, lc), statements));
	}
	if (statements == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the transform has no statement"),
				 errhint(ALLOWED)));

	AtEOXact_GUC(false, level);
	error_context_stack = callback.previous;
	return statements;
}

void
ss_transform_locate(const char *transform, const SsTransformStatement *statement, ErrorData *error)
{
	if (error->internalpos <= 0 || error->internalquery == NULL || strcmp(error->internalquery, statement->sql) != 0)
		return;
	error->internalpos += statement->offset;
	error->internalquery = unconstify(char *, transform);
}
