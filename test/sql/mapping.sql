-- From the fields of an entry to the columns of a row: every source, every
-- kind of column, every kind of target.  Entries come through apply().

SET client_min_messages = warning;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres';
CREATE SERVER mapping_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost', password_required 'false');

-- Run a statement that must fail; show SQLSTATE, message, detail and hint.
CREATE FUNCTION mapping_fails(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
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

-- What was refused, and why; then it is forgotten.
CREATE FUNCTION mapping_refused(pipeline text)
	RETURNS TABLE (stage text, sqlstate text, error text, detail text, table_name text, column_name text)
	LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT d.stage, d.sqlstate, d.error, d.detail, d.table_name, d.column_name
		FROM streamsink.dead_letters d WHERE d.pipeline = mapping_refused.pipeline ORDER BY d.id;
	PERFORM streamsink.discard_dead_letters(mapping_refused.pipeline);
END $$;

-- ---------------------------------------------------------------------------
-- Sources: placeholders, columns, payload, rest, what is added to every entry
-- ---------------------------------------------------------------------------
CREATE TABLE mapping_all (
	device text, sensor text, entry streamsink.entry_id, stream text, received timestamptz, seq int, everything jsonb,
	a int, b text, "Odd Name" text, _id text, rest jsonb);
SELECT streamsink.create_pipeline('mapping_all', 'mapping_server', 'readings:{device}:{kind}', 'mapping_all',
	columns => '{"sensor": "kind", "entry": "_id", "stream": "_stream", "received": "_time", "seq": "_seq",
		"everything": "_fields", "b": "B-Field"}',
	payload => 'body', rest => 'rest', connect => false);
SELECT * FROM streamsink.describe('mapping_all');
SELECT statement FROM streamsink.pipelines WHERE name = 'mapping_all';
SELECT * FROM streamsink.apply('mapping_all', $$[
	{"_id": "1712345678901-3", "a": 1, "B-Field": "x", "b": "not taken", "Odd Name": "odd", "z": "in rest"},
	{"_id": "1712345678902-0", "body": "{\"a\": 2, \"B-Field\": \"from the payload\", \"deep\": {\"n\": [1, null]}, \"none\": null, \"truth\": true, \"n\": 1.50}"},
	{"_id": "1712345678903-0", "a": "3", "body": "{\"a\": 4, \"z\": 5}", "z": "the field wins"},
	{"_id": "1712345678904-0", "device": "the placeholder wins", "kind": "here too"},
	{"_id": "1712345678905-0", "rest": "{\"own\": 1, \"z\": \"theirs\"}", "z": "ours"},
	{"_id": "1712345678906-0", "rest": "no object"}
	]$$, 'readings:d1:temp');
SELECT device, sensor, entry, stream, received, seq, a, b, "Odd Name", _id, rest FROM mapping_all ORDER BY entry;
-- byte for byte what came, in the order of jsonb
SELECT entry, everything FROM mapping_all WHERE a IS NOT NULL ORDER BY entry;
-- a placeholder takes one or more characters up to the next literal, and the whole name must match
SELECT device, sensor FROM streamsink.apply('mapping_all', '[{"a": 1}]', 'readings:d:1:te:mp') p,
	LATERAL jsonb_to_record(p."row") AS r (device text, sensor text);
SELECT * FROM mapping_fails($$SELECT streamsink.apply('mapping_all', '[{"a": 1}]', 'readings::temp')$$);
SELECT * FROM mapping_fails($$SELECT streamsink.apply('mapping_all', '[{"a": 1}]', 'other:d1:temp')$$);
SELECT * FROM mapping_fails($$SELECT streamsink.apply('mapping_all', '[{"a": 1}]')$$);
-- a placeholder into a typed column
CREATE TABLE mapping_typed (device int, a int);
SELECT streamsink.create_pipeline('mapping_typed', 'mapping_server', 'typed:{device}', 'mapping_typed', connect => false);
SELECT "row", outcome, sqlstate, error FROM streamsink.apply('mapping_typed', '[{"a": 1}, {"a": 2}]', 'typed:42');
SELECT "row", outcome, sqlstate, error FROM streamsink.apply('mapping_typed', '[{"a": 1}, {"a": 2}]', 'typed:x');
SELECT * FROM mapping_refused('mapping_typed');
-- _seq counts the rows of the batch
SELECT stream, id, outcome FROM streamsink.apply('mapping_typed',
	'[{"_id": "5-1", "a": 1}, {"_id": "5-2", "a": "x"}, {"_id": "5-3", "a": 3}]', 'typed:1');
