/*
 * ss_default.c
 *	  Columns' defaults for fields that an entry does not have, as COPY
 *	  evaluates them.
 *
 * NOTES
 *	  Expressions are planned at first use, not when a mapping is built:
 *	  planning folds immutable functions, so it may run the owner's code, which
 *	  only the conversion of rows may do.  The plan stays with the mapping;
 *	  executable states live for one call and are thrown away after an error.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "ss_rows.h"

static void
plan_default(SsMapping *mapping, SsColumn *column)
{
	SsDefault	 *dflt = &column->dflt;
	Expr		 *planned = expression_planner((Expr *) copyObject(dflt->raw));
	MemoryContext old = MemoryContextSwitchTo(mapping->cxt);

	dflt->planned = copyObject(planned);
	if (IsA(dflt->planned, Const))
	{
		Const *constant = (Const *) dflt->planned;

		dflt->kind = SS_DEFAULT_CONST;
		dflt->value = constant->constvalue;
		dflt->isnull = constant->constisnull;
		dflt->evaluated = true;
	}
	else if (contain_volatile_functions((Node *) dflt->planned))
		dflt->kind = SS_DEFAULT_VOLATILE;
	else
		dflt->kind = SS_DEFAULT_STABLE;
	MemoryContextSwitchTo(old);
}

void
ss_default_begin(SsMapping *mapping)
{
	for (int i = 0; i < mapping->ncolumns; i++)
	{
		SsDefault *dflt = &mapping->columns[i].dflt;

		dflt->state = NULL;
		if (dflt->kind == SS_DEFAULT_STABLE)
			dflt->evaluated = false;
	}
}

Datum
ss_default_value(SsMapping *mapping, SsColumn *column, SsDefaults *defaults, bool *isnull)
{
	SsDefault *dflt = &column->dflt;
	Datum	   value;

	if (dflt->kind == SS_DEFAULT_UNPLANNED)
		plan_default(mapping, column);
	if (dflt->evaluated)
	{
		*isnull = dflt->isnull;
		return dflt->value;
	}

	if (defaults->cxt == NULL)
		defaults->cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink defaults", ALLOCSET_SMALL_SIZES);
	if (defaults->econtext == NULL || dflt->state == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(defaults->cxt);

		if (defaults->econtext == NULL)
			defaults->econtext = CreateStandaloneExprContext();
		if (dflt->state == NULL)
			dflt->state = ExecInitExpr(dflt->planned, NULL);
		MemoryContextSwitchTo(old);
	}

	value = ExecEvalExprSwitchContext(dflt->state, defaults->econtext, isnull);
	if (!*isnull && !column->byval)
		value = datumCopy(value, false, column->typlen);
	ResetExprContext(defaults->econtext);

	if (dflt->kind == SS_DEFAULT_VOLATILE && mapping->has_functions)
		defaults->effects = true;
	if (dflt->kind == SS_DEFAULT_STABLE)
	{
		dflt->value = value;
		dflt->isnull = *isnull;
		dflt->evaluated = true;
	}
	return value;
}

void
ss_default_release(SsMapping *mapping, SsDefaults *defaults, bool failed)
{
	for (int i = 0; i < mapping->ncolumns; i++)
		mapping->columns[i].dflt.state = NULL;
	if (defaults->econtext != NULL)
		FreeExprContext(defaults->econtext, !failed);
	if (defaults->cxt != NULL)
		MemoryContextDelete(defaults->cxt);
	defaults->econtext = NULL;
	defaults->cxt = NULL;
	defaults->effects = false;
}
