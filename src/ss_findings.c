/*
 * ss_findings.c
 *	  What is found at a stream and its group, and what that means.
 *
 * NOTES
 *	  Pure but for one thing: that others read in a group is written into the
 *	  catalog, because a group that is lost cannot tell any more.
 *
 *	  Whose a group is, its marker says (ss_marker.h):
 *	  - ours, of this life: read on;
 *	  - ours, of an earlier life: replace it.  If the timeline is another one,
 *	    or the marker is of a later life than ours, this server was promoted or set
 *	    back and commits may be missing: look for unsettled entries everywhere;
 *	  - ours, of a server in another place: a copy of this one, or this one is
 *	    the copy.  While its workers ask for entries, we do not; when they have
 *	    been silent for a while, we take over and look everywhere;
 *	  - somebody else's: do not touch it.
 *	  - none, although entries were settled: the group was made anew by hand,
 *	    or the marker was removed; look everywhere.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "ss_findings.h"
#include "ss_guc.h"

static void
leave_out(SsFinding *finding, SsStreamState state, const char *reason, long probe_ms)
{
	finding->aside = state;
	finding->reason = reason;
	finding->probe_ms = probe_ms;
}

/* ---- consumers ---- */

/* What the consumers of a group tell. */
typedef struct Census
{
	SsMarkerKind marker; /* the worst kind that is there */
	const char	*name;	 /* of that marker */
	bool		 exact;	 /* ours of this life is there too */
	bool		 foreign;
	bool		 reader;	 /* the consumer that we read with is there */
	int64		 silence_ms; /* since a consumer of this pipeline asked for something */
} Census;

static void
count_consumers(const SsPump *pump, const SsConsumerInfo *consumers, int n, Census *census)
{
	const SsPipeline *pipeline = pump->run->pipeline;

	memset(census, 0, sizeof(*census));
	census->silence_ms = PG_INT64_MAX;
	for (int i = 0; i < n; i++)
	{
		SsMarkerKind kind = ss_marker_classify(pipeline, consumers[i].name);

		if (kind == SS_MARKER_EXACT)
			census->exact = true;
		if (kind > census->marker)
		{
			census->marker = kind;
			census->name = consumers[i].name;
		}
		if (kind == SS_MARKER_ELSEWHERE && consumers[i].idle >= 0)
			census->silence_ms = Min(census->silence_ms, consumers[i].idle);
		if (kind != SS_MARKER_NONE)
			continue;
		if (strcmp(consumers[i].name, pump->consumer) == 0)
			census->reader = true;
		if (!ss_marker_is_worker(pipeline, consumers[i].name))
			census->foreign = true;
		else if (consumers[i].idle >= 0)
			census->silence_ms = Min(census->silence_ms, consumers[i].idle);
	}
}

/* Others read in the group: remember it for as long as the stream is known. */
static void
note_foreign(SsPump *pump, SsStream *stream)
{
	MemoryContext saved = CurrentMemoryContext;

	if (stream->foreign)
		return;
	stream->foreign = true;
	if (stream->id == 0)
		return;
	if (!pump->session)
		StartTransactionCommand();
	ss_catalog_set_stream_foreign(pump->run->pipeline->id, stream->id);
	if (!pump->session)
		CommitTransactionCommand();
	MemoryContextSwitchTo(saved);
	ereport(LOG,
			(errmsg("others read in consumer group \"%s\" of stream \"%s\" too",
					pump->run->pipeline->consumer_group, stream->name)));
}

/* What the worst marker means; false if the stream cannot be read. */
static bool
judge_marker(const Census *census, SsFinding *finding)
{
	switch (census->marker)
	{
		case SS_MARKER_NONE:
			finding->make_marker = true;
			return true;
		case SS_MARKER_EXACT:
			finding->ours = true;
			return true;
		case SS_MARKER_ELSEWHERE:
			if (census->silence_ms < ss_guc_failover_delay)
			{
				leave_out(finding, SS_STREAM_SET_ASIDE,
						  "a copy of this server reads in its consumer group: see adopt()",
						  (long) (ss_guc_failover_delay - census->silence_ms));
				return false;
			}
			finding->all_gaps = true;
			break;
		case SS_MARKER_AHEAD:
			finding->ahead = finding->unusual = true;
			finding->all_gaps = true;
			break;
		case SS_MARKER_TIMELINE:
			finding->all_gaps = true;
			break;
		case SS_MARKER_EARLIER:
			break;
		case SS_MARKER_FOREIGN:
			leave_out(finding, SS_STREAM_SET_ASIDE,
					  "its consumer group belongs to another streamsink pipeline: see adopt()", ss_guc_setup_retry);
			return false;
	}
	finding->ours = true;
	finding->make_marker = true;
	strlcpy(finding->marker, census->name, sizeof(finding->marker));
	return true;
}

