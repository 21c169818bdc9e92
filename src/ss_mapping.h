/*
 * ss_mapping.h
 *	  Fields to columns: the row type of "batch", and typed values out of an
 *	  entry's fields by the types' own input functions.
 *
 * NOTES
 *	  A mapping lives in a memory context of its own and is rebuilt when one of
 *	  the relations or types behind it changes (invalidation callbacks).
 */
#ifndef SS_MAPPING_H
#define SS_MAPPING_H

#include "access/tupdesc.h"
#include "nodes/bitmapset.h"
#include "ss_batch.h"
#include "ss_catalog.h"

typedef struct SsMapping SsMapping;

/* What a column is filled from, for describe(). */
typedef struct SsMappingColumn
{
	const char *name; /* column of batch */
	Oid			type;
	int32		typmod;
	const char *source;	  /* "field device_id", "placeholder device_id", "_id", "rest", "default" */
	bool		required; /* NOT NULL, without default, checked while decoding */
	bool		insert;	  /* part of the generated INSERT */
	bool		is_meta;  /* one of _id _stream _time _seq _fields added to the row type */
	bool		supplied; /* placeholder or meta column: always there */
} SsMappingColumn;

/*
 * One typed row.  present: members are the indexes (0-based) of columns that the entry gave a value
 * for (a field was there, even JSON null); NULL if the mapping does not track presence.
 */
typedef struct SsRow
{
	int		   entry; /* index into batch->entries */
	Datum	  *values;
	bool	  *isnull;
	Bitmapset *present;
} SsRow;

/*
 * Build, in a new child context of parent.  Needs a transaction; does not run
 * user code.  ERROR: 42P01 no such target or row type (hint), 42809 not a
 * table one can insert into, 55000 temporary, unlogged or foreign target without
 * allow_inexact, 42703 a name in columns, rest or key that does not exist, 22023 others.
 */
extern SsMapping *ss_mapping_build(const SsPipeline *pipeline, const SsTemplate *tmpl, MemoryContext parent);
extern void		  ss_mapping_free(SsMapping *mapping);

/* False once a relation or type behind it was invalidated: build it again. */
extern bool ss_mapping_is_valid(const SsMapping *mapping);

/* Let it become invalid with a relation too that the pipeline's SQL uses. */
extern void ss_mapping_watch(SsMapping *mapping, Oid relid);

/* Row type of batch: the mapped columns, then _id _stream _time _seq _fields (those not already columns of the row type). */
extern TupleDesc			  ss_mapping_desc(const SsMapping *mapping);
extern int					  ss_mapping_ncolumns(const SsMapping *mapping);
extern const SsMappingColumn *ss_mapping_column(const SsMapping *mapping, int column);

/* OID of the target, InvalidOid with a transform and no target. */
extern Oid ss_mapping_target(const SsMapping *mapping);

/* Build _fields only if somebody says it is used; generated INSERTs know by themselves. */
extern void ss_mapping_use_fields(SsMapping *mapping, bool used);

/*
 * Convert every entry of the batch whose outcome is SS_OUTCOME_NEW, in the
 * current transaction, under an active snapshot it pushes itself, in
 * subtransactions of error-free runs.  Rows (in batch->cxt) come back in
 * *rows, their number is the result.  An entry with a data error (ss_error)
 * is refused (stage "decode", with the column in the error); any other error
 * is raised.  _seq numbers the rows from 0 in batch order.
 */
extern int ss_mapping_rows(SsMapping *mapping, SsBatch *batch, SsRow **rows);

#endif /* SS_MAPPING_H */
