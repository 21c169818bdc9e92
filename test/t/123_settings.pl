# Settings of roles and databases that would bend a worker, owners that go or
# lose what they need, and what other parts of the server see of a worker.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('settings');
my $node  = new_node('settings', 'streamsink.discovery_interval' => '100ms', 'streamsink.setup_retry' => '200ms', 'streamsink.block_time' => '200ms',
	'streamsink.fold_rows' => 5, autovacuum_naptime => '1s', autovacuum_vacuum_insert_threshold => 100);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub status { return sql("SELECT $_[1] FROM streamsink.status WHERE pipeline = '$_[0]'"); }
create_server($node, $redis);

sql(q{ALTER SERVER iot OPTIONS (ADD password_required 'false');
	CREATE ROLE owner LOGIN; CREATE ROLE heir LOGIN;
	SELECT streamsink.grant_access('owner'), streamsink.grant_access('heir');
	GRANT USAGE ON FOREIGN SERVER iot TO owner, heir;
	GRANT CREATE ON SCHEMA public TO owner, heir});

# ---- ALTER ROLE ... SET, ALTER DATABASE ... SET ----

# What a worker must not take over, with the value that it must have instead, seen by the owner's trigger.
my %dangerous = (
	default_transaction_isolation       => [ 'serializable', 'read committed' ],
	default_transaction_read_only       => [ 'on',           'off' ],
	default_transaction_deferrable      => [ 'on',           'off' ],
	session_replication_role            => [ 'replica',      'origin' ],
	row_security                        => [ 'off',          'on' ],
	zero_damaged_pages                  => [ 'on',           'off' ],
	statement_timeout                   => [ '1ms',          '0' ],
	lock_timeout                        => [ '1ms',          '0' ],
	idle_in_transaction_session_timeout => [ '1ms',          '0' ],
	idle_session_timeout                => [ '1ms',          '0' ],
	transaction_timeout                 => [ '10ms',         '0' ], # from 17 on
	search_path                         => [ 'nowhere',      '"$user", public' ],
	DateStyle                           => [ 'SQL, DMY',     'ISO, MDY' ],
	TimeZone                            => [ 'Asia/Tokyo',   'Etc/UTC' ]);
# What may be as it likes, but must not change what is written.
my %odd = (
	client_encoding           => 'LATIN1',
	bytea_output              => 'escape',
	extra_float_digits        => '-15',
	quote_all_identifiers     => 'on',
	transform_null_equals     => 'on',
	xmloption                 => 'document',
	enable_seqscan            => 'off',
	jit_above_cost            => '0',
	plan_cache_mode           => 'force_generic_plan',
	synchronous_commit        => 'off',
	default_table_access_method => 'heap',
	temp_tablespaces          => 'nowhere',
	client_min_messages       => 'error',
	work_mem                  => '64kB',
	'plpgsql.variable_conflict' => 'error');
my @there = split /\n/, sql(q{SELECT name FROM pg_settings});
my %there = map { $_ => 1 } @there, 'plpgsql.variable_conflict';
delete @dangerous{ grep { !$there{$_} } keys %dangerous };

sql(q{SET TimeZone = 'Etc/UTC'; SET DateStyle = 'ISO, MDY'; SET SESSION AUTHORIZATION owner;
	CREATE TABLE seen (n int PRIMARY KEY, d date, a text[], b bytea, f float8, v text, name text, value text);
	CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		new.value := (SELECT jsonb_object_agg(name, setting) FROM pg_settings); new.name := current_setting('transaction_isolation'); RETURN new; END$$;
	CREATE TRIGGER look BEFORE INSERT ON seen FOR EACH ROW EXECUTE FUNCTION look();
	SELECT streamsink.create_pipeline('seen', server => 'iot', stream => 'seen', target => 'seen')});
