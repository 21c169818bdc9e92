# Gaps of the ledger that are never proven to be empty: what other consumers
# read, what was trimmed away.  Far behind the newest intervals they are joined
# and counted, and only there; what is older than ledger_retention and lies
# before the stream's first entry is forgotten.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('trim');
my $node  = new_node('trim',
	'streamsink.ledger_join_age'    => '1h',
	'streamsink.ledger_apart'       => 1000,
	'streamsink.fold_rows'          => 1,
	'streamsink.sample_interval'    => '100ms',
	'streamsink.discovery_interval' => '100ms');
my $entries = 0;		# made so far
my $rows = 0;			# ... for us
create_server($node, $redis);
$node->safe_psql('postgres', q{
	CREATE TABLE t (v int);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 's', target => 't', batch_size => 5);
	SELECT streamsink.start('p')});

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub ranges { return sql('SELECT count(*) FROM streamsink.ledger l, unnest(l.settled)') }
sub counted { return sql("SELECT unseen, foreign_gaps FROM streamsink.streams WHERE pipeline = 'p'") }

# Questions about gaps that Redis was asked.
sub asked
{
	my ($calls) = $redis->cli('INFO', 'commandstats') =~ /cmdstat_xrange:calls=(\d+)/;
	return $calls // 0;
}

# Entries in batches that are settled one after the other.
sub settle
{
	my ($rounds) = @_;
	foreach (1 .. $rounds)
	{
		# at once, so that they are one interval
		$redis->cli_stdin(join '', resp('MULTI'), (map { resp('XADD', 's', '*', 'v', ++$entries) } 1 .. 3), resp('EXEC'));
		$rows += 3;
		poll_until(sub { sql('SELECT count(*) FROM t') == $rows }, "$rows rows");
	}
	poll_until(sub { sql('SELECT count(*) = 0 FROM streamsink.ledger_log') eq 't' }, 'the log to be folded');
}

sub configure
{
	my ($name, $value) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET streamsink.$name = '$value'");
	$node->reload;
}

sub stop_pipeline
{
	sql("SELECT streamsink.stop('p')");
	$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'streamsink worker')")
	  or die 'the worker did not leave';
}

# A new connection knows nothing of gaps that were tried in vain.
sub start_pipeline
{
	sql("SELECT streamsink.start('p')");
	wait_for_state($node, 'p', 'running');
}

sub restart_pipeline
{
	stop_pipeline();
	start_pipeline();
}

# An entry that somebody else takes, between two intervals of ours; returns its id.
sub give_away
{
	my ($consumer) = @_;
	stop_pipeline();
	produce($redis, 's', { v => ++$entries });
	my ($id) = $redis->cli('XREADGROUP', 'GROUP', 'p', $consumer, 'COUNT', 1, 'STREAMS', 's', '>') =~ /(\d+-\d+)/;
	start_pipeline();
	settle(2);
	return $id;
}

