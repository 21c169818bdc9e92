# The example sensor-writer: every reading once, every bad one with its reason,
# through crashes, errors and stops.  With TimescaleDB (SS_TIMESCALE=1: it must be there)
# into a hypertable.
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
my $example = "$tree/examples/sensor-writer";
my $timescale = $ENV{SS_TIMESCALE};
my $redis = new_redis('sensors');
my $node = new_node('sensors', _extension => 0, 'streamsink.sample_interval' => '500ms', 'streamsink.backoff_max' => '1s',
	log_destination => 'stderr,jsonlog', logging_collector => 'on', log_directory => 'log',
	max_worker_processes => 40,
	$timescale ? (shared_preload_libraries => 'timescaledb,streamsink', 'timescaledb.max_background_workers' => 0) : ());
my @psql = ('psql', '-X', '-q', '-d', $node->connstr('postgres'));
my @setup = (@psql, '-v', 'host=' . $redis->host, '-v', 'port=' . $redis->port, '-f', "$example/setup.sql");
my $total = 0;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub status { return sql("SELECT $_[0] FROM streamsink.status WHERE pipeline = 'sensors'"); }
sub letters { return sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'sensors'"); }

# Readings of so many devices of a group of their own, three streams each: numbers go on.
sub readings
{
	my ($count, $devices, @more) = @_;
	$total += $count;
	return $redis->cli_stdin(scalar `$example/producer --count $count --rate 0 --devices $devices @more`);
}

# Every row once: by stream, number and time of the reading.
sub exact
{
	return sql(q{SELECT count(*) = count(DISTINCT (device_id, sensor_type, timestamp, metadata ->> 'seq')), count(*) FROM sensor_readings});
}

# Somebody who holds the table; returns what lets it go.
sub hold
{
	my ($in, $out, $err) = ("BEGIN;\nLOCK TABLE sensor_readings;\nSELECT 'held';\n", '', '');
	my $holder = IPC::Run::start([ @psql, '-At' ], '<', \$in, '>', \$out, '2>', \$err);
	poll_until(sub { $holder->pump_nb; $out =~ /held/ }, 'the lock');
	return sub { $holder->kill_kill(grace => 0); };
}

# ---- streams, entries, the table ----
readings(1000, 20);
command_ok(\@setup, 'setup.sql runs');
wait_settled($node, 'sensors');
is(exact(), 't|1000', 'what was there is written');
is(sql(q{SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END ||
		coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), ''), ', ' ORDER BY a.attnum)
	FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	WHERE a.attrelid = 'sensor_readings'::regclass AND a.attnum > 0}),
	q{id bigint not null default nextval('sensor_readings_id_seq'::regclass), timestamp timestamp with time zone not null, } .
	'device_id character varying(100) not null, sensor_type character varying(100) not null, value double precision not null, ' .
	'metadata jsonb, created_at timestamp with time zone default now()', 'the table is made, with these columns');
is(sql(q{SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
	WHERE i.indrelid = 'sensor_readings'::regclass AND i.indisprimary}), 'id', '... and its primary key');
command_ok(\@setup, '... if it does not exist');
is(exact(), 't|1000', '... and else it is kept');

readings(7000, 100, '--bad');
# wait_for covers the streams that are known: those that are new are found within the discovery interval
ok($node->poll_query_until('postgres', "SELECT streams = 300 FROM streamsink.status WHERE pipeline = 'sensors'"),
	'hundreds of streams, found by pattern, also new ones');
wait_settled($node, 'sensors');
is(exact(), 't|' . ($total - 6), 'every good reading once');
is(sql(q{SELECT count(DISTINCT (device_id, sensor_type)), bool_and(metadata ->> 'firmware' = '2.1.0'), bool_and(timestamp > now() - interval '1 hour' AND created_at IS NOT NULL)
	FROM sensor_readings}), '300|t|t', 'an entry: value, timestamp, metadata');
produce($redis, 'mqtt_stream:plain:temperature', [ value => '23.5', timestamp => '2024-05-01T12:00:00.25+02:00' ]);
$total++;
ok($node->poll_query_until('postgres', q{SELECT value = 23.5 AND timestamp = '2024-05-01 10:00:00.25+00' FROM sensor_readings WHERE device_id = 'plain'}),
	'... metadata is optional');

# ---- data errors ----
is(sql(q{SELECT string_agg(sqlstate || ' ' || column_name, ', ' ORDER BY sqlstate, column_name) FROM streamsink.dead_letters WHERE pipeline = 'sensors'}),
	'22008 timestamp, 22021 metadata, 22021 value, 22P02 metadata, 22P02 value, 23502 value', 'data errors go to the dead letters')
  or diag(sql('SELECT sqlstate, column_name, error FROM streamsink.dead_letters ORDER BY id'));
