# prometheus-postgres-exporter with the example's file: what is scraped is what
# SQL says.  The real exporter, on loopback, as a role that is in pg_monitor only.
use strict;
use warnings;
use FindBin;
use File::Basename;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use HTTP::Tiny;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use POSIX ();

my $tree = $ENV{STREAMSINK_TREE} // dirname(__FILE__) . '/../..';
my $example = "$tree/examples/monitoring";

# The rules, where Prometheus' own checker is there.
SKIP:
{
	skip 'promtool is not installed', 1 unless grep { -x "$_/promtool" } split /:/, $ENV{PATH};
	command_ok([ 'promtool', 'check', 'rules', "$example/alerts.yaml" ], 'the alerting rules are right');
}

my ($exporter) = grep { -x } map { "$_/prometheus-postgres-exporter" } split /:/, $ENV{PATH};
if (!$exporter)
{
	plan skip_all => 'prometheus-postgres-exporter is not installed' unless Test::More->builder->current_test;
	done_testing;
	exit;
}

my $redis = new_redis('scraped');
my $node  = new_node('scraped', 'streamsink.discovery_interval' => '100ms', 'streamsink.sample_interval' => '100ms');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join "\n", @_); }

sql(slurp_file("$example/role.sql"));
sql(q{
	CREATE TABLE t (v int);
	CREATE ROLE keeper LOGIN;
	GRANT ALL ON FOREIGN SERVER iot TO keeper;
	CREATE USER MAPPING FOR keeper SERVER iot;
	ALTER USER MAPPING FOR keeper SERVER iot OPTIONS (ADD password_required 'false');
	SELECT streamsink.grant_access('keeper');
	CREATE SCHEMA own AUTHORIZATION keeper;
	SET ROLE keeper;
	CREATE TABLE own.t (v int);
	SELECT streamsink.create_pipeline('of somebody else', server => 'iot', stream => 'o', target => 'own.t');
	RESET ROLE;
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 's', target => 't');
	SELECT streamsink.create_pipeline('q"\u00e4', server => 'iot', stream => 'r', target => 't', dead_letter_stream => 'd');
	SELECT streamsink.start('p'), streamsink.start('q"\u00e4'), streamsink.start('of somebody else')} =~ s/\\u00e4/\xc3\xa4/gr);
produce($redis, 's', map { [ v => $_ ] } 1 .. 300);
produce($redis, 's', map { [ v => 'x' ] } 1 .. 7);
produce($redis, 'o', map { [ v => $_ ] } 1 .. 20);
wait_settled($node, $_) for 'p', 'of somebody else';
# something waits in the outbox
sql(q{CREATE SERVER away FOREIGN DATA WRAPPER streamsink OPTIONS (host '127.0.0.1', port '1');
	SELECT streamsink.create_pipeline('away', server => 'away', stream => 'z', target => 't', connect => false);
	SELECT count(*) FROM streamsink.apply('away', '[{"v": "x"}]');
	SELECT streamsink.requeue_dead_letters('away')});
# nothing changes from here on but times
poll_until(sub { sql("SELECT lag = 0 AND pending = 0 FROM streamsink.status WHERE pipeline = 'p'") eq 't' }, 'a sample of the end');
sql("SELECT streamsink.stop('p')");
wait_for_state($node, 'p', 'stopped');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $log = $node->basedir . '/exporter.log';
my $pid = fork // die "fork: $!";
if ($pid == 0)
{
	$ENV{DATA_SOURCE_NAME} = 'host=' . $node->host . ' port=' . $node->port . ' user=exporter dbname=postgres sslmode=disable';
	open STDIN, '<', '/dev/null';
	open STDOUT, '>', $log;
	open STDERR, '>&', \*STDOUT;
	exec($exporter, "--web.listen-address=127.0.0.1:$port", '--disable-default-metrics', '--disable-settings-metrics',
		"--extend.query-path=$example/postgres_exporter.yaml") or POSIX::_exit(127);
}
END
{
	my $status = $?;
	if ($pid)
	{
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	$? = $status;
}

# name{labels} value, labels sorted and without the one that the exporter adds
sub scrape
{
	my $answer = HTTP::Tiny->new(timeout => 20)->get("http://127.0.0.1:$port/metrics");
	return unless $answer->{success};
	my (%series, %type);
	foreach my $line (split /\n/, $answer->{content})
	{
		$type{$1} = $2 if $line =~ /^# TYPE (streamsink_\w+) (\w+)/;
		next unless $line =~ /^(streamsink_\w+)\{(.*)\} (\S+)$/;
		my ($name, $labels, $value) = ($1, $2, $3);
		my %labels = $labels =~ /(\w+)="((?:\\.|[^"\\])*)"/g;
		delete $labels{server};
		s/\\(.)/$1/g foreach values %labels;
		$series{ join ' ', $name, map { "$_=$labels{$_}" } sort keys %labels } = $value;
	}
	return (\%series, \%type);
}
my ($series, $type);
poll_until(sub { ($series, $type) = scrape(); $series && %$series }, 'the exporter to have something', 60) or diag(slurp_file($log));

my %expected = map { my @f = split /\t/; ($f[0] => $f[1]) } split /\n/,
	sql(q{SELECT concat_ws(' ', metric, (SELECT string_agg(key || '=' || value, ' ' ORDER BY key COLLATE "C") FROM jsonb_each_text(labels))) || E'\t' || value FROM streamsink.metrics});
my %kind = split /[|\n]/, sql('SELECT DISTINCT metric, type FROM streamsink.metrics');

cmp_ok(scalar keys %expected, '>', 100, 'there is something to be compared');
is(join(', ', grep { !defined $series->{$_} } sort keys %expected), '', 'every metric is scraped');
is(join(', ', grep { !defined $expected{$_} && $series->{$_} ne 'NaN' } sort keys %$series), '', 'and nothing else');
# of running pipelines times go on between the two looks
is(join(', ', map { "$_: $series->{$_}, not $expected{$_}" } grep { !/seconds/ && defined $series->{$_} && $series->{$_} != $expected{$_} } sort keys %expected), '', 'with its value');
is(join(', ', map { "$_: $series->{$_}, not $expected{$_}" } grep { /seconds/ && !/outbox|sampled/ && defined $series->{$_} && abs($series->{$_} - $expected{$_}) > 0.001 } sort keys %expected), '', '... times too');
is(join(', ', grep { ($type->{$_} // '') ne $kind{$_} } sort keys %kind), '', 'and its type');
is($series->{'streamsink_entries_read_total pipeline=p'}, 307, 'entries read');
is($series->{'streamsink_entries_refused_total pipeline=p'}, 7, 'entries refused');
is($series->{'streamsink_entries_written_total pipeline=of somebody else'}, 20, 'those of other owners');
is($series->{'streamsink_pipeline_in_state pipeline=p state=stopped'}, 1, 'the state');
is($series->{'streamsink_up pipeline=p'}, 0, 'what is stopped is not up');
is($series->{'streamsink_outbox_rows pipeline=away redis=away'}, 1, 'the outbox');
unlike(slurp_file($log), qr/level=(?:error|warn).*(?:streamsink|permission)/i, 'the exporter has nothing to complain about') or diag(slurp_file($log));

# What the alerts name is there.
my %named = map { ($_ => 1) } slurp_file("$example/alerts.yaml") =~ /\b(streamsink_\w+)/g;
my %there = map { (/^(\w+)/)[0] => 1 } keys %$series;
cmp_ok(scalar keys %named, '>', 5, 'the alerts name metrics');
is(join(', ', grep { !$there{$_} } sort keys %named), '', '... that are scraped');

$node->stop;
done_testing;
