# What a reading of the protocol with an attacker's eyes found: each of these
# lost sight of an entry, hung, or let somebody do what he must not.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('review');
my $node  = new_node('review', 'streamsink.discovery_interval' => '200ms', 'streamsink.sample_interval' => '200ms',
	'streamsink.setup_retry' => '500ms', 'streamsink.command_timeout' => '2s', 'streamsink.max_workers' => 16);
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub consumer { return sql("SELECT 'streamsink:' || identity FROM streamsink.pipeline WHERE name = '$_[0]'") . ":$_[1]"; }
sub drop_all { sql("SELECT streamsink.drop_pipeline(name) FROM streamsink.pipelines"); return; }

# A batch that lingers goes, although its stream is gone meanwhile.
sql(q{CREATE TABLE linger (n int);
	SELECT streamsink.create_pipeline('linger', server => 'iot', stream => 'linger', target => 'linger', linger => '3 s');
	SELECT streamsink.start('linger')});
wait_for_state($node, 'linger', 'running');
produce($redis, 'linger', { n => 1 });
poll_until(sub { $redis->cli('XINFO', 'GROUPS', 'linger') =~ /^pending\n1$/m }, 'the entry to be read');
$redis->cli('DEL', 'linger');
ok(eval { poll_until(sub { sql('SELECT count(*) FROM linger') eq '1' }, 'the batch', 15) }, 'a lingering batch survives its stream');
drop_all();

# One entry after the other in a group whose share 0 has not all of them: wait_for sees every share.
sql(q{CREATE TABLE shares (n int);
	SELECT streamsink.create_pipeline('shares', server => 'iot', stream => 'shares', target => 'shares');
	SELECT streamsink.start('shares')});
produce($redis, 'shares', { n => 1 });
wait_settled($node, 'shares');
my $other = consumer('shares', 3);
my $group = sql("SELECT consumer_group FROM streamsink.pipelines WHERE name = 'shares'");
$redis->cli_stdin(resp('MULTI') . resp('XADD', 'shares', '*', 'n', 2)
	  . resp('XREADGROUP', 'GROUP', $group, $other, 'STREAMS', 'shares', '>') . resp('EXEC'));
is(sql(q{SELECT streamsink.wait_for('shares', '30 s')}), 't', 'wait_for');
is(sql('SELECT count(*) FROM shares'), 2, '... waits for what a share that is gone left pending');

# ingest drains it as well.
sql(q{SELECT streamsink.stop('shares'); SELECT streamsink.wait_until('shares', 'stopped')});
poll_until(sub { sql(q{SELECT count(*) FROM streamsink.workers WHERE pipeline = 'shares'}) eq '0' }, 'the worker to leave');
$redis->cli_stdin(resp('MULTI') . resp('XADD', 'shares', '*', 'n', 3)
	  . resp('XREADGROUP', 'GROUP', $group, $other, 'STREAMS', 'shares', '>') . resp('EXEC'));
is(sql(q{CALL streamsink.ingest('shares')}), '1|1|0', 'ingest drains what a share that is gone left pending');
drop_all();

# The position where a pipeline begins counts for all streams that were there, whoever finds them.
produce($redis, "begin:$_", { _id => '5-1', n => -1 }) foreach 1 .. 60;
sql(q{CREATE TABLE begins (n int);
	SELECT streamsink.create_pipeline('begins', server => 'iot', stream => 'begin:*', target => 'begins', start_from => '6', workers => 4);
	SELECT streamsink.start('begins')});
poll_until(sub { sql(q{SELECT count(*) FROM streamsink.streams WHERE pipeline = 'begins' AND state = 'ok'}) eq '60' }, 'all streams');
produce($redis, "begin:$_", { n => 1 }) foreach 1 .. 60;
wait_settled($node, 'begins');
is(sql('SELECT n, count(*) FROM begins GROUP BY n ORDER BY n'), '1|60', 'start_from counts for the streams of every worker');
drop_all();

# Streams whose entries are large can be prepared, many at a time.
my $large = 'x' x 400_000;
produce($redis, "large:$_", { n => $_, blob => $large }) foreach 1 .. 150;
sql(q{CREATE TABLE large (n int, blob text);
	SELECT streamsink.create_pipeline('large', server => 'iot', stream => 'large:*', target => 'large');
	SELECT streamsink.start('large')});
ok(eval { poll_until(sub { sql('SELECT count(*) FROM large') eq '150' }, 'large entries', 40) }, 'streams of large entries are prepared')
  or diag(status_of($node, 'large'));
is(sql(q{SELECT errors FROM streamsink.status WHERE pipeline = 'large'}), 0, '... without an error');
drop_all();
$redis->cli('FLUSHALL');

# A batch that takes longer than a reply may: the one that was asked for meanwhile is there.
my $mark = -s $node->logfile;
sql(q{CREATE TABLE slow (n int, blob text);
	CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(3); RETURN NULL; END';
	CREATE TRIGGER slow AFTER INSERT ON slow EXECUTE FUNCTION slow();
	SELECT streamsink.create_pipeline('slow', server => 'iot', stream => 'slow', target => 'slow', batch_size => 300, batch_bytes => 100000000)});