SELECT streamsink.alter_pipeline('mapping_typed', columns => '{"a": "_seq"}', connect => false);
SELECT "row" FROM streamsink.apply('mapping_typed', '[{"x": 1}, {"x": 2}, {"x": 3}]', 'typed:1');
SELECT count(*) FROM mapping_refused('mapping_typed');

-- what is not an array of objects, or has no good id
SELECT * FROM mapping_fails($$SELECT streamsink.apply('mapping_all', '{"a": 1}', 'readings:a:b')$$);
SELECT * FROM mapping_fails($$SELECT streamsink.apply('mapping_all', '1', 'readings:a:b')$$);
SELECT * FROM mapping_fails($$SELECT streamsink.apply('mapping_all', '[1]', 'readings:a:b')$$);
SELECT * FROM mapping_fails($$SELECT streamsink.apply('mapping_all', '[[]]', 'readings:a:b')$$);
SELECT * FROM mapping_fails($$SELECT streamsink.apply('mapping_all', '[{"_id": "x"}]', 'readings:a:b')$$);
SELECT * FROM mapping_fails($$SELECT streamsink.apply('mapping_all', '[{"_id": 1.5}]', 'readings:a:b')$$);
SELECT * FROM mapping_fails($$SELECT streamsink.apply('mapping_all', NULL, 'readings:a:b')$$);
SELECT * FROM mapping_fails($$SELECT streamsink.apply(NULL, '[]')$$);
SELECT * FROM mapping_fails($$SELECT streamsink.apply('nowhere', '[]')$$);
SELECT count(*) FROM streamsink.apply('mapping_all', '[]', 'readings:a:b');

-- ---------------------------------------------------------------------------
-- Payload: members, null and missing, doubled members, what is no object
-- ---------------------------------------------------------------------------
CREATE TABLE mapping_payload (n int, a int DEFAULT 7, t text DEFAULT 'missing', j jsonb DEFAULT '"missing"', js json, doc text);
SELECT streamsink.create_pipeline('mapping_payload', 'mapping_server', 'payload', 'mapping_payload',
	payload => 'doc', connect => false);
SELECT "row", outcome, sqlstate, error FROM streamsink.apply('mapping_payload', jsonb_build_array(
	'{"n": 1}'::jsonb,														-- no payload at all
	jsonb_build_object('n', 2, 'doc', '{}'),
	jsonb_build_object('n', 3, 'doc', '{"a": null, "t": null, "j": null, "js": null}'),
	jsonb_build_object('n', 4, 'doc', '{"a": 1, "a": 2, "t": "first", "t": "last", "j": [1], "j": {"last": 1.0}}'),
	jsonb_build_object('n', 5, 'doc', '{"a": "6", "t": 12.50, "j": "text", "js": "a \"quote\""}'),
	jsonb_build_object('n', 6, 'doc', '{"a": 1, "t": {"k":  [1,2]}, "j": true, "js": {"b":1,  "a":2}}'),
	jsonb_build_object('n', 7, 'doc', ' {"t" : "\u00e4\n\ud83d\ude00" } '),
	jsonb_build_object('n', 8, 'doc', '{"n": 0, "doc": "a member of its own name"}')));
SELECT n, a, t, j, js, doc FROM mapping_payload ORDER BY n;
SELECT outcome FROM streamsink.apply('mapping_payload', jsonb_build_array(
	jsonb_build_object('doc', ''), jsonb_build_object('doc', '{"a": 1'), jsonb_build_object('doc', '[1]'),
	jsonb_build_object('doc', '"text"'), jsonb_build_object('doc', 'null'), jsonb_build_object('doc', '{"a": 1} x'),
	jsonb_build_object('doc', '{"t": "\u0000"}'), jsonb_build_object('doc', '{"a": 1.5}'),
	jsonb_build_object('doc', '{"a": true}'), jsonb_build_object('doc', '{"a": []}'),
	jsonb_build_object('a', 99999999999), jsonb_build_object('j', '{bad'), jsonb_build_object('j', '"good"')));
SELECT * FROM mapping_refused('mapping_payload');
-- a field's text is JSON for a json column; in a payload it is a string
SELECT j FROM mapping_payload WHERE n IS NULL;

