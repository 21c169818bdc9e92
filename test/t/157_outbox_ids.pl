# Entries of a stream that go out in more than one MULTI, while others write to
# it: Redis gives them the id behind ours, which is not the next of ours.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('ids');
my $node  = new_node('ids');
create_server($node, $redis);
plan skip_all => 'not a test build' if ($node->psql('postgres', 'SHOW streamsink.fault'))[0] != 0;

sub sql { return $node->safe_psql('postgres', join "\n", @_); }

sub set_fault
{
	my ($fault) = @_;
	sql("ALTER SYSTEM SET streamsink.fault = '$fault'");
	sql('SELECT pg_reload_conf()');
	return;
}

# Its ids are ahead of the clock, so that others get ids behind the last one; ours are refused once.
my $ahead = time + 1000;
$redis->cli('XADD', 's', "${ahead}000-0", 'v', 'first');
set_fault('after-carry:wait%2');

# two are too large for one MULTI
sql(q{SELECT streamsink.emit('s', jsonb_build_object('v', i, 'long', repeat('x', 3000000)), 'iot') FROM generate_series(1, 3) i});
poll_until(sub { slurp_file($node->logfile) =~ /fault point "after-carry": wait%2/ }, 'the first entry to be there');
is($redis->cli('XLEN', 's'), 2, 'one of three entries is sent');
$redis->cli('XADD', 's', '*', 'v', 'other') for 1 .. 5;
set_fault('');
poll_until(sub { sql('SELECT count(*) FROM streamsink.outbox') eq '0' }, 'an empty outbox');

my @values = grep { /^(first|other|[123])$/ } split /\n/, $redis->cli('XRANGE', 's', '-', '+');
is(join(' ', grep { /\d/ } @values), '1 2 3', "no entry is lost to one that took its id");
is(scalar(grep { $_ eq 'other' } @values), 5, 'the others are there as well');
$node->stop;
done_testing;
