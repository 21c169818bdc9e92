-- create_target and evolve, as far as they go without Redis; and rest.

CREATE ROLE regress_auto_owner LOGIN;
CREATE ROLE regress_auto_other LOGIN;
SET client_min_messages = warning;
SELECT streamsink.grant_access('regress_auto_owner'), streamsink.grant_access('regress_auto_other');
CREATE SERVER auto_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost', password_required 'false');
GRANT USAGE ON FOREIGN SERVER auto_server TO regress_auto_owner, regress_auto_other;
CREATE SCHEMA auto;
GRANT USAGE, CREATE ON SCHEMA auto TO regress_auto_owner;
GRANT USAGE ON SCHEMA auto TO regress_auto_other;
RESET client_min_messages;
SET search_path = auto;

CREATE FUNCTION fails(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN NEXT 'no error: ' || statement;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN NEXT sqlstate || ' ' || sqlerrm;
	IF detail <> '' THEN
		RETURN NEXT '  detail: ' || detail;
	END IF;
	IF hint <> '' THEN
		RETURN NEXT '  hint: ' || hint;
	END IF;
END $$;
GRANT EXECUTE ON FUNCTION fails(text) TO regress_auto_owner, regress_auto_other;

-- ---------------------------------------------------------------------------
-- create_target without a look at entries: placeholders, _id and the like, rest
-- ---------------------------------------------------------------------------
SET ROLE regress_auto_owner;
SELECT streamsink.create_pipeline('plain', server => 'auto_server', stream => 'mqtt:{device_id}:{sensorType}', target => 'plain_readings',
	columns => '{"entry": "_id", "received": "_time", "kind": "sensorType"}', rest => 'more', create_target => true, connect => false);
\d plain_readings
SELECT obj_description('plain_readings'::regclass, 'pg_class');
SELECT tableowner FROM pg_tables WHERE tablename = 'plain_readings';
SELECT target, create_target, evolve FROM streamsink.pipelines WHERE name = 'plain';
SELECT streamsink.pipeline_def('plain');
SELECT outcome, "row" FROM streamsink.apply('plain', '[{"_id": "1712345678901-7", "value": 0.12345678901234567890123456789, "big": "123456789012345678901234567890", "doc": {"a": 1.50}}]', stream => 'mqtt:d1:co2');
SELECT kind, more FROM plain_readings;

-- upserts need a key, which becomes the primary key
SELECT * FROM fails($$SELECT streamsink.create_pipeline('keyed', server => 'auto_server', stream => 's:{a}:{B}', target => 'keyed', on_conflict => 'update', create_target => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('keyed', server => 'auto_server', stream => 's:{a}:{B}', target => 'keyed', on_conflict => 'nothing', create_target => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('keyed', server => 'auto_server', stream => 's:{a}:{B}', target => 'keyed', on_conflict => 'update', key => 'a, b', create_target => true, connect => false)$$);
SELECT streamsink.create_pipeline('keyed', server => 'auto_server', stream => 's:{a}:{B}', target => 'keyed', rest => 'more',
	on_conflict => 'update', key => '"B", a', create_target => true, connect => false);
SELECT outcome FROM streamsink.apply('keyed', '[{"n": "1"}, {"n": "2"}]', stream => 's:x:y');
SELECT * FROM keyed;

-- names are identifiers, whatever is in them
SELECT streamsink.create_pipeline('odd', server => 'auto_server', stream => 's', target => '"Odd "" Table; DROP"',
	columns => '{"\"; DROP TABLE keyed; --": "_id", "select": "_stream"}', create_target => true, connect => false);
\d "Odd "" Table; DROP"

-- a table that exists is left as it is
CREATE TABLE there (a int);
SELECT streamsink.create_pipeline('there', server => 'auto_server', stream => 's:{b}', target => 'there', create_target => true, connect => false);
\d there
SELECT streamsink.create_pipeline('there', server => 'auto_server', stream => 's:{b}', target => 'nowhere', create_target => true, connect => false, if_not_exists => true);
SELECT to_regclass('nowhere');
SELECT * FROM fails($$SELECT streamsink.create_pipeline('there', server => 'auto_server', stream => 's:{b}', target => 'nowhere', create_target => true, connect => false)$$);
-- a rollback takes it back
BEGIN;
SELECT streamsink.create_pipeline('back', server => 'auto_server', stream => 's:{b}', target => 'back', create_target => true, connect => false);
ROLLBACK;
SELECT to_regclass('back');

-- errors
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's', target => 'bad', create_target => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'bad', columns => '{"value": "v"}', create_target => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', create_target => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'bad', row_type => 'there', create_target => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'bad', transform => 'SELECT FROM batch', create_target => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'there', transform => 'SELECT FROM batch', evolve => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'pg_temp.bad', create_target => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'nowhere.bad', create_target => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'bad', create_target => NULL, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{xmin}', target => 'bad', create_target => true, connect => false)$$);
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'bad', rest => 'a', create_target => true, connect => false)$$);
SELECT * FROM fails(format($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'bad', columns => '{"%s": "_id"}', create_target => true, connect => false)$$, repeat('x', 64)));
SELECT * FROM fails($$SELECT streamsink.alter_pipeline('plain', create_target => true, connect => false)$$);
SELECT streamsink.alter_pipeline('plain', create_target => false);
SELECT to_regclass('bad');
-- what has made the table does not stand against a transform later
BEGIN;
SELECT streamsink.create_pipeline('later', server => 'auto_server', stream => 's:{b}', target => 'later', create_target => true, connect => false);
SELECT streamsink.alter_pipeline('later', transform => 'INSERT INTO later SELECT b FROM batch', connect => false);
SELECT streamsink.pipeline_def('later') LIKE '%create_target%';
ROLLBACK;
RESET ROLE;
-- who may not make tables there
SET ROLE regress_auto_other;
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'bad', create_target => true, connect => false)$$);
RESET ROLE;
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's:{a}', target => 'pg_catalog.bad', create_target => true, connect => false)$$);

