/*
 * ss_maketable.c
 *	  create_target: the table for a new pipeline, out of its definition and
 *	  what its entries look like.
 *
 * NOTES
 *	  Columns, in this order: placeholders, what "columns" fills from the entry
 *	  itself (_id and the like), sampled fields, fields that "columns" names and
 *	  no sample had, rest.  Nothing that was not asked for: no column of its own
 *	  for the entry's id or time.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "ss_ddl.h"
#include "ss_maketable.h"

typedef struct NewColumn
{
	const char *name;
	Oid			type;
	bool		notnull;
} NewColumn;

/* An item of the argument "columns". */
typedef struct Mapped
{
	const char *column;
	const char *source;
	bool		done;
} Mapped;

typedef struct Making
{
	const SsPipeline *pipeline;
	const SsTemplate *tmpl;
	const SsSurvey	 *survey;
	List			 *columns; /* of NewColumn * */
	List			 *mapped;  /* of Mapped * */
} Making;

static Mapped *
find_mapped(const Making *making, const char *column)
{
	ListCell *lc;

	foreach(lc, making->mapped)
	{
		Mapped *mapped = lfirst(lc);

		if (strcmp(mapped->column, column) == 0)
			return mapped;
	}
	return NULL;
}

static void
read_mapped(Making *making)
{
	Jsonb			  *columns = making->pipeline->columns;
	JsonbIterator	  *iterator;
	JsonbIteratorToken token;
	JsonbValue		   value;
	Mapped			  *mapped = NULL;

	if (columns == NULL)
		return;
	iterator = JsonbIteratorInit(&columns->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			mapped = palloc0_object(Mapped);
			mapped->column = pnstrdup(value.val.string.val, value.val.string.len);
			making->mapped = lappend(making->mapped, mapped);
		}
		else if (token == WJB_VALUE && value.type == jbvString)
			mapped->source = pnstrdup(value.val.string.val, value.val.string.len);
	}
}

static void
add_column(Making *making, const char *name, Oid type, bool notnull)
{
	NewColumn *column = palloc_object(NewColumn);

	if (strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("the name of column \"%s\" is too long", name),
				 errdetail("It must be less than %d bytes.", NAMEDATALEN)));
	column->name = name;
	column->type = type;
	column->notnull = notnull;
	making->columns = lappend(making->columns, column);
}

/*
 * Columns for one source: those that "columns" fills from it, else one of its
 * own name, unless that is filled from something else.
 */
static void
add_source(Making *making, const char *source, Oid type, bool notnull)
{
	bool	  found = false;
	ListCell *lc;

	foreach(lc, making->mapped)
	{
		Mapped *mapped = lfirst(lc);

		if (mapped->source == NULL || strcmp(mapped->source, source) != 0)
			continue;
		found = true;
		if (!mapped->done)
			add_column(making, mapped->column, type, notnull);
		mapped->done = true;
	}
	if (!found && find_mapped(making, source) == NULL)
		add_column(making, source, type, notnull);
}

static void
add_meta(Making *making)
{
	const struct
	{
		const char *name;
		Oid			type;
	} sources[] = {
		{"_id", ss_entryid_type()}, {"_stream", TEXTOID}, {"_time", TIMESTAMPTZOID}, {"_seq", INT4OID}, {"_fields", JSONBOID}};
	ListCell *lc;

	foreach(lc, making->mapped)
	{
		Mapped *mapped = lfirst(lc);

		for (int i = 0; i < (int) lengthof(sources) && mapped->source != NULL; i++)
		{
			if (strcmp(mapped->source, sources[i].name) != 0)
				continue;
			add_column(making, mapped->column, sources[i].type, true);
			mapped->done = true;
		}
	}
}

static bool
is_placeholder(const Making *making, const char *name)
{
	for (int i = 0; i < making->tmpl->nplaceholders; i++)
	{
		if (strcmp(making->tmpl->names[i], name) == 0)
			return true;
	}
	return false;
}

/* The payload is in the columns of its members, unless somebody wants it whole too. */
static bool
is_spread(const Making *making, const char *name)
{
	ListCell *lc;

	foreach(lc, making->mapped)
	{
		Mapped *mapped = lfirst(lc);

		if (mapped->source != NULL && strcmp(mapped->source, name) == 0)
			return false;
	}
	return making->pipeline->payload != NULL && strcmp(making->pipeline->payload, name) == 0;
}

static bool
is_rest(const Making *making, const char *name)
{
	return making->pipeline->rest != NULL && strcmp(making->pipeline->rest, name) == 0;
}

static void
add_fields(Making *making)
{
	const SsSurvey *survey = making->survey;
	ListCell	   *lc;

	for (int i = 0; survey != NULL && i < survey->nfields; i++)
	{
		const SsSurveyField *field = survey->fields[i];
		Oid					 type = ss_guess_type(field->seen);

		if (is_placeholder(making, field->name) || is_rest(making, field->name) || is_spread(making, field->name))
			continue;
		/* nulls only: a value that comes later says more than a guess */
		if (!OidIsValid(type) && making->pipeline->evolve && find_mapped(making, field->name) == NULL)
			continue;
		add_source(making, field->name, OidIsValid(type) ? type : TEXTOID, false);
	}

	foreach(lc, making->mapped)
	{
		Mapped *mapped = lfirst(lc);

		if (mapped->done || mapped->source == NULL || is_rest(making, mapped->column))
			continue;
		if (survey == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INDETERMINATE_DATATYPE),
					 errmsg("the type of column \"%s\" is not known", mapped->column),
					 errdetail("It is filled from field \"%s\", and without connect no entries are looked at.", mapped->source),
					 errhint("Leave connect at true, or make the table with CREATE TABLE.")));
		add_column(making, mapped->column, TEXTOID, false);
	}
}

