# What people watch pipelines with: the monitor for psql's \watch, and the
# server's own log as JSON.
use strict;
use warnings;
use FindBin;
use File::Basename;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use IPC::Run ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $tree = $ENV{STREAMSINK_TREE} // dirname(__FILE__) . '/../..';
my $redis = new_redis('watched');
my $node  = new_node('watched', 'streamsink.discovery_interval' => '100ms', 'streamsink.sample_interval' => '100ms',
	logging_collector => 'on', log_destination => 'stderr,jsonlog');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join "\n", @_); }

sql(q{
	CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
	CREATE TABLE parts (v int NOT NULL) PARTITION BY RANGE (v);
	CREATE TABLE "Part 1" PARTITION OF parts FOR VALUES FROM (0) TO (1000000);
	SELECT streamsink.create_pipeline('watched', server => 'iot', stream => 'w:*', target => 'parts', dead_letter_stream => 'dead');
	CREATE SCHEMA secret;
	CREATE TABLE secret.t (v int);
	SELECT streamsink.create_pipeline('still', server => 'iot', stream => 's', target => 'secret.t');
	SELECT streamsink.start('watched')});
produce($redis, 'w:1', map { [ v => $_ ] } 1 .. 500);
produce($redis, 'w:2', (map { [ v => $_ ] } 1 .. 500), [ v => 'x' ], [ v => 'y' ]);
poll_until(sub { sql("SELECT streams = 2 FROM streamsink.status WHERE pipeline = 'watched'") eq 't' }, 'both streams');
wait_settled($node, 'watched');
poll_until(sub { sql("SELECT dead_letter_stream_length = 2 AND stream_length = 1002 AND lag = 0 AND pending = 0 FROM streamsink.status WHERE pipeline = 'watched'") eq 't' }, 'a sample with all of it');

# every column of status that a running pipeline has is filled
is(sql(q{SELECT string_agg(key, ' ' ORDER BY key) FROM streamsink.status s, jsonb_each(to_jsonb(s)) WHERE pipeline = 'watched' AND value = 'null'}),
	'hint last_error last_error_at last_sqlstate next_retry_at oldest_pending reason', 'status has all it can have');
is(sql(q{SELECT string_agg(DISTINCT key, ' ' ORDER BY key) FROM streamsink.streams s, jsonb_each(to_jsonb(s)) WHERE pipeline = 'watched' AND value = 'null'}), 'oldest_pending reason', 'and so has streams');
is(sql(q{SELECT string_agg(DISTINCT key, ' ' ORDER BY key) FROM streamsink.workers s, jsonb_each(to_jsonb(s)) WHERE pipeline = 'watched' AND value = 'null'}), 'batch_started_at last_error', 'and workers');

# ---- the monitor ----
my $monitor = "$tree/examples/monitoring/monitor.sql";
my @unaligned = ('psql', '-X', '-A', '-F', '|', '-v', 'ON_ERROR_STOP=1', '-P', 'footer=off');
sub look
{
	my ($role) = @_;
	my ($out, $err) = ('', '');
	local $ENV{PGOPTIONS} = $role ? "-c role=$role" : '';
	IPC::Run::run([ @unaligned, '-d', $node->connstr('postgres'), '-f', $monitor ], '<', \'', '>', \$out, '2>', \$err);
	is($err, '', 'the monitor runs as ' . ($role // 'postgres'));
	my ($head, @rows) = map { [ split /\|/, $_, -1 ] } split /\n/, $out;
	my %rows;
	foreach my $row (@rows)
	{
		my %row;
		@row{@$head} = @$row;
		$rows{ $row{pipeline} } = \%row;
	}
	return \%rows;
}
my $rows = look();
my %seen = %{ $rows->{watched} };
is(join('|', @seen{ 'state', 'workers', 'in Redis', 'lag', 'pending', 'total', 'refused', 'dead letters', 'in dead_letter_stream' }),
	'running|1/1|1002|0|0|1000|2|2|2', 'the monitor shows what there is');
like($seen{table}, qr/^[1-9]\d* (?:bytes|kB|MB)$/, '... the size of a partitioned table too');
cmp_ok($seen{'last minute'}, '>', 0, '... and what came in the last minute');
is($rows->{still}{state}, 'stopped', '... and what stands still');
is(join('|', @{ look('monitor')->{watched} }{qw(state total)}), 'running|1000', 'pg_monitor sees the same, without rights on schemas and tables');

# Refreshed by \watch.
{
	my ($in, $out, $err) = (slurp_file($monitor) . "\\x \\watch 0.1\n", '', '');
	my $h = IPC::Run::start([ @unaligned, '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err, my $timer = IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
	$h->pump until $timer->is_expired || 2 < (() = $out =~ /^pipeline\|watched\nstate\|running/mg);
	cmp_ok(scalar(() = $out =~ /^pipeline\|watched\nstate\|running/mg), '>', 2, '\watch refreshes it');
	$h->kill_kill;
}

# ---- the log as JSON ----
my $file = $node->data_dir . '/' . (map { (split / /)[1] } grep { /^jsonlog / } split /\n/, slurp_file($node->data_dir . '/current_logfiles'))[0];
my $offset = -s $file;
sql('ALTER TABLE parts RENAME TO elsewhere');
produce($redis, 'w:1', [ v => 1 ]);
my $line = poll_until(sub {
	(grep { ($_->{message} // '') =~ /pipeline "watched" waits after an error/ } map { eval { decode_json($_) } // {} } split /\n/, slurp_file($file, $offset))[0];
}, 'the error in the log');
note encode_json($line);
is_deeply([ @$line{qw(error_severity state_code application_name backend_type)} ],
	[ 'LOG', '42P01', 'streamsink worker: watched 0', 'streamsink worker' ], 'severity, SQLSTATE, which worker');
like($line->{message}, qr/"public\.parts" does not exist|parts/, 'what happened');
like($line->{context}, qr/streamsink pipeline "watched", worker 0/, 'where');
ok($line->{timestamp} && $line->{pid}, 'when, and which process');
sql('ALTER TABLE elsewhere RENAME TO parts');
wait_settled($node, 'watched');
$node->stop;
done_testing;
