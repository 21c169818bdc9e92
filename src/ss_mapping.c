/*
 * ss_mapping.c
 *	  Fields to columns: builds the row type of "batch" and what the conversion
 *	  of entries (ss_rows.c) needs to know of every column.
 *
 * NOTES
 *	  Everything lives in the mapping's own context, which hangs under the
 *	  caller's only once it is complete: an ERROR leaks nothing.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/relation.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "ss_convert.h"
#include "ss_target.h"

/* Columns that batch always has, in this order after those of the row type. */
static const struct
{
	const char *name;
	SsSource	source;
} meta_columns[] =
	{
		{"_id", SS_SOURCE_ID},
		{"_stream", SS_SOURCE_STREAM},
		{"_time", SS_SOURCE_TIME},
		{"_seq", SS_SOURCE_SEQ},
		{"_fields", SS_SOURCE_FIELDS}};

/* State of a build. */
typedef struct Build
{
	const SsPipeline *pipeline;
	const SsTemplate *tmpl;
	SsMapping		 *mapping;
	Relation		  target;  /* NULL with a transform and no target */
	Relation		  row_rel; /* of the row type */
	List			 *watched; /* relations that were looked at */
	List			 *names;   /* of char *: fields that are looked for */
} Build;

static SsSource
meta_source(const char *name)
{
	for (int i = 0; i < lengthof(meta_columns); i++)
	{
		if (strcmp(meta_columns[i].name, name) == 0)
			return meta_columns[i].source;
	}
	return SS_SOURCE_NONE;
}

static Oid
meta_type(SsSource source)
{
	switch (source)
	{
		case SS_SOURCE_ID:
			return ss_entryid_type();
		case SS_SOURCE_STREAM:
			return TEXTOID;
		case SS_SOURCE_TIME:
			return TIMESTAMPTZOID;
		case SS_SOURCE_SEQ:
			return INT4OID;
		case SS_SOURCE_FIELDS:
			return JSONBOID;
		default:
			elog(ERROR, "unexpected source %d", (int) source);
	}
}

/* ---- names in the definition ---- */

static SsColumn *
find_column(Build *build, const char *name)
{
	for (int i = 0; i < build->mapping->ncolumns; i++)
	{
		if (strcmp(build->mapping->columns[i].pub.name, name) == 0)
			return &build->mapping->columns[i];
	}
	return NULL;
}

/* The column that the definition names, or ERROR with what there is. */
static SsColumn *
named_column(Build *build, const char *name, const char *argument)
{
	SsColumn	  *column = find_column(build, name);
	StringInfoData list;

	if (column != NULL)
		return column;

	initStringInfo(&list);
	for (int i = 0; i < build->mapping->ncolumns; i++)
	{
		if (!build->mapping->columns[i].pub.is_meta)
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", build->mapping->columns[i].pub.name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" in \"%s\" of pipeline \"%s\" does not exist",
					name, argument, build->pipeline->name),
			 list.len > 0 ? errhint("Columns are: %s.", list.data) : 0));
}

/* Index of a field's name among those looked for. */
static int
add_name(Build *build, const char *name)
{
	int		  i = 0;
	ListCell *lc;

	foreach(lc, build->names)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return i;
		i++;
	}
	build->names = lappend(build->names, pstrdup(name));
	return i;
}

static void
set_source(Build *build, SsColumn *column, const char *name)
{
	SsMapping *mapping = build->mapping;

	column->source = meta_source(name);
	if (column->source != SS_SOURCE_NONE)
	{
		column->natural = meta_type(column->source) == column->pub.type;
		column->pub.source = pstrdup(name);
		column->pub.supplied = true;
		return;
	}

	for (int i = 0; i < mapping->nplaceholders; i++)
	{
		if (strcmp(mapping->placeholders[i], name) == 0)
		{
			column->source = SS_SOURCE_PLACEHOLDER;
			column->placeholder = i;
			column->name = add_name(build, name);
			column->pub.source = psprintf("placeholder %s", name);
			column->pub.supplied = true;
			mapping->placeholder_taken[i] = true;
			return;
		}
	}

	column->source = SS_SOURCE_FIELD;
	column->name = add_name(build, name);
	column->pub.source = psprintf("field %s", name);
}

