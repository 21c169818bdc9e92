-- Dead letters: limits, copies as far as the outbox, and more of them than are
-- read at a time.  Without Redis; test/t/120_dead_letters.pl is with one.

SET client_min_messages = warning;
SET TimeZone = 'Europe/Vienna';
SET search_path = public, streamsink;
CREATE SERVER limits_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost', port '1');
CREATE TABLE limits_target (device text, n int, a text);
CREATE FUNCTION limits_fails(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
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

CREATE FUNCTION limits_plan(statement text) RETURNS SETOF text LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
	RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || statement;
END $$;

-- ---------------------------------------------------------------------------
-- The arguments
-- ---------------------------------------------------------------------------
SELECT streamsink.create_pipeline('limits', 'limits_server', 'limits:{device}', 'limits_target', dead_letter_stream => 'limits:dead',
	dead_letter_retention => '30 days', max_dead_letters => 100000, connect => false);
SELECT dead_letter_stream, dead_letter_retention, max_dead_letters FROM streamsink.pipelines WHERE name = 'limits';
SELECT streamsink.pipeline_def('limits');
SELECT * FROM limits_fails($$SELECT streamsink.alter_pipeline('limits', max_dead_letters => 0)$$);
SELECT * FROM limits_fails($$SELECT streamsink.alter_pipeline('limits', dead_letter_retention => '999 ms')$$);
SELECT * FROM limits_fails($$SELECT streamsink.alter_pipeline('limits', dead_letter_retention => '1 month')$$);
SELECT * FROM limits_fails($$SELECT streamsink.alter_pipeline('limits', dead_letter_stream => '')$$);
SELECT streamsink.alter_pipeline('limits', reset => '{dead_letter_retention, max_dead_letters}');
SELECT dead_letter_stream, dead_letter_retention, max_dead_letters FROM streamsink.pipelines WHERE name = 'limits';
-- never its own dead letters: a pattern passes them by, a key is refused
SELECT * FROM limits_fails($$SELECT streamsink.apply('limits', '[{"n": 1}]', 'limits:dead')$$);
SELECT * FROM limits_fails($$SELECT streamsink.create_pipeline('own', 'limits_server', 'own', 'limits_target', dead_letter_stream => 'own', connect => false)$$);
SELECT streamsink.create_pipeline('own', 'limits_server', 'own', 'limits_target', connect => false);
SELECT * FROM limits_fails($$SELECT streamsink.alter_pipeline('own', dead_letter_stream => 'own')$$);
SELECT streamsink.alter_pipeline('own', dead_letter_stream => 'other');
SELECT * FROM limits_fails($$SELECT streamsink.alter_pipeline('own', stream => 'other', connect => false)$$);
SELECT * FROM limits_fails($$SELECT streamsink.alter_pipeline('own', stream => '\other', connect => false)$$);
SELECT streamsink.drop_pipeline('own');

-- ---------------------------------------------------------------------------
-- Copies: commands of the outbox
-- ---------------------------------------------------------------------------
CREATE FUNCTION limits_copies(OUT stream text, OUT copy jsonb) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT q.name, (SELECT jsonb_object_agg(convert_from(args[i], 'UTF8'), convert_from(args[i + 1], 'UTF8'))
		FROM generate_series(2, cardinality(args), 2) AS i)
	FROM streamsink.outbox_queue q WHERE kind = 'xadd' AND pipeline = 'limits' ORDER BY id
$$;
BEGIN;
SELECT id, outcome FROM streamsink.apply('limits', $$[
	{"_id": "1712345678901-0", "n": "1"},
	{"_id": "1712345678901-1", "n": "x", "a": "a \"quote\" \\ and \u0001, \u00e4 \ud83d\ude00"},
	{"_id": "1712345678901-2", "n": "12345678901234567890.12345678901234567890"}]$$, 'limits:d1');
SELECT stream, convert_from(args[1], 'UTF8') AS id, role = current_user AS mine FROM limits_copies(), streamsink.outbox_queue LIMIT 1;
SELECT copy - 'dead_letter' - 'failed_at' AS copy, (copy ->> 'dead_letter')::bigint = d.id AS number,
	(copy ->> 'failed_at')::timestamptz = d.failed_at AS time, copy ->> 'failed_at' ~ '^\d{4}-\d\d-\d\dT[\d:.]+\+00:00$' AS utc
FROM limits_copies() JOIN streamsink.dead_letters d ON d.entry_id::text = copy ->> 'id' ORDER BY d.id;
SELECT (copy ->> 'fields')::jsonb = d.fields AS same, (copy ->> 'fields')::json ->> 'n' AS n
FROM limits_copies() JOIN streamsink.dead_letters d ON d.entry_id::text = copy ->> 'id' ORDER BY d.id;
ROLLBACK;
SELECT count(*) FROM streamsink.outbox_queue;
-- a large entry is not copied, and it is said so
BEGIN;
SELECT id, outcome FROM streamsink.apply('limits', jsonb_build_array(
	jsonb_build_object('_id', '1-1', 'n', 'x', 'a', repeat('a', 1024 * 1024 - 35)),
	jsonb_build_object('_id', '1-2', 'n', 'x', 'a', repeat('a', 1024 * 1024 - 34)),
	jsonb_build_object('_id', '1-3', 'n', 'x') || (SELECT jsonb_object_agg('f' || i, '') FROM generate_series(1, 66000) AS i)), 'limits:d1');
SELECT copy ->> 'id' AS id, length(copy ->> 'fields'), copy -> 'raw' AS raw, copy ->> 'omitted' AS omitted FROM limits_copies();
ROLLBACK;
-- one that is tried again is not copied again
BEGIN;
SELECT id, outcome FROM streamsink.apply('limits', '[{"_id": "1-1", "n": "x"}]', 'limits:d1');
SELECT streamsink.retry_dead_letters('limits');
SELECT count(*) FROM limits_copies();
SELECT attempts FROM streamsink.dead_letters;
ROLLBACK;

-- ---------------------------------------------------------------------------
-- More than are read at a time
-- ---------------------------------------------------------------------------
SELECT streamsink.alter_pipeline('limits', reset => '{dead_letter_stream}', batch_size => 300);
SELECT count(*) FROM streamsink.apply('limits', (SELECT jsonb_agg(jsonb_build_object('_id', '2-' || i, 'n', 'x' || i)) FROM generate_series(1, 2300) AS i), 'limits:d1')
	WHERE outcome = 'refused';
SELECT streamsink.retry_dead_letters('limits');
SELECT count(*), min(attempts), max(attempts) FROM streamsink.dead_letters;
-- pages
SELECT string_agg(entry_id::text, ' ' ORDER BY id) FROM streamsink.dead_letters WHERE id = ANY (streamsink.dead_letter_ids('limits', n => 3));
SELECT string_agg(entry_id::text, ' ' ORDER BY id) FROM streamsink.dead_letters
WHERE id = ANY (streamsink.dead_letter_ids('limits', after => (streamsink.dead_letter_ids('limits', n => 2297))[2297], n => 1000));
SELECT cardinality(streamsink.dead_letter_ids('limits')), streamsink.dead_letter_ids('limits', n => 0), streamsink.dead_letter_ids('limits', after => (SELECT max(id) FROM streamsink.dead_letters));
SELECT * FROM limits_fails($$SELECT streamsink.dead_letter_ids('limits', n => -1)$$);
SELECT * FROM limits_fails($$SELECT streamsink.dead_letter_ids('limits', n => 1000001)$$);
SELECT * FROM limits_fails($$SELECT streamsink.dead_letter_ids('nowhere')$$);
CREATE ROLE limits_stranger;
SELECT streamsink.grant_access('limits_stranger');
SET ROLE limits_stranger;
SELECT * FROM public.limits_fails($$SELECT streamsink.dead_letter_ids('limits')$$);
RESET ROLE;
DROP OWNED BY limits_stranger;
DROP ROLE limits_stranger;
SELECT bool_or(line LIKE '%Index Cond:%id = ANY%') AS by_index
FROM limits_plan($$SELECT * FROM streamsink.dead_letters WHERE id = ANY (streamsink.dead_letter_ids('limits', n => 3))$$) AS line;
BEGIN;
SELECT streamsink.requeue_dead_letters('limits');
SELECT count(*), count(DISTINCT args) FROM streamsink.outbox_queue;
SELECT count(*) FROM streamsink.dead_letters;
ROLLBACK;
BEGIN;
SELECT streamsink.discard_dead_letters('limits');
SELECT count(*) FROM streamsink.dead_letters;
ROLLBACK;
ALTER TABLE limits_target ALTER COLUMN n TYPE text, ADD COLUMN place serial, ADD CONSTRAINT limits_odd CHECK (n NOT LIKE '%00');
SELECT streamsink.retry_dead_letters('limits');
SELECT count(*), bool_and(number > before) AS ordered
FROM (SELECT substr(n, 2)::int AS number, lag(substr(n, 2)::int, 1, 0) OVER (ORDER BY place) AS before FROM limits_target) AS t;
SELECT string_agg(entry_id::text, ' ' ORDER BY id), min(attempts), max(attempts) FROM streamsink.dead_letters;
SELECT streamsink.discard_dead_letters_before('limits', 'infinity');
SELECT (SELECT count(*) FROM streamsink.dead_letter), (SELECT count(*) FROM streamsink.dead_letter_attempt);

SELECT streamsink.drop_pipeline('limits');
DROP TABLE limits_target;
DROP SERVER limits_server CASCADE;
DROP FUNCTION limits_copies(), limits_fails(text), limits_plan(text);
