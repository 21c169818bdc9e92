# The ledger of a stream that is read in many small batches becomes short again,
# and only where that is exact: an entry that another consumer holds, one that
# was trimmed away, and a group without our marker keep intervals apart.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('join');
my $node  = new_node('join', 'streamsink.sample_interval' => '1h',
	'streamsink.ledger_join_age'    => '1h',
	'streamsink.fold_rows'          => 1,
	'streamsink.discovery_interval' => '100ms');
my $entries = 0;
create_server($node, $redis);
$node->safe_psql('postgres', q{
	CREATE TABLE t (v int);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 's', target => 't', batch_size => 5);
	SELECT streamsink.start('p')});

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub ranges { return sql('SELECT count(*) FROM streamsink.ledger l, unnest(l.settled)') }
sub is_folded { return sql('SELECT count(*) = 0 FROM streamsink.ledger_log') eq 't' }
sub rows { return sql('SELECT count(*) FROM t') }

# Questions about gaps that Redis was asked so far (and the making of groups).
sub asked
{
	my ($calls) = $redis->cli('INFO', 'commandstats') =~ /cmdstat_multi:calls=(\d+)/;
	return $calls // 0;
}

# Entries in batches that are settled one after the other, so that they are intervals of their own.
sub settle
{
	my ($rounds, $expected) = @_;
	foreach (1 .. $rounds)
	{
		# at once, so that they are one interval
		$redis->cli('EVAL', q{for i = 1, 3 do redis.call('XADD', KEYS[1], '*', 'v', ARGV[1] + i) end}, 1, 's', $entries);
		$entries += 3;
		my $want = $expected // $entries;
		poll_until(sub { rows() == $want }, "$want rows");
		$expected += 3 if defined $expected;
	}
	poll_until(\&is_folded, 'the log to be folded');
}

sub join_age
{
	my ($age) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET streamsink.ledger_join_age = '$age'");
	$node->reload;
}

# A new connection knows nothing of gaps that were tried in vain.
sub restart_pipeline
{
	sql("SELECT streamsink.stop('p')");
	$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'streamsink worker')")
	  or die 'the worker did not leave';
	sql("SELECT streamsink.start('p')");
	wait_for_state($node, 'p', 'running');
}

# Young intervals stay apart, older ones become one.
settle(10);
my $apart = ranges();
my $asked = asked();
cmp_ok($apart, '>', 5, "many batches make many intervals ($apart)");
restart_pipeline();
settle(2);
cmp_ok(ranges(), '>', $apart, 'young ones are not joined');
is(asked(), $asked, 'and not asked about');
join_age(0);
poll_until(sub { ranges() == 1 }, 'one interval');
pass('with nothing between them they become one');
cmp_ok(asked(), '>', $asked, 'Redis was asked before');
settle(5);
poll_until(sub { ranges() == 1 }, 'one interval again');
pass('and again');
is(sql("SELECT settled::text FROM streamsink.streams WHERE pipeline = 'p'"),
	sql('SELECT settled::text FROM streamsink.ledger'), 'the view shows it');
is(sql('SELECT (settled_at)[1] <= now() AND hashes[1] <> 0 FROM streamsink.ledger'), 't', 'with the hash of its last entry');

# An entry that another consumer holds.
sql("SELECT streamsink.stop('p')");
$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'streamsink worker')");
produce($redis, 's', { v => ++$entries });
like($redis->cli('XREADGROUP', 'GROUP', 'p', 'somebody', 'COUNT', 1, 'STREAMS', 's', '>'), qr/\b$entries\b/, 'another consumer took an entry');
sql("SELECT streamsink.start('p')");
settle(5, $entries - 1 + 3);
poll_until(sub { ranges() == 2 }, 'two intervals');
settle(5, rows() + 3);
poll_until(sub { ranges() == 2 }, 'two intervals again');
restart_pipeline();
settle(5, rows() + 3);
poll_until(sub { ranges() <= 2 }, 'the next intervals to be joined');
is(ranges(), 2, 'the gap that holds its entry stays');

