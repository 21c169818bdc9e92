# The example telemetry: validate, enrich, write each event once.
use strict;
use warnings;
use File::Basename;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamsinkTest;
use Test::More;

my $tree = $ENV{STREAMSINK_TREE} // dirname(__FILE__) . '/../..';
my $example = "$tree/examples/telemetry";
my $redis = new_redis('telemetry');
my $node = new_node('telemetry', _extension => 0);
my $serial = 0;

sub sql { return $node->safe_psql('postgres', $_[0]); }

# An event with a number for an id; fields by name, undef leaves one out.
sub event
{
	my %event = (event_id => sprintf('00000000-0000-4000-8000-%012d', ++$serial), device_id => 'd1', zone => 'north', ts => '2026-01-01T12:00:00Z',
		kpi => 'temperature', value => '20.0', @_);
	delete $event{$_} for grep { !defined $event{$_} } keys %event;
	return \%event;
}

sub add { produce($redis, 'telemetry_stream', @_); return wait_settled($node, 'telemetry'); }

# The reason why an event of that device was refused.
sub error_of { return sql("SELECT sqlstate, error FROM streamsink.dead_letters WHERE pipeline = 'telemetry' AND fields ->> 'device_id' = '$_[0]'"); }

command_ok([ 'psql', '-X', '-q', '-v', 'host=' . $redis->host, '-v', 'port=' . $redis->port,
	'-d', $node->connstr('postgres'), '-f', "$example/setup.sql" ], 'setup.sql runs');
wait_for_state($node, 'telemetry', 'running');

# ---- the producer ----
my $commands = "$ENV{TESTDIR}/telemetry.resp";
my $report = "$ENV{TESTDIR}/telemetry.json";
system("'$example/producer' --rate 500 --duration 2 --invalid 0.03 --duplicates 0.1 --seed 42 >'$commands' 2>'$report'") == 0 or die 'producer';
my $made = JSON::PP->new->decode(slurp_file($report));
note "seed 42: " . slurp_file($report);
is($made->{events}, 1000, 'a producer at a chosen rate and duration');
cmp_ok($made->{elapsed}, '>=', 1.9, '... takes that long');
is($redis->cli_stdin(slurp_file($commands)), $made->{entries}, 'all are added');
wait_settled($node, 'telemetry');
is(sql('SELECT total, degraded, healthy = total - degraded FROM telemetry_counts'),
	join('|', 1000 - $made->{invalid}, $made->{degraded}, 't'), 'counts: total, degraded, healthy');
cmp_ok($made->{invalid}, '>', 0, '... of realistic events some are invalid');
cmp_ok($made->{degraded}, '>', 0, '... and some are degraded');
is(sql(q{SELECT count(*), bool_and(fields ? 'kpi' AND error <> '' AND failed_at > now() - interval '1 hour')
	FROM streamsink.dead_letters WHERE pipeline = 'telemetry'}), "$made->{invalid}|t", 'an invalid event goes to the dead letters with the event, the error and failed_at');
poll_until(sub { $redis->cli('XLEN', 'telemetry_stream:dead') >= $made->{invalid} }, 'the copies');
is($redis->cli('XLEN', 'telemetry_stream:dead'), $made->{invalid}, '... and to their stream');
is(sql(q{SELECT count(*) FROM streamsink.dead_letters WHERE attempts > 1}), 0, '... straight');
sql(q{TRUNCATE telemetry; SELECT streamsink.discard_dead_letters('telemetry')});

# ---- validation ----
my @fields = qw(event_id device_id zone ts kpi value);
add(event(device_id => 'good'), (map { event(device_id => "no_$_", $_ => undef) } @fields),
	event(device_id => 'type_id', event_id => 'x'), event(device_id => 'type_ts', ts => 'x'), event(device_id => 'type_value', value => 'x'),
	event(device_id => 'kpi', kpi => 'mood'), event(device_id => 'negative', value => '-1.0'), event(device_id => 'nan', value => 'NaN'),
	event(device_id => 'zero', value => '0'));
is(sql('SELECT string_agg(device_id, \' \' ORDER BY device_id) FROM telemetry'), 'good zero', 'the valid ones of a batch are kept');
is(join(' ', map { sql(qq{SELECT sqlstate || ' ' || column_name FROM streamsink.dead_letters WHERE column_name = '$_' AND NOT fields ? '$_'}) } @fields),
	join(' ', map { "23502 $_" } @fields), 'all fields present');
like(error_of('type_id'), qr/^22P02\|invalid input syntax for type uuid: "x"/, 'all fields typed: event_id');
like(error_of('type_ts'), qr/^22007\|invalid input syntax for type timestamp with time zone: "x"/, '... ts');
like(error_of('type_value'), qr/^22P02\|invalid input syntax for type double precision: "x"/, '... value');
is(error_of('kpi'), 'P0001|Unknown KPI: mood', 'kpi known');
is(error_of('negative'), 'P0001|Value must be non-negative, got -1.0', 'value not negative');
is(error_of('nan'), 'P0001|Value must be non-negative, got NaN', '... nor no number');

