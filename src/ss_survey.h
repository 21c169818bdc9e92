/*
 * ss_survey.h
 *	  Which fields entries have, and with what kinds of values: what new
 *	  columns are made from.
 */
#ifndef SS_SURVEY_H
#define SS_SURVEY_H

#include "utils/hsearch.h"
#include "ss_guess.h"
#include "ss_run.h"

/* One field that can be a column. */
typedef struct SsSurveyField
{
	char	name[NAMEDATALEN];
	SsGuess seen;
} SsSurveyField;

typedef struct SsSurvey
{
	MemoryContext	cxt;
	MemoryContext	scratch;
	HTAB		   *by_name;
	SsSurveyField **fields; /* in the order in which they were seen */
	int				nfields;
	int				max;   /* most fields that are kept */
	bool			full;  /* there were more */
	char		   *unfit; /* a name that cannot be a column, printable, or NULL */
	int				entries;
	int				streams;
} SsSurvey;

/* An empty one, in a child context of CurrentMemoryContext. */
extern SsSurvey *ss_survey_begin(int max);
extern void		 ss_survey_end(SsSurvey *survey);

/* Add a value of a field; name in server encoding, terminated. */
extern void ss_survey_add(SsSurvey *survey, const char *name, SsFieldKind kind, const char *value, size_t len);

/* The same for a value as Redis sent it. */
extern void ss_survey_add_raw(SsSurvey *survey, const char *name, const SsReply *value);

/* Note a name that cannot be one of a column. */
extern void ss_survey_skip(SsSurvey *survey, const char *name, size_t len);

/*
 * Look at the newest entries of the pipeline's streams, as its owner; nothing
 * is consumed.  The fields that are left out are those that no column can be
 * named after.  Waits for Redis inside the caller's transaction: for sessions.
 */
extern SsSurvey *ss_survey_streams(const SsPipeline *pipeline, const SsTemplate *tmpl, int max);

/* Can a column have this name, and be filled from a field of this name? */
extern bool ss_survey_fits(const char *name, size_t len);

#endif /* SS_SURVEY_H */
