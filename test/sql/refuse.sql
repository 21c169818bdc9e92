-- refuse() and ignore() in a transform: what they leave behind, and what they cost.

SET client_min_messages = warning;
SET search_path = public;
CREATE SERVER refuse_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost');
CREATE TYPE refuse_row AS (n int, a text);
CREATE TABLE refuse_first (n int, a text);
CREATE TABLE refuse_second (n int, a text);
-- how often the statements ran over how many rows: a sequence takes nothing back
CREATE SEQUENCE refuse_runs;
CREATE FUNCTION refuse_create(transform text, name text = 'refuse') RETURNS void LANGUAGE sql AS $$
	SELECT streamsink.create_pipeline(name, 'refuse_server', 'refuse:' || name, row_type => 'refuse_row', transform => transform, connect => false)
$$;
CREATE FUNCTION refuse_entries(first int, last int) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(jsonb_build_object('_id', '1-' || i, 'n', i) ORDER BY i) FROM generate_series(first, last) AS i
$$;
-- Run a transform over some entries: outcomes, what is in the tables, how often the statements ran.
CREATE FUNCTION refuse_try(transform text, last int = 6) RETURNS TABLE (outcomes text, first text, second text, runs bigint) LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE refuse_first, refuse_second;
	PERFORM setval('refuse_runs', 1, false);
	PERFORM streamsink.discard_dead_letters('refuse');
	PERFORM streamsink.alter_pipeline('refuse', transform => transform, connect => false);
	outcomes := (SELECT string_agg(left(outcome, 1), '' ORDER BY id) FROM streamsink.apply('refuse', refuse_entries(1, last)));
	first := (SELECT string_agg(n::text, ' ' ORDER BY n) FROM refuse_first);
	second := (SELECT string_agg(n::text, ' ' ORDER BY n) FROM refuse_second);
	runs := nextval('refuse_runs') - 1;
	RETURN NEXT;
END $$;

-- outside of a transform, also in a session's own transaction
SELECT streamsink.refuse(1, 'no');
SELECT streamsink.ignore(1);

-- ---------------------------------------------------------------------------
-- Refusing
-- ---------------------------------------------------------------------------
SELECT refuse_create('SELECT 1');
SELECT refuse_create('SELECT refuse(_seq, ''no schema'') FROM batch', 'fails');
-- before anything is written: one execution
SELECT * FROM refuse_try($$
	SELECT streamsink.refuse(_seq, format('%s is even', n), 'of ' || _id, '22023') FROM batch WHERE n % 2 = 0;
	INSERT INTO refuse_first SELECT n, nextval('refuse_runs') FROM batch$$);
SELECT entry_id, stage, sqlstate, error, detail, fields FROM streamsink.dead_letters WHERE pipeline = 'refuse' ORDER BY id;
-- all of them: nothing is left to be run
SELECT * FROM refuse_try($$SELECT streamsink.refuse(_seq, 'none') FROM batch; INSERT INTO refuse_first SELECT 0, nextval('refuse_runs') FROM (SELECT count(*) FROM batch) AS s$$);
-- in the statement that writes
SELECT * FROM refuse_try($$
	INSERT INTO refuse_first SELECT n, nextval('refuse_runs') FROM batch WHERE n % 2 <> 0 OR streamsink.refuse(_seq, 'even')$$);
-- after something was written: nothing of it stays, and two executions do for many
SELECT * FROM refuse_try($$
	INSERT INTO refuse_first SELECT n FROM batch;
	INSERT INTO refuse_second SELECT n FROM batch WHERE n > 4 OR streamsink.refuse(_seq, 'small');
	SELECT nextval('refuse_runs')$$);
SELECT * FROM refuse_try($$
	INSERT INTO refuse_first SELECT n FROM batch;
	SELECT streamsink.refuse(_seq, 'even') FROM batch WHERE n % 2 = 0;
	INSERT INTO refuse_second SELECT n FROM batch;
	SELECT streamsink.refuse(_seq, 'five') FROM batch WHERE n % 5 = 0;
	SELECT nextval('refuse_runs')$$);
SELECT replace(outcomes, 'wr', '') = '' AS every_second, runs FROM refuse_try($$
	INSERT INTO refuse_first SELECT n FROM batch;
	SELECT nextval('refuse_runs');
	SELECT streamsink.refuse(_seq, 'even') FROM batch WHERE n % 2 = 0$$, 1000);
SELECT count(*), bool_and(n % 2 = 1) FROM refuse_first;
-- one entry, several rows, one of them refused
SELECT * FROM refuse_try($$
	INSERT INTO refuse_first SELECT n FROM batch, generate_series(1, n) AS i WHERE i <> 4 OR streamsink.refuse(_seq, 'four')$$);
-- a relation that it has gone into already is made again; nothing was written by then
SELECT * FROM refuse_try($$
	SELECT count(*)::int AS n INTO counted FROM batch;
	SELECT nextval('refuse_runs');
	SELECT streamsink.refuse(_seq, 'even') FROM batch WHERE n % 2 = 0;
	INSERT INTO refuse_first SELECT n FROM counted;
	INSERT INTO refuse_second SELECT nextval('refuse_runs')$$);
