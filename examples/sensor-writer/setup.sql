-- sensor-writer: the readings of many sensors, one Redis stream each, into one table.
--
--   psql -v host=127.0.0.1 -v port=6379 -f setup.sql
\set ON_ERROR_STOP on
\if :{?host}
\else
\set host 127.0.0.1
\set port 6379
\endif
SELECT current_setting('shared_preload_libraries') ~ '\mtimescaledb\M' AS timescale \gset

CREATE EXTENSION IF NOT EXISTS streamsink;

\if :timescale
-- A hypertable: keys contain the time.  Compression and policies are in TimescaleDB's community edition only.
CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE TABLE IF NOT EXISTS sensor_readings (
	id          bigserial,
	timestamp   timestamptz NOT NULL,
	device_id   varchar(100) NOT NULL,
	sensor_type varchar(100) NOT NULL,
	value       double precision NOT NULL,
	metadata    jsonb,
	created_at  timestamptz DEFAULT now(),
	PRIMARY KEY (id, timestamp)
);
SELECT create_hypertable('sensor_readings', by_range('timestamp', interval '1 day'), if_not_exists => true);
SELECT current_setting('timescaledb.license') = 'timescale' AS policies \gset
\if :policies
ALTER TABLE sensor_readings SET (timescaledb.compress, timescaledb.compress_segmentby = 'device_id, sensor_type', timescaledb.compress_orderby = 'timestamp DESC');
SELECT add_compression_policy('sensor_readings', interval '7 days', if_not_exists => true);
SELECT add_retention_policy('sensor_readings', interval '1 year', if_not_exists => true);
\endif
\else
CREATE TABLE IF NOT EXISTS sensor_readings (
	id          bigserial PRIMARY KEY,
	timestamp   timestamptz NOT NULL,
	device_id   varchar(100) NOT NULL,
	sensor_type varchar(100) NOT NULL,
	value       double precision NOT NULL,
	metadata    jsonb,
	created_at  timestamptz DEFAULT now()
);
\endif

CREATE SERVER IF NOT EXISTS iot FOREIGN DATA WRAPPER streamsink OPTIONS (host :'host', port :'port');
CREATE USER MAPPING IF NOT EXISTS FOR CURRENT_USER SERVER iot;

-- device_id and sensor_type come out of the stream's name; fields that no column takes go to metadata.
SELECT streamsink.create_pipeline('sensors', server => 'iot',
	stream => 'mqtt_stream:{device_id}:{sensor_type}', target => 'sensor_readings', rest => 'metadata',
	workers => 4, batch_size => 500, dead_letter_stream => 'sensors:refused', if_not_exists => true);

-- What was refused, under the names that readers of mqtt_stream:failed know.
DO $$ BEGIN
	CREATE TYPE sensor_refusal AS (stream text, id text, error text, failed_at timestamptz, fields jsonb);
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
SELECT streamsink.create_pipeline('sensors_failed', server => 'iot', stream => 'sensors:refused',
	row_type => 'sensor_refusal', if_not_exists => true,
	transform => $$
		SELECT streamsink.emit('mqtt_stream:failed', jsonb_build_object(
			'original_stream', stream,
			'original_id', id,
			'device_id', split_part(stream, ':', 2),
			'sensor_type', split_part(stream, ':', 3),
			'value', coalesce(fields ->> 'value', ''),
			'error', error,
			'failed_at', extract(epoch FROM failed_at)::text))
		FROM batch
		ORDER BY _seq;
	$$);

SELECT streamsink.start('sensors');
SELECT streamsink.start('sensors_failed');