-- ---------------------------------------------------------------------------
-- Types
-- ---------------------------------------------------------------------------
CREATE TYPE mapping_mood AS ENUM ('sad', 'happy');
CREATE DOMAIN mapping_percent AS numeric CHECK (VALUE BETWEEN 0 AND 100);
CREATE DOMAIN mapping_given AS text NOT NULL;
CREATE TYPE mapping_point AS (x float8, y float8, label text);
CREATE TYPE mapping_shape AS (name text, points mapping_point[]);
CREATE TABLE mapping_types (
	n int, num numeric, small numeric(6,2), f8 float8, f4 real, i8 bigint, b bool, ts timestamptz, d date, iv interval,
	u uuid, by bytea, vc varchar(3), c char(4), net inet, ints int[], texts text[], grid int[][], mood mapping_mood,
	percent mapping_percent, shape mapping_shape, r int4range, reg regclass, xid streamsink.entry_id, bits bit(3));
SELECT streamsink.create_pipeline('mapping_types', 'mapping_server', 'types', 'mapping_types', payload => 'doc', connect => false);
SELECT outcome, sqlstate, error FROM streamsink.apply('mapping_types', $$[
	{"n": "1", "num": "1234567890123456789012345678901234567890.0123456789012345678901234567890123456789", "small": "1234.567",
	 "f8": "0.1", "f4": "1e10", "i8": "9223372036854775807", "b": "yes", "ts": "2024-04-05 12:00+02", "d": "04/05/2024", "iv": "1 day 02:00",
	 "u": "6F9619FF8B86D011B42D00C04FC964FF", "by": "\\x0001ff", "vc": "abc", "c": "ab", "net": "10.0.0.1/8",
	 "ints": "{1,NULL,3}", "texts": "{\"a b\",c}", "grid": "{{1,2},{3,4}}", "mood": "happy", "percent": "99.5",
	 "shape": "(\"a name\",\"{\"\"(1,2,p)\"\"}\")", "r": "[1,5)", "reg": "mapping_types", "xid": "5-1", "bits": "101"},
	{"doc": "{\"n\": 2, \"num\": 1234567890123456789012345678901234567890.0123456789012345678901234567890123456789, \"small\": 1.005, \"f8\": 1e-7, \"f4\": 0.1, \"i8\": -9223372036854775808, \"b\": true, \"ts\": \"2024-04-05T10:00:00Z\", \"iv\": \"PT1H\", \"ints\": [1, null, 3], \"texts\": [\"a b\", null, \"{}\"], \"grid\": [[1,2],[3,4]], \"mood\": \"sad\", \"percent\": 0, \"shape\": {\"name\": \"s\", \"points\": [{\"x\": 1, \"y\": 2}, {\"label\": \"l\", \"unknown\": 0}]}, \"xid\": \"1712345678901\"}"},
	{"n": "3", "f8": "NaN", "f4": "-Infinity", "ints": "{}", "vc": "abc   ", "by": ""}
	]$$);
\x on
SELECT n, num, small, f8, f4, i8, b, ts, d, iv, u, by, vc, c, net, ints, texts, grid, mood, percent, shape, r, reg, xid, bits
FROM mapping_types ORDER BY n;
\x off
TRUNCATE mapping_types;
-- every wrong value is one dead letter with its column
SELECT outcome, count(*) FROM streamsink.apply('mapping_types', $$[
	{"num": "1e"}, {"small": "12345.6"}, {"f4": "1e99"}, {"i8": "9223372036854775808"}, {"b": "perhaps"},
	{"ts": "13/13/2024"}, {"d": ""}, {"u": "6F96"}, {"by": "\\xf"}, {"vc": "abcd"}, {"net": "10.0.0.256"}, {"ints": "1"},
	{"mood": "angry"}, {"percent": "101"}, {"shape": "(a)"}, {"r": "[5,1)"}, {"xid": "5-"}, {"bits": "11"},
	{"doc": "{\"ints\": {\"a\": 1}}"}, {"doc": "{\"ints\": [\"x\"]}"}, {"doc": "{\"grid\": [[1],[2,3]]}"}, {"doc": "{\"shape\": {\"points\": 1}}"},
	{"n": "1"}]$$) GROUP BY outcome ORDER BY outcome;
SELECT sqlstate, column_name, error, detail FROM mapping_refused('mapping_types');
SELECT count(*) FROM mapping_types;
-- a name that is not there is set-up, not data
SELECT * FROM mapping_fails($$SELECT * FROM streamsink.apply('mapping_types', '[{"reg": "mapping_no_such_table"}]')$$);

