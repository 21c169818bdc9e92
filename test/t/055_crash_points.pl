# Exactly once, step by step: the worker is killed (the whole server with it),
# fails, or loses Redis between every two steps of the protocol.  Needs a test
# build, in which the setting streamsink.fault acts.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my @points = qw(after-read before-write after-write after-dead-letters before-commit after-commit before-ack after-ack);
my $redis  = new_redis('points');
my $node   = new_node('points', 'streamsink.discovery_interval' => '100ms', 'streamsink.fold_rows' => 3);
create_server($node, $redis);
plan skip_all => 'not a test build' if ($node->psql('postgres', 'SHOW streamsink.fault'))[0] != 0;

# A template with its own consumer, and one stream that two workers share.
$node->safe_psql('postgres', q{
	CREATE TABLE a (stream text, n int);
	CREATE TABLE b (n int);
	SELECT streamsink.create_pipeline('a', server => 'iot', stream => 'a:{stream}', target => 'a', batch_size => 50, retry_backoff => '50 ms');
	SELECT streamsink.create_pipeline('b', server => 'iot', stream => 'b', target => 'b', batch_size => 50, workers => 2, retry_backoff => '50 ms');
	SELECT streamsink.start('a'), streamsink.start('b')});

my ($sent, $bad) = (0, 0);
sub send_some
{
	# first a bad one, so that the batch that meets the fault has a dead letter
	produce($redis, $_, [ n => 'bad' ]) for 'a:1', 'b';
	produce($redis, "a:$_", map { [ n => $sent + $_ ] } 1 .. 100) for 1 .. 3;
	produce($redis, 'b', map { [ n => $sent + $_ ] } 1 .. 300);
	$sent += 300;
	$bad++;
	return;
}

my $faults = 0;
sub set_fault
{
	my ($fault) = @_;
	# "once" is once for each number
	$fault .= ++$faults if $fault =~ /-once$/;
	change_setting($node, 'streamsink.fault', $fault);
	return;
}

sub check
{
	my ($what) = @_;
	poll_until(sub { ($node->psql('postgres', 'SELECT 1'))[0] == 0 }, 'the server');
	wait_settled($node, $_) for 'a', 'b';
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT (stream, n)) FROM a'), "$sent|$sent", "$what: a template's entries, each once");
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT n) FROM b'), "$sent|$sent", "$what: a shared stream's entries, each once");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM streamsink.dead_letters'), 2 * $bad, "$what: dead letters, each once");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM streamsink.status WHERE read <> written + refused + ignored + repeated + superseded + vanished'), 0, "$what: counters add up");
	return;
}

send_some();
check('no fault');

sub crashes { my $n = () = slurp_file($node->logfile) =~ /terminated by signal 9/g; return $n; }
sub errors { my $n = () = slurp_file($node->logfile) =~ /fault point/g; return $n; }

foreach my $point (@points)
{
	my $before = crashes();
	set_fault("$point:kill-once");
	send_some();
	poll_until(sub { crashes() > $before }, "a crash at $point");
	check("killed at $point");

	$before = errors();
	set_fault("$point:error-once");
	send_some();
	poll_until(sub { errors() > $before }, "an error at $point");
	check("error at $point");
	set_fault('');
}

# With synchronous_commit off a crash takes commits with it: their
# acknowledgements must have waited for the flush.
$node->safe_psql('postgres', q{SELECT streamsink.alter_pipeline('a', settings => '{"synchronous_commit": "off"}')});
foreach my $point ('after-commit', 'after-ack')
{
	my $before = crashes();
	set_fault("$point:kill-once");
	send_some();
	poll_until(sub { crashes() > $before }, "a crash at $point");
	check("synchronous_commit off, killed at $point");
	set_fault('');
}

# An immediate shutdown in the middle of things, and both servers come back.
send_some();
$node->stop('immediate');
$node->start;
check('immediate shutdown');
# What was not settled was pending all the time: nothing had to be found by comparing.
unlike(slurp_file($node->logfile), qr/are read again|was lost and is made again/, 'nothing was acknowledged before its commit was on disk');
$node->stop;
done_testing;
