/*
 * ss_survey.c
 *	  Which fields entries have, and with what kinds of values: what new
 *	  columns are made from.
 *
 * NOTES
 *	  Names and values are a stranger's.  How many are looked at is bounded, and
 *	  so are the bytes: values above SAMPLE_BULK arrive cut and say nothing about
 *	  their type, and each read asks for as many entries as their size so far
 *	  allows.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "catalog/heap.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#include "ss_peek.h"
#include "ss_server.h"
#include "ss_survey.h"

#define SAMPLE_STREAMS 100
#define SAMPLE_ENTRIES 1000				  /* of all streams together */
#define SAMPLE_BULK	   (64 * 1024)		  /* bytes; longer values are not looked into */
#define SAMPLE_BYTES   (32 * 1024 * 1024) /* of all entries together */
#define MAX_STEP	   100				  /* entries asked for at a time */
#define REPLY_LIMIT	   ((Size) 256 * 1024 * 1024)
#define SHOWN_NAME	   64 /* bytes of a name in a message */
#define DROPPED_PREFIX "........pg.dropped."

/* ---- fields ---- */

SsSurvey *
ss_survey_begin(int max)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "streamsink survey", ALLOCSET_DEFAULT_SIZES);
	SsSurvey	 *survey = MemoryContextAllocZero(cxt, sizeof(SsSurvey));
	HASHCTL		  control = {0};

	control.keysize = NAMEDATALEN;
	control.entrysize = sizeof(SsSurveyField);
	control.hcxt = cxt;
	survey->cxt = cxt;
	survey->scratch = AllocSetContextCreate(cxt, "streamsink survey entry", ALLOCSET_DEFAULT_SIZES);
	survey->by_name = hash_create("streamsink survey", 64, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	survey->fields = MemoryContextAlloc(cxt, Max(max, 1) * sizeof(SsSurveyField *));
	survey->max = max;
	return survey;
}

void
ss_survey_end(SsSurvey *survey)
{
	MemoryContextDelete(survey->cxt);
}

bool
ss_survey_fits(const char *name, size_t len)
{
	static const char *const ours[] = {"_id", "_stream", "_time", "_seq", "_fields"};

	/* ALTER TABLE takes the name of a dropped column for one that is there */
	if (len == 0 || len >= NAMEDATALEN || SystemAttributeByName(name) != NULL ||
		strncmp(name, DROPPED_PREFIX, strlen(DROPPED_PREFIX)) == 0)
		return false;
	for (int i = 0; i < (int) lengthof(ours); i++)
	{
		if (strcmp(name, ours[i]) == 0)
			return false;
	}
	return true;
}

void
ss_survey_skip(SsSurvey *survey, const char *name, size_t len)
{
	MemoryContext saved;

	if (survey->unfit != NULL)
		return;
	saved = MemoryContextSwitchTo(survey->cxt);
	survey->unfit = ss_reply_printable(name, len, SHOWN_NAME);
	MemoryContextSwitchTo(saved);
}

/* The field of a name; NULL if it is not kept. */
static SsSurveyField *
find_field(SsSurvey *survey, const char *name)
{
	size_t		   len = strlen(name);
	SsSurveyField *field;
	bool		   found;

	if (!ss_survey_fits(name, len))
	{
		ss_survey_skip(survey, name, len);
		return NULL;
	}
	field = hash_search(survey->by_name, name, survey->nfields < survey->max ? HASH_ENTER : HASH_FIND, &found);
	if (field == NULL)
	{
		survey->full = true;
		return NULL;
	}
	if (!found)
	{
		field->seen = 0;
		survey->fields[survey->nfields++] = field;
	}
	return field;
}

void
ss_survey_add(SsSurvey *survey, const char *name, SsFieldKind kind, const char *value, size_t len)
{
	SsSurveyField *field = find_field(survey, name);

	/* text takes everything: no further look is needed */
	if (field != NULL && (field->seen & (SS_GUESS_TEXT | SS_GUESS_RAW)) != (SS_GUESS_TEXT | SS_GUESS_RAW))
		field->seen |= ss_guess_value(kind, value, len);
}

void
ss_survey_add_raw(SsSurvey *survey, const char *name, const SsReply *value)
{
	char		  *text;
	SsSurveyField *field;

	if (value->truncated)
	{
		(void) find_field(survey, name);
		return;
	}
	text = ss_decode_try_text(value->str, value->n);
	if (text != NULL)
		ss_survey_add(survey, name, SS_FIELD_TEXT, text, text == value->str ? value->n : strlen(text));
	else if ((field = find_field(survey, name)) != NULL)
		field->seen |= SS_GUESS_TEXT | SS_GUESS_RAW;
}

