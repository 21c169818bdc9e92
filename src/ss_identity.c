/*
 * ss_identity.c
 *	  Run a pipeline's SQL as its owner with the pipeline's settings.
 *
 * NOTES
 *	  A session switches its user id locally and sets in a nest level of its
 *	  own, so an abort undoes both.  A worker is connected as the owner; it sets
 *	  with PGC_S_OVERRIDE, which no rollback takes back and no ALTER ROLE or
 *	  ALTER DATABASE passes.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "ss_identity.h"

/* What a pipeline may set, by canonical name.  All can be set by any user. */
typedef struct Setting
{
	const char *name;
	bool		captured; /* kept with every pipeline: meaning depends on it */
} Setting;

static const Setting settings[] = {
	{"search_path", true},
	{"TimeZone", true},
	{"DateStyle", true},
	{"IntervalStyle", true},
	{"synchronous_commit", false},
	{"lock_timeout", false},
	{"work_mem", false},
};

#define NSETTINGS ((int) lengthof(settings))

/* What a worker pins, before the pipeline's settings; those that a server version lacks are skipped. */
static const char *const pinned[][2] = {
	{"role", "none"}, /* the owner's own: ALTER DATABASE ... SET role would give another */
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"row_security", "on"},
	{"standard_conforming_strings", "on"}, /* as a transform was read when it was checked */
	{"session_replication_role", "origin"},
	{"zero_damaged_pages", "off"},
	{"statement_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	{"idle_session_timeout", "0"},
	{"transaction_timeout", "0"},
	{"lock_timeout", "0"},
};

static int
find_setting(const char *name)
{
	for (int i = 0; i < NSETTINGS; i++)
	{
		if (pg_strcasecmp(settings[i].name, name) == 0)
			return i;
	}
	return -1;
}

static void
raise_unknown_setting(const char *name)
{
	StringInfoData valid;

	initStringInfo(&valid);
	for (int i = 0; i < NSETTINGS; i++)
		appendStringInfo(&valid, "%s%s", i > 0 ? ", " : "", settings[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("setting \"%s\" cannot be kept with a pipeline", name),
			 errhint("Valid settings are: %s.", valid.data)));
}

/*
 * The values of a jsonb object by setting; those not given are NULL.  ERROR
 * 22023 for anything but an object of known names and scalars.
 */
static void
read_settings(const Jsonb *given, char **values)
{
	Jsonb			  *object = unconstify(Jsonb *, given);
	JsonbIterator	  *it;
	JsonbIteratorToken token;
	JsonbValue		   item;
	int				   setting = -1;

	memset(values, 0, sizeof(char *) * NSETTINGS);
	if (given == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("settings must be a JSON object"),
				 errhint("For example {\"synchronous_commit\": \"off\"}.")));

	it = JsonbIteratorInit(&object->root);
	while ((token = JsonbIteratorNext(&it, &item, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			char *name = pnstrdup(item.val.string.val, item.val.string.len);

			setting = find_setting(name);
			if (setting < 0)
				raise_unknown_setting(name);
		}
		else if (token == WJB_VALUE)
		{
			if (item.type == jbvString)
				values[setting] = pnstrdup(item.val.string.val, item.val.string.len);
			else if (item.type == jbvNumeric)
				values[setting] = DatumGetCString(DirectFunctionCall1(numeric_out,
																	  NumericGetDatum(item.val.numeric)));
			else if (item.type == jbvBool)
				values[setting] = pstrdup(item.val.boolean ? "on" : "off");
			else
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("setting \"%s\" must be a string, a number or a boolean",
								settings[setting].name)));
		}
	}
}

bool
ss_identity_may_watch(Oid owner)
{
	return is_member_of_role(GetUserId(), ROLE_PG_MONITOR) ||
		   (OidIsValid(owner) && is_member_of_role(GetUserId(), owner));
}

void
ss_identity_check(const SsPipeline *pipeline)
{
	if (!OidIsValid(pipeline->owner_oid))
	{
		if (superuser())
			return; /* who may repair it */
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("owner \"%s\" of pipeline \"%s\" does not exist",
						pipeline->owner, pipeline->name),
				 errhint("A superuser can set new_owner with streamsink.alter_pipeline.")));
	}
	if (!has_privs_of_role(GetUserId(), pipeline->owner_oid))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for pipeline \"%s\"", pipeline->name),
				 errdetail("You must be a member of its owner \"%s\".", pipeline->owner)));
}

