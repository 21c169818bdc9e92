/*
 * ss_error.c
 *	  From a SQLSTATE to what is done: errors are data, machine or set-up.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "ss_error.h"

/*
 * A full SQLSTATE, or the two characters of a class.  The first row that
 * matches counts, so full codes stand before their classes.
 */
typedef struct ErrorRule
{
	const char *code;
	SsDecision	many;	/* several rows caused it */
	SsDecision	single; /* one row alone caused it */
	const char *hint;	/* what to do about it, or NULL */
} ErrorRule;

static const ErrorRule rules[] = {
	/* single codes */
	{"21000", SS_ERROR_HALVE, SS_ERROR_REFUSE, NULL},
	{"25006", SS_ERROR_WAIT, SS_ERROR_WAIT, "The server or the session is read-only. Writing goes on once it is not."},
	{"28P01", SS_ERROR_WAIT, SS_ERROR_WAIT, "Check user name and password in the user mapping of the pipeline's owner."},
	{"42501", SS_ERROR_WAIT, SS_ERROR_WAIT, "Grant the pipeline's owner the missing privilege, or the row security policy that lets it write these rows."},
	{"42703", SS_ERROR_WAIT, SS_ERROR_WAIT, "Add the column, or change the pipeline with streamsink.alter_pipeline()."},
	{"42804", SS_ERROR_WAIT, SS_ERROR_WAIT, "Make the column's type and the pipeline's row type agree."},
	{"42P01", SS_ERROR_WAIT, SS_ERROR_WAIT, "Create the table, or change the pipeline with streamsink.alter_pipeline()."},
	{"42P10", SS_ERROR_WAIT, SS_ERROR_WAIT, "Create a unique index on the key's columns, or change the pipeline's \"key\"."},
	{"42883", SS_ERROR_WAIT, SS_ERROR_WAIT, "Create the function or the operator, or set the pipeline's search_path in its \"settings\"."},
	{"3F000", SS_ERROR_WAIT, SS_ERROR_WAIT, "Create the schema, or change the pipeline with streamsink.alter_pipeline()."},
	{"53200", SS_ERROR_HALVE, SS_ERROR_REFUSE, NULL},
	{"55P03", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	/* a user's cancel; our own deadline is told apart before this table is asked */
	{"57014", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	{"57P01", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	{"57P02", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	{"57P03", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	{"57P04", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	{"57P05", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	{"58030", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	{"P0001", SS_ERROR_REFUSE, SS_ERROR_REFUSE, NULL},
	/* data */
	{"22", SS_ERROR_REFUSE, SS_ERROR_REFUSE, NULL},
	{"23", SS_ERROR_REFUSE, SS_ERROR_REFUSE, NULL},
	{"44", SS_ERROR_REFUSE, SS_ERROR_REFUSE, NULL},
	{"54", SS_ERROR_REFUSE, SS_ERROR_REFUSE, NULL},
	/* machine */
	{"08", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	{"40", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	{"53", SS_ERROR_RETRY, SS_ERROR_RETRY, NULL},
	/* set-up, and whatever is not known */
	{"", SS_ERROR_WAIT, SS_ERROR_WAIT, NULL}};

static bool deadline_passed = false;
static void (*rearm_deadline)(void) = NULL;

static const ErrorRule *
find_rule(int sqlstate)
{
	const char		*code = unpack_sql_state(sqlstate);
	const ErrorRule *rule = rules;

	/* the last row matches everything */
	while (strncmp(code, rule->code, strlen(rule->code)) != 0)
		rule++;
	return rule;
}

SsDecision
ss_error_decide(int sqlstate, bool single)
{
	const ErrorRule *rule;

	if (sqlstate == ERRCODE_QUERY_CANCELED && deadline_passed)
		return single ? SS_ERROR_REFUSE : SS_ERROR_HALVE;

	rule = find_rule(sqlstate);
	return single ? rule->single : rule->many;
}

bool
ss_error_is_data(int sqlstate)
{
	return find_rule(sqlstate)->many == SS_ERROR_REFUSE;
}

bool
ss_error_is_collision(int sqlstate)
{
	return sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED || sqlstate == ERRCODE_T_R_SERIALIZATION_FAILURE;
}

bool
ss_error_counts(int sqlstate)
{
	return find_rule(sqlstate)->single == SS_ERROR_RETRY && !ss_error_is_collision(sqlstate) &&
		   ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_OPERATOR_INTERVENTION;
}

bool
ss_error_deadline_passed(void)
{
	return deadline_passed;
}

void
ss_error_set_deadline(bool passed)
{
	deadline_passed = passed;
}

void
ss_error_on_next_try(void (*rearm)(void))
{
	rearm_deadline = rearm;
}

void
ss_error_next_try(void)
{
	if (!deadline_passed)
		return;
	deadline_passed = false;
	if (rearm_deadline != NULL)
		rearm_deadline();
}

bool
ss_error_misses_batch(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_UNDEFINED_TABLE && error->message != NULL &&
		   strstr(error->message, "\"batch\"") != NULL;
}

const char *
ss_error_hint(const ErrorData *error)
{
	if (error->hint != NULL)
		return error->hint;

	/* the relation that only a pipeline's own statements can see */
	if (ss_error_misses_batch(error))
		return "The relation \"batch\" is visible in the pipeline's own statements only, not inside functions or views they use.";

	return find_rule(error->sqlerrcode)->hint;
}
