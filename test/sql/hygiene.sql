-- Rules that every object of the extension keeps.  Each query lists what breaks
-- its rule: all of them are empty.
CREATE TEMP VIEW member AS
	SELECT d.classid, d.objid, pg_catalog.pg_describe_object(d.classid, d.objid, 0) AS object
	FROM pg_catalog.pg_depend d
	WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
		AND d.refobjid = (SELECT oid FROM pg_catalog.pg_extension WHERE extname = 'streamsink');
CREATE TEMP VIEW func AS
	SELECT p.*, p.oid::pg_catalog.regprocedure AS signature
	FROM pg_catalog.pg_proc p JOIN member m ON m.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND m.objid = p.oid;

-- the queries below look at something
SELECT count(*) > 50 AS objects FROM member;
SELECT count(*) > 20 AS functions FROM func;

-- every object has a comment (apart from what comes with a type or a relation: a range's constructors, arrays, row types)
SELECT m.object AS without_comment
FROM member m
WHERE pg_catalog.obj_description(m.objid, m.classid::pg_catalog.regclass::text) IS NULL
	AND NOT (m.classid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_type'::pg_catalog.regclass) AND EXISTS (
		SELECT FROM pg_catalog.pg_depend d
		WHERE d.classid = m.classid AND d.objid = m.objid AND d.deptype = 'i'
			AND d.refclassid IN ('pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass)))
ORDER BY 1;

-- everything lives in schema streamsink
SELECT m.object AS elsewhere
FROM member m
WHERE m.classid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass,
		'pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass)
	AND (pg_catalog.pg_identify_object(m.classid, m.objid, 0)).schema IS DISTINCT FROM 'streamsink'
ORDER BY 1;

-- nothing is granted to PUBLIC
SELECT 'function ' || signature::text AS granted_to_public
FROM func, pg_catalog.aclexplode(coalesce(proacl, pg_catalog.acldefault('f', proowner))) a
WHERE a.grantee = 0
UNION
SELECT 'relation ' || c.oid::pg_catalog.regclass::text
FROM pg_catalog.pg_class c JOIN member m ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.objid = c.oid,
	pg_catalog.aclexplode(c.relacl) a
WHERE a.grantee = 0
UNION
SELECT 'column of ' || t.attrelid::pg_catalog.regclass::text
FROM pg_catalog.pg_attribute t JOIN member m ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.objid = t.attrelid,
	pg_catalog.aclexplode(t.attacl) a
WHERE a.grantee = 0
UNION
SELECT 'type ' || t.oid::pg_catalog.regtype::text
FROM pg_catalog.pg_type t
	JOIN member m ON m.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND m.objid = t.oid
		OR m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.objid = t.typrelid,
	pg_catalog.aclexplode(coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))) a
WHERE a.grantee = 0 AND t.typtype <> 'm' AND t.typcategory <> 'A'
UNION
SELECT 'schema ' || n.nspname
FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
WHERE n.nspname = 'streamsink' AND a.grantee = 0
UNION
SELECT 'wrapper ' || w.fdwname
FROM pg_catalog.pg_foreign_data_wrapper w, pg_catalog.aclexplode(w.fdwacl) a
WHERE w.fdwname = 'streamsink' AND a.grantee = 0
ORDER BY 1;

-- nothing runs with somebody else's rights; SQL bodies have their search_path pinned
SELECT signature AS security_definer FROM func WHERE prosecdef ORDER BY signature::text;
SELECT signature AS search_path_not_pinned
FROM func JOIN pg_catalog.pg_language l ON l.oid = prolang
WHERE l.lanname NOT IN ('c', 'internal')
	AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)
ORDER BY signature::text;

-- argument names can stand before =>
SELECT f.signature, a.name AS argument
FROM func f,
	LATERAL ROWS FROM (pg_catalog.unnest(f.proargnames), pg_catalog.unnest(f.proargmodes)) AS a (name, mode)
	JOIN pg_catalog.pg_get_keywords() k ON k.word = a.name
WHERE coalesce(a.mode, 'i') IN ('i', 'b', 'v') AND k.catcode IN ('C', 'R')
ORDER BY f.signature::text, a.name;

-- a function with two or more arguments names all of them (functions behind types, operators and casts apart)
SELECT f.signature AS unnamed_arguments
FROM func f
WHERE f.pronargs >= 2 AND '' = ANY (coalesce(f.proargnames, ARRAY['']))
	AND f.proname NOT LIKE 'entry\_id%' AND f.proname NOT LIKE 'fdw%'
ORDER BY f.signature::text;

-- every table and sequence is dumped with its rows, but for what is about this server only
SELECT c.oid::pg_catalog.regclass AS not_dumped
FROM pg_catalog.pg_class c JOIN member m ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.objid = c.oid
WHERE c.relkind IN ('r', 'S', 'p')
	AND NOT c.oid = ANY ((SELECT extconfig FROM pg_catalog.pg_extension WHERE extname = 'streamsink')::oid[])
ORDER BY c.relname;

-- no code of anybody's runs when the tables are written; what stops others from writing them does
SELECT t.tgrelid::pg_catalog.regclass AS has_trigger, t.tgname
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
	JOIN member m ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.objid = t.tgrelid
WHERE c.relkind <> 'v' AND t.tgfoid <> 'streamsink.refuse_write'::pg_catalog.regproc
ORDER BY 1, 2;
SELECT c.oid::pg_catalog.regclass AS not_guarded
FROM pg_catalog.pg_class c JOIN member m ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.objid = c.oid
WHERE c.relkind = 'r' AND NOT EXISTS (
	SELECT FROM pg_catalog.pg_trigger t
	WHERE t.tgrelid = c.oid AND t.tgfoid = 'streamsink.refuse_write'::pg_catalog.regproc AND t.tgenabled = 'O')
ORDER BY c.relname;
SELECT c.conrelid::pg_catalog.regclass AS has_constraint, c.conname
FROM pg_catalog.pg_constraint c
	JOIN member m ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.objid = c.conrelid
WHERE c.contype NOT IN ('p', 'u', 'n')
ORDER BY 1, 2;

-- no function trips over NULLs: an error of the user's, or a result, never an internal one
DO $$
DECLARE
	f record;
	call text;
BEGIN
	FOR f IN
		SELECT p.oid, p.proname, p.prokind, p.proargtypes
		FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname = 'streamsink' AND p.prokind IN ('f', 'p')
			AND p.prorettype NOT IN ('trigger'::pg_catalog.regtype, 'event_trigger'::pg_catalog.regtype)
			AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proargtypes) t WHERE t IN ('internal'::pg_catalog.regtype, 'cstring'::pg_catalog.regtype))
		ORDER BY p.proname, p.oid
	LOOP
		SELECT pg_catalog.format('%s streamsink.%I(%s)', CASE f.prokind WHEN 'p' THEN 'CALL' ELSE 'SELECT' END, f.proname,
			pg_catalog.string_agg('NULL::' || t.type::pg_catalog.regtype::text, ', ' ORDER BY t.n))
		INTO call
		FROM pg_catalog.unnest(f.proargtypes) WITH ORDINALITY AS t (type, n);
		BEGIN
			EXECUTE call;
			RAISE EXCEPTION USING ERRCODE = 'P0004', MESSAGE = 'undo';
		EXCEPTION
			WHEN assert_failure THEN NULL;
			WHEN internal_error THEN RAISE WARNING '%: %', call, SQLERRM;
			WHEN OTHERS THEN NULL;
		END;
	END LOOP;
END
$$;
