# The points between steps that need something brought about first: connecting,
# groups, folds, joins, claims, leaving, the courier.  At each a worker is killed
# (the whole server with it), fails, or ends.  And the forms a fault can have.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('steps');
my $node  = new_node('steps', 'streamsink.discovery_interval' => '100ms', 'streamsink.fold_rows' => 3,
	'streamsink.ledger_join_age' => 0, 'streamsink.backoff_max' => '1s');
create_server($node, $redis);
plan skip_all => 'not a test build' if ($node->psql('postgres', 'SHOW streamsink.fault'))[0] != 0;

sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sql(q{CREATE TABLE a (stream text, n int);
	CREATE TABLE b (n int);
	SELECT streamsink.create_pipeline('a', server => 'iot', stream => 'a:{stream}', target => 'a', batch_size => 50, retry_backoff => '20 ms');
	SELECT streamsink.create_pipeline('b', server => 'iot', stream => 'b', target => 'b', batch_size => 50, workers => 2, retry_backoff => '20 ms');
	SELECT streamsink.start('a'), streamsink.start('b')});

my ($sent, $extra, $bad) = (0, 0, 0);
sub send_some
{
	produce($redis, 'a:1', map { [ n => $sent + $_ ] } 1 .. 120);
	produce($redis, 'b', map { [ n => $sent + $_ ] } 1 .. 120);
	produce($redis, $_, [ n => 'bad' ]) for 'a:1', 'b';
	$sent += 120;
	$bad++;
	return;
}

sub set_fault { my ($fault) = @_; change_setting($node, 'streamsink.fault', $fault); return; }

# How often a point acted, as the log has it.
sub hits { my ($point, $action) = @_; my $n = () = slurp_file($node->logfile) =~ /fault point "$point": \Q$action\E/g; return $n; }

# Wait for that, and until the server has noticed if it was killed.
my $kills = 0;
sub struck
{
	my ($point, $action, $before) = @_;
	poll_until(sub { hits($point, $action) > $before }, "the fault point $point");
	return 1 if $action !~ /^kill/;
	$kills++;
	return poll_until(sub { my $n = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g; $n >= $kills }, 'the postmaster to notice');
}

sub check
{
	my ($what) = @_;
	poll_until(sub { ($node->psql('postgres', 'SELECT 1'))[0] == 0 }, 'the server');
	wait_settled($node, $_) for 'a', 'b';
	my $bad_extra = "SELECT count(*), count(DISTINCT (stream, n)) FROM a WHERE stream <> '1'";
	is(sql("SELECT count(*), count(DISTINCT n) FROM a WHERE stream = '1'", 'UNION ALL SELECT count(*), count(DISTINCT n) FROM b', "UNION ALL $bad_extra",
			'UNION ALL SELECT count(*), count(DISTINCT (stream, entry_id)) FROM streamsink.dead_letters'),
		join("\n", "$sent|$sent", "$sent|$sent", "$extra|$extra", join('|', (2 * $bad) x 2)), "$what: every entry once");
	return;
}

# The fault may strike while this is under way, and take the session with it.
sub restart { my ($name) = @_; eval { sql("SELECT streamsink.restart('$name')") }; return; }

my $dead_worker = sql(q{SELECT 'streamsink:' || identity FROM streamsink.pipeline WHERE name = 'b'}) . ':7';
my %prepare = (
	'after-connect' => sub { restart('a') },
	'before-leave'  => sub { restart('a') },
	# a stream that was not there before
	(map { ($_ => sub { $extra++; produce($redis, "a:new$extra", [ n => $extra ]) }) } qw(before-group in-group after-group)),
	# what a worker that is no more had pending, and a connect, after which it is looked for
	(map { ($_ => sub {
		$redis->cli_stdin(resp('MULTI') . resp('XADD', 'b', '*', 'n', $sent + 1) . resp('XADD', 'b', '*', 'n', $sent + 2)
			  . resp('XREADGROUP', 'GROUP', 'b', $dead_worker, 'STREAMS', 'b', '>') . resp('EXEC'));
		produce($redis, 'a:1', [ n => $sent + 1 ], [ n => $sent + 2 ]);
		$sent += 2;
		restart('b');
	}) } qw(before-claim after-claim)));

