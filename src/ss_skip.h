/*
 * ss_skip.h
 *	  What the parser of replies could not finish.
 */
#ifndef SS_SKIP_H
#define SS_SKIP_H

#include "ss_reply.h"

#define HEADER_MAX_BYTES 32 /* of a number, with its line end */

/* An overlong string that is thrown away as it comes, but for a prefix. */
typedef struct SsSkip
{
	uint64 left;	 /* bytes to come, its line end included; 0: none */
	uint64 full_len; /* of the string */
	int	   prefix_len;
	char   prefix[SS_REDIS_PREFIX];
} SsSkip;

struct redisReader;

/*
 * Look at the element that the reader could not finish, before more is
 * buffered; its type byte is consumed already.  Begins to skip a string longer than
 * max_bulk bytes: what the reader has of it is taken out.  The result is NULL,
 * or a sentence that says why the reply cannot be taken.  Does not throw.
 */
extern const char *ss_skip_inspect(struct redisReader *reader, uint64 max_bulk, SsSkip *skip);

#endif /* SS_SKIP_H */
