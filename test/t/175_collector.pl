# The example collector: telemetry, thresholds and alerts for smart buildings.  With
# TimescaleDB (SS_TIMESCALE=1: it must be there) into a hypertable.
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
my $example = "$tree/examples/collector";
my $timescale = $ENV{SS_TIMESCALE};
my $redis = new_redis('collector');
my $node = new_node('collector', _extension => 0, 'streamsink.sample_interval' => '500ms', 'streamsink.discovery_interval' => '200ms',
	max_worker_processes => 40,
	$timescale ? (shared_preload_libraries => 'timescaledb,streamsink', 'timescaledb.max_background_workers' => 0) : ());
my $json = JSON::PP->new->canonical;
my @children;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub count { return sql("SELECT count(*) FROM $_[0]"); }
sub reading { my ($device, $place, $time, @values) = @_; return [ device_id => $device, place_id => $place, time => $time, @values ]; }
sub read_in { produce($redis, 'telemetry.readings', @_); return wait_settled($node, 'readings'); }

# An event about devices; their streams may be new.
sub device
{
	my ($event, @fields) = @_;
	my $before = sql(q{SELECT read FROM streamsink.status WHERE pipeline = 'devices'});
	produce($redis, "devices.$event", \@fields);
	return $node->poll_query_until('postgres', "SELECT read > $before FROM streamsink.status WHERE pipeline = 'devices'");
}

# A program that runs beside, with what it prints.
sub start_child
{
	my ($name, @command) = @_;
	my $child = { out => "$ENV{TESTDIR}/collector.$name", name => $name };
	$child->{pid} = fork // die $!;
	if ($child->{pid} == 0)
	{
		setpgrp;
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', $child->{out};
		exec(@command) or POSIX::_exit(127);
	}
	push @children, $child;
	return $child;
}
sub lines { my ($child) = @_; return -e $child->{out} ? split /\n/, slurp_file($child->{out}) : (); }
END { local $?; foreach my $child (@children) { kill 'KILL', -$child->{pid}; waitpid $child->{pid}, 0; } }

command_ok([ 'psql', '-X', '-q', '-v', 'host=' . $redis->host, '-v', 'port=' . $redis->port, '-v', 'interval=300 ms', '-v', 'alert_streams=1',
		'-d', $node->connstr('postgres'), '-f', "$example/setup.sql" ], 'setup.sql runs');
wait_for_state($node, $_, 'running') foreach qw(readings devices);

# ---- who gets the alerts ----
my $mqtt_port = PostgreSQL::Test::Cluster::get_free_port();
my ($mosquitto) = grep { -x } '/usr/sbin/mosquitto', split /:/, $ENV{PATH};
append_to_file("$ENV{TESTDIR}/collector.conf", "listener $mqtt_port 127.0.0.1\nallow_anonymous true\n");
start_child('broker', $mosquitto, '-c', "$ENV{TESTDIR}/collector.conf");
poll_until(sub { system("mosquitto_pub -h 127.0.0.1 -p $mqtt_port -t ready -m x 2>/dev/null") == 0 }, 'the broker');
my $subscriber = start_child('subscriber', 'redis-cli', '-s', $redis->socket, 'PSUBSCRIBE', 'placebrain/*/alerts');
my $mqtt = start_child('mqtt', 'mosquitto_sub', '-h', '127.0.0.1', '-p', $mqtt_port, '-q', 1, '-v', '-t', 'placebrain/+/alerts', '-t', 'ready');
poll_until(sub { system("mosquitto_pub -h 127.0.0.1 -p $mqtt_port -t ready -m x"); lines($mqtt) }, 'the MQTT client');
{
	local $ENV{REDIS_CLI} = 'redis-cli -s ' . $redis->socket;
	local $ENV{MOSQUITTO_PUB} = "mosquitto_pub -h 127.0.0.1 -p $mqtt_port";
	start_child('bridge', "$example/mqtt-bridge");
}
poll_until(sub { (() = $redis->cli('CLIENT', 'LIST', 'TYPE', 'PUBSUB') =~ m{psub=1}g) == 2 }, 'both to have subscribed');
sub received { my @l = lines($subscriber); my @got; while (@l) { my $kind = shift @l; push @got, "$l[1] $l[2]" if $kind eq 'pmessage'; splice @l, 0, $kind eq 'pmessage' ? 3 : 2; } return @got; }
sub received_mqtt { return grep { /^placebrain/ } lines($mqtt); }

