/*
 * ss_evolve.c
 *	  evolve: fields that no column takes get one.
 *
 * NOTES
 *	  The conversion of a batch notices names that nobody looks for, at no cost.
 *	  Then the entries that it found good are looked at again.  If some of these
 *	  names can be columns, the conversion is rolled back, the batch's
 *	  transaction ends, and ALTER TABLE runs in one of its own: it must not wait
 *	  for its lock while it holds a weaker one on the same table, as another
 *	  worker may at the same moment.  A crash between the two transactions
 *	  leaves a column without values, and the entries pending.
 *
 *	  The lock is waited for briefly, because all who want the table queue up
 *	  behind; a long reader makes the pipeline wait and try again.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/resowner.h"

#include "ss_ddl.h"
#include "ss_define.h"
#include "ss_evolve.h"
#include "ss_fault.h"
#include "ss_guc.h"
#include "ss_rows.h"
#include "ss_survey.h"

#define MAX_ROUNDS		3	  /* for one batch: somebody may drop what we add */
#define LONGEST_LOCK_MS 10000 /* of a wait for the table that is ours to choose */

struct SsEvolve
{
	MemoryContext cxt;
	SsSurvey	 *wanted;	 /* fields that shall become columns, or NULL */
	char		 *statement; /* that added some, not reported yet */
	int			  rounds;	 /* for this batch */
	bool		  said_full;
	bool		  said_unfit;
};

static SsEvolve *
get_evolve(SsRun *run)
{
	if (run->evolve == NULL)
	{
		run->evolve = MemoryContextAllocZero(run->cxt, sizeof(SsEvolve));
		run->evolve->cxt = AllocSetContextCreate(run->cxt, "streamsink evolve", ALLOCSET_SMALL_SIZES);
	}
	return run->evolve;
}

/* For who watches the worker's log, or has called ingest. */
static int
message_level(void)
{
	return MyBgworkerEntry != NULL ? LOG : NOTICE;
}

static const char *
where_left(const SsRun *run)
{
	return run->pipeline->rest != NULL ? "goes to \"rest\"" : "is not written";
}

/* ---- looking at entries ---- */

/* Is there a column of that name, or a placeholder that one would be filled from? */
static bool
is_taken(const SsMapping *mapping, const char *name)
{
	for (int i = 0; i < mapping->ncolumns; i++)
	{
		if (strcmp(mapping->columns[i].pub.name, name) == 0)
			return true;
	}
	for (int i = 0; i < mapping->nplaceholders; i++)
	{
		if (strcmp(mapping->placeholders[i], name) == 0)
			return true;
	}
	return false;
}

static void
add_members(SsSurvey *survey, SsMapping *mapping, const SsReply *payload)
{
	char	*json = ss_decode_text(payload->str, payload->n);
	SsField *members;
	int		 nmembers = ss_decode_payload(json, json == payload->str ? payload->n : strlen(json), &members);

	for (int i = 0; i < nmembers; i++)
	{
		const SsField *member = &members[i];

		if (ss_names_find(&mapping->members, i, member->name, member->name_len) < 0 && !is_taken(mapping, member->name))
			ss_survey_add(survey, member->name, member->kind, member->value, member->value_len);
	}
}

static void
add_entry(SsSurvey *survey, SsMapping *mapping, const SsEntry *entry)
{
	const SsReply *payload = NULL;

	for (uint32 i = 0; i < entry->nfields; i++)
	{
		const SsReply *name = &entry->fields[2 * i];
		const SsReply *value = &entry->fields[2 * i + 1];
		int			   known = ss_names_find(&mapping->raw, i, name->str, name->n);
		char		  *text;

		if (known >= 0)
		{
			if (known == mapping->payload)
				payload = value;
			continue;
		}
		text = ss_decode_try_text(name->str, name->n);
		if (text == NULL)
			ss_survey_skip(survey, name->str, name->n);
		else if (!is_taken(mapping, text))
			ss_survey_add_raw(survey, text, value);
	}
	if (payload != NULL)
		add_members(survey, mapping, payload);
}

