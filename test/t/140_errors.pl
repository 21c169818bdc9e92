# After errors: tries again, waits, gives up when asked to, and what it never
# does is blame an entry for the machine.  Real deadlocks, locks and a full disk.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $redis = new_redis('errors');
my $node  = new_node('errors', 'streamsink.setup_retry' => '100ms', 'deadlock_timeout' => '10ms', 'streamsink.sample_interval' => '200ms');
create_server($node, $redis);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub status { return sql("SELECT $_[1] FROM streamsink.status WHERE pipeline = '$_[0]'"); }
sub wait_sql { my ($query, $what) = @_; poll_until(sub { sql($query) eq 't' }, $what . ': ' . $query); return; }
sub letters { return sql("SELECT COALESCE(string_agg(concat_ws('|', fields ->> 'n', stage, sqlstate), ' ' ORDER BY entry_id), '') FROM streamsink.dead_letters WHERE pipeline = '$_[0]'"); }

# ---------------------------------------------------------------------------
# One case for each kind of SQLSTATE.  The entry in the middle raises what its
# field says, as long as the cause is there.
# ---------------------------------------------------------------------------
sql(q{CREATE TABLE cause (there bool);
	INSERT INTO cause VALUES (true);
	CREATE TABLE codes (n int, code text);
	CREATE FUNCTION raise_code() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		IF NEW.code <> 'good' AND (SELECT there FROM cause) THEN RAISE EXCEPTION 'as asked for' USING ERRCODE = NEW.code; END IF;
		RETURN NEW;
	END$$;
	CREATE TRIGGER raise_code BEFORE INSERT ON codes FOR EACH ROW EXECUTE FUNCTION raise_code();
	SELECT streamsink.create_pipeline('codes', server => 'iot', stream => 'codes', target => 'codes',
		retry_backoff => '20 ms', retry_backoff_max => '50 ms');
	SELECT streamsink.start('codes')});

my %decision = (
	refused => [qw(22012 22P02 23505 23514 23503 23P01 23502 44000 54000 54001 P0001 21000 53200)],
	retried => [qw(40001 40P01 40002 08006 53000 53100 53300 55P03 57014 57P01 57P03 58030)],
	waits   => [qw(42P01 42501 42703 42804 42P10 42883 3F000 28000 28P01 25006 0A000 XX000 XX001 P0000 P0002 P0004 55000 55006 02000 58000 HV000 UX123)]);
my %hint = map { ($_ => 1) } qw(42P01 42501 42703 42804 42P10 42883 3F000 28P01 25006);
my $n = 0;
foreach my $decision (sort keys %decision)
{
	foreach my $code (@{ $decision{$decision} })
	{
		my @n = ($n + 1, $n + 2, $n + 3);
		my $errors = status('codes', 'errors');
		$n += 3;
		# in one batch: a read that waits is answered by the first entry alone otherwise
		$redis->cli_stdin(join '', resp('MULTI'), (map { resp('XADD', 'codes', '*', n => $n[$_], code => $_ == 1 ? $code : 'good') } 0 .. 2), resp('EXEC'));
		if ($decision ne 'refused')
		{
			# tried, and tried again
			wait_sql("SELECT errors >= $errors + 2 FROM streamsink.status WHERE pipeline = 'codes'", "$code is tried again");
			my $shown = "waiting|$code|as asked for|t|" . ($hint{$code} ? 't' : 'f');
			poll_until(sub { status('codes', 'state, last_sqlstate, reason, next_retry_at IS NOT NULL, hint IS NOT NULL') eq $shown }, $shown);
			ok(1, "$code: reason, next try and hint are shown");
			is(sql("SELECT count(*) FROM codes WHERE n = ANY ('{@{[join ',', @n]}}')"), 0, "$code: nothing of its batch is written")
			  unless $code =~ /^40(001|P01)/;
			wait_sql("SELECT count(*) = 1 FROM codes WHERE n = $n[0]", "$code three times in a row to make batches smaller") if $code =~ /^40(001|P01)/;
			sql('UPDATE cause SET there = false');
		}
		wait_settled($node, 'codes');
		my $written = sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM codes WHERE n BETWEEN $n[0] AND $n[2]");
		is($written, $decision eq 'refused' ? "$n[0],$n[2]" : join(',', @n), "$code is $decision: " . ($decision eq 'refused' ? 'its neighbours are kept' : 'all arrive once the cause is gone'));
		is(letters('codes'), $decision eq 'refused' ? "$n[1]|write|$code" : '', "$code: " . ($decision eq 'refused' ? 'a dead letter' : 'no dead letter'));
		sql(q{SELECT streamsink.discard_dead_letters('codes'); UPDATE cause SET there = true});
	}
}
is(sql('SELECT count(*) - count(DISTINCT n) FROM codes'), 0, 'nothing is written twice');

