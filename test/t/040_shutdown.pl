# Nothing of ours may hold up a server: stop(), DROP DATABASE of any database
# and a fast shutdown end quickly while Redis hangs.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $limit = 2;    # seconds
my $redis = new_redis('shutdown');
my $node  = new_node('shutdown');
create_server($node, $redis);
$node->safe_psql('postgres', q{
	CREATE TABLE t (v int);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 's', target => 't');
	SELECT streamsink.start('p')});
produce($redis, 's', map { { v => $_ } } 1 .. 100);
wait_settled($node, 'p');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), 100, 'the pipeline works');

sub timed
{
	my ($what, $code) = @_;
	my $start = time;
	$code->();
	my $took = time - $start;
	cmp_ok($took, '<', $limit, sprintf '%s (%.2f s)', $what, $took);
}

# Redis hangs: the worker is blocked in a read.
$redis->freeze;
timed('CREATE and DROP DATABASE of another database',
	sub { $node->safe_psql('postgres', 'CREATE DATABASE other'); $node->safe_psql('postgres', 'DROP DATABASE other'); });
timed('stop() with the worker gone after its commit', sub {
	$node->safe_psql('postgres', "SELECT streamsink.stop('p')");
	$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'streamsink worker')")
	  or die 'the worker did not leave';
});
is($node->safe_psql('postgres', "SELECT state FROM streamsink.status WHERE pipeline = 'p'"), 'stopped', 'the pipeline is stopped');

# A worker that cannot even connect.
$node->safe_psql('postgres', "SELECT streamsink.start('p')");
$node->poll_query_until('postgres', "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'streamsink worker')");
timed('DROP DATABASE while a worker connects to a Redis that hangs',
	sub { $node->safe_psql('postgres', 'CREATE DATABASE other'); $node->safe_psql('postgres', 'DROP DATABASE other'); });
timed('pg_ctl stop -m fast', sub { $node->stop('fast') });

# The pipeline survives the restart and runs again by itself.
$redis->thaw;
$node->start;
my $start = time;
wait_for_state($node, 'p', 'running');
cmp_ok(time - $start, '<', $limit, 'running again within 2 s of the server accepting connections');
produce($redis, 's', map { { v => $_ } } 101 .. 200);
wait_settled($node, 'p');
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT v) FROM t'), '200|200', 'nothing lost, nothing doubled');

# Its own database: refused while a worker is connected, FORCE works.
$node->safe_psql('postgres', 'CREATE DATABASE own');
$node->safe_psql('own', 'CREATE EXTENSION streamsink; CREATE TABLE t (v int)');
create_server($node, $redis, 'iot', 'own');
$node->safe_psql('own', "SELECT streamsink.create_pipeline('q', server => 'iot', stream => 'q', target => 't'); SELECT streamsink.start('q')");
wait_for_state($node, 'q', 'running', 'own');
$redis->freeze;
timed('DROP DATABASE WITH (FORCE) of the database of a running pipeline',
	sub { $node->safe_psql('postgres', 'DROP DATABASE own WITH (FORCE)') });
$redis->thaw;
$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'own')");
wait_for_state($node, 'p', 'running');
$node->stop;
done_testing;
