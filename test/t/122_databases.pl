# What is done to databases and to the extension while pipelines run: copied,
# renamed, moved, dropped; committed and rolled back.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('databases');
my $node  = new_node('databases', 'streamsink.discovery_interval' => '100ms', 'streamsink.block_time' => '500ms');

sub sql { my ($db, @text) = @_; return $node->safe_psql($db, join "\n", @text); }
sub fails
{
	my ($db, $sql, $pattern, $name) = @_;
	my ($rc, $out, $err) = $node->psql($db, "\\set VERBOSITY verbose\n$sql");
	like($err, $pattern, $name);
	return;
}
my %sent;
sub send_some
{
	my ($stream) = @_;
	produce($redis, $stream, map { [ n => $_ ] } ($sent{$stream} // 0) + 1 .. ($sent{$stream} // 0) + 500);
	$sent{$stream} += 500;
	return;
}
sub check_exact
{
	my ($what, $db, $stream) = @_;
	send_some($stream);
	wait_settled($node, 'p', $db);
	is(sql($db, 'SELECT count(*), count(DISTINCT n) FROM t'), "$sent{$stream}|$sent{$stream}", "$what: every entry once");
	return;
}
sub no_workers { my ($db) = @_; return sql('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND datname = '$db'") eq 't'; }
my $define = q{CREATE TABLE t (n int);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => current_database(), target => 't', batch_size => 50);
	SELECT streamsink.start('p');};

sql('postgres', 'CREATE DATABASE home');
sql('home', 'CREATE EXTENSION streamsink');
create_server($node, $redis, 'iot', 'home');
sql('home', $define);
check_exact('at first', 'home', 'home');

# ---- copied, renamed, moved ----

# The server waits five seconds for whoever is connected; a worker is not told to leave.
fails('postgres', 'CREATE DATABASE copy TEMPLATE home', qr/55006/, 'a database in which a worker runs is not copied');
sql('home', 'SELECT streamsink.stop_all()');
sql('postgres', 'CREATE DATABASE copy TEMPLATE home');
pass('after stop_all it is copied');
is(sql('copy', q{SELECT count(*), bool_or(enabled) FROM streamsink.pipelines}), '1|f', '... with its pipelines, which are stopped there');
sql('postgres', 'ALTER DATABASE home RENAME TO moved');
sql('postgres', q{SET allow_in_place_tablespaces = on;}, q{CREATE TABLESPACE elsewhere LOCATION ''});
sql('postgres', 'ALTER DATABASE moved SET TABLESPACE elsewhere');
pass('... renamed, and moved to another tablespace');
sql('moved', q{SELECT streamsink.start('p')});
check_exact('renamed and moved', 'moved', 'home');
is(sql('copy', 'SELECT count(*) FROM t'), 500, 'the copy was left alone');
sql('moved', 'BEGIN; SELECT streamsink.stop_all(); ROLLBACK');
check_exact('stop_all rolled back', 'moved', 'home');
sql('moved', 'SELECT streamsink.stop_all()');
sql('postgres', 'DROP DATABASE moved');
sql('postgres', 'DROP DATABASE copy');
pass('after stop_all it is dropped');
is(sql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink worker'}), 0, 'no worker is left');

# ---- the extension goes ----

# A superuser who is not the first one owns it all, so that DROP OWNED takes it.
sql('postgres', 'CREATE ROLE boss SUPERUSER LOGIN');
sub make_database
{
	my ($db) = @_;
	sql('postgres', "CREATE DATABASE $db");
	my $options = server_options($redis);
	sql($db, "SET SESSION AUTHORIZATION boss; CREATE EXTENSION streamsink; CREATE SERVER iot FOREIGN DATA WRAPPER streamsink OPTIONS ($options);", $define);
	check_exact("in $db", $db, $db);
	return;
}
my %drops = (
	extension => 'DROP EXTENSION streamsink CASCADE',
	schema    => 'DROP SCHEMA streamsink CASCADE',
	owned     => 'DROP OWNED BY boss CASCADE');
foreach my $what (sort keys %drops)
{
	make_database($what);
	my $mark = -s $node->logfile;

	# under load, with a batch in the middle of what is dropped
	send_some($what);
	sql($what, "BEGIN; $drops{$what}; ROLLBACK");
	check_exact("$drops{$what}, rolled back", $what, $what);
	my ($pid) = sql($what, q{SELECT pid FROM streamsink.workers});
	send_some($what);
	sql($what, "BEGIN; $drops{$what}; COMMIT");
	poll_until(sub { no_workers($what) }, 'the worker to leave');
	my $log = slurp_file($node->logfile, $mark);
	like($log, qr/\[$pid\][^\n]*streamsink worker: p 0 stopped/, "$drops{$what}: the worker leaves");
	unlike($log, qr/\[$pid\][^\n]*(?:ERROR|FATAL)/, '... without an error');
	# a batch in the middle may find its tables gone
	my $lines = () = $log =~ /\[$pid\][^\n]*waits after an error/g;
	cmp_ok($lines, '<=', 1, '... or a flood of complaints');
	is(sql($what, q{SELECT count(*) FROM pg_extension WHERE extname = 'streamsink'}), 0, '... the extension is gone');
	sql('postgres', "DROP DATABASE $what");
}

# A batch that waits for a lock does not hold up who drops the extension for long.
make_database('busy');
my $locker = $node->background_psql('busy');
$locker->query_safe('BEGIN; LOCK TABLE t');
send_some('busy');
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'streamsink worker' AND wait_event_type = 'Lock'}) or die 'no batch';
$locker->query_safe('SET client_min_messages = warning; DROP EXTENSION streamsink CASCADE');
$locker->query_safe('COMMIT');
$locker->quit;
poll_until(sub { no_workers('busy') }, 'the worker to leave');
pass('the extension is dropped by the one whom a batch waits for');
# and made again
my $options = server_options($redis);
sql('busy', 'DROP TABLE t;', 'CREATE EXTENSION streamsink; CREATE SERVER iot FOREIGN DATA WRAPPER streamsink OPTIONS', "($options)");
$redis->cli('DEL', 'busy');
delete $sent{busy};
sql('busy', $define);
check_exact('made again', 'busy', 'busy');

# ---- a schema that only looks like ours ----

sql('postgres', 'CREATE DATABASE impostor');
sql('impostor', q{CREATE SCHEMA streamsink; CREATE TABLE streamsink.pipeline (id int, name text, enabled bool); INSERT INTO streamsink.pipeline VALUES (1, 'x', true)});
my $mark = -s $node->logfile;
$node->restart;
check_exact('after a restart', 'busy', 'busy');
sql('impostor', 'SELECT 1');
unlike(slurp_file($node->logfile, $mark), qr/ERROR|terminated by signal|exited with exit code [^01]/, 'a schema of our name without the extension is nothing to us');
is(sql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'streamsink%' AND datname = 'impostor'}), 0, '... nobody connects there');

unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'no process crashed');
$node->stop;
done_testing;
