/*
 * ss_bulkfit.c
 *	  Is the generated INSERT nothing but "all of batch into this one table"?
 *
 * NOTES
 *	  Whether it may is not guessed from catalogs.  The INSERT is planned as
 *	  ever, and only if the plan is a bare ModifyTable over a scan of batch does
 *	  its meaning equal ours: a rule, view, policy (row-level security) or an
 *	  extension that takes inserts over (hypertables) shows in it.  What does
 *	  not show are triggers, and partitions below: those are looked at.
 *
 *	  A volatile function may look into the table, or at what evaluating other
 *	  rows left behind: where one is called while a row is made or checked, or to decide
 *	  whether a trigger fires, the row before it must be through already, and
 *	  that is the statement's way.  COPY draws the same line.
 *
 *	  Extensions that watch privileges (ExecutorCheckPerms_hook) expect an
 *	  executor that was started before: with one of them it is the statement as well.
 */
#include "postgres.h"
#define SS_NEED_EXECUTOR
#include "ss_compat.h"

#include "catalog/pg_am.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "ss_bulkfit.h"

#define F_RANDOM_OID 1598 /* random(); its macro has another name from 17 on */

/* A scan of batch, perhaps with a projection on top; its target list in *tlist. */
static bool
reads_batch(const Plan *plan, List **tlist)
{
	*tlist = plan->targetlist;
	return IsA(plan, NamedTuplestoreScan) && plan->qual == NIL && plan->initPlan == NIL;
}

bool
ss_bulkfit_plan(const PlannedStmt *stmt, Oid target, List **tlist)
{
	const ModifyTable	*modify = (const ModifyTable *) stmt->planTree;
	const RangeTblEntry *rte;

	if (stmt->commandType != CMD_INSERT || !IsA(modify, ModifyTable) || stmt->hasModifyingCTE ||
		stmt->subplans != NIL || modify->plan.initPlan != NIL)
		return false;
	if (modify->operation != CMD_INSERT || list_length(modify->resultRelations) != 1 ||
		modify->withCheckOptionLists != NIL || modify->returningLists != NIL || modify->rowMarks != NIL ||
		modify->onConflictAction != ONCONFLICT_NONE || modify->rootRelation != 0)
		return false;
	rte = rt_fetch(linitial_int(modify->resultRelations), stmt->rtable);
	return rte->rtekind == RTE_RELATION && rte->relid == target && reads_batch(outerPlan(&modify->plan), tlist);
}

bool
ss_bulkfit_relation(Relation rel)
{
	const TriggerDesc *triggers = rel->trigdesc;
	TupleDesc		   desc = RelationGetDescr(rel);

	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relam != HEAP_TABLE_AM_OID ||
		rel->rd_rel->relhassubclass || RelationUsesLocalBuffers(rel))
		return false;
	/* its owner wants to see a statement's start before */
	if (ExecutorCheckPerms_hook != NULL)
		return false;
	if (triggers != NULL &&
		(triggers->trig_insert_before_row || triggers->trig_insert_instead_row ||
		 triggers->trig_insert_before_statement || triggers->trig_insert_after_statement ||
		 triggers->trig_insert_new_table))
		return false;
	return !ss_compat_has_virtual_columns(desc);
}

/* Volatile, and not known to care for nothing but its own call? */
static bool
may_look(Oid function, void *context)
{
	switch (function)
	{
		case F_NEXTVAL:
		case F_CLOCK_TIMESTAMP:
		case F_GEN_RANDOM_UUID:
		case F_RANDOM_OID:
			return false;
		default:
			return func_volatile(function) == PROVOLATILE_VOLATILE;
	}
}

static bool
looks_walker(Node *expr, void *context)
{
	if (expr == NULL)
		return false;
	/* a domain's own checks are not in the expression */
	if (IsA(expr, CoerceToDomain))
		return true;
	return check_functions_in_node(expr, may_look, context) ||
		   expression_tree_walker(expr, looks_walker, context);
}

bool
ss_bulkfit_looks(Node *expr)
{
	return looks_walker(expr, NULL);
}

/* Does a condition of an AFTER ROW trigger depend on when it is asked? */
static bool
trigger_looks(const Trigger *trigger)
{
	return TRIGGER_FOR_ROW(trigger->tgtype) && TRIGGER_FOR_AFTER(trigger->tgtype) &&
		   TRIGGER_FOR_INSERT(trigger->tgtype) && trigger->tgqual != NULL &&
		   contain_volatile_functions(stringToNode(trigger->tgqual));
}

bool
ss_bulkfit_rows(Relation rel)
{
	const TupleConstr *constr = RelationGetDescr(rel)->constr;
	const TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; constr != NULL && i < constr->num_check; i++)
	{
		if (ss_bulkfit_looks(stringToNode(constr->check[i].ccbin)))
			return false;
	}
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		if (trigger_looks(&triggers->triggers[i]))
			return false;
	}
	return true;
}
