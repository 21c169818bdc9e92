/*
 * ss_bulk.c
 *	  Rows straight into a plain table by the table access method's
 *	  multi-insert, where that is all that the generated INSERT would do (ss_bulkfit.c).
 *
 * NOTES
 *	  What it saves over executing the statement: a tuplestore, a second
 *	  forming of each tuple, one WAL record and one buffer lock for each row.
 *
 *	  Columns that batch has no value for are filled by the expressions that
 *	  stand in the plan's target list.
 *
 *	  Tuples are handed over in chunks.  An index entry that fails names its
 *	  row; so does a constraint, before anything is inserted.
 */
#include "postgres.h"
#define SS_NEED_EXECUTOR
#include "ss_compat.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "executor/nodeModifyTable.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ss_bulk.h"
#include "ss_bulkfit.h"

#define CHUNK_ROWS	1000
#define CHUNK_BYTES (1024 * 1024) /* of by-reference values */
#define PAUSE_ROWS	128			  /* between two moments for the connection */

#ifdef STREAMSINK_TEST
uint64 ss_bulk_rows = 0;
uint64 ss_bulk_tries = 0;
bool   ss_bulk_allowed = true;
#endif

/* What one attribute of the target is filled from. */
typedef struct Fill
{
	int	  column; /* of batch, or -1 */
	Expr *expr;	  /* planned; NULL with column -1: NULL */
	bool  byval;
	int16 typlen;
} Fill;

struct SsBulk
{
	MemoryContext	 cxt;
	MemoryContext	 kept;	/* fills and slots; remade with the plan */
	MemoryContext	 chunk; /* tuples of one chunk */
	const SsMapping *mapping;

	uint64			 plan_number; /* of the plan that was looked at last; 0: none */
	bool			 fits;		  /* it does, and the fills are made for it */
	Fill			*fills;
	int				 natts;
	TupleDesc		 desc;
	TupleTableSlot **slots;
	int				 nslots;
};

/* One call of ss_bulk_insert. */
typedef struct Insert
{
	SsBulk		  *bulk;
	const SsBatch *batch;
	EState		  *estate;
	ResultRelInfo *target;
	ExprState	 **exprs; /* of each attribute, or NULL */
	CommandId	   command;
	int			  *row;	   /* at work, or -1 */
	int			   filled; /* slots of this chunk */
	Size		   bytes;
} Insert;

SsBulk *
ss_bulk_create(const SsMapping *mapping, MemoryContext cxt)
{
	SsBulk *bulk = MemoryContextAllocZero(cxt, sizeof(SsBulk));

	bulk->cxt = cxt;
	bulk->mapping = mapping;
	/* the first block stays over resets: chunks need the same memory again and again */
	bulk->chunk = AllocSetContextCreate(cxt, "streamsink bulk chunk", 256 * 1024, 256 * 1024, ALLOCSET_DEFAULT_MAXSIZE);
	return bulk;
}

/* ---- may we? ---- */

/* The batch column that an expression is, or -1. */
static int
batch_column(const SsBulk *bulk, const Expr *expr)
{
	const Var *var = (const Var *) expr;

	if (!IsA(expr, Var) || var->varlevelsup != 0 || var->varattno <= 0 ||
		var->varattno > ss_mapping_ncolumns(bulk->mapping))
		return -1;
	return var->varattno - 1;
}

/* Turn the plan's target list into fills; false if it holds what we cannot evaluate alone. */
static bool
build_fills(SsBulk *bulk, Relation rel, List *tlist)
{
	TupleDesc desc = RelationGetDescr(rel);
	ListCell *lc;

	bulk->natts = desc->natts;
	bulk->fills = palloc0_array(Fill, desc->natts);
	if (list_length(tlist) != desc->natts)
		return false;
	foreach(lc, tlist)
	{
		TargetEntry		 *entry = lfirst_node(TargetEntry, lc);
		Form_pg_attribute att;
		Fill			 *fill;

		if (entry->resjunk || entry->resno < 1 || entry->resno > desc->natts)
			return false;
		att = TupleDescAttr(desc, entry->resno - 1);
		fill = &bulk->fills[entry->resno - 1];
		fill->byval = att->attbyval;
		fill->typlen = att->attlen;
		fill->column = batch_column(bulk, entry->expr);
		if (fill->column >= 0)
		{
			if (exprType((Node *) entry->expr) != att->atttypid)
				return false;
			continue;
		}
		if (IsA(entry->expr, Const) && ((Const *) entry->expr)->constisnull)
			continue; /* dropped, generated, or without a default */
		if (contain_var_clause((Node *) entry->expr) || contain_subplans((Node *) entry->expr) ||
			ss_bulkfit_looks((Node *) entry->expr))
			return false;
		fill->expr = copyObject(entry->expr);
	}
	return true;
}