-- ---------------------------------------------------------------------------
-- Defaults, NOT NULL, generated, identity, dropped columns
-- ---------------------------------------------------------------------------
CREATE SEQUENCE mapping_seq;
CREATE FUNCTION mapping_random() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT nextval(''mapping_seq'')::int * 10';
CREATE TABLE mapping_defaults (
	gone int, serial bigserial, always int GENERATED ALWAYS AS IDENTITY, by_default int GENERATED BY DEFAULT AS IDENTITY,
	a int NOT NULL, twice int GENERATED ALWAYS AS (a * 2) STORED, volatile int DEFAULT mapping_random(), gone_too text DEFAULT 'x',
	stable timestamptz DEFAULT now(), who name DEFAULT current_user, constant text NOT NULL DEFAULT 'constant', nothing text,
	given mapping_given DEFAULT 'by default');
CREATE TABLE mapping_demanding (a int, given mapping_given);
ALTER TABLE mapping_defaults DROP COLUMN gone, DROP COLUMN gone_too;
SELECT streamsink.create_pipeline('mapping_defaults', 'mapping_server', 'defaults', 'mapping_defaults', payload => 'doc', connect => false);
SELECT * FROM streamsink.describe('mapping_defaults');
BEGIN;
SELECT outcome, sqlstate, error FROM streamsink.apply('mapping_defaults', $$[
	{"a": 1}, {"a": 2}, {"a": 3, "serial": 100, "by_default": 50, "volatile": 0, "constant": "given", "always": 99, "twice": 99},
	{"nothing": "no a"}, {"doc": "{\"a\": null}"}, {"doc": "{\"a\": 4, \"constant\": null}"}, {"doc": "{\"a\": 5, \"given\": null}"},
	{"doc": "{\"a\": 6, \"who\": null, \"volatile\": null, \"stable\": null}"}, {"a": 7}]$$);
SELECT serial, always, by_default, a, twice, volatile, stable = now() AS stable, who = current_user AS who, constant, nothing, given
FROM mapping_defaults ORDER BY a;
SELECT * FROM mapping_refused('mapping_defaults');
COMMIT;
-- a domain that takes no NULL, and has no default
SELECT streamsink.create_pipeline('mapping_demanding', 'mapping_server', 'demanding', 'mapping_demanding', connect => false);
SELECT outcome, sqlstate, error FROM streamsink.apply('mapping_demanding', '[{"a": 1}, {"a": 2, "given": ""}]');
SELECT count(*) FROM mapping_refused('mapping_demanding');
-- nobody can give what is generated
SELECT * FROM mapping_fails($$SELECT streamsink.alter_pipeline('mapping_defaults', columns => '{"twice": "x"}', connect => false)$$);
SELECT * FROM mapping_fails($$SELECT streamsink.alter_pipeline('mapping_defaults', columns => '{"gone": "x"}', connect => false)$$);
-- a default that keeps a count: what is refused takes nothing of the others' away
CREATE TABLE mapping_counter (n int);
INSERT INTO mapping_counter VALUES (0);
CREATE FUNCTION mapping_count() RETURNS int LANGUAGE sql VOLATILE AS 'UPDATE mapping_counter SET n = n + 1 RETURNING n';
CREATE TABLE mapping_counted (a int, number int DEFAULT mapping_count());
SELECT streamsink.create_pipeline('mapping_counted', 'mapping_server', 'counted', 'mapping_counted', connect => false);
SELECT "row", outcome FROM streamsink.apply('mapping_counted', '[{"a": 1}, {"a": 2}, {"a": "x"}, {"a": 4}, {"a": 5}]');
SELECT (SELECT array_agg(number ORDER BY a) FROM mapping_counted) AS numbers, n FROM mapping_counter;
SELECT count(*) FROM mapping_refused('mapping_counted');
-- a default that fails is the entry's fault only with a data error
CREATE TABLE mapping_failing (a int, b int DEFAULT 1 / (random() * 0)::int);
SELECT streamsink.create_pipeline('mapping_failing', 'mapping_server', 'failing', 'mapping_failing', connect => false);
SELECT outcome, sqlstate, error FROM streamsink.apply('mapping_failing', '[{"a": 1}, {"a": 2, "b": 2}]');
SELECT * FROM mapping_refused('mapping_failing');