static void
check_column(const Making *making, const char *name)
{
	ListCell *lc;

	foreach(lc, making->columns)
	{
		if (strcmp(((NewColumn *) lfirst(lc))->name, name) == 0)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" of \"key\" is not among those of the table to be made", name),
			 errdetail("No placeholder, no item of \"columns\" and no sampled field gives it."),
			 errhint("Make the table with CREATE TABLE.")));
}

/* The primary key that an ON CONFLICT needs, or nothing. */
static void
append_key(const Making *making, StringInfo statement)
{
	const SsPipeline *pipeline = making->pipeline;
	const char		 *separator = "";
	List			 *names;
	ListCell		 *lc;

	if (pipeline->on_conflict == SS_CONFLICT_ERROR)
		return;
	if (pipeline->key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"on_conflict\" needs \"key\" where the table is to be made"),
				 errhint("Name the columns of its primary key.")));
	if (!SplitIdentifierString(pstrdup(pipeline->key), ',', &names))
		elog(ERROR, "invalid key");
	appendStringInfoString(statement, ",\n    PRIMARY KEY (");
	foreach(lc, names)
	{
		check_column(making, lfirst(lc));
		appendStringInfo(statement, "%s%s", separator, quote_identifier(lfirst(lc)));
		separator = ", ";
	}
	appendStringInfoChar(statement, ')');
}

static char *
build_statement(const Making *making)
{
	StringInfoData statement;
	const char	  *separator = "\n    ";
	ListCell	  *lc;

	initStringInfo(&statement);
	appendStringInfo(&statement, "CREATE TABLE %s (", making->pipeline->target);
	foreach(lc, making->columns)
	{
		NewColumn *column = lfirst(lc);

		appendStringInfoString(&statement, separator);
		ss_ddl_append_column(&statement, column->name, column->type);
		if (column->notnull)
			appendStringInfoString(&statement, " NOT NULL");
		separator = ",\n    ";
	}
	append_key(making, &statement);
	appendStringInfoString(&statement, "\n)");
	return statement.data;
}

/* Where the columns come from, as a sentence. */
static char *
explain(const SsSurvey *survey)
{
	if (survey == NULL)
		return pstrdup("No entries were looked at.");
	if (survey->entries == 0)
		return pstrdup("There were no entries to look at.");
	return psprintf("Types are guessed from %d %s of %d %s.", survey->entries, survey->entries == 1 ? "entry" : "entries",
					survey->streams, survey->streams == 1 ? "stream" : "streams");
}

static void
say_what_is_left_out(const Making *making)
{
	const SsSurvey *survey = making->survey;
	const char	   *where = making->pipeline->rest != NULL ? "They go to \"rest\"." : "They are not written.";

	if (survey == NULL)
		return;
	if (survey->unfit != NULL)
		ereport(NOTICE,
				(errmsg("some fields cannot be columns, \"%s\" for one", survey->unfit),
				 errdetail("A column's name has 1 to %d bytes, and is not one of the server's or of batch. %s",
						   NAMEDATALEN - 1, where)));
	if (survey->full)
		ereport(NOTICE,
				(errmsg("there are more fields than streamsink.max_columns permits as columns (%d)", survey->max),
				 errdetail_internal("%s", where)));
	if (survey->entries == 0 && making->pipeline->rest == NULL && !making->pipeline->evolve)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("there were no entries to look at, so the table has no columns for their fields"),
				 errhint("Call create_pipeline when there are some, set \"rest\" or \"evolve\", or add the columns.")));
}

void
ss_maketable_run(const SsPipeline *pipeline, const SsTemplate *tmpl, const SsSurvey *survey)
{
	Making making = {.pipeline = pipeline, .tmpl = tmpl, .survey = survey};
	char  *statement;

	read_mapped(&making);
	for (int i = 0; i < tmpl->nplaceholders; i++)
		add_source(&making, tmpl->names[i], TEXTOID, true);
	add_meta(&making);
	add_fields(&making);
	if (pipeline->rest != NULL)
		add_column(&making, pipeline->rest, JSONBOID, false);
	if (making.columns == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("no column is known for table %s", pipeline->target),
				 errdetail_internal("%s", explain(survey)),
				 errhint("Call create_pipeline when its streams have entries, or make the table with CREATE TABLE.")));

	statement = build_statement(&making);
	ss_ddl_run(statement);
	ss_ddl_run(psprintf("COMMENT ON TABLE %s IS %s", pipeline->target,
						quote_literal_cstr(psprintf("Made by streamsink for pipeline \"%s\". %s\n%s",
													pipeline->name, explain(survey), statement))));
	ereport(NOTICE,
			(errmsg("table %s was made for pipeline \"%s\"", pipeline->target, pipeline->name),
			 errdetail_internal("%s %s;", explain(survey), statement)));
	say_what_is_left_out(&making);
}
