/*
 * ss_compat.h
 *	  The only place that looks at PG_VERSION_NUM and HIREDIS_MAJOR: the newest
 *	  signature is used everywhere, and polyfilled here for older servers.
 *
 * NOTES
 *	  Every source file of the extension includes postgres.h first and this
 *	  header second.  Symbols are hidden by default (-fvisibility=hidden); what
 *	  the server finds by name is marked SS_EXPORT.
 */
#ifndef SS_COMPAT_H
#define SS_COMPAT_H

#include "fmgr.h"

#if PG_VERSION_NUM < 150000
#error "streamsink needs PostgreSQL 15 or later"
#endif

#define SS_EXPORT __attribute__((visibility("default")))

/*
 * Declare and export a function that SQL calls.  Before PostgreSQL 16 the
 * server's own macro leaves visibility to the compiler's default.
 */
#define SS_SQL_FUNCTION(name) \
	extern SS_EXPORT const Pg_finfo_record *pg_finfo_##name(void); \
	extern SS_EXPORT Datum					name(PG_FUNCTION_ARGS); \
	PG_FUNCTION_INFO_V1(name)

/* 17 renamed the roles that may be connected as without the LOGIN attribute. */
#if PG_VERSION_NUM >= 170000
#define SS_HAVE_ROLELOGIN_BYPASS 1
#endif

/* 16 has soft errors for input functions. */
#if PG_VERSION_NUM >= 160000
#define SS_HAVE_SOFT_ERRORS 1
#endif

/* 18 has pg_noreturn instead, which stands before a declaration only. */
#ifndef pg_attribute_noreturn
#define pg_attribute_noreturn() __attribute__((noreturn))
#endif

/* ---- Redis client ---- */

/* Files that touch hiredis define SS_NEED_HIREDIS before they include this header. */
#ifdef SS_NEED_HIREDIS
#include <hiredis/hiredis.h>
#include <hiredis/sds.h>

#if HIREDIS_MAJOR >= 1
typedef size_t ss_compat_count; /* createArray's number of elements */
#define SS_COMPAT_RESP3_FUNCTIONS(double_function, bool_function) \
	.createDouble = (double_function), .createBool = (bool_function),
#define ss_compat_reader_task(reader) ((reader)->task[(reader)->ridx])
#else
typedef int ss_compat_count;
#define SS_COMPAT_RESP3_FUNCTIONS(double_function, bool_function)
#define ss_compat_reader_task(reader) (&(reader)->rstack[(reader)->ridx])
#endif
#endif /* SS_NEED_HIREDIS */

/* A named wait event from 17 on; cache is a static variable of the caller, 0 at first. */
#if PG_VERSION_NUM >= 170000
#define ss_compat_wait_event(cache, name) \
	((cache) != 0 ? (cache) : ((cache) = WaitEventExtensionNew(name)))
#else
#define ss_compat_wait_event(cache, name) ((void) (cache), PG_WAIT_EXTENSION)
#endif

/* 16 has one function for all kinds of objects. */
#if PG_VERSION_NUM >= 160000
#define ss_compat_server_aclcheck(server, role) \
	object_aclcheck(ForeignServerRelationId, (server), (role), ACL_USAGE)
#else
#define ss_compat_server_aclcheck(server, role) \
	pg_foreign_server_aclcheck((server), (role), ACL_USAGE)
#endif

/* ---- Data types ---- */

/*
 * Before 16 input functions throw instead of returning a soft error, and
 * serialising a range takes no error context.
 */
#if PG_VERSION_NUM < 160000
#include "utils/rangetypes.h"

#ifndef ereturn
#define ereturn(context, dummy_value, ...) \
	do \
	{ \
		(void) (context); \
		ereport(ERROR, __VA_ARGS__); \
	} while (0)
#endif
#define range_serialize(typcache, lower, upper, empty, escontext) \
	((void) (escontext), range_serialize(typcache, lower, upper, empty))
#endif

/* ---- dates and times ---- */

