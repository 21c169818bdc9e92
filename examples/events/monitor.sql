-- monitor: one look every few seconds, until Ctrl-C.
--
--   psql -v seconds=2 -f monitor.sql
\if :{?seconds}
\else
\set seconds 2
\endif
\pset footer off
WITH by_type AS MATERIALIZED (
	SELECT event_type, count(*) AS events, count(*) FILTER (WHERE created_at > now() - interval '1 minute') AS recent
	FROM events
	GROUP BY event_type)
SELECT m.name AS events, m.value
FROM streamsink.status s
	LEFT JOIN streamsink.streams t ON t.pipeline = s.pipeline,
	LATERAL (
		VALUES
			(1, 'state', s.state || coalesce(': ' || s.reason, '')),
			(2, 'workers', s.workers || ' of ' || s.workers_wanted),
			(3, 'stream length', t.length::text),
			(4, 'not read yet', s.lag::text),
			(5, 'pending', s.pending::text),
			(6, 'dead letters in Redis', s.dead_letter_stream_length::text),
			(7, 'dead letters in Postgres', s.dead_letters::text),
			(8, 'total events', (SELECT coalesce(sum(events), 0) FROM by_type)::text),
			(9, 'events in the last minute', (SELECT coalesce(sum(recent), 0) FROM by_type)::text),
			(10, 'table size', pg_size_pretty(pg_total_relation_size('events')))
		UNION ALL
		SELECT 11, '  ' || event_type, events::text FROM by_type) AS m(place, name, value)
WHERE s.pipeline = 'events'
ORDER BY m.place, m.name
\watch :seconds
