/*
 * ss_marker.h
 *	  Names of markers: the consumers that say whose a group is.
 *
 * NOTES
 *	  A marker never reads anything.  Its name is
 *
 *		streamsink:marker:<identity>:<system>:<database>:<incarnation>:<generation>.<timeline>.<place>
 *
 *	  The first four parts say whose the group is.  The last one says which life
 *	  of that pipeline came last: the definition's generation and the server's
 *	  timeline, which only grow, and a hash of host and data directory.
 */
#ifndef SS_MARKER_H
#define SS_MARKER_H

#include "ss_catalog.h"

#define SS_MARKER_MAX 192 /* bytes of a name, terminator included */

typedef enum SsMarkerKind
{
	SS_MARKER_NONE,		 /* no marker at all */
	SS_MARKER_EXACT,	 /* ours, of this very life */
	SS_MARKER_EARLIER,	 /* ours, of a life before this one, on this timeline */
	SS_MARKER_TIMELINE,	 /* ours, of an earlier timeline: commits may be missing here */
	SS_MARKER_AHEAD,	 /* ours, of a later life: this server was set back */
	SS_MARKER_ELSEWHERE, /* ours, of a server in another place */
	SS_MARKER_FOREIGN	 /* another pipeline's, database's or system's, or of another incarnation */
} SsMarkerKind;

/* Which kind of consumer name this is, for a pipeline in this database. */
extern SsMarkerKind ss_marker_classify(const SsPipeline *pipeline, const char *name);

/* The name for this life; and what all names of the pipeline's incarnation begin with. */
extern void ss_marker_name(const SsPipeline *pipeline, char name[SS_MARKER_MAX]);
extern void ss_marker_prefix(const SsPipeline *pipeline, char prefix[SS_MARKER_MAX]);

/* The name that adopt() gives: of an earlier timeline, so that everything is looked at before it is replaced. */
extern void ss_marker_adopted_name(const SsPipeline *pipeline, char name[SS_MARKER_MAX]);

/* Is the name that of any streamsink marker, of a consumer of this pipeline's workers? */
extern bool ss_marker_is_marker(const char *name);
extern bool ss_marker_is_worker(const SsPipeline *pipeline, const char *name);

#endif /* SS_MARKER_H */
