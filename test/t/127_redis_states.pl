# Redis in every state in which it refuses commands or drops clients.  Whatever
# it says, nothing is lost, doubled or refused, the pipeline says why it waits,
# and it goes on by itself.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use FakeRedis;
use IO::Socket::UNIX;
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $redis = new_redis('states', 'lua-time-limit', '50');
my $node  = new_node('states', 'streamsink.discovery_interval' => '100ms', 'streamsink.sample_interval' => '100ms',
	'streamsink.block_time' => '100ms', 'streamsink.command_timeout' => '1s', 'streamsink.setup_retry' => '200ms',
	'streamsink.backoff_max' => '1s');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub status { return sql("SELECT $_[1] FROM streamsink.status WHERE pipeline = '$_[0]'"); }
sub pending { return (split /\n/, $redis->cli('XPENDING', $_[0], $_[0]))[0]; }

sql(q{CREATE TABLE t (n int);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 'p', target => 't', retry_backoff => '50 ms', retry_backoff_max => '200 ms');
	SELECT streamsink.start('p')});
wait_for_state($node, 'p', 'running');
my $sent = 0;
sub send_some { produce($redis, 'p', map { [ n => $_ ] } $sent + 1 .. $sent + 10); $sent += 10; return; }
my $locker = $node->background_psql('postgres');

# Everything is in the table once, acknowledged, and nothing was refused.
sub check_exact
{
	my ($what) = @_;
	wait_settled($node, 'p');
	is(sql('SELECT count(*), count(DISTINCT n), (SELECT count(*) FROM streamsink.dead_letters) FROM t'), "$sent|$sent|0", "$what: every entry once, none refused");
	is(pending('p'), 0, "$what: all are acknowledged");
	return;
}

# Bring Redis into a state while a batch is being written, so that the
# acknowledgement meets it, and let it get well when the pipeline has said why
# it waits.
sub while_redis
{
	my ($what, $code, $reason, $begin, $end) = @_;
	my $mark = -s $node->logfile;
	my $before = $sent;

	$locker->query_safe('BEGIN; LOCK TABLE t');
	send_some();
	$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND wait_event_type = 'Lock'")
	  or die 'no batch waits for the lock';
	$begin->();
	$locker->query_safe('COMMIT');
	ok($node->poll_query_until('postgres', "SELECT state = 'waiting' AND last_sqlstate = '$code' AND reason ~ '$reason' FROM streamsink.status WHERE pipeline = 'p'"),
		"$what: the pipeline waits and says why")
	  or diag(status_of($node, 'p'));
	cmp_ok(sql('SELECT count(*) FROM t'), '>', $before, "$what: what was committed meanwhile is there");
	like(slurp_file($node->logfile, $mark), qr/LOG:  (?:\w+: )?pipeline "p" waits after an error: .*$reason/s, "$what: the log says so");
	$end->();
	wait_for_state($node, 'p', 'running');
	send_some();
	check_exact($what);
	return;
}

# ---- states of the server ----

my $script;
while_redis('a script runs', '57P03', 'BUSY', sub {
	$script = fork // die "fork: $!";
	if ($script == 0)
	{
		open STDOUT, '>', '/dev/null';
		exec 'redis-cli', '-s', $redis->socket, 'EVAL', 'while true do end', 0;
	}
	poll_until(sub { ($redis->try_cli('GET', 'x'))[1] =~ /^BUSY/ }, 'BUSY');
}, sub { $redis->cli('SCRIPT', 'KILL'); waitpid $script, 0; });

# nobody but root may write there then, and root runs no PostgreSQL
while_redis('it cannot save', '57P03', 'MISCONF', sub {
	$redis->cli('CONFIG', 'SET', 'save', '3600 1');
	chmod 0555, $redis->dir or die "chmod: $!";
	$redis->cli('BGSAVE');
	poll_until(sub { $redis->cli('INFO', 'persistence') =~ /rdb_last_bgsave_status:err/ }, 'BGSAVE to fail');
}, sub { chmod 0755, $redis->dir; $redis->cli('CONFIG', 'SET', 'save', ''); });

while_redis('it lacks replicas', '57P03', 'NOREPLICAS',
	sub { $redis->cli('CONFIG', 'SET', 'min-replicas-to-write', 1) },
	sub { $redis->cli('CONFIG', 'SET', 'min-replicas-to-write', 0) });

