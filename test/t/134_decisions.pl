# What is decided about a stream holds: what was decided in a transaction that
# was rolled back does not, nothing is decided twice or by an old look, and a
# copy of the server waits for streams in which nothing happens, too.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $redis = new_redis('decisions');
my $dead  = new_redis('dead');
my $node  = new_node('decisions', 'streamsink.max_workers' => 16, 'streamsink.setup_retry' => '300ms', 'streamsink.sample_interval' => '100ms',
	'streamsink.discovery_interval' => '200ms', 'streamsink.block_time' => '100ms', 'streamsink.failover_delay' => '1500ms', _init => [ allows_streaming => 1 ]);
plan skip_all => 'not a test build' if ($node->psql('postgres', 'SHOW streamsink.fault'))[0] != 0;
create_server($node, $redis);
create_server($node, $dead, 'old');

sub sql { my ($sql, $on) = @_; return ($on // $node)->safe_psql('postgres', $sql); }
sub rows { my ($name, $on) = @_; return sql("SELECT count(*) || '|' || count(DISTINCT n) FROM $name", $on); }
sub wait_rows { my ($name, $rows, $what) = @_; poll_until(sub { rows($name) eq $rows }, sub { "$what, there are " . rows($name) }); return; }
sub marker { my ($name) = @_; return join ' ', sort($redis->cli('XINFO', 'CONSUMERS', $name, $name) =~ /^(streamsink:marker:\S+)$/mg); }
sub at_once { $redis->cli_stdin(join '', resp('MULTI'), @_, resp('EXEC')); return; }
sub set_fault { my ($fault) = @_; change_setting($node, 'streamsink.fault', $fault); return; }

sub create
{
	my ($name, $more) = @_;
	sql("CREATE TABLE $name (n int)");
	sql("SELECT streamsink.create_pipeline('$name', server => 'iot', stream => '$name', target => '$name', retry_backoff => '50 ms'" . ($more ? ", $more" : '') . ')');
	return;
}

# ---- for later: of two workers none can tell by where the group stands that somebody moved it ----
create('claimed', 'workers => 2');
sql("SELECT streamsink.start('claimed')");
produce($redis, 'claimed', map { { _id => "1-$_", n => $_ } } 1 .. 3);
wait_settled($node, 'claimed');
# both have the stream now
stop_workers($node, 'claimed');
sql("SELECT streamsink.start('claimed')");
wait_workers($node, 'claimed', 2);

# ---- a group that stood at the end before us; the first look at it is rolled back ----
foreach my $name ('reconciled', 'ingested')
{
	produce($redis, $name, map { [ n => $_ ] } 1 .. 5);
	$redis->cli('XGROUP', 'CREATE', $name, $name, '$');
}
create('reconciled');
my ($rc, $out, $err) = $node->psql('postgres', "BEGIN; SELECT streamsink.reconcile('reconciled'); ROLLBACK");
like($err, qr/WARNING:.*"reconciled" was left out: its worker has to prepare it first/, 'reconcile leaves out what it cannot decide in a transaction');
sql("SELECT streamsink.start('reconciled')");
wait_for_state($node, 'reconciled', 'running');
produce($redis, 'reconciled', [ n => 6 ]);
wait_settled($node, 'reconciled');
is(rows('reconciled'), '1|1', 'reconcile rolled back: what the group had passed stays passed');
create('ingested', "on_error => 'stop'");
produce($redis, 'ingested', [ n => 'bad' ]);
($rc, $out, $err) = $node->psql('postgres', "CALL streamsink.ingest('ingested')");
isnt($rc, 0, 'an ingest that fails');
sql("SELECT streamsink.alter_pipeline('ingested', on_error => 'dead_letter')");
sql("CALL streamsink.ingest('ingested')");
is(rows('ingested'), '0|0', 'and the next one: what the group had passed stays passed');

# ---- ids given anew: some were settled, some not; and only once ----
create('anew');
sql("SELECT streamsink.start('anew')");
wait_for_state($node, 'anew', 'running');
at_once(map { resp('XADD', 'anew', "1000-$_", 'n', $_) } 1 .. 5);
wait_settled($node, 'anew');
$redis->cli('COPY', 'anew', 'anew_old');
at_once(map { resp('XADD', 'anew', "2000-$_", 'n', 10 + $_) } 1 .. 5);
wait_settled($node, 'anew');
stop_workers($node, 'anew');
$redis->cli('RENAME', 'anew_old', 'anew');
at_once(resp('XADD', 'anew', '1500-1', 'n', 21), resp('XADD', 'anew', '2000-2', 'n', 22), resp('XADD', 'anew', '2000-5', 'n', 25));
sql("SELECT streamsink.start('anew')");
poll_until(sub { sql("SELECT count(*) FROM anew WHERE n = 21") == 1 }, 'the entry whose id was never settled');
wait_settled($node, 'anew');
my $letters = q{SELECT string_agg(entry_id::text, ',' ORDER BY id) FROM streamsink.dead_letters WHERE pipeline = 'anew'};
is(sql($letters), '2000-2,2000-5', 'dead letters are those whose ids were settled');
foreach (1 .. 2)
{
	sql("SELECT streamsink.restart('anew')");
	produce($redis, 'anew', { _id => (3000 + $_) . '-1', n => 30 + $_ });
	wait_settled($node, 'anew');
}
is(sql($letters), '2000-2,2000-5', 'and not again with every connect');
is(rows('anew'), '13|13', 'every row once');

# ---- two workers find the same loss; the second one must not decide by what it saw before the first one did ----
create('stale', 'workers => 2, batch_size => 10');
sql("SELECT streamsink.start('stale')");
wait_for_state($node, 'stale', 'running');
produce($redis, 'stale', map { [ n => $_ ] } 1 .. 10);
wait_settled($node, 'stale');
$redis->cli('COPY', 'stale', 'stale_old');
produce($redis, 'stale', map { [ n => $_ ] } 11 .. 20);
wait_settled($node, 'stale');
stop_workers($node, 'stale');
$redis->cli('RENAME', 'stale_old', 'stale');
set_fault('before-cut:wait-once');
sql("SELECT streamsink.start('stale')");
poll_until(sub { sql("SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.backend_type = 'streamsink worker'") >= 1 }, 'the second one to wait');
my $pid = sql("SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.backend_type = 'streamsink worker' LIMIT 1");
kill 'STOP', $pid;
set_fault('');
unlink glob($node->data_dir . '/streamsink_fault.*');
produce($redis, 'stale', map { [ n => $_ ] } 21 .. 25);
wait_rows('stale', '25|25', 'the first one to go on');
kill 'CONT', $pid;
poll_until(sub { sql("SELECT count(*) FROM streamsink.workers WHERE pipeline = 'stale' AND state = 'running'") == 2 }, 'both to run');
is(sql("SELECT streamsink.reconcile('stale')"), 0, 'an old look cuts nothing: nothing is missing');
wait_settled($node, 'stale');
is(rows('stale'), '25|25', 'every row once');

# ---- commands for a server that is gone hold up nobody ----
produce($dead, "gone:$_", [ n => 1 ]) foreach 1 .. 3;
produce($redis, "gone:$_", [ n => 2 ]) foreach 1 .. 3;
sql('CREATE TABLE gone (n int)');
sql("SELECT streamsink.create_pipeline('gone', server => 'old', stream => 'gone:{x}', target => 'gone'); SELECT streamsink.start('gone')");
wait_rows('gone', '3|1', 'the old one');
$dead->kill9;
sql("SELECT streamsink.drop_pipeline('gone')");
sql("SELECT streamsink.create_pipeline('gone', server => 'iot', stream => 'gone:{x}', target => 'gone'); SELECT streamsink.start('gone')");
wait_rows('gone', '6|2', 'the new one');
ok(1, 'a pipeline made anew on another server does not wait for the old one');

# ---- a copy of the server, while nothing happens in the stream ----
create('quiet');
sql("SELECT streamsink.start('quiet')");
wait_for_state($node, 'quiet', 'running');
produce($redis, 'quiet', map { [ n => $_ ] } 1 .. 3);
wait_settled($node, 'quiet');
$node->backup('copy');
my $ours = marker('quiet');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'copy');
$copy->start;
poll_until(sub { sql("SELECT state FROM streamsink.streams WHERE pipeline = 'quiet'", $copy) eq 'set_aside' }, 'the copy to be refused');
# for three times the time after which it would take over
my $until = Time::HiRes::time() + 4.5;
poll_until(sub { Time::HiRes::time() > $until || marker('quiet') ne $ours }, 'nothing to happen');
is(marker('quiet'), $ours, 'a copy waits while the other one lives, though nothing is read');
is(sql("SELECT state FROM streamsink.streams WHERE pipeline = 'quiet'"), 'ok', 'and the other one goes on');
$copy->stop;

# ---- entries that a session claimed, and then went away ----
# Workers read what is pending with them once more after ten seconds anyhow: that must be over.
poll_until(sub { sql("SELECT count(*) FROM streamsink.workers WHERE pipeline = 'claimed' AND backend_start < now() - interval '11 s'") == 2 }, 'the second look of its workers');
# hidden between what is settled
at_once(resp('XADD', 'claimed', '1-4', 'n', 4), resp('XGROUP', 'SETID', 'claimed', 'claimed', '$'), resp('XADD', 'claimed', '1-5', 'n', 5));
wait_rows('claimed', '4|4', 'the last one');
($out) = sql("BEGIN; SELECT 'missing ' || streamsink.reconcile('claimed'); ROLLBACK") =~ /missing (\d+)/;
is($out, 1, 'reconcile finds it');
wait_rows('claimed', '5|5', 'what was claimed in a transaction that was rolled back');
is(rows('claimed'), '5|5', 'it is read all the same');

# ---- resume_after_last: what it leaves out stays out ----
create('resumed', "on_lost_group => 'resume_after_last'");
sql("SELECT streamsink.start('resumed')");
wait_for_state($node, 'resumed', 'running');
wait_settled($node, 'resumed');
stop_workers($node, 'resumed');
produce($redis, 'resumed', map { [ n => $_ ] } 1 .. 10);
$redis->cli('XREADGROUP', 'GROUP', 'resumed', 'somebody', 'COUNT', '5', 'STREAMS', 'resumed', '>');
sql("SELECT streamsink.start('resumed')");
wait_rows('resumed', '5|5', 'what is ours');
$redis->cli('XGROUP', 'DESTROY', 'resumed', 'resumed');
produce($redis, 'resumed', [ n => 11 ]);
wait_rows('resumed', '6|6', 'what comes later');
sql("UPDATE streamsink.stream SET foreign_consumers = false WHERE name = 'resumed'");
change_setting($node, 'streamsink.ledger_join_age', 0);
sql("SELECT streamsink.restart('resumed')");
produce($redis, 'resumed', [ n => 12 ]);
wait_rows('resumed', '7|7', 'and later');
is(sql("SELECT streamsink.reconcile('resumed')"), 0, 'what resume_after_last left out is not missing');
is(rows('resumed'), '7|7', 'and not read');

# ---- DROP EXTENSION while a batch writes dead letters: neither is a victim of the other ----
set_fault('after-dead-letters:wait-once');
produce($redis, 'quiet', [ n => 'bad' ]);
poll_until(sub { slurp_file($node->logfile) =~ /fault point "after-dead-letters": wait-once/ }, 'the batch to wait');
my $dropper = $node->background_psql('postgres');
$dropper->query_until(qr/begun/, "\\echo begun\nDROP EXTENSION streamsink CASCADE;\n\\echo dropped\n");
poll_until(sub { sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP EXTENSION%'") == 1 }, 'the DROP to wait');
set_fault('');
poll_until(sub { sql("SELECT count(*) FROM pg_extension WHERE extname = 'streamsink'") == 0 }, 'the extension to go');
$dropper->quit;
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'no deadlock');

$node->stop;
done_testing;
