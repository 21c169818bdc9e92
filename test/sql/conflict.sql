-- Rows that are there already: on_conflict and key.

SET client_min_messages = warning;
SET search_path = public;
CREATE SERVER conflict_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost');

CREATE FUNCTION conflict_fails(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
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

-- A pipeline that has the name of its target, and to apply entries to it.
CREATE FUNCTION conflict_create(name text, arguments text DEFAULT '') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT streamsink.create_pipeline(%L, %L, %L, %L, connect => false%s)',
		name, 'conflict_server', name, name, arguments);
	RETURN (SELECT statement FROM streamsink.pipelines p WHERE p.name = conflict_create.name);
END $$;
CREATE FUNCTION conflict_apply(name text, entries jsonb) RETURNS TABLE (outcomes text, errors text) LANGUAGE sql AS $$
	SELECT string_agg(outcome, ' ' ORDER BY id), string_agg(error, '; ' ORDER BY id) FROM streamsink.apply(name, entries)
$$;

-- ---------------------------------------------------------------------------
-- error: as any INSERT does
-- ---------------------------------------------------------------------------
CREATE TABLE conflict_error (id int PRIMARY KEY, a text);
SELECT conflict_create('conflict_error');
SELECT * FROM conflict_apply('conflict_error', '[{"id": 1, "a": "x"}, {"id": 1, "a": "y"}, {"id": 2}]');
SELECT * FROM conflict_error ORDER BY id;
SELECT stage, sqlstate, constraint_name, table_name, detail FROM streamsink.dead_letters WHERE pipeline = 'conflict_error';

-- ---------------------------------------------------------------------------
-- nothing: the row that is there stays; with a key only that conflict counts
-- ---------------------------------------------------------------------------
CREATE TABLE conflict_nothing (id int PRIMARY KEY, code text UNIQUE, a text);
SELECT conflict_create('conflict_nothing', ', on_conflict => ''nothing''');
SELECT * FROM conflict_apply('conflict_nothing', '[{"id": 1, "code": "c", "a": "first"}, {"id": 1, "a": "second"}, {"id": 2, "code": "c", "a": "third"}, {"id": 3}]');
SELECT * FROM conflict_nothing ORDER BY id;
SELECT streamsink.alter_pipeline('conflict_nothing', key => 'id', connect => false);
SELECT statement FROM streamsink.pipelines WHERE name = 'conflict_nothing';
SELECT * FROM conflict_apply('conflict_nothing', '[{"id": 1, "code": "d", "a": "again"}, {"id": 4, "code": "c", "a": "other conflict"}, {"id": 5, "code": "e"}]');
SELECT * FROM conflict_nothing ORDER BY id;

-- ---------------------------------------------------------------------------
-- update: only columns that the entry had
-- ---------------------------------------------------------------------------
CREATE TABLE conflict_update (
	id int PRIMARY KEY, a text, b text DEFAULT 'default', c int NOT NULL DEFAULT 0, changed streamsink.entry_id, rest jsonb);
SELECT conflict_create('conflict_update', ', on_conflict => ''update'', rest => ''rest'', payload => ''doc'', columns => ''{"changed": "_id"}''');
SELECT * FROM conflict_apply('conflict_update', $$[
	{"_id": "1-1", "id": 1, "a": "a1", "b": "b1", "c": 1, "more": "m"},
	{"_id": "1-2", "id": 2},
	{"_id": "1-3", "id": 3, "a": "a3"}]$$);
SELECT * FROM conflict_update ORDER BY id;
-- a NULL in the payload is one that the entry had, a missing member is not; 4 is new and gets defaults
SELECT * FROM conflict_apply('conflict_update', $$[
	{"_id": "2-1", "id": 1, "a": "a1 changed"},
	{"_id": "2-2", "doc": "{\"id\": 2, \"b\": null, \"c\": 22}"},
	{"_id": "2-3", "id": 3, "b": "b3"},
	{"_id": "2-4", "id": 4, "a": "new"},
	{"_id": "2-5", "doc": "{\"id\": 3, \"c\": null}"}]$$);