my $nobody = PostgreSQL::Test::Cluster::get_free_port();
while_redis('it became a replica', '08006', 'READONLY',
	sub { $redis->cli('REPLICAOF', '127.0.0.1', $nobody) },
	sub { $redis->cli('REPLICAOF', 'NO', 'ONE') });

while_redis('it became a replica that lost its master', '57P03', 'MASTERDOWN', sub {
	$redis->cli('CONFIG', 'SET', 'replica-serve-stale-data', 'no');
	$redis->cli('REPLICAOF', '127.0.0.1', $nobody);
}, sub { $redis->cli('REPLICAOF', 'NO', 'ONE'); $redis->cli('CONFIG', 'SET', 'replica-serve-stale-data', 'yes'); });

# A read that waits in Redis is told of the demotion.
change_setting($node, 'streamsink.block_time', '5s');
poll_until(sub { $redis->cli('INFO', 'clients') =~ /blocked_clients:1/ }, 'a read that waits');
poll_until(sub { $redis->cli('CLIENT', 'LIST') =~ /cmd=xreadgroup/ }, 'the worker to read');
my $mark = -s $node->logfile;
$redis->cli('REPLICAOF', '127.0.0.1', $nobody);
poll_until(sub { slurp_file($node->logfile, $mark) =~ /UNBLOCKED|READONLY/ }, 'the worker to be told');
$redis->cli('REPLICAOF', 'NO', 'ONE');
send_some();
check_exact('demoted while a read waits');
$node->safe_psql('postgres', $_) for 'ALTER SYSTEM RESET streamsink.block_time', 'SELECT pg_reload_conf()';

# Loading: Redis answers long before it has all of its data.
$redis->cli('EVAL', q{for i = 1, 3000 do redis.call('SET', 'load:' .. i, string.rep('x', 100)) end}, 0);
$redis->cli('SAVE');
send_some();
check_exact('before the data is loaded again');
$redis->cli('SAVE');
$redis->stop;
push @{ $redis->{conf} }, 'key-load-delay', 500, 'loading-process-events-interval-bytes', 1024;
$mark = -s $node->logfile;
$redis->start;
like(slurp_file($node->logfile, $mark), qr/does not accept commands now.*LOADING/s, 'it loads its data: the pipeline waits and says why');
wait_for_state($node, 'p', 'running');
send_some();
check_exact('it loaded its data');
$redis->cli('EVAL', q{for i = 1, 3000 do redis.call('DEL', 'load:' .. i) end}, 0);

# ---- memory ----

# Out of memory: reading and acknowledging go on, only a new group must wait.
$locker->query_safe('BEGIN; LOCK TABLE t');
send_some();
produce($redis, 'late', [ n => -1 ]);
$redis->cli('CONFIG', 'SET', 'maxmemory', 1);
$locker->query_safe('COMMIT');
check_exact('it is out of memory');
is(status('p', 'state'), 'running', '... and the pipeline has not noticed');
sql(q{CREATE TABLE late (n int);
	SELECT streamsink.create_pipeline('late', server => 'iot', stream => 'late', target => 'late', retry_backoff => '50 ms');
	SELECT streamsink.start('late')});
wait_for_state($node, 'late', 'waiting');
like(status('late', 'last_sqlstate || reason'), qr/^57P03.*(?:OOM|EXECABORT)/, '... while a new group waits for memory');
$redis->cli('CONFIG', 'SET', 'maxmemory', 0);
wait_settled($node, 'late');
is(sql('SELECT count(*) FROM late'), 1, '... and is made when there is some');
sql(q{SELECT streamsink.drop_pipeline('late')});

# An eviction takes a stream away, with its group.
sub set_eviction
{
	my ($policy, $memory) = @_;
	$redis->cli('CONFIG', 'SET', 'maxmemory-policy', $policy);
	$redis->cli('CONFIG', 'SET', 'maxmemory', $memory);
	return;
}
set_eviction('allkeys-random', 1);
poll_until(sub { $redis->try_cli('SET', 'x', 1); $redis->cli('EXISTS', 'p') eq '0' }, 'the stream to be evicted');
wait_for_state($node, 'p', 'waiting');
like(status('p', 'reason'), qr/no such key/, 'an evicted stream is missed');
set_eviction('noeviction', 0);
sql(q{SELECT streamsink.alter_pipeline('p', on_replaced_stream => 'follow')});
send_some();
check_exact('the stream was evicted and made anew');