/* Does "columns" name a source for this column? */
static bool
is_mapped(Build *build, const char *name)
{
	Jsonb *columns = build->pipeline->columns;

	return columns != NULL && JB_ROOT_IS_OBJECT(columns) &&
		   getKeyJsonValueFromContainer(&columns->root, name, strlen(name), NULL) != NULL;
}

/* The argument "columns": {"column": "source"}. */
static void
apply_columns(Build *build)
{
	JsonbIterator	  *iterator;
	JsonbIteratorToken token;
	JsonbValue		   value;
	SsColumn		  *column = NULL;

	if (build->pipeline->columns == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(build->pipeline->columns))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"columns\" of pipeline \"%s\" is not a JSON object", build->pipeline->name),
				 errhint("It maps columns to sources: {\"column\": \"field\"}.")));

	iterator = JsonbIteratorInit(&build->pipeline->columns->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			column = named_column(build, pnstrdup(value.val.string.val, value.val.string.len), "columns");
		if (token != WJB_VALUE)
			continue;

		if (value.type != jbvString || value.val.string.len == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("source of column \"%s\" in \"columns\" of pipeline \"%s\" is not a name",
							column->pub.name, build->pipeline->name),
					 errhint("Sources are fields, payload members, placeholders, _id, _stream, _time, _seq and _fields, each as a JSON string.")));
		if (column->source == SS_SOURCE_NONE)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" in \"columns\" of pipeline \"%s\" cannot be filled from an entry",
							column->pub.name, build->pipeline->name),
					 errdetail("Rows are inserted without it: it is generated, an identity column or an expression of a view.")));
		set_source(build, column, pnstrdup(value.val.string.val, value.val.string.len));
	}
}

/* The argument "rest".  Its own field's name is looked for too, to merge it. */
static void
apply_rest(Build *build)
{
	SsColumn *column;

	build->mapping->rest = -1;
	if (build->pipeline->rest == NULL)
		return;

	column = named_column(build, build->pipeline->rest, "rest");
	if (column->pub.is_meta || column->source != SS_SOURCE_FIELD || column->pub.type != JSONBOID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" cannot be the \"rest\" of pipeline \"%s\"",
						column->pub.name, build->pipeline->name),
				 errdetail("It must be of type jsonb and be filled from an entry's fields.")));
	column->source = SS_SOURCE_REST;
	column->pub.source = "rest";
	build->mapping->rest = column - build->mapping->columns;
}

/* ---- columns ---- */

/* A default of another type than the column of batch (row_type beside a target). */
static Node *
coerce_default(Build *build, SsColumn *column, Node *expr)
{
	Node *result;

	if (expr == NULL)
		return NULL;
	if (exprType(expr) == column->pub.type)
		return expr;
	result = coerce_to_target_type(NULL, expr, exprType(expr), column->pub.type, column->pub.typmod,
								   COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" has type %s in the row type and type %s in the target of pipeline \"%s\"",
						column->pub.name, format_type_be(column->pub.type),
						format_type_be(exprType(expr)), build->pipeline->name),
				 errdetail("The target's default cannot be turned into the row type's.")));
	return result;
}

static bool
is_user_function(Oid function, void *context)
{
	return function >= FirstNormalObjectId;
}

/* Does an expression call a function that somebody may replace? */
static bool
runs_user_function(Node *expr, void *context)
{
	if (expr == NULL)
		return false;
	return check_functions_in_node(expr, is_user_function, context) ||
		   expression_tree_walker(expr, runs_user_function, context);
}