is(sql(q{SELECT max(attempts) FROM streamsink.dead_letters WHERE pipeline = 'sensors'}), 1, '... at once');
is(status('read, written, refused, repeated, read = written + refused + ignored + repeated + superseded + vanished'),
	join('|', $total, $total - 6, 6, 0, 't'), 'and counted');
my $bad = 6;
my @failed;
poll_until(sub { @failed = map { +{ @{ $_->[1] } } } @{ JSON::PP->new->utf8->decode($redis->cli('--json', 'XRANGE', 'mqtt_stream:failed', '-', '+')) }; @failed >= 6 }, 'mqtt_stream:failed');
is(join(' ', map { join ',', sort keys %$_ } @failed), join(' ', ('device_id,error,failed_at,original_id,original_stream,sensor_type,value') x 6), '... and to the stream mqtt_stream:failed');
my ($warm) = grep { $_->{value} eq 'warm' } @failed;
is(sql(qq{SELECT d.stream, d.entry_id, d.error, split_part(d.stream, ':', 2), split_part(d.stream, ':', 3), abs(extract(epoch FROM d.failed_at) - $warm->{failed_at}) < 0.001
	FROM streamsink.dead_letters d WHERE d.fields ->> 'value' = 'warm'}),
	join('|', @$warm{qw(original_stream original_id error device_id sensor_type)}, 't'), '... with original_stream, original_id, device_id, sensor_type, the value, error, failed_at');
like($warm->{failed_at}, qr/^\d{10}\.\d+$/, '... in Unix seconds with fraction');

# ---- health ----
sub health { return JSON::PP->new->decode(sql(q{SELECT streamsink.health('sensors')})); }
my $health = health();
my ($part) = @{ $health->{pipelines} };
is($health->{status}, 'ok', 'health check') or diag(sql(q{SELECT streamsink.health('sensors')}));
ok($part->{running} && $part->{redis} && $part->{database}, '... running, redis, database');
is(join(' ', @$part{qw(messages_read messages_written messages_failed)}), join(' ', $total, $total - 6, 6), '... messages_read, messages_written, messages_failed');
is(join(' ', @$part{qw(batches_processed errors)}), status(q{batches || ' ' || errors}), '... batches_processed, errors');

# ---- it adapts ----
produce($redis, 'mqtt_stream:plain:temperature', [ value => 1, timestamp => '2024-05-01T12:00:01Z', metadata => '{"room": 7}', unit => 'C' ]);
wait_settled($node, 'sensors');
is(sql(q{SELECT metadata ->> 'unit', metadata ->> 'room' FROM sensor_readings WHERE device_id = 'plain' ORDER BY timestamp DESC LIMIT 1}), 'C|7',
	'a new field lands in metadata');
sql('ALTER TABLE sensor_readings ADD COLUMN unit text');
produce($redis, 'mqtt_stream:plain:temperature', [ value => 1, timestamp => '2024-05-01T12:00:02Z', metadata => '{"room": 7}', unit => 'F' ]);
wait_settled($node, 'sensors');
is(sql(q{SELECT unit, metadata ? 'unit' FROM sensor_readings WHERE device_id = 'plain' ORDER BY timestamp DESC LIMIT 1}), 'F|f',
	'... or in a column of its name once somebody adds one');
$total += 2;

# ---- batches and workers ----
# two batches may begin in the same microsecond
sub largest { return sql(qq{SELECT max(n) FROM (SELECT count(*) AS n FROM sensor_readings WHERE created_at > '$_[0]' GROUP BY created_at, xmin::text) b}); }
foreach my $size (500, 100)
{
	sql(qq{SELECT streamsink.stop('sensors'), streamsink.alter_pipeline('sensors', batch_size => $size)});
	my $since = sql('SELECT clock_timestamp()');
	readings(6000, 100);
	sql(q{SELECT streamsink.start('sensors')});
	wait_settled($node, 'sensors');
	my $most = largest($since);
	ok($most <= $size && $most > $size / 4, "batches of $size (the largest had $most)");
}
ok($node->poll_query_until('postgres', q{SELECT count(*) = 4 AND bool_and(written > 0) FROM streamsink.workers WHERE pipeline = 'sensors'}), 'several workers');
is($redis->cli('XINFO', 'GROUPS', 'mqtt_stream:device_001:temperature') =~ /^name\n(\S+)/m && $1, 'sensors', '... in one group');
is(sql('SELECT count(DISTINCT worker_pid) FROM streamsink.streams WHERE pipeline = \'sensors\''), 4, '... that share the streams');
is(exact(), 't|' . ($total - $bad), 'every good reading once');

