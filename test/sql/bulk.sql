-- Rows by the table's multi-insert are what the INSERT makes of them: every feature of a table, both ways.
-- Test builds only (STREAMSINK_TEST).
SET client_min_messages = warning;
SET TimeZone = 'UTC';
CREATE SCHEMA bulk;
SET search_path = bulk, public;
CREATE SERVER bulk_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost', password_required 'false');
-- rows that this session has put in so, and how many times it tried to
CREATE FUNCTION rows() RETURNS bigint AS '$libdir/streamsink', 'streamsink_test_bulk_rows' LANGUAGE C;
CREATE FUNCTION tries() RETURNS bigint AS '$libdir/streamsink', 'streamsink_test_bulk_tries' LANGUAGE C;
CREATE FUNCTION allow(allowed bool) RETURNS void AS '$libdir/streamsink', 'streamsink_test_bulk_allow' LANGUAGE C STRICT;
-- a pipeline whose writer stays over transactions, as a worker's does; entries as 'field|value|field|value'
CREATE FUNCTION hold(pipeline text) RETURNS void AS '$libdir/streamsink', 'streamsink_test_bulk_hold' LANGUAGE C;
CREATE FUNCTION write(entries text[]) RETURNS text AS '$libdir/streamsink', 'streamsink_test_bulk_write' LANGUAGE C STRICT;

-- a pipeline into the table of its name; its rows may have fewer columns
CREATE FUNCTION make(name text, row_type text = NULL, on_conflict text = 'error', target text = NULL) RETURNS void LANGUAGE sql AS $$
	SELECT streamsink.create_pipeline(name, 'bulk_server', name, 'bulk.' || coalesce(target, name), row_type => row_type, on_conflict => on_conflict,
		key => CASE WHEN on_conflict <> 'error' THEN 'n' END, allow_inexact => true, connect => false)
$$;

CREATE TABLE log (n bigserial, what text); -- what triggers have to say
CREATE TABLE seen (way text, kind text, value text);

-- Apply entries in bulk and through the statement, undo both, and compare: outcomes, the table's rows, dead letters,
-- the log, and the error if one is raised.
CREATE FUNCTION both_ways(name text, entries jsonb, ignored text[] = '{}')
	RETURNS TABLE (pipeline text, in_bulk text, written bigint, refused text, codes text, raised text, differences text)
	LANGUAGE plpgsql AS $$
DECLARE
	target text := (SELECT p.target FROM streamsink.pipelines p WHERE p.name = both_ways.name);
	way text;
	outcomes text[];
	found text[];
	letters text[];
	logged text[];
	error text;
	before bigint;
	went bigint;
	state text;
	message text;
	table_name text;
	column_name text;
	constraint_name text;
BEGIN
	TRUNCATE seen;
	FOREACH way IN ARRAY '{bulk,statement}'::text[] LOOP
		PERFORM allow(way = 'bulk'), set_config('bulk.way', way, false);
		PERFORM setval(c.oid::regclass, 1, false) FROM pg_class c WHERE c.relkind = 'S' AND c.relnamespace = 'bulk'::regnamespace;
		before := rows();
		outcomes := NULL;
		found := NULL;
		letters := NULL;
		logged := NULL;
		error := NULL;
		BEGIN
			SELECT array_agg(concat_ws(' ', o.id, o.outcome, o.sqlstate, o.error)) INTO outcomes FROM streamsink.apply(name, entries) o;
			EXECUTE format('SELECT array_agg((row_number || %L || v::text) ORDER BY row_number) FROM (
				SELECT row_number() OVER (ORDER BY n, v::text), v FROM (
				SELECT n, (to_jsonb(the_row) || jsonb_build_object(''size'', pg_column_size(the_row.*))) - $1 AS v FROM %s the_row) s) s', ' ', target) INTO found USING ignored;
			SELECT array_agg(concat_ws(' ', d.entry_id, d.stage, d.sqlstate, d.error, regexp_replace(d.detail, 'tuple \(\d+,\d+\)', 'a tuple'), d.table_name, d.column_name, d.constraint_name)) INTO letters
			FROM streamsink.dead_letters d WHERE d.pipeline = name;
			SELECT array_agg(l.n || ' ' || l.what) INTO logged FROM log l;
			RAISE SQLSTATE 'UNDO0';
		EXCEPTION
			WHEN SQLSTATE 'UNDO0' THEN NULL;
			WHEN OTHERS THEN
				GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, table_name = TABLE_NAME,
					column_name = COLUMN_NAME, constraint_name = CONSTRAINT_NAME;
				error := concat_ws(' ', state, message, nullif(table_name, ''), nullif(column_name, ''), nullif(constraint_name, ''));
		END;
		went := rows() - before;
		INSERT INTO seen SELECT way, 'outcome', v FROM unnest(outcomes) v;
		INSERT INTO seen SELECT way, 'row', CASE WHEN length(v) > 2000 THEN left(v, 100) || md5(v) ELSE v END FROM unnest(found) v;
		INSERT INTO seen SELECT way, 'dead letter', v FROM unnest(letters) v;
		INSERT INTO seen SELECT way, 'log', v FROM unnest(logged) v;
		INSERT INTO seen SELECT way, 'error', error WHERE error IS NOT NULL;
		IF way = 'statement' THEN
			INSERT INTO seen SELECT way, 'rows in bulk', went WHERE went <> 0;
		ELSE
			pipeline := name;
			written := (SELECT count(*) FROM unnest(outcomes) v WHERE v ~ '^\S+ written$');
			SELECT CASE WHEN count(*) <= 12 THEN string_agg(split_part(v, ' ', 1), ' ' ORDER BY place) ELSE count(*)::text END, string_agg(DISTINCT split_part(v, ' ', 3), ' ')
				INTO refused, codes FROM unnest(outcomes) WITH ORDINALITY o (v, place) WHERE v ~ '^\S+ refused';
			in_bulk := CASE WHEN went = 0 THEN 'none' WHEN went < written THEN 'some' ELSE 'all' END; -- of tries that failed, too
			raised := error;
		END IF;
	END LOOP;
	SELECT count(*) || E'\n' || string_agg(d, E'\n' ORDER BY d) FILTER (WHERE place <= 6) INTO differences FROM (
		SELECT d, row_number() OVER (ORDER BY d) AS place FROM (
			(SELECT s.kind || ' in bulk: ' || s.value AS d FROM seen s WHERE s.way = 'bulk' EXCEPT SELECT s.kind || ' in bulk: ' || s.value FROM seen s WHERE s.way = 'statement')
			UNION ALL
			(SELECT s.kind || ' by statement: ' || s.value FROM seen s WHERE s.way = 'statement' EXCEPT SELECT s.kind || ' by statement: ' || s.value FROM seen s WHERE s.way = 'bulk')) s) s
	HAVING count(*) > 0;
	PERFORM allow(true);
	RETURN NEXT;