# Everything is handed out once more: only what nobody settled is new.
my $before = rows();
is($before, $entries - 1, 'one entry is missing');
sql("SELECT streamsink.reset_stats('p')");
$redis->cli('XGROUP', 'SETID', 's', 'p', '0');
poll_until(sub { sql("SELECT repeated + written >= $entries FROM streamsink.status WHERE pipeline = 'p'") eq 't' }, 'everything to be read again');
is(sql("SELECT repeated || ' repeated, ' || written || ' written' FROM streamsink.status WHERE pipeline = 'p'"),
	$before . ' repeated, 1 written', 'all but one were settled');
is(sql('SELECT count(*), count(DISTINCT v) FROM t'), "$entries|$entries", 'every entry arrived once');
poll_until(sub { ranges() == 1 }, 'one interval');
pass('now nothing lies between');

# Entries that were trimmed away before anybody asked.
join_age('1h');
restart_pipeline();
settle(10);
my ($first) = $redis->cli('XRANGE', 's', '-', '+') =~ /.*?(\d+-\d+)\s+v\s+@{[ $entries - 13 ]}\s/s;
$redis->cli('XTRIM', 's', 'MINID', $first);
my $below = sql("SELECT count(*) FROM streamsink.ledger l, unnest(l.settled) r WHERE upper(r) OPERATOR(streamsink.<=) '$first'");
my $others = ranges() - $below;
cmp_ok($below, '>', 1, "intervals before the first entry ($below)");
cmp_ok($others, '>', 1, "and others ($others)");
join_age(0);
poll_until(sub { ranges() <= $below + 1 }, 'the others to become one');
settle(3);
poll_until(sub { ranges() <= $below + 1 }, 'the next intervals to be joined');
is(ranges(), $below + 1, 'what was trimmed away is not taken for settled');

# A group without our marker could be anybody's.
my $intervals = ranges();
my ($marker) = $redis->cli('XINFO', 'CONSUMERS', 's', 'p') =~ /^(streamsink:marker:\S+)$/m;
$redis->cli('XGROUP', 'DELCONSUMER', 's', 'p', $marker);
foreach (1 .. 2)
{
	my $questions = asked();
	settle(1);
	poll_until(sub { asked() > $questions }, 'Redis to be asked');
	$intervals++;
}
is(ranges(), $intervals, 'without the marker nothing is joined');
restart_pipeline();
poll_until(sub { ranges() == $below + 1 }, 'joined again');
pass('with the marker it is joined');

# A Redis that lost its last entries may give ids in the gap once more.
join_age('1h');
restart_pipeline();
settle(2);
poll_until(sub { $redis->cli('XPENDING', 's', 'p') =~ /^0\b/ }, 'nothing to be pending');
$redis->cli('EVAL', q{return redis.call('SET', 'earlier', redis.call('DUMP', 's'))}, 0);
settle(1);
my ($last) = $redis->cli('XREVRANGE', 's', '+', '-', 'COUNT', 1) =~ /^(\d+-\d+)$/m;
$redis->cli('EVAL', q{redis.call('RESTORE', 's', 0, redis.call('GET', 'earlier'), 'REPLACE')
	return redis.call('XGROUP', 'SETID', 's', 'p', ARGV[1])}, 0, $last);
cmp_ok(ranges(), '>', $below + 2, 'new intervals');
join_age(0);
poll_until(sub { ranges() <= $below + 2 }, 'intervals to be joined');
is(ranges(), $below + 2, 'the gap behind the last id stays');
settle(1);
restart_pipeline();
poll_until(sub { ranges() == $below + 1 }, 'joined again');
pass('until there are ids behind it');

# Once more from the beginning.
sql("SELECT streamsink.reset_stats('p')");
$redis->cli('XGROUP', 'SETID', 's', 'p', '0');
my $there = $redis->cli('XLEN', 's');
poll_until(sub { sql("SELECT repeated >= $there FROM streamsink.status WHERE pipeline = 'p'") eq 't' }, 'everything to be read again');
is(sql("SELECT repeated, written FROM streamsink.status WHERE pipeline = 'p'"), "$there|0", 'nothing is written twice');
is(rows(), $entries, 'every entry is there once');
is(sql('SELECT count(*) FROM streamsink.dead_letters'), 0, 'no dead letters');

$node->stop;
done_testing;