SELECT * FROM conflict_update ORDER BY id;
-- one key several times in a batch: what lies between two rows of other columns is kept in order,
-- of neighbours that set the same columns the last one counts
SELECT * FROM conflict_apply('conflict_update', $$[
	{"_id": "3-1", "id": 10, "a": "first"}, {"_id": "3-2", "id": 11, "a": "eleven"}, {"_id": "3-3", "id": 10, "a": "second"}, {"_id": "3-4", "id": 10, "a": "third"},
	{"_id": "3-5", "id": 10, "b": "b, then"}, {"_id": "3-6", "id": 10, "a": "fourth"}]$$);
SELECT id, a, b, c, changed FROM conflict_update WHERE id >= 10 ORDER BY id;
-- a bad row between them is refused alone
SELECT * FROM conflict_apply('conflict_update', $$[
	{"_id": "4-1", "id": 20, "a": "first"}, {"_id": "4-2", "a": "no key"}, {"_id": "4-3", "id": 20, "a": "x", "c": "no number"}, {"_id": "4-4", "id": 20, "a": "last"}]$$);
SELECT id, a, changed FROM conflict_update WHERE id = 20;
-- nothing but the key: there is nothing to set
CREATE TABLE conflict_key_only (id int PRIMARY KEY, n int DEFAULT 5);
SELECT conflict_create('conflict_key_only', ', on_conflict => ''update''');
SELECT * FROM conflict_apply('conflict_key_only', '[{"id": 1}, {"id": 1}, {"id": 1, "n": 6}, {"id": 1}, {"id": 2}]');
SELECT * FROM conflict_key_only ORDER BY id;
-- defaults are for new rows only
SELECT * FROM conflict_apply('conflict_key_only', '[{"id": 1}]');
SELECT * FROM conflict_key_only ORDER BY id;

-- ---------------------------------------------------------------------------
-- key: several columns, odd names, other columns than the primary key, NULLs
-- ---------------------------------------------------------------------------
CREATE TABLE conflict_key (id serial PRIMARY KEY, "Tenant Id" int, name text COLLATE "C", v int, UNIQUE ("Tenant Id", name));
SELECT conflict_create('conflict_key', ', on_conflict => ''update'', key => '' NAME, "Tenant Id" ''');
SELECT * FROM conflict_apply('conflict_key', $$[
	{"Tenant Id": 1, "name": "x", "v": 1}, {"Tenant Id": 1, "name": "x", "v": 2}, {"Tenant Id": 2, "name": "x", "v": 3},
	{"name": "null key", "v": 4}, {"name": "null key", "v": 5}]$$);
SELECT "Tenant Id", name, v FROM conflict_key ORDER BY 1, 2, 3;
-- rows with a NULL in the key never conflict, also where others do
SELECT * FROM conflict_apply('conflict_key', $$[
	{"Tenant Id": 1, "v": 6}, {"Tenant Id": 1, "v": 7}, {"Tenant Id": 1, "name": "x", "v": 8}, {"Tenant Id": 1, "name": "x", "v": 9}]$$);
SELECT "Tenant Id", name, v FROM conflict_key ORDER BY 1, 2, 3;
-- as equal as the index says: numbers of other scale
CREATE TABLE conflict_numeric (n numeric PRIMARY KEY, v int);
SELECT conflict_create('conflict_numeric', ', on_conflict => ''update''');
SELECT * FROM conflict_apply('conflict_numeric', '[{"n": "1.0", "v": 1}, {"n": "1.00", "v": 2}, {"n": "1", "v": 3}]');
SELECT * FROM conflict_numeric;
-- a key that the entries do not have
CREATE TABLE conflict_generated (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int);
SELECT conflict_create('conflict_generated', ', on_conflict => ''update''');
SELECT * FROM conflict_apply('conflict_generated', '[{"v": 1}, {"v": 2}]');
SELECT count(*) FROM conflict_generated;
-- equal where the index is, and another NULL rule
CREATE TABLE conflict_nulls (k int, v int, UNIQUE NULLS NOT DISTINCT (k));
SELECT conflict_create('conflict_nulls', ', on_conflict => ''update'', key => ''k''');
SELECT * FROM conflict_apply('conflict_nulls', '[{"k": 1, "v": 1}, {"v": 2}]');
SELECT * FROM conflict_apply('conflict_nulls', '[{"v": 3}, {"k": 1, "v": 4}, {"v": 5}, {"k": 1, "v": 6}]');
SELECT * FROM conflict_nulls ORDER BY k;

