-- collector: telemetry, thresholds and alerts for smart buildings.
--
--   psql -v host=127.0.0.1 -v port=6379 -f setup.sql
--
-- -v interval='5 s': flush after that time instead of 1 s; -v alert_streams=1: alerts go to streams, too.
\set ON_ERROR_STOP on
\if :{?host}
\else
\set host 127.0.0.1
\set port 6379
\endif
\if :{?interval}
\else
\set interval '1 s'
\endif
\if :{?alert_streams}
\else
\set alert_streams 0
\endif
SELECT current_setting('shared_preload_libraries') ~ '\mtimescaledb\M' AS timescale \gset

CREATE EXTENSION IF NOT EXISTS streamsink;
SET search_path = public, streamsink;	-- captured with the pipelines: entry ids are compared

-- ---------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS readings (
	time       timestamptz NOT NULL,
	device_id  text NOT NULL,
	place_id   text NOT NULL,
	key        text NOT NULL,
	value      double precision NOT NULL
);
CREATE INDEX IF NOT EXISTS readings_device ON readings (device_id, key, time DESC);

-- A value below min_value or above max_value is a crossing.  Streams are read side by side: what was
-- deleted stays as a tombstone, so that a creation that is read after its deletion does nothing.
CREATE TABLE IF NOT EXISTS thresholds (
	threshold_id  text PRIMARY KEY,
	device_id     text,
	key           text,
	min_value     double precision,
	max_value     double precision,
	entry         entry_id NOT NULL,
	deleted       boolean NOT NULL DEFAULT false
);
CREATE INDEX IF NOT EXISTS thresholds_device ON thresholds (device_id, key) WHERE NOT deleted;
CREATE TABLE IF NOT EXISTS deleted_devices (
	device_id  text PRIMARY KEY,
	entry      entry_id NOT NULL		-- readings and thresholds that were sent later count again
);

CREATE TABLE IF NOT EXISTS alerts (
	id            bigserial PRIMARY KEY,
	time          timestamptz NOT NULL,
	device_id     text NOT NULL,
	place_id      text NOT NULL,
	key           text NOT NULL,
	value         double precision NOT NULL,
	threshold_id  text NOT NULL,
	bound         text NOT NULL,
	created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS alerts_device ON alerts (device_id);

-- With TimescaleDB: a hypertable.  Compression and policies are in its community edition only.
\if :timescale
CREATE EXTENSION IF NOT EXISTS timescaledb;
SELECT create_hypertable('readings', by_range('time', interval '1 day'), create_default_indexes => false, if_not_exists => true);
SELECT current_setting('timescaledb.license') = 'timescale' AS policies \gset
\if :policies
ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_segmentby = 'device_id, key', timescaledb.compress_orderby = 'time DESC');
SELECT add_compression_policy('readings', interval '7 days', if_not_exists => true);
SELECT add_retention_policy('readings', interval '1 year', if_not_exists => true);
\endif
\endif

-- ---------------------------------------------------------------------------
-- What the platform asks for
-- ---------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION get_latest_readings(device_id text)
RETURNS TABLE (key text, "time" timestamptz, value double precision)
LANGUAGE sql STABLE AS $$
	SELECT DISTINCT ON (r.key) r.key, r.time, r.value
	FROM readings r
	WHERE r.device_id = get_latest_readings.device_id
	ORDER BY r.key, r.time DESC
$$;

