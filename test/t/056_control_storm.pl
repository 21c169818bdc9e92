# Exactly once through a storm of control calls: workers come and go, change
# their number, are terminated and lose their connections, while sessions
# drain the same pipelines, with commits that are not flushed at once.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use POSIX qw(WNOHANG);
use Test::More;

my $chunks = 60;
my $size   = 500;
my $seed   = $ENV{STREAMSINK_SEED} // 4711;
note "seed $seed";
srand($seed);

my $redis = new_redis('storm');
my $node  = new_node('storm', 'streamsink.discovery_interval' => '200ms', 'streamsink.fold_rows' => 8, 'streamsink.setup_retry' => '200ms');
create_server($node, $redis);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sql(q{CREATE TABLE m (n int);
	CREATE TABLE g (n int, v text);
	SELECT streamsink.create_pipeline('m', server => 'iot', stream => 'm', target => 'm', batch_size => 100, workers => 3,
		retry_backoff => '20 ms', settings => '{"synchronous_commit": "off"}');
	SELECT streamsink.create_pipeline('g', server => 'iot', stream => 'g:*', target => 'g', batch_size => 100, workers => 2, retry_backoff => '20 ms');
	SELECT streamsink.start('m'), streamsink.start('g')});

# The producer goes on as long as the storm: every round asks for a chunk.
my $total = $chunks * $size;
my ($sent, $round) = (0, 0);
sub send_chunk
{
	$redis->cli_stdin(join '', map { (resp('XADD', 'm', '*', n => $_), resp('XADD', 'g:' . ($_ % 7), '*', n => $_, v => $_ % 50 ? 'x' : "\xff")) } $sent + 1 .. $sent + $size);
	$sent += $size;
	return;
}

my %done;
sub attempt
{
	my ($what, $sql) = @_;
	my ($rc) = $node->psql('postgres', $sql);
	$done{$what}++ if $rc == 0;
	return;
}

while ($sent < $total)
{
	send_chunk();
	$round++;
	my ($m, $g) = (1 + int rand 4, 1 + int rand 3);
	attempt('alter', "SELECT streamsink.alter_pipeline('m', workers => $m); SELECT streamsink.alter_pipeline('g', workers => $g)");
	attempt('restart', "SELECT streamsink.restart('m')") if $round % 3 == 0;
	attempt('rollback', "BEGIN; SELECT streamsink.stop('m'), streamsink.stop('g'); ROLLBACK") if $round % 7 == 0;
	if ($round % 4 == 0)
	{
		attempt('stop', "SELECT streamsink.stop('m'), streamsink.stop('g')");
		$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM streamsink.workers');
		attempt('ingest', "CALL streamsink.ingest('$_', 3)") for 'm', 'g';
		attempt('start', "SELECT streamsink.start('m'), streamsink.start('g')");
	}
	attempt('terminate', 'SELECT pg_terminate_backend(pid) FROM streamsink.workers WHERE pid IS NOT NULL ORDER BY pid LIMIT 1') if $round % 2;
	$redis->cli('CLIENT', 'KILL', 'TYPE', 'normal') if $round % 5 == 0;
}
note join ', ', map { "$done{$_} x $_" } sort keys %done;
cmp_ok($done{$_} // 0, '>', 3, "$_ really happened") for qw(alter restart rollback stop ingest start terminate);

wait_settled($node, $_) for 'm', 'g';
is(sql('SELECT count(*), count(DISTINCT n) FROM m'), "$total|$total", 'a shared stream: every entry once');
my $bad = int($total / 50);
is(sql('SELECT count(*), count(DISTINCT n) FROM g'), join('|', ($total - $bad) x 2), 'a glob: every good entry once');
is(sql('SELECT count(*), count(DISTINCT (stream, entry_id)) FROM streamsink.dead_letters'), "$bad|$bad", 'and every bad one is one dead letter');
is((split /\n/, $redis->cli('XPENDING', 'm', 'm'))[0], 0, 'nothing is pending');
is(sql('SELECT count(*) FROM streamsink.status WHERE read <> written + refused + ignored + repeated + superseded + vanished'), 0, 'counters add up');
unlike(slurp_file($node->logfile), qr/(?:leak|PANIC|TRAP|was terminated by signal)/, 'no leak and no crash in the log');
$node->stop;
done_testing;
