# health() and the view metrics: whether pipelines do their work, for a
# container's health check and for monitoring.  Neither asks Redis.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $redis = new_redis('health');
my $node  = new_node('health', 'streamsink.sample_interval' => '100ms', 'streamsink.discovery_interval' => '100ms',
	'streamsink.command_timeout' => '2s', 'streamsink.backoff_max' => '1s');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub health { my ($args, $prefix) = @_; return decode_json((split /\n/, sql(($prefix // '') . "SELECT streamsink.health($args)"))[-1]); }
sub pipeline { my ($health, $name) = @_; return (grep { $_->{name} eq $name } @{ $health->{pipelines} })[0]; }
sub check { my ($pipeline, $name) = @_; return (grep { $_->{check} eq $name } @{ $pipeline->{checks} })[0]; }
sub until_health { my ($args, $status, $what) = @_; return poll_until(sub { my $h = health($args); $h->{status} eq $status && $h }, $what); }

sql(q{
	CREATE ROLE keeper LOGIN;
	CREATE ROLE stranger LOGIN;
	CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
	SELECT streamsink.grant_access('stranger');
	CREATE TABLE t (v int);
	CREATE TABLE u (v int);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 's', target => 't', batch_size => 50);
	SELECT streamsink.create_pipeline('q', server => 'iot', stream => 'r', target => 'u', on_error => 'stop')});

# ---- stopped ----
my $health = health("'p'");
is($health->{status}, 'down', 'a pipeline that was not started is down when it is asked for');
ok($health->{database}, 'the database answers');
my $p = pipeline($health, 'p');
is_deeply([ @$p{qw(status state running redis database messages_read)} ], [ 'down', 'stopped', JSON::PP::false, undef, JSON::PP::true, 0 ], '... with what is known of it');
$health = health('');
is($health->{status}, 'ok', 'among all of them those that were stopped do not count');
is(scalar @{ $health->{pipelines} }, 2, '... but are shown');

# ---- running ----
sql("SELECT streamsink.start('p')");
produce($redis, 's', map { [ v => $_ ] } 1 .. 200);
produce($redis, 's', map { [ v => 'x' ] } 1 .. 10);
wait_settled($node, 'p');
$health = until_health("'p'", 'ok', 'the pipeline to be well');
$p = pipeline($health, 'p');
is_deeply([ @$p{qw(running redis database state)} ], [ JSON::PP::true, JSON::PP::true, JSON::PP::true, 'running' ], 'running, connected to Redis');
is_deeply([ @$p{qw(messages_read messages_written messages_failed errors error_rate_entries)} ], [ 210, 200, 10, 0, 210 ], 'its counters');
cmp_ok($p->{batches_processed}, '>', 0, '... batches too');
is(sprintf('%.4f', $p->{error_rate}), '0.0476', '10 of 210 were refused');
ok(!(grep { !$_->{ok} } @{ $p->{checks} }), 'all checks are passed');
is(join(' ', map { $_->{check} } @{ $p->{checks} }), 'running redis error_rate lag batch', '... which are these');
is(join(' ', map { $_->{check} } @{ pipeline(health("'p', NULL, NULL"), 'p')->{checks} }), 'running redis', 'without limits there are fewer');

# ---- the error rate ----
produce($redis, 's', [ v => 'x' ]);
wait_settled($node, 'p');
$health = until_health("'p'", 'degraded', 'the error rate to pass 5 %');
$p = pipeline($health, 'p');
is_deeply([ map { $_->{check} } grep { !$_->{ok} } @{ $p->{checks} } ], ['error_rate'], 'more than 5 % refused: the error rate is why');
is(check($p, 'error_rate')->{limit}, 0.05, '... with its limit');
is(health("'p', max_error_rate => 0.5")->{status}, 'ok', 'another limit is not passed');
is(health("'p', max_error_rate => NULL")->{status}, 'ok', 'no limit neither');
is(health('')->{status}, 'degraded', 'all of them are as well as the worst');
is(health("'p', max_error_rate => 0.5", q{SET extra_float_digits = 0; SET timezone = 'Asia/Kathmandu';})->{status}, 'ok', 'settings of the session do no harm');
is(sql("SELECT error_rate = 11 / 211.0::float8, redis FROM streamsink.status WHERE pipeline = 'p'"), 't|t', 'status has the rate as well');

# ---- a batch that takes long ----
my $blocker = $node->background_psql('postgres');
$blocker->query_safe('BEGIN; LOCK TABLE t');
produce($redis, 's', [ v => 1 ]);
$health = poll_until(sub { my $h = health("'p', 0.5, '500 ms'"); $h->{status} eq 'degraded' && $h }, 'the batch to take long');
ok(!check(pipeline($health, 'p'), 'batch')->{ok}, 'a worker that hangs in its batch is seen');
like(sql("SELECT batch_entries || ' ' || (batch_bytes > 0) || ' ' || (batch_started_at < now()) FROM streamsink.workers WHERE pipeline = 'p'"), qr/^1 true true$/, '... and its batch in workers');
$blocker->query_safe('ROLLBACK');
$blocker->quit;
wait_settled($node, 'p');
is(sql("SELECT batch_entries, batch_started_at IS NULL FROM streamsink.workers WHERE pipeline = 'p'"), '0|t', 'none is at work afterwards');

# ---- stopped by a policy ----
sql("SELECT streamsink.start('q')");
produce($redis, 'r', [ v => 'x' ]);
wait_for_state($node, 'q', 'failed');
$health = health('');
is($health->{status}, 'down', 'one that failed counts among all');
is_deeply([ @{ pipeline($health, 'q') }{qw(status state running)} ], [ 'down', 'failed', JSON::PP::false ], '... and says so');
like(pipeline($health, 'q')->{reason}, qr/./, '... with the reason');
sql("SELECT streamsink.drop_pipeline('q')");

# ---- lag: how old the oldest entry that waits is ----
# An entry after a silence of decades waits since it came, and not since the one before it.
sql(q{ALTER SYSTEM SET streamsink.sample_interval = '1s'});
sql('SELECT pg_reload_conf()');
sql(q{CREATE TABLE l (stream text, v int); SELECT streamsink.create_pipeline('l', server => 'iot', stream => 'l:{stream}', target => 'l')});
produce($redis, 'l:a', { _id => '1000-1', v => 1 });
produce($redis, 'l:b', { _id => '1000-1', v => 1 });
sql("SELECT streamsink.start('l')");
poll_until(sub { sql("SELECT count(*) = 2 AND bool_and(lag = 0 AND lag_time = '0') FROM streamsink.streams WHERE pipeline = 'l'") eq 't' }, 'both streams to be looked at when all was delivered');
$blocker = $node->background_psql('postgres');
$blocker->query_safe('BEGIN; LOCK TABLE l');
produce($redis, 'l:a', [ v => 2 ]);
poll_until(sub { sql("SELECT batch_entries FROM streamsink.workers WHERE pipeline = 'l'") eq '1' }, 'the worker to hang');
produce($redis, 'l:b', map { [ v => $_ ] } 2 .. 40);
# so that the next look is due before the next read
poll_until(sub { sql("SELECT now() - batch_started_at > '1200 ms' FROM streamsink.workers WHERE pipeline = 'l'") eq 't' }, 'the worker to hang for a while');
$blocker->query_safe('ROLLBACK');
$blocker->quit;
my $late = poll_until(sub { my $h = health("'l', 0.05, '1 ms'"); my $l = pipeline($h, 'l'); ($l->{lag} // 0) > 0 && $l }, 'a look that finds entries waiting');
cmp_ok($late->{lag_time}, '<', 600, "they wait since they came ($late->{lag_time} s)");
ok(!check($late, 'lag')->{ok}, '... which is more than 1 ms');
is(check($late, 'lag')->{limit}, 0.001, '... the limit');
wait_settled($node, 'l');
poll_until(sub { health("'l', 0.05, '1 ms'")->{status} eq 'ok' }, 'nothing to wait');
sql("SELECT streamsink.drop_pipeline('l')");
sql('ALTER SYSTEM RESET streamsink.sample_interval');
sql('SELECT pg_reload_conf()');

# ---- metrics ----
my %column = (
	streamsink_entries_read_total => 'read', streamsink_entries_written_total => 'written', streamsink_entries_refused_total => 'refused',
	streamsink_entries_ignored_total => 'ignored', streamsink_entries_repeated_total => 'repeated', streamsink_entries_superseded_total => 'superseded',
	streamsink_entries_vanished_total => 'vanished', streamsink_entries_missed_total => 'missed', streamsink_rows_total => 'rows',
	streamsink_batches_total => 'batches', streamsink_errors_total => 'errors', streamsink_dead_letters => 'dead_letters', streamsink_dead_letters_retried_total => 'retried',
	streamsink_stream_length => 'stream_length', streamsink_streams => 'streams', streamsink_workers => 'workers',
	streamsink_workers_wanted => 'workers_wanted', streamsink_lag_entries => 'lag', streamsink_pending => 'pending', streamsink_error_ratio => 'error_rate');
is(sql("SELECT string_agg(format('%s %s %s', m.metric, m.value, to_jsonb(s) ->> c.col), ', ')
	FROM jsonb_each_text('" . encode_json(\%column) . "') AS c (metric, col)
		CROSS JOIN streamsink.status s LEFT JOIN streamsink.metrics m ON m.metric = c.metric AND m.labels = jsonb_build_object('pipeline', s.pipeline)
	WHERE m.value IS DISTINCT FROM (to_jsonb(s) ->> c.col)::float8"), '', 'metrics have the numbers of status');
is(sql(q{SELECT count(*) FROM streamsink.metrics WHERE labels ->> 'pipeline' = 'p' AND value > 0 AND metric IN
	('streamsink_up', 'streamsink_latency_seconds', 'streamsink_last_batch_timestamp_seconds', 'streamsink_sampled_timestamp_seconds')}), 5, 'and some more');
is(sql(q{SELECT string_agg(labels ->> 'state', ' ') FROM streamsink.metrics WHERE metric = 'streamsink_pipeline_in_state' AND value = 1}), 'running', 'one state is the present one');
is(sql(q{SELECT count(*) FROM streamsink.metrics WHERE metric !~ '^streamsink_[a-z_]+$' OR value IS NULL OR help IS NULL OR labels IS NULL
	OR type <> CASE WHEN metric LIKE '%\_total' THEN 'counter' ELSE 'gauge' END}), 0, 'names and types are as Prometheus wants them');
is(sql(q{SELECT count(*) FROM (SELECT 1 FROM streamsink.metrics GROUP BY metric, labels HAVING count(*) > 1) x}), 0, 'each series is there once');
is(sql(q{SELECT count(*) FROM (SELECT 1 FROM streamsink.metrics GROUP BY metric HAVING count(DISTINCT (type, help)) > 1) x}), 0, 'each metric has one type and one help');

# what waits in the outbox
sql(q{CREATE SERVER away FOREIGN DATA WRAPPER streamsink OPTIONS (host '127.0.0.1', port '1');
	SELECT streamsink.create_pipeline('away', server => 'away', stream => 'z', target => 'u', connect => false);
	SELECT count(*) FROM streamsink.apply('away', '[{"v": "x"}, {"v": "y"}]');
	SELECT streamsink.requeue_dead_letters('away')});
is(sql(q{SELECT labels, value FROM streamsink.metrics WHERE metric = 'streamsink_outbox_rows'}), '{"redis": "away", "pipeline": "away"}|2', 'commands in the outbox are counted by server and pipeline');
sql(q{SELECT streamsink.drop_pipeline('away')});

# ---- numbers keep all their digits ----
sql(q{SELECT streamsink.create_pipeline('big', server => 'iot', stream => 'b', target => 'u', connect => false);
	INSERT INTO streamsink.counter SELECT id, 9007199254740993, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM streamsink.pipelines WHERE name = 'big'});
like(sql("SELECT streamsink.health('big')"), qr/"messages_written": 9007199254740993\b/, 'a number beyond 2^53 is exact');
sql(q{SELECT streamsink.drop_pipeline('big')});

# ---- who may ----
my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE stranger; SELECT streamsink.health('p')");
like($err, qr/must be/, 'strangers are refused');
is(scalar @{ health('', 'SET ROLE stranger;')->{pipelines} }, 0, '... and see none among all');
is(sql('SET ROLE stranger; SELECT count(*) FROM streamsink.metrics'), 0, '... nor a metric');
is(health("'p'", 'SET ROLE monitor;')->{pipelines}[0]{messages_read}, 212, 'pg_monitor sees it');
is(sql(q{SET ROLE monitor; SELECT value FROM streamsink.metrics WHERE metric = 'streamsink_entries_read_total'}), 212, '... and metrics');
foreach (["'nobody'", '42704'], ["'p', 1.5", '22023'], ["'p', 'NaN'", '22023'], ["'p', 0.05, '1 month'", '22023'], ["'p', 0.05, '-1 s'", '22023'])
{
	($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY sqlstate\nSELECT streamsink.health($_->[0])");
	like($err, qr/$_->[1]/, "health($_->[0]) is refused");
}

# ---- Redis does not answer: health() does ----
$redis->freeze;
my $started = time;
$health = health("'p'");
cmp_ok(time - $started, '<', 1.5, 'an answer while Redis is frozen');
is($health->{status}, 'degraded', '... of what is known: the error rate');
$health = poll_until(sub { my $h = health("'p'"); $h->{status} eq 'down' && $h }, 'the silence to be noticed');
$p = pipeline($health, 'p');
is_deeply([ @$p{qw(running redis state)} ], [ JSON::PP::false, JSON::PP::false, 'waiting' ], 'later it is down, because of Redis');
like($p->{reason}, qr/./, '... with the reason');
cmp_ok($p->{errors}, '>', 0, '... and counted as an error');
$redis->thaw;
poll_until(sub { my $h = health("'p', 0.5"); $h->{status} eq 'ok' }, 'the pipeline to be well again');
is(pipeline(health("'p', 0.5"), 'p')->{redis}, JSON::PP::true, 'Redis is there again');

# an error that is not Redis's leaves it connected
sql('ALTER TABLE t RENAME TO gone');
produce($redis, 's', [ v => 1 ]);
$health = poll_until(sub { my $h = health("'p', 0.5"); $h->{status} eq 'down' && $h }, 'the missing table to be noticed');
is(pipeline($health, 'p')->{redis}, JSON::PP::true, 'a missing table says nothing about Redis');
sql('ALTER TABLE gone RENAME TO t');
$redis->stop;
$node->stop;
done_testing;
