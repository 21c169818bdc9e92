/*
 * ss_stepscan.c
 *	  What an analysed statement of a transform reads, writes and calls.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "ss_stepscan.h"
#include "ss_target.h"
#include "ss_transform.h"

static bool walk(Node *node, void *context);

/* Does a Var read _fields of batch?  A whole row does, and what a join merges may. */
static bool
reads_fields(const SsStepScan *scan, const Var *var)
{
	const List	  *rtable;
	RangeTblEntry *rte;

	if (scan->fields == 0 || IS_SPECIAL_VARNO(var->varno) || var->varlevelsup >= list_length(scan->rtables))
		return false;
	rtable = list_nth(scan->rtables, var->varlevelsup);
	rte = rt_fetch(var->varno, rtable);
	if (rte->rtekind == RTE_JOIN)
		return var->varattno == 0 || strcmp(get_rte_attribute_name(rte, var->varattno), "_fields") == 0;
	return rte->rtekind == RTE_NAMEDTUPLESTORE && strcmp(rte->enrname, SS_BATCH_RELATION) == 0 &&
		   (var->varattno == 0 || var->varattno == scan->fields);
}

/*
 * May a function do what the statement's transaction id does not tell of?  Of
 * the server's own only pg_notify; refuse() and ignore() do not count.
 */
static bool
has_effects(Oid function, void *context)
{
	Oid ours = get_namespace_oid("streamsink", true);

	if (func_volatile(function) != PROVOLATILE_VOLATILE)
		return false;
	if (function < FirstNormalObjectId)
		return function == F_PG_NOTIFY;
	if (OidIsValid(ours) && get_func_namespace(function) == ours)
	{
		char *name = get_func_name(function);

		return name == NULL || (strcmp(name, "refuse") != 0 && strcmp(name, "ignore") != 0);
	}
	return true;
}

static void
check_written(const SsStepScan *scan, const Query *query)
{
	const RangeTblEntry *rte;
	List				*watched = NIL;
	ListCell			*lc;

	if (query->resultRelation == 0)
		return;
	rte = rt_fetch(query->resultRelation, query->rtable);
	if (rte->rtekind != RTE_RELATION)
		return;
	ss_target_check_written(scan->pipeline, rte->relid, &watched);
	foreach(lc, watched)
		ss_mapping_watch(scan->mapping, lfirst_oid(lc));
}

static bool
walk_query(Query *query, SsStepScan *scan)
{
	scan->rtables = lcons(query->rtable, scan->rtables);
	check_written(scan, query);
	if (query->utilityStmt != NULL && IsA(query->utilityStmt, CallStmt))
	{
		CallStmt *call = (CallStmt *) query->utilityStmt;

		scan->procedure = call->funcexpr->funcid;
		scan->effects = true;
	}
	else if (query->utilityStmt != NULL && IsA(query->utilityStmt, NotifyStmt))
		scan->effects = true;
	(void) query_tree_walker(query, walk, scan, QTW_IGNORE_JOINALIASES);
	scan->rtables = list_delete_first(scan->rtables);
	return false;
}

static bool
walk(Node *node, void *context)
{
	SsStepScan *scan = context;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return walk_query((Query *) node, scan);
	if (IsA(node, Var))
		scan->use_fields |= reads_fields(scan, (Var *) node);
	else
		scan->effects |= check_functions_in_node(node, has_effects, NULL);
	return expression_tree_walker(node, walk, context);
}

void
ss_stepscan_run(SsStepScan *scan, List *queries)
{
	int		  ncolumns = ss_mapping_ncolumns(scan->mapping);
	ListCell *lc;

	for (int i = 0; i < ncolumns; i++)
	{
		const SsMappingColumn *column = ss_mapping_column(scan->mapping, i);

		if (column->is_meta && strcmp(column->name, "_fields") == 0)
			scan->fields = i + 1;
	}
	foreach(lc, queries)
		(void) walk_query(lfirst_node(Query, lc), scan);
}
