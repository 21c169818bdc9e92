-- Entries trimmed before the group was given them, as different versions of Redis count.  Test builds only (STREAMSINK_TEST).
SET search_path = public, streamsink;
CREATE SCHEMA overrun_test;
CREATE FUNCTION overrun_test.count(base int8, length int8, added int8, first entry_id, last entry_id, delivered entry_id, read int8) RETURNS int8[]
	AS '$libdir/streamsink', 'streamsink_test_overrun' LANGUAGE C STRICT;
-- A row is a look at stream and group; the base is handed on.  Entries are 1-0, 2-0 and so on.
CREATE FUNCTION overrun_test.looks(base int8, looks int8[][]) RETURNS TABLE (look text, missed int8, base_then int8) LANGUAGE plpgsql AS $$
DECLARE
	l int8[];
	result int8[];
BEGIN
	FOREACH l SLICE 1 IN ARRAY looks LOOP
		-- length, added, first, last generated, delivered, read
		result := overrun_test.count(base, l[1], l[2], (l[3] || '-0')::entry_id, (l[4] || '-0')::entry_id, (l[5] || '-0')::entry_id, l[6]);
		look := l::text;
		missed := result[1];
		base_then := result[2];
		base := base_then;
		RETURN NEXT;
	END LOOP;
END $$;

-- nothing is missed: no entry yet, all delivered, behind, delivered and trimmed
SELECT * FROM overrun_test.looks(0, '{{0,0,0,0,0,0},{10,10,1,10,10,10},{10,20,11,20,15,15},{5,20,16,20,15,15},{0,20,0,20,20,20}}');
-- unknown: Redis 6.2; a group that was moved
SELECT * FROM overrun_test.looks(0, '{{10,-1,91,100,10,10},{10,100,91,100,10,-1},{-1,100,91,100,10,10}}');
-- Redis 7.0: 90 are missed, then the group reads on without counting them; again; then all are gone
SELECT * FROM overrun_test.looks(0, '{{10,100,91,100,10,10},{10,100,91,100,10,10},{10,120,111,120,10,10},{10,120,111,120,115,15},{10,120,111,120,120,20},
	{10,160,151,160,120,20},{10,160,151,160,160,30},{1,161,161,161,160,30},{0,170,0,170,160,30},{3,173,171,173,173,33}}');
-- a new worker starts from what was reported
SELECT * FROM overrun_test.looks(110, '{{10,160,151,160,120,20}}');
-- later versions count them as read when the group reads on
SELECT * FROM overrun_test.looks(0, '{{10,100,91,100,10,10},{10,100,91,100,95,95},{10,100,91,100,100,100},{10,160,151,160,100,100},{10,160,151,160,160,160},{0,165,0,165,160,160}}');
-- ... also if the worker did not see that everything was delivered
SELECT * FROM overrun_test.looks(0, '{{10,100,91,100,10,10},{10,160,151,160,100,100},{10,170,161,170,160,160}}');
-- deleted in the middle, before and behind what was delivered
SELECT * FROM overrun_test.looks(0, '{{8,20,1,20,10,10},{5,20,11,20,10,10},{3,20,18,20,10,10}}');

SET client_min_messages = warning;
DROP SCHEMA overrun_test CASCADE;