/* A field's type, or InvalidOid if it gets no column: nothing but nulls, or what rest is for. */
static Oid
column_type(const SsRun *run, const SsSurveyField *field)
{
	Oid type = ss_guess_type(field->seen);

	return type == JSONBOID && run->pipeline->rest != NULL ? InvalidOid : type;
}

/* How many columns may be added; says so once when there is no room. */
static int
get_room(SsRun *run, SsEvolve *evolve, Oid target)
{
	Relation rel = relation_open(target, NoLock);
	int		 natts = RelationGetNumberOfAttributes(rel);

	relation_close(rel, NoLock);
	if (natts < ss_guc_max_columns)
		evolve->said_full = false;
	else if (!evolve->said_full)
	{
		evolve->said_full = true;
		ereport(message_level(),
				(errmsg("pipeline \"%s\" adds no more columns to its target", run->pipeline->name),
				 errdetail("It has %d, and streamsink.max_columns is %d. What more there is in entries %s.",
						   natts, ss_guc_max_columns, where_left(run))));
	}
	return Max(ss_guc_max_columns - natts, 0);
}

/* Note the fields of the batch's entries that lack columns; false if there are none. */
static bool
wants_columns(SsRun *run, const SsBatch *batch)
{
	SsMapping	 *mapping = run->mapping;
	SsEvolve	 *evolve;
	SsSurvey	 *survey;
	MemoryContext saved;
	int			  wanted = 0;

	if (!mapping->met_unknown || !mapping->generated_insert)
		return false;
	evolve = get_evolve(run);
	if (evolve->rounds >= MAX_ROUNDS || get_room(run, evolve, mapping->target) == 0)
		return false;

	MemoryContextReset(evolve->cxt);
	evolve->wanted = NULL;
	evolve->statement = NULL;
	saved = MemoryContextSwitchTo(evolve->cxt);
	survey = ss_survey_begin(MaxHeapAttributeNumber);
	MemoryContextSwitchTo(survey->scratch);
	for (int i = 0; i < batch->nentries; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (batch->entries[i].outcome == SS_OUTCOME_NEW && batch->entries[i].fields != NULL)
			add_entry(survey, mapping, &batch->entries[i]);
		MemoryContextReset(survey->scratch);
	}
	MemoryContextSwitchTo(saved);

	if (survey->unfit != NULL && !evolve->said_unfit)
	{
		evolve->said_unfit = true;
		ereport(message_level(),
				(errmsg("a field of pipeline \"%s\" cannot become a column: \"%s\"", run->pipeline->name, survey->unfit),
				 errdetail("A column's name has 1 to %d bytes, and is not one of the server's or of batch. The field %s. Others like it are not reported.",
						   NAMEDATALEN - 1, where_left(run))));
	}
	for (int i = 0; i < survey->nfields; i++)
		wanted += OidIsValid(column_type(run, survey->fields[i])) ? 1 : 0;
	if (wanted == 0)
	{
		ss_survey_end(survey);
		return false;
	}
	evolve->wanted = survey;
	evolve->rounds++;
	return true;
}

int
ss_evolve_rows(SsRun *run, SsBatch *batch, SsRow **rows)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			  nrows;

	/* defaults may have done something that must not be done twice */
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	nrows = ss_mapping_rows(run->mapping, batch, rows);
	if (wants_columns(run, batch))
	{
		nrows = -1;
		RollbackAndReleaseCurrentSubTransaction();
	}
	else
		ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	return nrows;
}

/* ---- adding columns ---- */

