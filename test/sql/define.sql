-- Definition of pipelines, without Redis: create, alter, drop, pipeline_def,
-- and every way in which a definition can be wrong.

SET client_min_messages = warning;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres';
SET search_path = "$user", public;

-- Run a statement that must fail; show SQLSTATE, message, detail and hint.
CREATE FUNCTION define_fails(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
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

-- create_pipeline of "bad" with a few arguments more, or in place of the usual ones.
CREATE FUNCTION define_refused(VARIADIC arguments text[]) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT f FROM (
		SELECT string_agg(format('%s => %s', n, v), ', ' ORDER BY n) AS list
		FROM (SELECT DISTINCT ON (n) n, v
			  FROM (SELECT split_part(a, '=', 1) AS n, substr(a, strpos(a, '=') + 1) AS v, 0 AS o
					FROM unnest(arguments) AS a
					UNION ALL
					VALUES ('name', '''bad''', 1), ('server', '''define_server''', 1), ('stream', '''s''', 1),
						   ('target', '''define_target''', 1), ('connect', 'false', 1)) AS u
			  ORDER BY n, o) AS d) AS l,
	LATERAL define_fails(format('SELECT streamsink.create_pipeline(%s)', list)) AS f
$$;

CREATE SERVER define_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost');
CREATE SERVER define_other FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost', port '6380');
CREATE FOREIGN DATA WRAPPER define_wrapper;
CREATE SERVER define_strange FOREIGN DATA WRAPPER define_wrapper;
CREATE TABLE define_target (id int PRIMARY KEY, device_id text, value float8, extra jsonb);
CREATE TABLE define_keyless (a int, b text);
CREATE UNLOGGED TABLE define_unlogged (a int);
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Odd ""Table" (id int, device_id text, value float8, extra jsonb, more text);

-- ---------------------------------------------------------------------------
-- A definition and its defaults
-- ---------------------------------------------------------------------------
SELECT streamsink.create_pipeline('plain', server => 'define_server', stream => 'readings:{device_id}',
	target => 'define_target', connect => false);
\x on
SELECT name, server, stream, target, row_type, transform, columns, payload, rest, on_conflict, key,
	consumer_group, start_from, workers, batch_size, batch_bytes, linger, on_error, max_retries,
	retry_backoff, retry_backoff_max, retry_growth, max_dead_letter_rate, dead_letter_stream,
	dead_letter_retention, max_dead_letters, trim_after, claim_idle, on_replaced_stream, on_lost_group, max_entry_bytes,
	ledger_retention, allow_inexact, create_target, evolve, settings,
	owner = current_user AS is_mine, incarnation, generation, enabled, enabled_system,
	enabled_database, failure, created_at = altered_at AS is_new,
	substr(identity::text, 15, 1) AS uuid_version
FROM streamsink.pipeline WHERE name = 'plain';
\x off
-- only what is no default
SELECT streamsink.pipeline_def('plain');
SELECT streamsink.pipeline_def('plain', new_name => 'copy of "plain"''s');
-- two identities differ
SELECT streamsink.create_pipeline('second', server => 'define_server', stream => 'readings:*',
	target => 'define_target', connect => false);
SELECT count(DISTINCT identity) AS identities, count(DISTINCT id) AS ids FROM streamsink.pipeline
WHERE name IN ('plain', 'second');

-- everything that can be set
SELECT streamsink.create_pipeline('full', server => 'define_server', stream => 'a\*b:{device_id}:{{x}}',
	target => '"Odd Schema"."Odd ""Table"', row_type => 'define_target', columns => '{"value": "Value", "id": "_seq"}'::jsonb - 'id',
	payload => 'pay''load', rest => 'extra', on_conflict => 'error', consumer_group => 'my group',
	start_from => '5-7', workers => 3, batch_size => 10, batch_bytes => 65536, linger => '90 ms',
	on_error => 'discard', retry_backoff => '2 s', retry_backoff_max => '1 hour', retry_growth => 'linear',
	max_entry_bytes => 1024, allow_inexact => true,
	settings => '{"work_mem": "64MB", "synchronous_commit": false, "timezone": "Asia/Tokyo", "lock_timeout": 1500}',
	connect => false);
SELECT streamsink.pipeline_def('full');
-- the same under another interval style, and its own output makes the same pipeline
SET IntervalStyle = 'iso_8601';
CREATE TEMP TABLE define_def AS SELECT streamsink.pipeline_def('full', 'again') AS def;
DO $$
BEGIN
	EXECUTE replace((SELECT def FROM define_def), ');', ', connect => false);');
END $$;
SELECT streamsink.pipeline_def('again') = def AS same FROM define_def;
RESET IntervalStyle;
SET IntervalStyle = 'postgres';

-- ---------------------------------------------------------------------------
-- Names
-- ---------------------------------------------------------------------------
SET client_min_messages = notice;
SELECT * FROM define_fails($$SELECT streamsink.create_pipeline('plain', 'define_server', 's', 'define_target', connect => false)$$);
SELECT streamsink.create_pipeline('plain', 'define_server', 's', 'define_target', connect => false, if_not_exists => true);
SELECT * FROM define_refused('name=NULL');
SELECT * FROM define_refused('name=''''');
SELECT * FROM define_refused('name=repeat(''x'', 256)');
SELECT streamsink.create_pipeline(repeat('x', 255), 'define_server', 's', 'define_target', connect => false);
SELECT streamsink.drop_pipeline(repeat('x', 255));
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('nowhere', workers => 2)$$);
SELECT * FROM define_fails($$SELECT streamsink.drop_pipeline('nowhere')$$);
SELECT streamsink.drop_pipeline('nowhere', if_exists => true);
SELECT * FROM define_fails($$SELECT streamsink.stop('nowhere')$$);
SELECT * FROM define_fails($$SELECT streamsink.pipeline_def('nowhere')$$);

-- ---------------------------------------------------------------------------
-- Where entries come from
-- ---------------------------------------------------------------------------
SELECT * FROM define_refused('server=NULL');
SELECT * FROM define_refused('server=''nowhere''');
SELECT * FROM define_refused('server=''define_strange''');
SELECT * FROM define_refused('stream=NULL');
SELECT * FROM define_refused('stream=''''');
SELECT * FROM define_refused('stream=''a{''');
SELECT * FROM define_refused('stream=''a}''');
SELECT * FROM define_refused('stream=''a:{}''');
SELECT * FROM define_refused('stream=''{a}{b}''');
SELECT * FROM define_refused('stream=''{a}:{a}''');
SELECT * FROM define_refused('stream=repeat(''s'', 2001)');
SELECT * FROM define_refused('consumer_group=''''');
SELECT * FROM define_refused('start_from=NULL');
SELECT * FROM define_refused('start_from=''$''');
SELECT * FROM define_refused('start_from=''yesterday or so''');
SELECT * FROM define_refused('start_from=''-5''');
SELECT * FROM define_refused('start_from=''infinity''');
-- positions: ids as they stand, of times the id before
CREATE FUNCTION define_position(start_from text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	stored text;
BEGIN
	PERFORM streamsink.create_pipeline('position', 'define_server', 's', 'define_target',
		start_from => start_from, connect => false);
	SELECT p.start_from INTO stored FROM streamsink.pipeline p WHERE name = 'position';
	PERFORM streamsink.drop_pipeline('position');
	RETURN stored;
END $$;
SELECT p, define_position(p) FROM unnest(ARRAY['0', '0-0', '0-1', '1712345678901', '1712345678901-3',
	'18446744073709551615-18446744073709551615', '2024-04-05 19:34:38.901+00', '1970-01-01 00:00:00+00',
	'1950-01-01 00:00:00+00', '-infinity']) AS p;

-- ---------------------------------------------------------------------------
-- Where rows go
-- ---------------------------------------------------------------------------
SELECT * FROM define_refused('target=NULL');
SELECT * FROM define_refused('target=''nowhere''');
SELECT * FROM define_refused('target=''a.b.c.d''');
SELECT * FROM define_refused('target=''not a "name''');
SELECT * FROM define_refused('target=''pg_class_oid_index''') LIMIT 1;
SELECT * FROM define_refused('row_type=''nowhere''');
SELECT split_part(f, ' ', 1) AS sqlstate FROM define_refused('target=''define_unlogged''') AS f LIMIT 1;
SELECT * FROM define_refused('columns=''[1]''');
SELECT * FROM define_refused('columns=''{"value": 1}''');
SELECT split_part(f, ' ', 1) AS sqlstate FROM define_refused('columns=''{"nowhere": "x"}''') AS f LIMIT 1;
SELECT * FROM define_refused('payload=''''');
SELECT split_part(f, ' ', 1) AS sqlstate FROM define_refused('rest=''nowhere''') AS f LIMIT 1;
SELECT * FROM define_refused('on_conflict=''ignore''');
SELECT * FROM define_refused('key=''id''');
SELECT * FROM define_refused('key=''id,,value''', 'on_conflict=''update''');
SELECT split_part(f, ' ', 1) AS sqlstate FROM define_refused('key=''nowhere''', 'on_conflict=''update''') AS f LIMIT 1;
SELECT split_part(f, ' ', 1) AS sqlstate FROM define_refused('key=''value''', 'on_conflict=''update''') AS f LIMIT 1;
SELECT split_part(f, ' ', 1) AS sqlstate FROM define_refused('target=''define_keyless''', 'on_conflict=''update''') AS f LIMIT 1;
-- stored under its qualified name, by the search_path of now
SET search_path = "Odd Schema", public;
SELECT streamsink.create_pipeline('odd', 'define_server', 's', '"Odd ""Table"', connect => false);
SET search_path = "$user", public;
SELECT target, settings ->> 'search_path' AS search_path FROM streamsink.pipeline WHERE name = 'odd';

-- ---------------------------------------------------------------------------
-- Numbers, intervals, words
-- ---------------------------------------------------------------------------
SELECT * FROM define_refused('workers=0');
SELECT * FROM define_refused('workers=65');
SELECT * FROM define_refused('workers=NULL');
SELECT * FROM define_refused('batch_size=0');
SELECT * FROM define_refused('batch_size=100001');
SELECT * FROM define_refused('batch_bytes=65535');
SELECT * FROM define_refused('batch_bytes=1073741825');
SELECT * FROM define_refused('max_entry_bytes=1023');
SELECT * FROM define_refused('max_entry_bytes=536870913');
SELECT * FROM define_refused('linger=''-1 ms''');
SELECT * FROM define_refused('linger=''61 s''');
SELECT * FROM define_refused('linger=''1 month''');
SELECT * FROM define_refused('retry_backoff=''-1 s''');
SELECT * FROM define_refused('retry_backoff_max=''2 days''');
SELECT * FROM define_refused('ledger_retention=''1 year''');
SELECT * FROM define_refused('ledger_retention=''59 min''');
SELECT * FROM define_refused('claim_idle=''999 ms''');
-- claiming sooner than a batch may take is allowed, and said to be dangerous
SELECT streamsink.create_pipeline('claims', 'define_server', 's', 'define_target', claim_idle => '1 min', ledger_retention => '1 hour', connect => false);
SELECT streamsink.alter_pipeline('claims', claim_idle => '10 min');
SELECT claim_idle, ledger_retention FROM streamsink.pipelines WHERE name = 'claims';
SELECT streamsink.drop_pipeline('claims');
SELECT * FROM define_refused('on_error=''skip''');
SELECT * FROM define_refused('on_error=NULL');
SELECT * FROM define_refused('retry_growth=''fast''');
SELECT * FROM define_refused('on_replaced_stream=''ignore''');
SELECT * FROM define_refused('on_lost_group=''ignore''');
SELECT * FROM define_refused('connect=NULL');
SELECT * FROM define_refused('if_not_exists=NULL');

-- ---------------------------------------------------------------------------
-- Settings
-- ---------------------------------------------------------------------------
SELECT * FROM define_refused('settings=NULL');
SELECT * FROM define_refused('settings=''[]''');
SELECT * FROM define_refused('settings=''{"role": "postgres"}''');
SELECT * FROM define_refused('settings=''{"work_mem": null}''');
SELECT * FROM define_refused('settings=''{"work_mem": {"a": 1}}''');
SELECT * FROM define_refused('settings=''{"TimeZone": "Mars/Olympus"}''');
SELECT * FROM define_refused('settings=''{"synchronous_commit": "perhaps"}''');
-- what is captured now stays, also when this session changes; nothing leaks into it
SET DateStyle = 'ISO, DMY';
SELECT streamsink.create_pipeline('capture', 'define_server', 's', 'define_target',
	settings => '{"datestyle": "German", "intervalstyle": "iso_8601"}', connect => false);
SHOW DateStyle;
SHOW IntervalStyle;
SELECT settings FROM streamsink.pipeline WHERE name = 'capture';
SET DateStyle = 'ISO, MDY';
SET TimeZone = 'Europe/Vienna';
SELECT streamsink.alter_pipeline('capture', settings => '{"work_mem": "1MB"}');
SELECT settings FROM streamsink.pipeline WHERE name = 'capture';
SELECT streamsink.alter_pipeline('capture', reset => '{settings}');
SELECT settings FROM streamsink.pipeline WHERE name = 'capture';
SET TimeZone = 'UTC';

-- ---------------------------------------------------------------------------
-- Defaults may be given
-- ---------------------------------------------------------------------------
SELECT streamsink.create_pipeline('defaults', 'define_server', 's', 'define_target', create_target => false,
	evolve => false, on_replaced_stream => 'stop', max_retries => NULL, connect => false);

-- ---------------------------------------------------------------------------
-- alter_pipeline
-- ---------------------------------------------------------------------------
SELECT streamsink.alter_pipeline('plain', workers => 4, batch_size => 50, linger => '1 s');
SELECT name, workers, batch_size, linger, on_error, incarnation, generation, altered_at > created_at AS altered
FROM streamsink.pipeline WHERE name = 'plain';
SELECT streamsink.alter_pipeline('plain', on_conflict => 'nothing', key => 'id', rest => 'extra', reset => '{workers, linger}');
SELECT streamsink.pipeline_def('plain');
SELECT streamsink.alter_pipeline('plain', reset => '{key, rest, on_conflict, batch_size}');
SELECT streamsink.pipeline_def('plain');
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', workers => 65)$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', workers => 2, reset => '{workers}')$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', reset => '{stream}')$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', reset => '{wrkers}')$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', reset => '{NULL}')$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', reset => '{target}', connect => false)$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', key => 'id')$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', transform => 'SELECT', key => 'id')$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', server => 'nowhere', connect => false)$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline(NULL, workers => 2)$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', start_from => '$', connect => false)$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', new_owner => 'nobody_here')$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', new_name => 'second')$$);
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('plain', new_name => '')$$);
-- to its own name
SELECT streamsink.alter_pipeline('plain', new_name => 'plain');
-- a new name keeps the group
SELECT streamsink.alter_pipeline('plain', new_name => 'renamed');
SELECT consumer_group FROM streamsink.pipeline WHERE name = 'renamed';
SELECT streamsink.pipeline_def('renamed');
SELECT streamsink.alter_pipeline('renamed', reset => '{consumer_group}', connect => false);
SELECT consumer_group, incarnation FROM streamsink.pipeline WHERE name = 'renamed';
-- another source is another incarnation; the same source is not
SELECT streamsink.alter_pipeline('renamed', server => 'define_server', stream => 'readings:{device_id}', connect => false);
SELECT streamsink.alter_pipeline('renamed', server => 'define_other', connect => false);
SELECT streamsink.alter_pipeline('renamed', stream => 'other:{device_id}', connect => false);
SELECT server, stream, incarnation FROM streamsink.pipeline WHERE name = 'renamed';
-- all or nothing
BEGIN;
SELECT streamsink.alter_pipeline('renamed', workers => 9);
SAVEPOINT s;
SELECT streamsink.drop_pipeline('renamed');
SELECT count(*) FROM streamsink.pipeline WHERE name = 'renamed';
ROLLBACK TO s;
SELECT workers FROM streamsink.pipeline WHERE name = 'renamed';
ROLLBACK;
SELECT workers FROM streamsink.pipeline WHERE name = 'renamed';

