/*
 * ss_server.c
 *	  Options of foreign servers and user mappings, and connection parameters
 *	  out of them.
 *
 * NOTES
 *	  A Redis server often trusts whoever reaches it from the database's host.
 *	  So that a role cannot ride on that trust, a role that is no superuser must
 *	  bring a password, unless a superuser set password_required to false; unix
 *	  sockets are named by superusers only.  The validator sees all options of
 *	  an object at each ALTER: what a superuser set can be changed by nobody else.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <limits.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "ss_guc.h"
#include "ss_server.h"

SS_SQL_FUNCTION(streamsink_fdw_validator);

#define DEFAULT_HOST			"localhost"
#define DEFAULT_PORT			6379
#define DEFAULT_CONNECT_TIMEOUT 5000
#define VALIDATOR_NAME			"streamsink_fdw_validator"

typedef enum OptionType
{
	OPTION_TEXT, /* not empty */
	OPTION_PATH, /* absolute, superusers only */
	OPTION_INTEGER,
	OPTION_TIME,			 /* milliseconds, or with a unit */
	OPTION_PASSWORD_REQUIRED /* boolean; false for superusers only */
} OptionType;

/* Every option, with the catalog of the objects that may have it. */
static const struct OptionRule
{
	const char *name;
	Oid			catalog;
	OptionType	type;
	int			min;
	int			max;
} option_rules[] =
	{
		{"host", ForeignServerRelationId, OPTION_TEXT},
		{"port", ForeignServerRelationId, OPTION_INTEGER, 1, 65535},
		{"path", ForeignServerRelationId, OPTION_PATH},
		{"db", ForeignServerRelationId, OPTION_INTEGER, 0, INT_MAX},
		{"connect_timeout", ForeignServerRelationId, OPTION_TIME, 1, 3600 * 1000},
		{"command_timeout", ForeignServerRelationId, OPTION_TIME, 1, 24 * 3600 * 1000},
		{"password_required", ForeignServerRelationId, OPTION_PASSWORD_REQUIRED},
		{"username", UserMappingRelationId, OPTION_TEXT},
		{"password", UserMappingRelationId, OPTION_TEXT},
		{"password_required", UserMappingRelationId, OPTION_PASSWORD_REQUIRED},
};

/* Options that a user may look for: known, but not here yet. */
static const char *const unsupported_prefixes[] = {"tls", "ssl", "sentinel", "cluster"};

static const struct OptionRule *
find_rule(const char *name, Oid catalog)
{
	for (int i = 0; i < lengthof(option_rules); i++)
	{
		if (option_rules[i].catalog == catalog && strcmp(option_rules[i].name, name) == 0)
			return &option_rules[i];
	}
	return NULL;
}

/* Raise the error for an option that objects of this catalog do not have. */
static void pg_attribute_noreturn()
	refuse_option(const char *name, Oid catalog)
{
	StringInfoData valid;

	if (find_rule(name, UserMappingRelationId) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", name),
				 errhint("The option belongs to the user mapping: use CREATE USER MAPPING or ALTER USER MAPPING.")));
	if (find_rule(name, ForeignServerRelationId) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", name),
				 errhint("The option belongs to the server: use CREATE SERVER or ALTER SERVER.")));

	for (int i = 0; i < lengthof(unsupported_prefixes); i++)
	{
		if (strncmp(name, unsupported_prefixes[i], strlen(unsupported_prefixes[i])) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("option \"%s\" is not supported", name),
					 errdetail("This version of streamsink connects to single Redis servers without TLS.")));
	}

	initStringInfo(&valid);
	for (int i = 0; i < lengthof(option_rules); i++)
	{
		if (option_rules[i].catalog == catalog)
			appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", option_rules[i].name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 valid.len > 0 ?
				 errhint("Valid options in this context are: %s.", valid.data) :
				 errhint("There are no valid options in this context.")));
}

static void pg_attribute_noreturn()
	refuse_value(const char *name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", name),
			 errdetail("%s", detail)));
}

static void
require_superuser(const char *what)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option %s", what),
				 errdetail("Only superusers may set or keep it.")));
}

/* The number an option's value stands for; ERROR 22023 if it is none or out of bounds. */
static int
parse_number(const struct OptionRule *rule, const char *value)
{
	const char *hint = NULL;
	int			result;

	if (!parse_int(value, &result, rule->type == OPTION_TIME ? GUC_UNIT_MS : 0, &hint))
		refuse_value(rule->name, hint ? hint :
								 rule->type == OPTION_TIME ?
										"The value must be a whole number of milliseconds, or a number with a unit such as \"5s\"." :
										"The value must be a whole number.");
	if (result < rule->min || result > rule->max)
		refuse_value(rule->name, psprintf("The value must be between %d and %d%s.", rule->min, rule->max,
										  rule->type == OPTION_TIME ? " ms" : ""));
	return result;
}

static void
check_value(const struct OptionRule *rule, DefElem *def)
{
	char *value = defGetString(def);
	bool  required;

	switch (rule->type)
	{
		case OPTION_TEXT:
			if (value[0] == '\0')
				refuse_value(rule->name, "The value must not be empty.");
			break;
		case OPTION_PATH:
			if (!is_absolute_path(value))
				refuse_value(rule->name, "The value must be the absolute path of a unix socket.");
			require_superuser("\"path\"");
			break;
		case OPTION_INTEGER:
		case OPTION_TIME:
			(void) parse_number(rule, value);
			break;
		case OPTION_PASSWORD_REQUIRED:
			if (!parse_bool(value, &required))
				refuse_value(rule->name, "The value must be \"true\" or \"false\".");
			if (!required)
				require_superuser("\"password_required\" to false");
			break;
	}
}

