/*
 * ss_health.c
 *	  health(): one JSON document that says whether pipelines do their work.
 *
 * NOTES
 *	  Nothing here calls Redis: it is asked often, and most urgently when Redis
 *	  does not answer.  What workers saw last is in shared memory.
 */
#include "postgres.h"
#include "ss_compat.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "ss_catalog.h"
#include "ss_identity.h"
#include "ss_json.h"
#include "ss_stats.h"

SS_SQL_FUNCTION(streamsink_health);

/* Better ones first. */
typedef enum Health
{
	HEALTH_OK = 0,
	HEALTH_DEGRADED, /* it works, and a limit is passed or a part of it does not */
	HEALTH_DOWN		 /* it does not read */
} Health;

static const char *const health_names[] = {"ok", "degraded", "down"};

/* What a pipeline is held against. */
typedef struct Limits
{
	bool   has_error_rate;
	float4 error_rate;
	bool   has_lag;
	int64  lag_ms;
} Limits;

/* ---- an object under construction ---- */

#define MAX_MEMBERS 40

typedef struct Object
{
	SsJsonMember members[MAX_MEMBERS];
	int			 n;
} Object;

/* value: JSON as it is; NULL becomes null. */
static void
put_json(Object *object, const char *name, const char *value)
{
	if (object->n >= MAX_MEMBERS)
		elog(ERROR, "too many members");
	object->members[object->n].name = name;
	object->members[object->n].value = value != NULL ? value : "null";
	object->members[object->n++].verbatim = true;
}

/* NULL and "" become null. */
static void
put_text(Object *object, const char *name, const char *value)
{
	bool known = value != NULL && value[0] != '\0';

	put_json(object, name, known ? value : NULL);
	object->members[object->n - 1].verbatim = !known;
}

static void
put_bool(Object *object, const char *name, bool value)
{
	put_json(object, name, value ? "true" : "false");
}

/* All digits: a number that passes through cJSON is a double. */
static void
put_int(Object *object, const char *name, int64 value)
{
	put_json(object, name, psprintf(INT64_FORMAT, value));
}

/* Negative numbers are unknown. */
static void
put_count(Object *object, const char *name, int64 value)
{
	put_json(object, name, value < 0 ? NULL : psprintf(INT64_FORMAT, value));
}

static const char *
format_seconds(int64 usecs)
{
	return usecs < 0 ? NULL : psprintf("%.3f", (double) usecs / 1000000.0);
}

static const char *
format_ratio(double value)
{
	return value < 0 ? NULL : psprintf("%.6f", value);
}

static void
put_time(Object *object, const char *name, TimestampTz value)
{
	char buffer[MAXDATELEN + 1];

	put_text(object, name,
			 value == 0 ? NULL : pstrdup(JsonEncodeDateTime(buffer, TimestampTzGetDatum(value), TIMESTAMPTZOID, NULL)));
}

static const char *
finish(const Object *object)
{
	return ss_json_object(object->members, object->n);
}

/* ---- checks ---- */

#define MAX_CHECKS 8

typedef struct Checks
{
	const char *items[MAX_CHECKS];
	int			n;
	Health		health; /* the worst so far */
} Checks;

/* One check: what was measured and its limit are JSON, or NULL where it has none.  A failed one leaves this health at best. */
static void
add_check(Checks *checks, const char *name, bool ok, Health otherwise, const char *value, const char *limit)
{
	Object check = {.n = 0};

	put_text(&check, "check", name);
	put_bool(&check, "ok", ok);
	if (limit != NULL)
	{
		put_json(&check, "value", value);
		put_json(&check, "limit", limit);
	}
	if (checks->n >= MAX_CHECKS)
		elog(ERROR, "too many checks");
	checks->items[checks->n++] = finish(&check);
	if (!ok)
		checks->health = Max(checks->health, otherwise);
}

/* ---- a pipeline ---- */

/* Sums over its streams; -1 where nothing is known. */
typedef struct Backlog
{
	int			streams;
	int64		lag;
	int64		lag_us;
	int64		pending;
	TimestampTz sampled_at;
} Backlog;

