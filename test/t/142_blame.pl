# Whom the crash guard blames, and for how long: nobody for what other entries,
# or a standby that is away, were waited for; and what was mended is tried again.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('blame');
my $node  = new_node('blame', 'streamsink.discovery_interval' => '100ms', 'streamsink.backoff_max' => '1s', 'wal_level' => 'replica', 'max_wal_senders' => 2);
create_server($node, $redis);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }

sub wait_sql { my ($query, $what) = @_; poll_until(sub { (try_sql($node, $query) // '') eq 't' }, $what); return; }
my $pid = 0;
sub wait_hang
{
	my ($event) = @_;
	$pid = poll_until(sub {
		my $new = try_sql($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND wait_event = '$event'");
		return defined $new && $new =~ /^\d+$/ && $new != $pid ? $new : undef;
	}, "a worker to hang: $event");
	return;
}
sub crash { $node->stop('immediate'); $node->start; return; }
sub mend { sql('CREATE OR REPLACE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$'); return; }
sub hurt { sql('CREATE OR REPLACE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(600); RETURN NEW; END$$'); return; }

sql('CREATE TABLE t (n int)');
mend();
sql(q{CREATE TRIGGER act BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION act();
	SELECT streamsink.create_pipeline(p, server => 'iot', stream => p, target => 't', retry_backoff => '50 ms', on_error => CASE p WHEN 'stop' THEN 'stop' ELSE 'dead_letter' END)
	FROM unnest('{one,other,stop,standby}'::text[]) p});

# ---- one is tried alone; what has vanished beside it, and the batch of another pipeline ----

sql(q{SELECT streamsink.start('one'), streamsink.start('other')});
produce($redis, $_, [ n => 0 ]) for qw(one other);
wait_settled($node, $_) for qw(one other);
sql(q{SELECT streamsink.stop('other')});
hurt();
produce($redis, 'one', [ n => 1 ]);
wait_hang('PgSleep');
crash(); # from now on it is tried as pending
wait_hang('PgSleep');
my %consumer = map { ($_ => ($redis->cli('XINFO', 'CONSUMERS', $_, $_) =~ /^(streamsink:[-0-9a-f]{36}):0$/m)[0]) } qw(one other);
produce($redis, $_, [ n => 2 ]) for qw(one other);
my ($gone) = $redis->cli('XREADGROUP', 'GROUP', 'one', "$consumer{one}:1", 'STREAMS', 'one', '>') =~ /(\d+-\d+)/;
$redis->cli('XDEL', 'one', $gone);
$redis->cli('XREADGROUP', 'GROUP', 'other', "$consumer{other}:0", 'STREAMS', 'other', '>');
crash();
wait_hang('PgSleep');
is(sql('SELECT count(*) FILTER (WHERE stream <> 0), count(*) FILTER (WHERE trying) FROM streamsink.attempt'), '1|1', 'an entry beside one that has vanished is tried alone');
sql(q{SELECT streamsink.start('other')});
wait_sql(q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'object' AND mode = 'ShareLock' AND NOT granted}, 'the batch of another pipeline to wait for its turn');
is(sql('SELECT count(*) FROM streamsink.attempt WHERE trying'), 1, '... and what is pending elsewhere waits meanwhile');
mend();
sql("SELECT pg_cancel_backend($pid)");
wait_settled($node, $_) for qw(one other);
is(sql('SELECT string_agg(n::text, $$ $$ ORDER BY n) FROM t'), '0 0 1 2', 'all arrive');
unlike(slurp_file($node->logfile), qr/own a lock/, 'a lock that is given up is one that is held');
sql('SELECT streamsink.stop_all(); TRUNCATE t');

# ---- on_error => 'stop': what stopped it does not for ever ----

hurt();
sql(q{SELECT streamsink.start('stop')});
produce($redis, 'stop', [ n => 1 ]);
wait_hang('PgSleep');
# new, in a batch, alone twice
for (1 .. 4)
{
	crash();
	wait_hang('PgSleep') if $_ < 4;
}
wait_sql(q{SELECT state = 'failed' FROM streamsink.status WHERE pipeline = 'stop'}, 'the pipeline to be stopped');
like(sql(q{SELECT reason FROM streamsink.status WHERE pipeline = 'stop'}), qr/the server crashed 2 times while this entry alone/, 'an entry that crashes the server stops the pipeline');
mend();
sql(q{SELECT streamsink.start('stop')});
wait_sql('SELECT count(*) = 1 FROM t', 'the entry to arrive');
wait_settled($node, 'stop');
is(sql(q{SELECT state FROM streamsink.status WHERE pipeline = 'stop'}), 'running', 'once the cause is mended start() goes on with it');
sql('SELECT streamsink.stop_all(); TRUNCATE t');

# ---- no standby ----

hurt();
sql(q{SELECT streamsink.start('standby')});
produce($redis, 'standby', [ n => 1 ]);
wait_hang('PgSleep');
mend();
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
# each start would wait once, for what is noted or for what was counted
for (1 .. 8)
{
	crash();
	wait_hang('SyncRep') if $_ < 8;
}
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
wait_settled($node, 'standby');
is(sql('SELECT count(*) FROM t'), 1, 'an entry that waited for a standby, over restarts by force, arrives');
is(sql('SELECT count(*) FROM streamsink.dead_letters'), 0, '... and is not blamed for them');
$node->stop;
done_testing;
