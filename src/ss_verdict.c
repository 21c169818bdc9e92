/*
 * ss_verdict.c
 *	  refuse() and ignore(): what the statements of a transform say about single
 *	  entries of the batch.
 *
 * NOTES
 *	  A verdict is only noted here; what follows from it is ss_try.c's.  So a
 *	  statement goes on to its end, and all that it refuses is known at once.  A
 *	  rollback does not take verdicts back: they lie in memory of the try.
 *
 *	  The first refusal of an entry counts, and counts more than that it is ignored.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "utils/builtins.h"
#include "utils/memutils.h"

#include "ss_error.h"
#include "ss_verdict.h"

struct SsVerdicts
{
	MemoryContext cxt;
	int			  first; /* _seq of the first row */
	int			  count;
	uint8		 *verdicts;
	ErrorData	**errors; /* NULL until the first refusal */
	int			  refused;
	int			  ignored;
};

/* Of the statements that run now, or NULL. */
static SsVerdicts *current = NULL;

SS_SQL_FUNCTION(streamsink_refuse);
SS_SQL_FUNCTION(streamsink_ignore);

SsVerdicts *
ss_verdict_create(int first, int count)
{
	SsVerdicts *verdicts = palloc0_object(SsVerdicts);

	verdicts->cxt = CurrentMemoryContext;
	verdicts->first = first;
	verdicts->count = count;
	verdicts->verdicts = palloc0_array(uint8, count);
	return verdicts;
}

SsVerdicts *
ss_verdict_current(void)
{
	return current;
}

void
ss_verdict_enter(SsVerdicts *verdicts)
{
	current = verdicts;
}

void
ss_verdict_again(SsVerdicts *verdicts)
{
	for (int i = 0; i < verdicts->count; i++)
	{
		if (verdicts->verdicts[i] == SS_VERDICT_IGNORED)
			verdicts->verdicts[i] = SS_VERDICT_NONE;
	}
	verdicts->ignored = 0;
}

int
ss_verdict_refused(const SsVerdicts *verdicts)
{
	return verdicts->refused;
}

int
ss_verdict_ignored(const SsVerdicts *verdicts)
{
	return verdicts->ignored;
}

SsVerdict
ss_verdict_of(const SsVerdicts *verdicts, int row, ErrorData **error)
{
	if (error != NULL)
		*error = verdicts->errors != NULL ? verdicts->errors[row] : NULL;
	return (SsVerdict) verdicts->verdicts[row];
}

/* ---- SQL functions ---- */

/*
 * The row that a call is about.  Its errors are of the class "set-up": the
 * transform is wrong, and no entry shall be refused for that.
 */
static int
find_row(FunctionCallInfo fcinfo, const char *function)
{
	int seq;

	if (current == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s() can be called in a transform only", function),
				 errhint("Call it in a statement of a pipeline's \"transform\", with a _seq of batch.")));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s() was called with a _seq that is null", function),
				 errhint("Give the _seq of an entry in batch.")));
	seq = PG_GETARG_INT32(0);
	if (seq < current->first || seq - current->first >= current->count)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s() was called with _seq %d, which no entry of this batch has", function, seq),
				 errhint("Give the _seq of an entry in batch; it means nothing in another batch.")));
	return seq - current->first;
}

/* A code that an entry may be refused with: of a data error, or one that the server does not use. */
static int
refusal_code(FunctionCallInfo fcinfo)
{
	char *code;
	int	  sqlstate;

	if (PG_ARGISNULL(3))
		return ERRCODE_RAISE_EXCEPTION;
	code = text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (strlen(code) == 5 && strspn(code, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5)
	{
		bool own = code[0] >= 'I' && strncmp(code, "XX", 2) != 0;

		sqlstate = MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4]);
		if (own || ss_error_is_data(sqlstate))
			return sqlstate;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is not a code to refuse an entry with", code),
			 errhint("Use a code of the classes 22, 23, 44 or 54, or one of your own: five characters, of which the first is from I to Z.")));
	return 0; /* keep the compiler quiet */
}

/* refuse(seq, message, detail, errcode) bool: false */
Datum
streamsink_refuse(PG_FUNCTION_ARGS)
{
	int			  row = find_row(fcinfo, "refuse");
	int			  sqlstate = refusal_code(fcinfo);
	MemoryContext saved;
	ErrorData	 *error;

	if (current->verdicts[row] == SS_VERDICT_REFUSED)
		PG_RETURN_BOOL(false);

	saved = MemoryContextSwitchTo(current->cxt);
	if (current->errors == NULL)
		current->errors = palloc0_array(ErrorData *, current->count);
	error = palloc0_object(ErrorData);
	error->elevel = ERROR;
	error->sqlerrcode = sqlstate;
	error->message = PG_ARGISNULL(1) ? "the transform refused the entry" : text_to_cstring(PG_GETARG_TEXT_PP(1));
	error->detail = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	MemoryContextSwitchTo(saved);

	if (current->verdicts[row] == SS_VERDICT_IGNORED)
		current->ignored--;
	current->errors[row] = error;
	current->verdicts[row] = SS_VERDICT_REFUSED;
	current->refused++;
	PG_RETURN_BOOL(false);
}

/* ignore(seq, reason) bool: false */
Datum
streamsink_ignore(PG_FUNCTION_ARGS)
{
	int row = find_row(fcinfo, "ignore");

	if (current->verdicts[row] == SS_VERDICT_NONE)
	{
		current->verdicts[row] = SS_VERDICT_IGNORED;
		current->ignored++;
		if (!PG_ARGISNULL(1))
			ereport(DEBUG1,
					(errmsg_internal("entry with _seq %d is ignored: %s",
									 row + current->first, text_to_cstring(PG_GETARG_TEXT_PP(1)))));
	}
	PG_RETURN_BOOL(false);
}
