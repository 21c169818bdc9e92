/*
 * ss_reconcile.h
 *	  Entries that a group has passed, but that are not settled: read again.
 */
#ifndef SS_RECONCILE_H
#define SS_RECONCILE_H

#include "ss_pump.h"

/*
 * Look through the gaps between the settled ids of a stream, behind "after" and
 * up to the group's last-delivered id, for entries that are neither settled
 * nor pending with anybody, and make them pending with us (XCLAIM FORCE): they
 * are read with our own pending entries, and the ledger decides about each.
 * Returns their number.  Not for groups in which others read: theirs look the same.
 *
 * Asks Redis; nothing may be outstanding.  Not in a transaction of a worker.
 */
extern int64 ss_reconcile_stream(SsPump *pump, SsStream *stream, SsEntryId after, SsEntryId delivered);

#endif /* SS_RECONCILE_H */