sub set_all
{
	my ($whom) = @_;
	my %all = ((map { $_ => $dangerous{$_}[0] } keys %dangerous), %odd);
	my ($rc, $out, $err) = $node->psql('postgres', join ' ', map { "ALTER $whom SET $_ = '$all{$_}';" } sort keys %all);
	is($rc, 0, "ALTER $whom SET of " . keys(%all) . ' settings') or diag($err);
	return;
}
my $n = 0;
sub check_settings
{
	my ($what) = @_;
	$n++;
	produce($redis, 'seen', [ n => $n, d => '02/03/2024', a => '{NULL,x}', b => '\x00ff', f => '0.1', v => "\xc3\xa4" ]);
	# a session would have these settings as well
	local $ENV{PGOPTIONS} = join ' ', map { "-c $_" } qw(statement_timeout=0 lock_timeout=0 idle_session_timeout=0 idle_in_transaction_session_timeout=0
	  default_transaction_read_only=off client_encoding=UTF8 search_path=public extra_float_digits=1 DateStyle=ISO bytea_output=hex),
	  $there{transaction_timeout} ? 'transaction_timeout=0' : ();
	poll_until(sub { sql("SELECT count(*) FROM seen WHERE n = $n") eq '1' }, "the row ($what)", 20);
	is(sql("SELECT d, a, b, f, v, name FROM seen WHERE n = $n"), "2024-02-03|{NULL,x}|\\x00ff|0.1|\xc3\xa4|read committed", "$what: what is written is the same");
	my %got = map { split /=/, $_, 2 } split /\n/, sql("SELECT s.key || '=' || s.value FROM seen, jsonb_each_text(value::jsonb) s WHERE n = $n");
	is(join(', ', map { "$_=$got{$_}" } sort keys %dangerous), join(', ', map { "$_=$dangerous{$_}[1]" } sort keys %dangerous), "$what: a worker has settings of its own");
	return;
}
sql(q{SELECT streamsink.start('seen')});
check_settings('by default');
set_all('ROLE owner');
# settings are taken by a new process
my $first = sql(q{SELECT pg_terminate_backend(pid), pid FROM streamsink.workers}) =~ s/^t\|//r;
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM streamsink.workers WHERE pid <> $first AND state = 'running'") or die 'no new worker';
check_settings('ALTER ROLE');
sql(q{ALTER ROLE owner RESET ALL});
# with scans and couriers under them, too
set_all('DATABASE postgres');
$node->restart;
check_settings('ALTER DATABASE, and a restart');
$node->safe_psql('template1', 'ALTER DATABASE postgres RESET ALL');
is(sql('SELECT count(*) FROM streamsink.dead_letters'), 0, 'nothing was refused');
sql(q{SELECT streamsink.restart('seen')});

# ---- transactions, snapshots, statistics ----

# A worker that waits for Redis holds up no vacuum: samples while it idles, works, and while Redis hangs.
sql(q{CREATE UNLOGGED TABLE samples (waits bool, holds bool, xact bool)});
my $sampler = $node->background_psql('postgres');
sub sample
{
	$sampler->query_safe(q{DO $$BEGIN
		FOR i IN 1 .. 300 LOOP
			PERFORM pg_stat_clear_snapshot();
			INSERT INTO samples SELECT wait_event_type IN ('Extension', 'Activity'), backend_xmin IS NOT NULL OR backend_xid IS NOT NULL, xact_start IS NOT NULL
				FROM pg_stat_activity WHERE backend_type = 'streamsink worker';
			PERFORM pg_sleep(0.001);
		END LOOP; END$$});
	return;
}
sql(q{CREATE TABLE t (n int); SELECT streamsink.create_pipeline('t', server => 'iot', stream => 't', target => 't', batch_size => 100); SELECT streamsink.start('t')});
wait_for_state($node, 't', 'running');
sample();
my $producer = fork // die "fork: $!";
if ($producer == 0)
{
	eval { produce($redis, 't', map { [ n => $_ ] } 1 .. 1000) for 1 .. 20 };
	require POSIX;
	POSIX::_exit(0);
}
sample();
waitpid $producer, 0;
wait_settled($node, 't');
$redis->freeze;
sample();
$redis->thaw;
$sampler->quit;
my ($samples, $waiting, $held, $in_xact) = split /\|/, sql('SELECT count(*), count(*) FILTER (WHERE waits), count(*) FILTER (WHERE waits AND holds), count(*) FILTER (WHERE waits AND xact) FROM samples');
cmp_ok($waiting, '>', 300, "samples of waiting workers ($waiting of $samples)");
# a row of pg_stat_activity is not of one moment: now and then a sample shows the wait of one and the snapshot of another
cmp_ok($held, '<', $waiting / 50, 'who waits for Redis holds no snapshot');
cmp_ok($in_xact, '<', $waiting / 50, 'and no transaction');

# What workers write is seen by autovacuum: rows of the target, dead ones of the ledger.
ok($node->poll_query_until('postgres', q{SELECT n_tup_ins = 20000 FROM pg_stat_all_tables WHERE relname = 't'}), 'rows are counted in the statistics');
ok($node->poll_query_until('postgres', q{SELECT n_tup_ins > 0 AND n_tup_del > 0 FROM pg_stat_all_tables WHERE relid = 'streamsink.ledger_log'::regclass}), 'so are those of the log');
ok($node->poll_query_until('postgres', q{SELECT autovacuum_count > 0 FROM pg_stat_all_tables WHERE relname = 't'}), 'autovacuum comes') or diag(sql('SELECT relname, n_tup_ins, n_dead_tup, n_ins_since_vacuum FROM pg_stat_all_tables WHERE schemaname IN ($$public$$, $$streamsink$$)'));
like(sql(q{SELECT application_name || ' ' || backend_type || ' ' || usename FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND usename = 'owner'}), qr/^streamsink worker: seen 0 streamsink worker owner$/,
	'pg_stat_activity shows whose worker it is');
