# Entries that others left pending (claim_idle), entries that were deleted while
# they were pending, and entries that were trimmed before anybody was given them.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('claims');
my $node  = new_node('claims',
	'streamsink.sample_interval'    => '100ms',
	'streamsink.discovery_interval' => '100ms');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub status { return sql("SELECT $_[1] FROM streamsink.status WHERE pipeline = '$_[0]'") }
sub group_pending { return ($redis->cli('XPENDING', $_[0], $_[1]) =~ /^(\d+)/)[0] }

sub stop_pipeline
{
	my ($name) = @_;
	sql("SELECT streamsink.stop('$name')");
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM streamsink.workers WHERE pipeline = '$name'")
	  or die 'the worker did not leave';
}

sub start_pipeline
{
	my ($name) = @_;
	sql("SELECT streamsink.start('$name')");
	wait_for_state($node, $name, 'running');
}

# Entries that a consumer takes and keeps; returns their ids.
sub take
{
	my ($stream, $group, $consumer, $n) = @_;
	return $redis->cli('XREADGROUP', 'GROUP', $group, $consumer, 'COUNT', $n, 'STREAMS', $stream, '>') =~ /(\d+-\d+)/g;
}

sub is_settled
{
	my ($pipeline, $id) = @_;
	return sql("SELECT bool_or(settled OPERATOR(pg_catalog.\@>) '$id'::streamsink.entry_id) FROM streamsink.streams WHERE pipeline = '$pipeline'") eq 't';
}

# ---- claim_idle ----

sql(q{
	CREATE TABLE a (v int, x text);
	CREATE TABLE b (v int);
	SELECT streamsink.create_pipeline('a', server => 'iot', stream => 'a:{x}', target => 'a', claim_idle => '1 h');
	SELECT streamsink.create_pipeline('b', server => 'iot', stream => 'b', target => 'b')});
produce($redis, "a:$_", { v => 0 }) foreach 1 .. 3;
start_pipeline('a');
start_pipeline('b');
poll_until(sub { sql('SELECT count(*) FROM a') == 3 && sql("SELECT count(*) FROM streamsink.streams WHERE pipeline = 'b'") == 1 }, 'both to read');
my ($consumer) = $redis->cli('XINFO', 'CONSUMERS', 'a:1', 'a') =~ /^(streamsink:[-0-9a-f]{36})$/m;
stop_pipeline($_) foreach 'a', 'b';

produce($redis, 'a:1', map { { v => $_ } } 1 .. 10);
produce($redis, 'b', map { { v => $_ } } 1 .. 3);
my @ids = take('a:1', 'a', 'somebody', 7);
my @ours = take('a:1', 'a', "$consumer:7", 1);
my @busy = take('a:1', 'a', 'busy', 1);
my @others = take('b', 'b', 'somebody', 2);
is(@ids + @ours + @busy + @others, 11, 'others took entries');
$redis->cli('XDEL', 'a:1', $ids[2], $ids[5]);
$redis->cli('XDEL', 'b', $others[1]);
start_pipeline($_) foreach 'a', 'b';
poll_until(sub { sql('SELECT count(*) FROM a') == 4 && sql('SELECT count(*) FROM b') == 1 }, 'what was left for us');
poll_until(sub { status('a', 'foreign_pending') eq 8 }, 'the sample to show them');

