-- Shortcuts around input functions give what these give.  Test builds only (STREAMSINK_TEST).
CREATE SCHEMA shortcut_test;
SET search_path = shortcut_test;
SET TimeZone = 'America/New_York';
-- NULL: not taken; else whether the values are the same, to the bit
CREATE FUNCTION one(type regtype, typmod int, text text) RETURNS bool
	AS '$libdir/streamsink', 'streamsink_test_shortcut' LANGUAGE C STRICT;
CREATE FUNCTION many(type regtype, typmod int, seed int8, n int, OUT taken int, OUT wrong int, OUT example text)
	AS '$libdir/streamsink', 'streamsink_test_shortcuts' LANGUAGE C STRICT;
CREATE FUNCTION each(type regtype, typmod int, VARIADIC texts text[], OUT taken text, OUT left_alone text, OUT wrong text)
	LANGUAGE sql AS $$
	SELECT string_agg(quote_literal(t), ' ' ORDER BY n) FILTER (WHERE o IS NOT NULL), string_agg(quote_literal(t), ' ' ORDER BY n) FILTER (WHERE o IS NULL),
	       string_agg(quote_literal(t), ' ' ORDER BY n) FILTER (WHERE NOT o)
	  FROM (SELECT t, n, one(type, typmod, t) AS o FROM unnest(texts) WITH ORDINALITY u (t, n)) s $$;

\pset expanded on

-- what is taken and what is left to the input function
SELECT * FROM each('bool', -1, 'true', 'false', 't', 'f', '1', '0', '', 'tr', 'T', 'TRUE', 'True', ' t', 't ', '2', 'yes', 'on', 'false0');
SELECT * FROM each('int2', -1, '0', '-0', '7', '-7', '00012', '32767', '-32767', '', '-', '+1', '--1', '32768', '-32768', '-32769', ' 1', '1 ', '1.0', '0x10', '1_0', '1e1');
SELECT * FROM each('int4', -1, '2147483647', '-2147483647', '0000000000000000001', '2147483648', '-2147483648', '-2147483649', '00000000000000000001', '0b1', '0o17');
SELECT * FROM each('int8', -1, '9223372036854775807', '-9223372036854775807', '1234567890123456789', '9223372036854775808', '-9223372036854775808', '18446744073709551616', '9999999999999999999');
SELECT * FROM each('float8', -1, '0', '-0', '-0.0', '0.1', '.5', '-.5', '1.', '00012', '123456789012345', '9007199254740991', '9007199254740992', '1e22', '1E+5', '5.e3', '1e-22',
	'0.0000000000000000000001', '3.141592653589793', '-12.50', '0e-5');
SELECT * FROM each('float8', -1, '', '-', '.', '-.', '+1', '9007199254740993', '1e23', '0.00000000000000000000001', '1e', '1e+', '1e5.', '1.5.2', ' 1', '1 ', '0x10', 'NaN', 'inf', '1,5', '1e400', '1e0000001',
	'3.1415926535897932');
SELECT * FROM each('timestamptz', -1, '2024-02-29T23:59:59Z', '2000-02-29 00:00:00Z', '0001-01-01T00:00:00+00', '9999-12-31T23:59:59.999999-15', '1999-12-31 23:59:59.1+15:59', '2024-07-01T12:00:00.12-0330',
	'2024-07-01T12:00:00.123Z', '2024-07-01T12:00:00.1234Z', '2024-07-01T12:00:00.12345Z', '2024-07-01T12:00:00.123456Z');