static int64
add_known(int64 sum, int64 value)
{
	return value < 0 ? sum : Max(sum, 0) + value;
}

static void
sum_samples(int32 pipeline_id, Backlog *backlog)
{
	SsStreamSample *samples;
	int				n = ss_stats_samples(MyDatabaseId, pipeline_id, &samples);

	memset(backlog, 0, sizeof(*backlog));
	backlog->lag = backlog->lag_us = backlog->pending = -1;
	for (int i = 0; i < n; i++)
	{
		int64 usecs;

		if (samples[i].key.stream == 0)
			continue;
		backlog->streams++;
		backlog->lag = add_known(backlog->lag, samples[i].lag);
		backlog->pending = add_known(backlog->pending, samples[i].pending);
		if (ss_stats_lag_time(&samples[i], &usecs))
			backlog->lag_us = Max(backlog->lag_us, usecs);
		backlog->sampled_at = Max(backlog->sampled_at, samples[i].sampled_at);
	}
	pfree(samples);
}

static void
check_pipeline(const SsStatus *status, TimestampTz now, const Limits *limits, double error_rate, const Backlog *backlog, Checks *checks)
{
	bool working = status->running > 0 || status->state == SS_STATE_STARTING;

	memset(checks, 0, sizeof(*checks));
	add_check(checks, "running", status->state == SS_STATE_RUNNING,
			  working ? HEALTH_DEGRADED : HEALTH_DOWN, NULL, NULL);
	add_check(checks, "redis", status->redis != SS_REDIS_AWAY, HEALTH_DEGRADED, NULL, NULL);
	if (limits->has_error_rate)
		add_check(checks, "error_rate", (float4) error_rate <= limits->error_rate, HEALTH_DEGRADED,
				  format_ratio(error_rate),
				  DatumGetCString(DirectFunctionCall1(float4out, Float4GetDatum(limits->error_rate))));
	if (limits->has_lag)
	{
		const char *limit = format_seconds(limits->lag_ms * INT64CONST(1000));
		int64		batch_us = status->batch_started_at != 0 ? Max(now - status->batch_started_at, 0) : -1;

		add_check(checks, "lag", backlog->lag_us <= limits->lag_ms * INT64CONST(1000), HEALTH_DEGRADED,
				  format_seconds(backlog->lag_us), limit);

		/* a worker that is in its batch does not look at the streams */
		add_check(checks, "batch", batch_us <= limits->lag_ms * INT64CONST(1000), HEALTH_DEGRADED,
				  format_seconds(batch_us), limit);
	}
}

/* Its part of the document. */
static const char *
describe_pipeline(const SsPipeline *pipeline, const Limits *limits, Health *health)
{
	SsStatus   *status = palloc(sizeof(SsStatus));
	SsCounters	counters;
	TimestampTz reset_at;
	Backlog		backlog;
	Checks		checks;
	Object		object = {.n = 0};
	int64		read;
	int64		refused;
	TimestampTz now = GetCurrentTimestamp();
	double		error_rate;

	ss_shmem_status(MyDatabaseId, pipeline->id, pipeline->enabled, pipeline->failure != NULL, status);
	ss_stats_refused(&status->entry, now, &read, &refused);
	error_rate = read > 0 ? (double) refused / (double) read : -1;
	sum_samples(pipeline->id, &backlog);
	ss_counter_read(pipeline->id, &counters, &reset_at);
	check_pipeline(status, now, limits, error_rate, &backlog, &checks);
	*health = checks.health;

	put_text(&object, "name", pipeline->name);
	put_text(&object, "status", health_names[checks.health]);
	put_bool(&object, "running", status->state == SS_STATE_RUNNING);
	put_json(&object, "redis", status->redis == SS_REDIS_UNKNOWN ? NULL : status->redis == SS_REDIS_AWAY ? "false" :
																										   "true");
	put_bool(&object, "database", true);
	put_text(&object, "state", ss_shmem_state_name(status->state));
	put_text(&object, "reason", status->state == SS_STATE_FAILED ? pipeline->failure : status->reason);
	put_text(&object, "hint", status->state == SS_STATE_FAILED ? NULL : status->hint);
	put_time(&object, "state_since", status->state_since);
	put_int(&object, "workers", status->workers);
	put_int(&object, "workers_wanted", pipeline->enabled ? pipeline->workers : 0);
	put_int(&object, "streams", backlog.streams);
	put_count(&object, "lag", backlog.lag);
	put_json(&object, "lag_time", format_seconds(backlog.lag_us));
	put_count(&object, "pending", backlog.pending);
	put_time(&object, "sampled_at", backlog.sampled_at);
	put_json(&object, "error_rate", format_ratio(error_rate));
	put_int(&object, "error_rate_entries", read);
	put_int(&object, "messages_read", counters.read);
	put_int(&object, "messages_written", counters.written);
	put_int(&object, "messages_failed", counters.refused);
	put_int(&object, "messages_ignored", counters.ignored);
	put_int(&object, "messages_repeated", counters.repeated);
	put_int(&object, "messages_superseded", counters.superseded);
	put_int(&object, "messages_vanished", counters.vanished);
	put_int(&object, "dead_letters_retried", counters.retried);
	put_int(&object, "batches_processed", counters.batches);
	put_int(&object, "errors", counters.errors);
	put_time(&object, "stats_reset", reset_at != 0 ? reset_at : pipeline->created_at);
	put_time(&object, "last_batch_at", status->entry.last_batch_at);
	put_text(&object, "last_error", status->entry.last_error);
	put_time(&object, "last_error_at", status->entry.last_error_at);
	put_json(&object, "checks", ss_json_list(checks.items, checks.n));
	pfree(status);
	return finish(&object);
}

