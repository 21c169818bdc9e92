# Several who read one stream: pending entries between those of others, the same
# entries with two workers, the same entries twice in one batch, and control
# calls in the middle.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('shared');
my $node  = new_node('shared', 'streamsink.max_workers' => 16, 'streamsink.sample_interval' => '100ms', 'streamsink.block_time' => '100ms', 'streamsink.setup_retry' => '300ms');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub rows { my ($name) = @_; return sql("SELECT count(*) || '|' || count(DISTINCT n) FROM $name"); }
sub ids { return grep { /^\d+-\d+$/ } split /\n/, $_[0]; }

sub create
{
	my ($name, $more) = @_;
	sql("CREATE TABLE $name (n int)");
	sql("SELECT streamsink.create_pipeline('$name', server => 'iot', stream => '$name', target => '$name', retry_backoff => '50 ms'" . ($more ? ", $more" : '') . ')');
	return;
}

# The name that worker k of a pipeline reads with.
sub consumer { my ($name, $k) = @_; return 'streamsink:' . sql("SELECT identity FROM streamsink.pipeline WHERE name = '$name'") . ":$k"; }

# ---- our pending entries lie between those of another consumer ----
create('straddle');
sql("SELECT streamsink.start('straddle')");
wait_for_state($node, 'straddle', 'running');
wait_settled($node, 'straddle');
sql("SELECT streamsink.stop('straddle')");
poll_until(sub { sql('SELECT count(*) FROM streamsink.workers') == 0 }, 'the worker to leave');
produce($redis, 'straddle', map { [ n => $_ ] } 1 .. 9);
my $ours = consumer('straddle', 0);
my @theirs;
foreach my $n (1 .. 9)
{
	my @got = ids($redis->cli('XREADGROUP', 'GROUP', 'straddle', $n % 2 ? $ours : 'theirs', 'COUNT', 1, 'STREAMS', 'straddle', '>'));
	push @theirs, @got unless $n % 2;
}
sql("SELECT streamsink.start('straddle')");
poll_until(sub { rows('straddle') eq '5|5' }, sub { 'our pending entries, there are ' . rows('straddle') });
is(sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM straddle"), '1,3,5,7,9', 'our pending entries arrive, theirs stay theirs');
# now the other one is gone, and an operator gives us what it had
$redis->cli('XCLAIM', 'straddle', 'straddle', $ours, 0, @theirs);
sql("SELECT streamsink.restart('straddle')");
poll_until(sub { rows('straddle') eq '9|9' }, sub { 'what lay between, there are ' . rows('straddle') });
is(rows('straddle'), '9|9', 'what lay between ours was not taken for settled');

# ---- two workers get the same entries ----
create('twice', 'workers => 2, batch_size => 10');
sql(q{CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END';
	CREATE TRIGGER hold BEFORE INSERT ON twice FOR EACH ROW EXECUTE FUNCTION hold()});
sql("SELECT streamsink.start('twice')");
wait_for_state($node, 'twice', 'running');
poll_until(sub { sql("SELECT count(*) FROM streamsink.workers WHERE pipeline = 'twice' AND state = 'running'") == 2 }, 'two workers');
my $holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(7)');
# at once, so that one worker gets all of them
$redis->cli_stdin(join '', resp('MULTI'), (map { resp('XADD', 'twice', '*', 'n', $_) } 1 .. 10), resp('EXEC'));
poll_until(sub { sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND wait_event = 'advisory'") >= 1 }, 'a worker to hold the entries in its transaction');
$redis->cli('XGROUP', 'SETID', 'twice', 'twice', '0');
# both consumers have been given the entries, one of them for the second time
poll_until(sub { my @c = $redis->cli('XINFO', 'CONSUMERS', 'twice', 'twice') =~ /^streamsink:[0-9a-f-]+:\d\npending\n(\d+)/mg; (grep { $_ > 0 } @c) >= 1 && $redis->cli('XINFO', 'GROUPS', 'twice') =~ /last-delivered-id\n(?!0-0)/ },
	'the entries to be given out again');
$holder->query_safe('SELECT pg_advisory_unlock(7)');
$holder->quit;
wait_settled($node, 'twice');
is(rows('twice'), '10|10', 'two workers with the same entries at the same time: each is written once');
foreach my $round (1 .. 5)
{
	produce($redis, 'twice', map { [ n => $round * 100 + $_ ] } 1 .. 50);
	wait_settled($node, 'twice') if $round % 2;
	$redis->cli('XGROUP', 'SETID', 'twice', 'twice', '0');
}
poll_until(sub { rows('twice') eq '260|260' }, sub { 'the rest, there are ' . rows('twice') });
wait_settled($node, 'twice');
is(rows('twice'), '260|260', 'given out again and again to either: each is written once');

# ---- fewer workers: what the third one had pending ----
create('fewer');
sql("SELECT streamsink.start('fewer')");
wait_for_state($node, 'fewer', 'running');
wait_settled($node, 'fewer');
stop_workers($node, 'fewer');
produce($redis, 'fewer', map { [ n => $_ ] } 1 .. 20);
$redis->cli('XREADGROUP', 'GROUP', 'fewer', consumer('fewer', 2), 'COUNT', 8, 'STREAMS', 'fewer', '>');
sql("SELECT streamsink.start('fewer')");
poll_until(sub { rows('fewer') eq '20|20' }, sub { 'what a worker that is not wanted any more had pending, there are ' . rows('fewer') });
is(rows('fewer'), '20|20', 'pending entries of a worker that is gone are taken over');

# ---- the same entries twice in one batch ----
create('doubled', "linger => '1500 ms'");
sql("SELECT streamsink.start('doubled')");
wait_for_state($node, 'doubled', 'running');
produce($redis, 'doubled', map { [ n => $_ ] } 1 .. 10);
poll_until(sub { $redis->cli('XPENDING', 'doubled', 'doubled') =~ /^10\b/ }, 'the batch to wait for more');
$redis->cli('XGROUP', 'SETID', 'doubled', 'doubled', '0');
wait_settled($node, 'doubled');
is(rows('doubled'), '10|10', 'the same entries twice in one batch: each is written once');
is(sql("SELECT repeated FROM streamsink.status WHERE pipeline = 'doubled'"), 10, 'and the others count as repeated');
is(sql("SELECT batches FROM streamsink.status WHERE pipeline = 'doubled'"), 1, 'it was one batch');

# ---- when stop has returned, nothing is written any more ----
create('fenced', 'batch_size => 20');
my $sent = 0;
foreach my $round (1 .. 8)
{
	produce($redis, 'fenced', map { [ n => $sent + $_ ] } 1 .. 3000);
	$sent += 3000;
	my $before = sql('SELECT count(*) FROM fenced');
	sql("SELECT streamsink.start('fenced')");
	poll_until(sub { sql('SELECT count(*) FROM fenced') > $before }, 'batches');
	my ($there) = sql(q{BEGIN; SELECT streamsink.stop('fenced'); SELECT 'rows ' || count(*) FROM fenced; COMMIT}) =~ /rows (\d+)/;
	poll_until(sub { sql("SELECT count(*) FROM streamsink.workers WHERE pipeline = 'fenced'") == 0 }, 'the worker to leave');
	my $after = sql('SELECT count(*) FROM fenced');
	is($after, $there, "round $round: no row after stop");
}
sql("SELECT streamsink.start('fenced')");
wait_settled($node, 'fenced');
is(rows('fenced'), "$sent|$sent", 'and every entry once');

# ---- commands of the outbox while Redis is away ----
produce($redis, 'fewer', [ n => 'bad' ]);
poll_until(sub { sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'fewer'") == 1 }, 'a dead letter');
my $length = $redis->cli('XLEN', 'fewer');
$redis->freeze;
sql("UPDATE streamsink.dead_letters SET fields = '{\"n\": \"21\"}' WHERE pipeline = 'fewer'");
is(sql("SELECT streamsink.requeue_dead_letters('fewer')"), 1, 'requeued while Redis does not answer');
poll_until(sub { sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink courier'") == 1 }, 'the courier to try');
my $courier = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'streamsink courier'");
kill 'KILL', $courier if $courier;
poll_until(sub { ($node->psql('postgres', 'SELECT 1'))[0] == 0 }, 'the server to come back');
$redis->thaw;
poll_until(sub { $redis->cli('XLEN', 'fewer') > $length }, 'the entry to be in the stream again');
wait_for_state($node, 'fewer', 'running');
poll_until(sub { rows('fewer') eq '21|21' }, sub { 'and to arrive, there are ' . rows('fewer') });
is(rows('fewer'), '21|21', 'a courier that is killed while it waits for Redis loses nothing');

# ---- and a courier that is killed before it sends ----
produce($redis, 'fewer', [ n => 'worse' ]);
poll_until(sub { sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'fewer'") == 1 }, 'another dead letter');
sql("UPDATE streamsink.dead_letters SET fields = '{\"n\": \"22\"}' WHERE pipeline = 'fewer'");
change_setting($node, 'streamsink.fault', 'before-carry:kill-once');
is(sql("SELECT streamsink.requeue_dead_letters('fewer')"), 1, 'requeued');
poll_until(sub { slurp_file($node->logfile) =~ /fault point "before-carry": kill-once.*reinitializing/s }, 'the courier to be killed');
poll_until(sub { try_sql($node, 'SELECT 1') }, 'the server to come back');
poll_until(sub { rows('fewer') eq '22|22' }, sub { 'the entry to arrive, there are ' . rows('fewer') });
is(rows('fewer'), '22|22', 'a courier that is killed before it sends loses nothing');

# ---- two pipelines never share a group ----
my ($rc, $out, $err) = $node->psql('postgres', q{SELECT streamsink.create_pipeline('thief', server => 'iot', stream => 'fewer', target => 'fewer', consumer_group => 'fewer')});
like($err, qr/WARNING.*pipeline "fewer" reads stream "fewer" in consumer group "fewer" already/, 'a second pipeline in the same group gives a warning');
sql(q{SELECT streamsink.start('thief')});
wait_for_state($node, 'thief', 'waiting');
like(sql(q{SELECT reason FROM streamsink.status WHERE pipeline = 'thief'}), qr/belongs to another streamsink pipeline/, 'and does not read');

is(sql('SELECT count(*) FROM streamsink.status WHERE read <> written + refused + ignored + repeated + superseded + vanished'), 0, 'counters add up');
$node->stop;
done_testing;