# ---- enrichment ----
my %threshold = (temperature => 80, humidity => 70, pressure => 1050, vibration => 5);
add(map { (event(device_id => "at_$_", kpi => $_, value => $threshold{$_}), event(device_id => "over_$_", kpi => $_, value => $threshold{$_} + 0.5)) } keys %threshold);
is(sql(q{SELECT count(*) FILTER (WHERE device_id LIKE 'at%' AND NOT is_degraded), count(*) FILTER (WHERE device_id LIKE 'over%' AND is_degraded) FROM telemetry}),
	'4|4', 'is_degraded when the value passes the threshold: temperature 80, humidity 70, pressure 1050, vibration 5');
sql(q{UPDATE kpis SET threshold = 10 WHERE kpi = 'vibration'});
add(event(device_id => 'later_7', kpi => 'vibration', value => 7), event(device_id => 'later_11', kpi => 'vibration', value => 11));
is(sql(q{SELECT string_agg(device_id || ' ' || is_degraded, ', ' ORDER BY device_id) FROM telemetry WHERE device_id LIKE 'later%'}),
	'later_11 true, later_7 false', 'thresholds changeable while running');

# ---- idempotent ----
my $twice = event(device_id => 'twice');
sql("SELECT streamsink.stop('telemetry')");
produce($redis, 'telemetry_stream', $twice, event(), $twice, event());
my $batches = sql(q{SELECT batches FROM streamsink.status});
sql("SELECT streamsink.start('telemetry')");
wait_for_state($node, 'telemetry', 'running');
wait_settled($node, 'telemetry');
is(sql(q{SELECT count(*) FROM telemetry WHERE device_id = 'twice'}), 1, 'the same event twice in one batch gives one row');
add($twice);
add($twice, $twice);
is(sql(q{SELECT count(*) FROM telemetry WHERE device_id = 'twice'}), 1, '... and in several batches');
is(sql(q{SELECT count(*) FROM streamsink.dead_letters WHERE fields ->> 'device_id' = 'twice'}), 0, '... and is no error');

# ---- transient failures ----
sql(q{CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.device_id = 'trouble' THEN RAISE EXCEPTION 'no space for it' USING ERRCODE = 'disk_full'; END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER full_disk BEFORE INSERT ON telemetry FOR EACH ROW EXECUTE FUNCTION full_disk()});
my $errors = sql(q{SELECT errors FROM streamsink.status WHERE pipeline = 'telemetry'});
sql(q{SELECT streamsink.stop('telemetry')});
produce($redis, 'telemetry_stream', event(device_id => 'before'), event(device_id => 'trouble'), event(device_id => 'after'));
my $begun = sql('SELECT clock_timestamp()');
sql(q{SELECT streamsink.start('telemetry')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM streamsink.dead_letters WHERE fields ->> 'device_id' = 'trouble'}), 'transient failures: then the dead letters');
is(error_of('trouble'), '53100|no space for it', '... with the error');
is(sql(q{SELECT stage FROM streamsink.dead_letters WHERE fields ->> 'device_id' = 'trouble'}), 'retries', '... after its retries');
my $took = sql(qq{SELECT extract(epoch FROM failed_at - '$begun') FROM streamsink.dead_letters WHERE fields ->> 'device_id' = 'trouble'});
cmp_ok($took, '>=', 3.0, "waiting 0.5 s times the attempt: 0.5, 1, 1.5 ($took s)");
my $tries = sql(q{SELECT errors FROM streamsink.status WHERE pipeline = 'telemetry'}) - $errors;
is($tries, 3, 'at most 3 retries: the first try and two fail as a batch, the last finds the entry');
wait_settled($node, 'telemetry');
is(sql(q{SELECT count(*) FROM telemetry WHERE device_id IN ('before', 'after')}), 2, '... and its neighbours arrive');

# one that heals meanwhile is written
sql(q{CREATE SEQUENCE tries; CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF nextval('tries') <= 2 THEN RAISE EXCEPTION 'no space for it' USING ERRCODE = 'disk_full'; END IF;
		RETURN NEW;
	END $$});
add(event(device_id => 'healed'));
is(sql(q{SELECT count(*), (SELECT last_value FROM tries) FROM telemetry WHERE device_id = 'healed'}), '1|3', 'a failure that passes costs nothing');

is(sql(q{SELECT state, read = written + refused + ignored + repeated + superseded + vanished FROM streamsink.status WHERE pipeline = 'telemetry'}),
	'running|t', 'and counted');

$node->stop;
$redis->stop;
done_testing();