# One of them works on its entry, and says so.
sql("SELECT streamsink.alter_pipeline('a', claim_idle => '1 s')");
poll_until(sub { $redis->cli('XCLAIM', 'a:1', 'a', 'busy', 0, $busy[0], 'IDLE', 0); group_pending('a:1', 'a') == 2 }, 'the idle ones to be claimed and acknowledged');
is(sql('SELECT string_agg(v::text, $$ $$ ORDER BY v) FROM a WHERE v > 0'), '1 2 4 5 7 10', 'what others left is written');
like($redis->cli('XPENDING', 'a:1', 'a', '-', '+', 10), qr/^$busy[0]\nbusy\n/m, 'what is not idle is left to who has it');
poll_until(sub { group_pending('a:1', 'a') == 1 }, 'it to be claimed when it is idle');
is(sql('SELECT count(*) FROM a WHERE v = 9'), 1, 'and written');
is(status('a', 'vanished'), 2, 'what was deleted while it was pending is counted');
is(status('a', 'read = written + refused + ignored + repeated + superseded + vanished'), 't', 'in the sum as well');
ok(is_settled('a', $ids[2]) && is_settled('a', $ids[5]), 'and is in the ledger');
like($redis->cli('XPENDING', 'a:1', 'a', '-', '+', 10), qr/^$ours[0]\n\Q$consumer\E:7\n/, 'what has a consumer of ours is left to it');
poll_until(sub { status('a', 'foreign_pending') eq 0 }, 'the sample to show that nothing is left');
like($redis->cli('XPENDING', 'b', 'b', '-', '+', 10), qr/^$others[0]\nsomebody\n/, 'without claim_idle nothing is claimed');
is(status('b', 'foreign_pending'), 2, 'and status shows it');

# All that was pending has vanished, and there is nothing else to read.
@ids = ();
stop_pipeline('a');
produce($redis, 'a:2', map { { v => $_ } } 10 .. 260);
@ids = take('a:2', 'a', 'somebody', 300);
is(@ids, 251, 'somebody took many');
$redis->cli('XTRIM', 'a:2', 'MAXLEN', 0);
start_pipeline('a');
poll_until(sub { group_pending('a:2', 'a') == 0 && status('a', 'vanished') == 253 }, 'them to be settled');
ok(is_settled('a', $ids[0]) && is_settled('a', $ids[250]), 'in the ledger');
is(sql('SELECT count(*) FROM a'), 10, 'nothing more was written');

# ---- a dead consumer of ours ----

sql(q{
	CREATE TABLE c (v int);
	SELECT streamsink.create_pipeline('c', server => 'iot', stream => 'c', target => 'c', batch_size => 10)});
start_pipeline('c');
produce($redis, 'c', { v => 0 });
wait_settled($node, 'c');
($consumer) = $redis->cli('XINFO', 'CONSUMERS', 'c', 'c') =~ /^(streamsink:[-0-9a-f]{36}):0$/m;
stop_pipeline('c');
produce($redis, 'c', map { { v => $_ } } 1 .. 40);
@ids = take('c', 'c', "$consumer:1", 40);
$redis->cli('XDEL', 'c', @ids[5 .. 29]);
start_pipeline('c');
poll_until(sub { group_pending('c', 'c') == 0 && sql('SELECT count(*) FROM c') == 16 }, 'all to be taken over');
is(status('c', 'vanished'), 25, 'what was deleted is counted');
ok(is_settled('c', $ids[5]) && is_settled('c', $ids[29]), 'and is in the ledger');

# The same in a session.
stop_pipeline('c');
produce($redis, 'c', map { { v => $_ } } 41 .. 45);
@ids = take('c', 'c', "$consumer:1", 5);
$redis->cli('XDEL', 'c', @ids[0 .. 2]);
sql("SELECT streamsink.reset_stats('c')");
sql("CALL streamsink.ingest('c')");
is(sql('SELECT count(*) FROM c'), 18, 'ingest takes over too');
ok(is_settled('c', $ids[0]) && is_settled('c', $ids[2]), 'with those that vanished');
is(group_pending('c', 'c'), 0, 'all acknowledged');