# ---- clients ----

# Killed again and again while it works.
my $batches = 40;
my $kills   = 0;
for (1 .. $batches)
{
	send_some();
	$kills += $redis->cli('CLIENT', 'KILL', 'TYPE', 'normal');
}
cmp_ok($kills, '>', 3, "CLIENT KILL killed clients ($kills)");
check_exact('clients were killed again and again');

# No room for clients.
poll_until(sub { $redis->cli('CLIENT', 'LIST') =~ /cmd=xreadgroup/ }, 'the worker to read');
my $control = IO::Socket::UNIX->new(Peer => $redis->socket) or die "cannot connect: $!";
sub ask { my @command = @_; print $control resp(@command); sysread $control, my $reply, 65536; return $reply; }
like(ask('CONFIG', 'SET', 'maxclients', 1), qr/^\+OK/, 'one client may connect');
like(ask('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes'), qr/^:[1-9]/, '... and it is not the worker');
ok($node->poll_query_until('postgres', "SELECT state = 'waiting' AND last_sqlstate = '53300' AND reason ~ 'too many clients' FROM streamsink.status WHERE pipeline = 'p'"),
	'there is no room for clients: the pipeline waits and says why') or diag(status_of($node, 'p'));
ask('CONFIG', 'SET', 'maxclients', 100);
close $control;
send_some();
check_exact('there was no room for clients');

# Redis drops who takes too much at a time: what is asked for gets less.
sql(q{CREATE TABLE wide (n int, v text);
	SELECT streamsink.create_pipeline('wide', server => 'iot', stream => 'wide', target => 'wide', retry_backoff => '20 ms', retry_backoff_max => '100 ms')});
produce($redis, 'wide', map { [ n => $_, v => 'x' x 100_000 ] } 1 .. 200);
foreach my $limit ([ 'client-output-buffer-limit', 'normal 3000000 0 0' ], [ 'maxmemory-clients', '3000000' ])
{
	my ($name, $value) = @$limit;
	next if ($redis->try_cli('CONFIG', 'SET', $name, $value))[1] !~ /^OK/; # came with 7.0
	my $before = sql('SELECT count(*) FROM wide');
	sql(q{SELECT streamsink.start('wide')});
	ok(eval { poll_until(sub { sql('SELECT count(*) FROM wide') - $before == 200 }, 'the entries', 60) }, "$name: all entries arrive, in smaller replies")
	  or diag(status_of($node, 'wide'));
	cmp_ok(status('wide', 'errors'), '>', 0, "... after clients were dropped");
	$redis->cli('CONFIG', 'SET', $name, $name eq 'maxmemory-clients' ? 0 : 'normal 0 0 0');
	sql(q{SELECT streamsink.stop('wide'); SELECT streamsink.reset_stats('wide')});
	produce($redis, 'wide', map { [ n => $_, v => 'x' x 100_000 ] } 1 .. 200);
}
sql(q{SELECT streamsink.drop_pipeline('wide')});

# ---- who may ----

# One pipeline's user is changed under it; the other one works on.
$redis->cli('ACL', 'SETUSER', 'q', 'on', '>first', '~*', '+@all');
sql(sprintf(q{CREATE SERVER other FOREIGN DATA WRAPPER streamsink OPTIONS (%s);
	CREATE USER MAPPING FOR postgres SERVER other OPTIONS (username 'q', password 'first');
	CREATE TABLE q (n int);
	SELECT streamsink.create_pipeline('q', server => 'other', stream => 'q', target => 'q');
	SELECT streamsink.start('q')}, server_options($redis)));
