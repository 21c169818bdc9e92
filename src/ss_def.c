/*
 * ss_def.c
 *	  pipeline_def: the call that makes a pipeline again.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "ss_define.h"
#include "ss_identity.h"

SS_SQL_FUNCTION(streamsink_pipeline_def);

/* SQL as it was written, between dollar quotes; the second one is found only where it stands. */
static void
append_sql(StringInfo buf, const char *sql)
{
	char *quote = "$sql$";

	for (int i = 1;; i++)
	{
		char *rest = psprintf("%s%s", sql, quote);

		if (strstr(rest, quote) == rest + strlen(sql))
			break;
		quote = psprintf("$sql%d$", i);
	}
	appendStringInfo(buf, "%s%s%s", quote, sql, quote);
}

static void
append_value(StringInfo buf, Oid type, Datum value)
{
	Oid	  output;
	bool  is_varlena;
	char *text;

	if (type == BOOLOID)
	{
		appendStringInfoString(buf, DatumGetBool(value) ? "true" : "false");
		return;
	}
	getTypeOutputInfo(type, &output, &is_varlena);
	text = OidOutputFunctionCall(output, value);
	if (type == INT4OID || type == INT8OID || type == FLOAT4OID)
		appendStringInfoString(buf, text);
	else
		appendStringInfoString(buf, quote_literal_cstr(text));
}

Datum
streamsink_pipeline_def(PG_FUNCTION_ARGS)
{
	SsDefinition   def;
	SsPipeline	  *pipeline;
	StringInfoData buf;
	int			   level;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", "name")));
	pipeline = ss_catalog_load_lenient(text_to_cstring(PG_GETARG_TEXT_PP(0)), 0, false);
	ss_identity_check(pipeline);
	memset(&def, 0, sizeof(def));
	if (!ss_catalog_fetch(pipeline->id, def.values, def.nulls))
		elog(ERROR, "pipeline %d vanished", pipeline->id);

	/* intervals in the one style that every session reads alike, numbers with all digits */
	level = NewGUCNestLevel();
	(void) set_config_option("IntervalStyle", "postgres", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("extra_float_digits", "1", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);

	initStringInfo(&buf);
	appendStringInfoString(&buf, "SELECT streamsink.create_pipeline(");
	if (PG_ARGISNULL(1))
		appendStringInfoString(&buf, quote_literal_cstr(pipeline->name));
	else
		appendStringInfoString(&buf, quote_literal_cstr(text_to_cstring(PG_GETARG_TEXT_PP(1))));

	for (int column = SS_PIPELINE_name + 1; column <= SS_PIPELINE_NARGS; column++)
	{
		/* a group called as the pipeline is left out: it follows the new name */
		if (ss_define_is_fallback(&def, column))
			continue;
		appendStringInfo(&buf, ",\n       %s => ", ss_define_name(column));
		if (column == SS_PIPELINE_transform)
			append_sql(&buf, TextDatumGetCString(def.values[column - 1]));
		else
			append_value(&buf, ss_define_type(column), def.values[column - 1]);
	}
	appendStringInfoString(&buf, ");");
	AtEOXact_GUC(false, level);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}