/* ---- entries ---- */

/* The members of a payload, in a subtransaction: it may be anything. */
static void
add_members(SsSurvey *survey, const SsReply *payload)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	SsField *volatile members = NULL;
	volatile int nmembers = 0;
	char		*json = payload->truncated ? NULL : ss_decode_try_text(payload->str, payload->n);

	if (json == NULL)
		return;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		SsField *parsed;

		nmembers = ss_decode_payload(json, strlen(json), &parsed);
		members = parsed;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;

	for (int i = 0; i < nmembers; i++)
		ss_survey_add(survey, members[i].name, members[i].kind, members[i].value, members[i].value_len);
}

static void
add_entry(SsSurvey *survey, const SsEntry *entry, const char *payload)
{
	for (uint32 i = 0; i < entry->nfields; i++)
	{
		const SsReply *name = &entry->fields[2 * i];
		const SsReply *value = &entry->fields[2 * i + 1];
		char		  *text = name->truncated ? NULL : ss_decode_try_text(name->str, name->n);

		if (text == NULL)
		{
			ss_survey_skip(survey, name->str, name->n);
			continue;
		}
		if (payload != NULL && strcmp(text, payload) == 0)
			add_members(survey, value);
		ss_survey_add_raw(survey, text, value);
	}
	survey->entries++;
}

static void
add_batch(SsSurvey *survey, const SsBatch *batch, const char *payload)
{
	MemoryContext saved = MemoryContextSwitchTo(survey->scratch);

	for (int i = 0; i < batch->nentries; i++)
	{
		CHECK_FOR_INTERRUPTS();
		add_entry(survey, &batch->entries[i], payload);
		MemoryContextReset(survey->scratch);
	}
	MemoryContextSwitchTo(saved);
}

/* The newest entries of one stream, at most n of them; returns the bytes read. */
static int64
add_stream(SsSurvey *survey, SsRedis *redis, SsStream *stream, const char *payload, int n, int64 budget)
{
	SsEntryId before = SS_ENTRYID_MAX;
	int64	  bytes = 0;
	int		  taken = 0;
	int		  step = 1;

	while (taken < n && bytes < budget)
	{
		int		 asked = Min(step, n - taken);
		SsBatch *batch = ss_batch_create(survey->cxt, REPLY_LIMIT);
		int		 came;

		CHECK_FOR_INTERRUPTS();
		ss_stream_append_newest(redis, stream, before, asked);
		came = ss_stream_parse_range(ss_redis_receive(redis, &batch->arena, 0, PG_WAIT_EXTENSION), stream, batch);
		add_batch(survey, batch, payload);
		if (came > 0)
			before = batch->entries[came - 1].id;
		taken += came;
		bytes += batch->arena.used;
		ss_batch_free(batch);
		if (came < asked)
			break;

		/* as many as the rest of the budget has room for, by what they needed so far */
		step = Min(Min(step * 4, MAX_STEP), (int) Max(1, (budget - bytes) / Max(1, bytes / taken)));
	}
	return bytes;
}

SsSurvey *
ss_survey_streams(const SsPipeline *pipeline, const SsTemplate *tmpl, int max)
{
	SsSurvey	  *survey = ss_survey_begin(max);
	MemoryContext  saved = MemoryContextSwitchTo(survey->cxt);
	SsRun		   run = {.cxt = survey->cxt, .pipeline = unconstify(SsPipeline *, pipeline), .tmpl = unconstify(SsTemplate *, tmpl)};
	SsRedisParams *params = ss_server_params(pipeline->server, pipeline->owner_oid);
	SsRedis		  *redis;
	List		  *streams;
	int64		   bytes = 0;
	ListCell	  *lc;

	params->max_bulk = SAMPLE_BULK;
	redis = ss_redis_open(params, survey->cxt, "streamsink:define");
	streams = list_truncate(ss_peek_streams(redis, &run, SAMPLE_STREAMS), SAMPLE_STREAMS);
	foreach(lc, streams)
	{
		int	  before = survey->entries;
		int64 budget = (SAMPLE_BYTES - bytes) / (list_length(streams) - foreach_current_index(lc));
		int64 n = (SAMPLE_ENTRIES - survey->entries) / (list_length(streams) - foreach_current_index(lc));

		bytes += add_stream(survey, redis, lfirst(lc), pipeline->payload, (int) Max(1, n), Max(1, budget));
		if (survey->entries > before)
			survey->streams++;
	}
	ss_redis_close(redis);
	MemoryContextSwitchTo(saved);
	return survey;
}
