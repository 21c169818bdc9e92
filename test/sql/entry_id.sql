-- The data type entry_id: limits, order, casts, ranges, indexes, binary form.
SET search_path = public, streamsink;
SET timezone = 'UTC';
SET datestyle = 'ISO, MDY';

-- input and output
SELECT '1712345678901-0'::entry_id, '1712345678901'::entry_id, '0-0'::entry_id, '007-01'::entry_id,
       '18446744073709551615-18446744073709551615'::entry_id;
SELECT ''::entry_id;
SELECT '-'::entry_id;
SELECT '1-'::entry_id;
SELECT '-1'::entry_id;
SELECT '+1-0'::entry_id;
SELECT ' 1-0'::entry_id;
SELECT '1-0 '::entry_id;
SELECT '1-2-3'::entry_id;
SELECT '1-*'::entry_id;
SELECT '$'::entry_id;
SELECT '18446744073709551616-0'::entry_id;
SELECT '0-18446744073709551616'::entry_id;
SELECT '99999999999999999999999999999999999999999'::entry_id;
\set VERBOSITY sqlstate
SELECT 'x'::entry_id;
\set VERBOSITY default

-- operators
SELECT '1-9'::entry_id < '1-10' AS "1-9 < 1-10", '1-9'::text COLLATE "C" < '1-10' AS "as text",
       '2-0'::entry_id > '1-18446744073709551615' AS "2-0 > 1-max";
SELECT a, b, a < b AS lt, a <= b AS le, a = b AS eq, a <> b AS ne, a >= b AS ge, a > b AS gt, entry_id_cmp(a, b) AS cmp
  FROM (VALUES ('1-1'::entry_id, '1-1'::entry_id), ('1-1', '1-2'), ('2-0', '1-5'), ('9223372036854775808-0', '1-0')) v (a, b);

-- order: 48 bits of the milliseconds and 16 of the sequence are compared first, then all
CREATE TABLE ids (id entry_id, n int);
INSERT INTO ids SELECT id::entry_id, row_number() OVER ()
  FROM unnest(ARRAY['18446744073709551615-18446744073709551615', '281474976710655-65536', '281474976710655-65535',
                    '281474976710656-0', '281474976710655-0', '1-65537', '1-65535', '1-65536', '1-10', '1-9', '1-1',
                    '0-1', '0-0', '9223372036854775808-5', '9223372036854775807-5', '10-0', '9-0']) id;
SELECT id FROM ids ORDER BY id;
SELECT id FROM ids ORDER BY id DESC LIMIT 3;
SELECT count(*) FROM (SELECT id, lag(id) OVER (ORDER BY id) AS before FROM ids) s WHERE before >= id;
SELECT min(id), max(id) FROM ids;
SELECT min(id), max(id) FROM ids WHERE false;

-- casts
SELECT '5-7'::entry_id::text, '5-7'::text::entry_id, ('5'::text)::entry_id;
SELECT 'no'::text::entry_id;
SELECT '1712345678901-3'::entry_id::timestamptz, '0-0'::entry_id::timestamptz, '946684800000'::entry_id::timestamptz;
SELECT '9224318015999999-0'::entry_id::timestamptz AS last_ms, '9224318016000000-0'::entry_id::timestamptz AS saturated,
       '18446744073709551615-0'::entry_id::timestamptz AS highest;
SELECT '2024-04-05 19:34:38.901999+00'::timestamptz::entry_id AS ms, '1999-12-31 23:59:59.9999+00'::timestamptz::entry_id AS before_2000,
       '1969-12-31 23:59:59+00'::timestamptz::entry_id AS before_1970, '-infinity'::timestamptz::entry_id AS lowest,
       'infinity'::timestamptz::entry_id AS highest, '294276-12-31 23:59:59.999999+00'::timestamptz::entry_id AS last;
SELECT entry_time('1712345678901-3'), entry_ms('18446744073709551615-1'), entry_seq('1-9223372036854775808'), entry_seq('1-7');
CREATE TABLE cast_targets (id entry_id, t text, at timestamptz);
INSERT INTO cast_targets SELECT '1-1'::text, '2-2'::entry_id, '3000-3'::entry_id;
SELECT * FROM cast_targets;
INSERT INTO cast_targets (id) SELECT now();
SELECT castsource::regtype, casttarget::regtype, castcontext, castmethod FROM pg_cast
 WHERE 'entry_id'::regtype IN (castsource, casttarget) ORDER BY 1, 2;