-- columns that come, go, and change while the pipeline is there
CREATE TABLE mapping_changing (a int);
SELECT streamsink.create_pipeline('mapping_changing', 'mapping_server', 'changing', 'mapping_changing', connect => false);
SELECT "row" FROM streamsink.apply('mapping_changing', '[{"a": 1, "b": 2, "_x": 3}]');
ALTER TABLE mapping_changing ADD COLUMN b text;
SELECT "row" FROM streamsink.apply('mapping_changing', '[{"a": 1, "b": 2, "_x": 3}]');
ALTER TABLE mapping_changing DROP COLUMN a;
ALTER TABLE mapping_changing ALTER COLUMN b TYPE int USING b::int;
SELECT "row" FROM streamsink.apply('mapping_changing', '[{"a": 1, "b": 2, "_x": 3}]');
ALTER TABLE mapping_changing RENAME TO mapping_changed;
SELECT * FROM mapping_fails($$SELECT * FROM streamsink.apply('mapping_changing', '[{"a": 1}]')$$);
ALTER TABLE mapping_changed DROP COLUMN b;
ALTER TABLE mapping_changed RENAME TO mapping_changing;
-- a table without columns takes rows, too
SELECT "row", outcome FROM streamsink.apply('mapping_changing', '[{"a": 1}]');
SELECT count(*) FROM mapping_changing;

-- ---------------------------------------------------------------------------
-- A row type beside the target
-- ---------------------------------------------------------------------------
CREATE TYPE mapping_part AS (b text, a int);
CREATE TABLE mapping_wide (a int NOT NULL, b text, c text DEFAULT 'c', _id text);
SELECT streamsink.create_pipeline('mapping_row_type', 'mapping_server', 'row_type', 'mapping_wide', row_type => 'mapping_part', connect => false);
SELECT * FROM streamsink.describe('mapping_row_type');
SELECT outcome FROM streamsink.apply('mapping_row_type', '[{"_id": "7-1", "a": 1, "b": "b", "c": "not taken"}, {"b": "no a"}]');
SELECT * FROM mapping_wide;
SELECT * FROM mapping_refused('mapping_row_type');
CREATE TYPE mapping_wrong AS (a int, nowhere text);
SELECT * FROM mapping_fails($$SELECT streamsink.alter_pipeline('mapping_row_type', row_type => 'mapping_wrong', connect => false)$$);

-- ---------------------------------------------------------------------------
-- Targets: partitioned, inherited, views, triggers, row level security
-- ---------------------------------------------------------------------------
CREATE TABLE mapping_parted (n int, a text, PRIMARY KEY (n)) PARTITION BY RANGE (n);
CREATE TABLE mapping_parted_low PARTITION OF mapping_parted FOR VALUES FROM (0) TO (10);
CREATE TABLE mapping_parted_high (a text, junk int, n int NOT NULL);	-- other attribute numbers
ALTER TABLE mapping_parted_high DROP COLUMN junk;
ALTER TABLE mapping_parted ATTACH PARTITION mapping_parted_high FOR VALUES FROM (10) TO (20);
SELECT streamsink.create_pipeline('mapping_parted', 'mapping_server', 'parted', 'mapping_parted', connect => false);
SELECT outcome FROM streamsink.apply('mapping_parted', '[{"n": 1, "a": "low"}, {"n": 11, "a": "high"}, {"n": 21, "a": "nowhere"}, {"n": 1}]');
SELECT tableoid::regclass, n, a FROM mapping_parted ORDER BY n;
SELECT * FROM mapping_refused('mapping_parted');
CREATE TABLE mapping_parted_rest PARTITION OF mapping_parted DEFAULT;
SELECT outcome FROM streamsink.apply('mapping_parted', '[{"n": 21, "a": "rest"}]');
CREATE UNLOGGED TABLE mapping_parted_unlogged PARTITION OF mapping_parted FOR VALUES FROM (30) TO (40);
SELECT * FROM mapping_fails($$SELECT * FROM streamsink.apply('mapping_parted', '[{"n": 31}]')$$);
DROP TABLE mapping_parted_unlogged;

CREATE TABLE mapping_child (extra text) INHERITS (mapping_wide);
SELECT streamsink.create_pipeline('mapping_child', 'mapping_server', 'child', 'mapping_child', connect => false);
SELECT outcome FROM streamsink.apply('mapping_child', '[{"a": 2, "extra": "e"}]');
SELECT tableoid::regclass, a, b, c, _id IS NOT NULL AS _id FROM mapping_wide ORDER BY a;

