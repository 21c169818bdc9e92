# Transforms in workers: several tables exactly once while workers are killed,
# several workers on one stream, refusals, tables that vanish and come back.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $entries = $ENV{STREAMSINK_KILL_ENTRIES} // 100_000;
my $kills   = $ENV{STREAMSINK_KILLS} // 4;
my $seed    = $ENV{STREAMSINK_SEED} // 20240607;
note "seed $seed, $entries entries, $kills kills";
srand($seed);

my $redis = new_redis('transform');
my $node  = new_node('transform', 'streamsink.setup_retry' => '100ms', 'streamsink.sample_interval' => '200ms');
create_server($node, $redis);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub status { return sql("SELECT $_[1] FROM streamsink.status WHERE pipeline = '$_[0]'"); }
sub letters { return sql("SELECT COALESCE(string_agg(concat_ws('|', fields ->> 'n', stage, sqlstate, error), ' ' ORDER BY entry_id), '') FROM streamsink.dead_letters WHERE pipeline = '$_[0]'"); }
my $sum = 'read = written + refused + ignored + repeated + superseded + vanished';

# ---------------------------------------------------------------------------
# Five workers on one stream, several tables, refused and ignored entries,
# killed again and again: each entry in the tables it belongs to, once
# ---------------------------------------------------------------------------
sql(q{
	CREATE TYPE event AS (n int, kind text, value int);
	CREATE TABLE evens (n int NOT NULL, value int NOT NULL);
	CREATE TABLE odds (n int NOT NULL, value int NOT NULL);
	CREATE TABLE totals (kind text PRIMARY KEY, n bigint NOT NULL, value bigint NOT NULL);
	SELECT streamsink.create_pipeline('events', server => 'iot', stream => 'events', row_type => 'event', workers => 5, batch_size => 200,
		transform => $$
			SELECT streamsink.ignore(_seq, 'not counted') FROM batch WHERE n % 100 = 50;
			INSERT INTO evens SELECT n, value FROM batch WHERE n % 2 = 0;
			SELECT n, value INTO odd FROM batch WHERE n % 2 = 1 AND (n % 1000 <> 777 OR streamsink.refuse(_seq, 'no sevens'));
			INSERT INTO odds SELECT * FROM odd;
			INSERT INTO totals SELECT kind, count(*), sum(value) FROM batch GROUP BY kind ORDER BY kind
				ON CONFLICT (kind) DO UPDATE SET n = totals.n + excluded.n, value = totals.value + excluded.value
		$$);
	SELECT streamsink.start('events')});

my $producer = fork // die "fork: $!";
if ($producer == 0)
{
	my $good = eval {
		for (my $from = 1; $from <= $entries; $from += 5000)
		{
			my $to = $from + 4999 < $entries ? $from + 4999 : $entries;
			$redis->cli_stdin(join '', map { resp('XADD', 'events', '*', n => $_, kind => 'k' . $_ % 3, value => $_ * 7) } $from .. $to);
			usleep(50_000);
		}
		1;
	};
	print STDERR "producer: $@" unless $good;
	require POSIX;
	POSIX::_exit($good ? 0 : 1);
}

