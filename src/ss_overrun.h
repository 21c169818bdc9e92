/*
 * ss_overrun.h
 *	  Entries that were trimmed before the group was given them.
 */
#ifndef SS_OVERRUN_H
#define SS_OVERRUN_H

#include "ss_catalog.h"
#include "ss_stream.h"

/*
 * How many entries of a stream were removed before the group was given them
 * and are not reported yet, at least; 0 if none is known of.  The two replies
 * are from one look, the stream's first.  Nothing is known of Redis before
 * 7.0, nor of a group that was moved and has read nothing since.
 */
extern int64 ss_overrun_count(SsStream *stream, const SsStreamInfo *info, const SsGroupInfo *group);

/*
 * Report what was counted: into the table, and a WARNING for each stream and
 * occurrence.  In the caller's transaction, or without one in its own.  What
 * cannot be reported at this moment is counted again next time.
 */
extern void ss_overrun_report(const SsPipeline *pipeline, SsStream **streams, const int64 *missed, int n);

#endif /* SS_OVERRUN_H */
