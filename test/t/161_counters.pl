# Counters are exact: what status says is what the rows say, at every moment,
# across kills of workers, restarts of the server, resets, dumps.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(usleep);

my $seed = $ENV{STREAMSINK_SEED} // 20240711;
my $kills = $ENV{STREAMSINK_KILLS} // 6;
note "seed $seed";
srand($seed);

my $redis = new_redis('counters');
my $node  = new_node('counters', 'streamsink.discovery_interval' => '100ms', 'streamsink.sample_interval' => '100ms', 'streamsink.fold_rows' => 7,
	fsync => 'on');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join "\n", @_); }

sub query
{
	my ($sql) = @_;
	my ($rc, $out);

	# psql that finds no server may be gone before it is given the statement: IPC::Run dies of the broken pipe
	eval { ($rc, $out) = $node->psql('postgres', $sql, timeout => 60); 1 } or $@ =~ /Broken pipe/ or die $@;
	return defined $rc && $rc == 0 ? $out : undef;
}

# A template with many streams, one stream that three workers share, an upsert, and a transform that leaves a tenth out.
sql(q{
	CREATE TABLE a (stream text, n int);
	CREATE TABLE b (n int);
	CREATE TABLE c (k int PRIMARY KEY, n int);
	CREATE TABLE d (n int);
	SELECT streamsink.create_pipeline('a', server => 'iot', stream => 'a:{stream}', target => 'a', batch_size => 20, retry_backoff => '20 ms');
	SELECT streamsink.create_pipeline('b', server => 'iot', stream => 'b', target => 'b', batch_size => 20, workers => 3, retry_backoff => '20 ms');
	SELECT streamsink.create_pipeline('c', server => 'iot', stream => 'c', target => 'c', on_conflict => 'update', batch_size => 20, retry_backoff => '20 ms');
	SELECT streamsink.create_pipeline('d', server => 'iot', stream => 'd', row_type => 'd', batch_size => 20, retry_backoff => '20 ms', transform =>
		'SELECT streamsink.ignore(_seq) FROM batch WHERE n % 10 = 0; INSERT INTO d SELECT n FROM batch WHERE n % 10 <> 0 AND (n > 0 OR streamsink.refuse(_seq, ''bad''))');
	SELECT streamsink.start('a'), streamsink.start('b'), streamsink.start('c'), streamsink.start('d')});

# One statement, so one snapshot: rows and dead letters beside the counters.
my $exact = q{SELECT string_agg(format('%s: %s rows, %s written, %s; %s dead letters, %s refused; %s read', s.pipeline, r.n, s.written, s.rows, s.dead_letters, s.refused, s.read), ', ')
	FROM streamsink.status s JOIN (SELECT 'a' AS pipeline, count(*) AS n FROM a UNION ALL SELECT 'b', count(*) FROM b UNION ALL SELECT 'd', count(*) FROM d) r USING (pipeline)
	WHERE s.written <> r.n OR s.rows <> r.n OR s.dead_letters <> s.refused
		OR s.read <> s.written + s.refused + s.ignored + s.repeated + s.superseded + s.vanished};

my ($good, $bad) = (0, 0);
sub send_some
{
	my ($n) = @_;
	for my $stream (map { "a:$_" } 1 .. 4)
	{
		produce($redis, $stream, map { [ n => $_ ] } 1 .. $n);
	}
	for my $stream ('b', 'b', 'b', 'b')
	{
		produce($redis, $stream, (map { [ n => $_ ] } 1 .. $n));
	}
	produce($redis, 'c', map { { k => $_ % 5, n => $_ } } 1 .. 4 * $n);
	produce($redis, $_, [ n => 'bad' ], [ n => 'bad' ]) for 'a:1', 'b';
	produce($redis, 'c', [ k => 'bad' ], [ k => 'bad' ]);
	produce($redis, 'd', [ n => 'bad' ], (map { [ n => $_ ] } 1 .. 4 * $n), [ n => -1 ]);
	$good += 4 * $n;
	$bad += 2;
	return;
}

