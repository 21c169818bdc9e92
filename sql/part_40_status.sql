-- ---------------------------------------------------------------------------
-- Status.  Intent is in the tables, fact in shared memory: each view is the
-- tables with functions over shared memory beside them, so that what does not
-- run still shows.  Nothing here calls Redis.
-- ---------------------------------------------------------------------------

CREATE FUNCTION streamsink.pipeline_status(id int4,
	OUT enabled bool, OUT state text, OUT reason text, OUT hint text,
	OUT state_since timestamptz, OUT next_retry_at timestamptz, OUT workers_wanted int4, OUT workers int4,
	OUT "read" int8, OUT written int8, OUT "rows" int8, OUT refused int8, OUT ignored int8,
	OUT repeated int8, OUT superseded int8, OUT vanished int8, OUT batches int8, OUT errors int8,
	OUT read_rate float8, OUT written_rate float8, OUT latency_p50 interval, OUT latency_p99 interval,
	OUT last_batch_at timestamptz, OUT last_error text, OUT last_sqlstate text,
	OUT last_error_at timestamptz, OUT stats_reset timestamptz) RETURNS record
	AS 'MODULE_PATHNAME', 'streamsink_pipeline_status' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.pipeline_status(int4) IS 'state and counters of a pipeline by its number; see the view status';

CREATE FUNCTION streamsink.worker_slots(
	OUT pipeline int4, OUT slot int4, OUT pid int4, OUT consumer text, OUT state text, OUT streams int4,
	OUT batch_entries int8, OUT batch_bytes int8, OUT batch_started_at timestamptz,
	OUT "read" int8, OUT written int8, OUT wait_redis interval, OUT map interval,
	OUT "write" interval, OUT "commit" interval, OUT memory_bytes int8,
	OUT backend_start timestamptz, OUT last_error text, OUT share int4) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'streamsink_worker_slots' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.worker_slots() IS 'processes that read for pipelines of this database; see the view workers';

CREATE FUNCTION streamsink.stream_samples(pipeline int4,
	OUT stream int4, OUT worker_pid int4, OUT state text, OUT reason text, OUT length int8,
	OUT first_id streamsink.entry_id, OUT last_id streamsink.entry_id, OUT last_delivered_id streamsink.entry_id,
	OUT lag int8, OUT lag_time interval, OUT pending int8, OUT foreign_pending int8, OUT oldest_pending interval,
	OUT last_entry_at timestamptz, OUT sampled_at timestamptz) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'streamsink_stream_samples' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.stream_samples(int4) IS 'what workers last saw of the streams of a pipeline; see the view streams';