bool
ss_findings_is_touched(const SsPipeline *pipeline, const SsConsumerInfo *consumers, int nconsumers)
{
	bool exact = false;

	for (int i = 0; i < nconsumers; i++)
	{
		SsMarkerKind kind = ss_marker_classify(pipeline, consumers[i].name);

		if (kind == SS_MARKER_EXACT)
			exact = true;
		else if (kind != SS_MARKER_NONE)
			return true;
	}
	return !exact;
}

/* ---- the whole ---- */

/* There is no stream. */
static void
examine_missing(const SsPump *pump, const SsStream *stream, SsStreamState state, SsFinding *finding)
{
	bool single = pump->run->tmpl->single;

	/* What holds settled entries and is gone may come back as another stream: do not make it ourselves. */
	if (state == SS_STREAM_MISSING && single && ss_entryid_compare(stream->high, SS_ENTRYID_MIN) == 0)
	{
		finding->make_group = finding->mkstream = true;
		finding->position = stream->start;
	}
	else if (state == SS_STREAM_MISSING)
		leave_out(finding, state, "there is no such key", ss_guc_discovery_interval);
	else
		leave_out(finding, state, "the key does not hold a stream", ss_guc_setup_retry);
}

void
ss_findings_examine(SsPump *pump, SsStream *stream, uint64 hash, const SsReplies *replies, SsFinding *finding)
{
	SsConsumerInfo *consumers;
	int				n;
	Census			census;
	SsStreamState	state = SS_STREAM_OK;
	bool			has_settled = ss_entryid_compare(stream->high, SS_ENTRYID_MIN) > 0;

	memset(finding, 0, sizeof(*finding));
	if (!ss_stream_parse_info(replies->info, &finding->info, &state))
	{
		examine_missing(pump, stream, state, finding);
		return;
	}
	if (!ss_stream_parse_groups(replies->groups, pump->run->pipeline->consumer_group, &finding->group, &state))
	{
		leave_out(finding, state, "it vanished while it was looked at", ss_guc_discovery_interval);
		return;
	}
	finding->verdict = has_settled ? ss_verify_newest(stream, hash, &finding->info, replies->newest) : SS_VERIFY_INTACT;

	if (finding->group.exists)
	{
		n = ss_stream_parse_consumers(replies->consumers, &consumers);
		count_consumers(pump, consumers, n, &census);
		if (!judge_marker(&census, finding))
			return;
		if (census.foreign)
			note_foreign(pump, stream);

		/* Somebody removed our consumer, with what it had pending. */
		if (has_settled && !census.reader && (pump->share == 0 || !pump->run->tmpl->single))
			finding->all_gaps = true;
		if (has_settled && !finding->ours)
			finding->unusual = finding->all_gaps = true;
		if (ss_entryid_compare(finding->group.last_delivered, finding->info.last_generated) > 0)
			finding->set_position = true; /* new entries would be given to nobody */
	}
	else if (!has_settled)
	{
		finding->make_group = true;
		finding->position = stream->start;
	}
	else
		finding->unusual = true;

	/* Nothing ever left this stream, yet what was settled is not in it. */
	if (has_settled && !finding->ours && finding->verdict == SS_VERIFY_INTACT &&
		finding->info.entries_added >= 0 && finding->info.entries_added == finding->info.length &&
		ss_entryid_compare(finding->info.first, stream->high) > 0)
		finding->unusual = finding->replaced = true;
	if (finding->verdict == SS_VERIFY_DOUBT)
		finding->unusual = true;
}
