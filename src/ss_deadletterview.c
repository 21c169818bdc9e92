/*
 * ss_deadletterview.c
 *	  INSTEAD OF triggers of the view dead_letters: DELETE, and UPDATE of fields.
 *
 * NOTES
 *	  The view shows each user the dead letters of pipelines whose owner they
 *	  are a member of.  That is checked again here, because a trigger function
 *	  may be called from elsewhere.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "ss_deadletter.h"
#include "ss_identity.h"

SS_SQL_FUNCTION(streamsink_dead_letters_delete);
SS_SQL_FUNCTION(streamsink_dead_letters_update);

/*
 * The id of the view's row that a trigger is fired for.  The dead letters of
 * its pipeline are locked, and the current user is a member of its owner.
 */
static int64
open_view_row(FunctionCallInfo fcinfo, TriggerEvent event)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	AttrNumber	 column;
	bool		 isnull;
	int64		 id;
	int32		 pipeline_id;
	SsPipeline	*pipeline;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_INSTEAD(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		(trigger->tg_event & TRIGGER_EVENT_OPMASK) != event ||
		RelationGetRelid(trigger->tg_relation) != ss_catalog_relation("dead_letters", false))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function is a trigger of the view streamsink.dead_letters only")));

	column = get_attnum(RelationGetRelid(trigger->tg_relation), "id");
	id = DatumGetInt64(heap_getattr(trigger->tg_trigtuple, column, RelationGetDescr(trigger->tg_relation), &isnull));
	if (isnull)
		elog(ERROR, "view of dead letters gave a row without an id");

	if (ss_deadletter_pipeline(id, &pipeline_id))
	{
		pipeline = ss_catalog_load_by_id(pipeline_id);
		if (pipeline == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("pipeline of dead letter %lld does not exist", (long long) id)));
		ss_identity_check(pipeline);
		ss_deadletter_lock(pipeline_id);
	}
	return id;
}

Datum
streamsink_dead_letters_delete(PG_FUNCTION_ARGS)
{
	int64		 id = open_view_row(fcinfo, TRIGGER_EVENT_DELETE);
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	/* NULL: somebody else dealt with it, the row does not count */
	return PointerGetDatum(ss_deadletter_delete(id) ? trigger->tg_trigtuple : NULL);
}

Datum
streamsink_dead_letters_update(PG_FUNCTION_ARGS)
{
	int64		 id = open_view_row(fcinfo, TRIGGER_EVENT_UPDATE);
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	 desc = RelationGetDescr(trigger->tg_relation);
	AttrNumber	 fields = get_attnum(RelationGetRelid(trigger->tg_relation), "fields");
	bool		 edit = false;
	bool		 isnull;
	Datum		 value;
	int			 i;

	for (i = 1; i <= desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i - 1);
		bool			  old_isnull;
		bool			  new_isnull;
		Datum			  old_value = heap_getattr(trigger->tg_trigtuple, i, desc, &old_isnull);
		Datum			  new_value = heap_getattr(trigger->tg_newtuple, i, desc, &new_isnull);

		if (old_isnull == new_isnull &&
			(old_isnull || datum_image_eq(old_value, new_value, attribute->attbyval, attribute->attlen)))
			continue;
		if (i != fields)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("column \"%s\" of view \"%s\" cannot be changed",
							NameStr(attribute->attname), RelationGetRelationName(trigger->tg_relation)),
					 errhint("Only \"fields\" can be set: it is used in place of the bytes that were received.")));
		edit = true;
	}

	if (edit)
	{
		value = heap_getattr(trigger->tg_newtuple, fields, desc, &isnull);
		if (!ss_deadletter_edit(id, isnull ? NULL : DatumGetJsonbP(value)))
			return PointerGetDatum(NULL);
	}
	return PointerGetDatum(trigger->tg_newtuple);
}
