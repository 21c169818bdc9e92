-- The ledger: append, load, fold, replace, delete, against a model in SQL.  Test builds only (STREAMSINK_TEST).
SET search_path = public, streamsink;
CREATE SCHEMA ledger_test;
CREATE FUNCTION ledger_test.append(pipeline int, streams int[], first entry_id[], last entry_id[], hash int8[]) RETURNS void
	AS '$libdir/streamsink', 'streamsink_test_ledger_append' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.replace(pipeline int, stream int, streams int[], first entry_id[], last entry_id[], hash int8[]) RETURNS void
	AS '$libdir/streamsink', 'streamsink_test_ledger_replace' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.fold(pipeline int, max_rows int) RETURNS int
	AS '$libdir/streamsink', 'streamsink_test_ledger_fold' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.delete_all(pipeline int) RETURNS void
	AS '$libdir/streamsink', 'streamsink_test_ledger_delete_all' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.intervals(pipeline int, stream int, only_it bool, OUT first entry_id, OUT last entry_id, OUT hash int8, OUT settled_at timestamptz) RETURNS SETOF record
	AS '$libdir/streamsink', 'streamsink_test_ledger_intervals' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.contains(pipeline int, stream int, id entry_id, loaded int) RETURNS bool
	AS '$libdir/streamsink', 'streamsink_test_ledger_contains' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.high(pipeline int, stream int) RETURNS text
	AS '$libdir/streamsink', 'streamsink_test_ledger_high' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.highs(pipeline int, streams int[]) RETURNS entry_id[]
	AS '$libdir/streamsink', 'streamsink_test_ledger_highs' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.segment(size int) RETURNS void
	AS '$libdir/streamsink', 'streamsink_test_ledger_segment' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.above(pipeline int, stream int, low entry_id, OUT first entry_id, OUT last entry_id, OUT hash int8, OUT settled_at timestamptz) RETURNS SETOF record
	AS '$libdir/streamsink', 'streamsink_test_ledger_above' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.folded(stream int, from_id entry_id, max int, OUT first entry_id, OUT last entry_id, OUT hash int8, OUT settled_at timestamptz) RETURNS SETOF record
	AS '$libdir/streamsink', 'streamsink_test_ledger_folded' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.join_gaps(pipeline int, stream int, before entry_id[], after entry_id[], empty bool[]) RETURNS int
	AS '$libdir/streamsink', 'streamsink_test_ledger_join' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.join_kinds(pipeline int, stream int, before entry_id[], after entry_id[], kind int[]) RETURNS int8[]
	AS '$libdir/streamsink', 'streamsink_test_ledger_join_kinds' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.newest(stream int, n int) RETURNS entry_id
	AS '$libdir/streamsink', 'streamsink_test_ledger_newest' LANGUAGE C STRICT;
CREATE FUNCTION ledger_test.prune(pipeline int, stream int, first_there entry_id, last_given entry_id, before timestamptz, max int) RETURNS int
	AS '$libdir/streamsink', 'streamsink_test_ledger_prune' LANGUAGE C STRICT;

-- nothing yet
SELECT * FROM ledger_test.intervals(-1, 1, true);
SELECT ledger_test.high(-1, 1), ledger_test.highs(-1, '{1,2}'), ledger_test.contains(-1, 1, '1-1', 1), ledger_test.fold(-1, 10);
-- a stream that was not loaded is not one without settled ids
SELECT ledger_test.contains(-1, 2, '1-1', 1);

-- the transaction sees what it appended itself; neighbours of two replies stay apart until folded
BEGIN;
SELECT ledger_test.append(-1, '{1,1,2}', '{10-0,10-5,7-0}', '{10-4,10-9,7-0}', '{104,109,70}');
SELECT first, last, hash FROM ledger_test.intervals(-1, 1, true);
SELECT ledger_test.high(-1, 1), ledger_test.high(-1, 2), ledger_test.highs(-1, '{2,3,1,2}');
SELECT ledger_test.contains(-1, 1, '10-9', 1) AS last, ledger_test.contains(-1, 1, '10-10', 1) AS behind, ledger_test.contains(-1, 1, '9-99', 1) AS before;
SELECT ledger_test.fold(-1, 10);
SELECT ledger_test.fold(-1, 10);
SELECT stream, segment, pipeline, lowest, highest, settled, hashes, cardinality(settled_at) AS times FROM ledger WHERE pipeline = -1 ORDER BY stream;
SELECT first, last, hash FROM ledger_test.intervals(-1, 1, false);
ROLLBACK;
SELECT count(*) FROM ledger_log WHERE pipeline = -1;

