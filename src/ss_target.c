/*
 * ss_target.c
 *	  The relation that rows go into: found by name, checked, and what a
 *	  generated INSERT must know of its columns.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/relation.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_relation.h"
#include "parser/parse_type.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "ss_target.h"

static List *
split_name(const char *name)
{
	return textToQualifiedNameList(cstring_to_text(name));
}

Oid
ss_target_resolve(const SsPipeline *pipeline)
{
	RangeVar *name = makeRangeVarFromNameList(split_name(pipeline->target));
	Oid		  relid = RangeVarGetRelid(name, AccessShareLock, true);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("target %s of pipeline \"%s\" does not exist", pipeline->target, pipeline->name),
				 errhint("Create the table, or change the pipeline's \"target\" with streamsink.alter_pipeline().")));
	return relid;
}

Oid
ss_target_row_type(const SsPipeline *pipeline, Oid *type)
{
	TypeName *name = makeTypeNameFromNameList(split_name(pipeline->row_type));
	Oid		  relid;

	*type = LookupTypeNameOid(NULL, name, true);
	if (!OidIsValid(*type))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("row type %s of pipeline \"%s\" does not exist", pipeline->row_type, pipeline->name),
				 errhint("Create the composite type or table, or change the pipeline's \"row_type\" with streamsink.alter_pipeline().")));

	relid = get_typ_typrelid(*type);
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("row type %s of pipeline \"%s\" is not a composite type", pipeline->row_type, pipeline->name),
				 errhint("Name a composite type or a table.")));
	LockRelationOid(relid, AccessShareLock);
	return relid;
}

/* ---- views ---- */

/* Does a view do something of its own with inserted rows?  One rule is what makes it a view. */
static bool
takes_rows_itself(Relation view)
{
	return (view->trigdesc && view->trigdesc->trig_insert_instead_row) ||
		   (view->rd_rules && view->rd_rules->numLocks > 1);
}

/*
 * The range table entry that an INSERT into a view goes to, with its query;
 * NULL if triggers or rules take the rows, or nothing can.
 */
static RangeTblEntry *
view_base(Relation view, Query **query)
{
	RangeTblRef *ref;

	if (takes_rows_itself(view))
		return NULL;

	*query = get_view_query(view);
	if (view_query_is_auto_updatable(*query, false) != NULL)
		return NULL;
	ref = linitial_node(RangeTblRef, (*query)->jointree->fromlist);
	return rt_fetch(ref->rtindex, (*query)->rtable);
}

/* ---- checks ---- */

static void fail_not_insertable(Relation target) pg_attribute_noreturn();

static void
fail_not_insertable(Relation target)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("target \"%s\" is not a table or view that rows can be inserted into",
					RelationGetRelationName(target)),
			 target->rd_rel->relkind == RELKIND_VIEW ?
				 errhint("Give the view an INSTEAD OF INSERT trigger.") :
				 0));
}

static void
check_exact(const SsPipeline *pipeline, Relation target, const char *name, char relkind, char persistence)
{
	const char *kind;

	if (pipeline->allow_inexact)
		return;
	if (relkind == RELKIND_FOREIGN_TABLE)
		kind = "foreign";
	else if (persistence == RELPERSISTENCE_TEMP)
		kind = "temporary";
	else if (persistence == RELPERSISTENCE_UNLOGGED && relkind != RELKIND_PARTITIONED_TABLE)
		kind = "unlogged";
	else
		return;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("target \"%s\" cannot be written exactly once: \"%s\" is %s",
					RelationGetRelationName(target), name, kind),
			 errdetail("Its rows and the record of what was written would not live and die together."),
			 errhint("Set allow_inexact to write there nevertheless.")));
}

static void
check_partitions(const SsPipeline *pipeline, Relation target, Oid relid, List **watched)
{
	List	 *partitions = find_all_inheritors(relid, NoLock, NULL);
	ListCell *lc;

	foreach(lc, partitions)
	{
		Oid			  partition = lfirst_oid(lc);
		HeapTuple	  tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(partition));
		Form_pg_class form;

		if (!HeapTupleIsValid(tuple))
			continue; /* just dropped */
		form = (Form_pg_class) GETSTRUCT(tuple);
		*watched = lappend_oid(*watched, partition);
		check_exact(pipeline, target, NameStr(form->relname), form->relkind, form->relpersistence);
		ReleaseSysCache(tuple);
	}
}

