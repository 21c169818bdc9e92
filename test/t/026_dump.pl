# pg_dump and copies of databases: definitions, ledger and dead letters come
# along, running state and secrets do not.  What comes up elsewhere is stopped.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('dump');
my $node  = new_node('dump', 'streamsink.sample_interval' => '100ms', 'streamsink.discovery_interval' => '100ms');
create_server($node, $redis);

sub sql { my ($db, @text) = @_; return $node->safe_psql($db, join "\n", 'SET search_path = public, streamsink;', @text); }

# Two pipelines that have run, one of which still does; good and bad entries.
sql('postgres', q{
	CREATE ROLE clerk LOGIN;
	CREATE USER MAPPING FOR clerk SERVER iot OPTIONS (username 'clerk', password 'very secret');
	CREATE TABLE t (stream text, v int CHECK (v < 100), UNIQUE (stream, v));
	CREATE TABLE u (v int);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 'many:*', target => 't', columns => '{"stream": "_stream"}',
		batch_size => 50, dead_letter_stream => 'dead', dead_letter_retention => '30 days', max_dead_letters => 1000, settings => '{"work_mem": "8MB"}');
	SELECT streamsink.create_pipeline('q', server => 'iot', stream => 'one', target => 'u');
	SELECT streamsink.create_pipeline('never', server => 'iot', stream => 'x', target => 'u');
	SELECT streamsink.start('p'), streamsink.start('q')});
produce($redis, 'many:a', map { { v => $_ } } 1 .. 99, 100, 'x');
produce($redis, 'many:b', map { { v => $_ } } 1 .. 30);
produce($redis, 'one',    map { { v => $_ } } 1 .. 10);
wait_settled($node, $_) foreach qw(p q);
sql('postgres', q{SELECT streamsink.retry_dead_letters('p')});
sql('postgres', q{UPDATE streamsink.dead_letters SET fields = '{"v": "50"}' WHERE sqlstate = '22P02'});
sql('postgres', q{SELECT streamsink.stop('q')});
wait_for_state($node, 'q', 'stopped');

# Something is in the outbox: Redis is away when it is put there.
$node->safe_psql('postgres', q{CREATE SERVER away FOREIGN DATA WRAPPER streamsink OPTIONS (host '127.0.0.1', port '1');
	SELECT streamsink.create_pipeline('away', server => 'away', stream => 'z', target => 'u', connect => false);
	SELECT streamsink.apply('away', '[{"v": "x"}]');
	SELECT streamsink.requeue_dead_letters('away')});
is(sql('postgres', 'SELECT count(*) FROM streamsink.outbox'), 1, 'the outbox holds a command');

my $definitions = q{SELECT name, server, stream, target, row_type, columns, batch_size, dead_letter_stream, dead_letter_retention, max_dead_letters, settings, owner, created_at, altered_at, id
	FROM streamsink.pipeline ORDER BY id};
my $identities = q{SELECT id, identity, incarnation FROM streamsink.pipeline ORDER BY id};
my $letters = q{SELECT id, pipeline, stream, entry_id, raw, edited, stage, sqlstate, error, attempts, first_failed_at, failed_at FROM streamsink.dead_letter ORDER BY id};
my $attempts = q{SELECT * FROM streamsink.dead_letter_attempt ORDER BY 1, 2};
my $streams = q{SELECT * FROM streamsink.stream ORDER BY id};
# what is settled, folded or not: a dump is taken while the folding goes on
my $rows = q{SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM u)};

is(sql('postgres', $rows), '129|10', 'what was good is written');
is(sql('postgres', q{SELECT count(*), min(attempts) FROM streamsink.dead_letters}), '2|2', 'what was bad is kept');

