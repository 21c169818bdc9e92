/*
 * ss_probe.c
 *	  A look at Redis while a pipeline is defined: reads and checks only.
 *
 * NOTES
 *	  Everything lives in one memory context: an ERROR unwinds past the
 *	  connection, whose own context closes it.  Sampling is a courtesy: an entry
 *	  that cannot be understood ends it without a word.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"
#include "ss_decode.h"
#include "ss_probe.h"
#include "ss_server.h"
#include "ss_stream.h"

#define SAMPLE_ENTRIES 5
#define SAMPLE_BULK	   (64 * 1024) /* bytes; longer values are not looked into */
#define REPLY_LIMIT	   ((Size) 64 * 1024 * 1024)
#define PIPELINED	   100 /* commands sent before their replies are read */
#define SCAN_ROUNDS	   100 /* of SCAN, to find one stream to look at */
#define MAX_STREAMS	   1000000

typedef struct Probe
{
	MemoryContext	  cxt;
	MemoryContext	  replies; /* of one step, reset by the next */
	SsArena			  arena;
	SsRedis			 *redis;
	const SsPipeline *pipeline;
	const SsTemplate *tmpl;
} Probe;

static void
next_step(Probe *probe)
{
	MemoryContextReset(probe->replies);
	ss_arena_init(&probe->arena, probe->replies, REPLY_LIMIT);
}

static SsReply *
receive(Probe *probe)
{
	return ss_redis_receive(probe->redis, &probe->arena, 0, PG_WAIT_EXTENSION);
}

static SsStream *
make_stream(const char *name)
{
	SsStream *stream = palloc0_object(SsStream);

	stream->name = pstrdup(name);
	stream->name_len = strlen(name);
	stream->key = pg_server_to_any(stream->name, stream->name_len, PG_UTF8);
	stream->key_len = strlen(stream->key);
	return stream;
}

/* A key as a name in our encoding, or NULL if it cannot be one or does not match. */
static char *
matching_name(const Probe *probe, const SsReply *key)
{
	char *name;

	if (key->type != SS_REPLY_STRING || key->truncated || key->n > SS_STREAM_NAME_MAX)
		return NULL;
	name = ss_decode_try_text(key->str, key->n);
	return name != NULL && ss_template_match(probe->tmpl, name, strlen(name), NULL) ? name : NULL;
}

/* Streams that match now, in probe->cxt: all of them, or the first few that turn up. */
static List *
scan_streams(Probe *probe, bool all)
{
	List *streams = NIL;
	char *cursor = pstrdup("0");
	int	  rounds = 0;

	do
	{
		const SsReply *keys;

		CHECK_FOR_INTERRUPTS();
		next_step(probe);
		ss_stream_append_scan(probe->redis, cursor, probe->tmpl->glob);
		pfree(cursor);
		cursor = pstrdup(ss_stream_parse_scan(receive(probe), &keys));
		for (uint32 i = 0; i < keys->n; i++)
		{
			char *name = matching_name(probe, &keys->items[i]);

			if (name != NULL)
				streams = lappend(streams, make_stream(name));
		}
		if (list_length(streams) > MAX_STREAMS)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("more than %d streams match \"%s\"", MAX_STREAMS, probe->pipeline->stream)));
	} while (strcmp(cursor, "0") != 0 &&
			 (all || (streams == NIL && ++rounds < SCAN_ROUNDS)));
	return streams;
}

/* Ask for each stream's last id; those that exist come back as SsStreamRow *.  A doubled one does no harm. */
static List *
read_last_ids(Probe *probe, List *streams)
{
	List *rows = NIL;
	int	  done = 0;

	while (done < list_length(streams))
	{
		int until = Min(done + PIPELINED, list_length(streams));

		CHECK_FOR_INTERRUPTS();
		next_step(probe);
		for (int i = done; i < until; i++)
			ss_stream_append_info(probe->redis, list_nth(streams, i));
		for (; done < until; done++)
		{
			SsStream	 *stream = list_nth(streams, done);
			SsStreamInfo  info;
			SsStreamState state;
			SsStreamRow	 *row;

			if (!ss_stream_parse_info(receive(probe), &info, &state))
			{
				if (state == SS_STREAM_WRONG_TYPE && probe->tmpl->single)
					ereport(ERROR,
							(errcode(ERRCODE_WRONG_OBJECT_TYPE),
							 errmsg("key \"%s\" of server \"%s\" is not a stream",
									stream->name, probe->pipeline->server),
							 errhint("Name the key of a stream in \"stream\".")));
				continue;
			}
			row = palloc0_object(SsStreamRow);
			row->name = stream->name;
			row->start = info.last_generated;
			rows = lappend(rows, row);
		}
	}
	return rows;
}

static void
notice_group(Probe *probe, const SsStream *stream)
{
	SsGroupInfo	  group;
	SsStreamState state;

	next_step(probe);
	ss_stream_append_groups(probe->redis, stream);
	if (ss_stream_parse_groups(receive(probe), probe->pipeline->consumer_group, &group, &state) &&
		group.exists)
		ereport(NOTICE,
				(errmsg("consumer group \"%s\" of stream \"%s\" exists already, so start_from does not apply to it",
						probe->pipeline->consumer_group, stream->name),
				 errdetail("Reading goes on where the group stands.")));
}