/*
 * What a word in lower case is as an abbreviation of a time zone: one of the
 * field types of utils/datetime.h, UNKNOWN_FIELD if it is none.  field is its
 * number in the text.  False for one that the configuration gets wrong: before
 * 16 that is an ERROR.  Files that ask define SS_NEED_DATETIME before they
 * include this header.
 */
#ifdef SS_NEED_DATETIME
#include "utils/datetime.h"

static inline bool
ss_compat_timezone_abbrev(int field, const char *word, int *type, int *offset)
{
	pg_tz *zone;
#if PG_VERSION_NUM >= 160000
	DateTimeErrorExtra extra;

	return DecodeTimezoneAbbrev(field, word, type, offset, &zone, &extra) == 0;
#else
	*type = DecodeTimezoneAbbrev(field, unconstify(char *, word), offset, &zone);
	return true;
#endif
}
#endif /* SS_NEED_DATETIME */

/* ---- JSON lexer ---- */

/* Files that parse JSON define SS_NEED_JSON before they include this header. */
#ifdef SS_NEED_JSON
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

/* From 16 on actions return whether to go on; SS_JSON_CONTINUE ends an action. */
#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType ss_compat_json_result;
#define SS_JSON_CONTINUE return JSON_SUCCESS
#define ss_compat_json_untranslatable(error) \
	((error) == JSON_UNICODE_CODE_POINT_ZERO || (error) == JSON_UNICODE_HIGH_ESCAPE || \
	 (error) == JSON_UNICODE_UNTRANSLATABLE)
#else
typedef void ss_compat_json_result;
#define SS_JSON_CONTINUE return
#define ss_compat_json_untranslatable(error) \
	((error) == JSON_UNICODE_CODE_POINT_ZERO || (error) == JSON_UNICODE_HIGH_ESCAPE)
#endif

/* A lexer in CurrentMemoryContext; 17 can initialise one in place and takes const. */
#if PG_VERSION_NUM >= 170000
#define ss_compat_json_lexer(json, len, need_escapes) \
	makeJsonLexContextCstringLen(NULL, (json), (len), GetDatabaseEncoding(), (need_escapes))
#else
#define ss_compat_json_lexer(json, len, need_escapes) \
	makeJsonLexContextCstringLen(unconstify(char *, (json)), (int) (len), GetDatabaseEncoding(), (need_escapes))
#endif
#endif /* SS_NEED_JSON */

/* ---- definition and control ---- */

/* 16 (and late minor releases of 15) have typed palloc. */
#ifndef palloc_object
#define palloc_object(type)		   ((type *) palloc(sizeof(type)))
#define palloc0_object(type)	   ((type *) palloc0(sizeof(type)))
#define palloc_array(type, count)  ((type *) palloc(sizeof(type) * (count)))
#define palloc0_array(type, count) ((type *) palloc0(sizeof(type) * (count)))
#endif

#if PG_VERSION_NUM >= 160000
#define ss_compat_database_aclcheck(database, role) \
	object_aclcheck(DatabaseRelationId, (database), (role), ACL_CONNECT)
#else
#define ss_compat_database_aclcheck(database, role) \
	pg_database_aclcheck((database), (role), ACL_CONNECT)
/* memberships have no SET option yet */
#define check_can_set_role(member, role) \
	check_is_member_of_role((member), (role))
#endif

/* May a role call a function or procedure? */
#if PG_VERSION_NUM >= 160000
#define ss_compat_may_execute(function, role) \
	(object_aclcheck(ProcedureRelationId, (function), (role), ACL_EXECUTE) == ACLCHECK_OK)
#else
#define ss_compat_may_execute(function, role) \
	(pg_proc_aclcheck((function), (role), ACL_EXECUTE) == ACLCHECK_OK)
#endif

#if PG_VERSION_NUM >= 160000
#define ss_compat_relation_ownercheck(relation, role) \
	object_ownercheck(RelationRelationId, (relation), (role))
#else
#define ss_compat_relation_ownercheck(relation, role) \
	pg_class_ownercheck((relation), (role))
#endif

