/*
 * ss_ddl.h
 *	  Statements that make and change a pipeline's target.
 */
#ifndef SS_DDL_H
#define SS_DDL_H

#include "lib/stringinfo.h"

/* Run one statement in the current transaction, as the current user.  What it raises is the server's own. */
extern void ss_ddl_run(const char *statement);

/* Append a column's name and type, as this session's search_path reads them. */
extern void ss_ddl_append_column(StringInfo statement, const char *name, Oid type);

/* A relation's name in a statement. */
extern char *ss_ddl_relation(Oid relid);

#endif /* SS_DDL_H */