# Very many, for a worker and for a session: more than one step, and the memory of one reply, hold.
# The name of the consumer is in each reply; it is as long as can be.
my $long = "$consumer:" . '0' x 1000 . '1';
my $fill = q{for i = 1, ARGV[3] do redis.call('XADD', KEYS[1], '*', 'v', i) end
	return #redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')[1][2]};
sql("SELECT streamsink.alter_pipeline('c', batch_size => 10000); TRUNCATE c");
is($redis->cli('EVAL', $fill, 1, 'c', 'c', $long, 70_000), 70_000, 'a dead worker has very many');
start_pipeline('c');
poll_until(sub { group_pending('c', 'c') == 0 }, 'all to be taken over');
is(sql('SELECT count(*), count(DISTINCT v) FROM c'), '70000|70000', 'each is written once');
stop_pipeline('c');
sql('TRUNCATE c');
is($redis->cli('EVAL', $fill, 1, 'c', 'c', $long, 70_000), 70_000, 'and again');
sql("CALL streamsink.ingest('c')");
is(sql('SELECT count(*), count(DISTINCT v) FROM c'), '70000|70000', 'ingest takes all of them over');

# ---- trimmed before anybody was given them ----

sub missed
{
	my ($want) = @_;
	poll_until(sub { sql("SELECT missed FROM streamsink.streams WHERE pipeline = 'd'") == $want }, "$want to be missed");
	return status('d', 'missed');
}

# Wait for some samples, which would count once more.
sub look_again
{
	my $at = sql('SELECT clock_timestamp()');
	poll_until(sub { sql("SELECT sampled_at > timestamptz '$at' + interval '500 ms' FROM streamsink.streams WHERE pipeline = 'd'") eq 't' }, 'samples');
}

my $v = 0;
sub produce_trimmed
{
	my ($n, $maxlen) = @_;
	$redis->cli_stdin(join '', map { resp('XADD', 'd', 'MAXLEN', $maxlen, '*', 'v', ++$v) } 1 .. $n);
}

sub warnings
{
	my @found = slurp_file($node->logfile) =~ /WARNING:  (at least \d+ entries of stream "d" were removed before pipeline "d" was given them)/g;
	return scalar @found;
}

sql(q{
	CREATE TABLE d (v int);
	SELECT streamsink.create_pipeline('d', server => 'iot', stream => 'd', target => 'd')});
start_pipeline('d');
produce_trimmed(10, 100);
wait_settled($node, 'd');
stop_pipeline('d');
produce_trimmed(100, 10);
start_pipeline('d');
is(missed(90), 90, 'what was trimmed while the pipeline stood still is counted');
wait_settled($node, 'd');
look_again();
is(missed(90), 90, 'once');
is(sql('SELECT count(*) FROM d'), 20, 'the rest is written');
stop_pipeline('d');
start_pipeline('d');
look_again();
is(missed(90), 90, 'and not again by the next worker');
is(warnings(), 1, 'with one warning');

# Trimming what was delivered is nothing to report.
$redis->cli('XTRIM', 'd', 'MAXLEN', 0);
foreach (1 .. 3)
{
	produce_trimmed(1, 1);
	wait_settled($node, 'd');
}
stop_pipeline('d');
produce_trimmed(1, 1);
start_pipeline('d');
wait_settled($node, 'd');
look_again();
is(missed(90), 90, 'a short stream that is read in time misses nothing');

# Once more, over restarts.
stop_pipeline('d');
produce_trimmed(60, 10);
start_pipeline('d');
is(missed(140), 140, 'the next occurrence is added');
wait_settled($node, 'd');
stop_pipeline('d');
produce_trimmed(5, 10);
$redis->cli('XTRIM', 'd', 'MAXLEN', 0);
start_pipeline('d');
is(missed(145), 145, 'and one after which the stream is empty');
look_again();
stop_pipeline('d');
start_pipeline('d');
look_again();
produce_trimmed(2, 10);
wait_settled($node, 'd');
look_again();
is(missed(145), 145, 'once');
is(warnings(), 3, 'each with a warning');
is(status('d', 'lag'), 0, 'what is gone is no lag');
is(status('a', 'missed'), 0, 'others missed nothing');

is(sql('SELECT count(*) FROM streamsink.dead_letters'), 0, 'no dead letters');
$node->stop;
done_testing;