-- a union keeps the hash of the part that ends last, wherever the parts are
SELECT ledger_test.append(-1, '{1}', '{10-0}', '{20-0}', '{200}');
SELECT ledger_test.fold(-1, 10);
SELECT ledger_test.append(-1, '{1,1,1}', '{12-0,19-0,30-0}', '{13-0,25-0,30-0}', '{130,250,300}');
SELECT first, last, hash FROM ledger_test.intervals(-1, 1, true);
SELECT ledger_test.fold(-1, 10);
SELECT settled, hashes FROM ledger WHERE pipeline = -1;
SELECT ledger_test.append(-1, '{1}', '{25-0}', '{25-0}', '{0}');
SELECT first, last, hash FROM ledger_test.intervals(-1, 1, true);

-- the ends of what is possible
SELECT ledger_test.append(-1, '{5,5,5,5}', '{0-0,3-18446744073709551615,4-0,18446744073709551615-18446744073709551615}',
	'{0-0,3-18446744073709551615,4-0,18446744073709551615-18446744073709551615}', '{1,2,3,-4}');
SELECT ledger_test.fold(-1, 10);
SELECT stream, settled, hashes FROM ledger WHERE pipeline = -1 ORDER BY stream;
SELECT first, last, hash FROM ledger_test.intervals(-1, 5, true);
SELECT ledger_test.high(-1, 5), ledger_test.contains(-1, 5, '18446744073709551615-18446744073709551615', 5) AS highest,
	ledger_test.contains(-1, 5, '18446744073709551615-18446744073709551614', 5) AS below;

-- replace joins what touches, and removes a row without intervals
SELECT ledger_test.replace(-1, 5, '{5,5,5}', '{8-0,1-1,1-0}', '{9-0,1-1,1-0}', '{90,11,10}');
SELECT settled, hashes FROM ledger WHERE stream = 5;
SELECT ledger_test.replace(-1, 5, '{}', '{}', '{}', '{}');
SELECT count(*) FROM ledger WHERE stream = 5;
SELECT ledger_test.replace(-1, 6, '{6}', '{8-0}', '{9-0}', '{90}');
SELECT settled, hashes FROM ledger WHERE stream = 6;
SELECT ledger_test.replace(-1, 6, '{7}', '{8-0}', '{9-0}', '{90}');
SELECT ledger_test.append(-1, '{1}', '{2-0}', '{1-0}', '{0}');
-- the row of a stream belongs to one pipeline
SELECT ledger_test.append(-2, '{6}', '{1-0}', '{1-0}', '{0}');
SELECT ledger_test.fold(-2, 10);

