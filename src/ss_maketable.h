/*
 * ss_maketable.h
 *	  create_target: the table for a new pipeline, out of its definition and
 *	  what its entries look like.
 */
#ifndef SS_MAKETABLE_H
#define SS_MAKETABLE_H

#include "ss_survey.h"

/*
 * Make the target, as the current user; it must not exist.  survey: of its
 * streams, or NULL if they were not looked at.  Says in a NOTICE which
 * statement it was, and keeps it in the table's comment.  ERROR 42P16 no
 * column is known, 42703 the key names a column that is not, 22023 no key
 * where one is needed, and what CREATE TABLE raises.
 */
extern void ss_maketable_run(const SsPipeline *pipeline, const SsTemplate *tmpl, const SsSurvey *survey);

#endif /* SS_MAKETABLE_H */