my $middling = 'x' x 50_000;
produce($redis, 'slow', map { { n => $_, blob => $middling } } 1 .. 1200);
sql(q{SELECT streamsink.start('slow')});
poll_until(sub { sql('SELECT count(*) FROM slow') eq '1200' }, 'slow batches');
unlike(slurp_file($node->logfile, $mark), qr/did not answer in time/, 'a slow batch is not taken for a slow Redis');
drop_all();
sql('DROP TABLE slow, large');
$redis->cli('FLUSHALL');

# pg_cancel_backend while a worker waits for its next try.
sql(q{CREATE TABLE later (n int);
	SELECT streamsink.create_pipeline('later', server => 'iot', stream => 'later', target => 'later');
	ALTER TABLE later RENAME TO earlier; SELECT streamsink.start('later')});
produce($redis, 'later', { n => 1 });
wait_for_state($node, 'later', 'waiting');
my $pid = sql(q{SELECT pid FROM streamsink.workers WHERE pipeline = 'later'});
sql("SELECT pg_cancel_backend($pid), pg_sleep(1)");
is(sql(q{SELECT pid FROM streamsink.workers WHERE pipeline = 'later'}), $pid, 'a cancel does not end a worker that waits');
drop_all();

# What an owner's code leaves behind does not run as whoever calls it.
sql(q{CREATE ROLE mallory LOGIN; GRANT USAGE ON SCHEMA streamsink TO mallory;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA streamsink TO mallory;
	GRANT USAGE ON FOREIGN SERVER iot TO mallory; ALTER SERVER iot OPTIONS (ADD password_required 'false'); CREATE SCHEMA lair AUTHORIZATION mallory});
sql(q{SET ROLE mallory; SET search_path = lair;
	CREATE TABLE bait (n int); CREATE TABLE trap (n int);
	CREATE FUNCTION spring() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		IF current_user <> 'mallory' THEN EXECUTE 'ALTER ROLE mallory SUPERUSER'; END IF; RETURN NULL; END$$;
	CREATE FUNCTION set_trap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		SET CONSTRAINTS ALL DEFERRED; INSERT INTO lair.trap VALUES (1); RETURN NULL; END$$;
	CREATE CONSTRAINT TRIGGER set_trap AFTER INSERT ON bait DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION set_trap();
	CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION spring();
	SELECT streamsink.create_pipeline('bait', server => 'iot', stream => 'bait', target => 'lair.bait', connect => false)});
$node->psql('postgres', q{SELECT * FROM streamsink.apply('bait', '[{"n": "1"}]')});
is(sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', 'deferred triggers of an owner do not run as the caller of apply');
sql('ALTER ROLE mallory NOSUPERUSER');
produce($redis, 'bait', { n => 1 });
$node->psql('postgres', q{CALL streamsink.ingest('bait')});
is(sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', '... nor as that of ingest');
sql('ALTER ROLE mallory NOSUPERUSER');

sql(q{SET ROLE mallory; SET search_path = lair;
	CREATE FUNCTION peek() RETURNS int LANGUAGE plpgsql AS $$BEGIN
		IF current_user <> 'mallory' THEN EXECUTE 'ALTER ROLE mallory SUPERUSER'; END IF; RETURN 1; END$$;
	CREATE OR REPLACE FUNCTION set_trap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT lair.peek()'; RETURN NULL; END$$});
$node->psql('postgres', q{SELECT * FROM streamsink.apply('bait', '[{"n": "1"}]')});
is(sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', 'nor do cursors');
sql('ALTER ROLE mallory NOSUPERUSER');

# What an honest owner has is not refused: deferred constraints are checked at once.
sql(q{SET ROLE mallory; SET search_path = lair;
	CREATE TABLE parent (n int PRIMARY KEY); INSERT INTO parent VALUES (1);
	CREATE TABLE child (n int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
	SELECT streamsink.create_pipeline('child', server => 'iot', stream => 'child', target => 'lair.child', connect => false)});
is(sql(q{SELECT outcome, sqlstate FROM streamsink.apply('child', '[{"n": "1"}, {"n": "2"}]')}), "written|\nrefused|23503", 'deferred constraints are checked for a superuser too');
drop_all();

# The extension is made anew under a running worker, with a pipeline of the same number.
sql(q{CREATE TABLE before (n int); CREATE TABLE after (n int);
	DROP EXTENSION streamsink CASCADE; CREATE EXTENSION streamsink});
create_server($node, $redis);
sub define { my ($target) = @_; return "SELECT streamsink.create_pipeline('anew', server => 'iot', stream => 'anew', target => '$target', consumer_group => '$target');
	SELECT streamsink.start('anew')"; }
sql(define('before'));
produce($redis, 'anew', { n => 1 });
wait_settled($node, 'anew');
my $options = server_options($redis);
sql("BEGIN; DROP EXTENSION streamsink CASCADE; CREATE EXTENSION streamsink;
	CREATE SERVER iot FOREIGN DATA WRAPPER streamsink OPTIONS ($options);", define('after'), '; COMMIT');
produce($redis, 'anew', { n => 2 });
ok(eval { poll_until(sub { sql('SELECT count(*) FROM after') eq '2' }, 'rows of the new pipeline', 20) }, 'a new extension\'s pipeline is not taken for the old one');
is(sql('SELECT count(*) FROM before'), 1, '... and nothing goes where the old one wrote');

$node->stop;
done_testing;