/* 16 can report a malformed name softly; ERROR is what we want. */
#ifdef SS_HAVE_SOFT_ERRORS
#define ss_compat_name_list(string) stringToQualifiedNameList((string), NULL)
#else
#define ss_compat_name_list(string) stringToQualifiedNameList(string)
#endif

/* ---- input functions ---- */

/*
 * A type's input function, as InputFunctionCall.  From 16 on an error of the
 * value comes back in *error (false, in CurrentMemoryContext) where the type
 * can do that; everything else, and all before 16, is raised.
 */
#ifdef SS_NEED_INPUT
#ifdef SS_HAVE_SOFT_ERRORS
#include "nodes/miscnodes.h"

static inline bool
ss_compat_input(FmgrInfo *function, char *str, Oid ioparam, int32 typmod, Datum *result, ErrorData **error)
{
	ErrorSaveContext context = {T_ErrorSaveContext};

	context.details_wanted = true;
	if (InputFunctionCallSafe(function, str, ioparam, typmod, (Node *) &context, result))
		return true;
	*error = context.error_data;
	return false;
}
#else
static inline bool
ss_compat_input(FmgrInfo *function, char *str, Oid ioparam, int32 typmod, Datum *result, ErrorData **error)
{
	(void) error;
	*result = InputFunctionCall(function, str, ioparam, typmod);
	return true;
}
#endif
#endif /* SS_NEED_INPUT */

/* ---- executor ---- */

/* Files that insert without a statement define SS_NEED_EXECUTOR before they include this header. */
#ifdef SS_NEED_EXECUTOR
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "parser/parse_relation.h"
#include "storage/lockdefs.h"

/* A range table of one relation that is locked; the current user's right to insert these columns is checked: ERROR 42501. */
static inline void
ss_compat_init_insert(EState *estate, Oid relid, Bitmapset *columns)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	List		  *rtable = list_make1(rte);
#if PG_VERSION_NUM >= 160000
	List			  *perminfos = NIL;
	RTEPermissionInfo *perminfo;
#endif

	rte->rtekind = RTE_RELATION;
	rte->relid = relid;
	rte->relkind = 'r';
	rte->rellockmode = RowExclusiveLock;
#if PG_VERSION_NUM >= 160000
	perminfo = addRTEPermissionInfo(&perminfos, rte);
	perminfo->requiredPerms = ACL_INSERT;
	perminfo->insertedCols = columns;
	(void) ExecCheckPermissions(rtable, perminfos, true);
#else
	rte->requiredPerms = ACL_INSERT;
	rte->insertedCols = columns;
	(void) ExecCheckRTPerms(rtable, true);
#endif
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, rtable, perminfos, bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
	ExecInitRangeTable(estate, rtable, perminfos);
#else
	ExecInitRangeTable(estate, rtable);
#endif
}

#if PG_VERSION_NUM >= 160000
#define ss_compat_insert_index_tuples(target, slot, estate) \
	ExecInsertIndexTuples((target), (slot), (estate), false, false, NULL, NIL, false)
#else
#define ss_compat_insert_index_tuples(target, slot, estate) \
	ExecInsertIndexTuples((target), (slot), (estate), false, false, NULL, NIL)
#endif

/* 18 has generated columns that are computed when read. */
#if PG_VERSION_NUM >= 180000
#define ss_compat_has_virtual_columns(desc) ((desc)->constr != NULL && (desc)->constr->has_generated_virtual)
#else
#define ss_compat_has_virtual_columns(desc) ((void) (desc), false)
#endif
#endif /* SS_NEED_EXECUTOR */

/* ---- processes and shared memory ---- */

/* 17 lets a shared hash table copy its keys by a function of ours. */
#if PG_VERSION_NUM >= 170000
#define SS_DSHASH_COPY_FUNCTION .copy_function = dshash_memcpy,
#else
#define SS_DSHASH_COPY_FUNCTION
#endif

/* 15.4 marks databases whose DROP was interrupted (catalog/pg_database.h). */
#define SS_DATCONNLIMIT_INVALID_DB (-2)

#endif /* SS_COMPAT_H */
