# Redis loses the end of its streams: an old RDB file, an AOF that was not
# synced, a replica that lagged and was promoted.  What is settled stays settled,
# what comes again is dropped, and ids that are given anew are not taken for old ones.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use File::Copy;

my $redis = new_redis('loss', 'enable-debug-command' => 'yes');
my $node  = new_node('loss', 'streamsink.max_workers' => 16, 'streamsink.setup_retry' => '300ms', 'streamsink.sample_interval' => '100ms',
	'streamsink.discovery_interval' => '200ms', 'streamsink.block_time' => '100ms', 'streamsink.ledger_join_age' => '1h');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub logged { my ($pattern) = @_; return slurp_file($node->logfile) =~ $pattern; }

sub begin_part
{
	my ($name, $more) = @_;
	sql("CREATE TABLE $name (n int)");
	sql("SELECT streamsink.create_pipeline('$name', server => 'iot', stream => '$name', target => '$name', retry_backoff => '50 ms'" . ($more ? ", $more" : '') . ')');
	sql("SELECT streamsink.start('$name')");
	return;
}

# Entries with ids of the producer's own: n-0.
sub send_ids { my ($name, $from, $to, $add) = @_; produce($redis, $name, map { { _id => "$_-0", n => $_ + ($add // 0) } } $from .. $to); return; }
sub rows { my ($name) = @_; return sql("SELECT count(*) || '|' || count(DISTINCT n) || '|' || COALESCE(max(n), 0) FROM $name"); }
sub settled_to { my ($name) = @_; return sql("SELECT streamsink.max(upper(r)) FROM streamsink.streams s, unnest(s.settled) r WHERE s.pipeline = '$name'"); }

# The stream as it is now, and back to that: Redis's own format, groups and pending entries included.
sub remember { my ($name) = @_; $redis->cli('EVAL', q{return redis.call('SET', KEYS[1] .. ':then', redis.call('DUMP', KEYS[1]))}, 1, $name); return; }
sub go_back { my ($name, @then) = @_; $redis->cli('EVAL', q{redis.call('RESTORE', KEYS[1], 0, redis.call('GET', KEYS[1] .. ':then'), 'REPLACE')}, 1, $name); return; }

# ---- the whole server from an old RDB file, while the pipeline runs ----
begin_part('rdb');
send_ids('rdb', 1, 100);
wait_settled($node, 'rdb');
$redis->cli('SAVE');
copy($redis->dir . '/dump.rdb', $redis->dir . '/old.rdb') or die "copy: $!";
send_ids('rdb', 101, 150);
wait_settled($node, 'rdb');
is(rows('rdb'), '150|150|150', 'all there');
$redis->kill9;
copy($redis->dir . '/old.rdb', $redis->dir . '/dump.rdb') or die "copy: $!";
$redis->start;
poll_until(sub { logged(qr/Redis lost the end of stream "rdb"/) }, 'the loss to be noticed');
poll_until(sub { sql("SELECT state FROM streamsink.streams WHERE pipeline = 'rdb'") eq 'ok' }, 'the stream to be read again');
is(rows('rdb'), '150|150|150', 'rows of lost entries are kept');
is(settled_to('rdb'), '100-1', 'the ids that Redis lost are not settled any more');
send_ids('rdb', 101, 160, 1000);
wait_settled($node, 'rdb');
is(rows('rdb'), '210|210|1160', 'new entries with ids that were lost arrive');
is(sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'rdb'"), 0, 'without dead letters');

# ---- new entries are there before the loss is noticed ----
begin_part('reused');
send_ids('reused', 1, 100);
wait_settled($node, 'reused');
send_ids('reused', 101, 120);
wait_settled($node, 'reused');
stop_workers($node, 'reused');
remember('reused');
send_ids('reused', 121, 140);
# two batches of their own, so that the interval that is torn is known
sql("SELECT streamsink.start('reused')");
wait_settled($node, 'reused');
send_ids('reused', 141, 150);
wait_settled($node, 'reused');
stop_workers($node, 'reused');
is(rows('reused'), '150|150|150', 'all there');
go_back('reused');
# Redis knows up to 120; the torn interval is the one of 121 to 140
send_ids('reused', 121, 146, 2000);
sql("SELECT streamsink.start('reused')");
wait_settled($node, 'reused');
is(sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'reused' AND sqlstate = '40003' AND stage = 'refused'"), 20,
	'entries in the torn interval, whose ids were given anew, are dead letters');
is(sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM reused WHERE n > 2000"), join(',', 2141 .. 2146), 'entries behind it are new and arrive');
is(sql("SELECT count(*) FROM reused WHERE n <= 150"), 150, 'old rows are kept, each once');
is(sql("SELECT streamsink.retry_dead_letters('reused')"), 20, 'who knows that they are new can have them');
is(rows('reused'), '176|176|2146', 'every entry once');

# ---- the very id of the newest settled entry is given anew ----
begin_part('same');
send_ids('same', 1, 20);
wait_settled($node, 'same');
stop_workers($node, 'same');
remember('same');
send_ids('same', 21, 40);
sql("SELECT streamsink.start('same')");
wait_settled($node, 'same');
send_ids('same', 41, 50);
wait_settled($node, 'same');
stop_workers($node, 'same');
go_back('same');
send_ids('same', 21, 50, 3000);
sql("SELECT streamsink.start('same')");
wait_settled($node, 'same');
is(sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM same WHERE n > 3000"), join(',', 3041 .. 3050), 'an entry with the id of the newest settled one, but not the same: it arrives');
is(sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'same' AND sqlstate = '40003'"), 20, 'those in the torn interval are dead letters');

# ---- a loss in the middle of a batch, ids of time: what comes again is dropped ----
begin_part('torn');
produce($redis, 'torn', map { [ n => $_ ] } 1 .. 50);
wait_settled($node, 'torn');
stop_workers($node, 'torn');
produce($redis, 'torn', map { [ n => $_ ] } 51 .. 70);
remember('torn');
produce($redis, 'torn', map { [ n => $_ ] } 71 .. 90);
sql("SELECT streamsink.start('torn')");
wait_settled($node, 'torn');
is(rows('torn'), '90|90|90', 'all there');
stop_workers($node, 'torn');
go_back('torn');
produce($redis, 'torn', map { [ n => $_ ] } 91 .. 100);
sql("SELECT streamsink.start('torn')");
wait_settled($node, 'torn');
is(rows('torn'), '100|100|100', 'a loss inside a batch: survivors that come again are dropped, new ones arrive');
cmp_ok(sql("SELECT repeated FROM streamsink.status WHERE pipeline = 'torn'"), '>=', 20, 'they did come again');
ok(logged(qr/Redis lost the end of stream "torn"/), 'and the loss is in the log');

# ---- no false alarm: trimmed, deleted, emptied streams ----
begin_part('calm');
produce($redis, 'calm', map { [ n => $_ ] } 1 .. 20);
wait_settled($node, 'calm');
my ($newest) = $redis->cli('XREVRANGE', 'calm', '+', '-', 'COUNT', 1) =~ /^(\d+-\d+)$/m;
$redis->cli('XDEL', 'calm', $newest);
sql("SELECT streamsink.restart('calm')");
produce($redis, 'calm', map { [ n => $_ ] } 21 .. 30);
wait_settled($node, 'calm');
$redis->cli('XTRIM', 'calm', 'MAXLEN', '0');
sql("SELECT streamsink.restart('calm')");
produce($redis, 'calm', map { [ n => $_ ] } 31 .. 40);
wait_settled($node, 'calm');
$redis->cli('XTRIM', 'calm', 'MAXLEN', '5');
sql("SELECT streamsink.restart('calm')");
produce($redis, 'calm', map { [ n => $_ ] } 41 .. 50);
wait_settled($node, 'calm');
is(rows('calm'), '50|50|50', 'deleted and trimmed streams: every entry once');
ok(!logged(qr/Redis lost the end of stream "calm"/), 'and no false alarm');

# ---- failover to a replica that lagged ----
my $primary = new_redis('primary');
my $replica = new_redis('replica');
$node->safe_psql('postgres', 'CREATE SERVER ha FOREIGN DATA WRAPPER streamsink OPTIONS (' . server_options($primary) . ')');
$replica->cli('REPLICAOF', $primary->host, $primary->port);
sql('CREATE TABLE ha (n int)');
sql("SELECT streamsink.create_pipeline('ha', server => 'ha', stream => 'ha', target => 'ha', retry_backoff => '50 ms'); SELECT streamsink.start('ha')");
produce($primary, 'ha', map { [ n => $_ ] } 1 .. 200);
wait_settled($node, 'ha');
my ($high) = $primary->cli('XREVRANGE', 'ha', '+', '-', 'COUNT', 1) =~ /^(\d+-\d+)$/m;
poll_until(sub { $replica->cli('INFO', 'replication') =~ /master_link_status:up/ }, 'the link');
poll_until(sub { ($replica->try_cli('XREVRANGE', 'ha', '+', '-', 'COUNT', 1))[1] =~ /\Q$high\E/ }, 'the replica to have the entries');
$replica->freeze;
produce($primary, 'ha', map { [ n => $_ ] } 201 .. 300);
wait_settled($node, 'ha');
$primary->kill9;
$replica->thaw;
$replica->cli('REPLICAOF', 'NO', 'ONE');
my $seen = $replica->cli('XLEN', 'ha');
cmp_ok($seen, '<=', 300, "the replica has $seen entries");
$node->safe_psql('postgres', "ALTER SERVER ha OPTIONS (SET port '" . $replica->port . "')");
poll_until(sub { sql("SELECT state FROM streamsink.streams WHERE pipeline = 'ha'") eq 'ok' && sql("SELECT state FROM streamsink.status WHERE pipeline = 'ha'") eq 'running' }, 'the pipeline to run at the replica');
produce($replica, 'ha', map { [ n => $_ ] } 301 .. 400);
wait_settled($node, 'ha');
is(rows('ha'), '400|400|400', 'after a failover to a lagging replica: every entry once');
is(sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'ha'"), 0, 'without dead letters');

$node->stop;
done_testing;