-- damage is reported, not read past
BEGIN;
UPDATE ledger SET hashes = '{1,2}' WHERE stream = 6;
SELECT * FROM ledger_test.intervals(-1, 6, true);
ROLLBACK;
BEGIN;
UPDATE ledger SET settled_at = '{}' WHERE stream = 6;
SELECT * FROM ledger_test.intervals(-1, 6, true);
ROLLBACK;
BEGIN;
UPDATE ledger SET hashes = '{{1}}' WHERE stream = 6;
SELECT * FROM ledger_test.intervals(-1, 6, true);
ROLLBACK;
BEGIN;
UPDATE ledger SET hashes = '{NULL}' WHERE stream = 6;
SELECT * FROM ledger_test.intervals(-1, 6, true);
ROLLBACK;
BEGIN;
UPDATE ledger SET settled = '{}' WHERE stream = 6;
SELECT * FROM ledger_test.intervals(-1, 6, true);
ROLLBACK;
BEGIN;
UPDATE ledger SET settled = '{}', hashes = '{}', settled_at = '{}' WHERE stream = 6;
SELECT * FROM ledger_test.intervals(-1, 6, true);
ROLLBACK;
BEGIN;
UPDATE ledger SET settled = '{(,0-0)}' WHERE stream = 6;
SELECT * FROM ledger_test.intervals(-1, 6, true);
ROLLBACK;
BEGIN;
UPDATE ledger SET lowest = '8-1' WHERE stream = 6;
SELECT * FROM ledger_test.intervals(-1, 6, true);
ROLLBACK;
BEGIN;
UPDATE ledger SET highest = '9-1' WHERE stream = 6;
SELECT * FROM ledger_test.intervals(-1, 6, true);
ROLLBACK;
BEGIN;
INSERT INTO ledger SELECT stream, 0, pipeline, lowest, highest, settled, hashes, settled_at FROM ledger WHERE stream = 6;
SELECT * FROM ledger_test.intervals(-1, 6, true);
ROLLBACK;
BEGIN;
INSERT INTO ledger SELECT stream, 2, pipeline, lowest, highest, settled, hashes, settled_at FROM ledger WHERE stream = 6;
SELECT ledger_test.replace(-1, 6, '{6}', '{8-0}', '{9-0}', '{90}');
ROLLBACK;
BEGIN;
UPDATE ledger_log SET intervals = substr(intervals, 2) WHERE pipeline = -2;
SELECT * FROM ledger_test.intervals(-2, 6, true);
ROLLBACK;
BEGIN;
UPDATE ledger_log SET intervals = set_byte(intervals, 5, 255) WHERE pipeline = -2;
SELECT ledger_test.fold(-2, 10);
ROLLBACK;
\set VERBOSITY sqlstate
BEGIN;
UPDATE ledger_log SET intervals = '\x00' WHERE pipeline = -2;
SELECT ledger_test.highs(-2, '{6}');
ROLLBACK;
\set VERBOSITY default

-- the form of the log, byte by byte
SELECT ledger_test.append(-3, '{258,-1}', '{1-2,0-0}', '{3-4,18446744073709551615-5}', '{-2,72623859790382856}');
SELECT pipeline, intervals FROM ledger_log WHERE pipeline = -3;

SELECT ledger_test.delete_all(-1), ledger_test.delete_all(-2), ledger_test.delete_all(-3);
SELECT (SELECT count(*) FROM ledger WHERE pipeline < 0) AS ledger, (SELECT count(*) FROM ledger_log WHERE pipeline < 0) AS log;

-- segments: what is new fills the last one, then begins another
SELECT ledger_test.segment(4);
CREATE FUNCTION ledger_test.settle(stream int, VARIADIC ms int[]) RETURNS int LANGUAGE sql AS $$
	SELECT ledger_test.append(-4, array_agg(stream), array_agg((m || '-0')::entry_id), array_agg((m || '-0')::entry_id), array_agg(m::int8)) FROM unnest(ms) m;
	SELECT ledger_test.fold(-4, 1000);
$$;
CREATE VIEW ledger_test.segments AS
	SELECT stream, segment, lowest, highest, (SELECT string_agg(split_part(lower(r)::text, '-', 1) || CASE WHEN upper(r) <> (split_part(lower(r)::text, '-', 1) || '-1')::entry_id THEN '..' || upper(r) ELSE '' END, ' ') FROM unnest(settled) r) AS settled,
		hashes FROM ledger WHERE pipeline = -4 ORDER BY stream, segment;
