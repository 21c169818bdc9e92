-- Dead letters: what is kept, what can be done with them.

SET client_min_messages = warning;
SET TimeZone = 'UTC';
SET search_path = public, streamsink;		-- operators of entry_id live in streamsink
SET DateStyle = 'ISO, MDY';
CREATE SERVER dead_letters_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost', port '1');
CREATE FUNCTION dead_letters_fails(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
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
-- The ids of the dead letters of these entries.
CREATE FUNCTION dead_letters_ids(VARIADIC entries text[]) RETURNS bigint[] LANGUAGE sql AS $$
	SELECT array_agg(id ORDER BY id) FROM streamsink.dead_letters WHERE entry_id::text = ANY (entries)
$$;

CREATE TABLE dead_letters_target (device text, n int CHECK (n < 100), a text, UNIQUE (device, n));
SELECT streamsink.create_pipeline('dead', 'dead_letters_server', 'dead:{device}', 'dead_letters_target',
	payload => 'doc', columns => '{"a": "A"}', connect => false);
SELECT id, outcome, sqlstate FROM streamsink.apply('dead', $$[
	{"_id": "1712345678901-0", "n": 1, "A": "good"},
	{"_id": "1712345678901-1", "n": "x", "A": "decode"},
	{"_id": "1712345678901-2", "n": 100, "A": "write", "more": "kept, too", "doc": "{\"n\": 5}"},
	{"_id": "1712345678901-3", "n": 1, "A": "duplicate"},
	{"_id": "1712345678901-4", "doc": "no JSON"},
	{"_id": "1712345678901-5", "n": "\u00e4", "A": "\ud83d\ude00"}]$$, 'dead:d1');
SELECT id, outcome FROM streamsink.apply('dead', '[{"_id": "1712345678902-0", "n": 200}]', 'dead:d2');

-- ---------------------------------------------------------------------------
-- The view
-- ---------------------------------------------------------------------------
SELECT column_name, data_type, c.is_updatable, is_trigger_updatable, is_trigger_deletable, is_trigger_insertable_into
FROM information_schema.columns c JOIN information_schema.views v USING (table_schema, table_name)
WHERE table_schema = 'streamsink' AND table_name = 'dead_letters' ORDER BY c.ordinal_position;
SELECT pipeline, stream, entry_id, entry_time, fields, edited, attempts, truncated, first_failed_at = failed_at AS once,
	failed_at BETWEEN now() - interval '1 min' AND clock_timestamp() AS just_now
FROM streamsink.dead_letters ORDER BY id;
SELECT stage, sqlstate, error, detail, table_name, column_name, constraint_name FROM streamsink.dead_letters ORDER BY id;
SELECT entry_id, ARRAY(SELECT convert_from(b, 'UTF8') FROM unnest(raw) AS b) AS raw FROM streamsink.dead_letters ORDER BY id;
-- what text cannot represent is in raw only
SELECT streamsink.raw_fields(r::bytea[]) FROM unnest(ARRAY[
	'{}', '{"\\x61","\\x62"}', '{"\\x61","\\x","\\x61","\\x62"}', '{"\\x61","\\x00"}', '{"\\xff","\\x61"}', '{"\\xc3a4","\\xf09f9880"}']) AS r;
SELECT * FROM dead_letters_fails($$SELECT streamsink.raw_fields('{"\\x61"}')$$);
SELECT * FROM dead_letters_fails($$SELECT streamsink.raw_fields('{"\\x61",NULL}')$$);
SELECT pipeline, stage, sqlstate, column_name, constraint_name, count, first_failed_at <= failed_at AS times, sample_error,
	sample_id = (SELECT max(id) FROM streamsink.dead_letters d WHERE (d.stage, d.sqlstate, d.column_name, d.constraint_name)
		IS NOT DISTINCT FROM (s.stage, s.sqlstate, s.column_name, s.constraint_name)) AS newest
FROM streamsink.dead_letter_summary s ORDER BY stage, sqlstate, column_name;
SELECT dead_letters FROM streamsink.status WHERE pipeline = 'dead';

-- ---------------------------------------------------------------------------
-- Retry as they are: all fail again, and the history says so
-- ---------------------------------------------------------------------------
SELECT streamsink.retry_dead_letters('dead');
SELECT DISTINCT attempts, first_failed_at < failed_at AS again, edited FROM streamsink.dead_letters;
SELECT entry_id, attempt, a.stage, a.sqlstate, a.error, a.failed_at = CASE attempt WHEN 1 THEN d.first_failed_at ELSE d.failed_at END AS time
FROM streamsink.dead_letter_attempts a JOIN streamsink.dead_letters d ON d.id = a.dead_letter AND d.pipeline = a.pipeline
WHERE entry_id IN ('1712345678901-1', '1712345678901-2') ORDER BY d.id, attempt;
-- another reason than the first
ALTER TABLE dead_letters_target DROP CONSTRAINT dead_letters_target_n_check;
ALTER TABLE dead_letters_target ALTER COLUMN n TYPE text;
ALTER TABLE dead_letters_target ADD CONSTRAINT dead_letters_short CHECK (length(n) < 2 AND n <> 'x');
SELECT streamsink.retry_dead_letters('dead', dead_letters_ids('1712345678901-1'));
SELECT attempt, stage, sqlstate, error FROM streamsink.dead_letter_attempts WHERE dead_letter = ANY (dead_letters_ids('1712345678901-1')) ORDER BY attempt;
SELECT stage, column_name, constraint_name, detail FROM streamsink.dead_letters WHERE entry_id = '1712345678901-1';
-- the table was mended: this one is written now, as it came
SELECT streamsink.retry_dead_letters('dead', dead_letters_ids('1712345678901-5'));
SELECT * FROM dead_letters_target ORDER BY a COLLATE "C";
SELECT count(*) FROM streamsink.dead_letter_attempt a WHERE NOT EXISTS (SELECT FROM streamsink.dead_letter d WHERE d.id = a.dead_letter);

-- ---------------------------------------------------------------------------
-- Edit
-- ---------------------------------------------------------------------------
UPDATE streamsink.dead_letters SET fields = fields || '{"n": "7"}' WHERE entry_id = '1712345678901-1';
-- numbers, booleans, nulls and objects become the text that a field has
UPDATE streamsink.dead_letters SET fields = '{"n": 8, "A": {"k": [true, null]}, "more": null}' WHERE entry_id = '1712345678901-2';
SELECT entry_id, fields, edited, ARRAY(SELECT convert_from(b, 'UTF8') FROM unnest(raw) AS b) AS raw
FROM streamsink.dead_letters WHERE entry_id IN ('1712345678901-1', '1712345678901-2') ORDER BY id;
SELECT streamsink.retry_dead_letters('dead', dead_letters_ids('1712345678901-1', '1712345678901-2', '1712345678901-3'));
SELECT * FROM dead_letters_target ORDER BY a COLLATE "C";
SELECT entry_id, attempts, constraint_name FROM streamsink.dead_letters ORDER BY id;
-- edited, still wrong, then taken back
UPDATE streamsink.dead_letters SET fields = '{"n": "too long"}' WHERE entry_id = '1712345678901-4';
SELECT streamsink.retry_dead_letters('dead', dead_letters_ids('1712345678901-4'));
SELECT fields, edited, attempts, sqlstate, constraint_name FROM streamsink.dead_letters WHERE entry_id = '1712345678901-4';
UPDATE streamsink.dead_letters SET fields = NULL WHERE entry_id = '1712345678901-4';
SELECT fields, edited FROM streamsink.dead_letters WHERE entry_id = '1712345678901-4';
-- an update that changes nothing does not edit
UPDATE streamsink.dead_letters SET fields = fields, error = error WHERE entry_id = '1712345678901-4';
SELECT edited FROM streamsink.dead_letters WHERE entry_id = '1712345678901-4';
-- what cannot be set
SELECT * FROM dead_letters_fails($$UPDATE streamsink.dead_letters SET fields = '[1]'$$);
SELECT * FROM dead_letters_fails($$UPDATE streamsink.dead_letters SET fields = '1'$$);
SELECT * FROM dead_letters_fails($$UPDATE streamsink.dead_letters SET error = ''$$);
SELECT * FROM dead_letters_fails($$UPDATE streamsink.dead_letters SET raw = '{}', fields = '{}'$$);
SELECT * FROM dead_letters_fails($$UPDATE streamsink.dead_letters SET id = id + 1$$);
SELECT * FROM dead_letters_fails($$INSERT INTO streamsink.dead_letters (id) VALUES (1)$$);
SELECT * FROM dead_letters_fails($$UPDATE streamsink.dead_letter_attempts SET error = ''$$);

-- ---------------------------------------------------------------------------
-- Retry: what it returns, and what happens around it
-- ---------------------------------------------------------------------------
-- ids that are given twice, are gone, or another pipeline's
SELECT streamsink.create_pipeline('dead2', 'dead_letters_server', 'dead2', 'dead_letters_target', connect => false);
SELECT outcome FROM streamsink.apply('dead2', '[{"_id": "5-1", "n": "xx"}, {"_id": "5-2", "n": "yy"}, {"_id": "5-3", "n": "zz"}]');
ALTER TABLE dead_letters_target DROP CONSTRAINT dead_letters_short;
SELECT streamsink.retry_dead_letters('dead2', '{}');
SELECT streamsink.retry_dead_letters('dead2', '{-1,0}');
SELECT streamsink.retry_dead_letters('dead2', dead_letters_ids('1712345678901-4'));
SELECT streamsink.retry_dead_letters('dead2', dead_letters_ids('5-1') || dead_letters_ids('5-1') || 999999999);
SELECT streamsink.retry_dead_letters('dead2', NULL) IS NULL AS strict;
SELECT * FROM dead_letters_fails($$SELECT streamsink.retry_dead_letters('dead2', '{1,NULL}')$$);
SELECT * FROM dead_letters_fails($$SELECT streamsink.retry_dead_letters('nowhere')$$);
SELECT * FROM dead_letters_fails($$SELECT streamsink.retry_dead_letters(NULL)$$);
-- a rollback brings them back, with what was noted
BEGIN;
SELECT streamsink.retry_dead_letters('dead2');
SELECT count(*) FROM dead_letters_target WHERE n IN ('yy', 'zz');
ROLLBACK;
SELECT count(*) FROM dead_letters_target WHERE n IN ('yy', 'zz');
SELECT entry_id, attempts FROM streamsink.dead_letters WHERE pipeline = 'dead2' ORDER BY id;
-- set-up errors are raised, and cost no attempt
ALTER TABLE dead_letters_target RENAME TO dead_letters_away;
SELECT * FROM dead_letters_fails($$SELECT streamsink.retry_dead_letters('dead2')$$);
ALTER TABLE dead_letters_away RENAME TO dead_letters_target;
SELECT entry_id, attempts FROM streamsink.dead_letters WHERE pipeline = 'dead2' ORDER BY id;
-- more of them than a batch takes, in order
SELECT streamsink.alter_pipeline('dead2', batch_size => 2, connect => false);
ALTER TABLE dead_letters_target ADD COLUMN place serial, ADD CONSTRAINT dead_letters_low CHECK (n NOT LIKE 'q%');
SELECT count(*) FROM streamsink.apply('dead2', (SELECT jsonb_agg(jsonb_build_object('_id', '6-' || i, 'n', 'q' || i)) FROM generate_series(1, 7) AS i)) WHERE outcome = 'refused';
ALTER TABLE dead_letters_target DROP CONSTRAINT dead_letters_low, ADD CONSTRAINT dead_letters_low CHECK (n <> 'q4');
SELECT streamsink.retry_dead_letters('dead2');
SELECT string_agg(n, ' ' ORDER BY place) FROM dead_letters_target WHERE n ~ '^[qyz]';
SELECT entry_id, attempts FROM streamsink.dead_letters WHERE pipeline = 'dead2' ORDER BY id;
-- a stream that the template does not match any more: placeholders cannot be filled
SELECT streamsink.alter_pipeline('dead', stream => 'other:{device}', connect => false);
SET client_min_messages = error;	-- a WARNING names the id
SELECT streamsink.retry_dead_letters('dead', dead_letters_ids('1712345678902-0'));
SELECT streamsink.alter_pipeline('dead', stream => 'dead:{device}', connect => false);
SELECT streamsink.retry_dead_letters('dead', dead_letters_ids('1712345678902-0'));
SELECT device, n FROM dead_letters_target WHERE device = 'd2';
-- too large to be kept whole: to be edited first
UPDATE streamsink.dead_letter SET truncated = true WHERE entry_id = '6-4';
SELECT streamsink.retry_dead_letters('dead2');
BEGIN;
SELECT streamsink.requeue_dead_letters('dead2');
ROLLBACK;
UPDATE streamsink.dead_letters SET fields = '{"n": "mended"}' WHERE entry_id = '6-4';
SELECT streamsink.retry_dead_letters('dead2');
SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'dead2';
-- upserts: the last one of a key counts, the other is gone, too
CREATE TABLE dead_letters_upsert (k int PRIMARY KEY, v int CHECK (v < 10));
SELECT streamsink.create_pipeline('dead3', 'dead_letters_server', 'dead3', 'dead_letters_upsert', on_conflict => 'update', connect => false);
SELECT outcome FROM streamsink.apply('dead3', '[{"_id": "7-1", "k": 1, "v": 11}, {"_id": "7-2", "k": 1, "v": 12}, {"_id": "7-3", "k": 1, "v": 13}]');
ALTER TABLE dead_letters_upsert DROP CONSTRAINT dead_letters_upsert_v_check;
SELECT streamsink.retry_dead_letters('dead3');
SELECT * FROM dead_letters_upsert;

-- ---------------------------------------------------------------------------
-- Requeue: as far as the outbox
-- ---------------------------------------------------------------------------
SELECT outcome FROM streamsink.apply('dead3', '[{"_id": "8-1", "k": "x"}, {"_id": "8-2", "k": "y", "v": "\u00e4"}, {"_id": "8-3", "k": "z"}]');
UPDATE streamsink.dead_letters SET fields = '{"k": 5}' WHERE entry_id = '8-3';
BEGIN;
SELECT streamsink.requeue_dead_letters('dead3', dead_letters_ids('8-2'));
SELECT streamsink.requeue_dead_letters('dead3');
SELECT server, kind, name, pipeline, attempts, last_error FROM streamsink.outbox ORDER BY id;
SELECT ARRAY(SELECT convert_from(b, 'UTF8') FROM unnest(args) AS b) AS args FROM streamsink.outbox_queue ORDER BY id;
SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'dead3';
ROLLBACK;
SELECT count(*) FROM streamsink.outbox;
SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'dead3';
-- an entry must have a field
UPDATE streamsink.dead_letters SET fields = '{"k": null}' WHERE entry_id = '8-1';
BEGIN;
SELECT streamsink.requeue_dead_letters('dead3', dead_letters_ids('8-1'));
ROLLBACK;

-- ---------------------------------------------------------------------------
-- Discard
-- ---------------------------------------------------------------------------
SELECT streamsink.discard_dead_letters('dead3', dead_letters_ids('8-1', '1712345678901-4') || '{0}');
SELECT entry_id FROM streamsink.dead_letters WHERE pipeline = 'dead3' ORDER BY id;
SELECT streamsink.discard_dead_letters_before('dead3', '-infinity');
SELECT streamsink.discard_dead_letters_before('dead3', (SELECT failed_at FROM streamsink.dead_letters WHERE entry_id = '8-2'));
SELECT * FROM dead_letters_fails($$SELECT streamsink.discard_dead_letters_before('dead3', NULL)$$);
-- it is the last failure that counts
SELECT streamsink.retry_dead_letters('dead3', dead_letters_ids('8-2'));
SELECT streamsink.discard_dead_letters_before('dead3', (SELECT failed_at FROM streamsink.dead_letters WHERE entry_id = '8-2'));
SELECT entry_id FROM streamsink.dead_letters WHERE pipeline = 'dead3' ORDER BY id;
SELECT streamsink.discard_dead_letters_before('dead3', 'infinity');
SELECT streamsink.discard_dead_letters('dead3');
-- through the view
DELETE FROM streamsink.dead_letters WHERE entry_id = '1712345678901-3';
WITH d AS (DELETE FROM streamsink.dead_letters WHERE pipeline = 'dead' RETURNING entry_id) SELECT count(*) FROM d;
SELECT streamsink.discard_dead_letters('dead');
SELECT (SELECT count(*) FROM streamsink.dead_letter), (SELECT count(*) FROM streamsink.dead_letter_attempt);
-- with the pipeline, its dead letters go
SELECT outcome FROM streamsink.apply('dead3', '[{"k": "x"}]');
SELECT streamsink.drop_pipeline('dead'), streamsink.drop_pipeline('dead2'), streamsink.drop_pipeline('dead3');
SELECT (SELECT count(*) FROM streamsink.dead_letter), (SELECT count(*) FROM streamsink.dead_letter_attempt);
DROP SERVER dead_letters_server CASCADE;
