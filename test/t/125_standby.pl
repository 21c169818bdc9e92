# Standbys: an acknowledgement waits until the synchronous ones have the rows,
# whatever happens to the wait; nothing runs in recovery; a promoted standby
# goes on.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('standby');
my $node  = new_node('primary', _init => [ allows_streaming => 1 ], 'streamsink.discovery_interval' => '100ms', 'streamsink.block_time' => '200ms', 'streamsink.setup_retry' => '200ms',
	'streamsink.failover_delay' => '500ms');
create_server($node, $redis);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub pending { return (split /\n/, $redis->cli('XPENDING', 's', 'p'))[0]; }
my $sent = 0;
sub send_some { produce($redis, 's', map { [ n => $_ ] } $sent + 1 .. $sent + 10); $sent += 10; return; }
sql(q{CREATE TABLE t (n int);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 's', target => 't');
	SELECT streamsink.start('p')});
send_some();
wait_settled($node, 'p');

# ---- a standby that never comes ----

sub waits_for_standby { return $node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND wait_event = 'SyncRep'}); }
change_setting($node, 'synchronous_standby_names', 'nobody');
poll_until(sub { send_some(); sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND wait_event = 'SyncRep'}) > 0 }, 'a commit that waits');
# the first entry that is not acknowledged stays that, whatever is done to the wait
sub first_pending { return (split /\n/, $redis->cli('XPENDING', 's', 'p'))[1]; }
my $first = first_pending();
my $pid = sql(q{SELECT pid FROM streamsink.workers});
my $visible = sql('SELECT count(*) FROM t');
sql("SELECT pg_cancel_backend($pid)");
ok($node->poll_query_until('postgres', "SELECT count(*) > $visible FROM t"), 'a wait for a standby that is cancelled: the rows are visible');
send_some();
ok(waits_for_standby(), '... the next commit waits again');
is(first_pending(), $first, '... and nothing was acknowledged');
sql("SELECT pg_terminate_backend($pid)");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM streamsink.workers WHERE pid <> $pid"), 'a wait that is terminated: there is a new worker');
# what it finds settled waits for the standby, too; when that is cancelled, it goes on to what is new
poll_until(sub {
	sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND wait_event = 'SyncRep'});
	return sql(q{SELECT repeated > 0 FROM streamsink.status WHERE pipeline = 'p'}) eq 't';
}, 'it to find the entries settled');
send_some();
ok(waits_for_standby(), '... which finds the entries settled');
is(first_pending(), $first, '... and acknowledges nothing either');
change_setting($node, 'synchronous_standby_names', '');
wait_settled($node, 'p');
is(sql('SELECT count(*), count(DISTINCT n) FROM t'), "$sent|$sent", 'without the demand everything is acknowledged, and there once');
is(pending(), 0, '... nothing is pending');

# ---- a standby ----

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
change_setting($node, 'synchronous_standby_names', '*');
$node->poll_query_until('postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication}) or die 'no synchronous standby';
send_some();
wait_settled($node, 'p');
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'), $sent, 'what is settled is on the standby');

my %refused = (
	start          => q{SELECT streamsink.start('p')},
	stop           => q{SELECT streamsink.stop('p')},
	restart        => q{SELECT streamsink.restart('p')},
	stop_all       => q{SELECT streamsink.stop_all()},
	alter_pipeline => q{SELECT streamsink.alter_pipeline('p', batch_size => 5)},
	drop_pipeline  => q{SELECT streamsink.drop_pipeline('p')},
	ingest         => q{CALL streamsink.ingest('p')},
	apply          => q{SELECT * FROM streamsink.apply('p', '[{"n": "1"}]')},
	create_pipeline => q{SELECT streamsink.create_pipeline('q', server => 'iot', stream => 's', target => 't', connect => false)},
	retry_dead_letters => q{SELECT streamsink.retry_dead_letters('p')});
foreach my $call (sort keys %refused)
{
	my ($rc, $out, $err) = $standby->psql('postgres', "\\set VERBOSITY verbose\n$refused{$call}");
	like($err, qr/ERROR:  (?:25006|55000): .*(?:recovery|read-only)/, "$call is refused on a standby");
}
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'streamsink%'}), 0, 'nothing of ours runs there');
is($standby->safe_psql('postgres', q{SELECT name FROM streamsink.pipelines}), 'p', 'the views work');
like($standby->safe_psql('postgres', q{SELECT state FROM streamsink.status}), qr/^\w+$/, '... status too');

# Fail-over in the middle of work: everything that Redis was told is on the standby, the rest comes again.
produce($redis, 's', map { [ n => $_ ] } $sent + 1 .. $sent + 3000);
$sent += 3000;
poll_until(sub { sql('SELECT count(*) > 300 FROM t') eq 't' }, 'some of it to be written');
$node->kill9;
$standby->promote;
wait_for_state($standby, 'p', 'running');
send_some();
wait_settled($standby, 'p');
is($standby->safe_psql('postgres', 'SELECT count(*), count(DISTINCT n) FROM t'), "$sent|$sent", 'after a fail-over to a synchronous standby every entry is there once');
is(pending(), 0, '... and acknowledged');
unlike(slurp_file($standby->logfile), qr/terminated by signal|PANIC|TRAP/, 'no process crashed');
$standby->stop;
done_testing;