/* A column of the generated INSERT: what the target says of the one of its name. */
static void
set_insert(Build *build, SsColumn *column)
{
	AttrNumber	   attnum = get_attnum(RelationGetRelid(build->target), column->pub.name);
	SsTargetColumn facts;
	Node		  *expr;

	if (attnum <= 0)
	{
		if (column->pub.is_meta)
			return;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of row type %s does not exist in target %s of pipeline \"%s\"",
						column->pub.name, build->pipeline->row_type, build->pipeline->target, build->pipeline->name),
				 errhint("Without a transform, the row type's columns are inserted into the target's columns of the same names.")));
	}

	ss_target_column(build->target, attnum, &facts, &build->watched);
	column->pub.insert = facts.insertable;
	if (!facts.insertable)
	{
		if (!column->pub.is_meta)
		{
			column->source = SS_SOURCE_NONE;
			column->pub.source = facts.generated ? "generated" : "default";
		}
		return;
	}

	column->notnull = facts.notnull;
	expr = coerce_default(build, column, facts.default_expr);
	if (expr != NULL)
	{
		column->dflt.raw = expr;
		column->dflt.kind = SS_DEFAULT_UNPLANNED;
		if (runs_user_function(expr, NULL))
			build->mapping->has_functions = true;
	}
	else
		column->check_missing = get_typtype(column->pub.type) == TYPTYPE_DOMAIN;
}

/* A transform's column: only an explicitly named table's NOT NULL is checked, and a default excuses. */
static void
set_transform(Build *build, SsColumn *column, Form_pg_attribute att)
{
	if (build->pipeline->row_type == NULL || !att->attnotnull)
		return;
	column->notnull = true;
	column->needed = !att->atthasdef && att->attidentity == '\0' && att->attgenerated == '\0' &&
					 get_typdefault(att->atttypid) == NULL;
}

static SsColumn *
add_column(Build *build, const char *name, Oid type, int32 typmod)
{
	SsColumn *column = &build->mapping->columns[build->mapping->ncolumns++];

	column->pub.name = pstrdup(name);
	column->pub.type = type;
	column->pub.typmod = typmod;
	column->name = -1;
	column->placeholder = -1;
	return column;
}

/* All columns, first with their default sources, then with what the definition says. */
static void
build_columns(Build *build)
{
	SsMapping *mapping = build->mapping;
	TupleDesc  row_desc = RelationGetDescr(build->row_rel);

	mapping->columns = palloc0((row_desc->natts + lengthof(meta_columns)) * sizeof(SsColumn));

	for (int i = 0; i < row_desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(row_desc, i);
		SsColumn		 *column;

		if (att->attisdropped)
			continue;
		column = add_column(build, NameStr(att->attname), att->atttypid, att->atttypmod);
		column->source = SS_SOURCE_FIELD; /* so far: it may be filled */
		if (mapping->generated_insert)
			set_insert(build, column);
		else
			set_transform(build, column, att);
	}

	for (int i = 0; i < lengthof(meta_columns); i++)
	{
		SsColumn *column;

		if (find_column(build, meta_columns[i].name) != NULL)
			continue;
		column = add_column(build, meta_columns[i].name, meta_type(meta_columns[i].source), -1);
		column->pub.is_meta = true;
		column->source = meta_columns[i].source;
		if (mapping->generated_insert)
			set_insert(build, column);
	}

	/* sources by name, unless "columns" names another one */
	for (int i = 0; i < mapping->ncolumns; i++)
	{
		SsColumn *column = &mapping->columns[i];

		if (column->source != SS_SOURCE_NONE && !is_mapped(build, column->pub.name))
			set_source(build, column, column->pub.name);
	}
	apply_columns(build);
	apply_rest(build);

	for (int i = 0; i < mapping->ncolumns; i++)
	{
		SsColumn *column = &mapping->columns[i];

		ss_convert_prepare(mapping, column);
		if (mapping->generated_insert)
			column->needed = column->notnull && column->dflt.kind == SS_DEFAULT_NONE;
		column->pub.required = column->needed && !column->pub.supplied && column->source != SS_SOURCE_REST;
	}
}

/* The row type of batch. */
static void
build_desc(SsMapping *mapping)
{
	TupleDesc desc = CreateTemplateTupleDesc(mapping->ncolumns);

	for (int i = 0; i < mapping->ncolumns; i++)
	{
		const SsMappingColumn *column = &mapping->columns[i].pub;

		TupleDescInitEntry(desc, i + 1, column->name, column->type, column->typmod, 0);
	}
	mapping->desc = BlessTupleDesc(desc);
}

