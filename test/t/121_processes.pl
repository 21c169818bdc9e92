# Processes that are killed, servers that are stopped while Redis hangs, and
# background workers that are not to be had.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $limit = 2;    # seconds
my $redis = new_redis('processes');
my $node  = new_node('processes', 'streamsink.discovery_interval' => '100ms', 'streamsink.command_timeout' => '1s');
create_server($node, $redis);
my $sent = 0;
sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub send_some { produce($redis, 's', map { { v => $_ } } $sent + 1 .. $sent + 100); $sent += 100; return; }
sub check_exact
{
	my ($what) = @_;
	poll_until(sub { ($node->psql('postgres', 'SELECT 1'))[0] == 0 }, 'the server');
	wait_for_state($node, 'p', 'running');
	send_some();
	wait_settled($node, 'p');
	is(sql('SELECT count(*), count(DISTINCT v) FROM t'), "$sent|$sent", "$what: every entry once");
	return;
}
sub timed
{
	my ($what, $code) = @_;
	my $start = time;
	$code->();
	my $took = time - $start;
	cmp_ok($took, '<', $limit, sprintf '%s (%.2f s)', $what, $took);
	return;
}

# What a crash takes along without fsync, nobody can promise to keep.
like(slurp_file($node->logfile), qr/WARNING:  fsync is off.*exactly once/, 'fsync = off is warned of at start');

sql(q{CREATE TABLE t (v int);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 's', target => 't');
	SELECT streamsink.start('p')});
check_exact('at first');

# A session is killed: the server restarts all of its processes.
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
send_some();
kill 'KILL', $pid;
poll_until(sub { slurp_file($node->logfile) =~ /server process \(PID $pid\) was terminated by signal 9/ }, 'the crash');
eval { $session->quit };
check_exact('a session was killed');

# So is the launcher.
sub launcher { return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'streamsink launcher'}); }
my $launcher = launcher();
kill 'KILL', $launcher;
poll_until(sub { slurp_file($node->logfile) =~ /"streamsink launcher" \(PID $launcher\) was terminated by signal 9/ }, 'the crash');
check_exact('the launcher was killed');
$launcher = launcher();
sql("SELECT pg_terminate_backend($launcher)");
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'streamsink launcher' AND pid <> $launcher") or die 'no launcher';
check_exact('the launcher was terminated');

# Every way to stop a server, while Redis hangs.
foreach my $mode (qw(smart fast immediate))
{
	send_some();
	$redis->freeze;
	timed("pg_ctl stop -m $mode while Redis hangs", sub { $node->stop($mode) });
	$redis->thaw;
	$node->start;
	check_exact("after stop -m $mode");
}

# The postmaster dies: nobody stays behind.
my @pids = split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'streamsink%'});
cmp_ok(@pids, '>=', 2, 'a launcher and a worker run');
$redis->freeze;
timed('no orphan stays behind when the postmaster dies', sub {
	$node->kill9;
	poll_until(sub { !grep { kill 0, $_ } @pids }, 'the processes to go');
});
$redis->thaw;
$node->start;
check_exact('after the death of the postmaster');

# A worker that is about to connect while its database is dropped.
$node->safe_psql('postgres', 'CREATE DATABASE mold');
$node->safe_psql('mold', 'CREATE EXTENSION streamsink; CREATE TABLE t (v int)');
create_server($node, $redis, 'iot', 'mold');
$node->safe_psql('mold', q{SELECT streamsink.create_pipeline('d', server => 'iot', stream => 'd', target => 't', workers => 3)});
my $mark = -s $node->logfile;
for (1 .. 8)
{
	$node->safe_psql('postgres', 'CREATE DATABASE doomed TEMPLATE mold');
	$node->safe_psql('doomed', q{SELECT streamsink.start('d')});
	$node->safe_psql('postgres', 'DROP DATABASE doomed WITH (FORCE)');
}
unlike(slurp_file($node->logfile, $mark), qr/terminated by signal|PANIC|TRAP/, 'DROP DATABASE WITH (FORCE) of workers that start');
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND datname <> 'postgres'}), 0, '... leaves no worker');
check_exact('after databases were dropped under starting workers');
$node->stop;

# No background worker to be had.
my $poor = new_node('poor', max_worker_processes => 2, max_logical_replication_workers => 0);
create_server($poor, $redis);
$poor->safe_psql('postgres', q{CREATE TABLE t (v int);
	SELECT streamsink.create_pipeline('a', server => 'iot', stream => 'poor', target => 't'), streamsink.create_pipeline('b', server => 'iot', stream => 'poor', target => 't');
	SELECT streamsink.start('a')});
wait_for_state($poor, 'a', 'running');
$poor->safe_psql('postgres', q{SELECT streamsink.start('b')});
wait_for_state($poor, 'b', 'waiting');
like($poor->safe_psql('postgres', q{SELECT reason || ' ' || hint FROM streamsink.status WHERE pipeline = 'b'}), qr/no free background worker slot .*max_worker_processes/,
	'without a background worker a pipeline waits and says why');
produce($redis, 'poor', { v => 1 });
wait_settled($poor, 'a');
is($poor->safe_psql('postgres', 'SELECT count(*) FROM t'), 1, '... while the other one works');
$poor->safe_psql('postgres', q{SELECT streamsink.stop('a')});
wait_for_state($poor, 'b', 'running');
wait_settled($poor, 'b');
is($poor->safe_psql('postgres', 'SELECT count(*) FROM t'), 2, '... and runs when there is one again');
my $warnings = () = slurp_file($poor->logfile) =~ /WARNING:  no free background worker slot/g;
is($warnings, 1, '... warned of once');
$poor->stop;
done_testing;
