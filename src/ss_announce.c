/*
 * ss_announce.c
 *	  Telling others about new dead letters: a copy in a Redis stream, and a
 *	  notification.
 *
 * NOTES
 *	  A copy is an entry of flat fields: pipeline, stream, id, dead_letter,
 *	  stage, sqlstate, error, detail, attempts, failed_at.  What was refused is
 *	  in "fields", a JSON object of strings, as the view shows it.  Where that is
 *	  not all there is to say (names that occur twice, bytes that are no text),
 *	  "raw" has every name and value in order, in base64.  Of a large entry both
 *	  are left out, and "omitted" says how many bytes that were: the dead letter
 *	  itself is in the database.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "commands/async.h"
#include "common/base64.h"
#include "fmgr.h"
#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ss_announce.h"
#include "ss_guc.h"
#include "ss_json.h"
#include "ss_outbox.h"
#include "ss_reply.h"

/* An entry above this is not copied; each field counts for some bytes more than it has. */
#define MAX_COPY_BYTES	  (1024 * 1024)
#define BYTES_FOR_A_FIELD 16

/* Bytes of a message or a detail in a copy, as in the table. */
#define MAX_MESSAGE_BYTES 8192

/* Bytes of the stream's name and the message in a notification, which holds less than 8000: escaped, each may be six times as long. */
#define MAX_NOTICE_BYTES 480

/* A notification is left out when the server's queue is as full as this: a commit must not fail for it. */
#define MAX_QUEUE_USAGE 0.9

/* ---- text ---- */

/*
 * Text of the server in an encoding.  Nothing is raised, or it would never be
 * stored: text that is not valid, or cannot be converted, has its bytes escaped.
 * SQL_ASCII says nothing about an encoding; it may well be this one.
 */
static const char *
encode_text(const char *text, int encoding)
{
	int len = strlen(text);
	int server = GetDatabaseEncoding();

	if (server == encoding || server == PG_SQL_ASCII)
	{
		if (pg_verify_mbstr(encoding, text, len, true))
			return text;
	}
	else
	{
		Oid	  proc = FindDefaultConversionProc(server, encoding);
		int	  size = len * MAX_CONVERSION_GROWTH + 1;
		char *result = palloc0(size);

		if (OidIsValid(proc) &&
			pg_do_encoding_conversion_buf(proc, server, encoding, (unsigned char *) unconstify(char *, text), len,
										  (unsigned char *) result, size, true) == len)
			return result;
	}
	return ss_reply_printable(text, len, (size_t) len * 4 + 3);
}

/* Where it is clipped, characters stay whole. */
static const char *
clip_text(const char *text, int max)
{
	int len = strlen(text);
	int encoding = GetDatabaseEncoding();

	if (len <= max)
		return text;
	return pnstrdup(text, pg_encoding_mbcliplen(encoding == PG_SQL_ASCII ? PG_UTF8 : encoding, text, len, max));
}

/* ---- what was refused ---- */

/* A NUL byte is none either. */
static bool
is_text(const SsReply *str)
{
	return pg_verify_mbstr(PG_UTF8, str->str, (int) str->n, true);
}

static int
compare_names(const void *a, const void *b)
{
	const SsReply *x = *(const SsReply *const *) a;
	const SsReply *y = *(const SsReply *const *) b;
	int			   result = strcmp(x->str, y->str);

	/* the order of the fields among equal names */
	return result != 0 ? result : (x < y ? -1 : x > y);
}

/* The fields as a JSON object, of doubled names the last; NULL where text cannot represent them.  *exact: nothing is missing. */
static char *
fields_as_json(const SsEntry *entry, bool *exact)
{
	const SsReply **names = palloc_array(const SsReply *, entry->nfields + 1);
	SsJsonMember   *members = palloc0_array(SsJsonMember, entry->nfields + 1);

	*exact = false;
	for (uint32 i = 0; i < entry->nfields; i++)
	{
		if (!is_text(&entry->fields[2 * i]) || !is_text(&entry->fields[2 * i + 1]))
			return NULL;
		names[i] = &entry->fields[2 * i];
		members[i].name = entry->fields[2 * i].str;
		members[i].value = entry->fields[2 * i + 1].str;
	}

	*exact = true;
	qsort(names, entry->nfields, sizeof(SsReply *), compare_names);
	for (uint32 i = 0; i + 1 < entry->nfields; i++)
	{
		if (strcmp(names[i]->str, names[i + 1]->str) == 0)
		{
			members[(names[i] - entry->fields) / 2].value = NULL;
			*exact = false;
		}
	}
	return ss_json_object(members, entry->nfields);
}

/* Names and values as a JSON array of base64. */
static char *
raw_as_json(const SsEntry *entry)
{
	int	   n = 2 * (int) entry->nfields;
	char **strings = palloc_array(char *, n + 1);

	for (int i = 0; i < n; i++)
	{
		const SsReply *str = &entry->fields[i];
		int			   size = pg_b64_enc_len(str->n);
		int			   len;

		strings[i] = palloc(size + 1);
		len = pg_b64_encode((const void *) str->str, str->n, strings[i], size);
		if (len < 0)
			elog(ERROR, "base64 text is longer than computed");
		strings[i][len] = '\0';
	}
	return ss_json_array((const char *const *) strings, n);
}

/* ---- copies ---- */