CREATE FUNCTION streamsink.reset_stats(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_reset_stats' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.reset_stats(text) IS 'sets the counters of a pipeline to zero';

CREATE VIEW streamsink.pipelines WITH (security_barrier) AS
	SELECT p.name, p.owner, p.server, p.stream, p.target,
		(streamsink.pipeline_status(p.id)).enabled AS enabled,
		CASE WHEN pg_catalog.pg_has_role(r.oid, 'MEMBER') THEN streamsink.statement(p.name) END AS statement,
		p.row_type, p.transform, p.columns, p.payload, p.rest, p.on_conflict, p.key,
		p.consumer_group, p.start_from, p.workers, p.batch_size, p.batch_bytes, p.linger,
		p.on_error, p.max_retries, p.retry_backoff, p.retry_backoff_max, p.retry_growth,
		p.max_dead_letter_rate, p.dead_letter_stream, p.dead_letter_retention, p.trim_after,
		p.claim_idle, p.on_replaced_stream, p.on_lost_group, p.max_entry_bytes,
		p.ledger_retention, p.allow_inexact, p.create_target, p.evolve,
		p.settings, p.created_at, p.altered_at, p.id
	FROM streamsink.pipeline p
		LEFT JOIN pg_catalog.pg_roles r ON r.rolname = p.owner
	WHERE pg_catalog.pg_has_role('pg_monitor', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'MEMBER');
COMMENT ON VIEW streamsink.pipelines IS 'definitions of pipelines; statement is the SQL that runs, shown to members of the owner';

CREATE VIEW streamsink.status WITH (security_barrier) AS
	SELECT p.name AS pipeline, s.state, s.reason, s.hint, s.state_since, s.next_retry_at,
		s.workers_wanted, s.workers, t.streams, t.lag, t.lag_time, t.pending, t.foreign_pending, t.oldest_pending,
		s."read", s.written, s."rows", s.refused, s.ignored, s.repeated, s.superseded, s.vanished,
		s.batches, s.errors, s.read_rate, s.written_rate, s.latency_p50, s.latency_p99,
		(SELECT pg_catalog.count(*) FROM streamsink.dead_letter d WHERE d.pipeline = p.id) AS dead_letters,
		t.dead_letter_stream_length,
		s.last_batch_at, s.last_error, s.last_sqlstate, s.last_error_at, t.sampled_at, s.stats_reset
	FROM streamsink.pipeline p
		LEFT JOIN pg_catalog.pg_roles r ON r.rolname = p.owner
		CROSS JOIN LATERAL streamsink.pipeline_status(p.id) s
		CROSS JOIN LATERAL (
			SELECT pg_catalog.count(*) FILTER (WHERE x.stream <> 0) AS streams,
				pg_catalog.sum(x.lag) FILTER (WHERE x.stream <> 0)::int8 AS lag,
				pg_catalog.max(x.lag_time) FILTER (WHERE x.stream <> 0) AS lag_time,
				pg_catalog.sum(x.pending) FILTER (WHERE x.stream <> 0)::int8 AS pending,
				pg_catalog.sum(x.foreign_pending) FILTER (WHERE x.stream <> 0)::int8 AS foreign_pending,
				pg_catalog.max(x.oldest_pending) FILTER (WHERE x.stream <> 0) AS oldest_pending,
				pg_catalog.max(x.length) FILTER (WHERE x.stream = 0) AS dead_letter_stream_length,
				pg_catalog.max(x.sampled_at) AS sampled_at
			FROM streamsink.stream_samples(p.id) x) t
	WHERE pg_catalog.pg_has_role('pg_monitor', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'MEMBER');
COMMENT ON VIEW streamsink.status IS 'state and statistics of each pipeline; lag and pending are sums over the streams whose numbers are known';

CREATE VIEW streamsink.workers WITH (security_barrier) AS
	SELECT p.name AS pipeline, w.slot, w.pid, w.consumer, w.state, w.streams, w.batch_entries, w.batch_bytes,
		w.batch_started_at, w."read", w.written, w.wait_redis, w.map, w."write", w."commit",
		w.memory_bytes, w.backend_start, w.last_error, w.share
	FROM streamsink.pipeline p
		LEFT JOIN pg_catalog.pg_roles r ON r.rolname = p.owner
		JOIN streamsink.worker_slots() w ON w.pipeline = p.id
	WHERE pg_catalog.pg_has_role('pg_monitor', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'MEMBER');
COMMENT ON VIEW streamsink.workers IS 'processes that read for pipelines: background workers, and sessions (share NULL) in ingest or a retry';

CREATE VIEW streamsink.streams WITH (security_barrier) AS
	SELECT p.name AS pipeline, s.name AS stream, x.worker_pid, x.state, x.reason, x.length,
		x.first_id, x.last_id, x.last_delivered_id, l.settled, x.lag, x.lag_time,
		x.pending, x.foreign_pending, x.oldest_pending, x.last_entry_at, x.sampled_at, s.incarnation
	FROM streamsink.pipeline p
		LEFT JOIN pg_catalog.pg_roles r ON r.rolname = p.owner
		JOIN streamsink.stream s ON s.pipeline = p.id
		LEFT JOIN LATERAL (
			SELECT pg_catalog.range_agg(g.settled) AS settled
			FROM streamsink.ledger g WHERE g.stream = s.id) l ON true
		LEFT JOIN LATERAL streamsink.stream_samples(p.id) x ON x.stream = s.id
	WHERE (pg_catalog.pg_has_role('pg_monitor', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'MEMBER'))
		AND s.incarnation = (SELECT pg_catalog.max(n.incarnation) FROM streamsink.stream n
			WHERE n.pipeline = s.pipeline AND n.name = s.name);
COMMENT ON VIEW streamsink.streams IS 'streams of each pipeline; settled is the folded part of the ledger, the last batches are in its log still';

CREATE VIEW streamsink.outbox WITH (security_barrier) AS
	SELECT q.id, q.server, q.kind, q.name, q.pipeline, q.created_at, q.attempts, q.last_error
	FROM streamsink.outbox_queue q
		JOIN pg_catalog.pg_roles r ON r.rolname = q.role
	WHERE pg_catalog.pg_has_role(r.oid, 'MEMBER');
COMMENT ON VIEW streamsink.outbox IS 'commands for Redis that are not carried out yet';
