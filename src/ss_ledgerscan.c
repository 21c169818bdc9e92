/*
 * ss_ledgerscan.c
 *	  Index scans over streamsink.ledger and streamsink.ledger_log.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/index.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "ss_catalog.h"
#include "ss_ledgerrow.h"
#include "ss_ledgerscan.h"

/* The index of a table of ours by its name. */
static Oid
find_index(Relation rel, const char *name)
{
	Oid index = get_relname_relid(name, RelationGetNamespace(rel));

	if (!OidIsValid(index) || IndexGetRelation(index, true) != RelationGetRelid(rel))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("index \"%s\" of extension \"%s\" is missing", name, "streamsink"),
				 errhint("Create it again on table \"%s\" as the extension's script does.",
						 RelationGetRelationName(rel))));
	return index;
}

static SsLedgerTable
open_table(const char *name, const char *index, int column, LOCKMODE mode)
{
	SsLedgerTable table;

	table.rel = table_open(ss_catalog_relation(name, false), mode);
	table.index = index_open(find_index(table.rel, index), AccessShareLock);
	table.column = column;
	return table;
}

SsLedgerTable
ss_ledgerscan_open_streams(LOCKMODE mode)
{
	return open_table("ledger", "ledger_pkey", SS_LEDGER_stream, mode);
}

SsLedgerTable
ss_ledgerscan_open_pipelines(LOCKMODE mode)
{
	return open_table("ledger", "ledger_pipeline_idx", SS_LEDGER_pipeline, mode);
}

SsLedgerTable
ss_ledgerscan_open_log(LOCKMODE mode)
{
	return open_table("ledger_log", "ledger_log_idx", SS_LEDGER_LOG_pipeline, mode);
}

void
ss_ledgerscan_close(const SsLedgerTable *table)
{
	index_close(table->index, NoLock);
	table_close(table->rel, NoLock);
}

void
ss_ledgerscan_visit(const SsLedgerTable *table, int32 value, ScanDirection direction,
					Snapshot snapshot, SsLedgerVisitor visit, void *arg)
{
	MemoryContext row_cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink ledger row", ALLOCSET_DEFAULT_SIZES);
	bool		  more = true;
	ScanKeyData	  key;
	SysScanDesc	  scan;
	HeapTuple	  tuple;

	ScanKeyInit(&key, table->column, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(value));
	scan = systable_beginscan_ordered(table->rel, table->index, snapshot, 1, &key);
	while (more && HeapTupleIsValid(tuple = systable_getnext_ordered(scan, direction)))
	{
		MemoryContext saved;

		CHECK_FOR_INTERRUPTS();
		saved = MemoryContextSwitchTo(row_cxt);
		more = visit(tuple, RelationGetDescr(table->rel), arg);
		MemoryContextSwitchTo(saved);
		MemoryContextReset(row_cxt);
	}
	systable_endscan_ordered(scan);
	MemoryContextDelete(row_cxt);
}