/* Open target and row type, and check them. */
static void
open_relations(Build *build)
{
	const SsPipeline *pipeline = build->pipeline;
	SsMapping		 *mapping = build->mapping;
	Relation		  named;
	Oid				  relid;
	Oid				  type;

	if (pipeline->target != NULL)
	{
		mapping->target = ss_target_resolve(pipeline);
		ss_watch_relation(mapping, mapping->target);
		build->target = relation_open(mapping->target, NoLock);
		ss_target_check(pipeline, build->target, &build->watched);
	}

	if (pipeline->row_type != NULL)
	{
		relid = ss_target_row_type(pipeline, &type);
		ss_watch_relation(mapping, relid);
		ss_watch_type(mapping, type);
		build->row_rel = relation_open(relid, NoLock);
	}
	else if (build->target != NULL)
		build->row_rel = relation_open(mapping->target, NoLock);
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("pipeline \"%s\" has neither a target nor a row type", pipeline->name),
				 errhint("Name a table or composite type in \"row_type\": it gives the columns of batch.")));

	/* errors name the table whose column it is */
	named = mapping->generated_insert ? build->target : build->row_rel;
	if (named->rd_rel->relkind != RELKIND_COMPOSITE_TYPE)
	{
		mapping->relname = pstrdup(RelationGetRelationName(named));
		mapping->nspname = get_namespace_name(RelationGetNamespace(named));
	}
}

SsMapping *
ss_mapping_build(const SsPipeline *pipeline, const SsTemplate *tmpl, MemoryContext parent)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink mapping", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	SsMapping	 *mapping = palloc0(sizeof(SsMapping));
	Build		  build = {0};
	ListCell	 *lc;

	mapping->cxt = cxt;
	mapping->pipeline = pstrdup(pipeline->name);
	mapping->generated_insert = (pipeline->transform == NULL);
	mapping->track_present = mapping->generated_insert && pipeline->on_conflict == SS_CONFLICT_UPDATE;
	mapping->max_entry_bytes = pipeline->max_entry_bytes;
	ss_watch_begin(mapping);

	mapping->nplaceholders = tmpl->nplaceholders;
	mapping->placeholders = palloc((tmpl->nplaceholders + 1) * sizeof(char *));
	mapping->placeholder_taken = palloc0((tmpl->nplaceholders + 1) * sizeof(bool));
	for (int i = 0; i < tmpl->nplaceholders; i++)
		mapping->placeholders[i] = pstrdup(tmpl->names[i]);

	build.pipeline = pipeline;
	build.tmpl = tmpl;
	build.mapping = mapping;
	if (mapping->generated_insert && pipeline->target == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("pipeline \"%s\" has neither a target nor a transform", pipeline->name)));
	open_relations(&build);
	build_columns(&build);
	build_desc(mapping);

	mapping->payload = pipeline->payload ? add_name(&build, pipeline->payload) : -1;
	ss_names_build(&mapping->raw, build.names, true);
	ss_names_build(&mapping->members, build.names, false);

	relation_close(build.row_rel, NoLock);
	if (build.target != NULL)
		relation_close(build.target, NoLock);
	foreach(lc, build.watched)
		ss_watch_relation(mapping, lfirst_oid(lc));

	MemoryContextSwitchTo(old);
	MemoryContextSetParent(cxt, parent);
	return mapping;
}

void
ss_mapping_free(SsMapping *mapping)
{
	if (mapping != NULL)
		MemoryContextDelete(mapping->cxt);
}

bool
ss_mapping_is_valid(const SsMapping *mapping)
{
	return mapping->valid;
}

void
ss_mapping_watch(SsMapping *mapping, Oid relid)
{
	if (!list_member_oid(mapping->relations, relid))
		ss_watch_relation(mapping, relid);
}

TupleDesc
ss_mapping_desc(const SsMapping *mapping)
{
	return mapping->desc;
}

int
ss_mapping_ncolumns(const SsMapping *mapping)
{
	return mapping->ncolumns;
}

const SsMappingColumn *
ss_mapping_column(const SsMapping *mapping, int column)
{
	return &mapping->columns[column].pub;
}

Oid
ss_mapping_target(const SsMapping *mapping)
{
	return mapping->target;
}

void
ss_mapping_use_fields(SsMapping *mapping, bool used)
{
	mapping->use_fields = used;
}