CREATE FUNCTION ledger_test.places() RETURNS TABLE (segment int, place tid) LANGUAGE sql AS 'SELECT segment, ctid FROM streamsink.ledger WHERE pipeline = -4 ORDER BY stream, segment';
SELECT ledger_test.settle(1, 10, 20, 30);
SELECT ledger_test.settle(1, 40, 50, 60, 70, 80, 90);
SELECT * FROM ledger_test.segments;
-- only what it overlaps is written again
CREATE TABLE ledger_test.before AS SELECT * FROM ledger_test.places();
SELECT ledger_test.settle(1, 100);
SELECT * FROM ledger_test.segments;
SELECT segment, p.place = b.place AS untouched FROM ledger_test.places() p JOIN ledger_test.before b USING (segment) ORDER BY segment;
-- something old into a full one: it is split, those behind it move up
SELECT ledger_test.settle(1, 25);
SELECT * FROM ledger_test.segments;
-- between two, before the first, twice in one fold, and into a segment with room
SELECT ledger_test.settle(1, 45, 5, 1, 62, 64);
SELECT * FROM ledger_test.segments;
-- one that covers some of them, and touches the next
SELECT ledger_test.append(-4, '{1}', '{22-0}', '{59-18446744073709551615}', '{5900}');
SELECT ledger_test.fold(-4, 10);
SELECT * FROM ledger_test.segments;
-- what is asked for
SELECT first, last FROM ledger_test.above(-4, 1, '80-0');
SELECT first, last FROM ledger_test.above(-4, 1, '81-0');
SELECT first, last FROM ledger_test.above(-4, 1, '200-0');
SELECT first, last FROM ledger_test.folded(1, '61-0', 2);
SELECT first, last FROM ledger_test.folded(1, '0-0', 3);
SELECT first, last FROM ledger_test.folded(1, '101-0', 3);
SELECT first, last FROM ledger_test.folded(2, '0-0', 3);
-- replacing: more segments, fewer, none
SELECT ledger_test.replace(-4, 1, array_agg(1), array_agg((i || '-0')::entry_id), array_agg((i || '-0')::entry_id), array_agg(i::int8)) FROM generate_series(1, 22) i;
SELECT * FROM ledger_test.segments;
SELECT ledger_test.replace(-4, 1, array_agg(1), array_agg((i || '-0')::entry_id), array_agg((i || '-0')::entry_id), array_agg(i::int8)) FROM generate_series(1, 6) i;
SELECT * FROM ledger_test.segments;
SELECT ledger_test.replace(-4, 1, '{}', '{}', '{}', '{}');
SELECT * FROM ledger_test.segments;

-- joining: only exact neighbours, only where the gap is empty
SELECT ledger_test.settle(1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110);
SELECT ledger_test.settle(2, 10, 20);
SELECT ledger_test.join_gaps(-4, 1, '{20-0,30-0,40-0,70-0}', '{30-0,41-0,50-0,80-0}', '{t,t,f,t}');
SELECT * FROM ledger_test.segments;
SELECT ledger_test.join_gaps(-4, 1, '{20-0,21-0}', '{30-0,22-0}', '{t,t}');
SELECT ledger_test.join_gaps(-4, 1, '{40-0}', '{50-0}', '{t}');
SELECT * FROM ledger_test.segments;
-- over several segments, all in one; the neighbour stream is left alone
SELECT ledger_test.join_gaps(-4, 1, array_agg(last ORDER BY last), array_agg(next ORDER BY last), array_agg(true))
  FROM (SELECT last, lead(first) OVER (ORDER BY last) AS next FROM ledger_test.folded(1, '0-0', 1000)) g WHERE next IS NOT NULL;
SELECT * FROM ledger_test.segments;
SELECT ledger_test.join_gaps(-4, 3, '{20-0}', '{30-0}', '{t}');
SELECT ledger_test.join_gaps(-4, 2, '{18446744073709551615-18446744073709551615}', '{0-0}', '{t}');
SELECT ledger_test.delete_all(-4);
SELECT * FROM ledger_test.segments;

-- kinds of gaps: kept (0), empty, unseen, foreign, each counted where it was joined
SELECT ledger_test.settle(1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100);
SELECT ledger_test.join_kinds(-4, 1, '{10-0,20-0,30-0,40-0,60-0,70-0,80-0}', '{20-0,30-0,40-0,50-0,70-0,80-0,91-0}', '{1,2,3,0,2,2,3}');
SELECT * FROM ledger_test.segments;
-- where the newest intervals begin, over segments and in them
SELECT n, ledger_test.newest(1, n) FROM generate_series(-1, 6) n;
SELECT ledger_test.newest(2, 1);

-- forgetting: what ends before an id and is old, lowest first, and never the newest one
SELECT ledger_test.delete_all(-4);
SELECT ledger_test.settle(1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100);
SELECT ledger_test.settle(2, 10, 20);
SELECT ledger_test.prune(-4, 1, '55-0', '100-0', now() - interval '1 day', 100) AS young, ledger_test.prune(-4, 1, '10-0', '100-0', 'infinity', 100) AS there,
	ledger_test.prune(-4, 1, '55-0', '99-0', 'infinity', 100) AS went_back, ledger_test.prune(-4, 7, '55-0', '99-0', 'infinity', 100) AS none;