/* Fills and slots for this relation as it is now. */
static bool
build_kept(SsBulk *bulk, Relation rel, List *tlist)
{
	MemoryContext saved;
	bool		  fits;

	if (bulk->kept != NULL)
		MemoryContextDelete(bulk->kept);
	bulk->kept = NULL; /* making another one may fail */
	bulk->kept = AllocSetContextCreate(bulk->cxt, "streamsink bulk", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(bulk->kept);
	fits = build_fills(bulk, rel, tlist) && ss_bulkfit_rows(rel);
	bulk->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	bulk->slots = palloc0_array(TupleTableSlot *, CHUNK_ROWS);
	bulk->nslots = 0;
	MemoryContextSwitchTo(saved);
	return fits;
}

bool
ss_bulk_fits(SsBulk *bulk, const CachedPlan *plan)
{
	Oid		 target = ss_mapping_target(bulk->mapping);
	List	*tlist;
	Relation rel;
	bool	 fits;

#ifdef STREAMSINK_TEST
	if (!ss_bulk_allowed)
		return false;
#endif
	fits = list_length(plan->stmt_list) == 1 &&
		   ss_bulkfit_plan(linitial_node(PlannedStmt, plan->stmt_list), target, &tlist);
	if (fits)
	{
		rel = table_open(target, NoLock);
		fits = ss_bulkfit_relation(rel);
		if (fits && bulk->plan_number != (uint64) plan->generation + 1)
		{
			bulk->plan_number = 0;
			bulk->fits = build_kept(bulk, rel, tlist);
			bulk->plan_number = (uint64) plan->generation + 1;
		}
		fits = fits && bulk->fits;
		table_close(rel, NoLock);
	}
	return fits;
}

/* ---- inserting ---- */

static TupleTableSlot *
next_slot(Insert *insert)
{
	SsBulk		 *bulk = insert->bulk;
	MemoryContext saved;

	if (insert->filled == bulk->nslots)
	{
		saved = MemoryContextSwitchTo(bulk->kept);
		bulk->slots[bulk->nslots++] = MakeSingleTupleTableSlot(bulk->desc, &TTSOpsHeapTuple);
		MemoryContextSwitchTo(saved);
	}
	return ExecClearTuple(bulk->slots[insert->filled]);
}

/* A row's values into a slot; those of expressions are copied into the chunk's memory. */
static void
fill_slot(Insert *insert, TupleTableSlot *slot, const SsRow *row)
{
	SsBulk		*bulk = insert->bulk;
	ExprContext *econtext = GetPerTupleExprContext(insert->estate);

	for (int i = 0; i < bulk->natts; i++)
	{
		const Fill *fill = &bulk->fills[i];

		if (fill->column >= 0)
		{
			slot->tts_values[i] = row->values[fill->column];
			slot->tts_isnull[i] = row->isnull[fill->column];
		}
		else if (fill->expr != NULL)
		{
			slot->tts_values[i] = ExecEvalExprSwitchContext(insert->exprs[i], econtext, &slot->tts_isnull[i]);
			if (!slot->tts_isnull[i] && !fill->byval)
				slot->tts_values[i] = datumCopy(slot->tts_values[i], false, fill->typlen);
		}
		else
		{
			slot->tts_values[i] = (Datum) 0;
			slot->tts_isnull[i] = true;
		}
		if (!slot->tts_isnull[i] && fill->typlen == -1)
			insert->bytes += VARSIZE_ANY(DatumGetPointer(slot->tts_values[i]));
	}
	ExecStoreVirtualTuple(slot);
}

/* Generated columns and what the table demands of a row by itself. */
static void
complete_row(Insert *insert, TupleTableSlot *slot)
{
	Relation	 rel = insert->target->ri_RelationDesc;
	TupleConstr *constr = rel->rd_att->constr;

	slot->tts_tableOid = RelationGetRelid(rel);
	if (constr != NULL && constr->has_generated_stored)
	{
		ExecComputeStoredGenerated(insert->target, insert->estate, slot, CMD_INSERT);
		insert->bytes += ExecFetchSlotHeapTuple(slot, false, NULL)->t_len; /* it has a copy of its own now */
	}
	if (constr != NULL)
		ExecConstraints(insert->target, slot, insert->estate);
	if (rel->rd_rel->relispartition)
		ExecPartitionCheck(insert->target, slot, insert->estate, true);
}

/* Index entries and triggers of one row that is in the table. */
static void
finish_row(Insert *insert, TupleTableSlot *slot)
{
	ResultRelInfo *target = insert->target;
	List		  *recheck = NIL;

	if (target->ri_NumIndices > 0)
		recheck = ss_compat_insert_index_tuples(target, slot, insert->estate);
	if (target->ri_TrigDesc != NULL && target->ri_TrigDesc->trig_insert_after_row)
		ExecARInsertTriggers(insert->estate, target, slot, recheck, NULL);
	list_free(recheck);
}

/* The chunk into the table; first is the number of its first row. */
static void
flush_chunk(Insert *insert, int first)
{
	SsBulk *bulk = insert->bulk;

	if (insert->filled == 0)
		return;
	*insert->row = insert->filled == 1 ? first : -1;
	table_multi_insert(insert->target->ri_RelationDesc, bulk->slots, insert->filled, insert->command, 0, NULL);

	for (int i = 0; i < insert->filled; i++)
	{
		if (i % PAUSE_ROWS == 0)
			ss_batch_pause(insert->batch);
		*insert->row = first + i;
		ResetPerTupleExprContext(insert->estate);
		finish_row(insert, bulk->slots[i]);
		ExecClearTuple(bulk->slots[i]);
	}
	*insert->row = -1;
	insert->filled = 0;
	insert->bytes = 0;
	MemoryContextReset(bulk->chunk);
}

static void
insert_rows(Insert *insert, SsRow *rows, int nrows)
{
	MemoryContext saved = MemoryContextSwitchTo(insert->bulk->chunk);

	for (int i = 0; i < nrows; i++)
	{
		TupleTableSlot *slot = next_slot(insert);

		CHECK_FOR_INTERRUPTS();
		*insert->row = i;
		ResetPerTupleExprContext(insert->estate);
		fill_slot(insert, slot, &rows[i]);
		complete_row(insert, slot);
		insert->filled++;
		if (insert->filled == CHUNK_ROWS || insert->bytes >= CHUNK_BYTES)
			flush_chunk(insert, i + 1 - insert->filled);
	}
	flush_chunk(insert, nrows - insert->filled);
	MemoryContextSwitchTo(saved);
}

/* The attributes that the statement names, as privileges count them. */
static Bitmapset *
inserted_columns(const SsBulk *bulk)
{
	Bitmapset *columns = NULL;

	for (int i = 0; i < bulk->natts; i++)
	{
		if (bulk->fills[i].column >= 0)
			columns = bms_add_member(columns, i + 1 - FirstLowInvalidHeapAttributeNumber);
	}
	return columns;
}

static void
begin_insert(Insert *insert, MemoryContext cxt)
{
	SsBulk	*bulk = insert->bulk;
	EState	*estate = CreateExecutorState();
	Relation rel;

	insert->estate = estate;
	MemoryContextSwitchTo(estate->es_query_cxt);
	ss_compat_init_insert(estate, ss_mapping_target(bulk->mapping), inserted_columns(bulk));
	estate->es_output_cid = insert->command;
	estate->es_snapshot = RegisterSnapshot(GetActiveSnapshot());
	insert->target = makeNode(ResultRelInfo);
	ExecInitResultRelation(estate, insert->target, 1);
	rel = insert->target->ri_RelationDesc;
	if (RelationGetDescr(rel)->natts != bulk->natts)
		elog(ERROR, "table \"%s\" has changed while it was locked", RelationGetRelationName(rel));
	ExecOpenIndices(insert->target, false);

	insert->exprs = palloc0_array(ExprState *, bulk->natts);
	for (int i = 0; i < bulk->natts; i++)
	{
		if (bulk->fills[i].expr != NULL)
			insert->exprs[i] = ExecInitExpr(bulk->fills[i].expr, NULL);
	}
	MemoryContextSwitchTo(cxt);
}

void
ss_bulk_insert(SsBulk *bulk, const SsBatch *batch, SsRow *rows, int nrows, int *row)
{
	Insert insert = {0};

	Assert(bulk->plan_number != 0 && bulk->fits);
#ifdef STREAMSINK_TEST
	ss_bulk_tries++;
#endif
	PreventCommandIfReadOnly("INSERT");
	CommandCounterIncrement();
	UpdateActiveSnapshotCommandId();

	/* what a failed call may have left */
	MemoryContextReset(bulk->chunk);
	insert.bulk = bulk;
	insert.batch = batch;
	insert.row = row;
	insert.command = GetCurrentCommandId(true);
	*row = -1;

	begin_insert(&insert, CurrentMemoryContext);
	AfterTriggerBeginQuery();
	insert_rows(&insert, rows, nrows);
	AfterTriggerEndQuery(insert.estate);

	ExecResetTupleTable(insert.estate->es_tupleTable, false);
	ExecCloseResultRelations(insert.estate);
	ExecCloseRangeTableRelations(insert.estate);
	UnregisterSnapshot(insert.estate->es_snapshot);
	FreeExecutorState(insert.estate);
	CommandCounterIncrement();
#ifdef STREAMSINK_TEST
	ss_bulk_rows += nrows;
#endif
}