/* The statement for what is still missing of the wanted columns, as far as there is room; NULL if nothing is. */
static char *
build_statement(SsRun *run, SsEvolve *evolve, Oid target)
{
	int			   room = get_room(run, evolve, target);
	const char	  *separator = "\n    ";
	StringInfoData statement;
	int			   n = 0;

	initStringInfo(&statement);
	appendStringInfo(&statement, "ALTER TABLE %s", ss_ddl_relation(target));
	for (int i = 0; i < evolve->wanted->nfields && n < room; i++)
	{
		const SsSurveyField *field = evolve->wanted->fields[i];
		Oid					 type = column_type(run, field);

		if (!OidIsValid(type) || get_attnum(target, field->name) != InvalidAttrNumber)
			continue;
		appendStringInfo(&statement, "%sADD COLUMN IF NOT EXISTS ", separator);
		ss_ddl_append_column(&statement, field->name, type);
		separator = ",\n    ";
		n++;
	}
	return n > 0 ? statement.data : NULL;
}

/* Lock the target and add the columns; every lock is waited for as long as lock_timeout says. */
static void
lock_and_alter(SsRun *run, SsEvolve *evolve)
{
	RangeVar *name = makeRangeVarFromNameList(ss_compat_name_list(run->pipeline->target));
	Oid		  target = RangeVarGetRelid(name, NoLock, true);
	char	 *statement;

	if (!OidIsValid(target))
		return; /* the batch says that better */

	/* who may not alter it must not even lock it */
	ss_define_check_evolves(target, GetUserId());
	target = RangeVarGetRelid(name, AccessExclusiveLock, true);
	if (!OidIsValid(target))
		return;
	ss_define_check_evolves(target, GetUserId());
	statement = build_statement(run, evolve, target);
	if (statement == NULL)
		return;
	ss_ddl_run(statement);
	evolve->statement = MemoryContextStrdup(evolve->cxt, statement);
}

/* How long to wait for the table: the pipeline's lock_timeout, or a little longer than an autovacuum is left alone. */
static int
lock_patience(void)
{
	int patience = LockTimeout > 0 ? LockTimeout : Min(DeadlockTimeout, LONGEST_LOCK_MS - 1000) + 1000;

	/* the batch's own deadline must not come first: it is not the entries' fault */
	return ss_guc_batch_timeout > 0 ? Max(1, Min(patience, ss_guc_batch_timeout / 2)) : patience;
}

void
ss_evolve_alter(SsRun *run)
{
	SsEvolve	 *evolve = run->evolve;
	MemoryContext cxt = CurrentMemoryContext;
	char		  patience[16];
	int			  level;

	if (evolve == NULL || evolve->wanted == NULL)
		return;
	ss_catalog_lock(run->pipeline->id, AccessShareLock);
	if (!ss_catalog_is_current(run->pipeline))
		return; /* as will be seen when the batch is settled */

	SS_FAULT("before-evolve");
	snprintf(patience, sizeof(patience), "%d", lock_patience());
	level = NewGUCNestLevel();
	(void) set_config_option("lock_timeout", patience, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PG_TRY();
	{
		lock_and_alter(run, evolve);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		MemoryContextSwitchTo(cxt);
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("target %s of pipeline \"%s\" is in use, so new fields get no columns yet",
						run->pipeline->target, run->pipeline->name),
				 errdetail("It was waited for %s ms. Entries are written when it has the columns.", patience),
				 errhint("A transaction that holds the table must end, or evolve be set to false.")));
	}
	PG_END_TRY();
	AtEOXact_GUC(false, level);
	ss_survey_end(evolve->wanted);
	evolve->wanted = NULL;
}

void
ss_evolve_report(SsRun *run)
{
	SsEvolve *evolve = run->evolve;

	if (evolve == NULL || evolve->statement == NULL)
		return;
	ereport(message_level(),
			(errmsg("pipeline \"%s\" added columns for new fields", run->pipeline->name),
			 errdetail_internal("%s;", evolve->statement)));
	pfree(evolve->statement);
	evolve->statement = NULL;
}

void
ss_evolve_settled(SsRun *run)
{
	if (run->evolve != NULL)
		run->evolve->rounds = 0;
}