SELECT ledger_test.prune(-4, 1, '31-0', '100-0', 'infinity', 100);
SELECT * FROM ledger_test.segments;
SELECT ledger_test.prune(-4, 1, '61-0', '100-0', 'infinity', 1) AS one_piece, ledger_test.prune(-4, 1, '61-0', '100-0', 'infinity', 100) AS the_rest;
SELECT * FROM ledger_test.segments;
-- one that reaches beyond the id stays whole
SELECT ledger_test.join_kinds(-4, 1, '{70-0}', '{80-0}', '{1}');
SELECT ledger_test.prune(-4, 1, '75-0', '100-0', 'infinity', 100), ledger_test.prune(-4, 1, '200-0', '300-0', 'infinity', 100);
SELECT * FROM ledger_test.segments;
-- and it goes on behind what is left
SELECT ledger_test.settle(1, 110, 120, 5);
SELECT * FROM ledger_test.segments;
SELECT ledger_test.delete_all(-4);

-- at random: what was appended, in a table, is what is loaded, before, between and after folds
CREATE TABLE ledger_test.model (stream int, first entry_id, last entry_id, hash int8, n int);
SELECT setseed(0.42) IS NOT NULL AS seeded;
CREATE PROCEDURE ledger_test.compare(OUT wrong bigint, OUT enough bool, size int DEFAULT 5) LANGUAGE plpgsql AS $$
DECLARE
	s int;
	d int;
	seen int := 0;
BEGIN
	wrong := 0;
	FOR s IN SELECT generate_series(1, 40) LOOP
		-- the same ids
		SELECT count(*) INTO d
		  FROM (SELECT coalesce(range_agg(entry_id_range(first, last, '[]')), '{}') AS set FROM ledger_test.model WHERE stream = s) m,
		       (SELECT coalesce(range_agg(entry_id_range(first, last, '[]')), '{}') AS set FROM ledger_test.intervals(-7, s, s % 2 = 0)) l
		 WHERE m.set <> l.set;
		wrong := wrong + d;
		-- in order and disjoint, each with the hash of what ends there
		SELECT count(*) FILTER (WHERE i.first > i.last OR i.first <= i.before
		                        OR i.hash IS DISTINCT FROM (SELECT max(m.hash) FROM ledger_test.model m WHERE m.stream = s AND m.last = i.last)),
		       count(*) + seen
		  INTO d, seen
		  FROM (SELECT *, lag(last) OVER () AS before FROM ledger_test.intervals(-7, s, s % 2 = 1)) i;
		wrong := wrong + d;
	END LOOP;
	-- the highest
	SELECT count(*) INTO d
	  FROM (SELECT streams[1 : 3 + 37 * many] AS streams, ledger_test.highs(-7, streams[1 : 3 + 37 * many]) AS highs
	          FROM (SELECT array_agg(i ORDER BY i) AS streams FROM generate_series(1, 40) i) a, generate_series(0, 1) many) h,
	       unnest(h.streams, h.highs) u (stream, high)
	 WHERE high <> coalesce((SELECT max(last) FROM ledger_test.model m WHERE m.stream = u.stream), '0-0');
	wrong := wrong + d;
	-- from some id on
	SELECT count(*) INTO d
	  FROM (SELECT i AS stream, ((i * 97) % 600 || '-1')::entry_id AS low FROM generate_series(1, 40) i) a,
	       LATERAL (SELECT coalesce(range_agg(entry_id_range(first, last, '[]')), '{}') * entry_id_multirange(entry_id_range(low, NULL)) AS set FROM ledger_test.model m WHERE m.stream = a.stream) m,
	       LATERAL (SELECT coalesce(range_agg(entry_id_range(first, last, '[]')), '{}') * entry_id_multirange(entry_id_range(low, NULL)) AS set FROM ledger_test.above(-7, a.stream, low)) l
	 WHERE m.set <> l.set;
	wrong := wrong + d;
	-- segments: in order, not larger than they may be, with the ends they say
	SELECT count(*) INTO d
	  FROM (SELECT *, lag(highest) OVER (PARTITION BY stream ORDER BY segment) AS before FROM streamsink.ledger WHERE pipeline = -7) l
	 WHERE cardinality(hashes) > size OR lowest <= before OR lower(settled) <> lowest OR NOT settled @> highest OR upper(settled) <= highest;
	wrong := wrong + d;
	-- rows: as many hashes and times as ranges
	SELECT count(*) INTO d FROM streamsink.ledger l
	 WHERE l.pipeline = -7 AND ((SELECT count(*) FROM unnest(l.settled)) <> cardinality(l.hashes) OR cardinality(l.hashes) <> cardinality(l.settled_at));
	wrong := wrong + d;
	enough := seen > 100;