-- keys that no plain unique index has
CREATE TABLE conflict_partial (id int, v int, gone bool);
CREATE UNIQUE INDEX conflict_partial_idx ON conflict_partial (id) WHERE NOT gone;
CREATE TABLE conflict_expression (id text, v int);
CREATE UNIQUE INDEX conflict_expression_idx ON conflict_expression (lower(id));
CREATE TABLE conflict_deferrable (id int, v int, UNIQUE (id) DEFERRABLE);
SELECT * FROM conflict_fails($$SELECT conflict_create('conflict_partial', ', on_conflict => ''update'', key => ''id''')$$);
SELECT * FROM conflict_fails($$SELECT conflict_create('conflict_expression', ', on_conflict => ''update'', key => ''id''')$$);
SELECT * FROM conflict_fails($$SELECT conflict_create('conflict_expression', ', on_conflict => ''update'', key => ''lower(id)''')$$);
SELECT * FROM conflict_fails($$SELECT conflict_create('conflict_deferrable', ', on_conflict => ''update''')$$);
-- the server sees only while it runs that a constraint is deferrable: set-up all the same
SELECT conflict_create('conflict_deferrable', ', on_conflict => ''update'', key => ''id''');
SELECT * FROM conflict_fails($$SELECT * FROM conflict_apply('conflict_deferrable', '[{"id": 1, "v": 1}, {"id": 2, "v": 2}]')$$);
-- without a key they count
SELECT conflict_create('conflict_partial', ', on_conflict => ''nothing''');
SELECT * FROM conflict_apply('conflict_partial', '[{"id": 1, "gone": false}, {"id": 1, "gone": true}, {"id": 1, "gone": false}]');
SELECT count(*) FROM conflict_partial;
-- an index that goes away is set-up, for all rows and for none
ALTER TABLE conflict_numeric DROP CONSTRAINT conflict_numeric_pkey;
SELECT * FROM conflict_fails($$SELECT * FROM conflict_apply('conflict_numeric', '[{"n": 1, "v": 1}]')$$);
ALTER TABLE conflict_numeric ADD PRIMARY KEY (n);
SELECT * FROM conflict_apply('conflict_numeric', '[{"n": 1, "v": 4}]');
SELECT * FROM conflict_numeric;

-- a partitioned table, and a column that appears
CREATE TABLE conflict_parted (id int, p int, v int, PRIMARY KEY (id, p)) PARTITION BY LIST (p);
CREATE TABLE conflict_parted_1 PARTITION OF conflict_parted FOR VALUES IN (1);
CREATE TABLE conflict_parted_2 (v int, p int NOT NULL, id int NOT NULL);
ALTER TABLE conflict_parted ATTACH PARTITION conflict_parted_2 FOR VALUES IN (2);
SELECT conflict_create('conflict_parted', ', on_conflict => ''update''');
SELECT * FROM conflict_apply('conflict_parted', '[{"id": 1, "p": 1, "v": 1}, {"id": 1, "p": 2, "v": 2}, {"id": 1, "p": 1, "v": 3}]');
SELECT * FROM conflict_parted ORDER BY p;
ALTER TABLE conflict_parted ADD COLUMN w text DEFAULT 'w';
SELECT * FROM conflict_apply('conflict_parted', '[{"id": 1, "p": 2, "w": "changed"}, {"id": 2, "p": 2}]');
SELECT * FROM conflict_parted ORDER BY id, p;

-- clean up
SELECT count(streamsink.drop_pipeline(name)) FROM streamsink.pipelines WHERE name LIKE 'conflict%';
DROP SERVER conflict_server CASCADE;