-- a notification, or what a function of the user's may have done, counts as written
CREATE FUNCTION refuse_effect() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN nextval(''refuse_runs''); END';
SELECT s, runs FROM unnest('{nextval(''refuse_runs''),refuse_effect(),"pg_notify(''refuse'', nextval(''refuse_runs'')::text)"}'::text[]) AS s,
	LATERAL refuse_try(format('SELECT %s FROM batch; SELECT streamsink.refuse(_seq, ''even'') FROM batch WHERE n %% 2 = 0', s));
-- neither an entry nor a message for Redis is left of it
BEGIN;
SELECT outcomes FROM refuse_try($$
	SELECT streamsink.emit('out:' || n, '{"a": "b"}'), streamsink.publish('channel:' || n, 'm') FROM batch;
	SELECT streamsink.refuse(_seq, 'even') FROM batch WHERE n % 2 = 0$$);
SELECT kind, name, pipeline FROM streamsink.outbox ORDER BY id;
ROLLBACK;
-- from a function, a procedure, a trigger (also a deferred one), a RETURNING list
CREATE FUNCTION refuse_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.a = tg_name THEN
		PERFORM streamsink.refuse(new.n - 1, tg_name || ' says no');
	END IF;
	RETURN new;
END $$;
CREATE TRIGGER at_once BEFORE INSERT ON refuse_second FOR EACH ROW EXECUTE FUNCTION refuse_trigger();
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON refuse_second DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_trigger();
CREATE PROCEDURE refuse_procedure() LANGUAGE plpgsql AS 'BEGIN PERFORM streamsink.refuse(0, ''the procedure says no''); END';
SELECT * FROM refuse_try($$
	INSERT INTO refuse_second SELECT n, CASE n WHEN 3 THEN 'at_once' WHEN 4 THEN 'later' END FROM batch;
	CALL refuse_procedure();
	INSERT INTO refuse_first SELECT n FROM batch RETURNING n = 5 AND streamsink.refuse(n - 1, 'returned')$$);
SELECT entry_id, error FROM streamsink.dead_letters WHERE pipeline = 'refuse' ORDER BY id;
DROP TRIGGER at_once ON refuse_second;
DROP TRIGGER later ON refuse_second;
-- twice: the first message counts; nulls
SELECT * FROM refuse_try($$
	SELECT streamsink.refuse(_seq, 'first', errcode => 'UX001'), streamsink.refuse(_seq, 'second') FROM batch WHERE n = 1;
	SELECT streamsink.refuse(_seq, NULL, NULL, NULL) FROM batch WHERE n = 2$$);
SELECT entry_id, sqlstate, error, detail FROM streamsink.dead_letters WHERE pipeline = 'refuse' ORDER BY id;
-- what a pass fails for may be the fault of an entry that is refused in it
SELECT * FROM refuse_try($$
	INSERT INTO refuse_first SELECT n FROM batch;
	SELECT streamsink.refuse(_seq, 'one') FROM batch WHERE n = 1;
	INSERT INTO refuse_second SELECT 12 / (n - 1) FROM refuse_first;
	SELECT nextval('refuse_runs')$$);
SELECT entry_id, stage, sqlstate, error FROM streamsink.dead_letters WHERE pipeline = 'refuse' ORDER BY id;
-- ... or somebody else's
CREATE TABLE refuse_unique (n int PRIMARY KEY, CHECK (n <> 3));
SELECT * FROM refuse_try($$
	INSERT INTO refuse_first SELECT n FROM batch WHERE n <> 1 OR streamsink.refuse(_seq, 'one');
	INSERT INTO refuse_unique SELECT n FROM refuse_first$$);
SELECT entry_id, stage, sqlstate, error FROM streamsink.dead_letters WHERE pipeline = 'refuse' ORDER BY id;
SELECT * FROM refuse_unique;
-- wrong calls are the transform's fault: raised.  A wrong code refuses what would have been refused
CREATE FUNCTION refuse_fails(transform text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
	RETURN (SELECT outcomes FROM refuse_try(transform));
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' / ', sqlstate, sqlerrm, hint);
END $$;
SELECT refuse_fails(s) FROM unnest(ARRAY['SELECT streamsink.refuse(NULL, ''x'')', 'SELECT streamsink.refuse(6, ''x'')', 'SELECT streamsink.ignore(-1)',
	'SELECT streamsink.ignore(2147483647)']) AS s;