# A hole that nothing explains: no other consumer reads here.
settle(5);
stop_pipeline();
my ($from, $to) = split /\|/, sql('SELECT lower(r), upper(r) FROM streamsink.ledger, unnest(settled) WITH ORDINALITY u (r, i) WHERE i = 2');
my $hole = () = $redis->cli('XRANGE', 's', $from, "($to") =~ /^\d+-\d+$/mg;
sql('UPDATE streamsink.ledger SET hashes = hashes[:1] || hashes[3:], settled_at = settled_at[:1] || settled_at[3:],
	settled = settled OPERATOR(pg_catalog.-) (SELECT streamsink.entry_id_multirange(r) FROM unnest(settled) WITH ORDINALITY u (r, i) WHERE i = 2)');
configure('ledger_apart', 1);
sql("SELECT streamsink.reset_stats('p')");
$rows += $hole;
configure('ledger_join_age', 0);
start_pipeline();
poll_until(sub { sql('SELECT count(*) FROM t') == $rows }, 'what was in the hole');
is(sql("SELECT written FROM streamsink.status WHERE pipeline = 'p'"), $hole, "it is looked into and read, not taken for settled ($hole)");
is(counted(), '0|0', 'nothing was joined loosely');
poll_until(sub { ranges() == 1 }, 'one interval');
sql('DELETE FROM t');
$rows = 0;

# Entries of other consumers: pending with one of them, or acknowledged.
configure('ledger_apart', 1000);
my @ids = map { give_away('somebody') } 1 .. 4;
$redis->cli('XACK', 's', 'p', $ids[1]);
$redis->cli('XACK', 's', 'p', $ids[3]);
poll_until(sub { ranges() == 5 }, 'five intervals');
restart_pipeline();
settle(2);
poll_until(sub { ranges() == 5 }, 'the next one to be joined');
is(counted(), '0|0', 'they are kept apart while they are not too many');
configure('ledger_apart', 2);
poll_until(sub { ranges() == 4 }, 'one of the gaps to be joined');
is(counted(), '0|1', 'it is the one of an entry that was acknowledged, and it is counted');
ok(sql("SELECT settled OPERATOR(pg_catalog.\@>) '$ids[1]'::streamsink.entry_id AND NOT settled OPERATOR(pg_catalog.\@>) '$ids[0]'::streamsink.entry_id
	AND NOT settled OPERATOR(pg_catalog.\@>) '$ids[2]'::streamsink.entry_id FROM streamsink.streams WHERE pipeline = 'p'") eq 't',
	'what is pending with somebody stays open');
ok(sql("SELECT settled OPERATOR(pg_catalog.\@>) '$ids[3]'::streamsink.entry_id FROM streamsink.streams WHERE pipeline = 'p'") eq 'f',
	'and so does what lies between the newest two');
$redis->cli('XACK', 's', 'p', $ids[0]);
restart_pipeline();
poll_until(sub { ranges() == 3 }, 'the gap to be joined when it is acknowledged');
is(counted(), '0|2', 'counted');

# A stream that its producer trims, the entry that is pending with somebody included.
configure('ledger_join_age', '1h');
restart_pipeline();
foreach (1 .. 5)
{
	settle(1);
	$redis->cli('XTRIM', 's', 'MAXLEN', 0);
}
my $apart = ranges();
cmp_ok($apart, '>=', 8, 'an interval for each batch');
configure('ledger_join_age', 0);
restart_pipeline();
poll_until(sub { ranges() == 3 }, 'the old ones to be joined');
is(counted(), ($apart - 3) . '|2', 'unseen, and counted');
settle(1);
ok(sql("SELECT settled OPERATOR(pg_catalog.\@>) '$ids[2]'::streamsink.entry_id FROM streamsink.streams WHERE pipeline = 'p'") eq 'f',
	'what was trimmed while it is pending stays open');
$redis->cli('XACK', 's', 'p', $ids[2]);
restart_pipeline();
poll_until(sub { ranges() == 2 }, 'all old ones to be joined');
like(counted(), qr/^\d+\|2$/, 'until it is acknowledged');
is(sql('SELECT count(*), count(DISTINCT v) FROM t'), "$rows|$rows", 'every entry is there once');

# Forgetting: before the first entry, and old.
configure('ledger_apart', 1000);
$redis->cli('XTRIM', 's', 'MAXLEN', 0);
settle(1);
poll_until(sub { ranges() == 3 }, 'three intervals');
my $old = "now() - interval '8 days'";
sql("UPDATE streamsink.ledger SET settled_at = ARRAY[$old, now(), $old]");
poll_until(sub { ranges() == 2 }, 'old intervals to be forgotten');
is(sql("SELECT count(*) FILTER (WHERE t > now() - interval '1 day') FROM streamsink.ledger, unnest(settled_at) t"), 1, 'one that is young is kept');
my ($first) = $redis->cli('XRANGE', 's', '-', '+', 'COUNT', 1) =~ /^(\d+-\d+)$/m;
ok(sql("SELECT settled OPERATOR(pg_catalog.\@>) '$first'::streamsink.entry_id FROM streamsink.ledger") eq 't', 'and one that Redis still has');
sql("UPDATE streamsink.ledger SET settled_at = ARRAY[$old, $old]");
poll_until(sub { ranges() == 1 }, 'the other one to be forgotten');
$redis->cli('XTRIM', 's', 'MAXLEN', 0);
sql("SELECT streamsink.alter_pipeline('p', ledger_retention => '1 hour')");
sql("UPDATE streamsink.ledger SET settled_at = ARRAY[now() - interval '61 min']");
settle(1);
poll_until(sub { ranges() == 1 && sql('SELECT settled_at[1] > now() - interval $$1 hour$$ FROM streamsink.ledger') eq 't' }, 'the older one to be forgotten');
sql("UPDATE streamsink.ledger SET settled_at = ARRAY[$old]");
$redis->cli('XTRIM', 's', 'MAXLEN', 0);
my $sampled = sql("SELECT sampled_at FROM streamsink.streams WHERE pipeline = 'p'");
poll_until(sub { sql("SELECT length = 0 AND sampled_at > timestamptz '$sampled' + interval '3 s' FROM streamsink.streams WHERE pipeline = 'p'") eq 't' }, 'looks at an empty stream');
is(ranges(), 1, 'the newest interval is never forgotten');

is(sql('SELECT count(*), count(DISTINCT v) FROM t'), "$rows|$rows", 'every entry is there once');
is(sql('SELECT count(*) FROM streamsink.dead_letters'), 0, 'no dead letters');
$node->stop;
done_testing;