-- a search_path that hides types
CREATE DOMAIN text AS pg_catalog.text CHECK (length(VALUE) < 3);
SET search_path = auto, pg_catalog;
SELECT streamsink.create_pipeline('hidden', server => 'auto_server', stream => 's:{a}', target => 'hidden', create_target => true, connect => false);
SET search_path = auto;
DROP DOMAIN auto.text;

-- ---------------------------------------------------------------------------
-- evolve: what it needs
-- ---------------------------------------------------------------------------
CREATE VIEW auto_view AS SELECT * FROM there;
CREATE TABLE parted (a int) PARTITION BY LIST (a);
CREATE TABLE part PARTITION OF parted DEFAULT;
CREATE TYPE pair AS (a int, b text);
CREATE TABLE typed OF pair;
CREATE TABLE foreigner (a int);
GRANT ALL ON foreigner TO regress_auto_owner;
SELECT t, f FROM unnest('{auto_view,part,typed}'::text[]) t,
	fails(format($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's', target => %L, evolve => true, connect => false)$$, t)) f;
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's', target => 'there', row_type => 'pair', evolve => true, connect => false)$$);
SELECT streamsink.create_pipeline('parted', server => 'auto_server', stream => 's', target => 'parted', evolve => true, connect => false);
SET ROLE regress_auto_owner;
SELECT * FROM fails($$SELECT streamsink.create_pipeline('bad', server => 'auto_server', stream => 's', target => 'foreigner', evolve => true, connect => false)$$);
SELECT streamsink.create_pipeline('evolving', server => 'auto_server', stream => 's', target => 'there', rest => NULL, evolve => true, connect => false);
SELECT streamsink.pipeline_def('evolving');
-- apply shows what would be written to the table as it is
SELECT outcome, "row" FROM streamsink.apply('evolving', '[{"a": "1", "new": "2"}]');
SELECT streamsink.alter_pipeline('evolving', evolve => false);
SELECT name, evolve FROM streamsink.pipelines WHERE name = 'evolving';
SELECT streamsink.alter_pipeline('evolving', target => 'foreigner');
SELECT * FROM fails($$SELECT streamsink.alter_pipeline('evolving', evolve => true)$$);
SELECT streamsink.alter_pipeline('evolving', evolve => true, target => 'there');
SELECT name, evolve FROM streamsink.pipelines WHERE name = 'evolving';
SELECT streamsink.alter_pipeline('evolving', reset => '{evolve}');
SELECT name, evolve FROM streamsink.pipelines WHERE name = 'evolving';
RESET ROLE;

-- ---------------------------------------------------------------------------
-- rest collects what has no column, every digit of it
-- ---------------------------------------------------------------------------
CREATE TABLE resting (device text, a int, more jsonb);
SELECT streamsink.create_pipeline('resting', server => 'auto_server', stream => 's:{device}:{site}', target => 'resting', payload => 'body', rest => 'more', connect => false);
SELECT outcome, error FROM streamsink.apply('resting', $$[
	{"a": "1", "x": "0.10000000000000000000000000000000000001", "body": "{\"a\": 2, \"n\": 0.10000000000000000000000000000000000001, \"big\": 123456789012345678901234567890, \"e\": 1e-30, \"trail\": 1.500, \"t\": true, \"nul\": null, \"s\": \"1.50\", \"o\": {\"p\": 12345678901234567890.5}, \"l\": [1.10, 2]}"},
	{"x": "field", "body": "{\"x\": \"member\", \"site\": \"member\", \"y\": 1, \"y\": 2}"},
	{"body": "{}"}]$$, stream => 's:d1:roof');
SELECT device, a, more FROM resting;

\set VERBOSITY terse
SET client_min_messages = warning;
SELECT streamsink.drop_pipeline(name) FROM streamsink.pipeline WHERE server = 'auto_server';
DELETE FROM streamsink.outbox_queue;
DROP SCHEMA auto CASCADE;
DROP SERVER auto_server CASCADE;
DROP OWNED BY regress_auto_owner, regress_auto_other CASCADE;
DROP ROLE regress_auto_owner, regress_auto_other;