send_some();
check('no fault');

foreach my $point (qw(after-connect before-read after-publish after-fence after-ledger-check in-dead-letter after-ledger between-acks
	before-fold in-fold after-fold before-join in-join before-leave before-group in-group after-group before-claim after-claim))
{
	foreach my $action ('kill-once', $point =~ /^(?:after-connect|before-read|in-fold|after-claim)$/ ? 'fatal-once' : 'error-once')
	{
		my $before = hits($point, $action);
		set_fault("$point:$action");
		$prepare{$point}->() if $prepare{$point};
		# of what is produced while the server restarts nothing is lost either
		send_some();
		ok(eval { struck($point, $action, $before) }, "$point:$action struck");
		check("$point:$action");
		set_fault('');
	}
}

# Several at once, by count and by chance.
{
	my %before = map { ($_ => hits(@{$_})) } (my @points = ([ 'before-commit', 'error%4' ], [ 'after-read', 'sleep5/2' ], [ 'before-ack', 'fatal%9' ]));
	sql('ALTER SYSTEM SET streamsink.fault_seed = 42');
	set_fault(join ', ', map { "$_->[0]:$_->[1]" } @points);
	send_some() for 1 .. 12;
	poll_until(sub { !grep { hits(@$_) < $before{$_} + 2 } @points }, 'all of them to act twice');
	check('several faults at once');
	my $reached = -s $node->data_dir . '/streamsink_fault.before-commit.error%4';
	is(hits('before-commit', 'error%4') - $before{ $points[0] }, int($reached / 4), 'every fourth time is every fourth time');
	set_fault('');
}

# The same seed has the same times: which of the first 40 it was, as the log has it.
sub strikes
{
	my ($seed, $action) = @_;
	my $mark = -s $node->logfile;
	sql("ALTER SYSTEM SET streamsink.fault_seed = $seed");
	set_fault("before-fold:$action");
	my $file = $node->data_dir . '/streamsink_fault.before-fold.' . $action =~ tr{/}{_}r;
	# some more: those that were counted last may not be in the log yet
	poll_until(sub { send_some(); check("seed $seed"); (-s $file // 0) >= 45 }, '40 folds');
	set_fault('');
	return join ' ', grep { $_ <= 40 } slurp_file($node->logfile, $mark) =~ /fault point "before-fold".*\n.*It was reached (\d+) times/g;
}
my $first = strikes(1, 'sleep1/3');
note "one in three: $first";
cmp_ok(scalar(split / /, $first), '>', 5, 'a chance of one in three is taken');
is(strikes(1, 'sleep01/3'), $first, '... at the same times with the same seed');
isnt(strikes(2, 'sleep001/3'), $first, '... and at others with another');

# The courier: what it carried and could not delete it finds in the stream.  Here a dead letter goes back as an entry.
sql(q{SELECT streamsink.stop('a'), streamsink.stop('b')});
my $before = $redis->cli('XLEN', 'b');
foreach my $fault ('before-carry:kill-once', 'before-carry:error-once', 'after-carry:kill-once', 'after-carry:error-once')
{
	my ($point, $action) = split /:/, $fault;
	my $seen = hits($point, $action);
	set_fault($fault);
	is(sql(q{SELECT streamsink.requeue_dead_letters('b', (SELECT array_agg(id) FROM (SELECT id FROM streamsink.dead_letters WHERE pipeline = 'b' ORDER BY id LIMIT 1) d))}), 1, "$fault: requeued");
	ok(eval { struck($point, $action, $seen) }, "$fault struck");
	ok(eval { poll_until(sub { my ($rc, $out) = $node->psql('postgres', 'SELECT count(*) FROM streamsink.outbox'); $rc == 0 && $out eq '0' }, 'an empty outbox') },
		"$fault: carried out") or diag(sql('TABLE streamsink.outbox'));
	my $now = $redis->cli('XLEN', 'b');
	is($now - $before, 1, "$fault: sent once");
	$before = $now;
	set_fault('');
}
$node->stop;
done_testing;
