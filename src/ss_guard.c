/*
 * ss_guard.c
 *	  Refuses DROP SERVER while a pipeline uses the server, and SQL that writes
 *	  the extension's tables.
 *
 * NOTES
 *	  Pipelines name their server instead of depending on it, so that a dump
 *	  restores; the server's own dependency check therefore knows nothing of
 *	  them.  Only the statement itself is looked at: DROP EXTENSION, DROP OWNED
 *	  and dropping the wrapper take the pipelines' servers with them.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/rel.h"

#include "ss_catalog.h"
#include "ss_guard.h"

SS_SQL_FUNCTION(streamsink_refuse_write);

static ProcessUtility_hook_type next_hook;

static void
check_server_unused(const char *server)
{
	ListCell *cell;

	foreach(cell, ss_catalog_list())
	{
		const SsPipeline *pipeline = lfirst(cell);

		if (strcmp(pipeline->server, server) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop server \"%s\" because a pipeline uses it", server),
					 errdetail("Pipeline \"%s\" reads from it.", pipeline->name),
					 errhint("Drop the pipeline with streamsink.drop_pipeline(), or give it another server with streamsink.alter_pipeline().")));
	}
}

static void
guard_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
			  ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	Node *statement = pstmt->utilityStmt;

	if (IsA(statement, DropStmt) && ((DropStmt *) statement)->removeType == OBJECT_FOREIGN_SERVER)
	{
		ListCell *cell;

		foreach(cell, ((DropStmt *) statement)->objects)
			check_server_unused(strVal(lfirst(cell)));
	}
	if (next_hook)
		next_hook(pstmt, query, read_only_tree, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, environment, dest, completion);
}

/* A statement trigger: our rows make workers act as the roles that they name. */
Datum
streamsink_refuse_write(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function is a trigger of tables of the extension only")));
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to write table \"%s\"",
						RelationGetRelationName(((TriggerData *) fcinfo->context)->tg_relation)),
				 errdetail("Only superusers may write the tables of the extension."),
				 errhint("Use the functions and views of schema streamsink.")));
	return PointerGetDatum(NULL);
}

void
ss_guard_init(void)
{
	next_hook = ProcessUtility_hook;
	ProcessUtility_hook = guard_utility;
}