# A row security policy that refuses a row: 42501, with a hint that names it.
sql(q{CREATE ROLE reader LOGIN; SELECT streamsink.grant_access('reader'); GRANT USAGE ON FOREIGN SERVER iot TO reader;
	CREATE USER MAPPING FOR reader SERVER iot;
	ALTER SERVER iot OPTIONS (ADD password_required 'false');
	CREATE TABLE rls (n int); ALTER TABLE rls ENABLE ROW LEVEL SECURITY; GRANT INSERT, SELECT ON rls TO reader;
	CREATE POLICY small ON rls FOR INSERT TO reader WITH CHECK (n < 10);
	SET SESSION AUTHORIZATION reader;
	SELECT streamsink.create_pipeline('rls', server => 'iot', stream => 'rls', target => 'rls', retry_backoff => '20 ms');
	SELECT streamsink.start('rls')});
produce($redis, 'rls', [ n => 1 ], [ n => 11 ]);
poll_until(sub { status('rls', 'last_sqlstate, reason, hint') =~ /^42501\|new row violates row-level security.*\|.*row security policy/ }, 'reason and hint');
ok(1, 'a row that a policy refuses waits, and the hint names policies');
sql('DROP POLICY small ON rls; CREATE POLICY large ON rls FOR INSERT TO reader WITH CHECK (n < 100)');
wait_sql('SELECT count(*) = 2 FROM rls', 'the policy permits it');
is(letters('rls'), '', '... without a dead letter');
sql("SELECT streamsink.drop_pipeline('rls')");

# ---------------------------------------------------------------------------
# max_retries: then the entries at fault are dead letters, their neighbours arrive
# ---------------------------------------------------------------------------
sql(q{SELECT streamsink.alter_pipeline('codes', max_retries => 3)});
my $errors = status('codes', 'errors');
produce($redis, 'codes', map { [ n => 1000 + $_, code => $_ == 70 || $_ == 71 ? '55P03' : 'good' ] } 1 .. 200);
wait_settled($node, 'codes');
is(letters('codes'), '1070|retries|55P03 1071|retries|55P03', 'max_retries: the entries at fault are dead letters of stage retries');
is(sql("SELECT string_agg(DISTINCT concat_ws(' ', d.attempts, a.attempt), ',') FROM streamsink.dead_letters d JOIN streamsink.dead_letter_attempts a ON a.dead_letter = d.id WHERE d.pipeline = 'codes' AND d.stage = 'retries'"), '4 4', '... after three tries of the batch and one of theirs');
is(sql('SELECT count(*), count(DISTINCT n) FROM codes WHERE n BETWEEN 1001 AND 1200'), '198|198', '... and their neighbours arrive once');
cmp_ok(status('codes', "errors - $errors"), '>=', 3, '... after the first try and two more');
cmp_ok(status('codes', "errors - $errors"), '<=', 16, '... and not many');
sql(q{SELECT streamsink.discard_dead_letters('codes'); SELECT streamsink.alter_pipeline('codes', max_retries => 0)});
foreach my $code (qw(40001 40P01 57P01 57014 42P01))
{
	$errors = status('codes', 'errors');
	produce($redis, 'codes', [ n => 2000, code => $code ]);
	wait_sql("SELECT errors >= $errors + 5 FROM streamsink.status WHERE pipeline = 'codes'", "$code is tried again");
	is(letters('codes'), '', "$code is never counted");
	sql('UPDATE cause SET there = false');
	wait_settled($node, 'codes');
	sql('UPDATE cause SET there = true');
}

