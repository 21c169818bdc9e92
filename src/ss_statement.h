/*
 * ss_statement.h
 *	  The SQL that a pipeline without a transform runs over "batch".
 */
#ifndef SS_STATEMENT_H
#define SS_STATEMENT_H

#include "ss_mapping.h"
#include "ss_transform.h"

/*
 * Columns of batch (indexes as in ss_mapping_column) by their part in the
 * generated INSERT.
 */
typedef struct SsStatementShape
{
	char	  *target;		 /* schema-qualified, quoted */
	List	  *key;			 /* of char *: the conflict key; NIL where none is named */
	Bitmapset *insert;		 /* columns that are inserted */
	Bitmapset *key_columns;	 /* those of them that belong to the key */
	Bitmapset *supplied;	 /* those that every entry has */
	bool	   key_in_batch; /* the whole key comes from batch */
} SsStatementShape;

/*
 * Look the target and the key up, in CurrentMemoryContext.  ERROR 42P01 the
 * target is gone, 42P10 on_conflict is update, no key was named and the target has no
 * primary key, 42703 a column of the key does not exist, 22023 key is no
 * identifier list.
 */
extern SsStatementShape *ss_statement_shape(const SsPipeline *pipeline, const SsMapping *mapping);

/* The INSERT; set names the columns that a conflict updates (key columns among them are left out). */
extern char *ss_statement_insert(const SsPipeline *pipeline, const SsMapping *mapping,
								 const SsStatementShape *shape, const Bitmapset *set);

/*
 * A SELECT of the 1-based positions (int8) of rows of batch that a later row with
 * an equal key replaces.  Rows with a NULL in the key are kept apart.  Only if key_in_batch.
 */
extern char *ss_statement_superseded(const SsMapping *mapping, const SsStatementShape *shape);

#endif /* SS_STATEMENT_H */