void
ss_identity_enter(const SsPipeline *pipeline, SsIdentity *saved)
{
	char *values[NSETTINGS];
	int	  sec_context;

	if (!OidIsValid(pipeline->owner_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("owner \"%s\" of pipeline \"%s\" does not exist",
						pipeline->owner, pipeline->name)));
	read_settings(pipeline->settings, values);

	GetUserIdAndSecContext(&saved->userid, &saved->sec_context);
	saved->guc_level = NewGUCNestLevel();

	/* as a worker has it; who may not set this cannot have changed it either */
	if (strcmp(GetConfigOption("session_replication_role", false, false), "origin") != 0)
		(void) set_config_option("session_replication_role", "origin", PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("row_security", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("standard_conforming_strings", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);

	/*
	 * An owner who has not all of the caller's privileges must not leave
	 * anything behind that runs as the caller later: deferred triggers, open
	 * cursors, temporary objects.
	 */
	sec_context = saved->sec_context | SECURITY_LOCAL_USERID_CHANGE;
	if (!has_privs_of_role(pipeline->owner_oid, saved->userid))
		sec_context |= SECURITY_RESTRICTED_OPERATION;
	SetUserIdAndSecContext(pipeline->owner_oid, sec_context);
	for (int i = 0; i < NSETTINGS; i++)
	{
		if (values[i] != NULL)
			(void) set_config_option(settings[i].name, values[i], PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
	}
}

void
ss_identity_leave(const SsIdentity *saved)
{
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->userid, saved->sec_context);
}

void
ss_identity_pin(const SsPipeline *pipeline)
{
	/* values before our first change, and whether one is in force: an altered pipeline may set less than before */
	static char *original[NSETTINGS];
	static bool	 applied[NSETTINGS];
	char		*values[NSETTINGS];

	read_settings(pipeline->settings, values);

	for (int i = 0; i < (int) lengthof(pinned); i++)
	{
		if (GetConfigOption(pinned[i][0], true, false) != NULL)
			SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	}

	for (int i = 0; i < NSETTINGS; i++)
	{
		if (values[i] != NULL)
		{
			if (original[i] == NULL)
				original[i] = MemoryContextStrdup(TopMemoryContext,
												  GetConfigOption(settings[i].name, false, false));
			SetConfigOption(settings[i].name, values[i], PGC_USERSET, PGC_S_OVERRIDE);
			applied[i] = true;
		}
		else if (applied[i])
		{
			SetConfigOption(settings[i].name, original[i], PGC_USERSET, PGC_S_OVERRIDE);
			applied[i] = false;
		}
	}
}

/*
 * The jsonb of settings with a value, and of the captured ones in any case.
 * They are set for a moment and read back: that checks the values and
 * completes one such as DateStyle 'German', whose meaning would otherwise
 * depend on the session that applies it.
 */
static Jsonb *
make_settings(char **values)
{
	JsonbParseState *state = NULL;
	JsonbValue		*result;
	int				 level = NewGUCNestLevel();

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < NSETTINGS; i++)
	{
		JsonbValue key;
		JsonbValue value;

		if (values[i] == NULL && !settings[i].captured)
			continue;
		if (values[i] != NULL)
			(void) set_config_option(settings[i].name, values[i], PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
		key.type = jbvString;
		key.val.string.val = unconstify(char *, settings[i].name);
		key.val.string.len = strlen(settings[i].name);
		value.type = jbvString;
		value.val.string.val = GetConfigOptionByName(settings[i].name, NULL, false);
		value.val.string.len = strlen(value.val.string.val);
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	result = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	AtEOXact_GUC(false, level);
	return JsonbValueToJsonb(result);
}

Jsonb *
ss_identity_capture(const Jsonb *given)
{
	char *values[NSETTINGS];

	read_settings(given, values);
	return make_settings(values);
}

Jsonb *
ss_identity_recapture(const Jsonb *stored, const Jsonb *given)
{
	char *old[NSETTINGS];
	char *values[NSETTINGS];

	read_settings(stored, old);
	read_settings(given, values);
	for (int i = 0; i < NSETTINGS; i++)
	{
		if (values[i] == NULL && settings[i].captured)
			values[i] = old[i];
	}
	return make_settings(values);
}