CREATE FUNCTION refuse_code(code text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM refuse_try(format('SELECT streamsink.refuse(_seq, ''as asked'', errcode => %L) FROM batch WHERE n = 1', code));
	RETURN (SELECT string_agg(concat_ws(' ', entry_id, stage, sqlstate, error), '; ') FROM streamsink.dead_letters WHERE pipeline = 'refuse');
END $$;
SELECT c, refuse_code(c) FROM unnest('{00000,01000,02000,40001,42P01,53100,XX000,22P0,22P012,22p01,22012,23505,44000,54000,P0001,P0002,UX001,I0000}'::text[]) AS c;

-- ---------------------------------------------------------------------------
-- Ignoring
-- ---------------------------------------------------------------------------
SELECT * FROM refuse_try($$
	SELECT streamsink.ignore(_seq, 'odd') FROM batch WHERE n % 2 = 1;
	INSERT INTO refuse_first SELECT n FROM batch;
	INSERT INTO refuse_second SELECT n FROM batch WHERE n < 5 OR streamsink.ignore(_seq);
	SELECT nextval('refuse_runs')$$);
SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'refuse';
-- also when nothing else is left: relations that were made before keep what is ignored
SELECT * FROM refuse_try($$
	SELECT n, a INTO op FROM batch;
	SELECT streamsink.ignore(_seq) FROM batch;
	INSERT INTO refuse_first SELECT n, a FROM op $$);
-- refused and ignored: refused counts, whichever came first; what is ignored is so in the second execution too
SELECT * FROM refuse_try($$
	SELECT streamsink.ignore(_seq), streamsink.refuse(_seq, 'x') FROM batch WHERE n = 1;
	SELECT streamsink.refuse(_seq, 'x'), streamsink.ignore(_seq) FROM batch WHERE n = 2;
	SELECT streamsink.ignore(_seq) FROM batch WHERE n = 3;
	INSERT INTO refuse_first SELECT n FROM batch WHERE n <> 4 OR streamsink.refuse(_seq, 'x') OR streamsink.ignore(_seq)$$);
-- all of them
SELECT * FROM refuse_try($$SELECT streamsink.ignore(_seq) FROM batch; INSERT INTO refuse_first VALUES (0)$$);
-- beside entries that are at fault
SELECT * FROM refuse_try($$
	SELECT streamsink.ignore(_seq) FROM batch WHERE n = 2;
	INSERT INTO refuse_first SELECT n FROM batch WHERE n <> 3 OR streamsink.refuse(_seq, 'x');
	INSERT INTO refuse_second SELECT 10 / (n - 5) FROM batch$$);
SELECT entry_id, stage, sqlstate, error FROM streamsink.dead_letters WHERE pipeline = 'refuse' ORDER BY id;
-- a dead letter that is ignored when it is tried again is dealt with
SELECT streamsink.alter_pipeline('refuse', transform => 'SELECT streamsink.ignore(_seq) FROM batch WHERE n = 3; SELECT streamsink.refuse(_seq, ''again'') FROM batch', connect => false);
SELECT streamsink.retry_dead_letters('refuse');
SELECT entry_id, stage, sqlstate, error, attempts FROM streamsink.dead_letters WHERE pipeline = 'refuse' ORDER BY id;

-- ---------------------------------------------------------------------------
-- RAISE in a function or trigger refuses just the entry at fault
-- ---------------------------------------------------------------------------
CREATE FUNCTION refuse_raise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.n % 100 = 0 THEN
		RAISE EXCEPTION 'no hundreds: %', new.n USING DETAIL = 'A trigger says so.';
	END IF;
	RETURN new;
END $$;
CREATE TRIGGER refuse_raise BEFORE INSERT ON refuse_second FOR EACH ROW EXECUTE FUNCTION refuse_raise();
SELECT replace(outcomes, repeat('w', 99), '-') AS outcomes, length(first) = length(second) AS same FROM refuse_try('INSERT INTO refuse_first SELECT n FROM batch; INSERT INTO refuse_second SELECT n FROM batch', 1000);
SELECT entry_id, stage, sqlstate, error, detail FROM streamsink.dead_letters WHERE pipeline = 'refuse' ORDER BY id LIMIT 3;
SELECT count(*) FROM refuse_first JOIN refuse_second USING (n);

-- in one batch with a pipeline inside: each has its own verdicts
SELECT refuse_create('SELECT streamsink.refuse(_seq, ''inner'') FROM batch WHERE n = 2', 'inner');
SELECT * FROM refuse_try($$
	SELECT streamsink.apply('inner', '[{"n": 1}, {"n": 2}]');
	SELECT streamsink.refuse(_seq, 'outer') FROM batch WHERE n = 4$$);
SELECT pipeline, entry_id::text = '1-4' AS fourth, error FROM streamsink.dead_letters ORDER BY 1;
-- one without a transform has none: what its triggers say is not about the entries outside
CREATE TABLE refuse_plain (n int);
CREATE FUNCTION refuse_first_one() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM streamsink.refuse(1, ''of another batch''); RETURN new; END';
CREATE TRIGGER refuse_first_one BEFORE INSERT ON refuse_plain FOR EACH ROW EXECUTE FUNCTION refuse_first_one();
SELECT streamsink.create_pipeline('plain', 'refuse_server', 'refuse:plain', 'refuse_plain', connect => false);
SELECT refuse_fails($$SELECT streamsink.apply('plain', '[{"n": 1}]')$$);
-- afterwards there is no batch
SELECT streamsink.refuse(1, 'no');

SELECT count(*) FROM (SELECT streamsink.drop_pipeline(name) FROM streamsink.pipelines OFFSET 0) AS d;
