# The courier is killed (the whole server with it), or fails, between every two
# of its steps: entries arrive once and in order, messages at least once.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('steps');
my $node  = new_node('steps', 'streamsink.backoff_max' => '1s');
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
sub hits { my ($point, $action) = @_; my $n = () = slurp_file($node->logfile) =~ /fault point "$point": \Q$action\E/g; return $n; }

my $kills = 0;
sub struck
{
	my ($point, $action, $before) = @_;
	poll_until(sub { hits($point, $action) > $before }, "the fault point $point");
	return if $action !~ /^kill/;
	$kills++;
	poll_until(sub { my $n = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g; $n >= $kills }, 'the postmaster to notice');
	poll_until(sub { try_sql($node, 'SELECT 1') }, 'the server');
	return;
}

sub wait_sent
{
	my ($what) = @_;
	return poll_until(sub { (try_sql($node, 'SELECT count(*) FROM streamsink.outbox') // '') eq '0' }, "$what: an empty outbox");
}

# The values of a field of a stream's entries, in order.
sub values_of
{
	my ($stream, $field) = @_;
	my @lines = split /\n/, $redis->cli('XRANGE', $stream, '-', '+');
	return join ' ', map { $lines[ $_ + 1 ] } grep { $lines[$_] eq $field } 0 .. $#lines - 1;
}

my $ear = new_subscriber($redis, 'c');
my $sent = 0;
my $repeated = 0;
sub send_some
{
	my $from = $sent + 1;
	$sent += 30;
	# the courier may strike before psql has heard of its commit
	eval { $node->psql('postgres', "SELECT streamsink.emit('s' || i % 2, jsonb_build_object('v', i), 'iot'), streamsink.publish('c', i::text, 'iot') FROM generate_series($from, $sent) i") };
	return;
}
sub check
{
	my ($what) = @_;
	wait_sent($what);
	foreach my $stream (0, 1)
	{
		is(values_of("s$stream", 'v'), join(' ', grep { $_ % 2 == $stream } 1 .. $sent), "$what: stream $stream has each entry once, in order");
	}
	poll_until(sub { my %seen; $seen{ $_->[1] } = 1 for $ear->messages; keys %seen == $sent }, "$what: messages");
	my (%seen, @first);
	push @first, $_ for grep { !$seen{$_}++ } map { $_->[1] } $ear->messages;
	is(join(' ', @first), join(' ', 1 .. $sent), "$what: a subscriber heard each message, in order");
	my $again = $ear->messages - $sent;
	note "$what: " . ($again - $repeated) . ' messages came again';
	$repeated = $again;
	return;
}

send_some();
check('no fault');
foreach my $point (qw(before-choose after-choose before-carry in-carry sent-carry after-carry after-outbox))
{
	foreach my $action ('kill-once', 'error-once', 'fatal-once')
	{
		my $before = hits($point, $action);
		set_fault("$point:$action");
		send_some();
		struck($point, $action, $before);
		send_some();
		check("$point:$action");
		set_fault('');
	}
}

# The same where entries have large ids already, so that theirs are refused at first, and where others write to the stream.
$redis->cli('XADD', "s$_", '*', 'other', 0) for 0, 1;
foreach my $point (qw(after-choose sent-carry after-carry))
{
	my $before = hits($point, 'kill-once2');
	my $ahead = time + 100;
	$redis->cli('XADD', "s$_", "${ahead}000-0", 'other', 1) for 0, 1;
	set_fault("$point:kill-once2");
	send_some();
	struck($point, 'kill-once2', $before);
	# what was chosen and not sent is too small now
	$ahead += 100;
	$redis->cli('XADD', "s$_", "${ahead}000-0", 'other', 2) for 0, 1;
	check("$point with large ids");
	set_fault('');
	foreach my $stream (0, 1)
	{
		$redis->cli('DEL', "s$stream");
		# ids of our own time again
		$redis->cli_stdin(join '', map { resp('XADD', "s$stream", '*', 'v', $_) } grep { $_ % 2 == $stream } 1 .. $sent);
	}
}

# Commands that lie in a dead connection while somebody else takes over.
foreach my $round (1 .. 3)
{
	send_some();
	$redis->freeze;
	send_some();
	poll_until(sub { sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink courier' AND state = 'active'") == 1 }, 'the courier to send');
	my $courier = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'streamsink courier'");
	kill 'KILL', $courier if $courier;
	$kills++;
	poll_until(sub { try_sql($node, 'SELECT 1') }, 'the server to come back');
	$redis->thaw;
	check("frozen, round $round");
}
$node->stop;
done_testing;
