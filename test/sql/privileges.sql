-- Who may do and see what.  Roles: an owner who is no superuser, a member of the
-- owner, a stranger who has been given access to the extension, a monitor, and
-- one who has been given nothing.

SET client_min_messages = warning;
SET search_path = public;
CREATE ROLE privileges_owner LOGIN;
CREATE ROLE privileges_member LOGIN IN ROLE privileges_owner;
CREATE ROLE privileges_setter LOGIN NOINHERIT IN ROLE privileges_owner;
CREATE ROLE privileges_stranger LOGIN;
CREATE ROLE privileges_monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE privileges_nobody LOGIN;
SELECT streamsink.grant_access(r) FROM unnest('{privileges_owner,privileges_member,privileges_setter,privileges_stranger}'::name[]) AS r;
CREATE SERVER privileges_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost', password_required 'false');
CREATE SERVER privileges_locked FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost');
CREATE SCHEMA privileges;
GRANT ALL ON SCHEMA privileges TO privileges_owner;
GRANT USAGE ON SCHEMA privileges TO PUBLIC;
CREATE TABLE privileges.log (what text, who text);
GRANT ALL ON privileges.log TO PUBLIC;

-- Run a statement as a role: its result, or the error.
CREATE FUNCTION privileges_as(role text, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	detail text;
	hint text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	EXECUTE statement INTO result;
	RESET ROLE;
	RETURN coalesce(result, '(null)');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN sqlstate || ' ' || sqlerrm || coalesce(' / ' || nullif(detail, ''), '') || coalesce(' / ' || nullif(hint, ''), '');
END $$;

-- ---------------------------------------------------------------------------
-- Creating: USAGE on the server, INSERT on the target as the owner
-- ---------------------------------------------------------------------------
CREATE TABLE privileges.foreign_target (a int);
SET ROLE privileges_owner;
CREATE TABLE privileges.target (a int CHECK (a < 100), b text);
RESET ROLE;
SELECT privileges_as('privileges_owner', $$SELECT streamsink.create_pipeline('owned', 'privileges_server', 's', 'privileges.target', connect => false)$$);
GRANT USAGE ON FOREIGN SERVER privileges_server, privileges_locked TO privileges_owner;
SELECT privileges_as('privileges_owner', $$SELECT streamsink.create_pipeline('owned', 'privileges_server', 's', 'privileges.foreign_target', connect => false)$$);
SELECT privileges_as('privileges_owner', $$SELECT streamsink.create_pipeline('owned', 'privileges_locked', 's', 'privileges.target', connect => false)$$);
SELECT privileges_as('privileges_owner', $$SELECT streamsink.create_pipeline('owned', 'privileges_server', 's', 'privileges.target', connect => false)$$);
SELECT privileges_as('privileges_nobody', $$SELECT streamsink.create_pipeline('other', 'privileges_server', 's', 'privileges.target', connect => false)$$);
SELECT privileges_as('privileges_stranger', $$SELECT streamsink.create_pipeline('owned', 'privileges_server', 's', 'privileges.target', connect => false)$$);
SELECT name, owner FROM streamsink.pipelines WHERE name = 'owned';

-- a pipeline of the superuser's beside it, and something in both
CREATE TABLE privileges.super_target (a int CHECK (a < 100));
SELECT streamsink.create_pipeline('super', 'privileges_server', 's', 'privileges.super_target', connect => false);
SELECT outcome FROM streamsink.apply('owned', '[{"a": 1}, {"a": 100}, {"a": 101}]');
SELECT outcome FROM streamsink.apply('super', '[{"a": 1}, {"a": 100}]');

-- ---------------------------------------------------------------------------
-- Views: rows that each role sees
-- ---------------------------------------------------------------------------
SELECT v AS view,
	privileges_as('privileges_owner', format(q, v)) AS owner, privileges_as('privileges_member', format(q, v)) AS member,
	privileges_as('privileges_setter', format(q, v)) AS setter, privileges_as('privileges_stranger', format(q, v)) AS stranger,
	privileges_as('privileges_monitor', format(q, v)) AS monitor, privileges_as('privileges_nobody', format(q, v)) AS nobody
FROM (VALUES
	('pipelines', 'SELECT string_agg(name, '' '' ORDER BY name) FROM streamsink.%s'),
	('status', 'SELECT string_agg(pipeline || '' '' || state || '' '' || dead_letters, '', '' ORDER BY pipeline) FROM streamsink.%s'),
	('workers', 'SELECT count(*) FROM streamsink.%s'),
	('streams', 'SELECT count(*) FROM streamsink.%s'),
	('dead_letters', 'SELECT string_agg(pipeline || '' '' || (fields ->> ''a''), '', '' ORDER BY id) FROM streamsink.%s'),
	('dead_letter_attempts', 'SELECT string_agg(DISTINCT pipeline, '' '') FROM streamsink.%s'),
	('dead_letter_summary', 'SELECT string_agg(pipeline || '' '' || count, '', '' ORDER BY pipeline) FROM streamsink.%s'),
	('metrics', 'SELECT string_agg(labels ->> ''pipeline'' || '' '' || value, '', '' ORDER BY labels ->> ''pipeline'') FROM streamsink.%s WHERE metric = ''streamsink_dead_letters'''),
	('outbox', 'SELECT count(*) FROM streamsink.%s')) AS v (v, q);
-- the document that says how pipelines are
SELECT r AS role, privileges_as(r, $$SELECT string_agg(p ->> 'name', ' ' ORDER BY p ->> 'name') FROM jsonb_array_elements(streamsink.health() -> 'pipelines') p$$) AS healths
FROM unnest('{privileges_owner,privileges_member,privileges_setter,privileges_stranger,privileges_monitor,privileges_nobody}'::text[]) AS r;
-- the SQL that runs is for members
SELECT privileges_as(r, $$SELECT string_agg(name || ': ' || coalesce(statement, '-'), ', ' ORDER BY name) FROM streamsink.pipelines$$)
FROM unnest('{privileges_owner,privileges_stranger,privileges_monitor}'::text[]) AS r;
-- no table is for anybody
SELECT DISTINCT privileges_as('privileges_owner', format('SELECT count(*) FROM %s', c.oid::regclass)) ~ '^42501' AS denied,
	privileges_as('privileges_monitor', format('SELECT count(*) FROM %s', c.oid::regclass)) ~ '^42501' AS denied_to_monitor
FROM pg_class c WHERE relnamespace = 'streamsink'::regnamespace AND relkind IN ('r', 'S');

-- ---------------------------------------------------------------------------
-- Functions: each is for members of the owner
-- ---------------------------------------------------------------------------
SELECT call, bool_and(result ~ '^42501') AS stranger_denied, bool_and(nobody ~ '^42501') AS nobody_denied, min(result) AS stranger
FROM (SELECT call, privileges_as('privileges_stranger', call) AS result, privileges_as('privileges_nobody', call) AS nobody
	FROM unnest(ARRAY[
		$$SELECT streamsink.alter_pipeline('owned', batch_size => 5, connect => false)$$,
		$$SELECT streamsink.drop_pipeline('owned')$$,
		$$SELECT streamsink.start('owned')$$,
		$$SELECT streamsink.stop('owned')$$,
		$$SELECT streamsink.restart('owned')$$,
		$$SELECT streamsink.wait_until('owned', 'running', '0')$$,
		$$SELECT streamsink.wait_for('owned', '0')$$,
		$$SELECT streamsink.pipeline_def('owned')$$,
		$$SELECT streamsink.describe('owned')$$,
		$$SELECT streamsink.apply('owned', '[]')$$,
		$$SELECT streamsink.preview('owned')$$,
		$$SELECT streamsink.reset_stats('owned')$$,
		$$SELECT streamsink.health('owned')$$,
		$$SELECT streamsink.retry_dead_letters('owned')$$,
		$$SELECT streamsink.requeue_dead_letters('owned')$$,
		$$SELECT streamsink.discard_dead_letters('owned')$$,
		$$SELECT streamsink.discard_dead_letters_before('owned', 'infinity')$$,
		$$SELECT streamsink.retry_dead_letters('owned', '{1}')$$,
		$$SELECT streamsink.requeue_dead_letters('owned', '{1}')$$,
		$$SELECT streamsink.discard_dead_letters('owned', '{1}')$$,
		$$SELECT streamsink.xadd('privileges_server', 's', '{"a": "1"}')$$]) AS call) AS c
GROUP BY call ORDER BY call COLLATE "C";
SET ROLE privileges_stranger;
CALL streamsink.ingest('owned');
RESET ROLE;
-- numbers are for members and monitors only, also by way of the functions behind the views
SELECT privileges_as('privileges_stranger', $$SELECT streamsink.statement('owned')$$);
SELECT privileges_as('privileges_stranger', format('SELECT read FROM streamsink.pipeline_status(%s)', id)) FROM streamsink.pipeline WHERE name = 'owned';
SELECT privileges_as('privileges_stranger', format('SELECT count(*) FROM streamsink.stream_samples(%s)', id)) FROM streamsink.pipeline WHERE name = 'owned';
SELECT privileges_as('privileges_stranger', 'SELECT count(*) FROM streamsink.worker_slots()');
-- nor can a dead letter be changed through the view
SELECT privileges_as('privileges_stranger', $$WITH d AS (DELETE FROM streamsink.dead_letters RETURNING 1) SELECT count(*) FROM d$$);
SELECT privileges_as('privileges_stranger', $$WITH d AS (UPDATE streamsink.dead_letters SET fields = '{}' RETURNING 1) SELECT count(*) FROM d$$);
SELECT privileges_as('privileges_owner', $$WITH d AS (UPDATE streamsink.dead_letters SET fields = fields RETURNING pipeline) SELECT string_agg(pipeline, ' ') FROM d$$);
SELECT privileges_as('privileges_owner', $$WITH d AS (UPDATE streamsink.dead_letters SET error = '' RETURNING 1) SELECT count(*) FROM d$$);
-- ids of another pipeline's dead letters are nobody's
SELECT privileges_as('privileges_owner', format('SELECT streamsink.discard_dead_letters(''owned'', ''{%s}'')', min(id))) FROM streamsink.dead_letters WHERE pipeline = 'super';
SELECT privileges_as('privileges_owner', format('SELECT streamsink.retry_dead_letters(''owned'', ''{%s}'')', min(id))) FROM streamsink.dead_letters WHERE pipeline = 'super';
SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'super';
-- nobody sees anything, and pg_monitor cannot control
SELECT privileges_as('privileges_nobody', 'SELECT ''1-1''::streamsink.entry_id');
SELECT privileges_as('privileges_monitor', $$SELECT streamsink.stop('owned')$$);
SELECT privileges_as('privileges_stranger', $$SELECT streamsink.grant_access('privileges_nobody')$$);
SELECT privileges_as('privileges_owner', $$SELECT streamsink.grant_access('privileges_nobody')$$);
-- a member may; one who would have to SET ROLE first must do so
SELECT privileges_as('privileges_member', $$SELECT string_agg(outcome, ' ') FROM streamsink.apply('owned', '[{"a": 2}]')$$);
SELECT privileges_as('privileges_setter', $$SELECT string_agg(outcome, ' ') FROM streamsink.apply('owned', '[{"a": 2}]')$$);
SELECT privileges_as('privileges_member', $$SELECT streamsink.discard_dead_letters('owned')$$);

-- changing the owner: both ways membership is needed
SELECT privileges_as('privileges_owner', $$SELECT streamsink.alter_pipeline('owned', new_owner => 'postgres', connect => false)$$)
	~ '^42501 must be (member of role|able to SET ROLE) "postgres"$' AS refused;
SELECT privileges_as('privileges_owner', $$SELECT streamsink.alter_pipeline('owned', new_owner => 'privileges_stranger', connect => false)$$)
	~ '^42501 must be (member of role|able to SET ROLE) "privileges_stranger"$' AS refused;
SELECT privileges_as('privileges_owner', $$SELECT streamsink.alter_pipeline('super', new_owner => 'privileges_owner', connect => false)$$);
SELECT streamsink.alter_pipeline('owned', new_owner => 'privileges_stranger', connect => false);	-- who may not insert
SELECT owner FROM streamsink.pipeline WHERE name = 'owned';

-- ---------------------------------------------------------------------------
-- As whom the SQL of a pipeline runs
-- ---------------------------------------------------------------------------
SET ROLE privileges_owner;
CREATE FUNCTION privileges.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO privileges.log VALUES (TG_WHEN, current_user);
	RETURN new;
END $$;
CREATE TRIGGER a BEFORE INSERT ON privileges.target FOR EACH ROW EXECUTE FUNCTION privileges.note();
CREATE TRIGGER b AFTER INSERT ON privileges.target FOR EACH ROW EXECUTE FUNCTION privileges.note();
CREATE CONSTRAINT TRIGGER c AFTER INSERT ON privileges.target DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION privileges.note();
CREATE FUNCTION privileges.default_b() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO privileges.log VALUES ('default', current_user);
	RETURN 'b';
END $$;
ALTER TABLE privileges.target ALTER COLUMN b SET DEFAULT privileges.default_b();
RESET ROLE;
SELECT outcome FROM streamsink.apply('owned', '[{"a": 3}]');
SELECT current_user = session_user AS myself;
SELECT * FROM privileges.log ORDER BY what COLLATE "C", who;
TRUNCATE privileges.log;
SET ROLE privileges_member;
SELECT outcome FROM streamsink.apply('owned', '[{"a": 3}]');
RESET ROLE;
SELECT * FROM privileges.log ORDER BY what COLLATE "C", who;
TRUNCATE privileges.log;
-- an error leaves nothing behind either
SELECT streamsink.apply('owned', '[{"a": 4, "_id": 1}]');
SELECT current_user = session_user AS myself;
SHOW search_path;

-- A trigger that tries to become somebody else while a superuser calls: whatever
-- it does, the owner's own code never runs as the caller.
SET ROLE privileges_owner;
CREATE FUNCTION privileges.escalate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE new.b;
	INSERT INTO privileges.log VALUES (new.b, current_user);
	RETURN new;
EXCEPTION WHEN OTHERS THEN
	INSERT INTO privileges.log VALUES (new.b, sqlstate || ' ' || sqlerrm);
	RETURN new;
END $$;
DROP TRIGGER a ON privileges.target;
DROP TRIGGER b ON privileges.target;
DROP TRIGGER c ON privileges.target;
ALTER TABLE privileges.target ALTER COLUMN b DROP DEFAULT;
CREATE TRIGGER escalate BEFORE INSERT ON privileges.target FOR EACH ROW EXECUTE FUNCTION privileges.escalate();
-- what would run at commit
CREATE TABLE privileges.trap (a int);
CREATE FUNCTION privileges.caught() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO privileges.log VALUES ('deferred trigger', current_user);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER caught AFTER INSERT ON privileges.trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION privileges.caught();
CREATE FUNCTION privileges.held() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO privileges.log VALUES ('held cursor', current_user);
	RETURN current_user;
END $$;
-- a deferred trigger that is fired at once, and defers another one then
CREATE TABLE privileges.bait (a int);
CREATE FUNCTION privileges.defer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	SET CONSTRAINTS ALL DEFERRED;
	INSERT INTO privileges.trap VALUES (1);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER defer AFTER INSERT ON privileges.bait DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION privileges.defer();
RESET ROLE;
CREATE FUNCTION privileges_tries() RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(jsonb_build_object('a', 1, 'b', t)) FROM unnest(ARRAY[
	'RESET ROLE', 'SET ROLE postgres', 'SET ROLE none', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION postgres',
	'SELECT set_config(''role'', ''none'', false)', 'RESET ALL', 'DISCARD ALL',
	'SET session_replication_role = replica',
	'DECLARE c CURSOR WITH HOLD FOR SELECT privileges.held()',
	'INSERT INTO privileges.trap VALUES (1)', 'SET CONSTRAINTS ALL DEFERRED; INSERT INTO privileges.trap VALUES (1)',
	'INSERT INTO privileges.bait VALUES (1)',
	'CREATE TEMP TABLE privileges_owner_was_here (a int)']) AS t
$$;
SELECT outcome, sqlstate, error FROM streamsink.apply('owned', privileges_tries());
SELECT what, who FROM privileges.log ORDER BY what COLLATE "C";
TRUNCATE privileges.log;
-- one at a time, each in a transaction of its own
SELECT outcome, sqlstate, error FROM streamsink.apply('owned', '[{"a": 1, "b": "SET CONSTRAINTS ALL DEFERRED; INSERT INTO privileges.trap VALUES (1)"}]');
SELECT outcome, sqlstate, error FROM streamsink.apply('owned', '[{"a": 1, "b": "INSERT INTO privileges.bait VALUES (1)"}]');
SELECT outcome, sqlstate, error FROM streamsink.apply('owned', '[{"a": 1, "b": "DECLARE d CURSOR WITH HOLD FOR SELECT privileges.held()"}]');
SELECT what, who FROM privileges.log ORDER BY what COLLATE "C";
TRUNCATE privileges.log;
SELECT relname, relowner::regrole FROM pg_class WHERE relname = 'privileges_owner_was_here';
SELECT current_user = session_user AS myself, (SELECT rolsuper FROM pg_roles WHERE rolname = 'privileges_owner') AS escalated;

-- the same in a retry, and when entries are decoded
SET ROLE privileges_owner;
CREATE FUNCTION privileges.sly() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	SET CONSTRAINTS ALL DEFERRED;
	INSERT INTO privileges.trap VALUES (1);
	RETURN 1;
END $$;
ALTER TABLE privileges.target ADD COLUMN c int;
ALTER TABLE privileges.target ALTER COLUMN c SET DEFAULT privileges.sly();
RESET ROLE;
SELECT outcome, sqlstate, error FROM streamsink.apply('owned', '[{"_id": "1-1", "a": 1, "b": "SELECT 1"}]');
SELECT outcome, sqlstate FROM streamsink.apply('owned', '[{"a": 100, "c": 1, "b": "INSERT INTO privileges.bait VALUES (1)"}]');
UPDATE streamsink.dead_letters SET fields = fields || '{"a": 1}' WHERE pipeline = 'owned';
SELECT streamsink.retry_dead_letters('owned');
SELECT what, who FROM privileges.log ORDER BY what COLLATE "C";

-- an owner that is gone: a superuser can give the pipeline another one
SELECT streamsink.alter_pipeline('owned', new_name => 'orphaned', connect => false);
CREATE ROLE privileges_away LOGIN SUPERUSER;
SELECT streamsink.alter_pipeline('orphaned', new_owner => 'privileges_away', connect => false);
DROP ROLE privileges_away;
SELECT privileges_as('privileges_owner', $$SELECT streamsink.stop('orphaned')$$);
SELECT privileges_as('postgres', $$SELECT streamsink.apply('orphaned', '[]')$$);
SELECT name, owner FROM streamsink.pipelines WHERE name = 'orphaned';
SELECT streamsink.alter_pipeline('orphaned', new_owner => 'privileges_owner', connect => false);
SELECT name, owner FROM streamsink.pipelines WHERE name = 'orphaned';

-- clean up
SELECT streamsink.drop_pipeline('orphaned'), streamsink.drop_pipeline('super');
DROP SERVER privileges_server, privileges_locked CASCADE;
DROP SCHEMA privileges CASCADE;
DROP OWNED BY privileges_owner, privileges_member, privileges_setter, privileges_stranger, privileges_monitor, privileges_nobody;
DROP ROLE privileges_owner, privileges_member, privileges_setter, privileges_stranger, privileges_monitor, privileges_nobody;
