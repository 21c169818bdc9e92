/*
 * ss_identity.h
 *	  Run a pipeline's SQL as its owner with the pipeline's settings.
 */
#ifndef SS_IDENTITY_H
#define SS_IDENTITY_H

#include "ss_catalog.h"

typedef struct SsIdentity
{
	Oid userid;
	int sec_context;
	int guc_level;
} SsIdentity;

/* ERROR 42501 unless the current user is a member of the pipeline's owner (superusers are); 42704 if the owner is gone. */
extern void ss_identity_check(const SsPipeline *pipeline);

/* May the current user see state and numbers of this owner's pipelines?  Members of the owner and of pg_monitor may. */
extern bool ss_identity_may_watch(Oid owner);

/*
 * In a session: become the owner (local user id change) and apply the
 * pipeline's settings in a new GUC nest level; an abort undoes it by itself.
 * Who is going to write calls ss_write_enter instead: for a caller with more
 * privileges than the owner, triggers cannot be deferred in there.
 * Ended by ss_identity_leave before commit.
 */
extern void ss_identity_enter(const SsPipeline *pipeline, SsIdentity *saved);
extern void ss_identity_leave(const SsIdentity *saved);

/*
 * In a worker, once after connecting and after every reload: pin what must
 * hold (read committed, read-write, row_security on, session_replication_role
 * origin, no statement, idle or transaction time-out, lock_timeout 0) and
 * apply the pipeline's settings for the session.
 */
extern void ss_identity_pin(const SsPipeline *pipeline);

/* Settings to keep with a new pipeline: search_path, TimeZone, DateStyle, IntervalStyle of now, overridden by given (checked: ERROR 22023 for a name that may not be set here). */
extern Jsonb *ss_identity_capture(const Jsonb *given);

/* The same for a pipeline that is altered: the four stay as stored unless given, the others are those given. */
extern Jsonb *ss_identity_recapture(const Jsonb *stored, const Jsonb *given);

#endif /* SS_IDENTITY_H */
