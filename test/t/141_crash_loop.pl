# An entry that crashes the server again and again ends as a dead letter, the
# others arrive once, and the server stays up.  What ends a worker without a
# crash never counts.  Needs a test build, whose library can crash on demand.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('crash');
my $node  = new_node('crash', 'streamsink.discovery_interval' => '100ms', 'streamsink.backoff_max' => '1s');
plan skip_all => 'not a test build' if ($node->psql('postgres', 'SHOW streamsink.fault'))[0] != 0;
create_server($node, $redis);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }

sub wait_sql { my ($query, $what) = @_; poll_until(sub { (try_sql($node, $query) // '') eq 't' }, $what); return; }
sub crashes { my $n = () = slurp_file($node->logfile) =~ /was terminated by signal 11/g; return $n; }
sub letters { return sql("SELECT COALESCE(string_agg(concat_ws('|', fields ->> 'n', stage, sqlstate), ' ' ORDER BY (fields ->> 'n')::int), '') FROM streamsink.dead_letters"); }

sql(q{CREATE FUNCTION crash() RETURNS void AS '$libdir/streamsink', 'streamsink_test_crash' LANGUAGE C;
	CREATE TABLE t (s text, n int, note text);
	CREATE TABLE u (n int, note text);
	CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		IF NEW.note = 'crash' THEN PERFORM crash(); END IF;
		IF NEW.note = 'hang' THEN PERFORM pg_sleep(600); END IF;
		RETURN NEW;
	END$$;
	CREATE TRIGGER act BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION act();
	CREATE TRIGGER act BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION act();
	SELECT streamsink.create_pipeline('t', server => 'iot', stream => 't:{s}', target => 't', retry_backoff => '50 ms');
	SELECT streamsink.create_pipeline('u', server => 'iot', stream => 'u', target => 'u', workers => 2, retry_backoff => '50 ms')});

# Two bad ones in two streams of one pipeline, and one beside good ones that two workers share.
produce($redis, 't:a', map { [ n => $_, note => $_ == 20 ? 'crash' : 'good' ] } 1 .. 50);
produce($redis, 't:b', map { [ n => $_, note => $_ == 75 ? 'crash' : 'good' ] } 51 .. 100);
produce($redis, 'u', map { [ n => $_, note => $_ == 300 ? 'crash' : 'good' ] } 201 .. 400);
sql(q{SELECT streamsink.start('t'), streamsink.start('u')});
wait_sql('SELECT count(*) = 3 FROM streamsink.dead_letters', 'three dead letters');
wait_sql("SELECT streamsink.wait_for('t', '60 s') AND streamsink.wait_for('u', '60 s')", 'the others to be settled');
is(letters(), '20|crash|58000 75|crash|58000 300|crash|58000', 'what crashes the server is a dead letter of stage crash');
like(sql('SELECT DISTINCT error FROM streamsink.dead_letters'), qr/^the server crashed 2 times while this entry alone was being written$/, '... and says so');
is(sql('SELECT count(*), count(DISTINCT n), min(n), max(n) FROM t'), '98|98|1|100', 'the others of its pipeline arrive once');
is(sql('SELECT count(*), count(DISTINCT n), min(n), max(n) FROM u'), '199|199|201|400', '... and those that other workers had');
my $crashes = crashes();
note "$crashes crashes";
cmp_ok($crashes, '>=', 7, 'the server crashed');
cmp_ok($crashes, '<=', 14, '... and not for long');

# It runs on, in batches again.
produce($redis, 't:a', map { [ n => 1000 + $_ ] } 1 .. 1000);
produce($redis, 'u', map { [ n => 1000 + $_ ] } 1 .. 1000);
wait_settled($node, $_) for 't', 'u';
is(sql('SELECT count(*), count(DISTINCT n) FROM t WHERE n > 1000') . ' ' . sql('SELECT count(*), count(DISTINCT n) FROM u WHERE n > 1000'), '1000|1000 1000|1000', 'the pipelines run on');
cmp_ok(sql("SELECT batches FROM streamsink.status WHERE pipeline = 't'"), '<', 300, '... in batches');
is(crashes(), $crashes, '... without another crash');
is(sql('SELECT count(*) FROM streamsink.attempt WHERE stream <> 0 OR pipeline = 1'), 0, 'what was noted is gone');

# A worker that is terminated, a server that is restarted, while an entry is pending: not its fault.
sql(q{SELECT streamsink.discard_dead_letters('t'), streamsink.discard_dead_letters('u'), streamsink.stop('u')});
produce($redis, 't:a', [ n => 5000, note => 'hang' ]);
my $pid = 0;
my $hangs = "FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND wait_event = 'PgSleep'";
sub wait_hang { $pid = poll_until(sub { my $new = try_sql($node, "SELECT pid $hangs"); return defined $new && $new =~ /^\d+$/ && $new != $pid ? $new : undef; }, 'a worker to hang at the entry'); return; }
for my $i (1 .. 6)
{
	wait_hang();
	if ($i % 2) { sql("SELECT pg_terminate_backend($pid)"); next; }
	sql("SELECT streamsink.stop('t', '10 ms')");
	wait_for_state($node, 't', 'stopped');
	sql("SELECT streamsink.start('t')");
}
wait_hang();
is(sql('SELECT count(*), COALESCE(max(crashes), 0) FROM streamsink.attempt'), '1|0', 'a worker that is terminated or stopped does not count');
for my $i (1 .. 3)
{
	$node->restart;
	wait_hang();
}
is(sql('SELECT count(*), COALESCE(max(crashes), 0) FROM streamsink.attempt'), '1|0', 'a server that is shut down in order does not count');

# Crashes that are somebody else's: the pending entries go one by one, none is blamed.
$node->stop('immediate');
$node->start;
wait_hang();
is(sql('SELECT count(*) FILTER (WHERE stream = 0), count(*) FILTER (WHERE stream <> 0), max(crashes) FROM streamsink.attempt'), '1|1|1', 'a crash counts for the batch that was being tried');
$node->restart;
wait_hang();
is(sql('SELECT max(crashes) FROM streamsink.attempt WHERE stream <> 0'), 0, '... and not for the entry that is then tried alone');
sql('CREATE OR REPLACE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$');
sql("SELECT pg_cancel_backend($pid)"); # an error while it is tried alone
wait_settled($node, 't');
unlike(slurp_file($node->logfile), qr/own a lock/, 'a lock that is given up is one that is held');
is(sql('SELECT count(*) FROM t WHERE n = 5000'), 1, 'the entry arrives');
is(letters(), '', '... without a dead letter');
produce($redis, 't:a', [ n => 5001 ]);
wait_settled($node, 't');
is(sql('SELECT count(*) FROM streamsink.attempt'), 0, '... and nothing is left of it');
sql(q{SELECT streamsink.stop_all()});

# What failed and waits for its next try is not being tried: a crash meanwhile does not count.
sql(q{CREATE OR REPLACE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '53100'; END$$;
	SELECT streamsink.alter_pipeline('t', retry_backoff => '1 s'); SELECT streamsink.start('t')});
produce($redis, 't:a', [ n => 5003 ]);
wait_sql("SELECT next_retry_at > now() + '2 s' FROM streamsink.status WHERE pipeline = 't'", 'a long wait for the next try');
is(sql('SELECT count(*), bool_or(trying) FROM streamsink.attempt'), '1|f', 'what waits for its next try is not noted as being tried');
$node->stop('immediate');
$node->start;
wait_sql("SELECT last_sqlstate = '53100' FROM streamsink.status WHERE pipeline = 't'", 'the next try');
is(sql('SELECT max(crashes) FROM streamsink.attempt'), 0, '... and a crash meanwhile does not count');
sql(q{SELECT streamsink.stop('t'); SELECT streamsink.alter_pipeline('t', retry_backoff => '50 ms')});

# A dropped pipeline takes its notes with it.
produce($redis, 't:a', [ n => 5002, note => 'hang' ]);
sql('CREATE OR REPLACE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(600); RETURN NEW; END$$');
sql("SELECT streamsink.start('t')");
wait_hang();
sql("SELECT pg_terminate_backend($pid)");
wait_hang();
is(sql('SELECT count(*) FROM streamsink.attempt'), 1, 'a pending entry is noted');
sql(q{SELECT streamsink.drop_pipeline('t')});
is(sql('SELECT count(*) FROM streamsink.attempt'), 0, 'a dropped pipeline takes its notes with it');
$node->stop;
done_testing;