-- grouping and joining by hash, by merge and by index
INSERT INTO ids SELECT (i % 100 || '-' || i % 7)::entry_id, i FROM generate_series(100, 10099) i;
ANALYZE ids;
SET enable_sort = off;
SELECT count(*), sum(c) FROM (SELECT id, count(*) AS c FROM ids GROUP BY id) s;
RESET enable_sort;
SET enable_mergejoin = off;
SET enable_nestloop = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM ids a JOIN ids b USING (id);
SELECT count(*) FROM ids a JOIN ids b USING (id);
RESET enable_mergejoin;
SET enable_hashjoin = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM ids a JOIN ids b USING (id);
SELECT count(*) FROM ids a JOIN ids b USING (id);
RESET enable_hashjoin;
RESET enable_nestloop;
SELECT entry_id_hash('1-2') = entry_id_hash('1-2') AS same, entry_id_hash('1-2') = entry_id_hash('2-1') AS swapped,
       entry_id_hash_extended('1-2', 0)::bit(32) = entry_id_hash('1-2')::bit(32) AS seed_0,
       entry_id_hash_extended('1-2', 0) = entry_id_hash_extended('1-2', 1) AS seed_1;

CREATE INDEX ids_btree ON ids (id);
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT n FROM ids WHERE id = '1-65536';
SELECT n FROM ids WHERE id = '1-65536';
EXPLAIN (COSTS OFF) SELECT id FROM ids ORDER BY id DESC LIMIT 1;
SELECT min(id), max(id) FROM ids;
SELECT count(*) FROM ids WHERE id >= '98-0' AND id < '99-3';
DROP INDEX ids_btree;
SELECT count(*) FROM ids WHERE id >= '98-0' AND id < '99-3';
CREATE INDEX ids_hash ON ids USING hash (id);
EXPLAIN (COSTS OFF) SELECT n FROM ids WHERE id = '1-65536';
SELECT n FROM ids WHERE id = '1-65536';
RESET enable_bitmapscan;
RESET enable_seqscan;
CREATE TABLE ids_hashed (id entry_id PRIMARY KEY) PARTITION BY HASH (id);
CREATE TABLE ids_hashed_0 PARTITION OF ids_hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE ids_hashed_1 PARTITION OF ids_hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO ids_hashed SELECT DISTINCT id FROM ids;
INSERT INTO ids_hashed VALUES ('1-1'), ('77777-1') ON CONFLICT DO NOTHING;
SELECT count(*) FROM ids_hashed WHERE id IN ('1-1', '77777-1', '77777-2');

-- ranges: [a,b] is [a,next(b))
SELECT '[1-0,1-5]'::entry_id_range, '(1-0,1-5)'::entry_id_range, '[1-0,1-0]'::entry_id_range, '(1-0,1-1)'::entry_id_range;
SELECT '[1-0,1-18446744073709551615]'::entry_id_range AS next_ms,
       '[1-0,18446744073709551615-18446744073709551615]'::entry_id_range AS no_end,
       '[1-0,18446744073709551615-18446744073709551615)'::entry_id_range AS all_but_last,
       '(18446744073709551615-18446744073709551615,)'::entry_id_range AS nothing,
       '(1-18446744073709551615,3-0]'::entry_id_range AS from_next_ms,
       '(,5-0]'::entry_id_range AS no_begin, '(,)'::entry_id_range AS everything, 'empty'::entry_id_range AS empty;
SELECT '[2-0,1-0]'::entry_id_range;
SELECT '[1-0,x]'::entry_id_range;
SELECT entry_id_range('1-0', '2-0'), entry_id_range('1-0', '2-0', '[]'), entry_id_range(NULL, '2-0');
SELECT '[1-0,1-5]'::entry_id_range @> '1-5'::entry_id AS last, '[1-0,1-5]'::entry_id_range @> '1-6'::entry_id AS behind,
       '[1-0,18446744073709551615-18446744073709551615]'::entry_id_range @> '18446744073709551615-18446744073709551615'::entry_id AS highest,
       '[1-0,1-5]'::entry_id_range -|- '[1-6,2-0]'::entry_id_range AS touch,
       '[1-0,1-5]'::entry_id_range -|- '[1-7,2-0]'::entry_id_range AS apart,
       '[1-0,1-5]'::entry_id_range && '[1-5,2-0]'::entry_id_range AS overlap,
       '[1-0,1-5]'::entry_id_range = '[1-0,1-6)'::entry_id_range AS same;
