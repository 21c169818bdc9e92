/*
 * ss_statement.c
 *	  The SQL that a pipeline without a transform runs over "batch".
 *
 * NOTES
 *	  The target is named anew from its OID whenever statements are made, so a
 *	  rename is followed.  Columns of batch and of the target have the same
 *	  names and types: no cast stands in the statement.  Whether a unique index
 *	  fits the key is left to the server, which checks it while planning.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/sysattr.h"
#include "catalog/pg_constraint.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

#include "ss_statement.h"

static char *
target_name(Oid target)
{
	char *relname = OidIsValid(target) ? get_rel_name(target) : NULL;
	char *nspname = relname ? get_namespace_name(get_rel_namespace(target)) : NULL;

	if (nspname == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the target table of the pipeline no longer exists")));
	return quote_qualified_identifier(nspname, relname);
}

/* The primary key's column names, in column order; NIL if there is none. */
static List *
primary_key_names(Oid target)
{
	Oid		   constraint;
	Bitmapset *attnums = get_primary_key_attnos(target, true, &constraint);
	List	  *names = NIL;
	int		   member = -1;

	while ((member = bms_next_member(attnums, member)) >= 0)
		names = lappend(names, get_attname(target, member + FirstLowInvalidHeapAttributeNumber, false));
	return names;
}

/* The names in a pipeline's key argument. */
static List *
split_key(const SsPipeline *pipeline, Oid target)
{
	List	 *names;
	ListCell *lc;

	if (!SplitIdentifierString(pstrdup(pipeline->key), ',', &names) || names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid key \"%s\" of pipeline \"%s\"", pipeline->key, pipeline->name),
				 errhint("The key is a list of column names, joined by commas.")));

	foreach(lc, names)
	{
		AttrNumber attnum = get_attnum(target, lfirst(lc));

		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of the key of pipeline \"%s\" does not exist in table \"%s\"",
							(char *) lfirst(lc), pipeline->name, get_rel_name(target))));
	}
	return names;
}

static bool
name_in_list(const char *name, const List *names)
{
	ListCell *lc;

	foreach(lc, names)
	{
		if (strcmp(name, lfirst(lc)) == 0)
			return true;
	}
	return false;
}

SsStatementShape *
ss_statement_shape(const SsPipeline *pipeline, const SsMapping *mapping)
{
	SsStatementShape *shape = palloc0(sizeof(SsStatementShape));
	Oid				  target = ss_mapping_target(mapping);
	int				  ncolumns = ss_mapping_ncolumns(mapping);
	int				  i;

	shape->target = target_name(target);

	if (pipeline->on_conflict != SS_CONFLICT_ERROR && pipeline->key != NULL)
		shape->key = split_key(pipeline, target);
	else if (pipeline->on_conflict == SS_CONFLICT_UPDATE)
	{
		shape->key = primary_key_names(target);
		if (shape->key == NIL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("table %s has no primary key, and pipeline \"%s\" updates on conflict",
							shape->target, pipeline->name),
					 errhint("Name the columns of a unique index in \"key\".")));
	}

	for (i = 0; i < ncolumns; i++)
	{
		const SsMappingColumn *column = ss_mapping_column(mapping, i);

		if (!column->insert)
			continue;
		shape->insert = bms_add_member(shape->insert, i);
		if (column->supplied)
			shape->supplied = bms_add_member(shape->supplied, i);
		if (name_in_list(column->name, shape->key))
			shape->key_columns = bms_add_member(shape->key_columns, i);
	}
	shape->key_in_batch = shape->key != NIL &&
						  bms_num_members(shape->key_columns) == list_length(shape->key);

	return shape;
}

/* Append the columns' names, joined by commas. */
static void
append_columns(StringInfo buf, const SsMapping *mapping, const Bitmapset *columns)
{
	const char *separator = "";
	int			i = -1;

	while ((i = bms_next_member(columns, i)) >= 0)
	{
		appendStringInfo(buf, "%s%s", separator, quote_identifier(ss_mapping_column(mapping, i)->name));
		separator = ", ";
	}
}

static void
append_key(StringInfo buf, const List *key)
{
	const char *separator = "";
	ListCell   *lc;

	foreach(lc, key)
	{
		appendStringInfo(buf, "%s%s", separator, quote_identifier(lfirst(lc)));
		separator = ", ";
	}
}

/* Append DO UPDATE SET for the columns, or DO NOTHING if none is left without the key's. */
static void
append_action(StringInfo buf, const SsMapping *mapping, const SsStatementShape *shape, const Bitmapset *set)
{
	Bitmapset  *updated = bms_difference(set, shape->key_columns);
	const char *separator = " DO UPDATE SET ";
	int			i = -1;

	if (bms_is_empty(updated))
		appendStringInfoString(buf, " DO NOTHING");

	while ((i = bms_next_member(updated, i)) >= 0)
	{
		const char *name = quote_identifier(ss_mapping_column(mapping, i)->name);

		appendStringInfo(buf, "%s%s = excluded.%s", separator, name, name);
		separator = ", ";
	}
}

char *
ss_statement_insert(const SsPipeline *pipeline, const SsMapping *mapping,
					const SsStatementShape *shape, const Bitmapset *set)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "INSERT INTO %s", shape->target);
	if (!bms_is_empty(shape->insert))
	{
		appendStringInfoString(&buf, " (");
		append_columns(&buf, mapping, shape->insert);
		appendStringInfoChar(&buf, ')');
	}
	appendStringInfoString(&buf, " SELECT ");
	append_columns(&buf, mapping, shape->insert);
	appendStringInfo(&buf, " FROM %s", SS_BATCH_RELATION);

	if (pipeline->on_conflict != SS_CONFLICT_ERROR)
	{
		appendStringInfoString(&buf, " ON CONFLICT");
		if (shape->key != NIL)
		{
			appendStringInfoString(&buf, " (");
			append_key(&buf, shape->key);
			appendStringInfoChar(&buf, ')');
		}
		if (pipeline->on_conflict == SS_CONFLICT_UPDATE)
			append_action(&buf, mapping, shape, set);
		else
			appendStringInfoString(&buf, " DO NOTHING");
	}
	return buf.data;
}

char *
ss_statement_superseded(const SsMapping *mapping, const SsStatementShape *shape)
{
	StringInfoData inner;
	StringInfoData partition;
	StringInfoData not_null;
	int			   n = 0;
	int			   i = -1;

	Assert(shape->key_in_batch);
	initStringInfo(&inner);
	initStringInfo(&partition);
	initStringInfo(&not_null);

	/* columns get names of our own, so that none can clash with p and r */
	while ((i = bms_next_member(shape->key_columns, i)) >= 0)
	{
		n++;
		appendStringInfo(&inner, ", %s AS k%d", quote_identifier(ss_mapping_column(mapping, i)->name), n);
		appendStringInfo(&partition, "%sk%d", n > 1 ? ", " : "", n);
		appendStringInfo(&not_null, "%sk%d IS NOT NULL", n > 1 ? " AND " : "", n);
	}

	/* the scan of batch is in order, so a row's number in it is its position */
	return psprintf("SELECT p FROM ("
					"SELECT p, pg_catalog.row_number() OVER (PARTITION BY %s ORDER BY p DESC) AS r FROM ("
					"SELECT pg_catalog.row_number() OVER () AS p%s FROM %s) s "
					"WHERE %s) t WHERE r OPERATOR(pg_catalog.>) 1",
					partition.data, inner.data, SS_BATCH_RELATION, not_null.data);
}
