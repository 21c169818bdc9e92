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
typedef int	 ss_compat_count;
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
