-- sensor-writer: the readings of many sensors, one Redis stream each, into one table.
--
--   psql -v host=127.0.0.1 -v port=6379 -f sensor-writer.sql
\set ON_ERROR_STOP on
\if :{?host}
\else
\set host 127.0.0.1
\set port 6379
\endif

CREATE EXTENSION IF NOT EXISTS streamsink;

CREATE TABLE sensor_readings (
	id          bigserial PRIMARY KEY,
	timestamp   timestamptz NOT NULL,
	device_id   varchar(100) NOT NULL,
	sensor_type varchar(100) NOT NULL,
	value       double precision NOT NULL,
	metadata    jsonb,
	created_at  timestamptz DEFAULT now()
);

CREATE SERVER iot FOREIGN DATA WRAPPER streamsink OPTIONS (host :'host', port :'port');
CREATE USER MAPPING FOR CURRENT_USER SERVER iot;

-- device_id and sensor_type come out of the stream's name, the rest are fields.
SELECT streamsink.create_pipeline('sensors', server => 'iot',
	stream => 'mqtt_stream:{device_id}:{sensor_type}', target => 'sensor_readings');
SELECT streamsink.start('sensors');