-- ---------------------------------------------------------------------------
-- Who may
-- ---------------------------------------------------------------------------
CREATE ROLE regress_define_owner LOGIN;
CREATE ROLE regress_define_nologin;
CREATE ROLE regress_define_other LOGIN;
GRANT USAGE ON SCHEMA streamsink TO regress_define_owner, regress_define_other;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA streamsink TO regress_define_owner, regress_define_other;
SET ROLE regress_define_owner;
SELECT * FROM define_refused('workers=1');
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER define_server TO regress_define_owner;
CREATE USER MAPPING FOR regress_define_owner SERVER define_server OPTIONS (password 'secret');
SET ROLE regress_define_owner;
SELECT * FROM define_refused('workers=1');
RESET ROLE;
GRANT INSERT ON define_target TO regress_define_owner;
SET ROLE regress_define_owner;
SELECT streamsink.create_pipeline('owned', 'define_server', 's', 'define_target', connect => false);
SELECT * FROM define_refused('on_conflict=''update''');
SELECT * FROM define_refused('on_conflict=''nothing''', 'key=''id''');
RESET ROLE;
SELECT owner FROM streamsink.pipeline WHERE name = 'owned';
-- a column's privilege will do
REVOKE INSERT ON define_target FROM regress_define_owner;
GRANT INSERT (id, device_id, value, extra) ON define_target TO regress_define_owner;
SET ROLE regress_define_owner;
SELECT streamsink.alter_pipeline('owned', target => 'define_target', connect => false);
RESET ROLE;
SET ROLE regress_define_other;
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('owned', workers => 2)$$);
SELECT * FROM define_fails($$SELECT streamsink.drop_pipeline('owned')$$);
SELECT * FROM define_fails($$SELECT streamsink.stop('owned')$$);
SELECT * FROM define_fails($$SELECT streamsink.pipeline_def('owned')$$);
RESET ROLE;
GRANT regress_define_owner TO regress_define_other;
SET ROLE regress_define_other;
SELECT streamsink.alter_pipeline('owned', workers => 2);
-- a member of both may give it away, to one who can own it
SELECT split_part(f, ' ', 1) AS sqlstate FROM define_fails($$SELECT streamsink.alter_pipeline('owned', new_owner => 'regress_define_nologin')$$) AS f LIMIT 1;
SELECT * FROM define_fails($$SELECT streamsink.alter_pipeline('owned', new_owner => 'regress_define_other', connect => false)$$);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER define_server TO regress_define_other;
CREATE USER MAPPING FOR regress_define_other SERVER define_server OPTIONS (password 'secret');
GRANT INSERT ON define_target TO regress_define_other;
SET ROLE regress_define_other;
SELECT streamsink.alter_pipeline('owned', new_owner => 'regress_define_other', connect => false);
RESET ROLE;
SELECT owner, workers FROM streamsink.pipeline WHERE name = 'owned';