/* ---- sampling ---- */

typedef struct Sample
{
	int	  entries;
	List *names;   /* of fields and payload members, char * */
	bool  unknown; /* something could not be looked into */
} Sample;

static void
add_fields(Sample *sample, const SsEntry *entry, const char *payload)
{
	if (entry->fields == NULL || entry->truncated)
	{
		sample->unknown = true;
		return;
	}
	sample->entries++;
	for (uint32 i = 0; i < entry->nfields; i++)
	{
		const SsReply *name = &entry->fields[2 * i];
		const SsReply *value = &entry->fields[2 * i + 1];
		char		  *text = ss_decode_text(name->str, name->n);

		sample->names = lappend(sample->names, pstrdup(text));
		if (payload != NULL && strcmp(text, payload) == 0)
		{
			SsField *members;
			char	*json = ss_decode_text(value->str, value->n);
			int		 n = ss_decode_payload(json, strlen(json), &members);

			for (int j = 0; j < n; j++)
				sample->names = lappend(sample->names, pstrdup(members[j].name));
		}
	}
}

/* Entries are read as strangers wrote them: what fails to decode ends the sampling, in a subtransaction. */
static void
add_batch(Sample *sample, const SsBatch *batch, const char *payload)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		for (int i = 0; i < batch->nentries; i++)
			add_fields(sample, &batch->entries[i], payload);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		sample->unknown = true;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
}

static bool
has_name(const List *names, const char *name)
{
	ListCell *lc;

	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

static void
warn_of_unfilled_columns(const Probe *probe, const SsStream *stream, const SsMapping *mapping,
						 const Sample *sample)
{
	static const char prefix[] = "field ";

	for (int i = 0; i < ss_mapping_ncolumns(mapping); i++)
	{
		const SsMappingColumn *column = ss_mapping_column(mapping, i);

		if (!column->required || column->supplied || column->source == NULL ||
			strncmp(column->source, prefix, strlen(prefix)) != 0 ||
			has_name(sample->names, column->source + strlen(prefix)))
			continue;
		ereport(WARNING,
				(errmsg("column \"%s\" must not be null, but sampled entries have no field \"%s\"",
						column->name, column->source + strlen(prefix)),
				 errdetail("The first entries of stream \"%s\" were looked at; such entries cannot be written.",
						   stream->name),
				 errhint("Name the right field in \"columns\", or give the column a default.")));
	}
}

static void
sample_entries(Probe *probe, SsStream *stream, const SsMapping *mapping)
{
	SsBatch *batch = ss_batch_create(probe->cxt, REPLY_LIMIT);
	Sample	 sample = {0};

	ss_stream_append_range(probe->redis, stream, SS_ENTRYID_MIN, SAMPLE_ENTRIES);
	(void) ss_stream_parse_range(ss_redis_receive(probe->redis, &batch->arena, 0, PG_WAIT_EXTENSION),
								 stream, batch);
	add_batch(&sample, batch, probe->pipeline->payload);
	if (sample.entries > 0 && !sample.unknown)
		warn_of_unfilled_columns(probe, stream, mapping, &sample);
}

List *
ss_probe_streams(const SsPipeline *pipeline, const SsTemplate *tmpl, const SsMapping *mapping,
				 bool from_now)
{
	MemoryContext  caller = CurrentMemoryContext;
	Probe		   probe = {.pipeline = pipeline, .tmpl = tmpl};
	SsRedisParams *params;
	List		  *streams;
	List		  *found;
	List		  *rows = NIL;

	probe.cxt = AllocSetContextCreate(caller, "streamsink probe", ALLOCSET_DEFAULT_SIZES);
	probe.replies = AllocSetContextCreate(probe.cxt, "streamsink probe replies", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(probe.cxt);

	params = ss_server_params(pipeline->server, pipeline->owner_oid);
	params->max_bulk = SAMPLE_BULK;
	probe.redis = ss_redis_open(params, probe.cxt, "streamsink:define");

	if (tmpl->single)
		streams = list_make1(make_stream(tmpl->key));
	else
		streams = scan_streams(&probe, from_now);
	found = read_last_ids(&probe, from_now ? streams : list_truncate(streams, 1));

	if (found != NIL)
	{
		SsStream *stream = make_stream(((SsStreamRow *) linitial(found))->name);

		notice_group(&probe, stream);
		sample_entries(&probe, stream, mapping);
	}

	if (from_now)
	{
		ListCell *lc;

		MemoryContextSwitchTo(caller);
		foreach(lc, found)
		{
			SsStreamRow *row = palloc_object(SsStreamRow);

			*row = *(SsStreamRow *) lfirst(lc);
			row->name = pstrdup(row->name);
			rows = lappend(rows, row);
		}
	}
	ss_redis_close(probe.redis);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(probe.cxt);
	return rows;
}
