/*
 * ss_ddl.c
 *	  Statements that make and change a pipeline's target.
 *
 * NOTES
 *	  Names in them come from entries: each is an identifier in quotes, never
 *	  text of the statement.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "ss_ddl.h"

void
ss_ddl_run(const char *statement)
{
	int result;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	PushActiveSnapshot(GetTransactionSnapshot());
	result = SPI_execute(statement, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute a statement: %s", SPI_result_code_string(result));
	PopActiveSnapshot();
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
}

void
ss_ddl_append_column(StringInfo statement, const char *name, Oid type)
{
	appendStringInfo(statement, "%s %s", quote_identifier(name), format_type_be(type));
}

char *
ss_ddl_relation(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}