# ---- readings ----
read_in(reading('d1', 'home', '2026-03-01T12:00:00Z', temperature => 21.5, humidity => 40), reading('d1', 'home', '2026-03-01T12:01:00Z', temperature => 22));
is(sql('SELECT device_id, place_id, time AT TIME ZONE \'UTC\', key, value FROM readings ORDER BY time, key'),
	"d1|home|2026-03-01 12:00:00|humidity|40\nd1|home|2026-03-01 12:00:00|temperature|21.5\nd1|home|2026-03-01 12:01:00|temperature|22",
	'telemetry.readings: device_id, place_id, time, and key/value readings go to readings');
read_in(reading('d1', 'home', 'noon', temperature => 1), reading('d1', 'home', '2026-03-01T12:02:00Z', temperature => 'hot'), [ temperature => 1 ],
	reading('d1', 'home', '2026-03-01T12:02:00Z', temperature => 23));
is(count('readings'), 4, 'a bad entry is refused, the others are kept');
is(sql(q{SELECT string_agg(sqlstate, ' ' ORDER BY sqlstate) FROM streamsink.dead_letters}), '22007 22P02 P0001', '... with its reason');
sql(q{SELECT streamsink.stop('readings')});
my $made = `$example/producer --count 5000 --seed 11 2>'$ENV{TESTDIR}/collector.made'`;
$redis->cli_stdin($made);
$made = $json->decode(slurp_file("$ENV{TESTDIR}/collector.made"));
my $batches = sql(q{SELECT batches FROM streamsink.status WHERE pipeline = 'readings'});
sql(q{SELECT streamsink.start('readings')});
wait_for_state($node, 'readings', 'running');
wait_settled($node, 'readings');
is(count('readings'), 4 + $made->{readings}, 'all readings of all entries');
my $taken = sql(q{SELECT batches FROM streamsink.status WHERE pipeline = 'readings'}) - $batches;
ok($taken >= 5 && $taken <= 10, "flush at 1,000 entries ($taken batches for 5000)");
$batches += $taken;
my $begun = Time::HiRes::time();
produce($redis, 'telemetry.readings', reading('d1', 'home', '2026-03-01T12:03:00Z', temperature => 24));
ok($node->poll_query_until('postgres', 'SELECT count(*) = ' . (5 + $made->{readings}) . ' FROM readings'), 'or after a chosen interval');
cmp_ok(Time::HiRes::time() - $begun, '>=', 0.3, '... of 300 ms');
is(sql(q{SELECT batch_size, linger FROM streamsink.pipelines WHERE name = 'readings'}), '1000|00:00:00.3', '... as it was set up');

# ---- thresholds and alerts ----
is(count('alerts'), 0, 'no thresholds, no alerts');
device('threshold.created', threshold_id => 't1', device_id => 'd1', key => 'temperature', max_value => 30);
device('threshold.created', threshold_id => 't2', device_id => 'd1', key => 'temperature', min_value => 5);
device('threshold.created', threshold_id => 't3', device_id => 'd2', key => 'co2', min_value => 300, max_value => 1000);
is(sql('SELECT threshold_id, device_id, key, min_value, max_value FROM thresholds ORDER BY 1'), "t1|d1|temperature||30\nt2|d1|temperature|5|\nt3|d2|co2|300|1000",
	'devices.threshold.created keeps the thresholds table');
read_in(reading('d1', 'home', '2026-03-01T13:00:00Z', temperature => 30, humidity => 99), reading('d1', 'home', '2026-03-01T13:01:00Z', temperature => 31.5),
	reading('d2', 'office', '2026-03-01T13:01:00Z', co2 => 1200, temperature => 90), reading('d1', 'home', '2026-03-01T13:02:00Z', temperature => 4), reading('d3', 'office', '2026-03-01T13:02:00Z', co2 => 5000));
is(sql('SELECT device_id, place_id, key, value, threshold_id, bound FROM alerts ORDER BY id'), "d1|home|temperature|31.5|t1|max\nd2|office|co2|1200|t3|max\nd1|home|temperature|4|t2|min",
	'each reading is checked against its device\'s thresholds: a crossing writes a row to alerts');
poll_until(sub { received() >= 3 }, 'the subscriber');
my @alerts = map { [ /^(\S+) (.*)$/ ] } received();
is(join(' ', map { "$_->[0]:" . $json->decode($_->[1])->{value} } @alerts), 'placebrain/home/alerts:31.5 placebrain/office/alerts:1200 placebrain/home/alerts:4',
	'... and is published to placebrain/{place_id}/alerts, received by a subscriber');
