-- events: an event log in JSONB.
--
--   psql -v host=127.0.0.1 -v port=6379 -f setup.sql
\set ON_ERROR_STOP on
\if :{?host}
\else
\set host 127.0.0.1
\set port 6379
\endif

CREATE EXTENSION IF NOT EXISTS streamsink;

CREATE TABLE IF NOT EXISTS events (
	id          bigserial PRIMARY KEY,
	event_type  text NOT NULL,
	data        jsonb NOT NULL,
	created_at  timestamptz NOT NULL,				-- when the entry was added, from its id
	written_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS events_created_at ON events USING brin (created_at);

CREATE SERVER IF NOT EXISTS event_redis FOREIGN DATA WRAPPER streamsink OPTIONS (host :'host', port :'port');
CREATE USER MAPPING IF NOT EXISTS FOR CURRENT_USER SERVER event_redis;

-- A batch goes when it has 500 entries, or 2 seconds after its first one.
SELECT streamsink.create_pipeline('events', server => 'event_redis', stream => 'events', target => 'events',
	columns => '{"created_at": "_time"}', workers => 5, batch_size => 500, linger => '2 s',
	dead_letter_stream => 'stream:dead', if_not_exists => true);
SELECT streamsink.start('events');