# ---- a crash ----
my $release = hold();
readings(3000, 100);
sub pending { my $n = 0; $n += (split /\n/, $redis->cli('XPENDING', $_, 'sensors'))[0] foreach map { "mqtt_stream:device_00$_:temperature" } 1 .. 9; return $n; }
poll_until(sub { pending() > 0 }, 'pending entries');
my $pid = sql(q{SELECT min(pid) FROM streamsink.workers WHERE pipeline = 'sensors'});
is(kill('KILL', $pid), 1, 'a worker is killed with entries pending');
$release->();
$node->poll_query_until('postgres', "SELECT pg_postmaster_start_time() IS NOT NULL AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
wait_for_state($node, 'sensors', 'running');
ok($node->poll_query_until('postgres', 'SELECT count(*) = ' . ($total - $bad) . ' FROM sensor_readings'), 'pending entries are reclaimed after a crash');
wait_settled($node, 'sensors');
is(exact(), 't|' . ($total - $bad), '... each written once');
is(pending(), 0, '... and acknowledged');

# what a worker of another kind in the group left when it died
sql(q{SELECT streamsink.stop('sensors')});
produce($redis, 'mqtt_stream:plain:temperature', map { [ value => $_, timestamp => "2024-05-02T12:00:0${_}Z" ] } 1 .. 5);
$redis->cli('XREADGROUP', 'GROUP', 'sensors', 'python-1', 'COUNT', 3, 'STREAMS', 'mqtt_stream:plain:temperature', '>');
sql(q{SELECT streamsink.alter_pipeline('sensors', claim_idle => '1 s'), streamsink.start('sensors')});
$total += 5;
ok($node->poll_query_until('postgres', 'SELECT count(*) = ' . ($total - $bad) . ' FROM sensor_readings'), '... and those of a worker of another kind');

# ---- transient errors ----
sql(q{SELECT streamsink.alter_pipeline('sensors', settings => '{"lock_timeout": "100ms"}', retry_backoff => '100 ms', reset => '{claim_idle}')});
wait_for_state($node, 'sensors', 'running');
my $errors = status('errors');
$release = hold();
readings(300, 10);
ok($node->poll_query_until('postgres', "SELECT errors >= $errors + 4 AND last_sqlstate = '55P03' FROM streamsink.status WHERE pipeline = 'sensors'"), 'transient errors retry');
ok($node->poll_query_until('postgres', "SELECT next_retry_at > now() AND reason IS NOT NULL FROM streamsink.status WHERE pipeline = 'sensors'"), '... with backoff');
is(letters(), $bad, '... and refuse nothing');
$release->();
ok($node->poll_query_until('postgres', 'SELECT count(*) = ' . ($total - $bad) . ' FROM sensor_readings'), '... and when it is over all are written');
wait_settled($node, 'sensors');

# ---- structured logs ----
my @lines = map { split /\n/, slurp_file($_) } glob $node->data_dir . '/log/*.json';
my @ours = grep { ($_->{backend_type} // '') =~ /streamsink/ } map { eval { JSON::PP->new->utf8->decode($_) } // {} } @lines;
cmp_ok(scalar(@ours), '>', 0, 'structured (JSON) logs');
ok((grep { ($_->{message} // '') =~ /"sensors"/ && $_->{error_severity} && $_->{timestamp} } @ours), '... name the pipeline');
ok((grep { ($_->{state_code} // '') eq '55P03' } @ours), '... and the SQLSTATE of what went wrong');

# ---- graceful stop ----
my $producer = IPC::Run::start([ "$example/producer", '--count', 4000, '--rate', 1000, '--devices', 100 ], '|',
	[ 'redis-cli', '-s', $redis->socket, '--pipe' ], '>', \my $piped);
my $rows = sql('SELECT count(*) FROM sensor_readings');
$node->poll_query_until('postgres', "SELECT count(*) > $rows FROM sensor_readings");
sql(q{SELECT streamsink.stop('sensors')});
is(status('state'), 'stopped', 'graceful stop');
$rows = sql('SELECT count(*) FROM sensor_readings');
$producer->finish;
$total += 4000;
is(sql('SELECT count(*) FROM sensor_readings'), $rows, '... nothing is written afterwards');
is(letters(), $bad, '... nothing is refused for it');
sql(q{SELECT streamsink.start('sensors')});
$node->poll_query_until('postgres', "SELECT count(*) > $rows FROM sensor_readings");
$node->restart;
wait_for_state($node, 'sensors', 'running');
wait_settled($node, 'sensors');
is(exact(), 't|' . ($total - $bad), '... of the server, too: every good reading once');

# ---- an alert ----
produce($redis, 'mqtt_stream:plain:temperature', map { [ value => 'warm', timestamp => '2024-05-01T12:00:00Z' ] } 1 .. 5000);
$total += 5000;
$bad += 5000;
wait_settled($node, 'sensors');
$health = health();
is($health->{status}, 'degraded', 'alert when the error rate passes 5 %');
is(join(' ', map { $_->{check} } grep { !$_->{ok} } @{ $health->{pipelines}[0]{checks} }), 'error_rate', '... which is the reason');
cmp_ok($health->{pipelines}[0]{error_rate}, '>', 0.05, '... and by how much');

# ---- a table that is made ----
sql(q{SELECT streamsink.create_pipeline('made', server => 'iot', stream => 'mqtt_stream:device_001:{sensor_type}', target => 'made_readings', create_target => true);
	SELECT streamsink.start('made')});
wait_settled($node, 'made');
cmp_ok(sql('SELECT count(*) FROM made_readings'), '>', 100, 'a table can be made from the entries, too');
is(sql(q{SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attname) FROM pg_attribute
	WHERE attrelid = 'made_readings'::regclass AND attname IN ('timestamp', 'value', 'metadata', 'sensor_type')}),
	'metadata jsonb, sensor_type text, timestamp timestamp with time zone, value double precision', '... with sensible types');
sql(q{SELECT streamsink.drop_pipeline('made')});

# ---- migrations ----
command_ok([ @psql, '-c', 'ALTER EXTENSION streamsink UPDATE' ], 'schema changes: ALTER EXTENSION UPDATE');
is(sql(q{SELECT extversion = default_version FROM pg_extension JOIN pg_available_extensions ON name = extname WHERE extname = 'streamsink'}), 't', '... to the version that is installed');
produce($redis, 'mqtt_stream:plain:temperature', [ value => 1, timestamp => '2024-05-03T12:00:00Z' ]);
$total++;
wait_settled($node, 'sensors');
is(exact(), 't|' . ($total - $bad), '... and the pipeline goes on');

# ---- TimescaleDB ----
SKIP:
{
	skip 'no TimescaleDB here: make check-debian13', 1 unless $timescale;
	is(sql(q{SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_name = 'sensor_readings'}), 1, 'as a TimescaleDB hypertable');
	cmp_ok(sql(q{SELECT count(*) FROM show_chunks('sensor_readings')}), '>', 2, '... of several chunks');
	my $policies = sql(q{SELECT current_setting('timescaledb.license') = 'timescale'}) eq 't';
	note $policies ? 'community edition: compression and policies' : 'Apache edition: no compression, no policies';
	if ($policies)
	{
		is(sql(q{SELECT string_agg(proc_name, ' ' ORDER BY proc_name) FROM timescaledb_information.jobs WHERE hypertable_name = 'sensor_readings'}),
			'policy_compression policy_retention', '... with compression and retention policies');
		# late readings go into chunks that are compressed
		sql(q{SELECT compress_chunk(c, true) FROM show_chunks('sensor_readings', older_than => interval '2 days') c});
		$rows = sql('SELECT count(*) FROM sensor_readings');
		produce($redis, 'mqtt_stream:plain:temperature', map { [ value => $_, timestamp => "2024-05-03T13:00:0${_}Z" ] } 1 .. 5);
		wait_settled($node, 'sensors');
		is(sql('SELECT count(*) FROM sensor_readings'), $rows + 5, '... that takes readings into compressed chunks');
		my $job = sql(q{SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name = 'sensor_readings' AND proc_name = 'policy_retention'});
		sql("CALL run_job($job)");
	}
	else
	{
		sql(q{SELECT drop_chunks('sensor_readings', older_than => interval '1 year')});
	}
	is(sql(q{SELECT count(*) FROM sensor_readings WHERE timestamp < now() - interval '1 year' - interval '1 day'}), 0, '... what is too old goes by the chunk');
	produce($redis, 'mqtt_stream:plain:temperature', [ value => 1, timestamp => '2024-05-04T12:00:00Z' ]);
	wait_settled($node, 'sensors');
	is(sql(q{SELECT count(*) FROM sensor_readings WHERE timestamp = '2024-05-04T12:00:00Z'}), 1, '... and what comes late makes a new one');
}

$node->stop;
$redis->stop;
done_testing();
