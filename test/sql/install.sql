-- The extension installs, drops and installs again; the tests that follow use it.
CREATE EXTENSION streamsink;
DROP EXTENSION streamsink;
CREATE EXTENSION streamsink;

SELECT e.extversion, n.nspname AS schema, e.extrelocatable AS relocatable
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'streamsink';

SELECT pg_catalog.current_setting('shared_preload_libraries') LIKE '%streamsink%' AS preloaded;

-- what users see
SELECT c.relkind, pg_catalog.string_agg(c.relname, ' ' ORDER BY c.relname COLLATE "C") AS names
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_depend d ON d.objid = c.oid AND d.deptype = 'e'
WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.relnamespace = 'streamsink'::pg_catalog.regnamespace
GROUP BY c.relkind ORDER BY c.relkind;
SELECT DISTINCT p.proname AS function
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_depend d ON d.objid = p.oid AND d.deptype = 'e'
WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.pronamespace = 'streamsink'::pg_catalog.regnamespace
	AND p.proname !~ '^entry_id'
ORDER BY 1;

-- settings are there, and none that is misspelt
SELECT name, vartype, context FROM pg_catalog.pg_settings WHERE name LIKE 'streamsink.%' AND name NOT LIKE 'streamsink.fault%' ORDER BY name;
SET streamsink.no_such_setting = 1;