-- Raw rows when the interval is 0, else the average of each bucket, NULL in an empty one.
CREATE OR REPLACE FUNCTION get_readings(device_id text, from_time timestamptz, to_time timestamptz,
	interval_seconds int DEFAULT 0, keys text[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, key text, value double precision)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
	width interval := make_interval(secs => interval_seconds);
	origin CONSTANT timestamptz := '2000-01-03 00:00:00+00';		-- as time_bucket has it
BEGIN
	IF from_time IS NULL OR to_time IS NULL OR to_time < from_time OR interval_seconds IS NULL OR interval_seconds < 0 THEN
		RAISE EXCEPTION 'from_time must not be after to_time, interval_seconds not negative'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF interval_seconds = 0 AND to_time - from_time > interval '2 hours' THEN
		RAISE EXCEPTION 'raw readings are given for at most 2 hours'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('%s were asked for.', to_time - from_time),
				HINT = 'Give interval_seconds to get averages.';
	ELSIF interval_seconds = 0 THEN
		RETURN QUERY
			SELECT r.time, r.key, r.value
			FROM readings r
			WHERE r.device_id = get_readings.device_id AND r.time >= from_time AND r.time < to_time AND (keys IS NULL OR r.key = ANY (keys))
			ORDER BY r.time, r.key;
	ELSIF extract(epoch FROM to_time - from_time) / interval_seconds > 100000 THEN
		RAISE EXCEPTION 'more than 100000 buckets'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a longer interval.';
	ELSE
		RETURN QUERY
			WITH bucket AS (
				SELECT date_bin(width, r.time, origin) AS start, r.key, avg(r.value) AS value
				FROM readings r
				WHERE r.device_id = get_readings.device_id AND r.time >= from_time AND r.time < to_time AND (keys IS NULL OR r.key = ANY (keys))
				GROUP BY 1, 2)
			SELECT s.start, k.key, b.value
			FROM generate_series(date_bin(width, from_time, origin), to_time - interval '1 microsecond', width) AS s(start)
				CROSS JOIN (SELECT DISTINCT bucket.key FROM bucket) k
				LEFT JOIN bucket b ON b.start = s.start AND b.key = k.key
			ORDER BY s.start, k.key;
	END IF;
END $$;

-- Returns how many readings there were.
CREATE OR REPLACE FUNCTION delete_readings(device_ids text[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
	deleted bigint;
BEGIN
	-- RETURNING: what goes with a whole compressed batch is not in ROW_COUNT
	WITH gone AS (DELETE FROM readings WHERE device_id = ANY (device_ids) RETURNING 1)
	SELECT count(*) INTO deleted FROM gone;
	DELETE FROM alerts WHERE device_id = ANY (device_ids);
	RETURN deleted;
END $$;

-- ---------------------------------------------------------------------------
-- Pipelines
-- ---------------------------------------------------------------------------

CREATE SERVER IF NOT EXISTS building_redis FOREIGN DATA WRAPPER streamsink OPTIONS (host :'host', port :'port');
CREATE USER MAPPING IF NOT EXISTS FOR CURRENT_USER SERVER building_redis;

DO $$ BEGIN
	CREATE TYPE reading_entry AS (device_id text, place_id text, time timestamptz);
	CREATE TYPE device_entry AS (object text, event text, threshold_id text, device_id text, device_ids jsonb,
		key text, min_value double precision, max_value double precision);
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;

SELECT create_pipeline('readings', server => 'building_redis', stream => 'telemetry.readings',
	row_type => 'reading_entry', batch_size => 1000, linger => :'interval', if_not_exists => true,
	transform => $$
		SELECT refuse(_seq, 'device_id, place_id and time are needed')
		FROM batch
		WHERE device_id IS NULL OR place_id IS NULL OR time IS NULL;
		-- against a device that is deleted at this moment: see the pipeline "devices"
		SELECT pg_advisory_xact_lock_shared('deleted_devices'::regclass::oid::bigint);
		SELECT ignore(b._seq, 'the device was deleted')
		FROM batch b JOIN deleted_devices d ON d.device_id = b.device_id AND b._id <= d.entry;

		-- every further field is a key with its value
		SELECT b._seq, b.time, b.device_id, b.place_id, f.key, f.value::double precision AS value
		INTO reading
		FROM batch b CROSS JOIN LATERAL jsonb_each_text(b._fields - '{device_id,place_id,time}'::text[]) f;
		INSERT INTO readings (time, device_id, place_id, key, value)
		SELECT time, device_id, place_id, key, value FROM reading ORDER BY _seq;

		WITH crossing AS (
			INSERT INTO alerts (time, device_id, place_id, key, value, threshold_id, bound)
			SELECT r.time, r.device_id, r.place_id, r.key, r.value, t.threshold_id, CASE WHEN r.value > t.max_value THEN 'max' ELSE 'min' END
			FROM reading r JOIN thresholds t ON t.device_id = r.device_id AND t.key = r.key AND NOT t.deleted
			WHERE r.value > t.max_value OR r.value < t.min_value
			ORDER BY r._seq
			RETURNING *)
		SELECT publish(format('placebrain/%s/alerts', place_id), to_jsonb(crossing)::text) $$
	|| CASE WHEN :'alert_streams'::boolean THEN $$, emit(format('placebrain/%s/alerts', place_id), to_jsonb(crossing)) $$ ELSE '' END
	|| $$ FROM crossing ORDER BY id;
	$$);

-- One worker for the four streams: devices.threshold.created and .deleted, devices.device.deleted and .bulk-deleted.
SELECT create_pipeline('devices', server => 'building_redis', stream => 'devices.{object}.{event}',
	row_type => 'device_entry', if_not_exists => true,
	transform => $$
		SELECT refuse(_seq, 'threshold_id is needed, and to create one device_id, key and a bound')
		FROM batch
		WHERE object = 'threshold' AND (threshold_id IS NULL OR
			event = 'created' AND (device_id IS NULL OR key IS NULL OR coalesce(min_value, max_value) IS NULL));
		SELECT refuse(_seq, 'device_id or device_ids, an array, is needed')
		FROM batch
		WHERE object = 'device' AND (event = 'deleted' AND device_id IS NULL
			OR event = 'bulk-deleted' AND jsonb_typeof(device_ids) IS DISTINCT FROM 'array');

		INSERT INTO thresholds AS t (threshold_id, device_id, key, min_value, max_value, entry)
		SELECT DISTINCT ON (threshold_id) threshold_id, device_id, key, min_value, max_value, _id
		FROM batch b
		WHERE object = 'threshold' AND event = 'created'
			AND NOT EXISTS (SELECT FROM deleted_devices d WHERE d.device_id = b.device_id AND b._id <= d.entry)
		ORDER BY threshold_id, _id DESC
		ON CONFLICT (threshold_id) DO UPDATE SET device_id = excluded.device_id, key = excluded.key,
			min_value = excluded.min_value, max_value = excluded.max_value, entry = excluded.entry
		WHERE NOT t.deleted AND t.entry < excluded.entry;
		INSERT INTO thresholds (threshold_id, entry, deleted)
		SELECT DISTINCT ON (threshold_id) threshold_id, _id, true
		FROM batch
		WHERE object = 'threshold' AND event = 'deleted'
		ON CONFLICT (threshold_id) DO UPDATE SET deleted = true;

		SELECT device_id, max(_id) AS entry
		INTO gone
		FROM (SELECT device_id, _id FROM batch WHERE object = 'device' AND event = 'deleted'
			UNION ALL
			SELECT jsonb_array_elements_text(device_ids), _id FROM batch WHERE object = 'device' AND event = 'bulk-deleted') d
		GROUP BY device_id;
		-- waits for the readings that are being written, which the next statements then see
		SELECT pg_advisory_xact_lock('deleted_devices'::regclass::oid::bigint) WHERE EXISTS (SELECT FROM gone);
		INSERT INTO deleted_devices AS d (device_id, entry)
		SELECT device_id, entry FROM gone
		ON CONFLICT (device_id) DO UPDATE SET entry = greatest(d.entry, excluded.entry);
		DELETE FROM thresholds t USING gone g WHERE t.device_id = g.device_id AND t.entry <= g.entry;
		SELECT delete_readings(array_agg(device_id)) FROM gone HAVING count(*) > 0;
	$$);
SELECT start('readings');
SELECT start('devices');
