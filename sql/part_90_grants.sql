-- ---------------------------------------------------------------------------
-- Grants.  Nothing is for PUBLIC: functions and types are by default, and what
-- these can do (name servers, read counters) is for whom the DBA chooses.
-- ---------------------------------------------------------------------------

CREATE FUNCTION streamsink.grant_access(role name) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	ext oid := (SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname = 'streamsink');
	item record;
BEGIN
	EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA streamsink TO %I', role);
	FOR item IN
		SELECT p.oid::pg_catalog.regprocedure AS name
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc p ON p.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND p.proname <> 'grant_access'
	LOOP
		EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %I', item.name, role);
	END LOOP;
	FOR item IN
		SELECT t.oid::pg_catalog.regtype AS name
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_type t ON t.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND t.typtype IN ('b', 'c', 'd', 'e', 'r') AND t.typcategory <> 'A'
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
	LOOP
		EXECUTE pg_catalog.format('GRANT USAGE ON TYPE %s TO %I', item.name, role);
	END LOOP;
	FOR item IN
		SELECT c.oid::pg_catalog.regclass AS name, c.relname
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND c.relkind = 'v'
	LOOP
		EXECUTE pg_catalog.format('GRANT SELECT ON %s TO %I', item.name, role);
		IF item.relname = 'dead_letters' THEN
			EXECUTE pg_catalog.format('GRANT DELETE, UPDATE (fields) ON %s TO %I', item.name, role);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION streamsink.grant_access(name) IS 'lets a role define and watch pipelines: schema, functions, types and views, but no table; run it again after an update';

DO $$
DECLARE
	ext oid := (SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname = 'streamsink');
	item record;
BEGIN
	FOR item IN
		SELECT 'ROUTINE' AS kind, p.oid::pg_catalog.regprocedure::pg_catalog.text AS name
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc p ON p.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
		UNION ALL
		SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::pg_catalog.regclass::pg_catalog.text
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND c.relkind IN ('r', 'v', 'S')
		UNION ALL
		-- an array and a multirange follow their element and range
		SELECT 'TYPE', t.oid::pg_catalog.regtype::pg_catalog.text
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_type t ON t.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND t.typtype IN ('b', 'c', 'd', 'e', 'r') AND t.typcategory <> 'A'
		UNION
		-- before 17 row types of tables and views are no members; a column of such a type would block an update
		SELECT 'TYPE', c.reltype::pg_catalog.regtype::pg_catalog.text
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND c.relkind IN ('r', 'v')
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC', item.kind, item.name);
	END LOOP;
END
$$;

REVOKE ALL ON SCHEMA streamsink FROM PUBLIC;

-- Monitoring sees states and numbers of all pipelines, and none of their data.
GRANT USAGE ON SCHEMA streamsink TO pg_monitor;
GRANT SELECT ON streamsink.pipelines, streamsink.status, streamsink.workers, streamsink.streams TO pg_monitor;
GRANT EXECUTE ON FUNCTION streamsink.pipeline_status(int4), streamsink.worker_slots(),
	streamsink.stream_samples(int4), streamsink.statement(text) TO pg_monitor;