-- ---------------------------------------------------------------------------
-- Stopped, and what a read-only transaction may do
-- ---------------------------------------------------------------------------
SELECT streamsink.stop('owned');
SELECT streamsink.stop('owned', timeout => '0');
SELECT * FROM define_fails($$SELECT streamsink.stop('owned', timeout => NULL)$$);
SELECT * FROM define_fails($$SELECT streamsink.stop('owned', timeout => '-1 s')$$);
SELECT * FROM define_fails($$SELECT streamsink.stop('owned', timeout => '1 month')$$);
SELECT streamsink.stop_all();
BEGIN READ ONLY;
SELECT streamsink.pipeline_def('owned') IS NOT NULL AS readable;
SELECT streamsink.alter_pipeline('owned', workers => 3);
ROLLBACK;
-- a row restored by hand that this version cannot read says what to do
UPDATE streamsink.pipeline SET on_error = 'explode' WHERE name = 'odd';
SELECT * FROM define_fails($$SELECT streamsink.stop('odd')$$);
SELECT streamsink.stop_all();
SELECT streamsink.pipeline_def('odd') LIKE '%on_error => ''explode''%' AS shown;
SELECT streamsink.alter_pipeline('odd', reset => '{on_error}');
SELECT on_error FROM streamsink.pipeline WHERE name = 'odd';

