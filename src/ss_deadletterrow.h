/*
 * ss_deadletterrow.h
 *	  Columns of streamsink.dead_letter and dead_letter_attempt, for
 *	  ss_deadletter.c and ss_deadletterscan.c alone.
 */
#ifndef SS_DEADLETTERROW_H
#define SS_DEADLETTERROW_H

#include "utils/relcache.h"

enum
{
	LETTER_id = 1,
	LETTER_pipeline,
	LETTER_stream,
	LETTER_entry_id,
	LETTER_raw,
	LETTER_edited,
	LETTER_stage,
	LETTER_sqlstate,
	LETTER_error,
	LETTER_detail,
	LETTER_table_name,
	LETTER_column_name,
	LETTER_constraint_name,
	LETTER_attempts,
	LETTER_first_failed_at,
	LETTER_failed_at,
	LETTER_truncated,
	LETTER_NCOLUMNS = LETTER_truncated
};

enum
{
	ATTEMPT_dead_letter = 1,
	ATTEMPT_attempt,
	ATTEMPT_failed_at,
	ATTEMPT_stage,
	ATTEMPT_sqlstate,
	ATTEMPT_error,
	ATTEMPT_NCOLUMNS = ATTEMPT_error
};

/* Delete the history of one dead letter from its open table. */
extern void ss_deadletter_delete_attempts(Relation attempts, int64 id);

#endif /* SS_DEADLETTERROW_H */
