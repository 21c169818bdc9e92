/*
 * ss_ledgerscan.h
 *	  Index scans over streamsink.ledger and streamsink.ledger_log, for the
 *	  files of the ledger only.
 */
#ifndef SS_LEDGERSCAN_H
#define SS_LEDGERSCAN_H

#include "access/htup.h"
#include "access/sdir.h"
#include "access/tupdesc.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

/* Called for each row, in a context that lives until the next one; false ends the scan. */
typedef bool (*SsLedgerVisitor)(HeapTuple tuple, TupleDesc desc, void *arg);

/* A table of the ledger with one of its indexes. */
typedef struct SsLedgerTable
{
	Relation rel;
	Relation index;
	int		 column; /* first of the index, an integer */
} SsLedgerTable;

/* Open streamsink.ledger by stream or by pipeline, or the log by pipeline.  The lock is held until the transaction ends. */
extern SsLedgerTable ss_ledgerscan_open_streams(LOCKMODE mode);
extern SsLedgerTable ss_ledgerscan_open_pipelines(LOCKMODE mode);
extern SsLedgerTable ss_ledgerscan_open_log(LOCKMODE mode);
extern void			 ss_ledgerscan_close(const SsLedgerTable *table);

/*
 * Show the rows of a stream or pipeline in the index's order (segments of a
 * stream by number, the log by age), or backward.
 */
extern void ss_ledgerscan_visit(const SsLedgerTable *table, int32 value, ScanDirection direction,
								Snapshot snapshot, SsLedgerVisitor visit, void *arg);

#endif /* SS_LEDGERSCAN_H */
