# trim_after: entries that everybody is done with are removed, and no other.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# one entry a node, so that Redis trims exactly what it is told
my $redis = new_redis('trim', 'stream-node-max-entries', 1);
my $node  = new_node('trim', 'streamsink.discovery_interval' => '100ms', 'streamsink.sample_interval' => '100ms', 'streamsink.setup_retry' => '200ms',
	'streamsink.ledger_join_age' => 0, 'streamsink.fold_rows' => 3);
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join ";\n", @_); }
my $hour = 3_600_000;
my $base = int(time * 1000) - 3 * $hour;
# entries that are so many hours old, numbered by milliseconds
sub add { my ($stream, $hours, $from, $to) = @_; return produce($redis, $stream, map { { n => $_, _id => $base + 3 * $hour - $hours * $hour + $_ . '-0' } } $from .. $to); }
sub len { return $redis->cli('XLEN', $_[0]); }
# what is left, by its numbers
sub left { my ($stream) = @_; my @lines = split /\n/, $redis->cli('XRANGE', $stream, '-', '+'); return join ' ', map { $lines[ $_ + 1 ] } grep { $lines[$_] eq 'n' } 0 .. $#lines - 1; }
# Until the worker has looked at the stream again, more than once, and joined what it could.
sub looks
{
	my ($pipeline) = @_;
	for (1 .. 3)
	{
		my $seen = sql("SELECT max(sampled_at) FROM streamsink.streams WHERE pipeline = '$pipeline'");
		$node->poll_query_until('postgres', "SELECT min(sampled_at) > '$seen' FROM streamsink.streams WHERE pipeline = '$pipeline'") or die;
	}
	return;
}
sub joined { my ($pipeline) = @_; return poll_until(sub { sql("SELECT bool_and(settled::text !~ '\\),\\[') FROM streamsink.streams WHERE pipeline = '$pipeline'") eq 't' }, 'the ledger to be joined'); }

sql(q{CREATE TABLE a (n int); SELECT streamsink.create_pipeline('a', server => 'iot', stream => 'a', target => 'a', batch_size => 10); SELECT streamsink.start('a')});
add('a', 2, 1, 80);
add('a', 0.5, 81, 150);
wait_settled($node, 'a');
joined('a');
looks('a');
is(len('a'), 150, 'without trim_after nothing is removed');
sql(q{SELECT streamsink.alter_pipeline('a', trim_after => '1 hour')});
poll_until(sub { len('a') <= 70 }, 'the old ones to go');
looks('a');
is(left('a'), join(' ', 81 .. 150), 'what is older than trim_after goes, and nothing else');
$node->poll_query_until('postgres', q{SELECT trimmed = 80 FROM streamsink.streams WHERE pipeline = 'a'}) or die 'trimmed';
like(slurp_file($node->logfile), qr/LOG:  80 entries of pipeline "a" were trimmed from 1 streams/, 'it is counted, and the log says so');
is(sql('SELECT count(*), count(DISTINCT n), max(n) FROM a'), '150|150|150', 'every entry was written');
is(sql(q{SELECT missed || ' ' || unseen FROM streamsink.streams WHERE pipeline = 'a'}), '0 0', 'nothing of this counts as missed or unseen');

# ---- other groups, and what is pending ----
sub create { my ($name, @more) = @_; sql("CREATE TABLE \"$name\" (n int)", "SELECT streamsink.create_pipeline('$name', " . join(', ', "server => 'iot'", "stream => '$name'", "target => '\"$name\"'", "trim_after => '1 hour'", @more) . ')'); return; }
sub start { my ($name) = @_; sql("SELECT streamsink.start('$name')"); wait_settled($node, $name); joined($name); looks($name); return; }
add('b', 2, 1, 100);
$redis->cli('XGROUP', 'CREATE', 'b', 'other', 0);
create('b');
start('b');
is(len('b'), 100, 'another group that has read nothing keeps everything');
$redis->cli('XREADGROUP', 'GROUP', 'other', 'me', 'COUNT', 50, 'STREAMS', 'b', '>');
looks('b');
is(len('b'), 100, '... nor may go what it has pending');
my @ids = map { $base + $hour + $_ . '-0' } 1 .. 100;
$redis->cli('XACK', 'b', 'other', @ids[ 0 .. 19 ]);
poll_until(sub { len('b') <= 80 }, 'those that it acknowledged to go');
looks('b');
is(left('b'), join(' ', 21 .. 100), '... what it acknowledged goes, up to the first that is pending');
$redis->cli('XACK', 'b', 'other', @ids[ 20 .. 49 ]);
poll_until(sub { len('b') <= 50 }, 'the rest of them');
looks('b');
is(left('b'), join(' ', 51 .. 100), '... and never what it was not given');
$redis->cli('XGROUP', 'DESTROY', 'b', 'other');
poll_until(sub { len('b') == 0 }, 'all');

# a consumer of others in our own group
add('c', 2, 1, 30);
$redis->cli('XGROUP', 'CREATE', 'c', 'c', 0);
$redis->cli('XREADGROUP', 'GROUP', 'c', 'somebody', 'COUNT', 10, 'STREAMS', 'c', '>');
create('c');
start('c');
is(len('c'), 30, 'what another consumer of the group has pending stays, and what lies behind it');

# ---- what is not settled ----
add('d', 2, 1, 20);
create('d');
start('d');
poll_until(sub { len('d') == 0 }, 'the first twenty to go');
sql(q{ALTER TABLE d RENAME TO e});
add('d', 2, 21, 40);
$node->poll_query_until('postgres', q{SELECT state = 'waiting' FROM streamsink.status WHERE pipeline = 'd'}) or die;
looks('d');
is(len('d'), 20, 'what cannot be written stays');
sql(q{ALTER TABLE e RENAME TO d});
wait_settled($node, 'd');
poll_until(sub { len('d') == 0 }, 'them to go once they are written');
is(sql('SELECT count(*), count(DISTINCT n) FROM d'), '40|40', 'all were written');

# ---- where it does not apply ----
produce($redis, 'numbers', map { { n => $_, _id => "$_-0" } } 1 .. 20);
create('numbers');
start('numbers');
is(len('numbers'), 20, 'ids that do not tell a time are not old');
add('later', 2, 1, 20);
create('later', q{start_from => '$'});
add('later', 2, 21, 40);
start('later');
is(sql('SELECT count(*) FROM later'), 20, 'what came before the pipeline');
is(len('later'), 40, '... was never settled, and stays');
sql(q{SELECT streamsink.seek('later', '$')});
wait_settled($node, 'later');
poll_until(sub { len('later') == 0 }, 'what a seek declares as settled to go');
ok(1, '... until a seek says that it is not wanted');

# ---- many streams ----
sql(q{CREATE TABLE many (s text, n int); SELECT streamsink.create_pipeline('many', server => 'iot', stream => 'many:{s}', target => 'many', trim_after => '1 hour'); SELECT streamsink.start('many')});
add("many:$_", 2, 1, 3) for 1 .. 250;
wait_settled($node, 'many');
poll_until(sub { sql('SELECT count(*) FROM many') == 750 }, 'all rows');
poll_until(sub { !grep { len("many:$_") } 1, 100, 250 }, 'their entries to go');
is(sql('SELECT count(*), count(DISTINCT (s, n)) FROM many'), '750|750', 'of many streams too');
add('many:7', 2, 4, 5);
wait_settled($node, 'many');
poll_until(sub { sql('SELECT count(*) FROM many') == 752 }, 'what comes later into an empty stream');

# ---- who may not ----
$redis->cli(qw(ACL SETUSER poor on >pw ~* +@all -xtrim));
sql(q{CREATE ROLE poor LOGIN; SELECT streamsink.grant_access('poor'); GRANT USAGE ON FOREIGN SERVER iot TO poor; GRANT CREATE ON SCHEMA public TO poor;
	CREATE USER MAPPING FOR poor SERVER iot OPTIONS (username 'poor', password 'pw')});
add('poor', 2, 1, 20);
sql(q{SET ROLE poor; CREATE TABLE poor (n int); SELECT streamsink.create_pipeline('poor', server => 'iot', stream => 'poor', target => 'poor', trim_after => '1 hour'); SELECT streamsink.start('poor')});
wait_settled($node, 'poor');
poll_until(sub { slurp_file($node->logfile) =~ /streams of pipeline "poor" are not trimmed: Redis does not permit it/ }, 'the warning');
add('poor', 0.1, 21, 25);
wait_settled($node, 'poor');
is(sql(q{SELECT count(*) FROM poor}), 25, 'without the permission it goes on');
$node->stop;
done_testing;
