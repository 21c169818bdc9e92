# Redis forgets what was acknowledged: a replica is promoted that heard of no
# acknowledgement, an old snapshot comes back, a server with its log is killed.
# No entry is lost by Redis here: each arrives once, however often it is given out.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('failover', 'streamsink.block_time' => '200ms', 'streamsink.discovery_interval' => '100ms',
	'streamsink.setup_retry' => '200ms', 'streamsink.backoff_max' => '1s');
sub sql { return $node->safe_psql('postgres', join "\n", @_); }

# A pipeline on a server of that name, with what it was sent.
my %sent;
sub make
{
	my ($name, $at) = @_;
	sql("CREATE SERVER $name FOREIGN DATA WRAPPER streamsink OPTIONS (host '127.0.0.1', port '" . $at->port . "', connect_timeout '1s', command_timeout '1s');",
		"CREATE TABLE $name (n int);",
		"SELECT streamsink.create_pipeline('$name', server => '$name', stream => '$name', target => '$name', batch_size => 50, retry_backoff => '20 ms', retry_backoff_max => '100 ms');",
		"SELECT streamsink.start('$name')");
	$sent{$name} = 0;
	return;
}

sub send_some
{
	my ($name, $redis, $n) = @_;
	produce($redis, $name, map { [ n => $sent{$name} + $_ ] } 1 .. $n);
	$sent{$name} += $n;
	return;
}

sub leave { my ($name) = @_; sql("SELECT streamsink.stop('$name')"); $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM streamsink.workers WHERE pipeline = '$name'"); return; }
sub repeated { return sql("SELECT repeated FROM streamsink.status WHERE pipeline = '$_[0]'"); }

sub check
{
	my ($name, $what, $repeated) = @_;
	wait_for_state($node, $name, 'running');
	wait_settled($node, $name);
	is(sql("SELECT count(*), count(DISTINCT n) FROM $name"), "$sent{$name}|$sent{$name}", "$what: every entry once");
	cmp_ok(repeated($name), '>=', $repeated, '... and was given out again') if $repeated;
	return;
}

# Fail-over.  The replica has the entries and not what became of them.
{
	my $master  = new_redis('master');
	my $replica = new_redis('replica');
	my $proxy   = new_proxy($master);

	make('failover', $proxy);
	send_some('failover', $master, 300);
	wait_settled($node, 'failover');
	leave('failover');
	send_some('failover', $master, 300);
	$replica->follow($master);
	$replica->cut_replication;
	sql(q{SELECT streamsink.start('failover')});
	check('failover', 'before the fail-over', 0);

	$master->kill9;
	$replica->promote;
	$proxy->lead_to($replica);
	send_some('failover', $replica, 300);
	check('failover', 'after the fail-over', 300);
	sql(q{SELECT streamsink.drop_pipeline('failover')});
}

# A snapshot from before the entries were delivered.
{
	my $redis = new_redis('old');
	make('snapshot', $redis);
	send_some('snapshot', $redis, 200);
	wait_settled($node, 'snapshot');
	leave('snapshot');
	send_some('snapshot', $redis, 200);
	my $copy = $redis->snapshot;
	sql(q{SELECT streamsink.start('snapshot')});
	check('snapshot', 'before the snapshot is restored', 0);
	$redis->restore($copy);
	send_some('snapshot', $redis, 200);
	check('snapshot', 'an old snapshot', 200);
	sql(q{SELECT streamsink.drop_pipeline('snapshot')});
}

# Two snapshots, each from the middle of what is one interval of the ledger: what is
# left of the first one is known, although its end was cut off.
{
	my $redis = new_redis('twice');
	make('twice', $redis);
	wait_for_state($node, 'twice', 'running');
	my $lost = 0;
	for my $round (1 .. 2)
	{
		leave('twice');
		send_some('twice', $redis, 20);
		my $copy = $redis->snapshot;
		send_some('twice', $redis, 20);
		sql(q{SELECT streamsink.start('twice')});
		check('twice', "snapshot $round of two", 0);
		$redis->restore($copy);
		$lost += 20;
		poll_until(sub { slurp_file($node->logfile) =~ /(?:Redis lost the end of stream "twice".*){$round}/s }, 'the loss to be noticed');
		wait_settled($node, 'twice');
	}
	send_some('twice', $redis, 20);
	check('twice', 'two snapshots', 0);
	is($redis->cli('XLEN', 'twice'), $sent{twice} - $lost, '... from which something was lost');
	is(sql('SELECT count(*) FROM streamsink.dead_letters'), 0, '... and nothing is in doubt');
	sql(q{SELECT streamsink.drop_pipeline('twice')});
}

# kill -9 again and again with the log written each second: the system has what was written.
# Old entries that were settled are trimmed meanwhile.
{
	my $redis = new_redis('log', appendonly => 'yes', appendfsync => 'everysec');
	make('log', $redis);
	for my $round (1 .. 5)
	{
		send_some('log', $redis, 200);
		# on a busy disk Redis puts off the write
		poll_until(sub { $redis->cli('INFO', 'persistence') =~ /aof_buffer_length:0\b/ }, 'the log to be written');
		$redis->kill9;
		$redis->start;
		send_some('log', $redis, 100);
		check('log', "killed $round times", 0);
		$redis->cli('XTRIM', 'log', 'MAXLEN', 10);
	}
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash');
$node->stop;
done_testing;
