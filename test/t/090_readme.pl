# Every statement of the README runs, in order, and prints what the README says.
#
# A block of sql is run by psql; a block of text that follows it is what it
# prints; "redis-cli" lines of sh blocks and all of redis blocks go to Redis.
# Ids and times are compared by their shape, blanks by their presence.
use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamsinkTest;
use Test::More;
use Text::ParseWords qw(shellwords);

my $tree = $ENV{STREAMSINK_TREE} // dirname(__FILE__) . '/../..';
my $readme = slurp_file("$tree/README.md");
my $redis = new_redis('readme');
my $node = new_node('readme', _extension => 0);
my ($host, $port) = ($redis->host, $redis->port);

# Redis's user comes first: the rights that the README lists must suffice.
while ($readme =~ /^```redis\n(.*?)^```$/msg)
{
	foreach my $line (split /\n/, $1)
	{
		is($redis->cli(shellwords($line)), 'OK', $line =~ s/^(.{60}).+/$1.../r);
	}
}

sub normalise
{
	my ($text) = @_;
	$text =~ s/\b\d{13}-\d+\b/ID/g;
	$text =~ s/\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?[+-]\d\d\b/TIME/g;
	$text =~ s/-{2,}/--/g;
	$text =~ s/[ \t]+/ /g;
	$text =~ s/ *$//mg;
	$text =~ s/^ //mg;
	$text =~ s/\n+/\n/g;
	$text =~ s/\n\z//;
	return $text;
}

# A replaced address has another length than the README's, nothing else does.
sub run_sql
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');
	$sql =~ s/host 'redis\.local', port '6379'/host '$host', port '$port'/;
	IPC::Run::run([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ],
		'<', \$sql, '>', \$out, '2>', \$err);
	return ($? == 0, $out, $err);
}

my @blocks;
while ($readme =~ /^```(\w+)\n(.*?)^```$/msg)
{
	push @blocks, [ $1, $2 ];
}
for my $i (0 .. $#blocks)
{
	my ($kind, $body) = @{ $blocks[$i] };
	my ($first) = $body =~ /\A(.*)$/m;

	if ($kind eq 'sh')
	{
		foreach my $line (grep { /^redis-cli / } split /\n/, $body)
		{
			my (undef, @command) = shellwords($line);
			like($redis->cli(@command), qr/^\d+-\d+$/, "$command[0] $command[1]");
		}
	}
	elsif ($kind eq 'sql')
	{
		my ($ok, $out, $err) = run_sql($body);
		ok($ok, "runs: $first") or diag($err);
		unlike($err, qr/WARNING|ERROR/, "without a warning: $first");
		my $expected = $i < $#blocks && $blocks[ $i + 1 ][0] eq 'text' ? $blocks[ $i + 1 ][1] : undef;
		is(normalise($out), normalise($expected), "prints: $first") if defined $expected;
	}
}

# What the README names is there, and what is there is named.
my @functions = split /\n/, $node->safe_psql('postgres', q{
	SELECT DISTINCT p.proname
	FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_depend d ON d.objid = p.oid AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
	WHERE d.deptype = 'e' AND p.pronamespace = 'streamsink'::pg_catalog.regnamespace
		AND p.prorettype NOT IN ('trigger'::pg_catalog.regtype, 'internal'::pg_catalog.regtype)
		AND p.proname !~ '^(entry_id_|_)|^entry_id(_multi)?range|_validator$|^(min|max)$'
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend v	-- what views are made of
			WHERE v.refobjid = p.oid AND v.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
				AND v.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass)});
my @views = split /\n/, $node->safe_psql('postgres', q{
	SELECT relname FROM pg_catalog.pg_class
	WHERE relnamespace = 'streamsink'::pg_catalog.regnamespace AND relkind = 'v'});
my @settings = split /\n/, $node->safe_psql('postgres',
	q{SELECT name FROM pg_catalog.pg_settings WHERE name LIKE 'streamsink.%' AND name NOT LIKE 'streamsink.fault%'});
my @arguments = split /\n/, $node->safe_psql('postgres',
	q{SELECT DISTINCT pg_catalog.unnest(proargnames) FROM pg_catalog.pg_proc WHERE oid::pg_catalog.regproc::text = 'streamsink.create_pipeline'});
cmp_ok(scalar(@functions), '>', 10, 'functions were found');
cmp_ok(scalar(@views), '>', 0, 'views were found');
is(join(' ', grep { $readme !~ /`(?:CALL )?[^`]*\b\Q$_\E\b/ } sort @functions), '', 'every function is named');
is(join(' ', grep { $readme !~ /^\|[^|\n]*`\Q$_\E`/m } sort @views), '', 'every view is named');
is(join(' ', grep { $readme !~ /^\| `\Q$_\E` \|/m } sort @settings), '', 'every setting is named');
is(join(' ', grep { $readme !~ /`\Q$_\E[` ]/ } sort @arguments), '', 'every argument is named');
my %there = map { ($_ => 1) } @views, split /\n/, $node->safe_psql('postgres',
	q{SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE pronamespace = 'streamsink'::pg_catalog.regnamespace});
my ($reference) = $readme =~ /^## Reference\n(.*?)^## Who may/ms;
my ($table) = $reference =~ /^### Views\n(.*?)^### /ms;
is(join(' ', grep { !$there{$_} } map { /`(\w+)`/g } map { (split /\|/)[1] } grep { /^\| `/ } split /\n/, $table), '', 'every view of the README exists');
($table) = $reference =~ /^### Functions\n(.*?)^### /ms;
is(join(' ', grep { !$there{$_} } map { /`(?:CALL )?(\w+)\(/g } map { (split /\|/)[1] } grep { /^\| `/ } split /\n/, $table), '', 'every function of the README exists');

$node->stop;
$redis->stop;
done_testing();
