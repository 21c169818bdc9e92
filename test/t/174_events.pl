# The example events: an event log in JSONB, watched, and 10,000 events a second for a minute.
#
# SS_SECONDS, SS_RATE: another benchmark.
use strict;
use warnings;
use File::Basename;
use IPC::Run ();
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamsinkTest;
use Test::More;

my $tree = $ENV{STREAMSINK_TREE} // dirname(__FILE__) . '/../..';
my $example = "$tree/examples/events";
my $redis = new_redis('events');
my $node = new_node('events', _extension => 0, 'streamsink.sample_interval' => '500ms');
my ($rate, $seconds) = ($ENV{SS_RATE} // 10_000, $ENV{SS_SECONDS} // 60);
my @psql = ('psql', '-X', '-q', '-d', $node->connstr('postgres'));

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub produced { return $redis->cli_stdin(scalar `$example/producer --rate 0 @_ 2>/dev/null`); }

# ---- what was there before the pipeline ----
my $began = time;
is(produced('--count', 6000), 6000, 'a producer for n events');
command_ok([ @psql, '-v', 'host=' . $redis->host, '-v', 'port=' . $redis->port, '-f', "$example/setup.sql" ], 'setup.sql runs');
wait_settled($node, 'events');
is(sql(q{SELECT count(*), count(DISTINCT data -> 'seq'), bool_and(jsonb_typeof(data) = 'object'), bool_and(created_at <= written_at) FROM events}),
	'6000|6000|t|t', 'stream events: a JSON document, kept as jsonb, each once');
is(sql('SELECT string_agg(DISTINCT event_type, \' \' ORDER BY event_type) FROM events'),
	'order_placed order_shipped payment_processed product_viewed user_created', 'an event type');
is(sql('SELECT max(n) FROM (SELECT count(*) AS n FROM events GROUP BY written_at) b'), '500', '500 entries a batch');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 5 AND count(DISTINCT consumer) = 5 FROM streamsink.workers WHERE pipeline = 'events'}),
	'five workers');

# ---- a batch that does not fill, and how they wait ----
my ($watch, $commands) = ('', "$ENV{TESTDIR}/events.monitor");
my $spy = IPC::Run::start([ 'redis-cli', '-s', $redis->socket, 'MONITOR' ], '<', \'', '>', $commands);
poll_until(sub { -s $commands }, 'MONITOR');
produced('--count', 1, '--seed', 7);
ok($node->poll_query_until('postgres', 'SELECT count(*) = 6001 FROM events'), 'one more event');
my $waited = sql('SELECT extract(epoch FROM written_at - created_at) FROM events ORDER BY id DESC LIMIT 1');
cmp_ok($waited, '>=', 1.9, "... or 2 seconds a batch ($waited s)");
$spy->kill_kill;
my @reads = slurp_file($commands) =~ /"XREADGROUP" (.*)/g;
my @counts = map { /"COUNT" "(\d+)"/ } @reads;
my @blocks = map { /"BLOCK" "(\d+)"/ } @reads;
cmp_ok(scalar(@counts), '>', 0, 'reads were seen');
is(scalar(grep { $_ > 500 } @counts), 0, 'a read asks for no more than a batch');
is(sql('SHOW streamsink.block_time'), '5s', 'a 5 s block');
is(scalar(grep { $_ > 5000 } @blocks), 0, '... is the longest');

# ---- dead letters ----
produced('--count', 500, '--invalid', 0.02, '--seed', 3);
produce($redis, 'events', [ event_type => 'order_placed' ], [ data => '{}' ]);
wait_settled($node, 'events');
my $refused = sql(q{SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'events'});
cmp_ok($refused, '>', 2, "dead letters: some ($refused)");
is(sql('SELECT count(*) FROM events'), 6001 + 502 - $refused, 'the rest is written');
poll_until(sub { $redis->cli('XLEN', 'stream:dead') == $refused }, 'the copies');
my %copied = map { my %f = @{ $_->[1] }; ($f{id} => 1) } @{ JSON::PP->new->utf8->decode($redis->cli('--json', 'XRANGE', 'stream:dead', '-', '+')) };
is(join(' ', sort keys %copied), join(' ', sort split /\n/, sql('SELECT entry_id FROM streamsink.dead_letters')),
	'dead letters both as a table and as a Redis stream');

# ---- the monitor ----
ok($node->poll_query_until('postgres', "SELECT dead_letter_stream_length = $refused AND lag = 0 AND pending = 0 FROM streamsink.status"), 'sampled');
my $psql = IPC::Run::start([ @psql, '-v', 'seconds=1', '-f', "$example/monitor.sql" ], '<', \'', '>', \$watch);
poll_until(sub { $psql->pump_nb; (() = $watch =~ /^ table size/mg) >= 3 }, 'three looks');
$psql->kill_kill;
my %shown = $watch =~ /^ {1,3}(\S.*?) *\| (.*?) *$/mg;
my $length = $redis->cli('XLEN', 'events');
my $rows = sql('SELECT count(*) FROM events');
like($watch, qr/every 1s/, 'a monitor, refreshed every n seconds');
is($shown{'stream length'}, $length, '... stream length');
is($shown{pending}, 0, '... pending');
is($shown{'dead letters in Redis'}, $refused, '... dead letters in Redis');
is($shown{'dead letters in Postgres'}, $refused, '... and in Postgres');
is($shown{'total events'}, $rows, '... total events');
SKIP:
{
	skip 'this machine is too slow for it', 1 if time - $began > 50;
	is($shown{'events in the last minute'}, $rows, '... events in the last minute');
}
like($shown{'table size'}, qr/^\d+ [kM]B$/, '... table size');
is($shown{order_shipped}, sql(q{SELECT count(*) FROM events WHERE event_type = 'order_shipped'}), '... events by type');

# ---- the benchmark ----
sql('TRUNCATE events');
$redis->cli('XTRIM', 'events', 'MAXLEN', 0);
my ($out, $err) = ('', '');
IPC::Run::run([ "$example/benchmark", '--rate', $rate, '--seconds', $seconds, '--json', '--redis', 'redis-cli -s ' . $redis->socket,
	'--psql', "psql -d '" . $node->connstr('postgres') . "'" ], '<', \'', '>', \$out, '2>', \$err);
my $status = $?;
note "$out$err";
my $report = eval { JSON::PP->new->decode($out) } // {};
is($report->{total}, $rate * $seconds, 'benchmark: total');
cmp_ok($report->{elapsed}, '>=', $seconds * 0.98, '... elapsed');
is($report->{target}, $rate, '... target');
cmp_ok($report->{accuracy}, '>', 95, "... actual rate $report->{rate}, accuracy");
is($report->{ingested}, $rate * $seconds, '... ingested');
cmp_ok($report->{'backlog growth'}, '<=', $rate / 100, 'the backlog does not grow');
is($status, 0, 'the pipeline keeps up') or diag(status_of($node, 'events'), $err);
is(sql(q{SELECT count(*), count(DISTINCT data -> 'seq') FROM events}), join('|', ($rate * $seconds) x 2), 'each event once');
is(sql(q{SELECT count(*) FROM streamsink.workers WHERE pipeline = 'events' AND written > 0}), 5, 'all five workers wrote');

$node->stop;
$redis->stop;
done_testing();
