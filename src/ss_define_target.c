/*
 * ss_define_target.c
 *	  What a definition may say that makes its target or adds columns to it.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "ss_define.h"

#define IS_NULL(def, column) ((def)->nulls[SS_PIPELINE_##column - 1])

char *
ss_define_new_target(const RangeVar *range)
{
	Oid namespace = RangeVarGetCreationNamespace(range);

	if (isAnyTempNamespace(namespace))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a target that is made cannot be temporary"),
				 errhint("Name a schema in \"target\".")));
	return quote_qualified_identifier(get_namespace_name(namespace), range->relname);
}

/* What makes or changes the target needs it to be all that rows go to, and to say what they are. */
static void
check_owns_columns(const SsDefinition *def, int column)
{
	if (!DatumGetBool(def->values[column - 1]))
		return;
	if (!IS_NULL(def, transform))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" and \"transform\" exclude each other", ss_define_name(column)),
				 errdetail("Which columns a transform needs is known to itself only.")));
	if (!IS_NULL(def, row_type))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" and \"row_type\" exclude each other", ss_define_name(column)),
				 errdetail("The row type says already which columns there are."),
				 errhint("CREATE TABLE ... (LIKE ...) makes a table of a row type.")));
}

void
ss_define_check_makes(const SsDefinition *def)
{
	check_owns_columns(def, SS_PIPELINE_create_target);
	check_owns_columns(def, SS_PIPELINE_evolve);
}

void
ss_define_check_evolves(Oid relid, Oid role)
{
	HeapTuple	  tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class form;
	bool		  good;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	form = (Form_pg_class) GETSTRUCT(tuple);
	good = (form->relkind == RELKIND_RELATION || form->relkind == RELKIND_PARTITIONED_TABLE) &&
		   !form->relispartition && !OidIsValid(form->reloftype);
	ReleaseSysCache(tuple);
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"evolve\" cannot add columns to target \"%s\"", get_rel_name(relid)),
				 errdetail("It must be a table that is no partition and not of a composite type.")));
	if (!ss_compat_relation_ownercheck(relid, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"evolve\" cannot add columns to target \"%s\"", get_rel_name(relid)),
				 errdetail("The pipeline's owner \"%s\" does not own the table.", GetUserNameFromId(role, false)),
				 errhint("Run ALTER TABLE ... OWNER TO, or let a role that owns it create the pipeline.")));
}
