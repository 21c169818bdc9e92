/*
 * ss_inspect.c
 *	  What a pipeline makes of entries, shown without running it: the columns of
 *	  batch and the SQL.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/tuplestore.h"

#include "ss_identity.h"
#include "ss_mapping.h"
#include "ss_write.h"

SS_SQL_FUNCTION(streamsink_describe);
SS_SQL_FUNCTION(streamsink_statement);

static char *
text_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
	return text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/* streamsink.describe(name text): one row for each column of batch */
Datum
streamsink_describe(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SsPipeline	  *pipeline = ss_catalog_load(text_argument(fcinfo, 0, "name"), false);
	SsIdentity	   saved;
	SsMapping	  *mapping;

	ss_identity_check(pipeline);
	InitMaterializedSRF(fcinfo, 0);

	ss_identity_enter(pipeline, &saved);
	mapping = ss_mapping_build(pipeline, ss_template_parse(pipeline->stream), CurrentMemoryContext);
	for (int i = 0; i < ss_mapping_ncolumns(mapping); i++)
	{
		const SsMappingColumn *column = ss_mapping_column(mapping, i);
		Datum				   values[4];
		bool				   isnull[4] = {false};

		values[0] = CStringGetTextDatum(column->name);
		values[1] = CStringGetTextDatum(format_type_with_typemod(column->type, column->typmod));
		values[2] = CStringGetTextDatum(column->source);
		values[3] = BoolGetDatum(column->required);
		tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
	}
	ss_mapping_free(mapping);
	ss_identity_leave(&saved);
	return (Datum) 0;
}

/* The SQL of a pipeline, made as its owner. */
static char *
build_statement(const char *name)
{
	SsPipeline *pipeline = ss_catalog_load(name, false);
	SsIdentity	saved;
	SsMapping  *mapping;
	SsWriter   *writer;
	char	   *statement;

	ss_identity_check(pipeline);
	if (pipeline->transform != NULL)
		return pipeline->transform;

	ss_identity_enter(pipeline, &saved);
	mapping = ss_mapping_build(pipeline, ss_template_parse(pipeline->stream), CurrentMemoryContext);
	writer = ss_write_create(pipeline, mapping, CurrentMemoryContext);
	statement = ss_write_statement(writer);
	ss_write_free(writer);
	ss_mapping_free(mapping);
	ss_identity_leave(&saved);
	return statement;
}

/*
 * streamsink.statement(name text): the SQL that runs.  NULL instead of an
 * error, because a view calls it for every pipeline: one without its target
 * must not hide the others.
 */
Datum
streamsink_statement(PG_FUNCTION_ARGS)
{
	char		 *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	MemoryContext old_cxt = CurrentMemoryContext;
	ResourceOwner old_owner = CurrentResourceOwner;
	char *volatile statement = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old_cxt);
	PG_TRY();
	{
		statement = build_statement(name);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(old_cxt);
		CurrentResourceOwner = old_owner;
	}
	PG_CATCH();
	{
		ErrorData *error;
		int		   category;

		MemoryContextSwitchTo(old_cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(old_cxt);
		CurrentResourceOwner = old_owner;

		/* a cancel, or a server in trouble, says nothing about the pipeline */
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_INSUFFICIENT_RESOURCES)
			ReThrowError(error);
		FreeErrorData(error);
		statement = NULL;
	}
	PG_END_TRY();

	if (statement == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(statement));
}
