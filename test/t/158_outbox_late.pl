# What waits in the outbox: a server with two queues keeps its order, and who
# takes his time to discard a command holds up no other.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('main');
my $other = new_redis('other');
my $node  = new_node('late', 'streamsink.backoff_max' => '4s');
create_server($node, $redis);
create_server($node, $other, 'other');

sub sql { return $node->safe_psql('postgres', join ";\n", @_); }
sub values_of { my ($stream) = @_; my @lines = split /\n/, $redis->cli('XRANGE', $stream, '-', '+'); return join ' ', map { $lines[ $_ + 1 ] } grep { $lines[$_] eq 'v' } 0 .. $#lines - 1; }
sub tried { my ($where, $times) = @_; return poll_until(sub { sql("SELECT count(*) FROM streamsink.outbox WHERE attempts >= $times AND $where") == 1 }, "$times tries of $where"); }

# Both couriers found at the same moment that the server is away, so there are two queues; the younger one is due first.
$redis->stop;
sql(q{SELECT streamsink.emit('s', '{"v": 1}', 'iot')});
tried('true', 3);
sql(q{SELECT streamsink.emit('s', '{"v": 2}', 'iot')});
poll_until(sub { sql('SELECT count(*) FROM streamsink.outbox WHERE behind IS NOT NULL') == 1 }, 'the second to wait');
sql(q{UPDATE streamsink.outbox_queue SET queue = -id, retry_at = clock_timestamp() + CASE WHEN queue = -id THEN '1 hour' ELSE '1 s' END::interval});
$redis->start;
poll_until(sub { sql('SELECT count(*) FROM streamsink.outbox WHERE behind IS NULL') < 2 }, 'the younger queue to be dealt with');
is(values_of('s'), '', 'it is not sent before the older one');
is(sql('SELECT count(*) FROM streamsink.outbox WHERE behind IS NOT NULL'), 1, '... but waits there');
sql(q{UPDATE streamsink.outbox_queue SET retry_at = NULL});
sql(q{SELECT streamsink.emit('s', '{"v": 3}', 'iot')});
poll_until(sub { sql('SELECT count(*) FROM streamsink.outbox') == 0 }, 'an empty outbox');
is(values_of('s'), '1 2 3', 'in order');

# Somebody is discarding what is sent meanwhile.
$_->stop for $redis, $other;
sql(q{SELECT streamsink.publish('c', 'discarded', 'iot'), streamsink.publish('c', 'kept', 'other')});
tried("server = '$_'", 1) for 'iot', 'other';
my $session = $node->background_psql('postgres');
$session->query_safe(q{BEGIN; DELETE FROM streamsink.outbox WHERE server = 'iot'});
$redis->start;
poll_until(sub { $redis->cli('INFO', 'commandstats') =~ /cmdstat_publish:calls=1,/ }, 'it to be sent');
$other->start;
ok(poll_until(sub { sql(q{SELECT count(*) FROM streamsink.outbox WHERE server = 'other'}) == 0 }, 'the other'), 'what waits for another server is sent meanwhile');
$session->query_safe('ROLLBACK');
poll_until(sub { sql('SELECT count(*) FROM streamsink.outbox') == 0 }, 'an empty outbox');
like($redis->cli('INFO', 'commandstats'), qr/cmdstat_publish:calls=1,/, 'once');
$session->quit;
$node->stop;
done_testing;