# The bad batch of one stream while others have traffic.
sql(q{SELECT streamsink.create_pipeline('busy', server => 'iot', stream => 'busy:*', target => 'codes', retry_backoff => '20 ms', retry_backoff_max => '20 ms',
	max_retries => 5, batch_size => 2); SELECT streamsink.start('busy')});
my $m = 0;
my $traffic = sub { produce($redis, "busy:$_", map { [ n => 5001 + $m++, code => 'good' ] } 1 .. 30) for qw(a c); return; };
$traffic->();
wait_settled($node, 'busy');
$traffic->();
# the last stream to be found: after a failure the others' pending entries are settled before its own
produce($redis, 'busy:b', [ n => 5000, code => '53100' ]);
poll_until(sub { $traffic->(); return letters('busy') ne ''; }, 'the bad one to be given up');
wait_settled($node, 'busy');
is(letters('busy'), '5000|retries|53100', 'max_retries comes to its end beside busy streams');
is(sql("SELECT count(*), count(DISTINCT n) FROM codes WHERE n > 5000"), "$m|$m", '... and they lose nothing');

# While entries become rows: a machine error, a want of memory and the batch's deadline.
sql(q{CREATE FUNCTION check_code(code text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN
		IF code = 'slow' THEN PERFORM pg_sleep(60); END IF;
		IF code <> 'good' THEN RAISE EXCEPTION 'as asked for' USING ERRCODE = code; END IF;
		RETURN true;
	END$$;
	CREATE DOMAIN code AS text CHECK (check_code(VALUE));
	CREATE TABLE typed (n int, code code);
	SELECT streamsink.create_pipeline('typed', server => 'iot', stream => 'typed', target => 'typed', retry_backoff => '20 ms', retry_backoff_max => '50 ms', max_retries => 2);
	SELECT streamsink.start('typed')});
produce($redis, 'typed', map { [ n => $_, code => $_ == 7 ? '53100' : $_ == 33 ? '53200' : 'good' ] } 1 .. 60);
wait_settled($node, 'typed');
is(letters('typed'), '7|retries|53100 33|decode|53200', 'decoding: a machine error after max_retries, a want of memory once the entry is alone');
is(sql('SELECT count(*), count(DISTINCT n) FROM typed'), '58|58', '... and their neighbours arrive once');
sql("SELECT streamsink.discard_dead_letters('typed'); TRUNCATE typed");
change_setting($node, 'streamsink.batch_timeout', '300ms');
produce($redis, 'typed', map { [ n => $_, code => $_ == 5 ? 'slow' : 'good' ] } 1 .. 8);
wait_settled($node, 'typed');
is(letters('typed'), '5|decode|57014', 'decoding: an entry that alone takes longer than a batch may is a dead letter');
is(sql('SELECT count(*), count(DISTINCT n) FROM typed'), '7|7', '... and its neighbours arrive once');

# ... and while they are written.
sql(q{CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.code = 'slow' THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END$$;
	CREATE TABLE slow (n int, code text);
	CREATE TRIGGER slow BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION slow();
	SELECT streamsink.create_pipeline('slow', server => 'iot', stream => 'slow', target => 'slow'); SELECT streamsink.start('slow')});
produce($redis, 'slow', map { [ n => $_, code => $_ == 5 ? 'slow' : 'good' ] } 1 .. 20);
wait_settled($node, 'slow');
is(letters('slow'), '5|write|57014', 'writing: an entry that alone takes longer than a batch may is a dead letter');
is(sql('SELECT count(*), count(DISTINCT n) FROM slow'), '19|19', '... and its neighbours arrive once');

# The time that others used up, in the same try or before it, is not the entry's.
change_setting($node, 'streamsink.batch_timeout', '2s');
sql(q{CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		IF NEW.code = 'late' THEN PERFORM pg_sleep(1.3); END IF;
		IF NEW.code = 'bad' THEN RAISE EXCEPTION 'bad'; END IF;
		RETURN NEW;
	END$$;
	SELECT streamsink.discard_dead_letters('slow'); TRUNCATE slow});
wait_settled($node, 'slow');
$redis->cli_stdin(join '', resp('MULTI'), (map { resp('XADD', 'slow', '*', @$_) } [ n => 1, code => 'late' ], [ n => 2, code => 'bad' ]), resp('EXEC'));
wait_settled($node, 'slow');
is(letters('slow'), '2|write|P0001', 'writing: the deadline strikes at an entry that is not at fault');
is(sql('SELECT string_agg(n::text, $$ $$) FROM slow'), '1', '... which is tried once more, and arrives');
if (($node->psql('postgres', 'SHOW streamsink.fault'))[0] == 0)
{
	sql(q{CREATE OR REPLACE FUNCTION check_code(code text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM pg_sleep(1.3); RETURN true; END$$;
		SELECT streamsink.discard_dead_letters('typed'); TRUNCATE typed});
	change_setting($node, 'streamsink.fault', 'before-write:sleep1300-once');
	produce($redis, 'typed', [ n => 1, code => 'late' ]);
	wait_settled($node, 'typed');
	is(letters('typed'), '', 'decoding: the deadline strikes at an entry that is not at fault');
	is(sql('SELECT count(*) FROM typed'), 1, '... which is tried once more, and arrives');
	change_setting($node, 'streamsink.fault', '');
}
change_setting($node, 'streamsink.batch_timeout', '5min');

# ---------------------------------------------------------------------------
# Two workers that update the same rows in different order
# ---------------------------------------------------------------------------
sql(q{CREATE TABLE counts (k int PRIMARY KEY, n int);
	INSERT INTO counts SELECT k, 0 FROM generate_series(1, 40) k;
	CREATE TABLE events (k int, n int);
	CREATE FUNCTION count_event() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN UPDATE counts SET n = n + 1 WHERE k = NEW.k; PERFORM pg_sleep(0.001); RETURN NEW; END$$;
	CREATE TRIGGER count_event BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION count_event();
	SELECT streamsink.create_pipeline('deadlock', server => 'iot', stream => 'events', target => 'events', workers => 2, batch_size => 40,
		retry_backoff => '20 ms', retry_backoff_max => '50 ms', max_retries => 0);
	SELECT streamsink.start('deadlock')});
wait_sql("SELECT workers = 2 FROM streamsink.status WHERE pipeline = 'deadlock'", 'two workers');
my $sent = 0;
my $deadlocks = sub { return sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"); };
my $before = $deadlocks->();
poll_until(sub {
	for my $round (1 .. 4)
	{
		my @keys = $round % 2 ? (1 .. 40) : reverse 1 .. 40;
		produce($redis, 'events', map { [ k => $_, n => ++$sent ] } @keys);
	}
	return $deadlocks->() >= $before + 5;
}, 'deadlocks');
wait_settled($node, 'deadlock');
is(sql('SELECT count(*), count(DISTINCT n) FROM events'), "$sent|$sent", 'workers that deadlock write every entry once');
is(sql('SELECT sum(n) FROM counts'), $sent, '... and its effects');
is(letters('deadlock'), '', '... and blame no entry');
like(slurp_file($node->logfile), qr/pipeline "deadlock" waits after an error: deadlock detected/, '... though they did deadlock');
sql("SELECT streamsink.stop('deadlock')");

# ---------------------------------------------------------------------------
# lock_timeout against a lock that somebody holds
# ---------------------------------------------------------------------------
sql(q{CREATE TABLE locked (n int);
	SELECT streamsink.create_pipeline('locked', server => 'iot', stream => 'locked', target => 'locked', retry_backoff => '20 ms', retry_backoff_max => '50 ms',
		settings => '{"lock_timeout": "50ms"}');
	SELECT streamsink.start('locked')});
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE locked');
produce($redis, 'locked', map { [ n => $_ ] } 1 .. 500);
wait_sql("SELECT errors >= 3 AND last_sqlstate = '55P03' FROM streamsink.status WHERE pipeline = 'locked'", 'the lock to time out');
$locker->query_safe('COMMIT');
$locker->quit;
wait_settled($node, 'locked');
is(sql('SELECT count(*), count(DISTINCT n) FROM locked'), '500|500', 'a lock that times out is tried again until it is there');
is(letters('locked'), '', '... without a dead letter');

# ---------------------------------------------------------------------------
# The circuit breaker
# ---------------------------------------------------------------------------
sql(q{CREATE TABLE rated (n int NOT NULL);
	SELECT streamsink.create_pipeline('rated', server => 'iot', stream => 'rated', target => 'rated', max_dead_letter_rate => 0.1, batch_size => 200);
	SELECT streamsink.start('rated')});
# a tenth of them, evenly: not above the rate
produce($redis, 'rated', map { [ n => $_ % 10 ? $_ : 'bad' ] } 1 .. 2000);
wait_settled($node, 'rated');
is(sql('SELECT count(*) FROM rated') . '|' . status('rated', 'refused') . '|' . status('rated', 'state'), '1800|200|running', 'what is at the rate does not trip the breaker');
# the producers forget a column
produce($redis, 'rated', map { [ m => $_ ] } 1 .. 5000);
wait_for_state($node, 'rated', 'failed');
like(status('rated', 'reason'), qr/^\d+ of the last 1000 entries were refused, more than max_dead_letter_rate 0\.1 permits; entry \S+ of stream "rated": /, 'above it, the pipeline stops with the reason');
like(status('rated', 'hint'), qr/start\(\)/, '... and a hint');
cmp_ok(sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'rated'"), '<', 400, '... before the stream is emptied into the dead letters');
is(status('rated', 'read = written + refused'), 't', '... and its counters add up');
my $refused = status('rated', 'refused');
is(sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'rated'"), $refused, '... nothing of the batch that tripped it was kept');
sql(q{ALTER TABLE rated ALTER n DROP NOT NULL; SELECT streamsink.start('rated')});
wait_settled($node, 'rated');
is(sql('SELECT count(*) FROM rated') + sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'rated'"), 7000, 'after start() it goes on where it was, each entry once');
is(status('rated', 'state'), 'running', '... with a new window');
# in a session too
sql(q{SELECT streamsink.stop('rated')});
produce($redis, 'rated', map { [ n => 'bad' ] } 1 .. 1000);
my ($rc, $out, $err) = $node->psql('postgres', "CALL streamsink.ingest('rated')");
like($err, qr/too many entries of pipeline "rated" were refused.*DETAIL:.*of the last.*HINT:/s, 'ingest raises it');
($rc, $out, $err) = $node->psql('postgres', "SELECT streamsink.alter_pipeline('rated', reset => '{max_dead_letter_rate}'); CALL streamsink.ingest('rated')");
is(sql("SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'rated'"), $refused + 1000, '... and drains all of it without the breaker') or diag($err);

# ---------------------------------------------------------------------------
# A full disk
# ---------------------------------------------------------------------------
SKIP:
{
	my $dir = $ENV{STREAMSINK_SMALL_DISK};
	skip 'no small file system (STREAMSINK_SMALL_DISK)', 4 unless defined $dir && -w $dir;
	mkdir "$dir/errors";
	$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$dir/errors'");
	sql(q{CREATE TABLE filled (n int, filler text) TABLESPACE small;
		SELECT streamsink.create_pipeline('filled', server => 'iot', stream => 'filled', target => 'filled', retry_backoff => '20 ms', retry_backoff_max => '100 ms');
		SELECT streamsink.start('filled')});
	open my $file, '>', "$dir/fill" or die "$dir/fill: $!";
	my $written = 1;
	$written = syswrite $file, 'x' x 65536 while $written;
	close $file;
	produce($redis, 'filled', map { [ n => $_, filler => 'x' x 1000 ] } 1 .. 2000);
	wait_sql("SELECT errors >= 3 AND last_sqlstate = '53100' FROM streamsink.status WHERE pipeline = 'filled'", 'the disk to be full');
	wait_for_state($node, 'filled', 'waiting');
	ok(1, 'a full disk is a reason to wait');
	is(letters('filled'), '', '... and no entry\'s fault');
	unlink "$dir/fill";
	wait_settled($node, 'filled');
	is(sql('SELECT count(*), count(DISTINCT n) FROM filled'), '2000|2000', '... and goes on when there is room');
	is(letters('filled'), '', '... without a dead letter');
	sql(q{SELECT streamsink.drop_pipeline('filled'); DROP TABLE filled; DROP TABLESPACE small});
}

is(sql("SELECT count(*) FROM streamsink.status WHERE read <> written + refused + ignored + repeated + superseded + vanished"), 0, 'counters add up');
is(sql('SELECT count(*) FROM streamsink.attempt'), 0, 'nothing is noted as being tried');
$node->stop;
done_testing;
