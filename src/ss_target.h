/*
 * ss_target.h
 *	  The relation that rows go into: found by name, checked, and what a
 *	  generated INSERT must know of its columns.
 */
#ifndef SS_TARGET_H
#define SS_TARGET_H

#include "nodes/nodes.h"
#include "utils/relcache.h"
#include "ss_catalog.h"

/*
 * The relation of a stored qualified name, locked with AccessShareLock to the
 * transaction's end.  ERROR 42P01 with a hint; 3F000 and 42501 are the
 * server's own.
 */
extern Oid ss_target_resolve(const SsPipeline *pipeline);

/* Relation of a composite type or table by its stored name, locked likewise; *type gets the row type.  ERROR 42P01, 42809. */
extern Oid ss_target_row_type(const SsPipeline *pipeline, Oid *type);

/*
 * May rows go there?  ERROR 42809 unless one can insert into it; 55000 for a
 * temporary, unlogged or foreign relation (partitions and a view's table
 * included) without allow_inexact.  Appends to *watched the OIDs of relations
 * whose change makes this answer doubtful.
 */
extern void ss_target_check(const SsPipeline *pipeline, Relation target, List **watched);

/* A column as INSERT sees it. */
typedef struct SsTargetColumn
{
	bool  insertable; /* may be named in an INSERT */
	bool  generated;  /* not, because the server fills it */
	bool  notnull;
	Node *default_expr; /* of the column's type, not planned; NULL: none */
} SsTargetColumn;

/*
 * What INSERT knows of a column.  Looks through views that the server itself
 * updates, because a generated INSERT names all columns, and a view's table
 * would not get a chance to fill in its defaults.  Appends to *watched.
 */
extern void ss_target_column(Relation target, AttrNumber attnum, SsTargetColumn *column, List **watched);

/*
 * Check a relation that a statement of a transform writes: ERROR 55000 if that
 * cannot be done exactly once, 42809 for a catalog or a table of the
 * extension.  Appends what was looked at to *watched.
 */
extern void ss_target_check_written(const SsPipeline *pipeline, Oid relid, List **watched);

#endif /* SS_TARGET_H */