# While p runs.
my $file = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $file, 'postgres' ], 'pg_dump of a database with a running pipeline');
my $dump = slurp_file($file);
unlike($dump =~ s/^CREATE USER MAPPING.*?;$//smr, qr/very secret/, 'no secret outside of the user mapping that pg_dump itself writes');
unlike($dump, qr/worker_slots.*pid/, 'no running state');

$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', $file ], 'it restores');
is(sql('restored', $rows), '129|10', 'rows come back');
foreach (['definitions', $definitions], ['identities', $identities], ['dead letters', $letters], ['their history', $attempts], ['streams', $streams])
{
	is(sql('restored', $_->[1]), sql('postgres', $_->[1]), "$_->[0] come back");
}
is(sql('restored', q{SELECT fields FROM streamsink.dead_letters WHERE edited}), '{"v": "50"}', 'an edit comes back');
cmp_ok(sql('restored', q{SELECT (SELECT count(*) FROM streamsink.ledger) + (SELECT count(*) FROM streamsink.ledger_log)}), '>', 0, 'the ledger comes back');

# The outbox comes along, and is held: it is the original's to carry out.
is(sql('restored', 'SELECT kind, name, pipeline FROM streamsink.outbox'), 'xadd|z|away', 'the outbox comes back');
$node->safe_psql('restored', "ALTER SERVER away OPTIONS (SET host '" . $redis->host . "', SET port '" . $redis->port . "')");

# It comes up stopped, whatever it was.
is(sql('postgres', q{SELECT string_agg(name || ' ' || enabled, ', ' ORDER BY name) FROM streamsink.pipelines}), 'away false, never false, p true, q false', 'p is enabled where it was');
is(sql('restored', q{SELECT string_agg(name || ' ' || enabled, ', ' ORDER BY name) FROM streamsink.pipelines}), 'away false, never false, p false, q false', '... and nothing is in the restored database');
is(sql('restored', q{SELECT string_agg(DISTINCT state, ' ') FROM streamsink.status}), 'stopped', '... as its status says');

# Sequences go on.
sql('restored', q{SELECT streamsink.create_pipeline('new', server => 'iot', stream => 'y', target => 'u', connect => false)});
is(sql('restored', q{SELECT count(*), count(DISTINCT id), max(id) FILTER (WHERE name = 'new') > max(id) FILTER (WHERE name <> 'new') FROM streamsink.pipeline}), '5|5|t', 'a new pipeline has a number of its own');
sql('restored', q{SELECT outcome FROM streamsink.apply('p', '[{"v": "bad"}]', 'many:a')});
is(sql('restored', q{SELECT count(*), count(DISTINCT id) FROM streamsink.dead_letters}), '3|3', 'so has a new dead letter');
# The extension's objects belong to it again: the dump created nothing of them.
is(sql('restored', q{SELECT count(*) FROM pg_class c WHERE relnamespace = 'streamsink'::regnamespace AND relkind IN ('r', 'v', 'S')
	AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')}), 0, 'all objects are the extension\'s');
is(sql('restored', q{SELECT streamsink.retry_dead_letters('p')}), 0, 'dead letters can be dealt with there');

# A copy by CREATE DATABASE ... TEMPLATE.
$node->safe_psql('postgres', 'CREATE DATABASE source TEMPLATE restored');
is(sql('source', q{SELECT string_agg(DISTINCT enabled::text, ' ') FROM streamsink.pipelines}), 'false', 'a copy of a database is not enabled');
$node->safe_psql('source', q{SELECT streamsink.create_pipeline('own', server => 'iot', stream => 'own', target => 'u')});
$node->safe_psql('source', q{SELECT streamsink.start('own')});
produce($redis, 'own', { v => 500 });
wait_settled($node, 'own', 'source');
# The server copies no database that somebody is connected to, so the worker is kept away for a moment.
$node->safe_psql('postgres', q{ALTER DATABASE source ALLOW_CONNECTIONS false;
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'source'});
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'source'}) or die 'the worker did not leave';
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE source');
$node->safe_psql('postgres', 'ALTER DATABASE source ALLOW_CONNECTIONS true');
is(sql('source', q{SELECT enabled FROM streamsink.pipelines WHERE name = 'own'}), 't', 'the original is enabled');
is(sql('copy', q{SELECT enabled FROM streamsink.pipeline WHERE name = 'own'}), 't', '... and so is the row in its copy');
is(sql('copy', q{SELECT enabled FROM streamsink.pipelines WHERE name = 'own'}), 'f', '... but the pipeline there is not');
$node->safe_psql('source', q{SELECT streamsink.restart('own')});
produce($redis, 'own', { v => 501 });
wait_settled($node, 'own', 'source');
is(sql('source', 'SELECT count(*) FROM u WHERE v >= 500'), 2, 'the original goes on');
is(sql('copy', 'SELECT count(*) FROM u WHERE v >= 500'), 1, '... and the copy is left alone');
# After a restart neither starts by itself.
$node->restart;
wait_settled($node, 'p');
is(sql($_, q{SELECT count(*) FILTER (WHERE state <> 'stopped') FROM streamsink.status}), 0, "nothing starts in database $_ after a restart") foreach qw(restored copy);

# What the original had settled is settled in the restored database: the group is the
# same, the marker somebody else's.
sql('restored', q{SELECT streamsink.start('p')});
ok($node->poll_query_until('restored', q{SELECT state IN ('waiting', 'failed') AND reason IS NOT NULL FROM streamsink.status WHERE pipeline = 'p'}),
	'the restored pipeline does not read from the other\'s group') or diag(status_of($node, 'p', 'restored'));
is(sql('restored', $rows), '129|10', '... and writes nothing');
is(sql('postgres', $rows), '129|10', 'nothing is written twice');

is(sql('restored', 'SELECT count(*) FROM streamsink.outbox'), 1, 'what was in the outbox is held to the end');
is($redis->cli('EXISTS', 'z'), 0, '... and Redis has not seen it');

done_testing();
