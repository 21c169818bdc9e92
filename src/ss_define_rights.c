/*
 * ss_define_rights.c
 *	  What the owner of a pipeline must be allowed to do.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "ss_define.h"

#define IS_NULL(def, column) ((def)->nulls[SS_PIPELINE_##column - 1])
#define VALUE(def, column)	 ((def)->values[SS_PIPELINE_##column - 1])

void
ss_define_check_owner(Oid owner)
{
	char *name = GetUserNameFromId(owner, false);

#ifndef SS_HAVE_ROLELOGIN_BYPASS
	HeapTuple role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(owner));
	bool	  can_login;

	if (!HeapTupleIsValid(role))
		elog(ERROR, "cache lookup failed for role %u", owner);
	can_login = ((Form_pg_authid) GETSTRUCT(role))->rolcanlogin;
	ReleaseSysCache(role);
	if (!can_login)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("role \"%s\" cannot own a pipeline because it is not permitted to log in", name),
				 errdetail("Before PostgreSQL 17, workers can connect only as a role that may log in."),
				 errhint("Run ALTER ROLE %s LOGIN.", quote_identifier(name))));
#endif
	if (ss_compat_database_aclcheck(MyDatabaseId, owner) != ACLCHECK_OK)
	{
		char *database = get_database_name(MyDatabaseId);

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("role \"%s\" cannot own a pipeline because it may not connect to database \"%s\"",
						name, database),
				 errhint("Run GRANT CONNECT ON DATABASE %s TO %s.",
						 quote_identifier(database), quote_identifier(name))));
	}
}

static void
need_privilege(Oid relid, Oid role, AclMode mode, const char *privilege)
{
	/* of the columns, any will do: which ones are written is not known before the entries are */
	if (pg_class_aclcheck(relid, role, mode) == ACLCHECK_OK ||
		pg_attribute_aclcheck_all(relid, role, mode, ACLMASK_ANY) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for target \"%s\"", get_rel_name(relid)),
			 errdetail("The pipeline's owner \"%s\" needs the %s privilege.",
					   GetUserNameFromId(role, false), privilege)));
}

void
ss_define_check_target(const SsDefinition *def)
{
	char *on_conflict = TextDatumGetCString(VALUE(def, on_conflict));
	bool  updates = strcmp(on_conflict, ss_catalog_on_conflict_words[SS_CONFLICT_UPDATE]) == 0;
	List *names;
	Oid	  relid;

	/* what a transform does with its target is checked with its statements */
	if (IS_NULL(def, target) || !IS_NULL(def, transform))
		return;
	names = ss_compat_name_list(TextDatumGetCString(VALUE(def, target)));
	relid = RangeVarGetRelid(makeRangeVarFromNameList(names), NoLock, false);
	need_privilege(relid, def->owner, ACL_INSERT, "INSERT");
	if (updates)
		need_privilege(relid, def->owner, ACL_UPDATE, "UPDATE");
	if (updates || !IS_NULL(def, key))
		need_privilege(relid, def->owner, ACL_SELECT, "SELECT");
	if (DatumGetBool(VALUE(def, evolve)))
		ss_define_check_evolves(relid, def->owner);
}
