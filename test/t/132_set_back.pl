# The server is set back or copied: point-in-time recovery, a standby promoted
# without the last commits, a clone beside its origin, a restored dump, a copied
# database.  What this server lacks is read again, once; two never share a group.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::RecursiveCopy;
use File::Copy;
use Test::More;

my $redis = new_redis('setback');
my %conf  = ('streamsink.setup_retry' => '300ms', 'streamsink.sample_interval' => '100ms', 'streamsink.failover_delay' => '1500ms',
	'streamsink.discovery_interval' => '200ms', 'streamsink.block_time' => '100ms');
my $node = new_node('origin', %conf, wal_level => 'replica', _init => [ allows_streaming => 1, has_archiving => 1 ]);
create_server($node, $redis);

sub sql { my ($sql, $on, $db) = @_; return ($on // $node)->safe_psql($db // 'postgres', $sql); }
sub rows { my ($on, $table) = @_; $table //= 'events'; return sql("SELECT count(*) || '|' || count(DISTINCT n) FROM $table", $on); }
sub state_of { my ($on, $db) = @_; return sql("SELECT string_agg(DISTINCT state, ',') FROM streamsink.streams", $on, $db); }
sub reason_of { my ($on, $db) = @_; return sql("SELECT string_agg(DISTINCT reason, ',') FROM streamsink.streams", $on, $db); }
sub logged { my ($on, $pattern) = @_; return slurp_file($on->logfile) =~ $pattern; }
my $sent = 0;
sub send_more { my ($n) = @_; produce($redis, 'events', map { [ n => $_ ] } $sent + 1 .. $sent + $n); $sent += $n; return; }

sql(q{CREATE TABLE events (n int);
	SELECT streamsink.create_pipeline('events', server => 'iot', stream => 'events', target => 'events', retry_backoff => '50 ms', batch_size => 50);
	SELECT streamsink.start('events')});
send_more(200);
wait_settled($node, 'events');
is(rows($node), '200|200', 'all there');

# ---- a standby that lags is promoted ----
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
my ($rc, $out, $err) = $standby->psql('postgres', q{SELECT streamsink.stop('events')});
like($err, qr/recovery|read-only/, 'on a standby, control calls are refused');
is(sql('SELECT count(*) FROM streamsink.workers', $standby), 0, 'and nothing runs there');

# It gets no more; what comes now is acknowledged in Redis and lost with the primary.
sql("ALTER SYSTEM SET primary_conninfo = ''", $standby);
$standby->reload;
poll_until(sub { sql('SELECT count(*) FROM pg_stat_replication') == 0 }, 'the standby to be cut off');
send_more(300);
wait_settled($node, 'events');
is(rows($node), '500|500', 'the primary has more');
is((split /\n/, $redis->cli('XPENDING', 'events', 'events'))[0], 0, 'and acknowledged it');
$node->stop('immediate');
$standby->promote;
poll_until(sub { sql('SELECT pg_is_in_recovery()', $standby) eq 'f' }, 'the promotion');
send_more(50);
poll_until(sub { rows($standby) eq "$sent|$sent" }, sub { 'the promoted standby to have everything, it has ' . rows($standby) });
wait_settled($standby, 'events');
is(rows($standby), "$sent|$sent", 'promoted: what the standby lacked was read again, every entry once');
ok(logged($standby, qr/entries of stream "events" are read again/), 'and said so');
is(sql("SELECT count(*) FROM streamsink.dead_letters", $standby), 0, 'without dead letters');

# ---- the old primary comes back beside it: it is the copy now ----
$node->start;
poll_until(sub { state_of($node) eq 'set_aside' }, 'the old primary to see the other one');
like(reason_of($node), qr/copy of this server/, 'the old primary does not read, and says why');
send_more(100);
wait_settled($standby, 'events');
is(rows($standby), "$sent|$sent", 'the new one gets all of it');
is(rows($node), '500|500', 'the old one nothing');

# ---- the new one stops: the old one may go on, and repairs itself ----
$standby->stop;
poll_until(sub { rows($node) eq "$sent|$sent" }, sub { 'the old primary to take over and to read what it lacks, it has ' . rows($node) });
wait_settled($node, 'events');
is(rows($node), "$sent|$sent", 'when the other one is silent, it takes over: every entry once');

# ---- point-in-time recovery in the same place ----
my $data = $node->data_dir;
sql('CHECKPOINT');
$node->backup('then');
my $target = sql("SELECT pg_create_restore_point('then')");
sql('SELECT pg_switch_wal()');
send_more(250);
wait_settled($node, 'events');
is(rows($node), "$sent|$sent", 'all there before the recovery');
$node->stop;
rename $data, "$data.after" or die "rename: $!";
PostgreSQL::Test::RecursiveCopy::copypath($node->backup_dir . '/then', $data);
chmod 0700, $data;
copy("$data.after/$_", "$data/$_") foreach 'postgresql.conf', 'pg_hba.conf';
$node->enable_restoring($node, 0);
$node->append_conf('postgresql.conf', "recovery_target_name = 'then'\nrecovery_target_timeline = 'current'\nrecovery_target_action = 'promote'");
my $restored = $node;
$restored->start;
poll_until(sub { sql('SELECT pg_is_in_recovery()', $restored) eq 'f' }, 'the recovery to end');
poll_until(sub { rows($restored) eq "$sent|$sent" }, sub { 'the restored server to have everything, it has ' . rows($restored) });
wait_settled($restored, 'events');
is(rows($restored), "$sent|$sent", 'point-in-time recovery: what came after it was read again, every entry once');

# ---- a snapshot of the disk is put back: same place, same timeline ----
foreach my $control (0, 1)
{
	$restored->stop;
	PostgreSQL::Test::RecursiveCopy::copypath($data, "$data.snapshot$control");
	$restored->start;
	sql(q{SELECT streamsink.restart('events')}, $restored) if $control;
	send_more(70);
	wait_settled($restored, 'events');
	$restored->stop;
	rename $data, "$data.later$control" or die "rename: $!";
	rename "$data.snapshot$control", $data or die "rename: $!";
	chmod 0700, $data;
	$restored->start;
	poll_until(sub { rows($restored) eq "$sent|$sent" }, sub { 'the snapshot to have everything, it has ' . rows($restored) });
	wait_settled($restored, 'events');
	is(rows($restored), "$sent|$sent", 'a snapshot put back' . ($control ? ' from before a control call' : '') . ': what came after it was read again, every entry once');
}

# ---- holes in the middle, on request ----
sql(q{SELECT streamsink.stop('events')}, $restored);
my $before = rows($restored);
is(sql(q{SELECT streamsink.reconcile('events')}, $restored), 0, 'reconcile finds nothing');
my @ids = grep { /^\d+-\d+$/ } split /\n/, $redis->cli('XRANGE', 'events', '-', '+', 'COUNT', '120');
# as if a restore had taken them: out of the ledger and out of the table
sql(qq{DELETE FROM events WHERE n BETWEEN 51 AND 100}, $restored);
sql(qq{WITH cut AS (SELECT streamsink.entry_id_multirange(streamsink.entry_id_range('$ids[50]', '$ids[99]', '[]')) AS gone)
	UPDATE streamsink.ledger SET settled = settled OPERATOR(pg_catalog.-) gone, hashes = array_fill(0::int8, ARRAY[(SELECT count(*)::int FROM unnest(settled OPERATOR(pg_catalog.-) gone))]),
		settled_at = array_fill(now(), ARRAY[(SELECT count(*)::int FROM unnest(settled OPERATOR(pg_catalog.-) gone))])
	FROM cut WHERE segment = (SELECT min(segment) FROM streamsink.ledger)}, $restored);
is(sql(q{SELECT streamsink.reconcile('events')}, $restored), 50, 'reconcile finds the hole');
sql(q{SELECT streamsink.start('events')}, $restored);
wait_settled($restored, 'events');
is(rows($restored), $before, 'and what was missing is read again, every entry once');

# ---- a copied database, and a restored dump: refused until adopted ----
sql(q{SELECT streamsink.stop('events')}, $restored);
poll_until(sub { sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'streamsink %' AND datname IS NOT NULL", $restored) == 0 }, 'workers to leave');
sql('CREATE DATABASE copy TEMPLATE postgres', $restored, 'template1');
sql(q{SELECT streamsink.start('events')}, $restored);
wait_for_state($restored, 'events', 'running');
is(sql("SELECT state FROM streamsink.status", $restored, 'copy'), 'stopped', 'in a copied database pipelines are stopped');
sql(q{SELECT streamsink.start('events')}, $restored, 'copy');
poll_until(sub { state_of($restored, 'copy') eq 'set_aside' }, 'the copy to be refused');
like(reason_of($restored, 'copy'), qr/belongs to another streamsink pipeline/, 'the copy is refused');
send_more(20);
wait_settled($restored, 'events');
is(rows($restored), "$sent|$sent", 'the original gets all');
sql(q{SELECT streamsink.adopt('events')}, $restored, 'copy');
poll_until(sub { state_of($restored) eq 'set_aside' }, 'the original to see that it was replaced');
send_more(30);
wait_settled($restored, 'events', 'copy');
is(sql("SELECT count(*) || '|' || count(DISTINCT n) FROM events", $restored, 'copy'), "$sent|$sent", 'adopt: the copy has everything once, also what the original read meanwhile');
is(rows($restored), ($sent - 30) . '|' . ($sent - 30), 'and the original reads no more');

$restored->stop;
done_testing;
