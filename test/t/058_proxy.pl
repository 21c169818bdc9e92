# A network that fails in every way there is a name for, each while the worker
# waits for entries, in the middle of a reply, and between commit and
# acknowledgement: every row once, and the worker runs again by itself.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('behind');
my $proxy = new_proxy($redis, 7);
my $node  = new_node('proxy', 'streamsink.block_time' => '300ms', 'streamsink.discovery_interval' => '100ms',
	'streamsink.backoff_max' => '1s', 'streamsink.fold_rows' => 4);
plan skip_all => 'not a test build' if ($node->psql('postgres', 'SHOW streamsink.fault'))[0] != 0;

sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sql("CREATE SERVER iot FOREIGN DATA WRAPPER streamsink OPTIONS (host '127.0.0.1', port '" . $proxy->port . "', connect_timeout '500ms', command_timeout '500ms')",
	q{; CREATE TABLE t (n int, pad text);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 's', target => 't', batch_size => 400, retry_backoff => '20 ms', retry_backoff_max => '100 ms');
	SELECT streamsink.start('p')});

my ($sent, $bad) = (0, 0);
my $pad = 'x' x 100;
sub send_some
{
	produce($redis, 's', map { [ n => $sent + $_, pad => $pad ] } 1 .. 200);
	produce($redis, 's', [ n => 'bad' ]);
	$sent += 200;
	$bad++;
	return;
}

sub set_fault { my ($fault) = @_; change_setting($node, 'streamsink.fault', $fault); return; }

sub logged { my ($pattern) = @_; my $n = () = slurp_file($node->logfile) =~ /$pattern/g; return $n; }
sub errors { return sql(q{SELECT errors FROM streamsink.status WHERE pipeline = 'p'}); }
sub idle { return $redis->cli('INFO', 'clients') =~ /^blocked_clients:[1-9]/m; }

# What strikes when: a fault's arguments, and whether it ends connections.
my %faults = (
	latency     => [ { ms    => 60, jitter => 40 }, 0 ],
	bandwidth   => [ { rate  => 40_000 }, 0 ],
	slicer      => [ { size  => 7 }, 0 ],
	timeout     => [ {}, 1 ],
	timeout_up  => [ { dir   => 'up', ms => 100 }, 1 ],
	freeze      => [ {}, 1 ],
	reset_peer  => [ {}, 1 ],
	limit_data  => [ { bytes => 1 }, 1 ],
	slow_close  => [ { ms    => 200 }, 1 ],
	down        => [ {}, 1 ]);

sub strike
{
	my ($name, %more) = @_;
	my ($kind) = $name =~ /^([a-z]+(?:_(?!up$)[a-z]+)?)/;
	my ($args, $ends) = @{ $faults{$name} };
	my $count = $proxy->count($kind);
	my $errors = errors();

	# not every fault knows a direction, or can begin in the middle
	delete $more{after} if $kind =~ /^(?:slow_close|down)$/;
	delete $more{dir} if $kind =~ /^(?:slow_close|down)$/;
	$proxy->set($kind, %more, %$args);
	return sub {
		$redis->cli('CLIENT', 'KILL', 'TYPE', 'normal') if $kind eq 'slow_close';
		poll_until(sub { $proxy->count($kind) > $count }, "$name to strike");
		# a connection that is lost is noticed
		poll_until(sub { errors() > $errors }, "$name to be noticed") if $ends;
		return 1;
	};
}

sub check
{
	my ($what) = @_;
	$proxy->clear;
	wait_for_state($node, 'p', 'running');
	wait_settled($node, 'p');
	is(sql('SELECT count(*), count(DISTINCT n), min(length(pad)) FROM t', 'UNION ALL SELECT count(*), count(DISTINCT entry_id), 0 FROM streamsink.dead_letters'),
		"$sent|$sent|100\n$bad|$bad|0", "$what: every entry once");
	return;
}

send_some();
check('no fault');
foreach my $name (sort keys %faults)
{
	# idle, blocked in a read; entries come while the network is broken
	poll_until(\&idle, 'the worker to block');
	my $struck = strike($name);
	send_some();
	ok(eval { $struck->() }, "$name while it waits") or diag($@);
	check("$name while it waits");

	# in the middle of a reply
	poll_until(\&idle, 'the worker to block');
	$struck = strike($name, after => 3000, dir => 'down');
	send_some();
	ok(eval { $struck->() }, "$name in the middle of a reply") or diag($@);
	check("$name in the middle of a reply");

	# between commit and acknowledgement
	poll_until(\&idle, 'the worker to block');
	my $waits = logged('fault point "before-ack"');
	set_fault('before-ack:wait');
	send_some();
	poll_until(sub { logged('fault point "before-ack"') > $waits }, 'a commit');
	$struck = strike($name, dir => 'up');
	set_fault('');
	ok(eval { $struck->() }, "$name between commit and acknowledgement") or diag($@);
	check("$name between commit and acknowledgement");
}
is($redis->cli('XPENDING', 's', 'p') =~ /^0\b/ ? 0 : 1, 0, 'nothing is pending');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash');
$node->stop;
done_testing;