/* rel: the target, or the relation behind a view. */
static void
check_relation(const SsPipeline *pipeline, Relation target, Relation rel, List **watched)
{
	check_stack_depth();
	*watched = lappend_oid(*watched, RelationGetRelid(rel));
	check_exact(pipeline, target, RelationGetRelationName(rel),
				rel->rd_rel->relkind, rel->rd_rel->relpersistence);

	switch (rel->rd_rel->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_FOREIGN_TABLE:
			break;
		case RELKIND_PARTITIONED_TABLE:
			if (!pipeline->allow_inexact)
				check_partitions(pipeline, target, RelationGetRelid(rel), watched);
			break;
		case RELKIND_VIEW:
		{
			Query		  *query;
			RangeTblEntry *base = view_base(rel, &query);

			if (base == NULL && !takes_rows_itself(rel))
				fail_not_insertable(target);
			if (base != NULL)
			{
				Relation below = relation_open(base->relid, AccessShareLock);

				check_relation(pipeline, target, below, watched);
				relation_close(below, NoLock);
			}
		}
		break;
		default:
			fail_not_insertable(target);
	}
}

/* What the server or the extension lives on is not for entries to fill, whoever owns the pipeline. */
static void
check_not_ours(Relation target)
{
	Oid extension = getExtensionOfObject(RelationRelationId, RelationGetRelid(target));

	if (!IsSystemRelation(target) &&
		(!OidIsValid(extension) || extension != get_extension_oid("streamsink", true)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" cannot be the target of a pipeline", RelationGetRelationName(target)),
			 errdetail("It belongs to %s.", IsSystemRelation(target) ? "the system catalogs" : "the extension itself"),
			 errhint("Name a table of your own.")));
}

void
ss_target_check(const SsPipeline *pipeline, Relation target, List **watched)
{
	check_not_ours(target);
	check_relation(pipeline, target, target, watched);
}

void
ss_target_check_written(const SsPipeline *pipeline, Oid relid, List **watched)
{
	Relation rel = relation_open(relid, AccessShareLock);

	*watched = lappend_oid(*watched, relid);
	check_not_ours(rel);
	check_exact(pipeline, rel, RelationGetRelationName(rel), rel->rd_rel->relkind, rel->rd_rel->relpersistence);
	if (rel->rd_rel->relhassubclass && !pipeline->allow_inexact)
		check_partitions(pipeline, rel, relid, watched);
	relation_close(rel, NoLock);
}

/* ---- columns ---- */

void
ss_target_column(Relation target, AttrNumber attnum, SsTargetColumn *column, List **watched)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target), attnum - 1);
	Query			 *query;
	RangeTblEntry	 *base;
	TargetEntry		 *entry;
	Var				 *var;
	Relation		  below;
	SsTargetColumn	  under;

	check_stack_depth();
	memset(column, 0, sizeof(SsTargetColumn));
	column->generated = att->attgenerated != '\0' || att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
	column->insertable = !column->generated;
	column->notnull = att->attnotnull;
	if (column->insertable)
		column->default_expr = build_column_default(target, attnum);

	if (target->rd_rel->relkind != RELKIND_VIEW)
		return;
	base = view_base(target, &query);
	if (base == NULL)
		return;

	entry = get_tle_by_resno(query->targetList, attnum);
	if (entry == NULL || entry->resjunk || !IsA(entry->expr, Var) ||
		((Var *) entry->expr)->varattno <= 0)
	{
		column->insertable = false;
		return;
	}
	var = (Var *) entry->expr;

	below = relation_open(base->relid, AccessShareLock);
	*watched = lappend_oid(*watched, base->relid);
	ss_target_column(below, var->varattno, &under, watched);
	relation_close(below, NoLock);

	column->insertable = under.insertable;
	column->generated = under.generated;
	column->notnull = under.notnull;
	if (column->default_expr == NULL)
		column->default_expr = under.default_expr;
}