CREATE VIEW mapping_view AS SELECT b AS renamed, a, upper(b) AS loud, c FROM mapping_wide WHERE a < 100 WITH CHECK OPTION;
SELECT streamsink.create_pipeline('mapping_view', 'mapping_server', 'view', 'mapping_view', connect => false);
SELECT * FROM streamsink.describe('mapping_view');
SELECT outcome FROM streamsink.apply('mapping_view', '[{"a": 3, "renamed": "r", "loud": "not taken"}, {"a": 100}, {"renamed": "no a"}]');
SELECT * FROM mapping_view ORDER BY a;
SELECT * FROM mapping_refused('mapping_view');
CREATE VIEW mapping_aggregate AS SELECT count(*) AS n, 'x'::text AS text FROM mapping_wide;
SELECT * FROM mapping_fails($$SELECT streamsink.create_pipeline('bad', 'mapping_server', 's', 'mapping_aggregate', connect => false)$$);
CREATE TABLE mapping_instead_log (n bigint, t text);
CREATE FUNCTION mapping_instead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO mapping_instead_log VALUES (new.n, new.text);
	RETURN CASE WHEN new.n > 0 THEN new END;
END $$;
CREATE TRIGGER mapping_instead INSTEAD OF INSERT ON mapping_aggregate FOR EACH ROW EXECUTE FUNCTION mapping_instead();
SELECT streamsink.create_pipeline('mapping_instead', 'mapping_server', 'instead', 'mapping_aggregate', connect => false);
SELECT outcome FROM streamsink.apply('mapping_instead', '[{"n": 1, "text": "t"}, {"n": 0}]');
TABLE mapping_instead_log;

-- triggers change and skip rows
CREATE TABLE mapping_triggered (a int, b text);
CREATE FUNCTION mapping_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	new.b := coalesce(new.b, '') || '+';
	RETURN CASE WHEN new.a <> 2 THEN new END;
END $$;
CREATE TRIGGER mapping_before BEFORE INSERT ON mapping_triggered FOR EACH ROW EXECUTE FUNCTION mapping_before();
SELECT streamsink.create_pipeline('mapping_triggered', 'mapping_server', 'triggered', 'mapping_triggered', connect => false);
SELECT outcome, "row" FROM streamsink.apply('mapping_triggered', '[{"a": 1, "b": "x"}, {"a": 2}, {"a": 3}]');
SELECT * FROM mapping_triggered ORDER BY a;

-- an owner who is subject to row level security
CREATE ROLE mapping_owner LOGIN;
SELECT streamsink.grant_access('mapping_owner');
GRANT USAGE ON FOREIGN SERVER mapping_server TO mapping_owner;
CREATE TABLE mapping_secured (a int, tenant name DEFAULT current_user);
GRANT INSERT, SELECT ON mapping_secured TO mapping_owner;
ALTER TABLE mapping_secured ENABLE ROW LEVEL SECURITY;
CREATE POLICY mapping_policy ON mapping_secured TO mapping_owner USING (tenant = current_user) WITH CHECK (tenant = current_user AND a < 100);
SET ROLE mapping_owner;
SELECT streamsink.create_pipeline('mapping_secured', 'mapping_server', 'secured', 'mapping_secured', connect => false);
RESET ROLE;
-- also if a superuser calls, and has turned it off
SET row_security = off;
SELECT * FROM mapping_fails($$SELECT * FROM streamsink.apply('mapping_secured', '[{"a": 1}, {"a": 2, "tenant": "postgres"}, {"a": 3, "tenant": "mapping_owner"}]')$$);
SELECT outcome, sqlstate FROM streamsink.apply('mapping_secured', '[{"a": 1}, {"a": 3, "tenant": "mapping_owner"}]');
SHOW row_security;
RESET row_security;
SELECT * FROM mapping_secured ORDER BY a;

-- meaning depends on settings: those of creation count, whatever the session has
SET DateStyle = 'ISO, DMY';
SET TimeZone = 'Asia/Tokyo';
SELECT streamsink.create_pipeline('mapping_settings', 'mapping_server', 'settings', 'mapping_types', connect => false);
SET DateStyle = 'ISO, MDY';
SET TimeZone = 'UTC';
SELECT outcome FROM streamsink.apply('mapping_settings', '[{"n": 1, "d": "01/02/2024", "ts": "2024-01-02 00:00"}]');
SELECT d, ts FROM mapping_types WHERE n = 1 AND d IS NOT NULL;
SHOW DateStyle;
SHOW TimeZone;

-- clean up
SELECT count(streamsink.drop_pipeline(name)) FROM streamsink.pipelines WHERE name LIKE 'mapping%';
SELECT count(*) FROM streamsink.dead_letter;
DROP SERVER mapping_server CASCADE;
DROP OWNED BY mapping_owner;
DROP ROLE mapping_owner;
