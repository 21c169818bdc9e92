/*
 * ss_outbox.h
 *	  Effects on Redis that SQL asked for: rows of streamsink.outbox_queue,
 *	  carried out in order after commit and flush, at least once.
 */
#ifndef SS_OUTBOX_H
#define SS_OUTBOX_H

#include "postgres.h"

/*
 * Queue a command for a server under a role's user mapping.  kind is one of
 * "xadd" (name: stream; args: id, field, value, ...; with the id * one is chosen when it is sent, see ss_carry.c),
 * "publish" (name: channel; args: message), "group_destroy" (name: stream; args: group),
 * "marker_delete" (name: stream; args: group, what the consumers' names begin with,
 * and perhaps the marker that takes their place),
 * "group_setid" (name: stream; args: group, id, what the group's marker begins with).  Wakes the courier at
 * commit.  pipeline may be NULL.  args are bytes for Redis (text in UTF-8), names are in server encoding.
 */
extern void ss_outbox_add(const char *server, const char *role, const char *kind,
						  const char *name, const char *pipeline,
						  int nargs, const char *const *args, const size_t *arglens);

/* Are there rows that may be carried out?  A held (restored) outbox does not count. */
extern bool ss_outbox_pending(void);

/*
 * Are there young commands about a pipeline's groups, by the same role for the same server, that were not tried yet?  Its
 * workers wait for them: they were given before.
 */
extern bool ss_outbox_holds_up(const char *pipeline, const char *server, const char *role);

#endif /* SS_OUTBOX_H */
