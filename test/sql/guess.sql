-- Types that are guessed from values.  Test builds only (STREAMSINK_TEST).
CREATE SCHEMA guess_test;
SET search_path = guess_test;
CREATE FUNCTION guess(texts text[], members bool) RETURNS regtype
	AS '$libdir/streamsink', 'streamsink_test_guess' LANGUAGE C STRICT;
-- the type for each value by itself, for fields and for members of a payload
CREATE FUNCTION each(members bool, VARIADIC texts text[], OUT type regtype, OUT texts text) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT guess(ARRAY[t], members), string_agg(quote_literal(t), ' ' ORDER BY n) FROM unnest(texts) WITH ORDINALITY u (t, n)
	GROUP BY 1 ORDER BY min(n) $$;
\pset format unaligned

-- booleans: as JSON writes them
SELECT * FROM each(false, 'true', 'false', 'TRUE', 't', 'yes', 'on', ' true', '');
-- integers
SELECT * FROM each(false, '0', '7', '-7', '999999999999999', '1000000000000000', '9223372036854775807', '-9223372036854775808',
	'9223372036854775808', '-9223372036854775809', '123456789012345678901234567890',
	'-0', '007', '-007', '00', '+1', ' 1', '1 ', '1_000', '1,000', '0x10', '--1', '-', '١');
-- fractions and exponents: no digit is lost
SELECT * FROM each(false, '0.5', '-12.50', '.5', '5.', '0.0', '1e3', '1E-7', '1.5e+300', '123456789.123456', '0.1234567890123456789', '3.141592653589793',
	'0.30000000000000004', '0.30000000000000003', '9007199254740993.0', '9007199254740992.0', '1e400', '-1e-400', '2.2250738585072011e-308', '1e1000', '1e1001', '1e99999999999', '0e99999999999',
	'1.5.2', '1.2.3.4', '.', '-.', 'e5', '1e', '1e+', '1e5.', 'NaN', 'Infinity', '-inf', '1d', '00.5', '1.5f', '1.5%');
SELECT guess(ARRAY[repeat('9', 1000)], false), guess(ARRAY[repeat('9', 1001)], false), guess(ARRAY['0.' || repeat('1', 900)], false);
-- times: ISO 8601 with date and time
SELECT * FROM each(false, '2024-05-01T12:00:00Z', '2024-05-01 12:00:00', '2024-05-01T12:00:00.123456+02:00', '2024-05-01T12:00:00.1234560-0330', '2024-05-01T12:00+02', '2024-02-29T23:59:59Z', '0001-01-01T00:00:00Z',
	'2024-05-01T12:00:00.123456789Z', '2023-02-29T00:00:00Z', '1900-02-29T00:00:00Z', '2024-13-01T00:00:00Z', '2024-00-01T00:00:00Z', '2024-04-31T00:00:00Z', '2024-05-01T24:00:00Z', '2024-05-01T12:60:00Z',
	'2024-05-01T12:00:60Z', '2024-05-01T12:00:00.Z', '2024-05-01T12:00:00+16', '2024-05-01T12:00:00+01:60', '2024-05-01T12:00:00 Z', '2024-05-01T12:00:00Zx', '2024-05-01T12', '2024-05-01', '2024', '12:00:00',
	'0000-01-01T00:00:00Z', '20240501T120000Z', '2024-5-1T12:00:00Z', '01/05/2024 12:00:00', 'now', 'today', 'infinity', 'epoch', '2024-05-01T12:00:00 Europe/Berlin');
-- documents
SELECT * FROM each(false, '{}', '[]', ' {"a": 1}', '[1, 2, {"b": null}]', '{"a": "é"}', '{"a": 1', '{a: 1}', '[1,]', '{"a": "\u0000"}', '{"a": "\ud800"}', '{"a": 1e9999}', '"text"', 'null', '1 2', '[abc', '{"a": "{[{["}');
SELECT guess(ARRAY[repeat('[', 999) || repeat(']', 999)], false), guess(ARRAY[repeat('[', 1001) || repeat(']', 1001)], false),
	guess(ARRAY[repeat('[', 60000)], false), guess(ARRAY['["' || repeat('x', 2000000) || '"]'], false);

-- members of a payload: their JSON type; a string is a string
SELECT * FROM each(true, 'true', '"true"', '1', '"1"', '1.5', '"1.5"', '12345678901234567890', '0.1234567890123456789', '1e9999', '"2024-05-01T12:00:00Z"', '"2024"', '{"x": 1}', '[1]', '[1e9999]', '"{}"', 'null');

-- several values
SELECT texts, guess(texts::text[], false) AS fields FROM (VALUES
	('{1,2.5}'), ('{2.5,1}'), ('{1,1000000000000000}'), ('{0.5,1000000000000000}'), ('{1,9223372036854775808}'), ('{0.5,0.12345678901234567}'), ('{0.5,1e400}'),
	('{1,true}'), ('{true,false}'), ('{1,""}'), ('{1.5,NaN}'), ('{2024-05-01T12:00:00Z,2024}'), ('{2024-05-01T12:00:00Z,""}'),
	('{"[]","{}"}'), ('{"[]",1}'), ('{"{}",x}'), ('{}')) v (texts);
SELECT texts, guess(texts::text[], true) AS members FROM (VALUES
	('{1,2.5}'), ('{1,"null"}'), ('{"null"}'), ('{1,"\"1\""}'), ('{1,true}'), ('{"{}",1}'), ('{"[]","\"text\"","null"}'), ('{"\"2024-05-01T12:00:00Z\"","\"later\""}')) v (texts);

-- what is guessed is given back as it was, every digit
CREATE FUNCTION back(t text, OUT type regtype, OUT value text) LANGUAGE plpgsql AS $$
BEGIN
	type := guess(ARRAY[t], false);
	EXECUTE format('SELECT %L::%s::text', t, type) INTO value;
END $$;
SELECT t, type, value FROM unnest('{0.30000000000000004,9223372036854775807,-9223372036854775808,0.1234567890123456789,1e-400,3.141592653589793,123456789012345678901234567890}'::text[]) t, back(t);
-- at random: a double prints the digits that it was guessed from
SELECT setseed(0.25);
SELECT count(*) > 1000 AS doubles, count(*) FILTER (WHERE t::float8::text::numeric <> t::numeric) AS lost
FROM (SELECT round((random() * 1e17)::numeric / 10::numeric ^ (random() * 20)::int, (random() * 18)::int)::text || '5' AS t FROM generate_series(1, 20000)) s
WHERE t LIKE '%.%' AND guess(ARRAY[t], false) = 'float8'::regtype;

\set VERBOSITY terse
SET client_min_messages = warning;
DROP SCHEMA guess_test CASCADE;