sub settled
{
	poll_until(sub { (query('SELECT 1') // '') eq '1' }, 'the server');
	wait_settled($node, $_) for qw(a b c d);
	return;
}

sub check_end
{
	my ($what) = @_;
	settled();
	is(sql("SELECT string_agg(concat_ws(' ', pipeline, written + superseded + ignored, refused, ignored, vanished, read - repeated), ', ' ORDER BY pipeline) FROM streamsink.status"),
		join(', ', map { "$_ $good $bad " . ($_ eq 'd' ? $good / 10 : 0) . ' 0 ' . ($good + $bad) } qw(a b c d)), "$what: what was produced is what was counted");
	is(sql("SELECT written, refused, superseded FROM streamsink.status WHERE pipeline = 'a'"), "$good|$bad|0", "$what: where nothing is superseded");
	is(sql($exact), '', "$what: rows and dead letters too");
	return;
}

# Looks between and amid batches, while a producer is at work.
my $producer = fork // die "fork: $!";
if ($producer == 0)
{
	my $done = eval { send_some(40) for 1 .. 20; 1 };
	print STDERR "producer: $@" unless $done;
	# The test's own END blocks must not run here: they would end its servers.
	POSIX::_exit($done ? 0 : 1);
}
my ($looks, $amid, $last, $wrong) = (0, 0, 0, '');
while ($wrong eq '' && waitpid($producer, POSIX::WNOHANG()) == 0)
{
	($wrong, my $read) = split /\|/, sql("SELECT ($exact), (SELECT sum(read) FROM streamsink.status)");
	$looks++;
	$amid++ if $read > $last;
	$last = $read;
}
waitpid($producer, 0);
$good += 20 * 160;
$bad += 20 * 2;
is($wrong, '', 'counters follow the rows');
cmp_ok($amid, '>', 0, "looked $looks times, $amid of them found more than before");
check_end('at rest');

# A transaction that keeps its snapshot keeps its counters, whatever is written and folded.
{
	my $query = "SELECT string_agg(concat_ws(' ', pipeline, read, written, batches), ', ' ORDER BY pipeline) FROM streamsink.status";
	my $reader = $node->background_psql('postgres');
	$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $first = $reader->query_safe($query);
	send_some(60);
	check_end('beside a reader');
	is($reader->query_safe($query), $first, 'a snapshot keeps its counters');
	isnt(sql($query), $first, '... while others see more');
	$reader->query_safe('COMMIT');
	$reader->quit;
}

# Workers and the whole server are killed while they work.
my $before = 0;
for my $i (1 .. $kills)
{
	send_some(100 + 10 * int(rand(10)));
	usleep(int(rand(200_000)));
	if ($i % 4 == 0)
	{
		$node->stop('immediate');
		$node->start;
	}
	else
	{
		my $pid = poll_until(sub { my $p = query('SELECT pid FROM streamsink.workers WHERE pid IS NOT NULL ORDER BY random() LIMIT 1'); defined $p && $p =~ /^\d+$/ ? $p : undef }, 'a worker');
		kill 'KILL', $pid;
		poll_until(sub { defined query('SELECT 1') && !kill 0, $pid }, 'the server to come back');
	}
	my $now = query($exact);
	is($now, '', "after kill $i they agree") if defined $now;
	my $read = query('SELECT sum(read) FROM streamsink.status');
	cmp_ok($read, '>=', $before, '... and have not gone back'), $before = $read if defined $read;
}
my $crashes = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g;
cmp_ok($crashes, '>', 0, "$crashes crashes");
check_end('after kills');
$node->restart;
check_end('after a restart');

# A crash between the commit and everything that follows it, and one before.
SKIP:
{
	skip 'not a test build', 1 if ($node->psql('postgres', 'SHOW streamsink.fault'))[0] != 0;
	foreach my $point (qw(before-commit after-commit in-fold after-fold))
	{
		my $n = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g;
		sql("ALTER SYSTEM SET streamsink.fault = '$point:kill-once'");
		sql('SELECT pg_reload_conf()');
		send_some(60);
		poll_until(sub { my $m = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g; $m > $n }, "a crash at $point");
		check_end("killed $point");
		sql('ALTER SYSTEM RESET streamsink.fault');
		sql('SELECT pg_reload_conf()');
	}
}

# Entries that come again are counted once as what they were, then as repeated.
my $repeated = sql("SELECT repeated FROM streamsink.status WHERE pipeline = 'a'");
sql("SELECT streamsink.stop('a')");
wait_for_state($node, 'a', 'stopped');
$redis->cli('XGROUP', 'SETID', "a:$_", 'a', 0) for 1 .. 4;
sql("SELECT streamsink.start('a')");
poll_until(sub { sql("SELECT repeated >= $repeated + $good + $bad FROM streamsink.status WHERE pipeline = 'a'") eq 't' }, 'all of it to come again');
check_end('everything again');

# A transaction that is rolled back takes nothing with it, and a reset is exact
# while batches go on: with the table locked none is under way.
sql("BEGIN; SELECT streamsink.reset_stats('a'); ROLLBACK;");
check_end('a reset that was rolled back');
# ... some of them not folded yet
sql('ALTER SYSTEM SET streamsink.fold_rows = 1000');
sql('SELECT pg_reload_conf()');
poll_until(sub { sql('SHOW streamsink.fold_rows') eq '1000' }, 'the setting');
send_some(60);
settled();
send_some(200);
my $at_reset = sql(q{BEGIN; LOCK TABLE b, streamsink.dead_letter IN SHARE MODE; SELECT streamsink.reset_stats('b') IS NULL;
	SELECT 'unfolded: ' || count(*) FROM streamsink.ledger_log l JOIN streamsink.pipeline p ON p.id = l.pipeline WHERE p.name = 'b';
	SELECT (SELECT count(*) FROM b) || ' ' || (SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'b') || ' ' || s.read || s.written || s.rows || s.batches
	FROM streamsink.status s WHERE pipeline = 'b'; COMMIT});
my ($rows_then, $letters_then, $zero) = $at_reset =~ /^(\d+) (\d+) (\d+)$/m or die $at_reset;
is($zero, '0000', 'a reset sets them to zero');
like($at_reset, qr/^unfolded: [1-9]/m, '... also what is not folded yet');
sql('ALTER SYSTEM SET streamsink.fold_rows = 7');
sql('SELECT pg_reload_conf()');
send_some(50);
settled();
is(sql("SELECT written + $rows_then, refused + $letters_then FROM streamsink.status WHERE pipeline = 'b'"), "$good|$bad", 'every batch counts before a reset or after it');
poll_until(sub { sql("SELECT count(*) FROM streamsink.ledger_log") eq '0' }, 'the log to be folded');
is(sql("SELECT written + $rows_then, refused + $letters_then FROM streamsink.status WHERE pipeline = 'b'"), "$good|$bad", '... folded or not');
cmp_ok(sql("SELECT extract(epoch FROM now() - stats_reset) FROM streamsink.status WHERE pipeline = 'b'"), '<', 600, 'it says since when');

# ingest counts as well.
sql("SELECT streamsink.stop('c')");
wait_for_state($node, 'c', 'stopped');
my $c = sql("SELECT read FROM streamsink.status WHERE pipeline = 'c'");
produce($redis, 'c', map { { k => $_, n => 1 } } 1 .. 30);
sql("CALL streamsink.ingest('c')");
is(sql("SELECT read - $c FROM streamsink.status WHERE pipeline = 'c'"), 30, 'what a session ingests is counted');

# A retry has its own: what it applies was read and refused before.
my $then = sql("SELECT concat_ws(' ', read, written, refused, rows, batches) FROM streamsink.status WHERE pipeline = 'c'");
sql(q{UPDATE streamsink.dead_letters SET fields = '{"k": "77", "n": "1"}' WHERE id IN (SELECT id FROM streamsink.dead_letters WHERE pipeline = 'c' ORDER BY id LIMIT 5)});
is(sql("SELECT streamsink.retry_dead_letters('c')"), 5, 'five dead letters are retried');
is(sql("SELECT retried FROM streamsink.status WHERE pipeline = 'c'"), 5, '... and counted as such');
is(sql("SELECT concat_ws(' ', read, written, refused, rows, batches) FROM streamsink.status WHERE pipeline = 'c'"), $then, '... and as nothing else');
sql("BEGIN; SELECT streamsink.retry_dead_letters('c', (SELECT array_agg(id) FROM streamsink.dead_letters WHERE pipeline = 'c')); ROLLBACK;");
is(sql("SELECT retried FROM streamsink.status WHERE pipeline = 'c'"), 5, 'a rollback takes it back');

# Dumped with the rows.
sql("SELECT streamsink.stop('a'), streamsink.stop('b'), streamsink.stop('d')");
wait_for_state($node, $_, 'stopped') for qw(a b d);
my $counters = q{SELECT string_agg(concat_ws(' ', pipeline, read, written, refused, ignored, repeated, superseded, vanished, rows, batches, errors, retried, stats_reset), ', ' ORDER BY pipeline) FROM streamsink.status};
my $file = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $file, 'postgres' ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', $file ], 'it restores');
is($node->safe_psql('restored', $counters), sql($counters), 'counters come along');

# Another pipeline of the same name begins with nothing.
sql(q{SELECT streamsink.drop_pipeline('a'); SELECT streamsink.create_pipeline('a', server => 'iot', stream => 'other:{stream}', target => 'a')});
is(sql("SELECT read, written, refused, repeated, batches, errors, rows FROM streamsink.status WHERE pipeline = 'a'"), '0|0|0|0|0|0|0', 'a new one of the same name has none');
is(sql("SELECT count(*) FROM streamsink.counter WHERE pipeline NOT IN (SELECT id FROM streamsink.pipeline)"), 0, 'nothing is left of the old one');
sql("SELECT streamsink.start('a')");
produce($redis, 'other:1', [ n => 1 ]);
wait_settled($node, 'a');
is(sql("SELECT read, written FROM streamsink.status WHERE pipeline = 'a'"), '1|1', '... and counts its own');
$node->stop;
done_testing;
