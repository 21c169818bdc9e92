-- Transforms: what may stand in one, how it is checked, and what it does to
-- tables of all kinds.

SET client_min_messages = warning;
SET search_path = public;
CREATE SERVER transform_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost', password_required 'false');

-- A failing statement with all that it says; of the query the line and what stands at the position.
CREATE FUNCTION transform_fails(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
	context text;
BEGIN
	EXECUTE statement;
	RETURN NEXT 'no error: ' || statement;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
	RETURN NEXT sqlstate || ' ' || sqlerrm;
	IF detail <> '' THEN
		RETURN NEXT '  detail: ' || detail;
	END IF;
	IF hint <> '' THEN
		RETURN NEXT '  hint: ' || hint;
	END IF;
	RETURN QUERY SELECT '  ' || l FROM unnest(string_to_array(context, E'\n')) AS l WHERE l ~ '^pipeline|of the transform$';
END $$;

CREATE TYPE transform_reading AS (device text, kind text, value float8, at timestamptz);
CREATE TABLE transform_target (id bigserial PRIMARY KEY, device text NOT NULL, value float8);
CREATE FUNCTION transform_create(transform text, name text = 'fails', target text = NULL, row_type text = 'transform_reading') RETURNS void LANGUAGE sql AS $$
	SELECT streamsink.create_pipeline(name, 'transform_server', 'transform:' || name, target, row_type => row_type, transform => transform, connect => false)
$$;

-- ---------------------------------------------------------------------------
-- What is refused, with its position
-- ---------------------------------------------------------------------------
SELECT transform_create('SELEC 1');
SELECT transform_create(E'SELECT 1;\n  SELECT 2 FROM batch WHERE;\nSELECT 3');
SELECT transform_create(E'SELECT device FROM batch;\nINSERT INTO transform_target (device) SELECT nothing FROM batch');
SELECT transform_create(E'INSERT INTO transform_target (device, valeu)\n\tSELECT device, value FROM batch');
SELECT transform_create(E'SELECT ''äöü'' FROM batch; -- größe\n/* a /* b */ c */ DELETE FROM transform_nowhere');
SELECT transform_create('SELECT no_such_function(device) FROM batch');
SELECT transform_create('SELECT $1 FROM batch');
SELECT transform_create('UPDATE batch SET value = 1');
SELECT transform_create('INSERT INTO batch SELECT * FROM batch');
SELECT transform_create('INSERT INTO transform_target (device) SELECT value FROM batch; SELECT 1/0');
SELECT transform_create('SELECT device::int + 1 FROM batch; SELECT ''x''::int');
SELECT s AS statement, f FROM unnest(ARRAY['BEGIN', 'COMMIT', 'ROLLBACK', 'SAVEPOINT a', 'COPY transform_target FROM STDIN', 'COPY transform_target TO STDOUT',
	'CREATE TABLE t (a int)', 'CREATE TABLE t AS SELECT * FROM batch', 'DROP TABLE transform_target', 'ALTER TABLE transform_target ADD a int',
	'TRUNCATE transform_target', 'VACUUM', 'SET work_mem = 1', 'DO ''BEGIN END''', 'EXPLAIN SELECT 1', 'PREPARE a AS SELECT 1', 'EXECUTE a',
	'DECLARE c CURSOR FOR SELECT 1', 'LISTEN a', 'CHECKPOINT', 'REFRESH MATERIALIZED VIEW m', 'GRANT SELECT ON transform_target TO PUBLIC',
	'SELECT * INTO TEMP t FROM batch', 'SELECT * INTO UNLOGGED t FROM batch', 'SELECT * INTO public.t FROM batch', 'SELECT * INTO batch FROM batch',
	'SELECT 1 UNION SELECT 2 INTO t', '', ' ; ; -- nothing', 'LOCK TABLE transform_nowhere', 'CALL transform_nowhere()']) AS s,
	LATERAL transform_fails(format('SELECT transform_create(%L)', s)) AS f;
SELECT transform_create('SELECT 1 AS a INTO x FROM batch; SELECT 2 AS a INTO x FROM batch');
SELECT transform_create(string_agg('SELECT 1', ';')) FROM generate_series(1, 101);
-- arguments that do not go together
SELECT * FROM transform_fails($$SELECT transform_create('SELECT 1', row_type => NULL)$$);
SELECT * FROM transform_fails($$SELECT streamsink.create_pipeline('fails', 'transform_server', 's', 'transform_target', transform => 'SELECT 1', on_conflict => 'nothing', connect => false)$$);
SELECT * FROM transform_fails($$SELECT streamsink.create_pipeline('fails', 'transform_server', 's', 'transform_target', transform => 'SELECT 1', on_conflict => 'update', key => 'id', connect => false)$$);
-- what is not written exactly once, or is not for entries to write, also in a part of a statement
CREATE UNLOGGED TABLE transform_unlogged (a text);
SELECT * FROM transform_fails($$SELECT transform_create('WITH x AS (INSERT INTO transform_unlogged SELECT device FROM batch RETURNING a) SELECT count(*) FROM x')$$);
SELECT * FROM transform_fails($$SELECT transform_create('DELETE FROM streamsink.dead_letter')$$);
SELECT * FROM transform_fails($$SELECT transform_create('DELETE FROM pg_class')$$);
SELECT count(*) FROM streamsink.pipelines WHERE name = 'fails';

-- privileges of the owner
CREATE ROLE transform_owner LOGIN;
SELECT streamsink.grant_access('transform_owner');
GRANT USAGE ON FOREIGN SERVER transform_server TO transform_owner;
CREATE TABLE transform_secret (a text);
CREATE PROCEDURE transform_procedure() LANGUAGE sql AS 'SELECT 1';
REVOKE ALL ON PROCEDURE transform_procedure() FROM PUBLIC;
CREATE FUNCTION transform_forbidden(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
REVOKE ALL ON FUNCTION transform_forbidden(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION transform_create(text, text, text, text) TO transform_owner;
GRANT SELECT ON transform_secret TO transform_owner;
SET ROLE transform_owner;
SELECT * FROM transform_fails($$SELECT transform_create('INSERT INTO transform_secret SELECT device FROM batch')$$);
SELECT * FROM transform_fails($$SELECT transform_create('CALL transform_procedure()')$$);
SELECT * FROM transform_fails($$SELECT transform_create('SELECT transform_forbidden(device) FROM batch')$$);
-- a target that is not inserted into needs no INSERT
SELECT transform_create('SELECT 1 FROM batch JOIN transform_secret ON true', 'reads', 'transform_secret', NULL);
RESET ROLE;
SELECT name, owner, target, statement FROM streamsink.pipelines WHERE name = 'reads';
SELECT streamsink.drop_pipeline('reads');

-- ---------------------------------------------------------------------------
-- One statement, several, and what batch looks like
-- ---------------------------------------------------------------------------
CREATE FUNCTION transform_entries(VARIADIC bodies jsonb[]) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(jsonb_build_object('_id', '1-' || i) || b ORDER BY i) FROM unnest(bodies) WITH ORDINALITY AS t (b, i)
$$;
SELECT transform_create($$INSERT INTO transform_target (device, value) SELECT device, value * 2 FROM batch WHERE kind = 'temperature'$$, 'one');
SELECT * FROM streamsink.describe('one');
SELECT name, target, row_type, transform = statement AS same, statement FROM streamsink.pipelines WHERE name = 'one';
SELECT streamsink.pipeline_def('one');
SELECT id, outcome, sqlstate, error, "row" FROM streamsink.apply('one', transform_entries('{"device": "a", "kind": "temperature", "value": "1.25"}',
	'{"device": "b", "kind": "humidity", "value": 2}', '{"device": "c", "kind": "temperature", "value": "warm"}', '{"kind": "temperature"}',
	'{"device": "d", "kind": "temperature", "value": 3}'));
SELECT * FROM transform_target ORDER BY id;
SELECT entry_id, stage, sqlstate, error, table_name, column_name FROM streamsink.dead_letters WHERE pipeline = 'one' ORDER BY id;
SELECT streamsink.discard_dead_letters('one');

-- a definition is a call that gives it back, whatever stands in the transform
SELECT streamsink.alter_pipeline('one', transform => E'SELECT $sql$quoted$sql$ AS "a""b", ''it''''s'' FROM batch; SELECT $sql1$x$sql1$ -- $sql', connect => false);
CREATE TABLE transform_definition AS SELECT transform FROM streamsink.pipelines WHERE name = 'one';
SELECT streamsink.pipeline_def('one');
SELECT regexp_replace(streamsink.pipeline_def('one', 'copy'), '\);$', ', connect => false)') AS definition \gset
:definition;
SELECT name, p.transform = d.transform AS same FROM streamsink.pipelines p, transform_definition d WHERE name IN ('one', 'copy') ORDER BY 1;
SELECT streamsink.drop_pipeline('copy');
-- alter: it can be set, and reset where there is a target
SELECT * FROM transform_fails($$SELECT streamsink.alter_pipeline('one', reset => '{transform}', connect => false)$$);
SELECT * FROM transform_fails($$SELECT streamsink.alter_pipeline('one', on_conflict => 'nothing', connect => false)$$);
SELECT * FROM transform_fails($$SELECT streamsink.alter_pipeline('one', transform => 'SELECT nothing FROM batch', connect => false)$$);
SELECT streamsink.alter_pipeline('one', target => 'transform_target', reset => '{transform, row_type}', connect => false);
SELECT target, row_type, transform, statement FROM streamsink.pipelines WHERE name = 'one';
SELECT streamsink.drop_pipeline('one');

-- names, times, placeholders, fields; the row type of a target, NOT NULL unchecked
TRUNCATE transform_target RESTART IDENTITY;
SELECT streamsink.create_pipeline('meta', 'transform_server', 'meta:{place}:*', 'transform_target', transform => $$
	INSERT INTO transform_target (device, value)
	SELECT concat_ws(' ', _id, _stream, extract(epoch FROM _time)::int, _seq, coalesce(device, 'none'), _fields), value FROM batch ORDER BY _seq DESC
	$$, connect => false);
SELECT outcome FROM streamsink.apply('meta', '[{"_id": "1000-1", "value": 7, "other": "x"}, {"_id": "2000-2", "device": "d"}]', 'meta:here:1');
SELECT * FROM transform_target ORDER BY id;
-- _fields is there for whoever reads it, also through a join, a whole row, a star
CREATE TABLE transform_seen (n serial, fields jsonb);
CREATE FUNCTION transform_sees(transform text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE result jsonb;
BEGIN
	TRUNCATE transform_seen;
	PERFORM streamsink.alter_pipeline('meta', transform => transform, connect => false);
	PERFORM streamsink.apply('meta', '[{"_id": "1-1", "device": "d"}]', 'meta:here:1');
	SELECT fields INTO result FROM transform_seen;
	RETURN result;
END $$;
SELECT s, transform_sees(s) FROM unnest(ARRAY[
	'INSERT INTO transform_seen (fields) SELECT _fields FROM batch',
	'INSERT INTO transform_seen (fields) SELECT b._fields FROM batch b JOIN (SELECT 1 AS one) o ON true',
	'INSERT INTO transform_seen (fields) SELECT to_jsonb(b) -> ''_fields'' FROM batch b',
	'INSERT INTO transform_seen (fields) SELECT x._fields FROM (SELECT * FROM batch) x',
	'INSERT INTO transform_seen (fields) SELECT (SELECT batch._fields) FROM batch',
	'INSERT INTO transform_seen (fields) SELECT j._fields FROM (batch JOIN (SELECT 0 AS _seq) z USING (_seq)) AS j',
	'INSERT INTO transform_seen (fields) SELECT a._fields FROM batch a JOIN batch b USING (_fields)',
	'SELECT * INTO x FROM batch; INSERT INTO transform_seen (fields) SELECT _fields FROM x',
	'INSERT INTO transform_seen (fields) SELECT to_jsonb(device) FROM batch']) AS s;
SELECT streamsink.drop_pipeline('meta');

-- several statements, which see what those before did; relations between them
CREATE TABLE transform_devices (device text PRIMARY KEY, seen int);
CREATE TABLE transform_values (device text REFERENCES transform_devices, value float8, threshold float8);
CREATE TABLE transform_thresholds (device text PRIMARY KEY, threshold float8);
INSERT INTO transform_thresholds VALUES ('a', 10), ('b', 20);
INSERT INTO transform_devices VALUES ('a', 0);
SELECT transform_create($$
	-- the devices of the batch, with their numbers
	SELECT device, count(*)::int AS n INTO "the devices" FROM batch GROUP BY device;
	INSERT INTO transform_devices (device, seen) SELECT device, n FROM "the devices"
		ON CONFLICT (device) DO UPDATE SET seen = transform_devices.seen + excluded.seen;
	SELECT b.device, b.value, t.threshold INTO TABLE crossed
		FROM batch b JOIN transform_thresholds t USING (device) JOIN transform_devices d USING (device)
		WHERE b.value > t.threshold ORDER BY _seq;
	INSERT INTO transform_values SELECT * FROM crossed c;
	DELETE FROM transform_thresholds t USING batch b WHERE b.device = t.device AND b.kind = 'forget';
	UPDATE transform_devices d SET seen = -1 FROM batch b WHERE b.device = d.device AND b.kind = 'forget';
	$$, 'several');
SELECT id, outcome FROM streamsink.apply('several', transform_entries('{"device": "a", "value": 11}', '{"device": "b", "value": 11}', '{"device": "b", "value": 21}',
	'{"device": "c", "value": 99}', '{"device": "a", "kind": "forget"}'));
SELECT * FROM transform_devices ORDER BY device;
SELECT * FROM transform_values;
SELECT * FROM transform_thresholds;
-- the relations are of the transform, and of this batch only
SELECT * FROM crossed;
SELECT outcome FROM streamsink.apply('several', '[]');
SELECT outcome FROM streamsink.apply('several', '[{"_id": "1-9", "device": "c"}]');
SELECT * FROM transform_devices ORDER BY device;

-- CTEs that write several tables, MERGE, CALL, NOTIFY, LOCK
CREATE TABLE transform_log (n serial, what text);
CREATE PROCEDURE transform_note(what text) LANGUAGE plpgsql AS $$BEGIN INSERT INTO transform_log (what) VALUES (what); END$$;
SELECT streamsink.alter_pipeline('several', transform => $$
	LOCK TABLE transform_devices IN SHARE ROW EXCLUSIVE MODE;
	WITH made AS (INSERT INTO transform_devices SELECT DISTINCT device, 0 FROM batch ON CONFLICT DO NOTHING RETURNING device),
		noted AS (INSERT INTO transform_log (what) SELECT 'made ' || device FROM made ORDER BY device)
	SELECT device INTO made FROM made;
	MERGE INTO transform_thresholds t USING (SELECT DISTINCT ON (device) * FROM batch ORDER BY device, _seq DESC) b ON b.device = t.device
		WHEN MATCHED AND b.kind = 'forget' THEN DELETE
		WHEN MATCHED THEN UPDATE SET threshold = b.value
		WHEN NOT MATCHED AND b.kind = 'threshold' THEN INSERT VALUES (b.device, b.value);
	CALL transform_note('a batch');
	INSERT INTO transform_log (what) SELECT count(*) || ' made' FROM made;
	NOTIFY transform_channel, 'done'
	$$, connect => false);
SELECT outcome FROM streamsink.apply('several', transform_entries('{"device": "b", "kind": "threshold", "value": 1}', '{"device": "x", "kind": "threshold", "value": 2}',
	'{"device": "b", "kind": "threshold", "value": 3}', '{"device": "y"}'));
SELECT * FROM transform_thresholds ORDER BY device;
SELECT what FROM transform_log ORDER BY n;

-- commits are the batch's own
CREATE PROCEDURE transform_commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
SELECT streamsink.alter_pipeline('several', transform => 'CALL transform_commits()', connect => false);
SELECT * FROM transform_fails($$SELECT streamsink.apply('several', '[{"_id": "1-1"}]')$$);

-- batch is not there for functions and views; it says so
CREATE FUNCTION transform_looks() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM batch); END';
SELECT streamsink.alter_pipeline('several', transform => 'SELECT 1; SELECT transform_looks()', connect => false);
SELECT * FROM transform_fails($$SELECT streamsink.apply('several', '[{"_id": "1-1"}]')$$);
-- what a function says about itself keeps its own position
SELECT streamsink.apply('several', '[{"_id": "1-1"}]');

-- ---------------------------------------------------------------------------
-- Errors: isolated as for plain targets, with all statements of an entry
-- ---------------------------------------------------------------------------
CREATE TABLE transform_checked (n int, a text CHECK (a <> 'bad'));
CREATE TABLE transform_beside (n int, CHECK (n <> 13));
CREATE TYPE transform_n AS (n int, a text);
SELECT transform_create($$INSERT INTO transform_beside SELECT n FROM batch; INSERT INTO transform_checked SELECT n, a FROM batch$$, 'errors', row_type => 'transform_n');
SELECT outcome, count(*) FROM streamsink.apply('errors',
	(SELECT jsonb_agg(jsonb_build_object('_id', '1-' || i, 'n', i, 'a', CASE WHEN i IN (5, 500, 1000) THEN 'bad' ELSE 'good' END) ORDER BY i) FROM generate_series(1, 1000) AS i))
	GROUP BY 1 ORDER BY 1;
SELECT entry_id, stage, sqlstate, table_name, constraint_name FROM streamsink.dead_letters WHERE pipeline = 'errors' ORDER BY id;
-- none of them has left anything in either table
SELECT count(*), count(DISTINCT n) FROM transform_beside;
SELECT count(*), count(DISTINCT n) FROM transform_checked;
SELECT n FROM transform_beside FULL JOIN transform_checked USING (n) WHERE transform_beside IS NULL OR transform_checked IS NULL;
TRUNCATE transform_beside, transform_checked;
SELECT streamsink.discard_dead_letters('errors');
-- a dead letter is retried through the transform
SELECT outcome FROM streamsink.apply('errors', '[{"_id": "1-1", "n": 1, "a": "bad"}, {"_id": "1-2", "n": 2, "a": "bad"}]');
UPDATE streamsink.dead_letters SET fields = '{"n": "3", "a": "good"}' WHERE pipeline = 'errors' AND entry_id::text = '1-1';
SELECT streamsink.retry_dead_letters('errors');
SELECT n FROM transform_beside;
SELECT streamsink.discard_dead_letters('errors');
-- set-up errors are nobody's fault: raised, with the statement
SELECT streamsink.alter_pipeline('errors', transform => E'INSERT INTO transform_beside SELECT n FROM batch;\nINSERT INTO transform_checked (n, a) SELECT n, a FROM batch', connect => false);
ALTER TABLE transform_checked RENAME a TO b;
SELECT streamsink.apply('errors', '[{"n": 1}]');
SELECT * FROM transform_fails($$SELECT streamsink.apply('errors', '[{"n": 1}]')$$);
ALTER TABLE transform_checked RENAME b TO a;
SELECT outcome FROM streamsink.apply('errors', '[{"n": 1}]');
TRUNCATE transform_beside, transform_checked;

-- two rows of one key in the user's own upsert: halved until they are apart, a single row is not at fault
CREATE TABLE transform_last (k int PRIMARY KEY, n int, CHECK (n >= 0));
CREATE TYPE transform_kn AS (k int, n int);
SELECT transform_create($$INSERT INTO transform_last SELECT k, n FROM batch ON CONFLICT (k) DO UPDATE SET n = excluded.n$$, 'last', row_type => 'transform_kn');
SELECT outcome, count(*) FROM streamsink.apply('last', (SELECT jsonb_agg(jsonb_build_object('k', i % 3, 'n', i) ORDER BY i) FROM generate_series(1, 20) AS i)) GROUP BY 1;
SELECT * FROM transform_last ORDER BY k;
-- the pattern that needs one statement only
SELECT streamsink.alter_pipeline('last', transform => $$INSERT INTO transform_last SELECT DISTINCT ON (k) k, n FROM batch ORDER BY k, _seq DESC
	ON CONFLICT (k) DO UPDATE SET n = excluded.n$$, connect => false);
SELECT outcome, count(*) FROM streamsink.apply('last', (SELECT jsonb_agg(jsonb_build_object('k', i % 3, 'n', 100 + i) ORDER BY i) FROM generate_series(1, 20) AS i)) GROUP BY 1;
SELECT * FROM transform_last ORDER BY k;

-- NOT NULL of an explicitly named table is checked while decoding, a default excuses
CREATE TABLE transform_strict (n int NOT NULL, a text NOT NULL DEFAULT 'd', b text);
TRUNCATE transform_seen;
SELECT transform_create('INSERT INTO transform_seen (fields) SELECT jsonb_build_object(''n'', n, ''a'', a, ''b'', b) FROM batch', 'strict', row_type => 'transform_strict');
SELECT outcome, error FROM streamsink.apply('strict', '[{"n": 1}, {"a": "x"}, {"n": null, "a": "x"}]');
SELECT fields FROM transform_seen;

-- strings are read alike, whatever the session has set
SET escape_string_warning = off;
SET standard_conforming_strings = off;
TRUNCATE transform_log;
SELECT transform_create('INSERT INTO transform_log (what) SELECT ''c:\\'' || n FROM batch', 'strings', row_type => 'transform_n');
SELECT outcome FROM streamsink.apply('strings', '[{"n": 1}]');
RESET standard_conforming_strings;
SELECT outcome FROM streamsink.apply('strings', '[{"n": 2}]');
SELECT what FROM transform_log ORDER BY n;

-- ---------------------------------------------------------------------------
-- The plans follow what they rest on
-- ---------------------------------------------------------------------------
CREATE TABLE transform_wide (a int, b text);
INSERT INTO transform_wide VALUES (1, 'one');
CREATE TABLE transform_out (v jsonb);
SELECT transform_create('SELECT w.*, b.n INTO x FROM batch b, transform_wide w; INSERT INTO transform_out SELECT to_jsonb(x) FROM x', 'follows', row_type => 'transform_n');
SELECT outcome FROM streamsink.apply('follows', '[{"n": 1}]');
ALTER TABLE transform_wide ADD c date;
SELECT outcome FROM streamsink.apply('follows', '[{"n": 2}]');
SELECT v FROM transform_out;
-- a table is gone: refused as it is, heals when it is back, under its name
DROP TABLE transform_out;
SELECT * FROM transform_fails($$SELECT streamsink.apply('follows', '[{"n": 3}]')$$);
CREATE TABLE transform_out (v jsonb, more int);
SELECT outcome FROM streamsink.apply('follows', '[{"n": 4}]');
SELECT v FROM transform_out;

-- ---------------------------------------------------------------------------
-- Tables of all kinds
-- ---------------------------------------------------------------------------
CREATE TABLE transform_plain (n int, a text);
CREATE TABLE transform_parted (n int, a text) PARTITION BY RANGE (n);
CREATE TABLE transform_parted_low PARTITION OF transform_parted FOR VALUES FROM (0) TO (10);
CREATE TABLE transform_parted_high PARTITION OF transform_parted FOR VALUES FROM (10) TO (20);
CREATE TABLE transform_parent (n int, a text);
CREATE TABLE transform_child () INHERITS (transform_parent);
INSERT INTO transform_child VALUES (1, 'child');
CREATE TABLE transform_generated (id int GENERATED ALWAYS AS IDENTITY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, a text);
CREATE VIEW transform_view AS SELECT n, a FROM transform_plain;
CREATE FUNCTION transform_instead() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
	INSERT INTO transform_plain VALUES (new.n, new.a || ' instead'); RETURN new; END$$;
CREATE TRIGGER transform_instead INSTEAD OF INSERT ON transform_view FOR EACH ROW EXECUTE FUNCTION transform_instead();
CREATE TABLE transform_policed (n int, a text);
ALTER TABLE transform_policed ENABLE ROW LEVEL SECURITY;
CREATE POLICY transform_policy ON transform_policed USING (n < 100) WITH CHECK (n < 100);
GRANT ALL ON transform_policed TO transform_owner;
INSERT INTO transform_policed VALUES (1, 'seen'), (101, 'unseen');
SELECT transform_create('INSERT INTO transform_plain SELECT n, a FROM batch', 'plain', row_type => 'transform_n');
SELECT transform_create('INSERT INTO transform_parted SELECT n, a FROM batch', 'parted', row_type => 'transform_n');
SELECT transform_create('INSERT INTO transform_parent SELECT n, a FROM batch; UPDATE transform_parent p SET a = p.a || b.a FROM batch b WHERE p.n = b.n', 'parent', row_type => 'transform_n');
SELECT transform_create('INSERT INTO transform_generated (n, a) SELECT n, a FROM batch', 'generated', 'transform_generated', NULL);
SELECT transform_create('INSERT INTO transform_view SELECT n, a FROM batch', 'view', row_type => 'transform_n');
SET ROLE transform_owner;
SELECT transform_create('INSERT INTO transform_policed SELECT n, a FROM batch; UPDATE transform_policed SET a = a || ''!''', 'policed', row_type => 'transform_n');
RESET ROLE;
SELECT p, a.outcome, a.error FROM unnest('{plain,parted,parent,generated,view,policed}'::text[]) WITH ORDINALITY AS u (p, i),
	LATERAL streamsink.apply(p, '[{"n": 1, "a": "x"}, {"n": 12, "a": "y"}]') AS a ORDER BY i, a.id;
SELECT * FROM transform_plain;
SELECT tableoid::regclass, * FROM transform_parted ORDER BY n;
SELECT tableoid::regclass, * FROM transform_parent ORDER BY n, 1;
SELECT * FROM transform_generated;
SELECT * FROM transform_policed ORDER BY n, a;
-- no partition for it: the entry is refused; a policy against it: nobody is
SELECT outcome, sqlstate FROM streamsink.apply('parted', '[{"n": 25}, {"n": 5}]');
SELECT * FROM transform_fails($$SELECT streamsink.apply('policed', '[{"_id": "1-1", "n": 200, "a": "z"}]')$$);
-- foreign and unlogged tables with allow_inexact
SELECT streamsink.create_pipeline('unlogged', 'transform_server', 's', row_type => 'transform_n', transform => 'INSERT INTO transform_unlogged SELECT a FROM batch', allow_inexact => true, connect => false);
SELECT outcome FROM streamsink.apply('unlogged', '[{"n": 1, "a": "x"}]');
-- one that becomes so later
SELECT transform_create('INSERT INTO transform_plain SELECT n, a FROM batch', 'later', row_type => 'transform_n');
ALTER TABLE transform_plain SET UNLOGGED;
SELECT * FROM transform_fails($$SELECT streamsink.apply('later', '[{"n": 1}]')$$);

SELECT count(*) FROM (SELECT streamsink.drop_pipeline(name) FROM streamsink.pipelines OFFSET 0) AS d;
SELECT count(*) FROM streamsink.dead_letters;
