# The example sensor-writer: every reading once, every bad one with its reason.
use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamsinkTest;
use Test::More;

my $tree = $ENV{STREAMSINK_TREE} // dirname(__FILE__) . '/../..';
my $example = "$tree/examples/sensor-writer";
my $redis = new_redis('sensors');
my $node = new_node('sensors', _extension => 0);
my $count = 7_000;

$redis->cli_stdin(scalar `$example/producer --count 1000 --rate 0 --devices 20`);
command_ok([ 'psql', '-X', '-q', '-v', 'host=' . $redis->host, '-v', 'port=' . $redis->port,
	'-d', $node->connstr('postgres'), '-f', "$example/sensor-writer.sql" ], 'sensor-writer.sql runs');
wait_settled($node, 'sensors');
is($node->safe_psql('postgres', 'SELECT count(*) FROM sensor_readings'), '1000', 'what was there is written');

# more streams than before, while it runs, and the bad ones
$node->safe_psql('postgres', 'TRUNCATE sensor_readings');
my $commands = `$example/producer --count $count --rate 0 --devices 100 --bad`;
is($redis->cli_stdin($commands), $count, 'all are produced');
# new streams are found within the discovery interval; wait_for covers those that are known
ok($node->poll_query_until('postgres', "SELECT streams = 300 FROM streamsink.status WHERE pipeline = 'sensors'"),
	'streams that are new are found');
wait_settled($node, 'sensors');

is($node->safe_psql('postgres', q{
	SELECT count(*), count(DISTINCT metadata ->> 'seq'), count(DISTINCT (device_id, sensor_type)),
		bool_and(timestamp > now() - interval '1 hour' AND created_at IS NOT NULL)
	FROM sensor_readings}), join('|', $count - 6, $count - 6, 300, 't'), 'every good reading once');
is($node->safe_psql('postgres', q{
	SELECT sqlstate, column_name FROM streamsink.dead_letters WHERE pipeline = 'sensors' ORDER BY sqlstate, column_name}) =~ s/\n/ /gr,
	'22008|timestamp 22021|metadata 22021|value 22P02|metadata 22P02|value 23502|value', 'every bad one with its reason')
  or diag($node->safe_psql('postgres', 'SELECT sqlstate, column_name, error FROM streamsink.dead_letters ORDER BY id'));
is($node->safe_psql('postgres', q{
	SELECT state, read, written, refused, repeated, read = written + refused + ignored + repeated + superseded + vanished
	FROM streamsink.status WHERE pipeline = 'sensors'}),
	join('|', 'running', 1000 + $count, 1000 + $count - 6, 6, 0, 't'), 'and counted');

# nothing stays pending
my $pending = 0;
foreach my $stream (split /\n/, $redis->cli('--scan', '--pattern', 'mqtt_stream:*'))
{
	$pending += (split /\n/, $redis->cli('XPENDING', $stream, 'sensors'))[0];
}
is($pending, 0, 'everything is acknowledged');

$node->stop;
$redis->stop;
done_testing();
