# Exactly once without a unique key: a million entries over 300 streams arrive
# with exact values and counts while the worker is killed with SIGKILL again and
# again, each time taking the whole server through crash recovery.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $entries = $ENV{STREAMSINK_KILL_ENTRIES} // 1_000_000;
my $streams = 300;
my $kills   = $ENV{STREAMSINK_KILLS} // 12;
my $seed    = $ENV{STREAMSINK_SEED} // 20240607;

note "seed $seed, $entries entries, $kills kills";
srand($seed);

my $redis = new_redis('kill');
my $node  = new_node('kill', 'streamsink.discovery_interval' => '200ms');
create_server($node, $redis);
$node->safe_psql('postgres', q{
	CREATE TABLE readings (device_id text NOT NULL, sensor_type text NOT NULL, n bigint NOT NULL, value numeric NOT NULL);
	SELECT streamsink.create_pipeline('kill', server => 'iot', stream => 'mqtt_stream:{device_id}:{sensor_type}',
		target => 'readings');
	SELECT streamsink.start('kill')});

# Entry n goes to one of 300 streams and has a value that follows from n.
sub stream_of { my $s = $_[0] % $streams; return 'mqtt_stream:dev' . int($s / 3) . ':' . ('temp', 'hum', 'co2')[ $s % 3 ]; }
sub value_of { return $_[0] . '.' . sprintf('%05d', ($_[0] * 7919) % 100000); }

# The producer runs beside the pipeline.
my $producer = fork // die "fork: $!";
if ($producer == 0)
{
	my $chunk = 20_000;
	my $good = eval {
		for (my $from = 1; $from <= $entries; $from += $chunk)
		{
			my $to = $from + $chunk - 1;
			$to = $entries if $to > $entries;
			$redis->cli_stdin(join '', map { resp('XADD', stream_of($_), '*', n => $_, value => value_of($_)) } $from .. $to);
		}
		1;
	};
	print STDERR "producer: $@" unless $good;
	# The test's own END blocks must not run here: they would end its servers.
	require POSIX;
	POSIX::_exit($good ? 0 : 1);
}

# A live worker that has settled something since it started.
sub busy_worker
{
	my $pid = try_sql($node, "SELECT pid FROM streamsink.workers WHERE pipeline = 'kill' AND pid IS NOT NULL AND written > 0");
	return defined $pid && $pid =~ /^\d+$/ ? $pid : undef;
}

my $killed = 0;
my $rows_at_last_kill = 0;
for my $i (1 .. $kills)
{
	my $pid = poll_until(\&busy_worker, "worker $i to settle batches");
	usleep(int(rand(300_000)));
	$killed++ if kill 'KILL', $pid;
	poll_until(sub { my $now = try_sql($node, 'SELECT 1'); defined $now && !kill 0, $pid }, "the server to come back after kill $i");
	$rows_at_last_kill = try_sql($node, 'SELECT count(*) FROM readings') // 0;
	note "kill $i: pid $pid, $rows_at_last_kill rows";
}
is($killed, $kills, "the worker was killed $kills times");
my $crashes = () = slurp_file($node->logfile) =~ /streamsink worker[^\n]*was terminated by signal 9/g;
is($crashes, $kills, 'the postmaster saw every kill');
cmp_ok($rows_at_last_kill, '<', $entries, 'there was work left at the last kill');

waitpid($producer, 0);
is($?, 0, 'the producer wrote all its entries');
is($redis->cli('EVAL', "local n = 0; for _, k in ipairs(redis.call('KEYS', 'mqtt_stream:*')) do n = n + redis.call('XLEN', k) end; return n", 0),
	$entries, 'the streams hold all entries');

poll_until(sub { (try_sql($node, "SELECT state FROM streamsink.status WHERE pipeline = 'kill'") // '') eq 'running' }, 'the pipeline to run');
is($node->safe_psql('postgres', "SELECT streamsink.wait_for('kill', '5 min')"), 't', 'everything is settled');

is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT n), min(n), max(n) FROM readings'),
	"$entries|$entries|1|$entries", 'every entry arrived once');
is($node->safe_psql('postgres', "SELECT count(*) FROM readings WHERE value <> (n || '.' || lpad(((n * 7919) % 100000)::text, 5, '0'))::numeric"),
	0, 'every value is exact');
is($node->safe_psql('postgres', "SELECT count(*) FROM readings WHERE device_id <> 'dev' || ((n % $streams) / 3) OR sensor_type <> (ARRAY['temp', 'hum', 'co2'])[(n % $streams) % 3 + 1]"),
	0, 'every entry came from its stream');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT (device_id, sensor_type)) FROM readings'), $streams, "all $streams streams were read");
is($node->safe_psql('postgres', 'SELECT count(*) FROM streamsink.dead_letters'), 0, 'no dead letters');
is($redis->cli('EVAL', "local n = 0; for _, k in ipairs(redis.call('KEYS', 'mqtt_stream:*')) do n = n + redis.call('XPENDING', k, 'kill')[1] end; return n", 0),
	0, 'nothing is pending');
poll_until(sub { (try_sql($node, "SELECT count(*) FROM streamsink.ledger_log") // 1) == 0 }, "the ledger's log to be folded to its end, in steps");
is($node->safe_psql('postgres', 'SELECT count(DISTINCT stream) FROM streamsink.ledger'), $streams, 'the folded ledger has every stream');

$node->stop;
done_testing;
