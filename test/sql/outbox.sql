-- emit() and publish(): arguments, whose server and whose rights, and what is
-- in the outbox.  Nothing here commits a command.

SET client_min_messages = warning;
SET search_path = public;
CREATE SERVER outbox_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost');
CREATE SERVER outbox_other FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost');

CREATE FUNCTION outbox_fails(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
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
-- what is in the outbox, in order
CREATE VIEW outbox_rows AS
	SELECT server, role, kind, name, pipeline, ARRAY(SELECT convert_from(b, 'UTF8') FROM unnest(args) AS b) AS args, queue, entry_id
	FROM streamsink.outbox_queue ORDER BY id;

-- ---------------------------------------------------------------------------
-- Arguments
-- ---------------------------------------------------------------------------
BEGIN;
SELECT streamsink.emit('s', '{"a": "x", "n": 1.50, "t": true, "o": {"k": [1, "ä"]}, "none": null, "empty": ""}', 'outbox_server');
SELECT streamsink.publish('c', 'a message, ä', server => 'outbox_server');
SELECT streamsink.publish('', '', server => 'outbox_server');
SELECT server, kind, name, pipeline, args, queue, entry_id FROM outbox_rows;
SELECT server, kind, name, pipeline, attempts, last_error, behind, retry_at, role = current_user AS mine FROM streamsink.outbox ORDER BY id;
ROLLBACK;
SELECT * FROM outbox_fails($$SELECT streamsink.emit(NULL, '{"a": 1}', 'outbox_server')$$);
SELECT * FROM outbox_fails($$SELECT streamsink.emit('s', NULL, 'outbox_server')$$);
SELECT * FROM outbox_fails($$SELECT streamsink.emit('s', '[1]', 'outbox_server')$$);
SELECT * FROM outbox_fails($$SELECT streamsink.emit('s', '{"a": null}', 'outbox_server')$$);
SELECT * FROM outbox_fails($$SELECT streamsink.emit('s', '{"a": 1}')$$);
SELECT * FROM outbox_fails($$SELECT streamsink.emit('s', '{"a": 1}', 'nowhere')$$);
SELECT * FROM outbox_fails($$SELECT streamsink.publish(NULL, 'm', 'outbox_server')$$);
SELECT * FROM outbox_fails($$SELECT streamsink.publish('c', NULL, 'outbox_server')$$);
SELECT * FROM outbox_fails($$SELECT streamsink.publish('c', 'm')$$);
SELECT count(*) FROM streamsink.outbox_queue;
SELECT proname, provolatile, proparallel FROM pg_proc WHERE pronamespace = 'streamsink'::regnamespace AND proname IN ('emit', 'publish') ORDER BY 1;

-- ---------------------------------------------------------------------------
-- Transactions
-- ---------------------------------------------------------------------------
BEGIN;
SELECT streamsink.publish('c', '1', 'outbox_server');
SAVEPOINT a;
SELECT streamsink.publish('c', '2', 'outbox_server');
ROLLBACK TO a;
SELECT streamsink.publish('c', '3', 'outbox_server');
SAVEPOINT b;
SELECT streamsink.publish('c', '4', 'outbox_server');
RELEASE b;
SELECT args FROM outbox_rows;
ROLLBACK;
BEGIN READ ONLY;
SELECT streamsink.publish('c', '1', 'outbox_server');
ROLLBACK;
BEGIN;
SELECT streamsink.publish('c', '1', 'outbox_server');
PREPARE TRANSACTION 'outbox';
SELECT count(*) FROM streamsink.outbox_queue;

-- ---------------------------------------------------------------------------
-- In a pipeline's statements the server is the pipeline's
-- ---------------------------------------------------------------------------
CREATE TABLE outbox_target (v int CHECK (v < 100));
CREATE FUNCTION outbox_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM streamsink.publish('above', NEW.v::text) WHERE NEW.v > 10;
	PERFORM streamsink.emit('all', jsonb_build_object('v', NEW.v));
	IF NEW.v = 66 THEN
		RAISE EXCEPTION 'not this one';
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER outbox_tell BEFORE INSERT ON outbox_target FOR EACH ROW EXECUTE FUNCTION outbox_tell();
SELECT streamsink.create_pipeline('outbox', 'outbox_server', 'outbox', 'outbox_target', connect => false);
SELECT streamsink.create_pipeline('outbox2', 'outbox_other', 'outbox2', 'outbox_target', connect => false);
BEGIN;
-- what is refused tells nothing
SELECT outcome FROM streamsink.apply('outbox', '[{"v": 1}, {"v": 11}, {"v": 66}, {"v": 101}, {"v": 12}]');
SELECT server, kind, name, pipeline, args FROM outbox_rows;
ROLLBACK;
-- also from a trigger that is deferred
CREATE CONSTRAINT TRIGGER outbox_tell_late AFTER INSERT ON outbox_target DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION outbox_tell();
DROP TRIGGER outbox_tell ON outbox_target;
BEGIN;
SELECT outcome FROM streamsink.apply('outbox2', '[{"v": 1}, {"v": 66}, {"v": 11}]');
SELECT server, kind, name, pipeline, args FROM outbox_rows;
ROLLBACK;
-- elsewhere there is no server
SELECT * FROM outbox_fails($$INSERT INTO outbox_target VALUES (1); SET CONSTRAINTS ALL IMMEDIATE$$);
-- a pipeline inside another has its own for as long as it lasts, also if it fails
CREATE FUNCTION outbox_nested() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM streamsink.publish('before', NEW.v::text);
	BEGIN
		PERFORM streamsink.apply('outbox2', jsonb_build_array(jsonb_build_object('v', NEW.v)));
		IF NEW.v = 2 THEN
			PERFORM 1 / 0;
		END IF;
	EXCEPTION WHEN division_by_zero THEN NULL;
	END;
	PERFORM streamsink.publish('after', NEW.v::text);
	RETURN NEW;
END $$;
CREATE TABLE outbox_outer (v int);
CREATE TRIGGER outbox_nested BEFORE INSERT ON outbox_outer FOR EACH ROW EXECUTE FUNCTION outbox_nested();
SELECT streamsink.alter_pipeline('outbox', target => 'outbox_outer', connect => false);
BEGIN;
SELECT outcome FROM streamsink.apply('outbox', '[{"v": 1}, {"v": 2}]');
SELECT server, kind, name, pipeline, args FROM outbox_rows;
ROLLBACK;
SELECT * FROM outbox_fails($$SELECT streamsink.publish('c', 'm')$$);

-- ---------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------
CREATE ROLE outbox_user;
CREATE ROLE outbox_guest;
SELECT streamsink.grant_access('outbox_user'), streamsink.grant_access('outbox_guest');
GRANT SELECT ON outbox_rows TO PUBLIC;
SET ROLE outbox_user;
SELECT * FROM outbox_fails($$SELECT streamsink.publish('c', 'm', 'outbox_server')$$);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER outbox_server TO outbox_user, outbox_guest;
SET ROLE outbox_user;
SELECT * FROM outbox_fails($$SELECT streamsink.publish('c', 'm', 'outbox_server')$$);
RESET ROLE;
CREATE USER MAPPING FOR outbox_user SERVER outbox_server OPTIONS (password 'secret');
BEGIN;
SET LOCAL ROLE outbox_user;
SELECT streamsink.publish('c', 'm', 'outbox_server');
SELECT kind, name, role FROM streamsink.outbox;
-- others neither see nor discard it
SET LOCAL ROLE outbox_guest;
SELECT count(*) FROM streamsink.outbox;
WITH d AS (DELETE FROM streamsink.outbox RETURNING id) SELECT count(*) FROM d;
SET LOCAL ROLE outbox_user;
SAVEPOINT a;
UPDATE streamsink.outbox SET name = 'd';
ROLLBACK TO a;
WITH d AS (DELETE FROM streamsink.outbox RETURNING kind, name) SELECT * FROM d;
SELECT count(*) FROM streamsink.outbox;
ROLLBACK;
-- a function with SECURITY DEFINER sends as its owner
CREATE FUNCTION outbox_send() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$SELECT streamsink.publish('c', 'm', 'outbox_server')$$;
ALTER FUNCTION outbox_send() OWNER TO outbox_user;
BEGIN;
SET LOCAL ROLE outbox_guest;
SELECT outbox_send();
RESET ROLE;
SELECT role FROM streamsink.outbox;
ROLLBACK;
-- the trigger's function is for the view only
SELECT * FROM outbox_fails($$SELECT streamsink.outbox_delete()$$);
CREATE TRIGGER outbox_wrong BEFORE DELETE ON outbox_target FOR EACH ROW EXECUTE FUNCTION streamsink.outbox_delete();
INSERT INTO outbox_outer SELECT WHERE false;
ALTER TABLE outbox_target DISABLE TRIGGER outbox_tell_late;
INSERT INTO outbox_target VALUES (1);
SELECT * FROM outbox_fails($$DELETE FROM outbox_target$$);
SELECT count(*) FROM streamsink.outbox_queue;

SELECT streamsink.drop_pipeline('outbox'), streamsink.drop_pipeline('outbox2');
DROP TABLE outbox_target, outbox_outer;
DROP FUNCTION outbox_fails, outbox_tell, outbox_nested, outbox_send;
DROP VIEW outbox_rows;
DROP SERVER outbox_server CASCADE;
DROP SERVER outbox_other CASCADE;
DROP OWNED BY outbox_user, outbox_guest;
DROP ROLE outbox_user, outbox_guest;