produce($redis, 'q', [ n => 1 ]);
wait_settled($node, 'q');
sub refused_ok
{
	my ($word, $code, $what, $alone) = @_;
	ok($node->poll_query_until('postgres', "SELECT state = 'waiting' AND last_sqlstate = '$code' AND reason ~ '$word' AND hint <> '' FROM streamsink.status WHERE pipeline = 'q'"),
		"$what: the pipeline waits, with reason and hint") or diag(status_of($node, 'q'));
	return if $alone;
	send_some();
	check_exact("$what: the other pipeline");
	return;
}
my $n = 1;
sub heals_ok
{
	my ($what) = @_;
	produce($redis, 'q', [ n => ++$n ]);
	ok(eval { wait_settled($node, 'q') } && sql('SELECT count(*), count(DISTINCT n) FROM q') eq "$n|$n", "$what: goes on by itself") or diag(status_of($node, 'q'));
	return;
}
$redis->cli('ACL', 'SETUSER', 'q', '-xreadgroup');
refused_ok('NOPERM', '42501', 'a command is taken away');
$redis->cli('ACL', 'SETUSER', 'q', '+xreadgroup');
heals_ok('it is given back');

# Entries that cannot be acknowledged are settled, come again and are dropped: that is no progress.
$redis->cli('ACL', 'SETUSER', 'q', '-xack');
produce($redis, 'q', [ n => ++$n ]);
refused_ok('NOPERM', '42501', 'XACK is taken away');
my $mark_ack = -s $node->logfile;
my $errors = status('q', 'errors');
$node->poll_query_until('postgres', "SELECT errors > $errors + 4 FROM streamsink.status WHERE pipeline = 'q'");
unlike(slurp_file($node->logfile, $mark_ack), qr/pipeline "q" waits/, 'XACK is taken away: it is logged once');
$redis->cli('ACL', 'SETUSER', 'q', '+xack');
heals_ok('XACK is given back');
cmp_ok(status('q', 'repeated'), '>', 3, '... after the same entry came again and again');
is(pending('q'), 0, '... and is acknowledged now');
$redis->cli('ACL', 'SETUSER', 'q', 'resetkeys');
refused_ok('NOPERM', '42501', 'the keys are taken away');
$redis->cli('ACL', 'SETUSER', 'q', '~*', 'resetpass', '>second');
$redis->cli('CLIENT', 'KILL', 'USER', 'q');
refused_ok('WRONGPASS', '28P01', 'the password is changed');
sql(q{ALTER USER MAPPING FOR postgres SERVER other OPTIONS (SET password 'second')});
heals_ok('it is changed here, too');
$redis->cli('ACL', 'DELUSER', 'q');
refused_ok('WRONGPASS', '28P01', 'the user is gone');
$redis->cli('ACL', 'SETUSER', 'q', 'on', '>second', '~*', '+@all');
heals_ok('the user is back');
sql(q{DROP USER MAPPING FOR postgres SERVER other});
heals_ok('the mapping is gone, and so is the need');
$redis->cli('CONFIG', 'SET', 'requirepass', 'now');
$ENV{REDISCLI_AUTH} = 'now';
$redis->cli('CLIENT', 'KILL', 'TYPE', 'normal');
refused_ok('NOAUTH', '28P01', 'a password is needed suddenly', 1);
$redis->cli('CONFIG', 'SET', 'requirepass', '');
delete $ENV{REDISCLI_AUTH};
heals_ok('it is not any more');
sql(q{SELECT streamsink.drop_pipeline('q')});

# ---- it does not answer in time, then all at once ----

$locker->query_safe('BEGIN; LOCK TABLE t');
send_some();
$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND wait_event_type = 'Lock'");
$redis->freeze;
$locker->query_safe('COMMIT');
ok($node->poll_query_until('postgres', "SELECT state = 'waiting' AND last_sqlstate ~ '^08' AND reason ~ 'in time' FROM streamsink.status WHERE pipeline = 'p'"), 'silence: the pipeline waits and says why');
# ... also while it tries to connect, which takes much longer than the pause between two tries
my $waiting = 0;
for (1 .. 20) { usleep(20_000); $waiting += status('p', 'state') eq 'waiting'; }
is($waiting, 20, '... all the time');
$redis->thaw;
wait_for_state($node, 'p', 'running');
send_some();
check_exact('late answers belong to connections that are gone');
$locker->quit;

# ---- other servers ----