SELECT * FROM each('timestamptz', -1, '2024-07-01T12:00:00', '2024-07-01T12:00:00.1234567Z', '2024-07-01T12:00:00.Z', '1999-02-29T00:00:00Z', '1900-02-29T00:00:00Z', '2024-04-31T00:00:00Z', '2024-00-01T00:00:00Z',
	'2024-13-01T00:00:00Z', '2024-01-00T00:00:00Z', '0000-01-01T00:00:00Z', '2024-01-01T23:59:60Z', '2024-01-01T24:00:00Z', '2024-01-01T23:60:00Z', '2024-01-01T00:00:00+16', '2024-01-01T00:00:00+15:60',
	'2024-01-01T00:00:00+1', '2024-01-01T00:00:00+01:2', '2024-01-01T00:00:00z', '2024-01-01t00:00:00Z', '2024-01-01T00:00:00 Z', '2024-01-01T00:00:00Z ', '2024-01-01T00:00:00+00 BC',
	'2024-01-01T00:00Z', '2024-01-01', '01-02-2024 00:00:00Z', '12024-01-01T00:00:00Z', '2024/01/01T00:00:00Z', '', 'now', 'infinity');
SELECT * FROM each('timestamp', -1, '2024-07-01T12:00:00', '2024-07-01 12:00:00.5', '2024-07-01T12:00:00Z', '2024-07-01 12:00:00+05:30', '2024-03-10 02:30:00', '2024-07-01', '2024-07-01T12:00:00 ', '2024-07-01T12:00:00+16');
SELECT * FROM each('varchar', -1, '', 'a', 'long enough for everything', 'é');
SELECT * FROM each('varchar', 8, '', 'a', 'four', 'éé', 'four ', 'fives', 'ééé');
SELECT * FROM each('uuid', -1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', 'a0eebc999c0b4ef8bb6d6bb9bd380a11',
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1', 'g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1-', '');

-- other types have none: domains, other precisions, text itself
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
SELECT one('positive', -1, '1') AS domain, one('timestamptz', 3, '2024-07-01T12:00:00Z') AS rounded, one('timestamp', 6, '2024-07-01 12:00:00') AS precise,
	one('float4', -1, '1') AS float4, one('numeric', -1, '1') AS "numeric", one('text', -1, 'a') AS text, one('bpchar', 5, 'a') AS bpchar, one('jsonb', -1, '1') AS jsonb;

\pset expanded off

-- many texts at random
SELECT type, m.* FROM unnest('{bool,int2,int4,int8,float8,uuid,varchar}'::regtype[]) type, many(type, -1, 1, 100000) m;
SELECT type, m.* FROM unnest('{varchar}'::regtype[]) type, many(type, 9, 2, 20000) m;

-- and timestamps under every setting that could change their meaning
CREATE FUNCTION settings(zones text[], OUT type regtype, OUT fewest int, OUT most int, OUT wrong bigint, OUT example text) RETURNS SETOF record
	LANGUAGE plpgsql AS $$
DECLARE
	style text;
	date_order text;
	zone text;
	m record;
BEGIN
	FOREACH type IN ARRAY '{timestamp,timestamptz}'::regtype[] LOOP
		fewest := NULL; most := NULL; wrong := 0; example := NULL;
		FOREACH style IN ARRAY '{ISO,SQL,German,Postgres}'::text[] LOOP
			FOREACH date_order IN ARRAY '{MDY,DMY,YMD}'::text[] LOOP
				FOREACH zone IN ARRAY zones LOOP
					PERFORM set_config('DateStyle', style || ',' || date_order, true), set_config('TimeZone', zone, true);
					m := many(type, -1, 3, 6000);
					fewest := least(fewest, m.taken); most := greatest(most, m.taken);
					wrong := wrong + m.wrong; example := coalesce(example, m.example);
				END LOOP;
			END LOOP;
		END LOOP;
		RETURN NEXT;
	END LOOP;
END $$;
SELECT * FROM settings('{UTC,Europe/Berlin,Asia/Kathmandu,America/St_Johns}');
SELECT type, m.* FROM unnest('{timestamp,timestamptz}'::regtype[]) type, many(type, -1, 4, 200000) m;
-- words that mean something else: from 18 on these zones redefine Z and T
SELECT type, wrong, example FROM settings('{<Z>5,<T>5}');
SET timezone_abbreviations = 'Australia';
SELECT type, wrong, example FROM settings('{UTC,Australia/Sydney}');
RESET timezone_abbreviations;

SET client_min_messages = warning;
DROP SCHEMA shortcut_test CASCADE;