sub query
{
	my ($rc, $out);
	eval { ($rc, $out) = $node->psql('postgres', $_[0], timeout => 60); 1 } or $@ =~ /Broken pipe/ or die $@;
	return defined $rc && $rc == 0 ? $out : undef;
}
for my $i (1 .. $kills)
{
	my $pid = poll_until(sub {
		my @pids = split /\n/, query("SELECT pid FROM streamsink.workers WHERE pipeline = 'events' AND pid IS NOT NULL AND written > 0") // '';
		return $pids[ rand @pids ]; }, "worker $i to settle batches");
	usleep(int(rand(300_000)));
	kill 'KILL', $pid;
	poll_until(sub { defined query('SELECT 1') && !kill 0, $pid }, "the server to come back after kill $i");
}
waitpid($producer, 0);
is($?, 0, 'the producer wrote all its entries');
poll_until(sub { (query("SELECT state FROM streamsink.status WHERE pipeline = 'events'") // '') eq 'running' }, 'the pipeline to run');
is(sql("SELECT streamsink.wait_for('events', '5 min')"), 't', 'everything is settled');

# what it must come to
my $numbers = "generate_series(1, $entries) AS n";
my $here = 'n % 100 <> 50 AND n % 1000 <> 777';
is(sql('SELECT count(*), count(DISTINCT n), sum(value) FROM evens'), sql("SELECT count(*), count(*), sum(n * 7) FROM $numbers WHERE n % 2 = 0 AND $here"), 'the first table has its entries once');
is(sql('SELECT count(*), count(DISTINCT n), sum(value) FROM odds'), sql("SELECT count(*), count(*), sum(n * 7) FROM $numbers WHERE n % 2 = 1 AND $here"), 'and so has the second');
is(sql('SELECT kind, n, value FROM totals ORDER BY kind'), sql("SELECT 'k' || n % 3, count(*), sum(n * 7) FROM $numbers WHERE $here GROUP BY 1 ORDER BY 1"), 'sums are exact');
is(sql("SELECT count(*), count(DISTINCT fields ->> 'n'), min(stage), min(error) FROM streamsink.dead_letters WHERE pipeline = 'events'"),
	sql("SELECT count(*), count(*), 'refused', 'no sevens' FROM $numbers WHERE n % 1000 = 777"), 'refused entries are dead letters, once each');
is(status('events', $sum), 't', 'counters add up');
is($redis->cli('XPENDING', 'events', 'events') =~ /\A0\b/ ? 0 : 1, 0, 'nothing is pending');
sql("SELECT streamsink.drop_pipeline('events')");

# ---------------------------------------------------------------------------
# One worker: what is counted
# ---------------------------------------------------------------------------
sql(q{
	TRUNCATE evens;
	SELECT streamsink.create_pipeline('counted', server => 'iot', stream => 'counted', row_type => 'event', transform => $$
		INSERT INTO evens SELECT n, n FROM batch WHERE n % 2 = 0 AND (n % 5 <> 0 OR streamsink.refuse(_seq, 'five')) OR n % 7 = 0 AND streamsink.ignore(_seq)$$);
	SELECT streamsink.start('counted')});
produce($redis, 'counted', map { [ n => $_ ] } 1 .. 70);
wait_settled($node, 'counted');
poll_until(sub { status('counted', 'read') eq '70' }, 'the counters');
# of the numbers divisible by 7 the even ones are written, or refused with 5
is(status('counted', "written, refused, ignored, rows, $sum"), '58|7|5|28|t', 'filtered entries count as written, ignored ones as ignored');

# Workers that take turns by a lock on the target never wait for each other in a circle.
sql(q{CREATE TABLE turns (n int, before bigint);
	SELECT streamsink.create_pipeline('turns', server => 'iot', stream => 'turns', target => 'turns', workers => 4, batch_size => 20, transform => $$
		LOCK TABLE turns IN SHARE ROW EXCLUSIVE MODE;
		SELECT count(*) AS before INTO already FROM turns;
		INSERT INTO turns SELECT n, already.before + row_number() OVER () FROM batch, already$$)});
produce($redis, 'turns', map { [ n => $_ ] } 1 .. 2000);
sql("SELECT streamsink.start('turns')");
wait_settled($node, 'turns');
is(sql('SELECT count(*), count(DISTINCT n), count(DISTINCT before), max(before) FROM turns'), '2000|2000|2000|2000', 'four workers number their entries without a gap');
is(status('turns', 'errors'), 0, '... and without a deadlock');
unlike(slurp_file($node->logfile), qr/deadlock detected/, '... in the log either');
sql("SELECT streamsink.drop_pipeline('turns')");

# ---------------------------------------------------------------------------
# ingest, preview, retry; altered while it runs
# ---------------------------------------------------------------------------
sql("SELECT streamsink.stop('counted'); TRUNCATE evens");
produce($redis, 'counted', [ n => 2 ], [ n => 10 ], [ n => 3 ], [ n => 7 ]);
is(sql("SELECT string_agg(outcome, ' ' ORDER BY id) FROM streamsink.preview('counted', 10)"), 'written refused written ignored', 'preview runs it all');
is(sql('SELECT count(*) FROM evens'), 0, '... and nothing of it stays');
is(sql('CALL streamsink.ingest($$counted$$)'), '1|2|1', 'ingest runs it too');
is(sql('SELECT string_agg(n::text, $$ $$) FROM evens'), '2', '... and what it wrote stays');
sql(q{SELECT streamsink.start('counted');
	SELECT streamsink.alter_pipeline('counted', transform => 'INSERT INTO evens SELECT n, -n FROM batch')});
is(sql("SELECT streamsink.retry_dead_letters('counted')"), 8, 'dead letters go through the new transform');
produce($redis, 'counted', [ n => 5 ]);
wait_settled($node, 'counted');
is(sql('SELECT count(*), min(value) FROM evens WHERE value < 0'), '9|-70', '... and so do new entries');
# a column more in the row type, while it runs
sql(q{ALTER TYPE event ADD ATTRIBUTE extra text;
	CREATE TABLE extras (extra text);
	SELECT streamsink.alter_pipeline('counted', transform => 'INSERT INTO extras SELECT extra FROM batch')});
produce($redis, 'counted', [ n => 1, extra => 'more' ]);
wait_settled($node, 'counted');
is(sql('SELECT extra FROM extras'), 'more', 'a new attribute of the row type');
sql('ALTER TYPE event ALTER ATTRIBUTE extra TYPE int');
sql('ALTER TABLE extras ALTER extra TYPE bigint USING 0');
produce($redis, 'counted', [ n => 1, extra => '12' ]);
wait_settled($node, 'counted');
is(sql('SELECT max(extra) FROM extras'), 12, '... and one of another type');

# ---------------------------------------------------------------------------
# A table is dropped: the pipeline waits, says why, and goes on when it is back
# ---------------------------------------------------------------------------
sql(q{CREATE TABLE kept (n int);
	SELECT streamsink.alter_pipeline('counted', transform => E'INSERT INTO kept SELECT n FROM batch;\nINSERT INTO extras (extra) SELECT extra FROM batch')});
produce($redis, 'counted', [ n => 1, extra => 1 ]);
wait_settled($node, 'counted');
sql('DROP TABLE extras');
produce($redis, 'counted', map { [ n => $_, extra => $_ ] } 2 .. 50);
wait_for_state($node, 'counted', 'waiting');
like(status('counted', 'reason, hint'), qr/^relation "extras" does not exist\|Create the table/, 'reason and hint');
is(sql('SELECT count(*) FROM kept'), 1, 'nothing of the batch is written');
like(slurp_file($node->logfile), qr/LINE 2|statement 2 of the transform/, 'the log names the statement');
sql('CREATE TABLE extras (what date, extra int)');
wait_settled($node, 'counted');
is(sql('SELECT (SELECT count(DISTINCT n) FROM kept), (SELECT count(*) FROM kept), (SELECT count(*) FROM extras)'), '50|50|49', 'it goes on by itself, and nothing is lost');
is(letters('counted'), '', '... without a dead letter');

# The plans are kept, and follow: columns of a relation in memory move, a table is no longer written exactly once.
sql(q{CREATE TABLE wide (a int, b int); INSERT INTO wide VALUES (1, 2);
	CREATE TABLE narrow (n int, whole jsonb);
	SELECT streamsink.alter_pipeline('counted', transform => 'SELECT w.*, b.n INTO x FROM batch b, wide w; INSERT INTO narrow SELECT x.n, to_jsonb(x) FROM x')});
produce($redis, 'counted', [ n => 7 ]);
wait_settled($node, 'counted');
sql('ALTER TABLE wide ADD c int DEFAULT 3');
produce($redis, 'counted', [ n => 8 ]);
wait_settled($node, 'counted');
sql('ALTER TABLE wide DROP a, DROP b');
produce($redis, 'counted', [ n => 9 ]);
wait_settled($node, 'counted');
is(sql('SELECT * FROM narrow ORDER BY n'), qq(7|{"a": 1, "b": 2, "n": 7}\n8|{"a": 1, "b": 2, "c": 3, "n": 8}\n9|{"c": 3, "n": 9}), 'a relation in memory with other columns than before');
sql('ALTER TABLE narrow SET UNLOGGED');
produce($redis, 'counted', [ n => 10 ]);
wait_for_state($node, 'counted', 'waiting');
like(status('counted', 'reason, hint'), qr/"narrow" is unlogged.*\|Set allow_inexact/, 'a table that becomes UNLOGGED is not written any more');
sql('ALTER TABLE narrow SET LOGGED');
wait_settled($node, 'counted');
is(sql('SELECT count(*), max(n) FROM narrow'), '4|10', '... until it is logged again');
sql("SELECT streamsink.drop_pipeline('counted')");

# One plan for few entries, one for many.
sql(q{CREATE TABLE devices AS SELECT n, 'name ' || n AS name FROM generate_series(1, 100000) AS n; ALTER TABLE devices ADD PRIMARY KEY (n); ANALYZE devices;
	CREATE TABLE named (n int, name text);
	SELECT streamsink.create_pipeline('joins', server => 'iot', stream => 'joins', row_type => 'event', connect => false,
		transform => 'INSERT INTO named SELECT n, name FROM batch JOIN devices USING (n)')});
foreach my $case ([ 1, qr/Nested Loop.*Index Scan using devices_pkey/s ], [ 1000, qr/Hash Join.*Seq Scan on devices/s ])
{
	my ($rc, $out, $err) = $node->psql('postgres', qq{
		LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; SET auto_explain.log_level = notice;
		SELECT count(*) FROM streamsink.apply('joins', (SELECT jsonb_agg(jsonb_build_object('n', i)) FROM generate_series(1, $case->[0]) AS i))});
	like($err, $case->[1], "a plan that suits $case->[0]");
}

# ---------------------------------------------------------------------------
# A batch that runs longer than it may: the entry at fault is found
# ---------------------------------------------------------------------------
sql(q{ALTER SYSTEM SET streamsink.batch_timeout = '500ms'});
sql(q{SELECT pg_reload_conf();
	TRUNCATE kept;
	CREATE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql AS $$BEGIN IF n = 5 THEN PERFORM pg_sleep(60); END IF; RETURN n; END$$;
	SELECT streamsink.create_pipeline('slow', server => 'iot', stream => 'slow', row_type => 'event', transform => 'INSERT INTO kept SELECT slow(n) FROM batch');
	SELECT streamsink.start('slow')});
produce($redis, 'slow', map { [ n => $_ ] } 1 .. 20);
wait_settled($node, 'slow');
is(letters('slow'), '5|write|57014|the entry alone took longer than a batch may take', 'an entry that takes too long is refused');
is(sql('SELECT count(*), count(DISTINCT n) FROM kept'), '19|19', '... and its neighbours arrive once');
sql(q{ALTER SYSTEM RESET streamsink.batch_timeout});
sql(q{SELECT pg_reload_conf(); SELECT streamsink.drop_pipeline('slow')});

# ---------------------------------------------------------------------------
# What a function sets for its session ends with the batch, as in apply
# ---------------------------------------------------------------------------
sql(q{SELECT streamsink.create_pipeline('sets', server => 'iot', stream => 'sets', row_type => 'event', batch_size => 1, transform => $$
		INSERT INTO kept SELECT 1000 + n FROM batch;
		SELECT set_config('search_path', 'nowhere', false), set_config('role', 'pg_monitor', false)$$);
	SELECT streamsink.start('sets')});
produce($redis, 'sets', map { [ n => $_ ] } 1 .. 3);
wait_settled($node, 'sets');
is(sql('SELECT count(*) FROM kept WHERE n > 1000'), 3, 'what a transform sets for its session does not reach the next batch');
sql(q{SELECT streamsink.drop_pipeline('sets')});

# ---------------------------------------------------------------------------
# Ten entries of a thousand raise: what that costs
# ---------------------------------------------------------------------------
sql(q{CREATE TABLE raised (n int);
	CREATE FUNCTION raise_some() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.n % 100 = 37 THEN RAISE EXCEPTION 'no %', NEW.n; END IF; RETURN NEW; END$$;
	CREATE TRIGGER raise_some BEFORE INSERT ON raised FOR EACH ROW EXECUTE FUNCTION raise_some();
	SELECT streamsink.create_pipeline('raised', server => 'iot', stream => 'raised', row_type => 'event', transform => 'INSERT INTO raised SELECT n FROM batch', connect => false)});
foreach my $which ('good', 'bad')
{
	my $step = $which eq 'good' ? 100 : 1;
	sql(q{SELECT count(*) FROM streamsink.apply('raised', '[{"n": 1}]')});
	my ($took, $outcomes) = split /\|/, sql(qq{
		CREATE TEMP TABLE t AS SELECT clock_timestamp() AS began, jsonb_agg(jsonb_build_object('n', i * $step)) AS entries FROM generate_series(1, 1000) AS i;
		SELECT extract(epoch FROM clock_timestamp() - began), o FROM t, LATERAL (SELECT string_agg(outcome, ' ') FROM streamsink.apply('raised', entries)) AS a (o)});
	note sprintf('1000 entries, %s: %.1f ms', $which eq 'good' ? 'none raises' : 'ten raise', $took * 1000);
	is(scalar(() = $outcomes =~ /refused/g), $which eq 'good' ? 0 : 10, "$which ones: refused");
}

# ---------------------------------------------------------------------------
# Foreign tables: they can be written, not exactly once
# ---------------------------------------------------------------------------
my $port = $node->port;
my $host = $node->host;
sql(qq{CREATE EXTENSION postgres_fdw;
	CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER loopback OPTIONS (user 'postgres');
	CREATE TABLE far (n int CHECK (n <> 3), value int);
	CREATE FOREIGN TABLE near (n int, value int) SERVER loopback OPTIONS (table_name 'far')});
my ($rc, $out, $err) = $node->psql('postgres', q{SELECT streamsink.create_pipeline('foreign', server => 'iot', stream => 'foreign', row_type => 'event', transform => 'INSERT INTO near SELECT n, value FROM batch')});
like($err, qr/cannot be written exactly once: "near" is foreign/, 'a foreign table needs to be asked for');
sql(q{SELECT streamsink.create_pipeline('foreign', server => 'iot', stream => 'foreign', row_type => 'event', allow_inexact => true, transform => 'INSERT INTO near SELECT n, value FROM batch');
	SELECT streamsink.start('foreign')});
produce($redis, 'foreign', map { [ n => $_, value => $_ ] } 1 .. 20);
wait_settled($node, 'foreign');
is(sql('SELECT count(*), count(DISTINCT n) FROM far'), '19|19', 'a foreign table is written');
like(letters('foreign'), qr/^3\|write\|23514/, '... and its refusals come back');

$node->stop;
done_testing;