-- ---------------------------------------------------------------------------
-- drop_pipeline takes everything with it
-- ---------------------------------------------------------------------------
INSERT INTO streamsink.stream SELECT nextval('streamsink.stream_id_seq'), id, 's', incarnation, '0-0', now()
FROM streamsink.pipeline WHERE name = 'odd';
-- after commit, Redis is asked to forget the stream's marker, or its group
BEGIN;
SELECT streamsink.drop_pipeline('odd');
SELECT count(*) AS streams FROM streamsink.stream;
SELECT server, kind, name, pipeline, cardinality(args) AS args FROM streamsink.outbox_queue;
ROLLBACK;
BEGIN;
SELECT streamsink.drop_pipeline('odd', drop_group => true);
SELECT server, kind, name, pipeline, convert_from(args[1], 'UTF8') AS group FROM streamsink.outbox_queue;
ROLLBACK;
-- so it is for a stream of before, unless its server is left
BEGIN;
SELECT streamsink.alter_pipeline('odd', consumer_group => 'new', connect => false);
SELECT server, kind, name, pipeline FROM streamsink.outbox_queue;
ROLLBACK;
BEGIN;
SELECT streamsink.alter_pipeline('odd', server => 'define_other', connect => false);
SELECT server, kind, name, pipeline FROM streamsink.outbox_queue;
ROLLBACK;
DELETE FROM streamsink.stream;
SELECT streamsink.drop_pipeline(name) FROM streamsink.pipeline;
SELECT count(*) AS pipelines FROM streamsink.pipeline;

SET client_min_messages = warning;
REVOKE ALL ON SCHEMA streamsink FROM regress_define_owner, regress_define_other;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA streamsink FROM regress_define_owner, regress_define_other;
DROP FUNCTION define_fails, define_refused, define_position;
DROP TABLE define_target, define_keyless, define_unlogged;
DROP SCHEMA "Odd Schema" CASCADE;
DROP SERVER define_server CASCADE;
DROP SERVER define_other;
DROP FOREIGN DATA WRAPPER define_wrapper CASCADE;
DROP ROLE regress_define_owner, regress_define_nologin, regress_define_other;
