# Faults of all kinds together, and every number in exactly one place: a schedule
# that is always the same, one that nobody saw before, and one in which Redis loses
# entries too.  A failure's seed is printed: make torture SECONDS=20 SEED=n.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{STREAMSINK_TORTURE_SECONDS} // 20;
my $new = 1 + int rand 1_000_000;
foreach my $run ([ $ENV{STREAMSINK_SEED} // 2024 ], [ $new ], [ $new, '--lose-tail' ])
{
	my ($seed, @more) = @$run;
	my $out = '';
	my $status = IPC::Run::run([ '/usr/bin/python3', '-B', "$FindBin::Bin/../torture/torture.py", '--seconds', $seconds, '--seed', $seed, @more ],
		'<', \'', '>&', \$out) ? 0 : $?;
	plan skip_all => 'not a test build' if $out =~ /^this is no test build/m;
	note $out;
	is($status, 0, "seed @$run") or diag(join "\n", grep { !/^#  / } split /\n/, $out);
}
done_testing;
