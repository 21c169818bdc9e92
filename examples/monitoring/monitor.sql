-- A monitor for the terminal: one row for each pipeline, read from shared memory
-- and tables, never from Redis.  In psql, every two seconds:
--
--     \i examples/monitoring/monitor.sql
--     \watch 2
--
-- Rates and "last minute" are means over the last half to one minute, in entries.
SELECT s.pipeline,
	s.state,
	s.workers || '/' || s.workers_wanted AS workers,
	s.stream_length AS "in Redis",
	s.lag,
	date_trunc('milliseconds', s.lag_time) AS behind,
	s.pending,
	round(s.read_rate) AS "read/s",
	round(60 * s.written_rate) AS "last minute",
	s.written AS total,
	s.refused,
	s.dead_letters AS "dead letters",
	s.dead_letter_stream_length AS "in dead_letter_stream",
	pg_size_pretty((SELECT sum(pg_total_relation_size(coalesce(t.relid, c.oid)))
		FROM pg_class c
			JOIN pg_namespace n ON n.oid = c.relnamespace
			LEFT JOIN LATERAL pg_partition_tree(c.oid) t ON true
		WHERE quote_ident(n.nspname) || '.' || quote_ident(c.relname) = p.target)) AS "table",
	date_trunc('milliseconds', s.latency_p50) AS p50,
	date_trunc('milliseconds', s.latency_p99) AS p99,
	coalesce(s.reason, s.last_error) AS trouble
FROM streamsink.status s
	JOIN streamsink.pipelines p ON p.name = s.pipeline
ORDER BY s.pipeline;
