/*
 * ss_outboxview.c
 *	  INSTEAD OF trigger of the view outbox: DELETE discards a command.
 *
 * NOTES
 *	  The view shows each user the commands of roles that they are a member of.
 *	  That is checked again here, because a trigger function may be called from
 *	  elsewhere.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "ss_catalog.h"
#include "ss_outboxrow.h"
#include "ss_shmem.h"

SS_SQL_FUNCTION(streamsink_outbox_delete);

static Datum
get_column(TriggerData *trigger, const char *name)
{
	Relation view = trigger->tg_relation;
	bool	 isnull;
	Datum	 value = heap_getattr(trigger->tg_trigtuple, get_attnum(RelationGetRelid(view), name),
								  RelationGetDescr(view), &isnull);

	if (isnull)
		elog(ERROR, "view of the outbox gave a row without \"%s\"", name);
	return value;
}

Datum
streamsink_outbox_delete(PG_FUNCTION_ARGS)
{
	TriggerData	  *trigger = (TriggerData *) fcinfo->context;
	SsOutboxEdit  *edit;
	SsOutboxResult result = SS_OUTBOX_GONE;
	char		  *role;
	Oid			   role_oid;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_INSTEAD(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ||
		RelationGetRelid(trigger->tg_relation) != ss_catalog_relation("outbox", false))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function is a trigger of the view streamsink.outbox only")));

	role = NameStr(*DatumGetName(get_column(trigger, "role")));
	role_oid = get_role_oid(role, true);
	if (OidIsValid(role_oid) ? !has_privs_of_role(GetUserId(), role_oid) : !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for a command of role \"%s\"", role)));

	edit = ss_outboxrow_begin();
	if (edit != NULL)
	{
		result = ss_outboxrow_delete(edit, DatumGetInt64(get_column(trigger, "id")), true);
		ss_outboxrow_end(edit);
	}
	/* what waits behind it may have its turn */
	if (ss_shmem != NULL)
		ss_shmem_changed_at_commit(0, true);

	/* NULL: it is gone already, the row does not count */
	return PointerGetDatum(result == SS_OUTBOX_CHANGED ? trigger->tg_trigtuple : NULL);
}
