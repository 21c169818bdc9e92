-- Errors are data, machine or set-up: which entries are refused, what is left
-- of them, and what is raised instead.

SET client_min_messages = warning;
CREATE SERVER errors_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost');

CREATE FUNCTION errors_fails(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
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
	RETURN QUERY SELECT '  ' || l FROM unnest(string_to_array(context, E'\n')) AS l WHERE l ~ '^pipeline';
END $$;

-- n entries, with values of "bad" for those numbers
CREATE FUNCTION errors_entries(n int, bad int[], value text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(jsonb_build_object('_id', '1-' || i, 'n', i, 'a', CASE WHEN i = ANY (bad) THEN value ELSE 'good' END) ORDER BY i)
	FROM generate_series(1, n) AS i
$$;
CREATE FUNCTION errors_count(name text, entries jsonb) RETURNS TABLE (outcome text, count bigint, numbers text) LANGUAGE sql AS $$
	SELECT outcome, count(*), CASE WHEN count(*) <= 10 THEN string_agg(id::text, ' ' ORDER BY id) END
	FROM streamsink.apply(name, entries) GROUP BY outcome ORDER BY outcome
$$;

-- ---------------------------------------------------------------------------
-- Isolation: every bad row alone, every good row kept, in order
-- ---------------------------------------------------------------------------
CREATE TABLE errors_target (place bigserial, n int UNIQUE, a text CHECK (a <> 'bad'));
SELECT streamsink.create_pipeline('errors', 'errors_server', 'errors', 'errors_target', connect => false);
SELECT * FROM errors_count('errors', errors_entries(1, '{1}', 'bad'));
SELECT * FROM errors_count('errors', errors_entries(2, '{1}', 'bad'));
TRUNCATE errors_target;
SELECT * FROM errors_count('errors', errors_entries(2, '{2}', 'bad'));
TRUNCATE errors_target;
SELECT * FROM errors_count('errors', errors_entries(1000, '{1,500,501,1000}', 'bad'));
-- the order of the stream is the order of writing
SELECT count(*), bool_and(n > lag) FROM (SELECT n, lag(n, 1, 0) OVER (ORDER BY place) FROM errors_target) AS t;
TRUNCATE errors_target;
-- half of them bad, and all of them
SELECT * FROM errors_count('errors', errors_entries(600, (SELECT array_agg(i) FROM generate_series(1, 600, 2) AS i), 'bad'));
SELECT count(*), min(n), max(n), bool_and(n % 2 = 0) FROM errors_target;
TRUNCATE errors_target;
SELECT * FROM errors_count('errors', errors_entries(40, (SELECT array_agg(i) FROM generate_series(1, 40) AS i), 'bad'));
SELECT stage, sqlstate, table_name, column_name, constraint_name, count(*), streamsink.min(entry_id), streamsink.max(entry_id)
FROM streamsink.dead_letters WHERE pipeline = 'errors' GROUP BY 1, 2, 3, 4, 5;
SELECT streamsink.discard_dead_letters('errors');
-- bad in decoding and bad in writing together
SELECT * FROM errors_count('errors', '[{"_id": "1-1", "n": "x"}, {"_id": "1-2", "n": 2, "a": "bad"}, {"_id": "1-3", "n": 3}, {"_id": "1-4", "n": 3}, {"_id": "1-5", "n": "y"}, {"_id": "1-6", "n": 4}]');
SELECT n FROM errors_target ORDER BY place;
SELECT entry_id, stage, sqlstate, error, regexp_replace(detail, '\d{3,}', 'N') AS detail, column_name, constraint_name FROM streamsink.dead_letters WHERE pipeline = 'errors' ORDER BY id;
SELECT streamsink.discard_dead_letters('errors');
-- on_error => 'discard' keeps nothing of them
SELECT streamsink.alter_pipeline('errors', on_error => 'discard', connect => false);
SELECT * FROM errors_count('errors', '[{"_id": "1-1", "n": "x"}, {"_id": "1-2", "n": 2, "a": "bad"}, {"_id": "1-3", "n": 5}]');
SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'errors';
SELECT streamsink.alter_pipeline('errors', on_error => 'dead_letter', connect => false);

-- ---------------------------------------------------------------------------
-- Foreign keys: to a later row of the batch, to a refused one, to nothing
-- ---------------------------------------------------------------------------
CREATE TABLE errors_tree (id int PRIMARY KEY, parent int REFERENCES errors_tree, a text CHECK (a <> 'bad'));
SELECT streamsink.create_pipeline('errors_tree', 'errors_server', 'tree', 'errors_tree', connect => false);
SELECT id, outcome, sqlstate FROM streamsink.apply('errors_tree', $$[
	{"_id": "1-1", "id": 1, "parent": 2}, {"_id": "1-2", "id": 2, "parent": 3}, {"_id": "1-3", "id": 3}]$$);
TRUNCATE errors_tree;
-- with a bad one beside it, rows are tried alone: those that point forward get a second try
SELECT id, outcome, sqlstate FROM streamsink.apply('errors_tree', $$[
	{"_id": "1-1", "id": 1, "parent": 6}, {"_id": "1-2", "id": 2, "a": "bad"}, {"_id": "1-3", "id": 3, "parent": 2},
	{"_id": "1-4", "id": 4, "parent": 99}, {"_id": "1-5", "id": 5, "parent": 1}, {"_id": "1-6", "id": 6}, {"_id": "1-7", "id": 7, "parent": 7}]$$);
SELECT id, parent FROM errors_tree ORDER BY id;
SELECT entry_id, sqlstate, constraint_name, detail FROM streamsink.dead_letters WHERE pipeline = 'errors_tree' ORDER BY id;
SELECT streamsink.discard_dead_letters('errors_tree');

-- ---------------------------------------------------------------------------
-- Deferred constraints: the entry that violates them is refused, not the commit
-- ---------------------------------------------------------------------------
CREATE TABLE errors_parent (id int PRIMARY KEY);
CREATE TABLE errors_deferred (id int, parent int REFERENCES errors_parent DEFERRABLE INITIALLY DEFERRED,
	UNIQUE (id) DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION errors_deferred_check() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.id > 100 THEN
		RAISE EXCEPTION 'id % is too large', new.id USING DETAIL = 'A deferred trigger says so.';
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER errors_deferred_check AFTER INSERT ON errors_deferred DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION errors_deferred_check();
INSERT INTO errors_parent VALUES (1);
SELECT streamsink.create_pipeline('errors_deferred', 'errors_server', 'deferred', 'errors_deferred', connect => false);
SELECT id, outcome, sqlstate, error FROM streamsink.apply('errors_deferred', $$[
	{"_id": "1-1", "id": 1, "parent": 1}, {"_id": "1-2", "id": 2, "parent": 2}, {"_id": "1-3", "id": 3}, {"_id": "1-4", "id": 3},
	{"_id": "1-5", "id": 101}, {"_id": "1-6", "id": 6, "parent": 1}]$$);
SELECT * FROM errors_deferred ORDER BY id;
SELECT streamsink.discard_dead_letters('errors_deferred');
-- the caller's own violations are the caller's: they are raised, and refuse no entry
BEGIN;
INSERT INTO errors_deferred VALUES (7, 7);
SELECT id, outcome, sqlstate, error FROM streamsink.apply('errors_deferred', '[{"_id": "1-1", "id": 8}, {"_id": "1-2", "id": 9}]');
ROLLBACK;
SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'errors_deferred';
SELECT count(*) FROM errors_deferred;

-- a row that needs the deferral: its own trigger adds what it refers to, after the check would have been.
-- A bad neighbour makes no difference, nor does an earlier call in the transaction.
CREATE TABLE errors_linked (id int CHECK (id < 100), parent int REFERENCES errors_parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION errors_link() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO errors_parent VALUES (new.parent);
	RETURN NULL;
END $$;
CREATE TRIGGER zz AFTER INSERT ON errors_linked FOR EACH ROW EXECUTE FUNCTION errors_link();
SELECT streamsink.create_pipeline('errors_linked', 'errors_server', 'linked', 'errors_linked', connect => false);
BEGIN;
SELECT id, outcome, sqlstate FROM streamsink.apply('errors_linked', $$[
	{"_id": "1-1", "id": 1, "parent": 11}, {"_id": "1-2", "id": 100}, {"_id": "1-3", "id": 2, "parent": 12}, {"_id": "1-4", "id": 3, "parent": 13}]$$);
SELECT id, outcome, sqlstate FROM streamsink.apply('errors_linked', '[{"_id": "1-5", "id": 4, "parent": 14}]');
COMMIT;

-- ---------------------------------------------------------------------------
-- Triggers: RAISE refuses; a refused row leaves no trace of what it did
-- ---------------------------------------------------------------------------
CREATE TABLE errors_log (what text);
CREATE TABLE errors_totals (k text PRIMARY KEY, n int, CHECK (n < 100));
INSERT INTO errors_totals VALUES ('total', 0);
CREATE TABLE errors_side (n int, a text);
CREATE FUNCTION errors_effects() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO errors_log VALUES (TG_WHEN || ' ' || new.n);
	UPDATE errors_totals SET n = errors_totals.n + new.n WHERE k = 'total';
	IF new.a = TG_WHEN THEN
		RAISE EXCEPTION 'refused %', new.n USING DETAIL = 'In a trigger ' || TG_WHEN || '.', HINT = 'None.', COLUMN = 'a', CONSTRAINT = 'by_hand';
	END IF;
	RETURN new;
END $$;
CREATE TRIGGER errors_before BEFORE INSERT ON errors_side FOR EACH ROW EXECUTE FUNCTION errors_effects();
CREATE TRIGGER errors_after AFTER INSERT ON errors_side FOR EACH ROW EXECUTE FUNCTION errors_effects();
SELECT streamsink.create_pipeline('errors_side', 'errors_server', 'side', 'errors_side', connect => false);
SELECT id, outcome, sqlstate, error FROM streamsink.apply('errors_side', $$[
	{"_id": "1-1", "n": 1}, {"_id": "1-2", "n": 2, "a": "BEFORE"}, {"_id": "1-3", "n": 3, "a": "AFTER"}, {"_id": "1-4", "n": 4}, {"_id": "1-5", "n": 60}]$$);
SELECT n FROM errors_side ORDER BY n;
SELECT what FROM errors_log ORDER BY what;
SELECT n AS total FROM errors_totals;
SELECT entry_id, stage, sqlstate, error, detail, table_name, column_name, constraint_name FROM streamsink.dead_letters WHERE pipeline = 'errors_side' ORDER BY id;
SELECT streamsink.discard_dead_letters('errors_side');
-- what is raised leaves nothing of the whole batch, and what came before is still there
SELECT * FROM errors_fails($$
	WITH a AS (SELECT outcome FROM streamsink.apply('errors_side', '[{"_id": "2-1", "n": 5}, {"_id": "2-2", "n": 6, "a": "AFTER"}]'))
	SELECT 1 / (count(*) - 2) FROM a$$);
SELECT count(*) FROM errors_side;
SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'errors_side';

-- ---------------------------------------------------------------------------
-- SQLSTATEs: refused, or raised.  A trigger raises the code that the row asks for.
-- ---------------------------------------------------------------------------
CREATE TABLE errors_codes (code text, expected text);
CREATE FUNCTION errors_raise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.code <> 'good' THEN
		RAISE EXCEPTION 'as asked for' USING ERRCODE = new.code;
	END IF;
	RETURN new;
END $$;
CREATE TRIGGER errors_raise BEFORE INSERT ON errors_codes FOR EACH ROW EXECUTE FUNCTION errors_raise();
SELECT streamsink.create_pipeline('errors_codes', 'errors_server', 'codes', 'errors_codes', connect => false);
-- with a good row on either side, and alone
CREATE FUNCTION errors_try(code text, alone bool) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	before bigint := (SELECT count(*) FROM errors_codes);
BEGIN
	SELECT string_agg(outcome || coalesce(' ' || sqlstate, ''), ', ' ORDER BY id) INTO result
	FROM streamsink.apply('errors_codes', CASE WHEN alone THEN jsonb_build_array(jsonb_build_object('code', code))
		ELSE jsonb_build_array(jsonb_build_object('code', 'good'), jsonb_build_object('code', code), jsonb_build_object('code', 'good')) END);
	RETURN result;
EXCEPTION WHEN OTHERS OR QUERY_CANCELED OR ASSERT_FAILURE THEN
	RETURN 'raised ' || sqlstate || CASE WHEN (SELECT count(*) FROM errors_codes) <> before THEN ', rows left' ELSE '' END;
END $$;
SELECT code, errors_try(code, true) AS alone, errors_try(code, false) AS between
FROM unnest(ARRAY[
	-- data
	'22012', '22P02', '23505', '23514', '23503', '23P01', '44000', '54000', '54001', 'P0001', '21000', '53200',
	-- machine
	'40001', '40P01', '40002', '08006', '53000', '53100', '53300', '55P03', '57014', '57P01', '57P03', '57P05', '58030',
	-- set-up, and what is not known
	'42P01', '42501', '42703', '42804', '42P10', '3F000', '28000', '25006', '0A000', 'XX000', 'XX001', 'P0000', 'P0002', 'P0004',
	'55000', '55006', '02000', '58000', 'HV000', 'F0000', 'UX123', '99999']) AS code;
SELECT DISTINCT code FROM errors_codes;
SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'errors_codes';
SELECT streamsink.discard_dead_letters('errors_codes') > 0 AS discarded;
-- the same where a type's input says so, while entries become rows
CREATE FUNCTION errors_check(code text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF code <> 'good' THEN
		RAISE EXCEPTION 'as asked for' USING ERRCODE = code;
	END IF;
	RETURN true;
END $$;
CREATE DOMAIN errors_domain AS text CHECK (errors_check(VALUE));
CREATE TABLE errors_input (code errors_domain);
SELECT streamsink.create_pipeline('errors_input', 'errors_server', 'input', 'errors_input', connect => false);
CREATE FUNCTION errors_decode(code text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN (SELECT string_agg(outcome || coalesce(' ' || sqlstate, ''), ', ' ORDER BY id) FROM streamsink.apply('errors_input',
		jsonb_build_array(jsonb_build_object('code', 'good'), jsonb_build_object('code', code), jsonb_build_object('code', 'good'))));
EXCEPTION WHEN OTHERS OR QUERY_CANCELED OR ASSERT_FAILURE THEN
	RETURN 'raised ' || sqlstate;
END $$;
SELECT code, errors_decode(code) AS between
FROM unnest(ARRAY['22012', '23514', '44000', '54000', 'P0001', '21000', '53200', '40001', '53100', '57014', '42P01', '0A000', 'XX000', 'UX123']) AS code;
SELECT stage, count(*) FROM streamsink.dead_letters WHERE pipeline = 'errors_input' GROUP BY stage;
SELECT count(*) FROM errors_input;
-- where it happened: many rows, and one
SELECT * FROM errors_fails($$SELECT * FROM streamsink.apply('errors_codes', '[{"_id": "1-1", "code": "good"}, {"_id": "1-2", "code": "40001"}]')$$);
SELECT * FROM errors_fails($$SELECT * FROM streamsink.apply('errors_codes', '[{"_id": "1-2", "code": "40001"}]')$$);

-- set-up: nothing is refused, and it heals by itself
ALTER TABLE errors_codes RENAME TO errors_codes_away;
SELECT * FROM errors_fails($$SELECT * FROM streamsink.apply('errors_codes', '[{"code": "good"}]')$$);
ALTER TABLE errors_codes_away RENAME TO errors_codes;
DROP TRIGGER errors_raise ON errors_codes;
ALTER TABLE errors_codes DROP COLUMN expected;
SELECT outcome, sqlstate FROM streamsink.apply('errors_codes', '[{"code": "good"}]');
SET default_transaction_read_only = on;
SELECT * FROM errors_fails($$SELECT * FROM streamsink.apply('errors_codes', '[{"_id": "1-1", "code": "good"}]')$$);
RESET default_transaction_read_only;

-- recursion: a trigger that applies to the pipeline it belongs to, once
CREATE FUNCTION errors_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.code = 'outer' THEN
		PERFORM streamsink.apply('errors_codes', '[{"code": "inner"}]');
	END IF;
	RETURN new;
END $$;
CREATE TRIGGER errors_again BEFORE INSERT ON errors_codes FOR EACH ROW EXECUTE FUNCTION errors_again();
SELECT outcome, sqlstate, error FROM streamsink.apply('errors_codes', '[{"code": "outer"}]');
SELECT code, count(*) FROM errors_codes GROUP BY code ORDER BY code;

-- clean up
SELECT count(streamsink.drop_pipeline(name)) FROM streamsink.pipelines WHERE name LIKE 'errors%';
SELECT count(*) FROM streamsink.dead_letter d WHERE NOT EXISTS (SELECT FROM streamsink.pipeline p WHERE p.id = d.pipeline);
DROP SERVER errors_server CASCADE;