END $$;
CREATE PROCEDURE ledger_test.append_some(batches int, span int) LANGUAGE plpgsql AS $$
DECLARE
	base int;
BEGIN
	base := coalesce((SELECT max(n) FROM ledger_test.model), 0);
	FOR b IN base + 1 .. base + batches LOOP
		INSERT INTO ledger_test.model
		SELECT 1 + (random() * 39)::int % (1 + b % 40), (ms || '-' || seq)::entry_id, (ms + wide || '-' || seq + (random() * 3)::int)::entry_id, 0, b
		  FROM (SELECT (random() * span)::int AS ms, (random() * 3)::int AS seq, (random() * random() * 4)::int AS wide
		          FROM generate_series(1, 1 + (random() * 4)::int)) r;
		-- equal ends have equal hashes, as they are the same entry's
		UPDATE ledger_test.model SET hash = entry_id_hash_extended(last, stream) WHERE n = b;
		PERFORM ledger_test.append(-7, array_agg(stream), array_agg(first), array_agg(last), array_agg(hash)) FROM ledger_test.model WHERE n = b;
	END LOOP;
END $$;
SELECT ledger_test.segment(5);
CALL ledger_test.append_some(100, 60);
CALL ledger_test.compare(NULL, NULL);
SELECT ledger_test.fold(-7, 33);
CALL ledger_test.compare(NULL, NULL);
SELECT ledger_test.fold(-7, 1000);
CALL ledger_test.compare(NULL, NULL);
CALL ledger_test.append_some(300, 500);
SELECT ledger_test.fold(-7, 150);
CALL ledger_test.compare(NULL, NULL);
CALL ledger_test.append_some(600, 4000);
CALL ledger_test.compare(NULL, NULL);
SELECT ledger_test.fold(-7, 400);
CALL ledger_test.compare(NULL, NULL);
SELECT ledger_test.fold(-7, 1000);
CALL ledger_test.compare(NULL, NULL);
SELECT count(*) > 40 AS many_segments FROM ledger WHERE pipeline = -7;
-- joined at random; what lies between counts as settled then
CREATE FUNCTION ledger_test.join_some(part float) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	s int;
	g record;
	joined bigint := 0;
BEGIN
	FOR s IN SELECT generate_series(1, 40) LOOP
		SELECT array_agg(last ORDER BY last) AS before, array_agg(next ORDER BY last) AS after, array_agg(random() < 0.8) AS empty INTO g
		  FROM (SELECT last, lead(first) OVER (ORDER BY last) AS next FROM ledger_test.folded(s, '0-0', 1000000)) p WHERE next IS NOT NULL AND random() < part;
		CONTINUE WHEN g.before IS NULL;
		joined := joined + ledger_test.join_gaps(-7, s, g.before, g.after, g.empty);
		IF ledger_test.join_gaps(-7, s, g.before, g.after, g.empty) <> 0 THEN
			RAISE 'joined twice';
		END IF;
		INSERT INTO ledger_test.model
		SELECT s, b, a, (SELECT max(m.hash) FROM ledger_test.model m WHERE m.stream = s AND m.last = i.last), -1
		  FROM unnest(g.before, g.after, g.empty) u (b, a, e), LATERAL (SELECT last FROM ledger_test.intervals(-7, s, true) WHERE a BETWEEN first AND last) i WHERE e;
	END LOOP;
	RETURN joined;
END $$;
SELECT ledger_test.join_some(0.3) > 10 AS some;
CALL ledger_test.compare(NULL, NULL);
CALL ledger_test.append_some(200, 6000);
SELECT ledger_test.fold(-7, 1000);
CALL ledger_test.compare(NULL, NULL);
SELECT ledger_test.join_some(0.9) > 10 AS many;
CALL ledger_test.compare(NULL, NULL);
-- forgotten at random, in pieces
CREATE FUNCTION ledger_test.prune_some(part float) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	s int;
	pruned bigint := 0;
	here int;
	bound entry_id;
	high entry_id;
