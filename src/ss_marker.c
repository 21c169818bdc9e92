/*
 * ss_marker.c
 *	  Names of markers: the consumers that say whose a group is.
 */
#include "postgres.h"
#include "ss_compat.h"

#include <unistd.h>

#include "access/xlog.h"
#include "common/hashfn.h"
#include "miscadmin.h"

#include "ss_marker.h"

#define MARKER_PREFIX	"streamsink:marker:"
#define CONSUMER_PREFIX "streamsink:" /* what the name of every consumer of ours begins with */

/*
 * Where this server is.  A copy of the data directory on another host, or in
 * another folder of this one, is another place.
 */
static uint32
this_place(void)
{
	static uint32 place = 0;
	char		  host[256];
	uint32		  hash;

	if (place != 0)
		return place;
	if (gethostname(host, sizeof(host)) != 0)
		host[0] = '\0';
	host[sizeof(host) - 1] = '\0';
	hash = hash_bytes((const unsigned char *) host, (int) strlen(host));
	hash = hash_combine(hash, hash_bytes((const unsigned char *) DataDir, (int) strlen(DataDir)));
	place = Max(hash, 1);
	return place;
}

void
ss_marker_prefix(const SsPipeline *pipeline, char prefix[SS_MARKER_MAX])
{
	snprintf(prefix, SS_MARKER_MAX, MARKER_PREFIX "%s:" UINT64_FORMAT ":%u:%d:",
			 pipeline->consumer + strlen(CONSUMER_PREFIX),
			 GetSystemIdentifier(), MyDatabaseId, pipeline->incarnation);
}

void
ss_marker_name(const SsPipeline *pipeline, char name[SS_MARKER_MAX])
{
	size_t len;

	ss_marker_prefix(pipeline, name);
	len = strlen(name);
	snprintf(name + len, SS_MARKER_MAX - len, INT64_FORMAT ".%u.%08x",
			 pipeline->generation, GetWALInsertionTimeLine(), this_place());
}

void
ss_marker_adopted_name(const SsPipeline *pipeline, char name[SS_MARKER_MAX])
{
	size_t len;

	ss_marker_prefix(pipeline, name);
	len = strlen(name);
	snprintf(name + len, SS_MARKER_MAX - len, INT64_FORMAT ".0.%08x", pipeline->generation, this_place());
}

bool
ss_marker_is_marker(const char *name)
{
	return strncmp(name, MARKER_PREFIX, strlen(MARKER_PREFIX)) == 0;
}

bool
ss_marker_is_worker(const SsPipeline *pipeline, const char *name)
{
	size_t len = strlen(pipeline->consumer);

	return strncmp(name, pipeline->consumer, len) == 0 && (name[len] == '\0' || name[len] == ':');
}

SsMarkerKind
ss_marker_classify(const SsPipeline *pipeline, const char *name)
{
	char		prefix[SS_MARKER_MAX];
	long long	generation;
	unsigned	timeline;
	unsigned	place;
	int			end = -1;
	const char *life;
	TimeLineID	current = GetWALInsertionTimeLine();

	if (!ss_marker_is_marker(name))
		return SS_MARKER_NONE;
	ss_marker_prefix(pipeline, prefix);
	if (strncmp(name, prefix, strlen(prefix)) != 0)
		return SS_MARKER_FOREIGN;
	life = name + strlen(prefix);
	if (sscanf(life, "%lld.%u.%8x%n", &generation, &timeline, &place, &end) != 3 || life[end] != '\0')
		return SS_MARKER_FOREIGN;

	if (place != this_place())
		return SS_MARKER_ELSEWHERE;
	if (timeline > current || (timeline == current && generation > pipeline->generation))
		return SS_MARKER_AHEAD;
	if (timeline < current)
		return SS_MARKER_TIMELINE;
	return generation < pipeline->generation ? SS_MARKER_EARLIER : SS_MARKER_EXACT;
}
