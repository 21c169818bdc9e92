-- telemetry: validate, enrich, write each event once.
--
--   psql -v host=127.0.0.1 -v port=6379 -f setup.sql
\set ON_ERROR_STOP on
\if :{?host}
\else
\set host 127.0.0.1
\set port 6379
\endif

CREATE EXTENSION IF NOT EXISTS streamsink;

-- The KPIs that are known, and above which value each is degraded.  An UPDATE counts from the next batch on.
CREATE TABLE IF NOT EXISTS kpis (
	kpi        text PRIMARY KEY,
	threshold  double precision NOT NULL
);
INSERT INTO kpis VALUES ('temperature', 80), ('humidity', 70), ('pressure', 1050), ('vibration', 5)
ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS telemetry (
	event_id     uuid PRIMARY KEY,
	device_id    text NOT NULL,
	zone         text NOT NULL,
	ts           timestamptz NOT NULL,
	kpi          text NOT NULL REFERENCES kpis,
	value        double precision NOT NULL,
	is_degraded  boolean NOT NULL,
	created_at   timestamptz NOT NULL DEFAULT now()
);

-- What an entry must have, and of which types.  It stays empty.
CREATE TABLE IF NOT EXISTS telemetry_event (
	event_id   uuid NOT NULL,
	device_id  text NOT NULL,
	zone       text NOT NULL,
	ts         timestamptz NOT NULL,
	kpi        text NOT NULL,
	value      double precision NOT NULL
);

CREATE OR REPLACE VIEW telemetry_counts AS
SELECT count(*) AS total, count(*) FILTER (WHERE is_degraded) AS degraded, count(*) FILTER (WHERE NOT is_degraded) AS healthy
FROM telemetry;

CREATE SERVER IF NOT EXISTS telemetry_redis FOREIGN DATA WRAPPER streamsink OPTIONS (host :'host', port :'port');
CREATE USER MAPPING IF NOT EXISTS FOR CURRENT_USER SERVER telemetry_redis;

SELECT streamsink.create_pipeline('telemetry', server => 'telemetry_redis', stream => 'telemetry_stream',
	row_type => 'telemetry_event', dead_letter_stream => 'telemetry_stream:dead',
	max_retries => 3, retry_backoff => '500 ms', retry_growth => 'linear', if_not_exists => true,
	transform => $$
		SELECT streamsink.refuse(_seq, format('Unknown KPI: %s', kpi))
		FROM batch
		WHERE kpi NOT IN (SELECT k.kpi FROM kpis k);

		SELECT streamsink.refuse(_seq, format('Value must be non-negative, got %s', _fields ->> 'value'))
		FROM batch
		WHERE value < 0 OR value = 'NaN';

		INSERT INTO telemetry (event_id, device_id, zone, ts, kpi, value, is_degraded)
		SELECT event_id, device_id, zone, ts, kpi, value, value > threshold
		FROM batch JOIN kpis USING (kpi)
		ORDER BY _seq
		ON CONFLICT (event_id) DO NOTHING;
	$$);
SELECT streamsink.start('telemetry');
