/*
 * ss_verdict.h
 *	  refuse() and ignore(): what the statements of a transform say about single
 *	  entries of the batch.
 */
#ifndef SS_VERDICT_H
#define SS_VERDICT_H

#include "utils/elog.h"

typedef enum SsVerdict
{
	SS_VERDICT_NONE,
	SS_VERDICT_IGNORED,
	SS_VERDICT_REFUSED
} SsVerdict;

/* The verdicts on the rows of one try; an opaque one lives in the memory context it was made in. */
typedef struct SsVerdicts SsVerdicts;

/* For rows whose _seq are first to first + count - 1, in CurrentMemoryContext. */
extern SsVerdicts *ss_verdict_create(int first, int count);

/*
 * Whose verdicts refuse() and ignore() of this process reach; NULL: nobody's.
 * Who enters leaves by entering what was there before, also after an error.
 */
extern SsVerdicts *ss_verdict_current(void);
extern void		   ss_verdict_enter(SsVerdicts *verdicts);

/* Before the statements run once more: what was ignored may be so again, what was refused stays. */
extern void ss_verdict_again(SsVerdicts *verdicts);

/* How many there are. */
extern int ss_verdict_refused(const SsVerdicts *verdicts);
extern int ss_verdict_ignored(const SsVerdicts *verdicts);

/* Of one row, counted from 0; of a refused one the error too. */
extern SsVerdict ss_verdict_of(const SsVerdicts *verdicts, int row, ErrorData **error);

#endif /* SS_VERDICT_H */