sql(q{SELECT streamsink.drop_pipeline('t')});

# ---- owners ----

# The target changes hands: the pipeline's owner may not insert any more, until the pipeline follows.
sql(q{CREATE TABLE mine (n int, who text DEFAULT current_user); ALTER TABLE mine OWNER TO owner;
	SET SESSION AUTHORIZATION owner;
	SELECT streamsink.create_pipeline('mine', server => 'iot', stream => 'mine', target => 'mine', retry_backoff => '50 ms');
	SELECT streamsink.start('mine')});
produce($redis, 'mine', [ n => 1 ]);
wait_settled($node, 'mine');
sql(q{SELECT streamsink.drop_pipeline('seen'); REASSIGN OWNED BY owner TO heir});
produce($redis, 'mine', [ n => 2 ]);
ok($node->poll_query_until('postgres', q{SELECT state = 'waiting' AND last_sqlstate = '42501' AND hint <> '' FROM streamsink.status WHERE pipeline = 'mine'}), 'REASSIGN OWNED took the table: the pipeline waits') or diag(status_of($node, 'mine'));
my $mark = -s $node->logfile;
my $errors = status('mine', 'errors');
$node->poll_query_until('postgres', "SELECT errors > $errors + 10 FROM streamsink.status WHERE pipeline = 'mine'");
my $lines = () = slurp_file($node->logfile, $mark) =~ /pipeline "mine" waits/g;
cmp_ok($lines, '<', 3, "... and does not fill the log ($lines lines for more than ten tries)");
sql(q{SELECT streamsink.alter_pipeline('mine', new_owner => 'heir')});
wait_settled($node, 'mine');
is(sql('SELECT n, who FROM mine ORDER BY n') =~ s/\n/ /gr, '1|owner 2|heir', 'with the heir as its owner it goes on');

# DROP OWNED takes privileges, DROP ROLE the role.
sql(q{REVOKE ALL ON mine FROM owner; ALTER TABLE mine OWNER TO postgres; GRANT INSERT, SELECT ON mine TO heir});
my ($rc, $out, $err) = $node->psql('postgres', 'DROP ROLE heir');
like($err, qr/cannot be dropped because some objects depend on it/, 'an owner with privileges is not dropped');
sql('DROP OWNED BY heir');
produce($redis, 'mine', [ n => 3 ]);
ok($node->poll_query_until('postgres', q{SELECT state = 'waiting' AND reason ~ 'permission denied' FROM streamsink.status WHERE pipeline = 'mine'}), 'DROP OWNED: the pipeline waits') or diag(status_of($node, 'mine'));
sql('DROP ROLE heir');
ok($node->poll_query_until('postgres', q{SELECT state = 'waiting' AND reason ~ 'owner.* does not exist' AND hint ~ 'new_owner' FROM streamsink.status WHERE pipeline = 'mine'}), 'DROP ROLE: the pipeline waits and says what to do') or diag(status_of($node, 'mine'));
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink worker'}), 0, '... nothing runs for somebody who is gone');
sql(q{SELECT streamsink.alter_pipeline('mine', new_owner => 'postgres')});
wait_settled($node, 'mine');
is(sql('SELECT n, who FROM mine ORDER BY n') =~ s/\n/ /gr, '1|owner 2|heir 3|postgres', 'with a new owner it goes on');

# An owner who may not log in any more: from 17 on that is nothing to a worker.
sql(q{SELECT streamsink.grant_access('owner'); GRANT USAGE ON FOREIGN SERVER iot TO owner; GRANT INSERT ON mine TO owner; ALTER ROLE owner NOLOGIN;});
($rc, $out, $err) = $node->psql('postgres', q{SELECT streamsink.alter_pipeline('mine', new_owner => 'owner')});
if (sql('SELECT current_setting($$server_version_num$$)::int >= 170000') eq 't') { is($rc, 0, 'NOLOGIN is no obstacle'); }
else { like($err, qr/log in|LOGIN/, 'who may not log in cannot become the owner'); }
sql(q{ALTER ROLE owner LOGIN; SELECT streamsink.alter_pipeline('mine', new_owner => 'owner'); ALTER ROLE owner NOLOGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'streamsink worker'});
produce($redis, 'mine', [ n => 4 ]);
if ($rc != 0)
{
	ok($node->poll_query_until('postgres', q{SELECT state = 'waiting' AND reason ~ 'may not log in' AND hint ~ 'LOGIN' FROM streamsink.status WHERE pipeline = 'mine'}), 'an owner who lost LOGIN: the pipeline waits and says so') or diag(status_of($node, 'mine'));
	sql('ALTER ROLE owner LOGIN');
}
wait_settled($node, 'mine');
is(sql('SELECT who FROM mine WHERE n = 4'), 'owner', '... and goes on when he has it');

unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'no process crashed');
$node->stop;
done_testing;