# A cluster: many streams are in many slots.
my $cluster = new_redis('cluster', 'cluster-enabled', 'yes');
create_server($node, $cluster, 'cluster');
sql(q{SELECT streamsink.create_pipeline('cluster', server => 'cluster', stream => 'c:*', target => 't', connect => false)});
$cluster->cli('CLUSTER', 'ADDSLOTSRANGE', 0, 16383);
poll_until(sub { $cluster->cli('CLUSTER', 'INFO') =~ /cluster_state:ok/ }, 'the cluster');
produce($cluster, "c:$_", [ n => -1 ]) for 1 .. 3;
# a single stream could be read: they are there before the first look
sql(q{SELECT streamsink.start('cluster')});
ok($node->poll_query_until('postgres', "SELECT state = 'waiting' AND last_sqlstate = '0A000' AND hint ~ 'Cluster is not supported' FROM streamsink.status WHERE pipeline = 'cluster'"),
	'a cluster is refused, with a hint') or diag(status_of($node, 'cluster'));
is(sql('SELECT count(*) FROM t WHERE n < 0'), 0, '... and nothing is taken from it');
sql(q{SELECT streamsink.drop_pipeline('cluster')});
$cluster->stop;

# No Redis at all; and what fails a thousand times leaves nothing behind.
my $http = FakeRedis->new(greeting => "HTTP/1.1 400 Bad Request\r\nX-Secret: 4711\r\n\r\n");
sql(sprintf(q{CREATE SERVER http FOREIGN DATA WRAPPER streamsink OPTIONS (host '127.0.0.1', port '%d');
	SELECT streamsink.create_pipeline('http', server => 'http', stream => 's', target => 't', connect => false, retry_backoff => '1 ms', retry_backoff_max => '1 ms');
	SELECT streamsink.start('http')}, $http->port));
wait_for_state($node, 'http', 'waiting');
like(status('http', q{last_sqlstate || ' ' || reason || hint}), qr/^08P01 .*does not follow the Redis protocol.*options/s, 'an HTTP server is none of ours');
my $pid = sql(q{SELECT pid FROM streamsink.workers WHERE pipeline = 'http'});
sub usage
{
	my ($at_least) = @_;
	my @fd;
	$node->poll_query_until('postgres', "SELECT errors >= $at_least FROM streamsink.status WHERE pipeline = 'http'") or die 'errors';
	# the connection of the moment may be there or not
	opendir my $dir, "/proc/$pid/fd" or die $!;
	@fd = grep { /^\d/ && (readlink "/proc/$pid/fd/$_" // 'socket') !~ /^socket/ } readdir $dir;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /RssAnon:\s+(\d+)/;
	return (scalar @fd, $kb);
}
SKIP:
{
	skip 'no /proc', 3 unless -d "/proc/$pid/fd" && -r "/proc/$pid/status";
	my ($fd, $kb) = usage(30);
	my ($fd_later, $kb_later) = usage(200);
	cmp_ok($fd_later, '<=', $fd + 3, 'many failures leave no descriptor');
	cmp_ok($kb_later, '<', $kb + 1024, 'nor memory');
	is(sql(q{SELECT pid FROM streamsink.workers WHERE pipeline = 'http'}), $pid, 'in one process');
}
my $log = slurp_file($node->logfile);
my $lines = () = $log =~ /pipeline "http" waits after an error/g;
cmp_ok($lines, '<', 10, "nor do they fill the log ($lines lines)");
unlike($log, qr/4711/, 'what it said is not repeated');
sql(q{SELECT streamsink.drop_pipeline('http')});
$http->stop;

# ---- descriptors ----

# A program that the owner's trigger starts gets none of the worker's connections.
my $listing = $node->basedir . '/descriptors';
sql(qq{CREATE TABLE listed (n int);
	CREATE FUNCTION list() RETURNS trigger LANGUAGE plpgsql AS \$\$BEGIN COPY (SELECT 1) TO PROGRAM 'ls -l /proc/self/fd >$listing'; RETURN NULL; END\$\$;
	CREATE TRIGGER list AFTER INSERT ON listed EXECUTE FUNCTION list();
	SELECT streamsink.create_pipeline('listed', server => 'iot', stream => 'listed', target => 'listed');
	SELECT streamsink.start('listed')});
produce($redis, 'listed', [ n => 1 ]);
wait_settled($node, 'listed');
like(slurp_file($listing), qr/ -> /, 'a program lists its descriptors');
unlike(slurp_file($listing), qr/socket:/, '... and has no connection of the worker that started it');

is(sql('SELECT count(*) FROM streamsink.status WHERE read <> written + refused + ignored + repeated + superseded + vanished'), 0, 'counters add up');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'no process crashed');
$node->stop;
done_testing;
