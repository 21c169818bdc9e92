# What a worker costs: an entry is visible within 10 ms (median) at 100 entries
# a second, and the worker's private memory stays within its stated bounds.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $mb = 1024 * 1024;
my $redis = new_redis('cost', 'proto-max-bulk-len', '512mb', 'client-output-buffer-limit', 'normal 0 0 0');
my $node  = new_node('cost', fsync => 'on', track_commit_timestamp => 'on');
create_server($node, $redis);
$node->safe_psql('postgres', q{
	CREATE TABLE slow (id streamsink.entry_id, v int);
	CREATE TABLE fast (v text);
	CREATE TABLE big (v text);
	SELECT streamsink.create_pipeline('slow', server => 'iot', stream => 'slow', target => 'slow', columns => '{"id": "_id"}');
	SELECT streamsink.create_pipeline('fast', server => 'iot', stream => 'fast', target => 'fast');
	SELECT streamsink.create_pipeline('big', server => 'iot', stream => 'big', target => 'big');
	SELECT streamsink.start('slow')});
wait_for_state($node, 'slow', 'running');

# 100 entries a second for five seconds, on a connection that stays open.
open my $cli, '|-', 'redis-cli -s ' . $redis->socket . ' >/dev/null' or die $!;
$cli->autoflush(1);
my $start = time;
for my $i (1 .. 500)
{
	print $cli "XADD slow * v $i\n";
	my $wait = $start + $i / 100 - time;
	usleep($wait * 1_000_000) if $wait > 0;
}
close $cli;
wait_settled($node, 'slow');
is($node->safe_psql('postgres', 'SELECT count(*) FROM slow'), 500, 'all entries arrived');
my ($p50, $p99) = split /\|/, $node->safe_psql('postgres', q{
	SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY
		extract(epoch FROM pg_xact_commit_timestamp(xmin) - id::timestamptz) * 1000) FROM slow}) =~ s/[{}]//gr =~ s/,/|/r;
note sprintf 'latency from XADD to commit: median %.2f ms, 99 %% %.2f ms', $p50, $p99;
cmp_ok($p50, '<', 10, 'an entry is visible within 10 ms (median) at 100 entries a second');
is($node->safe_psql('postgres', "SELECT latency_p50 < interval '10 ms' FROM streamsink.status WHERE pipeline = 'slow'"), 't',
	'status says so too');
$node->safe_psql('postgres', "SELECT streamsink.stop('slow')");

# Private bytes of a process: its anonymous memory.  (Pages of shared buffers
# that nobody else has touched would count as private in smaps.)
sub private_memory
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/status" or return 0;
	while (<$file>) { return $1 * 1024 if /^RssAnon:\s+(\d+) kB/; }
	return 0;
}

# The highest private memory while the pipeline drains its stream.
sub peak_memory
{
	my ($pipeline, $table, $entries) = @_;
	my $peak = 0;

	$node->safe_psql('postgres', "SELECT streamsink.start('$pipeline')");
	wait_for_state($node, $pipeline, 'running');
	my $pid = $node->safe_psql('postgres', "SELECT pid FROM streamsink.workers WHERE pipeline = '$pipeline'");
	poll_until(sub {
		for (1 .. 20) { my $now = private_memory($pid); $peak = $now if $now > $peak; usleep(2_000); }
		return $node->safe_psql('postgres', "SELECT count(*) >= $entries FROM $table") eq 't';
	}, "$pipeline to drain", 300);
	is($node->safe_psql('postgres', "SELECT pid FROM streamsink.workers WHERE pipeline = '$pipeline'"), $pid, "$pipeline: one worker did it all");
	return $peak;
}

my $value = 'x' x 190;
for (1 .. 20) { produce($redis, 'fast', map { [ v => $value ] } 1 .. 20_000); }
my $peak = peak_memory('fast', 'fast', 400_000);
note sprintf '400,000 entries of 200 bytes: %.1f MB', $peak / $mb;
cmp_ok($peak, '<', 64 * $mb, 'under 64 MB at batch_size 1000 with entries of 200 bytes');

# Entries of 1 MB, 10 MB and one of 50 MB: batch_bytes is 16 MiB, the largest entry 50 MB.
my $large = 50 * $mb;
produce($redis, 'big', map { [ v => 'y' x $mb ] } 1 .. 60);
produce($redis, 'big', map { [ v => 'y' x (10 * $mb) ] } 1 .. 6);
produce($redis, 'big', [ v => 'y' x $large ]);
produce($redis, 'big', [ v => 'z' ]);
$peak = peak_memory('big', 'big', 68);
note sprintf 'entries up to 50 MB: %.1f MB', $peak / $mb;
cmp_ok($peak, '<', 64 * $mb + 4 * $large, 'under 64 MB + 4 x max(batch_bytes, largest entry) with large entries');
is($node->safe_psql('postgres', 'SELECT count(*), sum(length(v)) FROM big'),
	join('|', 68, 60 * $mb + 6 * 10 * $mb + $large + 1), 'large values are whole');

$node->stop;
done_testing;