static DefElem *
find_option(List *options, const char *name)
{
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem *def = lfirst(lc);

		if (strcmp(def->defname, name) == 0)
			return def;
	}
	return NULL;
}

/* fdw_validator(options text[], catalog oid): checks all options of one object. */
Datum
streamsink_fdw_validator(PG_FUNCTION_ARGS)
{
	List	 *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid		  catalog = PG_GETARG_OID(1);
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem					*def = lfirst(lc);
		const struct OptionRule *rule = find_rule(def->defname, catalog);

		if (rule == NULL)
			refuse_option(def->defname, catalog);
		check_value(rule, def);
	}

	if (catalog == ForeignServerRelationId && find_option(options, "path") != NULL &&
		(find_option(options, "host") != NULL || find_option(options, "port") != NULL))
		refuse_value("path", "A server has either a path or host and port.");
	if (catalog == UserMappingRelationId && find_option(options, "username") != NULL &&
		find_option(options, "password") == NULL)
		refuse_value("username", "A username needs a password.");

	PG_RETURN_VOID();
}

/* ---- parameters ---- */

/*
 * A wrapper is ours if our validator checks its servers, whatever its name:
 * only superusers can make C functions or wrappers.
 */
static bool
is_our_wrapper(Oid fdw)
{
	Oid		  validator = GetForeignDataWrapper(fdw)->fdwvalidator;
	HeapTuple tuple;
	Datum	  prosrc;
	bool	  isnull;
	bool	  ours;

	if (!OidIsValid(validator))
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(validator));
	if (!HeapTupleIsValid(tuple))
		return false;
	prosrc = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);
	ours = !isnull && ((Form_pg_proc) GETSTRUCT(tuple))->prolang == ClanguageId &&
		   strcmp(TextDatumGetCString(prosrc), VALIDATOR_NAME) == 0;
	ReleaseSysCache(tuple);
	return ours;
}

static ForeignServer *
find_server(const char *server_name)
{
	ForeignServer *server = GetForeignServerByName(server_name, true);

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", server_name),
				 errhint("Use CREATE SERVER ... FOREIGN DATA WRAPPER streamsink.")));
	if (!is_our_wrapper(server->fdwid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a Redis server", server_name),
				 errdetail("It belongs to another foreign-data wrapper."),
				 errhint("Use CREATE SERVER ... FOREIGN DATA WRAPPER streamsink.")));
	return server;
}

Oid
ss_server_oid(const char *server_name)
{
	return find_server(server_name)->serverid;
}

/* Options of the role's user mapping, else of PUBLIC's, else none. */
static List *
find_mapping_options(Oid server, Oid role)
{
	HeapTuple tuple;
	Datum	  options;
	bool	  isnull;
	List	 *result;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role), ObjectIdGetDatum(server));
	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid), ObjectIdGetDatum(server));
	if (!HeapTupleIsValid(tuple))
		return NIL;
	options = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &isnull);
	result = isnull ? NIL : untransformRelOptions(options);
	ReleaseSysCache(tuple);
	return result;
}

static char *
get_text(List *options, const char *name)
{
	DefElem *def = find_option(options, name);

	return def ? defGetString(def) : NULL;
}

/* Redis compares bytes: what users type is sent as UTF-8. */
static char *
get_secret(List *options, const char *name)
{
	char *value = get_text(options, name);

	return value ? pg_server_to_any(value, strlen(value), PG_UTF8) : NULL;
}

static int
get_number(List *options, const char *name, int missing)
{
	char *value = get_text(options, name);

	return value ? parse_number(find_rule(name, ForeignServerRelationId), value) : missing;
}

static bool
get_password_required(List *options)
{
	char *value = get_text(options, "password_required");
	bool  required;

	return value == NULL || !parse_bool(value, &required) || required;
}

SsRedisParams *
ss_server_params(const char *server_name, Oid role)
{
	ForeignServer *server = find_server(server_name);
	SsRedisParams *params = palloc0(sizeof(SsRedisParams));
	List		  *mapping;

	if (ss_compat_server_aclcheck(server->serverid, role) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_SERVER, server_name);

	mapping = find_mapping_options(server->serverid, role);
	params->server_name = pstrdup(server_name);
	params->path = get_text(server->options, "path");
	if (params->path == NULL)
	{
		params->host = get_text(server->options, "host");
		if (params->host == NULL)
			params->host = pstrdup(DEFAULT_HOST);
	}
	params->port = get_number(server->options, "port", DEFAULT_PORT);
	params->db = get_number(server->options, "db", 0);
	params->connect_timeout = get_number(server->options, "connect_timeout", DEFAULT_CONNECT_TIMEOUT);
	params->command_timeout = get_number(server->options, "command_timeout", ss_guc_command_timeout);
	params->username = get_secret(mapping, "username");
	params->password = get_secret(mapping, "password");

	if (params->password == NULL && !superuser_arg(role) &&
		get_password_required(server->options) && get_password_required(mapping))
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required to use server \"%s\"", server_name),
				 errdetail("Roles that are not superusers must bring a password in their user mapping."),
				 errhint("Set password in the user mapping, or let a superuser set password_required to false on the server or the user mapping.")));
	return params;
}