BEGIN
	FOR s IN SELECT generate_series(1, 40) LOOP
		high := (ledger_test.highs(-7, ARRAY[s]))[1];
		bound := ((random() * part * 5000)::int || '-0')::entry_id;
		IF ledger_test.newest(s, 3) IS DISTINCT FROM coalesce((SELECT first FROM ledger_test.folded(s, '0-0', 1000000) WHERE first IS NOT NULL ORDER BY first DESC OFFSET 2 LIMIT 1), '0-0') THEN
			RAISE 'the newest ones of stream % are others', s;
		END IF;
		-- what ends before the bound goes, but for the newest
		DELETE FROM ledger_test.model m WHERE m.stream = s
			AND EXISTS (SELECT FROM ledger_test.folded(s, '0-0', 1000000) i WHERE m.first >= i.first AND m.last <= i.last AND i.last < bound AND i.last < high);
		LOOP
			here := ledger_test.prune(-7, s, bound, high, 'infinity', 1 + (random() * 5)::int);
			EXIT WHEN here = 0;
			pruned := pruned + here;
		END LOOP;
	END LOOP;
	RETURN pruned;
END $$;
CALL ledger_test.append_some(200, 6000);
SELECT ledger_test.fold(-7, 1000) AS folded;
SELECT ledger_test.prune_some(0.5) > 10 AS some;
CALL ledger_test.compare(NULL, NULL);
CALL ledger_test.append_some(50, 6000);
SELECT ledger_test.fold(-7, 1000) AS folded;
CALL ledger_test.compare(NULL, NULL);
-- and single ids
SELECT count(*) AS asked, count(*) FILTER (WHERE ledger_test.contains(-7, stream, id, stream) <>
	EXISTS (SELECT FROM ledger_test.model m WHERE m.stream = i.stream AND id BETWEEN first AND last)) AS wrong
  FROM (SELECT 1 + i % 40 AS stream, (i % 61 || '-' || i % 5)::entry_id AS id FROM generate_series(1, 2000) i) i;

-- many intervals at once: rows are split, a fold takes what it can
SELECT ledger_test.delete_all(-7);
SELECT ledger_test.segment(1024);
SELECT ledger_test.append(-7, array_agg(1 + i % 3), array_agg((i || '-0')::entry_id), array_agg((i || '-0')::entry_id), array_agg(i))
  FROM generate_series(1, 300000) i;
SELECT count(*), sum(length(intervals)) FROM ledger_log WHERE pipeline = -7;
SELECT count(*), min(first), max(last), sum(hash) FROM ledger_test.intervals(-7, 1, true);
SELECT ledger_test.fold(-7, 1000);
SELECT ledger_test.fold(-7, 1000);
SELECT ledger_test.fold(-7, 1000);
SELECT count(*), min(first), max(last), sum(hash) FROM ledger_test.intervals(-7, 1, true);
SELECT ledger_test.highs(-7, '{1,2,3}');
SELECT stream, count(*), min(segment), max(segment), min(cardinality(hashes)), max(cardinality(hashes)) FROM ledger WHERE pipeline = -7 GROUP BY stream ORDER BY stream;
SELECT ledger_test.delete_all(-7);

-- An entry now and then: a last segment that has enough is left alone, and the set is exact.
SELECT ledger_test.segment(512);
DO $$
BEGIN
	FOR i IN 1 .. 150 LOOP
		PERFORM ledger_test.append(-8, ARRAY[9], ARRAY[(i * 10 || '-0')::entry_id], ARRAY[(i * 10 || '-0')::entry_id], ARRAY[i]);
		PERFORM ledger_test.fold(-8, 10);
	END LOOP;
END $$;
SELECT segment, lowest, highest, cardinality(hashes) FROM ledger WHERE pipeline = -8 ORDER BY segment;
-- an old one still goes where it belongs
SELECT ledger_test.append(-8, '{9,9,9}', '{5-0,645-0,1500-1}', '{5-0,645-0,1500-9}', '{1,2,3}');
SELECT ledger_test.fold(-8, 10);
SELECT segment, lowest, highest, cardinality(hashes) FROM ledger WHERE pipeline = -8 ORDER BY segment;
SELECT count(*), sum(hash) FROM ledger_test.intervals(-8, 9, true);
SELECT ledger_test.delete_all(-8);

SET client_min_messages = warning;
DROP SCHEMA ledger_test CASCADE;
