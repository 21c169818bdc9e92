# What a pipeline does when entries, statements, owners or the server's limits
# stand in its way.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

$ENV{REDISCLI_AUTH} = 'geheim';
my $redis = new_redis('policies', 'requirepass', 'geheim');
my $node  = new_node('policies', 'streamsink.max_workers' => 3, 'streamsink.batch_timeout' => '700ms', 'streamsink.setup_retry' => '300ms');
sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub reason { return sql("SELECT reason || ' / ' || COALESCE(hint, '') FROM streamsink.status WHERE pipeline = '$_[0]'"); }

# A wrong password shows in status, not in the log, and heals by itself.
create_server($node, $redis);
sql(q{CREATE USER MAPPING FOR postgres SERVER iot OPTIONS (password 'falsch-und-lang');
	CREATE TABLE t (n int, note text);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 's', target => 't', connect => false);
	SELECT streamsink.start('p')});
wait_for_state($node, 'p', 'waiting');
is(sql("SELECT last_sqlstate FROM streamsink.status WHERE pipeline = 'p'"), '28P01', 'a wrong password');
sql("ALTER USER MAPPING FOR postgres SERVER iot OPTIONS (SET password 'geheim')");
wait_for_state($node, 'p', 'running');
ok(1, '... heals when it is changed');
unlike(slurp_file($node->logfile), qr/LOG:[^\n]*falsch-und-lang/, '... and is not logged by us');

# A batch that takes too long is halved until the entry at fault stands alone.
sql(q{CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.note = 'slow' THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END$$;
	CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()});
produce($redis, 's', (map { [ n => $_ ] } 1 .. 3), [ n => 4, note => 'slow' ], (map { [ n => $_ ] } 5 .. 8));
wait_settled($node, 'p');
is(sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), '1,2,3,5,6,7,8', 'the neighbours of an entry that takes too long arrive');
is(sql('SELECT sqlstate, stage FROM streamsink.dead_letters'), '57014|write', '... and it is a dead letter');
change_setting($node, 'streamsink.batch_timeout', '5min');
sql('DROP TRIGGER slow ON t');

# pg_cancel_backend ends a batch, not the worker; nothing is lost.
sql('DELETE FROM t');
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE t');
produce($redis, 's', map { [ n => $_ ] } 1 .. 10);
my $pid = sql("SELECT pid FROM streamsink.workers WHERE pipeline = 'p'");
$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid") or die 'worker does not wait';
my $errors = sql("SELECT errors FROM streamsink.status WHERE pipeline = 'p'");
sql("SELECT pg_cancel_backend($pid)");
$node->poll_query_until('postgres', "SELECT errors > $errors FROM streamsink.status WHERE pipeline = 'p'") or die 'the cancel is not counted';
is(sql("SELECT pid FROM streamsink.workers WHERE pipeline = 'p'"), $pid, 'pg_cancel_backend ends a batch, not the worker');
# stop() cancels a batch that waits for a lock, after its time-out.
$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid") or die 'worker does not try again';
my $start = time;
sql("SELECT streamsink.stop('p', timeout => '200 ms')");
cmp_ok(time - $start, '<', 2, 'stop() cancels a batch that waits for a lock');
$locker->query_safe('COMMIT');
$locker->quit;
is(sql('SELECT count(*) FROM t'), 0, '... which is undone');
sql("SELECT streamsink.start('p')");
wait_settled($node, 'p');
is(sql('SELECT count(*), count(DISTINCT n) FROM t'), '10|10', '... and written when the pipeline is started again');
is(sql("SELECT count(*) FROM streamsink.dead_letters"), 1, '... without a dead letter');

# on_error => 'stop' and 'discard'.
sql(q{SELECT streamsink.alter_pipeline('p', on_error => 'stop')});
produce($redis, 's', [ n => 'bad' ], [ n => 11 ]);
wait_for_state($node, 'p', 'failed');
like(reason('p'), qr/was refused: invalid input syntax/, "on_error 'stop' stops with the reason");
is(sql('SELECT count(*) FROM t WHERE n = 11'), 0, '... and settles nothing of the batch');
$node->restart;
is(sql("SELECT state FROM streamsink.status WHERE pipeline = 'p'"), 'failed', '... also after a restart');
sql(q{SELECT streamsink.alter_pipeline('p', on_error => 'discard'); SELECT streamsink.start('p')});
wait_settled($node, 'p');
is(sql('SELECT count(*) FROM t WHERE n = 11'), 1, "on_error 'discard' goes on");
is(sql("SELECT count(*) FROM streamsink.dead_letters"), 1, '... and keeps no dead letter');

# A pipeline of an ordinary role runs as that role.
sql(q{CREATE ROLE ingest LOGIN; SELECT streamsink.grant_access('ingest'); GRANT USAGE ON FOREIGN SERVER iot TO ingest;
	CREATE USER MAPPING FOR ingest SERVER iot OPTIONS (password 'geheim');
	CREATE TABLE mine (n int, who text DEFAULT current_user, session text DEFAULT session_user); GRANT INSERT, SELECT ON mine TO ingest;
	GRANT CREATE ON SCHEMA public TO ingest});
sql(q{SET SESSION AUTHORIZATION ingest;
	SELECT streamsink.create_pipeline('q', server => 'iot', stream => 'q', target => 'mine'); SELECT streamsink.start('q')});
produce($redis, 'q', [ n => 1 ]);
wait_settled($node, 'q');
is(sql('SELECT n, who, session FROM mine'), '1|ingest|ingest', 'a worker is its owner at session level');
sql('REVOKE INSERT ON mine FROM ingest');
produce($redis, 'q', [ n => 2 ]);
wait_for_state($node, 'q', 'waiting');
like(reason('q'), qr/permission denied/, 'a lost privilege is a reason to wait');
sql('GRANT INSERT ON mine TO ingest');
wait_settled($node, 'q');
is(sql('SELECT count(*) FROM mine'), 2, '... and heals by itself');
sql('ALTER ROLE ingest NOLOGIN');
sql("SELECT streamsink.stop('q')");
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM streamsink.workers WHERE pipeline = 'q'");
my $bypass = sql('SELECT current_setting($$server_version_num$$)::int >= 170000');
my ($rc, $out, $err) = $node->psql('postgres', "SELECT streamsink.start('q')");
if ($bypass eq 't') { is($rc, 0, 'an owner without LOGIN is no obstacle from 17 on'); }
else { like($err, qr/log in|LOGIN/, 'an owner without LOGIN is refused'); }

# More workers than slots: what does not fit waits and says so.
sql(q{SELECT streamsink.create_pipeline('many', server => 'iot', stream => 'many', target => 't', workers => 5); SELECT streamsink.start('many')});
wait_for_state($node, 'many', 'waiting');
like(reason('many'), qr/streamsink\.max_workers/, 'workers without a slot wait and say so');
produce($redis, 'many', map { [ n => $_ + 100 ] } 1 .. 100);
$node->poll_query_until('postgres', 'SELECT count(*) = 100 FROM t WHERE n > 100') or die 'many';
ok(1, '... while the others work');

# Reading only what it may wait for: no transaction is open while it idles.
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)"), 0, 'an idle worker holds no snapshot');
$node->stop;
done_testing;
