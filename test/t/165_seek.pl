# seek(): a pipeline is moved back and forth, in a transaction with what belongs
# to it; whatever becomes of the group, every entry is applied as often as it should be.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('seek');
my $node  = new_node('seek', 'streamsink.discovery_interval' => '100ms', 'streamsink.sample_interval' => '100ms', 'streamsink.backoff_max' => '1s');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join ";\n", @_); }
sub fails { my ($statement, $pattern, $what) = @_; my ($rc, $out, $err) = $node->psql('postgres', $statement); return like($err, $pattern, $what); }
# entries with ids n-0
sub add { my ($stream, $from, $to) = @_; return produce($redis, $stream, map { { n => $_, _id => "$_-0" } } $from .. $to); }
sub numbers { my ($table, $where) = @_; return sql("SELECT coalesce(string_agg(n::text, ' ' ORDER BY n), '') FROM $table WHERE " . ($where // 'true')); }
sub consumer { my ($name, $share) = @_; return sql("SELECT 'streamsink:' || identity FROM streamsink.pipeline WHERE name = '$name'") . (defined $share ? ":$share" : ''); }
sub pending { my ($stream, $group) = @_; return (split /\n/, $redis->cli('XPENDING', $stream, $group))[0]; }
sub list { return join ' ', @_; }

sql(q{CREATE TABLE one (n int)}, q{CREATE TABLE many (s text, n int)},
	q{SELECT streamsink.create_pipeline('one', server => 'iot', stream => 'one', target => 'one', batch_size => 7)},
	q{SELECT streamsink.create_pipeline('many', server => 'iot', stream => 'many:{s}', target => 'many')},
	q{SELECT streamsink.start('one'), streamsink.start('many')});
add('one', 1, 10);
wait_settled($node, 'one');
is(numbers('one'), list(1 .. 10), 'before: all of them');

# ---- backward ----
sql(q{BEGIN; SELECT streamsink.stop('one'); DELETE FROM one WHERE n > 5; SELECT streamsink.seek('one', '5-0'); SELECT streamsink.start('one'); COMMIT});
wait_settled($node, 'one');
is(numbers('one'), list(1 .. 10), 'stop, DELETE, seek, start: those behind the position are applied again');
is(sql(q{SELECT settled FROM streamsink.streams WHERE pipeline = 'one'}) =~ /,10-1\)\}$/ ? 1 : 0, 1, '... and settled again');
# of a running pipeline
sql(q{SELECT streamsink.seek('one', '8-0')});
wait_settled($node, 'one');
is(numbers('one'), list(1 .. 8, 9, 9, 10, 10), 'while it runs: again, beside the rows that are there');
sql(q{TRUNCATE one});
sql(q{SELECT streamsink.seek('one', '0')});
wait_settled($node, 'one');
is(numbers('one'), list(1 .. 10), 'to the beginning');

# ---- rollback ----
my $before = $redis->cli('XINFO', 'GROUPS', 'one');
my $ledger = sql(q{SELECT settled FROM streamsink.streams WHERE pipeline = 'one'});
sql(q{BEGIN; SELECT streamsink.stop('one'); DELETE FROM one; SELECT streamsink.seek('one', '3-0'); SELECT streamsink.start('one'); ROLLBACK});
is(sql('SELECT count(*) FROM streamsink.outbox'), 0, 'rollback: no command');
add('one', 11, 12);
wait_settled($node, 'one');
is(numbers('one'), list(1 .. 12), '... and everything as before');
sql(q{BEGIN; SAVEPOINT a; SELECT streamsink.seek('one', '3-0'); ROLLBACK TO a; COMMIT});
add('one', 13, 13);
wait_settled($node, 'one');
is(numbers('one'), list(1 .. 13), '... also of a savepoint');

# ---- forward ----
sql(q{SELECT streamsink.stop('one')});
add('one', 14, 20);
sql(q{SELECT streamsink.seek('one', '17-0')});
sql(q{SELECT streamsink.start('one')});
wait_settled($node, 'one');
is(numbers('one'), list(1 .. 13, 18 .. 20), 'forward: what lies before the position is left out');
# ... over what is pending with us, on both sides of it, and what is pending with a worker that is no more
sql(q{SELECT streamsink.stop('one')});
poll_until(sub { sql(q{SELECT count(*) FROM streamsink.workers}) == 1 }, 'the worker to leave');
add('one', 21, 30);
$redis->cli('XREADGROUP', 'GROUP', 'one', consumer('one', 0), 'COUNT', 4, 'STREAMS', 'one', '>');
$redis->cli('XREADGROUP', 'GROUP', 'one', consumer('one', 7), 'COUNT', 4, 'STREAMS', 'one', '>');
is(pending('one', 'one'), 8, 'eight are pending');
sql(q{SELECT streamsink.seek('one', '26-0')}, q{SELECT streamsink.start('one')});
wait_settled($node, 'one');
poll_until(sub { pending('one', 'one') == 0 }, 'nothing to be pending');
is(numbers('one'), list(1 .. 13, 18 .. 20, 27 .. 30), 'pending entries before the position are acknowledged and not applied, those behind it are applied');
# to the end
sql(q{SELECT streamsink.stop('one')});
add('one', 31, 40);
sql(q{SELECT streamsink.seek('one', '$')}, q{SELECT streamsink.start('one')});
add('one', 41, 42);
wait_settled($node, 'one');
is(numbers('one', 'n > 30'), '41 42', 'to the end: only what comes later');
# ... and back into what was left out
sql(q{SELECT streamsink.seek('one', '35-0')});
wait_settled($node, 'one');
is(numbers('one', 'n > 30'), list(36 .. 40, 41, 41, 42, 42), 'back into what was left out');

# ---- a time, and where positions end ----
produce($redis, 'many:t', map { { n => $_, _id => 1_700_000_000_000 + $_ * 1000 . '-0' } } 0 .. 9);
wait_settled($node, 'many');
sql(q{DELETE FROM many}, q{SELECT streamsink.seek('many', '2023-11-14 22:13:26+00', 'many:t')});
wait_settled($node, 'many');
is(numbers('many'), list(6 .. 9), 'a time: entries of that moment are read as well');

# ---- all streams of a template, or one ----
add("many:$_", 1, 5) for 'a' .. 'c';
wait_settled($node, 'many');
sql(q{DELETE FROM many}, q{SELECT streamsink.seek('many', '3-0', stream => 'many:b')});
wait_settled($node, 'many');
is(sql(q{SELECT string_agg(s || n, ' ' ORDER BY s, n) FROM many}), 'b4 b5', 'one stream of a template');
sql(q{DELETE FROM many}, q{SELECT streamsink.seek('many', '4-0')});
wait_settled($node, 'many');
is(sql(q{SELECT string_agg(s || n, ' ' ORDER BY s, n) FROM many WHERE s <> 't'}), 'a5 b5 c5', 'all streams of a template');
sql(q{SELECT streamsink.stop('many'); DELETE FROM many});
add("many:$_", 6, 8) for 'a' .. 'd';
sql(q{SELECT streamsink.seek('many', '$'); SELECT streamsink.start('many')});
add("many:$_", 9, 9) for 'a' .. 'e';
wait_settled($node, 'many');
poll_until(sub { numbers('many') eq '9 9 9 9 9' }, 'the last ones, of a stream that was never read and a new one, too');
ok(1, 'to the end of all streams that there are');

# ---- several workers, and consumers of others ----
sql(q{CREATE TABLE two (n int); SELECT streamsink.create_pipeline('two', server => 'iot', stream => 'two', target => 'two', workers => 2, batch_size => 10); SELECT streamsink.start('two')});
add('two', 1, 200);
wait_settled($node, 'two');
sql(q{BEGIN; SELECT streamsink.stop('two'); DELETE FROM two WHERE n > 100; SELECT streamsink.seek('two', '100-0'); SELECT streamsink.start('two'); COMMIT});
wait_settled($node, 'two');
is(sql('SELECT count(*), count(DISTINCT n) FROM two'), '200|200', 'two workers: each once');
add('two', 201, 220);
wait_settled($node, 'two');
sql(q{SELECT streamsink.stop('two')});
poll_until(sub { sql(q{SELECT count(*) FROM streamsink.workers WHERE pipeline = 'two'}) == 0 }, 'the workers to leave');
add('two', 221, 240);
$redis->cli('XREADGROUP', 'GROUP', 'two', 'somebody', 'COUNT', 5, 'STREAMS', 'two', '>');
$redis->cli('XACK', 'two', 'two', map { "$_-0" } 221 .. 223);
sql(q{SELECT streamsink.start('two')});
wait_settled($node, 'two');
is(numbers('two', 'n > 220'), list(226 .. 240), 'another consumer took its part');
sql(q{DELETE FROM two}, q{SELECT streamsink.seek('two', '230-0')});
wait_settled($node, 'two');
is(numbers('two'), list(231 .. 240), '... and does not keep us from going back');

# ---- a group that was there before ----
add('theirs', 1, 10);
$redis->cli('XGROUP', 'CREATE', 'theirs', 'theirs', '8-0');
sql(q{CREATE TABLE theirs (n int); SELECT streamsink.create_pipeline('theirs', server => 'iot', stream => 'theirs', target => 'theirs'); SELECT streamsink.seek('theirs', '4-0'); SELECT streamsink.start('theirs')});
wait_settled($node, 'theirs');
is(numbers('theirs'), list(5 .. 10), 'a group that was there before is moved before the first read');
# ... and one that belongs to another pipeline is not
sql(q{CREATE TABLE thief (n int); SET client_min_messages = error; SELECT streamsink.create_pipeline('thief', server => 'iot', stream => 'theirs', target => 'thief', consumer_group => 'theirs'); SELECT streamsink.seek('thief', '0')});
poll_until(sub { sql('SELECT count(*) FROM streamsink.outbox') == 0 }, 'the outbox');
add('theirs', 11, 11);
wait_settled($node, 'theirs');
is(numbers('theirs'), list(5 .. 11), 'the group of another pipeline is left alone');
sql(q{SELECT streamsink.drop_pipeline('thief')});

# Nothing of this looked like a loss.
unlike(slurp_file($node->logfile), qr/are read again|was lost|Redis lost|stood behind/, 'no seek was taken for an accident');

# ---- Redis is away ----
$redis->stop;
sql(q{SELECT streamsink.seek('theirs', '9-0')});
fails(q{SELECT streamsink.seek('theirs', '$')}, qr/could not connect/, '$ needs Redis');
poll_until(sub { sql('SELECT max(attempts) > 0 FROM streamsink.outbox') eq 't' }, 'a try');
$redis->start;
poll_until(sub { sql('SELECT count(*) FROM streamsink.outbox') == 0 }, 'a stream that is gone need not be moved');
sql(q{SELECT streamsink.stop('theirs'); SELECT streamsink.drop_pipeline('theirs')});

# ---- what is refused ----
fails(q{SELECT streamsink.seek('one', 'tomorrow or so')}, qr/invalid input syntax for type timestamp with time zone.*\n.*position "tomorrow or so"/s, 'no position');
fails(q{SELECT streamsink.seek('one', NULL)}, qr/"to_position" must not be null/, 'NULL');
fails(q{SELECT streamsink.seek('one', '1-0', 'other')}, qr/pipeline "one" does not read stream "other"/, 'a stream of others');
fails(q{SELECT streamsink.seek('many', '1-0', 'manya')}, qr/pipeline "many" does not read stream "manya"/, '... that the template does not match');
fails(q{SELECT streamsink.seek('none', '1-0')}, qr/pipeline "none" does not exist/, 'no such pipeline');
fails(q{CREATE ROLE stranger; SELECT streamsink.grant_access('stranger'); SET ROLE stranger; SELECT streamsink.seek('one', '1-0')}, qr/permission denied for pipeline "one"/, 'not yours');
fails(q{SELECT streamsink.create_pipeline('fresh', server => 'iot', stream => 'fresh:*', target => 'one', connect => false); SELECT streamsink.seek('fresh', '1-0')}, qr/no stream of pipeline "fresh" is known yet/, 'nothing to move');

# ---- crashes between the commit and the move ----
SKIP:
{
	skip 'not a test build', 1 if ($node->psql('postgres', 'SHOW streamsink.fault'))[0] != 0;
	sql(q{CREATE TABLE crash (n int); SELECT streamsink.create_pipeline('crash', server => 'iot', stream => 'crash', target => 'crash', batch_size => 20); SELECT streamsink.start('crash')});
	add('crash', 1, 100);
	wait_settled($node, 'crash');
	my $end = 100;
	foreach my $fault ('before-carry:kill-once', 'after-carry:kill-once', 'after-outbox:kill-once', 'before-carry:error-once', 'after-read:kill-once')
	{
		foreach my $back (1, 0)
		{
			my $log = -s $node->logfile;
			sql("ALTER SYSTEM SET streamsink.fault = '$fault$back'");
			sql('SELECT pg_reload_conf()');
			my $to = $back ? $end - 50 : $end + 5;
			my $first = $end + 1;
			$end += 10;
			my $change = "BEGIN; SELECT streamsink.stop('crash'); DELETE FROM crash WHERE n > $to; SELECT streamsink.seek('crash', '$to-0'); SELECT streamsink.start('crash'); COMMIT";
			sql("SELECT streamsink.stop('crash')") unless $back;
			add('crash', $first, $end) unless $back;
			eval { $node->psql('postgres', $change) };
			add('crash', $first, $end) if $back;
			poll_until(sub { slurp_file($node->logfile, $log) =~ /fault point/ }, "$fault to strike");
			poll_until(sub { slurp_file($node->logfile, $log) =~ /was terminated by signal 9/ }, 'the postmaster to notice') if $fault =~ /kill/;
			poll_until(sub { ($node->psql('postgres', 'SELECT 1'))[0] == 0 }, 'the server');
			sql(q{ALTER SYSTEM RESET streamsink.fault}, q{SELECT pg_reload_conf()});
			wait_settled($node, 'crash');
			is(sql("SELECT count(*), count(DISTINCT n) FROM crash WHERE n > $to"), join('|', ($end - $to) x 2), "$fault, " . ($back ? 'back' : 'forth') . ': those behind the position once');
			is(sql("SELECT count(*) FROM crash WHERE n BETWEEN $first AND $to"), 0, '... those before it not at all') unless $back;
		}
	}
}
$node->stop;
done_testing;