is(join(' ', sort map { $json->decode($_->[1])->{id} } @alerts), join(' ', sort split /\n/, sql('SELECT id FROM alerts')), '... once');
poll_until(sub { received_mqtt() >= 3 }, 'the MQTT client');
is(join("\n", sort(received_mqtt())), join("\n", sort(received())), '... and by an MQTT client, through the bridge');
poll_until(sub { $redis->cli('XLEN', 'placebrain/home/alerts') >= 2 }, 'the stream');
is(join(' ', map { my %f = @{ $_->[1] }; "$f{threshold_id}:$f{value}" } @{ $json->decode($redis->cli('--json', 'XRANGE', 'placebrain/home/alerts', '-', '+')) }), 't1:31.5 t2:4',
	'... and added to a stream of that name where the pipeline asks for it');

# only after the commit: a batch that is rolled back publishes nothing
sql(q{CREATE SEQUENCE tries; CREATE FUNCTION breaks() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF nextval('tries') <= 2 THEN RAISE EXCEPTION 'no space' USING ERRCODE = 'disk_full'; END IF;
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER breaks AFTER INSERT ON alerts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION breaks()});
read_in(reading('d1', 'home', '2026-03-01T13:05:00Z', temperature => 50));
poll_until(sub { received() >= 4 }, 'the subscriber');
cmp_ok(sql('SELECT last_value FROM tries'), '>=', 3, 'once and only after the commit: two tries failed');
read_in(reading('d1', 'home', '2026-03-01T13:06:00Z', temperature => 51));
poll_until(sub { received() >= 5 }, 'the next one');
is(join(' ', map { /(\{.*)/ && $json->decode($1)->{value} } (received())[ 3 .. $#{ [ received() ] } ]), '50 51', '... and it came once');
is(sql(q{SELECT count(*) FROM alerts WHERE value IN (50, 51)}), 2, '... with one row');
sql('DROP TRIGGER breaks ON alerts');
# Redis is away after the commit
poll_until(sub { received_mqtt() >= 5 }, 'the MQTT client');

device('threshold.deleted', threshold_id => 't2');
read_in(reading('d1', 'home', '2026-03-01T13:07:00Z', temperature => 3));
is(sql('SELECT count(*) FROM alerts WHERE value = 3'), 0, 'devices.threshold.deleted: no more alerts');
device('threshold.deleted', threshold_id => 't9');
device('threshold.created', threshold_id => 't9', device_id => 'd1', key => 'humidity', max_value => 1);
is(sql(q{SELECT deleted FROM thresholds WHERE threshold_id = 't9'}), 't', 'a creation that is read after its deletion does nothing');

# ---- queries ----
is(sql(q{SELECT key, value, time AT TIME ZONE 'UTC' FROM get_latest_readings('d1') ORDER BY key}), "humidity|99|2026-03-01 13:00:00\ntemperature|3|2026-03-01 13:07:00",
	'get_latest_readings: the latest value per key');
is(sql(q{SELECT count(*) FROM get_latest_readings('nobody')}), 0, '... of nobody: nothing');
is(sql(q{SELECT to_char(time AT TIME ZONE 'UTC', 'HH24:MI'), key, value FROM get_readings('d1', '2026-03-01T12:00Z', '2026-03-01T12:03Z', 0)}),
	"12:00|humidity|40\n12:00|temperature|21.5\n12:01|temperature|22\n12:02|temperature|23", 'get_readings: raw rows when the interval is 0');
is(sql(q{SELECT count(*) FROM get_readings('d1', '2026-03-01T12:00Z', '2026-03-01T14:00Z', 0, '{humidity}')}), 2, '... of at most two hours, of some keys');
my ($rc, undef, $stderr) = $node->psql('postgres', q{SELECT * FROM get_readings('d1', '2026-03-01T12:00Z', '2026-03-01T14:00:01Z', 0)});
like($stderr, qr/ERROR:  raw readings are given for at most 2 hours\nDETAIL:  02:00:01 were asked for\.\nHINT:/, '... else a clear error');
my $buckets = q{SELECT to_char(time AT TIME ZONE 'UTC', 'HH24:MI'), key, value FROM get_readings('d1', '2026-03-01T12:00Z', '2026-03-01T13:10Z', 600, '{temperature}')};
is(sql($buckets), join("\n", '12:00|temperature|22.625', (map { "12:${_}0|temperature|" } 1 .. 5), '13:00|temperature|' . (30 + 31.5 + 4 + 50 + 51 + 3) / 6),
	'... otherwise time buckets with gaps filled: NULL in an empty bucket');

# ---- devices that go ----
device('threshold.created', threshold_id => 't4', device_id => 'd4', key => 'power', max_value => 1);
device('threshold.created', threshold_id => 't5', device_id => 'd5', key => 'power', max_value => 1);
device('threshold.created', threshold_id => 't6', device_id => 'd6', key => 'power', max_value => 1);
read_in(map { reading("d$_", 'home', '2026-03-01T14:00:00Z', power => 2) } 4 .. 6);
sub left { return join ' ', map { sql("SELECT count(*) FROM $_[0] WHERE device_id = '$_'") } qw(d1 d2 d4 d5 d6); }
is(left('alerts'), '4 1 1 1 1', 'all have alerts');
device('device.deleted', device_id => 'd4');
is(left('alerts') . '|' . left('readings') =~ s/\b\d\d+\b/n/gr . '|' . left('thresholds'), '4 1 0 1 1|n 2 0 1 1|2 1 0 1 1', 'devices.device.deleted takes the device\'s readings, alerts and thresholds with it');
device('device.bulk-deleted', device_ids => '["d5", "d6"]');
is(left('alerts') . '|' . left('readings') =~ s/\b\d\d+\b/n/gr . '|' . left('thresholds'), '4 1 0 0 0|n 2 0 0 0|2 1 0 0 0', 'devices.device.bulk-deleted, those of several');
my $before = count('readings');
is(sql(q{SELECT delete_readings('{d2, nobody}')}), 2, 'delete_readings');
is(left('alerts') . '|' . (count('readings') - $before), '4 0 0 0 0|-2', '... cascades');

# ---- TimescaleDB ----
SKIP:
{
	skip 'no TimescaleDB here: make check-debian13', 1 unless $timescale;
	is(sql(q{SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_name = 'readings'}), 1, 'a hypertable');
	my $policies = sql(q{SELECT current_setting('timescaledb.license') = 'timescale'}) eq 't';
	note $policies ? 'community edition: compression and policies' : 'Apache edition: no compression, no policies';
	if ($policies)
	{
		is(sql(q{SELECT string_agg(proc_name, ' ' ORDER BY proc_name) FROM timescaledb_information.jobs WHERE hypertable_name = 'readings'}),
			'policy_compression policy_retention', '... with compression and retention policies');
		is(sql($buckets), sql(q{SELECT to_char(t AT TIME ZONE 'UTC', 'HH24:MI'), key, value FROM (
				SELECT time_bucket_gapfill('10 minutes'::interval, time, start => '2026-03-01T12:00Z'::timestamptz, finish => '2026-03-01T13:10Z'::timestamptz) AS t, key, avg(value) AS value FROM readings
				WHERE device_id = 'd1' AND key = 'temperature' AND time >= '2026-03-01T12:00Z' AND time < '2026-03-01T13:10Z' GROUP BY 1, 2 ORDER BY 1) g}),
			'... buckets as time_bucket_gapfill gives');
		sql(q{SELECT compress_chunk(c, true) FROM show_chunks('readings', older_than => '2026-03-02'::timestamptz) c});
		$before = count('readings');
		read_in(reading('d1', 'home', '2026-03-01T12:00:30Z', temperature => 31));
		is(count('readings'), $before + 1, '... late readings go into compressed chunks');
		$before = sql(q{SELECT count(*) FROM readings WHERE device_id = 'd1'});
		is(sql(q{SELECT delete_readings('{d1}')}), $before, '... from which delete_readings takes them');
		is(sql(q{SELECT count(*) FROM readings WHERE device_id = 'd1'}), 0, '... all of them');
		read_in(reading('d1', 'home', '2020-01-01T12:00:00Z', temperature => 20));
		sql('CALL run_job(' . sql(q{SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name = 'readings' AND proc_name = 'policy_retention'}) . ')');
		is(sql(q{SELECT count(*) FROM readings WHERE time < '2021-01-01'}), 0, '... what is too old goes');
	}
	else
	{
		read_in(reading('d1', 'home', '2020-01-01T12:00:00Z', temperature => 20));
		sql(q{SELECT drop_chunks('readings', older_than => '2021-01-01'::timestamptz)});
		is(sql(q{SELECT count(*) FROM readings WHERE time < '2021-01-01'}), 0, '... what is too old goes by the chunk');
	}
}
is(sql(q{SELECT bool_and(read = written + refused + ignored + repeated + superseded + vanished) FROM streamsink.status}), 't', 'and counted');

kill 'TERM', -$_->{pid} foreach @children;
$node->stop;
$redis->stop;
done_testing();