/* ---- the document ---- */

static void
get_limits(FunctionCallInfo fcinfo, Limits *limits)
{
	memset(limits, 0, sizeof(*limits));
	limits->has_error_rate = !PG_ARGISNULL(1);
	if (limits->has_error_rate)
		limits->error_rate = PG_GETARG_FLOAT4(1);
	if (limits->has_error_rate && !(limits->error_rate >= 0 && limits->error_rate <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"max_error_rate\" must be from 0 to 1"),
				 errhint("0.05 is five of a hundred entries.")));
	limits->has_lag = !PG_ARGISNULL(2);
	if (limits->has_lag &&
		(!ss_catalog_interval_ms(PG_GETARG_INTERVAL_P(2), &limits->lag_ms) || limits->lag_ms < 0 ||
		 limits->lag_ms > PG_INT64_MAX / 1000))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"max_lag\" must not be negative, and must not have months")));
}

/* health(name, max_error_rate, max_lag): a pipeline, or with NULL all that the caller may see. */
Datum
streamsink_health(PG_FUNCTION_ARGS)
{
	List		*pipelines;
	ListCell	*cell;
	Limits		 limits;
	Health		 worst = HEALTH_OK;
	Object		 document = {.n = 0};
	const char **items;
	int			 n = 0;
	bool		 all = PG_ARGISNULL(0);

	get_limits(fcinfo, &limits);
	if (all)
		pipelines = ss_catalog_list();
	else
	{
		SsPipeline *pipeline = ss_catalog_load_lenient(text_to_cstring(PG_GETARG_TEXT_PP(0)), 0, false);

		if (!ss_identity_may_watch(pipeline->owner_oid))
			ss_identity_check(pipeline);
		pipelines = list_make1(pipeline);
	}

	items = palloc_array(const char *, list_length(pipelines) + 1);
	foreach(cell, pipelines)
	{
		const SsPipeline *pipeline = lfirst(cell);
		Health			  health;

		CHECK_FOR_INTERRUPTS();
		if (!ss_identity_may_watch(pipeline->owner_oid))
			continue;
		items[n++] = describe_pipeline(pipeline, &limits, &health);

		/* among all of them one that somebody stopped is as it should be */
		if (!all || pipeline->enabled || pipeline->failure != NULL)
			worst = Max(worst, health);
	}

	put_text(&document, "status", health_names[worst]);
	put_bool(&document, "database", true);
	put_time(&document, "at", GetCurrentTimestamp());
	put_json(&document, "pipelines", ss_json_list(items, n));
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(finish(&document))));
}