END $$;

-- n entries 1-1, 1-2, ... with the fields that an expression over n gives
CREATE FUNCTION entries(count int, fields text = '''{}''::jsonb') RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	result jsonb;
BEGIN
	EXECUTE format('SELECT jsonb_agg(jsonb_build_object(''_id'', ''1-'' || n, ''n'', n) || (%s) ORDER BY n) FROM generate_series(1, $1) n', fields)
		INTO result USING count;
	RETURN result;
END $$;
\pset null -

-- ---------------------------------------------------------------------------
-- The comparison sees differences, and the switch switches
-- ---------------------------------------------------------------------------
CREATE TABLE differing (n int, way text DEFAULT current_setting('bulk.way'), CHECK (n <> 2 OR current_setting('bulk.way') = 'bulk'));
CREATE TABLE plain (n int, a text);
CREATE TYPE only_n AS (n int);
CREATE TYPE n_and_a AS (n int, a text);
SELECT make('differing', 'only_n');
SELECT * FROM both_ways('differing', entries(3));
SELECT make('plain');
SELECT * FROM both_ways('plain', entries(3));
SELECT * FROM both_ways('plain', entries(2500, 'jsonb_build_object(''a'', repeat(n::text, 20))'));
SELECT * FROM both_ways('plain', '[]');
SELECT count(*) FROM plain;
-- chunks keep the order, and who counts rows counts these
CREATE TABLE ordered (n int, a text);
SELECT make('ordered');
SELECT outcome, count(*) FROM streamsink.apply('ordered', entries(3500, 'jsonb_build_object(''a'', repeat(''x'', n % 700))')) GROUP BY outcome;
SELECT count(*), bool_and(n > lag), bool_and(a = repeat('x', n % 700)) FROM (SELECT n, a, lag(n, 1, 0) OVER (ORDER BY ctid) FROM ordered) s;
BEGIN;
SELECT pg_stat_get_xact_tuples_inserted('ordered'::regclass) AS before \gset
SELECT count(*) FROM streamsink.apply('ordered', entries(1200));
SELECT pg_stat_get_xact_tuples_inserted('ordered'::regclass) - :before AS inserted;
COMMIT;
SELECT pg_stat_force_next_flush();
SELECT n_tup_ins FROM pg_stat_user_tables WHERE relid = 'ordered'::regclass;

-- ---------------------------------------------------------------------------
-- Columns: defaults, numbers, generated, dropped; the row type has them, or not
-- ---------------------------------------------------------------------------
CREATE FUNCTION shout(n int) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN 'number ' || n; END $$;
CREATE TABLE defaults (n int, c int DEFAULT 7, now timestamptz DEFAULT now(), at date DEFAULT current_date, who name DEFAULT current_user, f text DEFAULT shout(5), list int[] DEFAULT '{1,2}',
	j jsonb DEFAULT '{"a": 1}', long text DEFAULT repeat('long', 2000), u uuid DEFAULT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', none text DEFAULT NULL, v varchar(5) DEFAULT 'abc', m numeric(5,2) DEFAULT 1.005);
SELECT make('defaults'), make('defaults_left_out', 'only_n', target => 'defaults');
SELECT * FROM both_ways('defaults', entries(5, 'CASE n WHEN 2 THEN jsonb_build_object(''c'', 8, ''f'', ''given'') WHEN 3 THEN jsonb_build_object(''list'', ''{}'', ''u'', gen_random_uuid()) ELSE ''{}'' END'));
SELECT * FROM both_ways('defaults_left_out', entries(5));
SELECT outcome FROM streamsink.apply('defaults_left_out', entries(1));
SELECT n, c, now = now() AS now, at = current_date AS at, who = current_user AS who, f, list, j, length(long), u, none, v, m FROM defaults;

CREATE TABLE numbers (n int, s serial, b int GENERATED BY DEFAULT AS IDENTITY (START 10 INCREMENT 5), a bigint GENERATED ALWAYS AS IDENTITY, q int DEFAULT nextval('numbers_s_seq') * 100, t text DEFAULT 'number ' || nextval('numbers_s_seq'));
SELECT make('numbers'), make('numbers_left_out', 'only_n', target => 'numbers');
SELECT * FROM both_ways('numbers', entries(5, 'CASE n WHEN 2 THEN ''{"s": 77, "b": 77, "a": 77}''::jsonb ELSE ''{}'' END'));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'row' ORDER BY value;
SELECT * FROM both_ways('numbers_left_out', entries(1500));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'row' AND value ~ '^[12] ' ORDER BY value;

CREATE TABLE generated (n int, g text GENERATED ALWAYS AS (upper(a) || n) STORED UNIQUE, a text, length int GENERATED ALWAYS AS (length(a)) STORED CHECK (length < 10),
	seven int GENERATED ALWAYS AS (nullif(n, 7)) STORED NOT NULL, large text GENERATED ALWAYS AS (repeat(a, 2000)) STORED);
CREATE INDEX ON generated (length, (seven + 1)) WHERE length > 2;
SELECT make('generated'), make('generated_left_out', 'only_n', target => 'generated');
SELECT * FROM both_ways('generated', entries(9, 'CASE n WHEN 3 THEN ''{"a": "too long for it"}''::jsonb WHEN 5 THEN ''{"n": 4, "a": "A4"}'' WHEN 6 THEN ''{"n": 4, "a": "a4"}'' ELSE jsonb_build_object(''a'', ''a'' || n) END'));
SELECT * FROM both_ways('generated', entries(1500, '''{"a": "generated"}''::jsonb'));
SELECT * FROM both_ways('generated_left_out', entries(9));

CREATE DOMAIN given AS text NOT NULL;
CREATE TABLE dropped (x1 int NOT NULL DEFAULT 5, n int, x2 uuid, x3 given, a text, x4 text COLLATE "C" CHECK (x4 <> ''), x5 int GENERATED ALWAYS AS (n * 2) STORED, b int, x6 timestamptz NOT NULL, x7 serial);
ALTER TABLE dropped DROP COLUMN x1, DROP COLUMN x2, DROP COLUMN x3, DROP COLUMN x4, DROP COLUMN x5, DROP COLUMN x6, DROP COLUMN x7;
SELECT make('dropped'), make('dropped_left_out', 'n_and_a', target => 'dropped');
SELECT * FROM both_ways('dropped', entries(5, 'jsonb_build_object(''a'', ''a'' || n, ''b'', n * 10)'));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'row' AND value ~ '^1 ';
ALTER TABLE dropped ADD COLUMN c int DEFAULT 3 CHECK (c < 5), ADD COLUMN g text GENERATED ALWAYS AS (a || b) STORED;
CREATE UNIQUE INDEX ON dropped (a, b) INCLUDE (c);
SELECT * FROM both_ways('dropped', entries(5, 'jsonb_build_object(''a'', ''a'' || n / 2, ''b'', 10, ''c'', n)'));
SELECT * FROM both_ways('dropped_left_out', entries(5, 'jsonb_build_object(''a'', ''a'' || n)'));
-- all columns but those that are left
CREATE TABLE empty (n int GENERATED ALWAYS AS IDENTITY, x int, d text DEFAULT 'd');
ALTER TABLE empty DROP COLUMN x;
CREATE TYPE nothing AS ();
SELECT make('empty', 'nothing');
SELECT * FROM both_ways('empty', entries(3));

-- ---------------------------------------------------------------------------
-- What a row must be by itself
-- ---------------------------------------------------------------------------
CREATE TABLE required (n int, a text NOT NULL, g int GENERATED ALWAYS AS (nullif(n, 3)) STORED NOT NULL);
SELECT make('required'), make('required_left_out', 'only_n', target => 'required');
SELECT * FROM both_ways('required', entries(5, 'CASE n WHEN 2 THEN ''{}''::jsonb ELSE ''{"a": "a"}'' END'));
SELECT * FROM both_ways('required_left_out', entries(3));

CREATE FUNCTION is_odd(n int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN n % 2 = 1; END $$;
CREATE TABLE checked (n int CONSTRAINT small CHECK (n < 8), a text, CONSTRAINT odd CHECK (is_odd(n)), CHECK (n <> 5 OR a IS NOT NULL), CHECK (tableoid = 'checked'::regclass));
CREATE FUNCTION is_good(whole checked) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT whole.a IS NULL OR whole.a <> 'bad' || whole.n $$;
ALTER TABLE checked ADD CONSTRAINT "whole row" CHECK (is_good(checked)) NOT VALID;
SELECT make('checked');
SELECT * FROM both_ways('checked', entries(12, 'CASE n WHEN 3 THEN ''{"a": "bad3"}''::jsonb WHEN 7 THEN ''{"a": "bad3"}'' WHEN 11 THEN ''{"n": 1}'' ELSE ''{}'' END'));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'dead letter' ORDER BY value;

CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
CREATE DOMAIN named AS text DEFAULT 'nobody' NOT NULL CHECK (VALUE <> 'bad');
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN good_pair AS pair CHECK ((VALUE).x > 0);
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE types (n int, p percent, who named, list int[], percents percent[], pair pair, good good_pair, j jsonb, mood mood DEFAULT 'happy', r int4range, c char(4), f float8, b bool, iv interval, by bytea);
SELECT make('types'), make('types_left_out', 'only_n', target => 'types');
SELECT * FROM both_ways('types', $$[
	{"_id": "1-1", "n": 1, "p": 50, "who": "me", "list": "{1,NULL,3}", "percents": "{0,100}", "pair": "(1,\"a b\")", "good": "(1,)", "j": {"a": [1, null]}, "mood": "sad",
		"r": "[1,5)", "c": "ab", "f": "NaN", "b": "t", "iv": "1 day", "by": "\\x00ff"},
	{"_id": "1-2", "n": 2, "p": 101}, {"_id": "1-3", "n": 3, "who": "bad"}, {"_id": "1-4", "n": 4, "percents": "{101}"}, {"_id": "1-5", "n": 5, "good": "(0,)"},
	{"_id": "1-6", "n": 6}, {"_id": "1-7", "n": 7, "list": "{}", "pair": "(,)"}]$$);
SELECT * FROM both_ways('types_left_out', entries(3));
-- a domain without a default, left out
CREATE TABLE domains (n int, a given, b percent);
SELECT make('domains_left_out', 'only_n', target => 'domains');
SELECT * FROM both_ways('domains_left_out', entries(3));

-- values out of line, and a row that does not fit a page
CREATE TABLE toasted (n int, a text, e text, m text);
ALTER TABLE toasted ALTER e SET STORAGE external, ALTER m SET STORAGE main;
CREATE INDEX ON toasted (left(a, 10), length(e));
CREATE FUNCTION noise(length int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT left(string_agg(md5(i::text), '' ORDER BY i), length) FROM generate_series(1, length / 32 + 1) i $$;
SELECT make('toasted');
SELECT * FROM both_ways('toasted', entries(12, 'jsonb_build_object(''a'', noise(CASE n WHEN 2 THEN 2000000 WHEN 7 THEN 2000000 ELSE 5 END), ''e'', CASE WHEN n IN (2, 4) THEN repeat(''e'', 2000000) ELSE ''e'' END, ''m'', repeat(''m'', n * 2000))'));
SELECT * FROM both_ways('toasted', entries(300, 'jsonb_build_object(''a'', noise(10000), ''e'', noise(3000 + n))'));

CREATE FUNCTION make_wide() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'CREATE TABLE wide (n int, ' || (SELECT string_agg('c' || i || ' text STORAGE plain', ', ' ORDER BY i) FROM generate_series(1, 12) i) || ')';
EXCEPTION WHEN syntax_error THEN
	EXECUTE 'CREATE TABLE wide (n int, ' || (SELECT string_agg('c' || i || ' text', ', ' ORDER BY i) FROM generate_series(1, 12) i) || ')';
	EXECUTE 'ALTER TABLE wide ' || (SELECT string_agg('ALTER c' || i || ' SET STORAGE plain', ', ' ORDER BY i) FROM generate_series(1, 12) i);
END $$;
SELECT make_wide();
SELECT make('wide');
CREATE FUNCTION wide_fields(length int) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_object_agg('c' || i, noise(length)) FROM generate_series(1, 12) i $$;
-- on its way through "batch" a short value loses three bytes of its head, which matters to none but plain storage
SELECT * FROM both_ways('wide', entries(40, 'wide_fields(CASE WHEN n IN (1, 9, 10, 40) THEN 800 ELSE n END)'), '{size}');
SELECT * FROM both_ways('wide', entries(1, 'wide_fields(800)'));

-- ---------------------------------------------------------------------------
-- Indexes and what they demand
-- ---------------------------------------------------------------------------
CREATE TABLE keyed (n int PRIMARY KEY, a text, active bool DEFAULT true, b int, c text, EXCLUDE USING btree (c WITH =) WHERE (c <> 'free'));
CREATE UNIQUE INDEX keyed_expression ON keyed (lower(a));
CREATE UNIQUE INDEX keyed_partial ON keyed (b) WHERE active;
CREATE INDEX keyed_plain ON keyed (b, a) INCLUDE (active);
CREATE INDEX keyed_hash ON keyed USING hash (c);
CREATE INDEX keyed_brin ON keyed USING brin (n);
CREATE INDEX keyed_gin ON keyed USING gin (string_to_array(a, ' '));
CREATE INDEX keyed_gist ON keyed USING gist (int4range(n, n + 1));
SELECT make('keyed');
SELECT * FROM both_ways('keyed', $$[
	{"_id": "1-1", "n": 1, "a": "one", "b": 1, "c": "c"}, {"_id": "1-2", "n": 1}, {"_id": "1-3", "n": 3, "a": "ONE"}, {"_id": "1-4", "n": 4, "b": 1}, {"_id": "1-5", "n": 5, "b": 1, "active": false},
	{"_id": "1-6", "n": 6, "c": "free"}, {"_id": "1-7", "n": 7, "c": "free"}, {"_id": "1-8", "n": 8, "c": "c"}, {"_id": "1-9", "n": 9, "a": "one "}]$$);
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'dead letter' ORDER BY value;
SELECT * FROM both_ways('keyed', entries(1300, 'jsonb_build_object(''a'', ''x '' || n % 1299, ''b'', n)'));
-- the indexes find what was put in
SELECT outcome, count(*) FROM streamsink.apply('keyed', entries(1300, 'jsonb_build_object(''a'', ''x '' || n, ''b'', n, ''c'', n)')) GROUP BY outcome;
SET enable_seqscan = off;
SELECT (SELECT count(*) FROM keyed WHERE n BETWEEN 1 AND 1300) AS btree, (SELECT n FROM keyed WHERE lower(a) = 'x 777') AS expression, (SELECT n FROM keyed WHERE b = 778 AND active) AS partial,
	(SELECT n FROM keyed WHERE c = '779') AS hash, (SELECT count(*) FROM keyed WHERE string_to_array(a, ' ') @> '{x,780}') AS gin, (SELECT n FROM keyed WHERE int4range(n, n + 1) && '[781,782)') AS gist;
RESET enable_seqscan;
TRUNCATE keyed;

CREATE TABLE overlap (n int, r int4range, EXCLUDE USING gist (r WITH &&), d int, CONSTRAINT later EXCLUDE USING btree (d WITH =) DEFERRABLE INITIALLY DEFERRED);
SELECT make('overlap');
SELECT * FROM both_ways('overlap', $$[
	{"_id": "1-1", "n": 1, "r": "[1,5)", "d": 1}, {"_id": "1-2", "n": 2, "r": "[4,6)", "d": 2}, {"_id": "1-3", "n": 3, "r": "[5,6)", "d": 3},
	{"_id": "1-4", "n": 4, "r": "empty", "d": 4}, {"_id": "1-5", "n": 5, "d": 1}, {"_id": "1-6", "n": 6, "r": "(,1)", "d": 6}]$$);
CREATE TABLE deferred (n int, a int UNIQUE DEFERRABLE INITIALLY DEFERRED, b int UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
SELECT make('deferred');
SELECT * FROM both_ways('deferred', entries(10, 'jsonb_build_object(''a'', n / 2, ''b'', n % 8)'));
SELECT * FROM both_ways('deferred', entries(1200, 'jsonb_build_object(''a'', n % 1199, ''b'', n)'));
-- the keys of an index have a longest one
CREATE TABLE long_key (n int, a text);
CREATE INDEX ON long_key (a);
SELECT make('long_key');
SELECT * FROM both_ways('long_key', entries(20, 'jsonb_build_object(''a'', noise(CASE WHEN n IN (4, 5, 20) THEN 6000 ELSE n END))'));

-- ---------------------------------------------------------------------------
-- Foreign keys
-- ---------------------------------------------------------------------------
CREATE TABLE parents (n int PRIMARY KEY);
INSERT INTO parents SELECT generate_series(1, 1000);
CREATE TABLE children (n int, parent int REFERENCES parents, later int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
SELECT make('children');
SELECT * FROM both_ways('children', entries(9, 'CASE n WHEN 2 THEN ''{"parent": 0, "later": 1}''::jsonb WHEN 5 THEN ''{"parent": 1, "later": 0}'' WHEN 8 THEN ''{"parent": 0, "later": 0}'' ELSE ''{"parent": 1, "later": 2}'' END'));
SELECT * FROM both_ways('children', entries(2100, 'jsonb_build_object(''parent'', n % 1000 + 1, ''later'', CASE WHEN n <> 1500 THEN 1000 - n % 1000 ELSE 0 END)'));
CREATE TABLE tree (n int PRIMARY KEY, parent int REFERENCES tree, a text CHECK (a <> 'bad'));
SELECT make('tree');
-- to a later one, to itself, to a refused one, to nothing
SELECT * FROM both_ways('tree', $$[{"_id": "1-1", "n": 1, "parent": 2}, {"_id": "1-2", "n": 2, "parent": 3}, {"_id": "1-3", "n": 3, "parent": 3}]$$);
SELECT * FROM both_ways('tree', $$[
	{"_id": "1-1", "n": 1, "parent": 6}, {"_id": "1-2", "n": 2, "a": "bad"}, {"_id": "1-3", "n": 3, "parent": 2},
	{"_id": "1-4", "n": 4, "parent": 99}, {"_id": "1-5", "n": 5, "parent": 1}, {"_id": "1-6", "n": 6}, {"_id": "1-7", "n": 7, "parent": 7}]$$);
SELECT * FROM both_ways('tree', entries(1500, 'jsonb_build_object(''parent'', nullif(1500 - n, 0))'));
SELECT * FROM both_ways('tree', entries(1500, 'jsonb_build_object(''parent'', nullif(n - 1, 0))'));

-- ---------------------------------------------------------------------------
-- Triggers that look at rows when they are in
-- ---------------------------------------------------------------------------
CREATE TABLE watched (n int, a text DEFAULT 'by default', g int GENERATED ALWAYS AS (n * 2) STORED, s int DEFAULT 4);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log (what) SELECT TG_NAME || ' ' || new || ' ' || (SELECT count(*) FROM watched) || coalesce(TG_ARGV[0], '') || CASE WHEN watched = new THEN '' ELSE ' differs' END
		FROM watched WHERE watched.n = new.n;
	IF new.a = 'bad' THEN
		RAISE EXCEPTION 'refused %', new.n USING DETAIL = 'In ' || TG_NAME || '.', COLUMN = 'a', CONSTRAINT = 'by_hand', TABLE = 'watched';
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER second AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION watch();
CREATE TRIGGER first AFTER INSERT ON watched FOR EACH ROW WHEN (new.n % 2 = 0 AND new.tableoid = 'watched'::regclass) EXECUTE FUNCTION watch(' with an argument');
CREATE TRIGGER other AFTER UPDATE OR DELETE ON watched FOR EACH ROW EXECUTE FUNCTION watch();
SELECT make('watched'), make('watched_left_out', 'only_n', target => 'watched');
SELECT * FROM both_ways('watched', entries(5));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'log' ORDER BY value;
SELECT * FROM both_ways('watched_left_out', entries(1100));
SELECT * FROM both_ways('watched', entries(9, 'CASE WHEN n IN (1, 4, 5, 9) THEN ''{"a": "bad"}''::jsonb ELSE ''{}'' END'));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'dead letter' ORDER BY value;
-- deferred ones
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON watched DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch(' deferred');
DROP TRIGGER second ON watched;
SELECT * FROM both_ways('watched', entries(9, 'CASE WHEN n IN (1, 4, 5, 9) THEN ''{"a": "bad"}''::jsonb ELSE ''{}'' END'));
-- a row that its own trigger deletes, or changes
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE changed SET a = 'changed' WHERE changed.n = new.n AND new.n % 2 = 0;
	DELETE FROM changed WHERE changed.n = new.n AND new.n % 3 = 0;
	INSERT INTO changed SELECT new.n + 100, 'added' WHERE new.n = 5;
	RETURN NULL;
END $$;
CREATE TABLE changed (n int UNIQUE, a text);
CREATE TRIGGER change AFTER INSERT ON changed FOR EACH ROW EXECUTE FUNCTION change();
SELECT make('changed');
SELECT * FROM both_ways('changed', entries(8));

-- a target that is itself a partition
CREATE TABLE whole (n int, a text) PARTITION BY RANGE (n);
CREATE TABLE part (x int, a text, n int);
ALTER TABLE part DROP COLUMN x;
ALTER TABLE whole ATTACH PARTITION part FOR VALUES FROM (3) TO (6);
SELECT make('part');
SELECT * FROM both_ways('part', entries(8));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'dead letter' ORDER BY value;
-- and whose foreign key is its parent's
ALTER TABLE whole ADD FOREIGN KEY (n) REFERENCES parents, ADD UNIQUE (n);
SELECT * FROM both_ways('part', entries(8, 'CASE n WHEN 5 THEN ''{"n": 4}''::jsonb ELSE ''{}'' END'));

-- neither logged nor kept
CREATE UNLOGGED TABLE unlogged (n int PRIMARY KEY);
SELECT make('unlogged');
SELECT * FROM both_ways('unlogged', entries(1100, 'CASE n WHEN 1050 THEN ''{"n": 4}''::jsonb ELSE ''{}'' END'));

-- what a function raises is about the row, or not
CREATE FUNCTION raise(code text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF code <> 'good' THEN
		RAISE EXCEPTION 'as asked for' USING ERRCODE = code;
	END IF;
	RETURN true;
END $$;
CREATE TABLE raising (n int, a text CHECK (raise(a)));
SELECT make('raising');
SELECT code, b.* FROM unnest('{22012,23505,23503,54000,P0001,53200,21000,40001,40P01,53100,55P03,42501,42P01,0A000,XX000}'::text[]) code,
	both_ways('raising', entries(9, format('CASE WHEN n IN (4, 8) THEN ''{"a": "%s"}''::jsonb ELSE ''{"a": "good"}'' END', code))) b;

-- functions that read the table while rows come
CREATE FUNCTION so_far() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM counted); END $$;
CREATE TABLE counted (n int, place bigint DEFAULT so_far());
SELECT make('counted_left_out', 'only_n', target => 'counted');
SELECT * FROM both_ways('counted_left_out', entries(4));
ALTER TABLE counted ALTER place DROP DEFAULT, ADD CHECK (so_far() < 3);
SELECT make('counted');
SELECT * FROM both_ways('counted', entries(5));
-- not so the server's own
CREATE TABLE random (n int, at timestamptz DEFAULT clock_timestamp(), r float8 DEFAULT random() CHECK (r < random() + 2), id uuid DEFAULT gen_random_uuid());
SELECT make('random'), make('random_left_out', 'only_n', target => 'random');
SELECT * FROM both_ways('random', entries(4), '{at,r,id}');
SELECT * FROM both_ways('random_left_out', entries(4), '{at,r,id}');

-- a condition of a trigger that looks at what the row before left behind, a default with a domain's check
CREATE TABLE conditional (id int GENERATED ALWAYS AS IDENTITY, n int);
CREATE FUNCTION tell_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log (what) VALUES ('id of entry ' || NEW.n);
	RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER INSERT ON conditional FOR EACH ROW WHEN (NEW.id = currval('conditional_id_seq')) EXECUTE FUNCTION tell_id();
SELECT make('conditional');
SELECT * FROM both_ways('conditional', entries(5));
CREATE DOMAIN small AS bigint CHECK (VALUE < 3);
CREATE TABLE domain_default (n int, place small DEFAULT so_far());
SELECT make('domain_default', 'only_n');
SELECT * FROM both_ways('domain_default', entries(2));
-- a function of the server's that looks
CREATE TABLE harmful (n int, size bigint DEFAULT pg_relation_size('harmful'));
SELECT make('harmful', 'only_n');
SELECT * FROM both_ways('harmful', entries(5));

-- ---------------------------------------------------------------------------
-- What must not go in bulk
-- ---------------------------------------------------------------------------
CREATE FUNCTION before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	new.a := 'before ' || new.n;
	RETURN CASE WHEN new.n % 3 <> 0 THEN new END;
END $$;
CREATE TABLE not_before (n int, a text);
CREATE TRIGGER before BEFORE INSERT ON not_before FOR EACH ROW EXECUTE FUNCTION before();
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log (what) VALUES (TG_WHEN || ' ' || TG_LEVEL);
	RETURN NULL;
END $$;
CREATE TABLE not_statement_before (n int);
CREATE TRIGGER tell BEFORE INSERT ON not_statement_before EXECUTE FUNCTION tell();
CREATE TABLE not_statement_after (n int);
CREATE TRIGGER tell AFTER INSERT ON not_statement_after EXECUTE FUNCTION tell();
CREATE TABLE not_transition (n int);
CREATE FUNCTION tell_rows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log (what) SELECT 'new ' || n FROM added;
	RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER INSERT ON not_transition REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tell_rows();
CREATE TABLE not_transition_row (n int);
CREATE TRIGGER tell AFTER INSERT ON not_transition_row REFERENCING NEW TABLE AS added FOR EACH ROW EXECUTE FUNCTION tell_rows();
CREATE VIEW not_view AS SELECT n, a FROM plain WHERE n < 4 WITH CHECK OPTION;
CREATE VIEW not_instead AS SELECT n, a FROM plain;
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO plain VALUES (new.n, 'instead');
	RETURN new;
END $$;
CREATE TRIGGER instead INSTEAD OF INSERT ON not_instead FOR EACH ROW EXECUTE FUNCTION instead();
CREATE TABLE not_rule_nothing (n int);
CREATE RULE nothing AS ON INSERT TO not_rule_nothing DO INSTEAD NOTHING;
CREATE TABLE not_rule_instead (n int);
CREATE RULE instead AS ON INSERT TO not_rule_instead DO INSTEAD INSERT INTO log (what) VALUES ('instead ' || new.n);
CREATE TABLE not_rule_also (n int);
CREATE RULE also AS ON INSERT TO not_rule_also DO ALSO INSERT INTO log (what) VALUES ('also ' || new.n);
CREATE TABLE not_rule_some (n int);
CREATE RULE rule AS ON INSERT TO not_rule_some WHERE new.n = 2 DO INSTEAD NOTHING;
CREATE TABLE not_rule_notify (n int);
CREATE RULE rule AS ON INSERT TO not_rule_notify DO INSTEAD NOTIFY bulk;
CREATE TABLE not_partitioned (n int, a text) PARTITION BY LIST (n);
CREATE TABLE not_partitioned_1 PARTITION OF not_partitioned FOR VALUES IN (1, 3);
CREATE TABLE not_partitioned_rest PARTITION OF not_partitioned DEFAULT PARTITION BY LIST (a);
CREATE TABLE not_nothing (n int PRIMARY KEY, a text);
CREATE TABLE not_update (n int PRIMARY KEY, a text);
CREATE TABLE not_parent (n int);
CREATE TABLE not_parent_child () INHERITS (not_parent);
SELECT count(make(t, on_conflict => CASE t WHEN 'not_nothing' THEN 'nothing' WHEN 'not_update' THEN 'update' ELSE 'error' END))
FROM unnest(ARRAY['not_before', 'not_statement_before', 'not_statement_after', 'not_transition', 'not_transition_row', 'not_view', 'not_instead', 'not_rule_nothing',
	'not_rule_instead', 'not_rule_also', 'not_rule_some', 'not_rule_notify', 'not_partitioned', 'not_nothing', 'not_update', 'not_parent']) t;
CREATE FUNCTION not_in_bulk(name text, OUT pipeline text, OUT in_bulk text, OUT written bigint, OUT refused text, OUT rows bigint, OUT differences text, OUT log text) LANGUAGE plpgsql AS $$
BEGIN
	SELECT b.pipeline, b.in_bulk, b.written, b.refused, b.differences INTO pipeline, in_bulk, written, refused, differences
	FROM both_ways(name, entries(5, 'CASE n WHEN 5 THEN ''{"n": 1}''::jsonb ELSE ''{}'' END')) b;
	SELECT count(*) FILTER (WHERE kind = 'row'), string_agg(substr(value, strpos(value, ' ') + 1), ', ' ORDER BY value) FILTER (WHERE kind = 'log') INTO rows, log FROM seen WHERE way = 'bulk';
END $$;
SELECT b.* FROM streamsink.pipelines p, not_in_bulk(p.name) b WHERE p.name ~ '^not_' ORDER BY p.name COLLATE "C";
-- a child is a table as others are
SELECT make('not_parent_child');
SELECT * FROM both_ways('not_parent_child', entries(3));

-- ---------------------------------------------------------------------------
-- Privileges and policies of the pipeline's owner
-- ---------------------------------------------------------------------------
CREATE ROLE bulk_owner LOGIN;
SELECT streamsink.grant_access('bulk_owner');
GRANT USAGE ON FOREIGN SERVER bulk_server TO bulk_owner;
GRANT USAGE, CREATE ON SCHEMA bulk TO bulk_owner;
GRANT ALL ON log TO bulk_owner;
GRANT USAGE ON SEQUENCE log_n_seq TO bulk_owner;
CREATE TABLE secured (n int UNIQUE, a text CHECK (a <> 'bad'), secret text DEFAULT 'secret', level int DEFAULT 1);
GRANT INSERT ON secured TO bulk_owner;
SET ROLE bulk_owner;
CREATE TABLE owned (n int UNIQUE, a text CHECK (a <> 'bad'));
SELECT make('secured'), make('secured_left_out', 'n_and_a', target => 'secured'), make('owned');
RESET ROLE;
-- errors show the owner no more of a row than he may see
SELECT * FROM both_ways('secured', entries(5, 'CASE n WHEN 2 THEN ''{"a": "bad"}''::jsonb WHEN 4 THEN ''{"n": 1}'' ELSE ''{}'' END'));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'dead letter' ORDER BY value;
SELECT * FROM both_ways('secured_left_out', entries(5, 'CASE n WHEN 2 THEN ''{"a": "bad"}''::jsonb WHEN 4 THEN ''{"n": 1}'' ELSE ''{}'' END'));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'dead letter' ORDER BY value;
-- rights on some columns only
REVOKE INSERT ON secured FROM bulk_owner;
GRANT INSERT (n, a), SELECT (a) ON secured TO bulk_owner;
SELECT * FROM both_ways('secured', entries(2));
SELECT * FROM both_ways('secured_left_out', entries(5, 'CASE n WHEN 2 THEN ''{"a": "bad"}''::jsonb WHEN 4 THEN ''{"n": 1}'' ELSE ''{}'' END'));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'dead letter' ORDER BY value;
REVOKE INSERT (a) ON secured FROM bulk_owner;
SELECT * FROM both_ways('secured_left_out', entries(2));
REVOKE ALL ON secured FROM bulk_owner;
SELECT * FROM both_ways('secured_left_out', entries(2));
-- a default's function
CREATE FUNCTION private() RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN 1; END $$;
REVOKE EXECUTE ON FUNCTION private FROM PUBLIC;
GRANT INSERT ON secured TO bulk_owner;
ALTER TABLE secured ALTER level SET DEFAULT private();
SELECT * FROM both_ways('secured_left_out', entries(2));
ALTER TABLE secured ALTER level SET DEFAULT 1;
-- a user's code runs as the owner
CREATE FUNCTION tell_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log (what) VALUES (current_user);
	RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER INSERT ON secured FOR EACH ROW EXECUTE FUNCTION tell_user();
SELECT * FROM both_ways('secured', entries(1));
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'log';
DROP TRIGGER tell ON secured;
-- policies: none, one, the table's owner, forced upon him
ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
SELECT * FROM both_ways('secured', entries(3));
CREATE POLICY policy ON secured FOR INSERT TO bulk_owner WITH CHECK (n <> 2);
SELECT * FROM both_ways('secured', entries(1));
SELECT * FROM both_ways('secured', entries(3));
ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
CREATE POLICY policy ON owned WITH CHECK (n <> 2);
SELECT * FROM both_ways('owned', entries(3));
ALTER TABLE owned FORCE ROW LEVEL SECURITY;
SELECT * FROM both_ways('owned', entries(1));
SELECT * FROM both_ways('owned', entries(3));
ALTER TABLE owned NO FORCE ROW LEVEL SECURITY;
SELECT * FROM both_ways('owned', entries(3));

-- ---------------------------------------------------------------------------
-- What changes between two batches of a writer that stays
-- ---------------------------------------------------------------------------
CREATE TABLE kept (n int, a text, c int DEFAULT 1);
GRANT SELECT, INSERT ON kept TO bulk_owner;
SET ROLE bulk_owner;
SELECT make('kept', 'n_and_a');
SELECT hold('kept');
RESET ROLE;
SELECT write('{n|1,n|2}');
SELECT write('{n|3}');
ALTER TABLE kept ADD CHECK (n <> 4), ADD UNIQUE (n), ALTER c SET DEFAULT 2;
SELECT write('{n|4,n|5,n|1}');
ALTER TABLE kept ADD COLUMN d text DEFAULT 'd', ADD COLUMN g int GENERATED ALWAYS AS (n * 10) STORED NOT NULL;
SELECT write('{n|6}');
ALTER TABLE kept DROP COLUMN c;
SELECT write('{n|7}');
ALTER TABLE kept ALTER d SET DEFAULT upper('e'), ALTER d TYPE varchar(5);
SELECT write('{n|8}');
CREATE TRIGGER before BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION before();
SELECT write('{n|9,n|10}');
ALTER TABLE kept DISABLE TRIGGER before;
SELECT write('{n|11}');
DROP TRIGGER before ON kept;
SELECT write('{n|12}');
CREATE TRIGGER tell AFTER INSERT ON kept FOR EACH ROW EXECUTE FUNCTION tell_user();
SELECT write('{n|13}');
SELECT what FROM log;
DROP TRIGGER tell ON kept;
CREATE RULE also AS ON INSERT TO kept DO ALSO INSERT INTO log (what) VALUES ('also ' || new.n);
SELECT write('{n|14}');
SELECT what FROM log;
DROP RULE also ON kept;
TRUNCATE log;
SELECT write('{n|15}');
ALTER TABLE kept ENABLE ROW LEVEL SECURITY;
SELECT write('{n|16}');
CREATE POLICY all_rows ON kept USING (true);
SELECT write('{n|17}');
ALTER ROLE bulk_owner BYPASSRLS;
SELECT write('{n|18}');
ALTER ROLE bulk_owner NOBYPASSRLS;
ALTER TABLE kept DISABLE ROW LEVEL SECURITY;
SELECT write('{n|19}');
REVOKE INSERT ON kept FROM bulk_owner;
SELECT write('{n|20}');
GRANT INSERT (n) ON kept TO bulk_owner;
SELECT write('{n|21}');
GRANT INSERT (a) ON kept TO bulk_owner;
SELECT write('{n|22}');
-- by a role, which no table knows of
REVOKE INSERT (n, a) ON kept FROM bulk_owner;
CREATE ROLE bulk_group;
GRANT INSERT ON kept TO bulk_group;
GRANT bulk_group TO bulk_owner;
SELECT write('{n|23}');
REVOKE bulk_group FROM bulk_owner;
SELECT write('{n|24}');
GRANT bulk_group TO bulk_owner;
ALTER TABLE kept RENAME TO renamed;
SELECT write('{n|25}');
CREATE TABLE kept (n int, a text);
SELECT write('{n|26}');
DROP TABLE kept;
ALTER TABLE renamed RENAME TO kept;
SELECT write('{n|27}');
CREATE TABLE kept_child () INHERITS (kept);
SELECT write('{n|28}');
DROP TABLE kept_child;
-- a table knows that it is a parent until this
ANALYZE kept;
SELECT write('{n|29}');
-- a function in a default, folded into the plan
CREATE FUNCTION folded() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'one' $$;
ALTER TABLE kept ALTER d SET DEFAULT folded();
SELECT write('{n|30}');
CREATE OR REPLACE FUNCTION folded() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'two' $$;
SELECT write('{n|31}');
-- errors that are raised leave nothing behind, and the writer goes on
ALTER TABLE kept ALTER d SET DEFAULT left(shout(1 / 0), 5);
CREATE OR REPLACE FUNCTION shout(n int) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'as asked for'; END $$;
ALTER TABLE kept ALTER d SET DEFAULT left(shout(1), 5);
SELECT write('{n|32,n|33}');
ALTER TABLE kept ALTER d SET DEFAULT 'end';
SELECT write('{n|32,n|33}');
SELECT * FROM kept ORDER BY n;
VACUUM FULL kept;
SELECT write('{n|34}');
TRUNCATE kept;
SELECT write('{n|34,n|35}');
BEGIN;
ALTER TABLE kept ADD COLUMN e int DEFAULT 5;
SELECT write('{n|36}');
ROLLBACK;
SELECT write('{n|37}');
SELECT * FROM kept ORDER BY n;
SELECT hold(NULL);

-- ---------------------------------------------------------------------------
-- Isolation: the bad ones, all of them and nothing else, however they lie
-- ---------------------------------------------------------------------------
CREATE TABLE bad_rows (n int, u int UNIQUE, a text CHECK (a <> 'bad'), parent int REFERENCES parents);
INSERT INTO bad_rows (n, u) VALUES (0, 0);
SELECT make('bad_rows');
CREATE FUNCTION pattern(name text, size int) RETURNS int[] LANGUAGE sql IMMUTABLE AS $$
	SELECT coalesce(array_agg(n ORDER BY n), '{}') FROM generate_series(1, size) n WHERE CASE name WHEN 'none' THEN false WHEN 'second' THEN n % 2 = 0 WHEN 'all' THEN true WHEN 'first' THEN n = 1
		WHEN 'last' THEN n = size WHEN 'three' THEN n BETWEEN size / 2 AND size / 2 + 2 WHEN 'late' THEN n = size - 300 WHEN 'chunk' THEN n IN (1000, 1001, 2000) END
$$;
-- kinds: check, unique (with a row that was there), twin (with one another: the first of them is good), foreign
CREATE FUNCTION isolate(kind text, size int, pattern text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	bad int[] := pattern(pattern, size);
	given jsonb := (SELECT jsonb_agg(jsonb_build_object('_id', '1-' || n, 'n', n, 'u', n) || CASE WHEN n NOT IN (SELECT unnest(bad)) THEN '{"a": "good", "parent": 1}'
		WHEN kind = 'check' THEN '{"a": "bad"}' WHEN kind = 'unique' THEN '{"u": 0}' WHEN kind = 'twin' THEN '{"u": -1}' ELSE '{"parent": 0}' END::jsonb ORDER BY n) FROM generate_series(1, size) n);
	expected int[] := CASE WHEN kind = 'twin' THEN bad[2:] ELSE bad END;
	result record;
	refused int[];
	found int[];
BEGIN
	SELECT * INTO result FROM both_ways('bad_rows', given);
	SELECT coalesce(array_agg(substr(split_part(value, ' ', 1), 3)::int ORDER BY substr(split_part(value, ' ', 1), 3)::int), '{}') INTO refused FROM seen WHERE way = 'bulk' AND seen.kind = 'outcome' AND value ~ ' refused ';
	SELECT array_agg((substr(value, strpos(value, '{'))::jsonb ->> 'n')::int ORDER BY (substr(value, strpos(value, '{'))::jsonb ->> 'n')::int) INTO found FROM seen WHERE way = 'bulk' AND seen.kind = 'row';
	RETURN concat_ws(E'\n', CASE WHEN result.in_bulk <> 'all' AND result.written > 0 THEN result.in_bulk || ' in bulk' END, CASE WHEN refused <> expected THEN 'refused ' || refused::text END,
		CASE WHEN found <> (SELECT array_agg(n ORDER BY n) FROM generate_series(0, size) n WHERE n NOT IN (SELECT unnest(expected))) THEN 'wrong rows' END, 'differences ' || result.differences, 'raised ' || result.raised);
END $$;
SELECT kind, count(*), string_agg(size || ' ' || pattern || ' ' || wrong, E'\n') FILTER (WHERE wrong <> '') AS wrong
FROM (SELECT kind, size, pattern, isolate(kind, size, pattern) AS wrong
	FROM unnest('{check,unique,twin,foreign}'::text[]) kind, unnest('{1,2,999,1000,1001,2500}'::int[]) size, unnest('{none,second,all,first,last,three,chunk}'::text[]) pattern
	WHERE kind <> 'foreign' OR size IN (2, 1001) AND pattern NOT IN ('second', 'all')) s
GROUP BY kind ORDER BY kind;
-- a row that is known to be at fault is found at once: tried are all, those before it, it alone, those behind it
CREATE FUNCTION count_tries(kind text, size int, pattern text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	before bigint := tries();
	wrong text := isolate(kind, size, pattern);
BEGIN
	RETURN wrong || (tries() - before);
END $$;
SELECT kind, size, pattern, count_tries(kind, size, pattern)
FROM unnest('{check,unique}'::text[]) kind, unnest('{1000,2500}'::int[]) size, unnest('{none,late,last,all}'::text[]) pattern
WHERE size = 1000 OR pattern <> 'all' ORDER BY kind, size, pattern;
-- all at once
SELECT * FROM both_ways('bad_rows', entries(2300, 'CASE WHEN n % 401 = 5 THEN ''{"a": "bad"}'' WHEN n % 397 = 9 THEN ''{"u": 0}'' WHEN n % 389 = 7 THEN ''{"u": -1}'' WHEN n % 409 = 11 THEN ''{"parent": 0}''
	WHEN n % 419 = 2 THEN ''{"a": "bad", "u": 0, "parent": 0}'' WHEN n % 421 = 1 THEN ''{"u": "x"}'' ELSE ''{"parent": 7}'' END::jsonb'));
-- errors of rows that stand in another order than they are found in
SELECT * FROM both_ways('bad_rows', $$[
	{"_id": "1-1", "n": 1, "u": 1}, {"_id": "1-2", "n": 2, "parent": 0}, {"_id": "1-3", "n": 3, "u": 1}, {"_id": "1-4", "n": 4, "a": "bad"}, {"_id": "1-5", "n": 5, "u": 5},
	{"_id": "1-6", "n": 6, "u": 0}, {"_id": "1-7", "n": 7, "a": "bad", "u": 8}, {"_id": "1-8", "n": 8, "u": 8}]$$);
SELECT value FROM seen WHERE way = 'bulk' AND kind = 'outcome' ORDER BY value;

-- clean up
SET client_min_messages = warning;
SELECT count(streamsink.drop_pipeline(name)) FROM streamsink.pipelines WHERE target ~ '^bulk\.';
DROP SCHEMA bulk CASCADE;
DROP SERVER bulk_server CASCADE;
DROP OWNED BY bulk_owner;
DROP ROLE bulk_owner, bulk_group;
