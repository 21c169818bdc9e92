# evolve: a new field becomes a column while workers run, whatever happens meanwhile.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $redis = new_redis('evolve');
my $node  = new_node('evolve', 'streamsink.discovery_interval' => '100ms', 'streamsink.setup_retry' => '300ms', deadlock_timeout => '100ms',
	'streamsink.max_workers' => 20, max_worker_processes => 30);
create_server($node, $redis);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub columns
{
	my ($table) = @_;
	return sql("SELECT string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attname COLLATE \"C\")
		FROM pg_attribute WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped");
}
sub logged { my ($pattern) = @_; return scalar(() = slurp_file($node->logfile) =~ /$pattern/g); }

# Set a fault point, where there are some (test builds).
my $test_build = ($node->psql('postgres', 'SHOW streamsink.fault'))[0] == 0;
sub set_fault
{
	my ($fault) = @_;
	return if !$test_build;
	$node->safe_psql('postgres', "ALTER SYSTEM SET streamsink.fault = '$fault'");
	sql('SELECT pg_reload_conf()');
	return poll_until(sub { sql('SHOW streamsink.fault') eq $fault }, 'the setting to be read');
}

# ---- one worker ----
sql(q{CREATE TABLE t (n int);
	SELECT streamsink.create_pipeline('one', server => 'iot', stream => 's:{device}', target => 't', evolve => true, retry_backoff => '50 ms');
	SELECT streamsink.start('one')});
produce($redis, 's:a', [ n => 1 ], [ n => 2, value => '1.5', at => '2024-05-01T12:00:00Z', device => 'mine', ctid => 1, '' => 2, 'y' x 64 => 3 ]);
wait_settled($node, 'one');
is(columns('t'), 'at timestamp with time zone, n integer, value double precision', 'a new field becomes a column of its type');
is(sql('SELECT n, value, at IS NOT NULL FROM t ORDER BY n'), "1||f\n2|1.5|t", '... with the value that it was met with');
like(slurp_file($node->logfile), qr/LOG:  pipeline "one" added columns for new fields\n.*DETAIL:  ALTER TABLE public\.t\n\s*ADD COLUMN IF NOT EXISTS value double precision,\n\s*ADD COLUMN IF NOT EXISTS at timestamp with time zone;/, '... and the statement is logged');
like(slurp_file($node->logfile), qr/LOG:  a field of pipeline "one" cannot become a column/, 'what cannot be a column is logged');
# another type later is an error of the entry
produce($redis, 's:a', [ n => 3, value => 'warm' ], [ n => 4, value => 2, more => 'x' ]);
wait_settled($node, 'one');
is(sql('SELECT string_agg(n::text, $$,$$ ORDER BY n) FROM t'), '1,2,4', 'a value that does not fit is refused');
is(sql('SELECT sqlstate, column_name FROM streamsink.dead_letters'), '22P02|value', '... as everywhere');
is(columns('t'), 'at timestamp with time zone, more text, n integer, value double precision', '... and neighbours get their columns');
# an entry that is refused adds no column
produce($redis, 's:a', [ n => 'x', refused => 1 ]);
wait_settled($node, 'one');
unlike(columns('t'), qr/refused/, 'a refused entry adds no column');
# hostile names
my @hostile = ('"; DROP TABLE t; --', q{'; DROP TABLE t; --}, "a\nb", 'select', '"', '""', '\\', 'xmin', 'tableoid', 'oid', '$1', '/* ');
$redis->cli_stdin(resp('XADD', 's:a', '*', n => 5, _id => 'v', _seq => 'v', map { ($_ => 'v') } @hostile));
wait_settled($node, 'one');
is(sql('SELECT count(*) FROM jsonb_object_keys((SELECT to_jsonb(t) FROM t WHERE n = 5)) k WHERE (SELECT to_jsonb(t) FROM t WHERE n = 5) ->> k = $$v$$'), @hostile - 2, 'every name that can be one is a column');
# a column that is dropped comes back with the field
sql('ALTER TABLE t DROP COLUMN more');
produce($redis, 's:a', [ n => 6, more => 'y' ]);
wait_settled($node, 'one');
is(sql('SELECT more FROM t WHERE n = 6'), 'y', 'a dropped column comes back with the field');
# a name that the server gives to dropped columns: ALTER TABLE would take it for one that is there, with every batch
sql('ALTER TABLE t ADD away int');
my $dropped = '........pg.dropped.' . sql(q{SELECT attnum FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'away'}) . '........';
sql('ALTER TABLE t DROP COLUMN away');
my $added = logged('added columns for new fields');
produce($redis, 's:a', [ n => 60, $dropped => 1 ]);
wait_settled($node, 'one');
is(logged('added columns for new fields'), $added, "a dropped column's name is no reason for an ALTER TABLE");
sql('DELETE FROM t WHERE n = 60');
# off and on
sql(q{SELECT streamsink.alter_pipeline('one', evolve => false)});
produce($redis, 's:a', [ n => 7, off => 1 ]);
wait_settled($node, 'one');
unlike(columns('t'), qr/\boff\b/, 'off is off');
sql(q{SELECT streamsink.alter_pipeline('one', evolve => true)});
produce($redis, 's:a', [ n => 8, off => 1 ]);
wait_settled($node, 'one');
like(columns('t'), qr/\boff bigint/, 'on is on');
sql(q{SELECT streamsink.stop('one')});

# ---- payload and rest: scalars become columns, documents stay ----
sql(q{CREATE TABLE p (id int, more jsonb);
	SELECT streamsink.create_pipeline('rest', server => 'iot', stream => 'p', target => 'p', payload => 'body', rest => 'more', evolve => true);
	SELECT streamsink.start('rest')});
produce($redis, 'p', [ body => '{"id": 1, "v": 0.1, "doc": {"a": 1.50}, "nul": null, "ok": true, "big": 123456789012345678901234567890}', raw => '[1]', body2 => 'x' ], [ body => '{"id": 2, "v": 1, "doc": [2]}' ], [ body => '{"id":' ]);
wait_settled($node, 'rest');
is(columns('p'), 'big numeric, body2 text, id integer, more jsonb, ok boolean, v double precision', 'with rest, scalars become columns');
is(sql('SELECT id, v, big, more FROM p ORDER BY id'), qq{1|0.1|123456789012345678901234567890|{"doc": {"a": 1.50}, "nul": null, "raw": "[1]"}\n2|1||{"doc": [2]}}, '... and documents stay in rest');

# ---- ingest ----
sql(q{CREATE TABLE i (n int); SELECT streamsink.create_pipeline('ingest', server => 'iot', stream => 'i', target => 'i', evolve => true)});
produce($redis, 'i', [ n => 1, v => 1 ], [ n => 2, w => 'x' ]);
my ($rc, $out, $err) = $node->psql('postgres', q{CALL streamsink.ingest('ingest')});
is($out, '1|2|0', 'ingest evolves too');
like($err, qr/NOTICE:  pipeline "ingest" added columns for new fields\nDETAIL:  ALTER TABLE public\.i/, '... and says so');
is(sql('SELECT n, v, w FROM i ORDER BY n'), "1|1|\n2||x", '... with the values');

# ---- what defaults do is done once ----
sql(q{CREATE TABLE log (n int); CREATE FUNCTION note() RETURNS int LANGUAGE sql AS 'INSERT INTO log VALUES (1) RETURNING n';
	CREATE TABLE d (n int, noted int DEFAULT note()); SELECT streamsink.create_pipeline('defaults', server => 'iot', stream => 'd', target => 'd', evolve => true)});
produce($redis, 'd', [ n => 1 ], [ n => 2, x => 1 ], [ n => 3, y => 1 ]);
sql(q{SELECT streamsink.start('defaults')});
wait_settled($node, 'defaults');
is(sql('SELECT (SELECT count(*) FROM log), count(*), sum(noted), sum(x), sum(y) FROM d'), '3|3|3|1|1', 'what defaults do is done once for each row');

# ---- bounds ----
$node->safe_psql('postgres', 'ALTER SYSTEM SET streamsink.max_columns = 20');
sql('SELECT pg_reload_conf()');
sql(q{CREATE TABLE wide (n int, more jsonb); SELECT streamsink.create_pipeline('wide', server => 'iot', stream => 'wide', target => 'wide', rest => 'more', evolve => true, batch_size => 100)});
produce($redis, 'wide', map { [ n => $_, "f$_" => $_ ] } 1 .. 2000);
sql(q{SELECT streamsink.start('wide')});
wait_settled($node, 'wide');
is(sql(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'wide'::regclass AND attnum > 0}), 20, 'two thousand names make no more columns than the setting permits');
is(sql(q{SELECT count(*) FROM wide WHERE (to_jsonb(wide) || more) ->> ('f' || n) = n::text}), 2000, '... and what has none is in rest');
like(slurp_file($node->logfile), qr/LOG:  pipeline "wide" adds no more columns to its target\n.*DETAIL:  It has 20, and streamsink\.max_columns is 20\./, '... which is logged');
cmp_ok(logged('pipeline "wide" adds no more columns'), '<=', 3, '... not with every batch');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET streamsink.max_columns');
sql('SELECT pg_reload_conf()');
sql(q{SELECT streamsink.stop('wide')});

# ---- a table that is in use: the pipeline waits, readers do not for long ----
sql(q{SELECT streamsink.start('one')});
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM t');
produce($redis, 's:a', [ n => 9, late => 1 ]);
wait_for_state($node, 'one', 'waiting');
is(sql(q{SELECT last_sqlstate, last_error ~ 'is in use, so new fields get no columns yet' FROM streamsink.status WHERE pipeline = 'one'}), '55P03|t', 'a table in use is said to be');
my $start = time;
is(sql('SELECT count(*) FROM t WHERE n = 9'), 0, 'nothing is written without its columns');
cmp_ok(time - $start, '<', 10, 'others are not held up for long');
$reader->query_safe('COMMIT');
wait_settled($node, 'one');
is(sql('SELECT late FROM t WHERE n = 9'), 1, '... and all is written when it can be');
$reader->quit;
# stop() ends that wait
$reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM t');
produce($redis, 's:a', [ n => 10, later => 1 ]);
wait_for_state($node, 'one', 'waiting');
sql(q{SELECT streamsink.stop('one')});
$reader->query_safe('COMMIT');
$reader->quit;
sql(q{SELECT streamsink.start('one')});
wait_settled($node, 'one');
is(sql('SELECT later FROM t WHERE n = 10'), 1, 'stop and start in between lose nothing');
# a pipeline's own lock_timeout counts
sql(q{SELECT streamsink.alter_pipeline('one', settings => '{"lock_timeout": "17ms"}')});
$reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM t');
produce($redis, 's:a', [ n => 11, latest => 1 ]);
poll_until(sub { logged('It was waited for 17 ms') }, 'the lock_timeout of the pipeline');
$reader->query_safe('COMMIT');
$reader->quit;
wait_settled($node, 'one');
is(sql('SELECT latest FROM t WHERE n = 11'), 1, 'the lock_timeout of the pipeline counts');

# ---- an owner who lost the table ----
sql(q{ALTER SERVER iot OPTIONS (ADD password_required 'false'); CREATE ROLE ingest LOGIN; SELECT streamsink.grant_access('ingest'); GRANT USAGE ON FOREIGN SERVER iot TO ingest; CREATE SCHEMA own AUTHORIZATION ingest;
	SET ROLE ingest; CREATE TABLE own.t (n int);
	SELECT streamsink.create_pipeline('owned', server => 'iot', stream => 'owned', target => 'own.t', evolve => true); SELECT streamsink.start('owned');
	RESET ROLE; ALTER TABLE own.t OWNER TO postgres; GRANT ALL ON own.t TO ingest});
$reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM own.t');
produce($redis, 'owned', [ n => 1 ], [ n => 2, x => 1 ]);
wait_for_state($node, 'owned', 'waiting');
is(sql(q{SELECT last_sqlstate, last_error ~ 'cannot add columns to target', dead_letters FROM streamsink.status WHERE pipeline = 'owned'}), '42501|t|0', 'an owner who lost the table waits');
like(slurp_file($node->logfile), qr/The pipeline's owner "ingest" does not own the table/, '... and says why');
is(logged('own\.t of pipeline "owned" is in use'), 0, '... without locking what he may not alter');
$reader->query_safe('COMMIT');
$reader->quit;
sql('ALTER TABLE own.t OWNER TO ingest');
wait_settled($node, 'owned');
is(sql('SELECT n, x FROM own.t ORDER BY n'), "1|\n2|1", '... and goes on when he has it again');

# ---- partitioned and inherited tables ----
sql(q{CREATE TABLE parted (n int) PARTITION BY RANGE (n); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
	SELECT streamsink.create_pipeline('parted', server => 'iot', stream => 'parted', target => 'parted', evolve => true, on_conflict => 'error'); SELECT streamsink.start('parted')});
produce($redis, 'parted', [ n => 1, x => 1 ], [ n => 11, x => 2 ]);
wait_settled($node, 'parted');
is(sql('SELECT x FROM parted_1 UNION ALL SELECT x FROM parted_2'), "1\n2", 'partitions get the column too');

# ---- a database that is not UTF-8 ----
sql(q{CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('latin', 'CREATE EXTENSION streamsink');
create_server($node, $redis, 'iot', 'latin');
produce($redis, 'latin', [ n => 1, "gr\xc3\xbcn" => "\xc3\xa9" ]);
$node->safe_psql('latin', q{SET client_min_messages = error; SELECT streamsink.create_pipeline('latin', server => 'iot', stream => 'latin', target => 'l', rest => 'more', create_target => true, evolve => true); SELECT streamsink.start('latin')});
produce($redis, 'latin', [ n => 2, "\xe6\x97\xa5" => 'y' ], [ n => 3, "\xff" => 'z' ], [ n => 4, "bl\xc3\xa4u" => 'x' ]);
wait_settled($node, 'latin', 'latin');
is($node->safe_psql('latin', q{SELECT string_agg(encode(attname::text::bytea, 'hex'), ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'l'::regclass AND attnum > 0}), '6e,6772fc6e,6d6f7265,626ce475', 'names of fields in another encoding');
is($node->safe_psql('latin', q{SELECT string_agg(n::text, ',') FROM l}) . '|' . $node->safe_psql('latin', q{SELECT string_agg(sqlstate, ',' ORDER BY id) FROM streamsink.dead_letters}), '1,4|22P05,22021', '... what it has no letters for cannot be in rest');

# ---- several workers that meet the same fields, under load ----
sql(q{CREATE TABLE m (n int);
	SELECT streamsink.create_pipeline('many', server => 'iot', stream => 'm:{stream}', target => 'm', evolve => true, workers => 4, batch_size => 50, retry_backoff => '20 ms');
	SELECT streamsink.create_pipeline('shared', server => 'iot', stream => 'shared', target => 'm', evolve => true, workers => 3, batch_size => 50, retry_backoff => '20 ms');
	SELECT streamsink.start('many'), streamsink.start('shared')});
my $sent = 0;
for my $round (1 .. 15)
{
	produce($redis, "m:$_", map { [ n => ++$sent, "c$round" => $sent, ($sent % 3 ? () : ("d$round" => "t$sent")) ] } 1 .. 40) for 1 .. 8;
	produce($redis, 'shared', map { [ n => ++$sent, "c$round" => $sent ] } 1 .. 200);
}
wait_settled($node, $_) for 'many', 'shared';
is(sql('SELECT count(*), count(DISTINCT n) FROM m'), "$sent|$sent", 'several workers: every entry once');
is(sql(q{SELECT count(*) FROM m, jsonb_each_text(to_jsonb(m)) e WHERE e.key ~ '^c' AND e.value = n::text}), $sent, '... each with its value');
is(sql(q{SELECT count(*) FROM streamsink.dead_letters WHERE pipeline IN ('many', 'shared')}), 0, '... and nobody failed');
is(sql(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'm'::regclass AND attnum > 0}), 31, '... with thirty columns');

# all of them wait for the table at the same moment, and none for another
$reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM m');
set_fault('before-evolve:sleep500');
produce($redis, $_, map { [ n => ++$sent, together => $sent ] } 1 .. 100) for 'm:1', 'm:2', 'm:3', 'm:4', 'shared';
$node->poll_query_until('postgres', q{SELECT count(*) >= 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock'}) or die 'workers do not wait';
set_fault('');
$reader->query_safe('COMMIT');
$reader->quit;
wait_settled($node, $_) for 'many', 'shared';
is(sql('SELECT count(*), count(DISTINCT n), count(*) FILTER (WHERE together = n) FROM m'), "$sent|$sent|500", 'workers that wait for the table at the same moment all go on');
is(logged('deadlock detected'), 0, '... without a deadlock');
is(logged('ADD COLUMN IF NOT EXISTS together bigint'), 1, '... and one of them adds the column');

# ---- a crash between the new column and its first row ----
SKIP:
{
	skip 'not a test build', 4 if !$test_build;
	my $faults = 0;
	for my $fault ('before-evolve:kill-once', 'after-evolve:kill-once', 'after-evolve:error-once', 'before-evolve:error-once')
	{
		$faults++;
		set_fault("$fault$faults");
		# what is produced while the server restarts is not lost either
		produce($redis, $_, map { [ n => ++$sent, "k$faults" => $sent ] } 1 .. 100) for 'm:1', 'shared';
		my ($point) = $fault =~ /^([\w-]+)/;
		poll_until(sub { logged(qr/fault point "$point": \Q$fault\E|fault point "$point": \w+-once$faults/) }, "the fault point $fault");
		poll_until(sub { ($node->psql('postgres', 'SELECT 1'))[0] == 0 }, 'the server');
		wait_settled($node, $_) for 'many', 'shared';
		is(sql("SELECT count(*), count(DISTINCT n), count(*) FILTER (WHERE k$faults = n) FROM m"), "$sent|$sent|200", "$fault: every entry once, with its value");
		set_fault('');
	}
}
is(sql('SELECT count(*) FROM streamsink.status WHERE read <> written + refused + ignored + repeated + superseded + vanished'), 0, 'counters add up');

$node->stop;
done_testing;