SELECT entry_id_range_subdiff('5-0', '3-0'), entry_id_range_subdiff('3-0', '5-0'), entry_id_range_subdiff('1-0', '1-0'),
       entry_id_range_subdiff('1-9223372036854775808', '1-0'), entry_id_range_subdiff('18446744073709551615-0', '18446744073709551614-0');
CREATE TABLE spans (span entry_id_range);
INSERT INTO spans SELECT entry_id_range((i || '-0')::entry_id, (i + 2 || '-0')::entry_id, '[]') FROM generate_series(1, 1000) i;
CREATE INDEX spans_gist ON spans USING gist (span);
SET enable_seqscan = off;
SELECT count(*) FROM spans WHERE span @> '500-0'::entry_id;
RESET enable_seqscan;

-- multiranges: touching ranges are one
SELECT '{[1-0,1-5],[1-6,1-9],[2-0,2-0]}'::entry_id_multirange;
SELECT '{[1-0,1-5]}'::entry_id_multirange + '{[1-4,1-8]}' AS united, '{[1-0,1-9]}'::entry_id_multirange - '{[1-4,1-5]}' AS minus,
       '{[1-0,1-9]}'::entry_id_multirange * '{[1-9,3-0]}' AS common;
SELECT '{[1-0,1-5],[2-0,2-3]}'::entry_id_multirange @> '2-3'::entry_id AS inside, '{[1-0,1-5],[2-0,2-3]}'::entry_id_multirange @> '1-6'::entry_id AS between;
SELECT range_agg(span) FROM spans;
SELECT '[1-0,2-0]'::entry_id_range::entry_id_multirange, entry_id_multirange(), entry_id_multirange('[1-0,1-1]', '[1-2,1-3]');
SELECT unnest('{[1-0,1-5],[2-0,2-3]}'::entry_id_multirange);

-- binary form: two numbers in network byte order
SELECT entry_id_send('1-2'), entry_id_send('18446744073709551615-0'), entry_id_send('1712345678901-0');
CREATE TABLE copied (id entry_id, span entry_id_range, ids entry_id_multirange);
INSERT INTO copied VALUES ('18446744073709551615-18446744073709551615', '[1-2,3-4]', '{[1-0,1-5],[7-0,)}'), ('0-0', 'empty', '{}'), (NULL, NULL, NULL);
\getenv abs_builddir PG_ABS_BUILDDIR
\cd :abs_builddir
\copy copied to results/entry_id.bin (format binary)
CREATE TABLE copied_back (LIKE copied);
\copy copied_back from results/entry_id.bin (format binary)
SELECT * FROM copied_back;
-- half an id
\copy (SELECT 1::int8) to results/entry_id.bin (format binary)
CREATE TABLE too_short (id entry_id);
\copy too_short from results/entry_id.bin (format binary)

-- what every object of the types has: a comment; what every function of them is: strict, immutable, parallel safe
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE p.pronamespace = 'streamsink'::regnamespace AND (p.proname LIKE 'entry\_%' OR p.proname IN ('min', 'max'))
   AND (obj_description(p.oid, 'pg_proc') IS NULL OR p.provolatile <> 'i' OR p.proparallel <> 's'
        OR NOT p.proisstrict AND p.prokind = 'f' AND p.proname NOT IN ('entry_id_range', 'entry_id_multirange'));
SELECT o.oid::regoperator FROM pg_operator o
 WHERE o.oprnamespace = 'streamsink'::regnamespace
   AND (obj_description(o.oid, 'pg_operator') IS NULL OR oprcom = 0 OR oprnegate = 0 OR oprrest = 0 OR oprjoin = 0);
SELECT opcname, amname, opcdefault, obj_description(c.oid, 'pg_opclass') IS NOT NULL AS class_comment,
       obj_description(c.opcfamily, 'pg_opfamily') IS NOT NULL AS family_comment, amvalidate(c.oid) AS valid
  FROM pg_opclass c JOIN pg_am a ON a.oid = c.opcmethod WHERE opcintype = 'entry_id'::regtype ORDER BY amname;

DROP TABLE ids, cast_targets, ids_hashed, spans, copied, copied_back, too_short;