/* The arguments of an XADD. */
typedef struct Arguments
{
	const char *strings[32];
	size_t		lengths[32];
	int			n;
} Arguments;

static void
add_argument(Arguments *args, const char *str)
{
	if (args->n >= lengthof(args->strings))
		elog(ERROR, "too many arguments");
	args->strings[args->n] = str;
	args->lengths[args->n++] = strlen(str);
}

/* A field, in UTF-8 already; left out if it has no value. */
static void
add_field(Arguments *args, const char *name, const char *value)
{
	if (value == NULL)
		return;
	add_argument(args, name);
	add_argument(args, value);
}

/* A field out of text of the server. */
static void
add_text_field(Arguments *args, const char *name, const char *value)
{
	if (value != NULL)
		add_field(args, name, encode_text(value, PG_UTF8));
}

/* The same, cut as in the table. */
static void
add_message_field(Arguments *args, const char *name, const char *value)
{
	if (value != NULL)
		add_text_field(args, name, clip_text(value, MAX_MESSAGE_BYTES));
}

/* In UTC, whatever the session's settings are. */
static char *
print_time(TimestampTz time)
{
	char		*text = palloc(MAXDATELEN + 1);
	struct pg_tm tm;
	fsec_t		 fsec;

	if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
		elog(ERROR, "time of a failure is out of range");
	tm.tm_isdst = 0; /* or the zone is left out */
	EncodeDateTime(&tm, fsec, true, 0, NULL, USE_XSD_DATES, text);
	return text;
}

static void
add_contents(Arguments *args, const SsEntry *entry)
{
	uint64 bytes = entry->bytes + (uint64) entry->nfields * BYTES_FOR_A_FIELD;
	bool   exact;

	if (entry->truncated || bytes > MAX_COPY_BYTES)
	{
		add_field(args, "omitted", psprintf("%u", entry->bytes));
		return;
	}
	add_field(args, "fields", fields_as_json(entry, &exact));
	if (!exact)
		add_field(args, "raw", raw_as_json(entry));
}

void
ss_announce_copy(const SsPipeline *pipeline, int64 id, const SsEntry *entry,
				 const SsRefusal *refusal, const char *detail, TimestampTz failed_at)
{
	Arguments	  args = {.n = 0};
	char		  entry_id[SS_ENTRYID_MAXLEN];
	MemoryContext work;
	MemoryContext saved;

	if (pipeline->dead_letter_stream == NULL)
		return;
	work = AllocSetContextCreate(CurrentMemoryContext, "streamsink dead letter's copy", ALLOCSET_DEFAULT_SIZES);
	saved = MemoryContextSwitchTo(work);
	(void) ss_entryid_print(entry->id, entry_id);

	add_argument(&args, "*");
	add_text_field(&args, "pipeline", pipeline->name);
	add_text_field(&args, "stream", entry->stream->name);
	add_field(&args, "id", entry_id);
	add_field(&args, "dead_letter", psprintf("%lld", (long long) id));
	add_field(&args, "stage", refusal->stage);
	add_field(&args, "sqlstate", pstrdup(unpack_sql_state(refusal->error->sqlerrcode)));
	add_message_field(&args, "error", refusal->error->message ? refusal->error->message : "");
	add_message_field(&args, "detail", detail);
	add_field(&args, "attempts", psprintf("%d", refusal->attempts));
	add_field(&args, "failed_at", print_time(failed_at));
	add_contents(&args, entry);
	ss_outbox_add(pipeline->server, pipeline->owner, "xadd", pipeline->dead_letter_stream, pipeline->name,
				  args.n, args.strings, args.lengths);

	MemoryContextSwitchTo(saved);
	MemoryContextDelete(work);
}

/* ---- notifications ---- */

/* Valid for whoever listens, too: his session would raise an error. */
static const char *
clip_notice(const char *text)
{
	int encoding = GetDatabaseEncoding();

	return text == NULL ? NULL : encode_text(clip_text(text, MAX_NOTICE_BYTES), encoding == PG_SQL_ASCII ? PG_UTF8 : encoding);
}

static void
notify(const SsPipeline *pipeline, const SsBatch *batch, const char *reason, int64 count)
{
	const SsRefusal *refusal = &batch->refusals[0];
	SsJsonMember	 members[] = {
			{"pipeline", pipeline->name},
			{"reason", reason},
			{"count", psprintf("%lld", (long long) count), true},
			{"stream", clip_notice(batch->entries[refusal->entry].stream->name)},
			{"sqlstate", pstrdup(unpack_sql_state(refusal->error->sqlerrcode))},
			{"error", clip_notice(refusal->error->message)},
	};

	if (DatumGetFloat8(OidFunctionCall0(F_PG_NOTIFICATION_QUEUE_USAGE)) > MAX_QUEUE_USAGE)
		ereport(LOG,
				(errmsg("dead letters of pipeline \"%s\" are not notified because the notification queue is almost full",
						pipeline->name)));
	else
		Async_Notify(SS_ANNOUNCE_CHANNEL, ss_json_object(members, lengthof(members)));
}

void
ss_announce_batch(const SsPipeline *pipeline, const SsBatch *batch, int64 before)
{
	int64 after = before + batch->nrefusals;
	int64 threshold = ss_guc_dead_letter_threshold;

	if (before == 0)
		notify(pipeline, batch, "first", after);
	if (threshold > 0 && before < threshold && after >= threshold)
		notify(pipeline, batch, "threshold", after);
}
