/*
 * ss_write.h
 *	  Typed rows into the user's tables: whole first, then the rows at fault
 *	  are isolated.
 */
#ifndef SS_WRITE_H
#define SS_WRITE_H

#include "ss_identity.h"
#include "ss_mapping.h"

typedef struct SsWriter SsWriter;

/*
 * Make a writer for a mapping, in a new child context of parent.  Plans are
 * made at first use and kept.  Needs a transaction.  pipeline and mapping must outlive it.
 */
extern SsWriter *ss_write_create(const SsPipeline *pipeline, SsMapping *mapping, MemoryContext parent);
extern void		 ss_write_free(SsWriter *writer); /* also frees the plans */

/* The statement that is run for rows with all columns, for pipelines.statement; palloc'd. */
extern char *ss_write_statement(SsWriter *writer);

/*
 * Before rows are made for it: if there is a transform, analyse it, so that the
 * mapping knows what it reads.  ERROR with the server's own message.  Does nothing the second time.
 */
extern void ss_write_prepare(SsWriter *writer);

/* Parse, plan and check privileges as the current user without running: ERROR with the server's own message. */
extern void ss_write_check(SsWriter *writer);

/*
 * Write rows in the current transaction, as the current user.  Sets every
 * row's entry to written, refused (with ss_batch_refuse), ignored or superseded and adds to batch->rows.
 * Data errors are isolated; machine and set-up errors are raised.  Leaves no
 * SPI connection open.  Rows refused with 23503 get one more try after the good ones.
 */
extern void ss_write_rows(SsWriter *writer, SsBatch *batch, SsRow *rows, int nrows);

/*
 * ss_identity_enter for a session that is going to write rows.  Deferred
 * constraints that the caller has violated himself are raised first, so that they are
 * not laid upon the rows.  For the rest of the transaction deferrable
 * constraints are deferred, or immediate in a security-restricted operation.
 */
extern void ss_write_enter(const SsPipeline *pipeline, SsIdentity *saved);

#endif /* SS_WRITE_H */
