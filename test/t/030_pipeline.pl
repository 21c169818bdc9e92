# Pipelines against a real Redis: from CREATE SERVER to rows, and what happens
# when definitions, tables and streams change while they run.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('main');
my $node  = new_node('main', 'streamsink.discovery_interval' => '100ms', 'streamsink.sample_interval' => '100ms');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub fails
{
	my ($sql, $pattern, $name) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	like($err, $pattern, $name);
	return;
}

# A template: placeholders are columns, defaults fill what is missing.
sql(q{CREATE TABLE readings (id bigserial PRIMARY KEY, timestamp timestamptz NOT NULL, device_id varchar(100) NOT NULL,
		sensor_type varchar(100) NOT NULL, value double precision NOT NULL, metadata jsonb, created_at timestamptz DEFAULT now());
	SELECT streamsink.create_pipeline('sensors', server => 'iot', stream => 'mqtt_stream:{device_id}:{sensor_type}', target => 'readings')});
produce($redis, 'mqtt_stream:a:temp', { value => '23.5', timestamp => '2024-01-02T03:04:05Z', metadata => '{"room": 1}' });
is(sql("SELECT outcome, \"row\" ->> 'device_id', \"row\" ->> 'value' FROM streamsink.preview('sensors')"), 'written|a|23.5', 'preview shows the next entry');
is(sql('SELECT count(*) FROM readings'), 0, '... and keeps nothing');
is($redis->cli('EXISTS', 'mqtt_stream:a:temp'), 1, '... and consumes nothing');
is(sql("SELECT state, enabled FROM streamsink.status JOIN streamsink.pipelines ON name = pipeline"), 'stopped|f', 'a new pipeline is stopped');
sql("SELECT streamsink.start('sensors')");
wait_settled($node, 'sensors');
is(sql("SELECT device_id, sensor_type, value, metadata, timestamp = '2024-01-02 03:04:05+00', created_at IS NOT NULL FROM readings"),
	'a|temp|23.5|{"room": 1}|t|t', 'the entry is a typed row with defaults');
is(sql("SELECT streamsink.wait_until('sensors', 'running')"), 't', 'wait_until running');

# A stream that appears while running, and one that matches only in part.
produce($redis, 'mqtt_stream:b:hum', map { { value => $_, timestamp => '2024-01-02T03:04:05Z' } } 1 .. 50);
produce($redis, 'mqtt_stream:b', { value => 1 });
$node->poll_query_until('postgres', "SELECT count(*) = 51 FROM readings") or die 'new stream was not found';
is(sql('SELECT DISTINCT sensor_type FROM readings WHERE device_id = $$b$$'), 'hum', 'a new stream is found while running');
$node->poll_query_until('postgres', "SELECT count(*) = 2 FROM streamsink.streams WHERE state = 'ok' AND lag = 0 AND pending = 0")
  or die 'streams view: ' . sql('TABLE streamsink.streams');
ok(1, 'the streams view shows both, without lag');

# A column added while running is filled.
sql('ALTER TABLE readings ADD COLUMN unit text');
produce($redis, 'mqtt_stream:a:temp', { value => 1, timestamp => 'now', unit => 'C' });
wait_settled($node, 'sensors');
is(sql("SELECT count(*) FROM readings WHERE unit = 'C'"), 1, 'a column added to the target while running is picked up');

# A dropped target: waits with the reason and goes on by itself; nothing is lost.
sql('ALTER TABLE readings RENAME TO elsewhere');
produce($redis, 'mqtt_stream:a:temp', { value => 2, timestamp => 'now', unit => 'F' });
wait_for_state($node, 'sensors', 'waiting');
like(sql("SELECT reason, last_sqlstate FROM streamsink.status"), qr/readings.*\|42P01/, 'a missing target is a reason to wait');
sql('ALTER TABLE elsewhere RENAME TO readings; SELECT streamsink.restart($$sensors$$)');
wait_settled($node, 'sensors');
is(sql("SELECT count(*) FROM readings WHERE unit = 'F'"), 1, 'and goes on after the repair');
is(sql('SELECT count(*) FROM streamsink.dead_letters'), 0, 'without a dead letter');

# Dead letters: edit, retry, requeue, discard.
produce($redis, 'mqtt_stream:a:temp', map { { value => $_, timestamp => 'now' } } 'x1', 'x2', 'x3');
wait_settled($node, 'sensors');
is(sql('SELECT count(*), min(sqlstate), min(stage), min(column_name) FROM streamsink.dead_letters'), '3|22P02|decode|value', 'three dead letters');
is(sql("SELECT streamsink.retry_dead_letters('sensors')"), 0, 'a retry of what is still bad writes nothing');
is(sql('SELECT DISTINCT attempts FROM streamsink.dead_letters'), 2, 'and counts the attempt');
sql(q{UPDATE streamsink.dead_letters SET fields = jsonb_set(fields, '{value}', '"101"') WHERE fields ->> 'value' = 'x1'});
is(sql("SELECT streamsink.retry_dead_letters('sensors')"), 1, 'a mended one is written');
is(sql('SELECT count(*) FROM readings WHERE value = 101 AND device_id = $$a$$ AND sensor_type = $$temp$$'), 1, 'with its placeholders');
is(sql("SELECT streamsink.requeue_dead_letters('sensors', ARRAY(SELECT id FROM streamsink.dead_letters WHERE fields ->> 'value' = 'x2'))"), 1, 'one is put back');
$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM streamsink.outbox') or die 'outbox: ' . sql('TABLE streamsink.outbox');
wait_settled($node, 'sensors');
is(sql('SELECT count(*), count(*) FILTER (WHERE attempts = 1) FROM streamsink.dead_letters'), '2|1', 'and comes again as a new entry');
is(sql("SELECT streamsink.discard_dead_letters('sensors')"), 2, 'the rest is discarded');

# Control is transactional.
is(sql(q{BEGIN; SELECT streamsink.stop('sensors'); DELETE FROM readings; SELECT streamsink.start('sensors'); ROLLBACK;
	SELECT count(*) > 0 FROM readings}) =~ s/^\n+//r, 't', 'stop, delete, start rolled back');
fails("BEGIN; SELECT streamsink.stop('sensors'); SELECT streamsink.wait_until('sensors', 'stopped')", qr/55000/, 'wait_until after an uncommitted change is refused');
fails("BEGIN; SELECT streamsink.stop('sensors'); PREPARE TRANSACTION 'x'", qr/0A000|55000/, 'PREPARE TRANSACTION after a control call is refused');
produce($redis, 'mqtt_stream:a:temp', { value => 1007, timestamp => 'now' });
wait_settled($node, 'sensors');
is(sql('SELECT count(*) FROM readings WHERE value = 1007'), 1, 'the pipeline goes on after a rollback');

# alter while running, then drop; the group and its marker go after the commit.
sql("SELECT streamsink.alter_pipeline('sensors', batch_size => 10, new_name => 'renamed')");
produce($redis, 'mqtt_stream:a:temp', map { { value => 1008, timestamp => 'now' } } 1 .. 35);
wait_settled($node, 'renamed');
is(sql('SELECT count(*) FROM readings WHERE value = 1008'), 35, 'a pipeline altered while running goes on');
like($redis->cli('XINFO', 'CONSUMERS', 'mqtt_stream:a:temp', 'sensors'), qr/streamsink:marker:/, 'the group has a marker');
sql("SELECT streamsink.drop_pipeline('renamed')");
poll_until(sub { $redis->cli('XINFO', 'CONSUMERS', 'mqtt_stream:a:temp', 'sensors') !~ /streamsink:marker:/ }, 'the marker to go');
ok(1, 'drop_pipeline removes the marker');
is(sql('SELECT (SELECT count(*) FROM streamsink.ledger) + (SELECT count(*) FROM streamsink.ledger_log) + (SELECT count(*) FROM streamsink.stream) + (SELECT count(*) FROM streamsink.pipeline)'),
	0, 'and leaves no rows behind');

# payload, rest, columns, meta columns.
sql(q{CREATE TABLE events (event_id streamsink.entry_id, at timestamptz, src text, kind text, amount numeric, tags text[], seq int, extra jsonb);
	SELECT streamsink.create_pipeline('events', server => 'iot', stream => 'events', target => 'events', payload => 'body', rest => 'extra',
		columns => '{"event_id": "_id", "at": "_time", "src": "_stream", "kind": "type"}');
	SELECT streamsink.start('events')});
produce($redis, 'events', [ _id => '1700000000000-7', type => 'order', body => '{"amount": 12345678901234567890.0123456789012345678901, "tags": ["a", "b"], "more": {"x": 1.50}}', other => 'o' ]);
wait_settled($node, 'events');
is(sql(q{SELECT event_id, extract(epoch FROM at)::bigint, src, kind, amount, tags, extra FROM events}),
	'1700000000000-7|1700000000|events|order|12345678901234567890.0123456789012345678901|{a,b}|{"more": {"x": 1.50}, "other": "o"}',
	'payload, rest, columns and meta columns');

is(sql("SELECT settled FROM streamsink.streams WHERE pipeline = 'events'"), '{[1700000000000-7,1700000000000-8)}', 'streams shows what is settled');
fails("SELECT streamsink.create_pipeline('x', server => 'iot', stream => 'x', target => '$_')", qr/42809/, "$_ is no target") for 'streamsink.ledger', 'pg_catalog.pg_class';

# Upserts: the last of a key wins, only columns that an entry had are set.
sql(q{CREATE TABLE state (k text PRIMARY KEY, a int, b int);
	SELECT streamsink.create_pipeline('upsert', server => 'iot', stream => 'state', target => 'state', on_conflict => 'update', linger => '200 ms');
	CREATE TABLE once (k text PRIMARY KEY, a int);
	SELECT streamsink.create_pipeline('once', server => 'iot', stream => 'state', target => 'once', on_conflict => 'nothing');
	SELECT streamsink.start('upsert'), streamsink.start('once')});
produce($redis, 'state', [ k => 'x', a => 1, b => 1 ], [ k => 'x', a => 2, b => 2 ], [ k => 'y', a => 1 ], [ k => 'x', b => 3 ], [ k => 'y', a => 5 ]);
wait_settled($node, $_) for 'upsert', 'once';
is(sql('SELECT string_agg(k || a || COALESCE(b::text, $$-$$), $$ $$ ORDER BY k) FROM state'), 'x23 y5-', 'on_conflict update');
is(sql('SELECT string_agg(k || a, $$ $$ ORDER BY k) FROM once'), 'x1 y1', 'on_conflict nothing');
is(sql("SELECT read, written + superseded FROM streamsink.status WHERE pipeline = 'upsert'"), '5|5', 'superseded entries are counted');

# Several workers on one stream.
sql(q{CREATE TABLE numbers (n int);
	SELECT streamsink.create_pipeline('many', server => 'iot', stream => 'numbers', target => 'numbers', workers => 3, batch_size => 50);
	SELECT streamsink.start('many')});
$node->poll_query_until('postgres', "SELECT count(*) = 3 FROM streamsink.workers WHERE pipeline = 'many' AND state = 'running'") or die 'three workers';
for (0 .. 9) { my $from = $_ * 2000; produce($redis, 'numbers', map { [ n => $_ ] } $from + 1 .. $from + 2000); }
wait_settled($node, 'many');
is(sql('SELECT count(*), count(DISTINCT n), sum(n) FROM numbers'), '20000|20000|200010000', 'three workers share a stream, each entry once');
cmp_ok(sql("SELECT count(*) FROM streamsink.workers WHERE pipeline = 'many' AND written > 0"), '>=', 2, 'more than one of them worked');
# Fewer workers: what the others had pending is taken over.
sql("SELECT streamsink.alter_pipeline('many', workers => 1), streamsink.stop('many')");
produce($redis, 'numbers', map { [ n => $_ ] } 20001 .. 20100);
my $identity = sql("SELECT identity FROM streamsink.pipeline WHERE name = 'many'");
$redis->cli('XREADGROUP', 'GROUP', 'many', "streamsink:$identity:2", 'COUNT', 40, 'STREAMS', 'numbers', '>');
sql("SELECT streamsink.start('many')");
wait_settled($node, 'many');
$node->poll_query_until('postgres', 'SELECT count(*) = 20100 FROM numbers') or die 'takeover: ' . sql('SELECT count(*) FROM numbers');
is(sql('SELECT count(DISTINCT n) FROM numbers'), 20100, 'what a worker that is gone had pending is taken over');
is((split /\n/, $redis->cli('XPENDING', 'numbers', 'many'))[0], 0, '... and acknowledged');

# Everything once more by hand: XGROUP SETID hands out all entries again.
$redis->cli('XGROUP', 'SETID', 'numbers', 'many', '0');
$node->poll_query_until('postgres', "SELECT repeated >= 20100 FROM streamsink.status WHERE pipeline = 'many'") or die 'repeated';
wait_settled($node, 'many');
is(sql('SELECT count(*) FROM numbers'), 20100, 'entries handed out again are dropped by the ledger');
# The group is lost altogether.
$redis->cli('XGROUP', 'DESTROY', 'numbers', 'many');
produce($redis, 'numbers', [ n => 20101 ]);
$node->poll_query_until('postgres', 'SELECT count(*) = 20101 FROM numbers') or die 'lost group';
is(sql('SELECT count(DISTINCT n) FROM numbers'), 20101, 'a lost group is made again, nothing doubled');

# ingest: drains what is there, without workers.
sql(q{CREATE TABLE drained (n int); SELECT streamsink.create_pipeline('drain', server => 'iot', stream => 'drain', target => 'drained', batch_size => 100)});
produce($redis, 'drain', (map { [ n => $_ ] } 1 .. 950), [ n => 'bad' ]);
is(sql("CALL streamsink.ingest('drain', 3)") =~ s/\|.*//r, 3, 'ingest stops after max_batches');
is(sql("CALL streamsink.ingest('drain')") =~ s/^\d+\|\d+\|//r, 1, 'ingest drains the rest and tells what was refused');
is(sql('SELECT count(*), count(DISTINCT n) FROM drained'), '950|950', 'ingest wrote all');
is((split /\n/, $redis->cli('XPENDING', 'drain', 'drain'))[0], 0, 'and acknowledged them');
fails("BEGIN; CALL streamsink.ingest('drain'); COMMIT", qr/2D000/, 'ingest in a transaction block is refused');
sql("SELECT streamsink.start('drain')");
fails("CALL streamsink.ingest('drain')", qr/55006/, 'ingest of a running pipeline is refused');

# start_from.
produce($redis, 'late', map { [ n => $_ ] } 1 .. 10);
sql(q{SELECT streamsink.create_pipeline('late', server => 'iot', stream => 'late', target => 'drained', start_from => '$'); SELECT streamsink.start('late')});
produce($redis, 'late', [ n => 1011 ]);
wait_settled($node, 'late');
is(sql('SELECT count(*) FROM drained WHERE n = 1011'), 1, 'start_from $ reads what comes later');
is(sql("SELECT read FROM streamsink.status WHERE pipeline = 'late'"), 1, '... and nothing else');

# xadd, apply and a group of somebody else's pipeline.
is(sql(q{SELECT streamsink.xadd('iot', 'x', '{"a": "1", "b": 2.50}', id => '5-1')}), '5-1', 'xadd returns the id');
is($redis->cli('XRANGE', 'x', '-', '+'), "5-1\na\n1\nb\n2.50", 'with every digit');
is(sql(q{SELECT string_agg(outcome || COALESCE(sqlstate, ''), ',' ORDER BY id) FROM streamsink.apply('drain', '[{"n": "2000"}, {"n": "no"}]')}), 'written,refused22P02', 'apply');
is(sql('SELECT count(*) FROM drained WHERE n = 2000'), 1, 'apply writes in the caller\'s transaction');
$redis->cli('XGROUP', 'CREATE', 'taken', 'taken', '0', 'MKSTREAM');
$redis->cli('XGROUP', 'CREATECONSUMER', 'taken', 'taken', 'streamsink:marker:other:1:1:1');
sql(q{SELECT streamsink.create_pipeline('taken', server => 'iot', stream => 'taken', target => 'drained'); SELECT streamsink.start('taken')});
wait_for_state($node, 'taken', 'waiting');
like(sql("SELECT reason FROM streamsink.status WHERE pipeline = 'taken'"), qr/belongs to another streamsink pipeline/, 'a group of another pipeline is refused');

fails('DROP SERVER iot', qr/2BP01.*pipeline uses it/, 'a server in use is not dropped');

# Bad definitions that only Redis can tell.
fails("SELECT streamsink.create_pipeline('x', server => 'iot', stream => 'drain:{', target => 'drained')", qr/22023.*brace/s, 'an unclosed brace');
$redis->cli('SET', 'string', 'x');
fails("SELECT streamsink.create_pipeline('x', server => 'iot', stream => 'string', target => 'drained')", qr/42809/, 'a key that is no stream');
produce($redis, 'nameless', [ other => 1 ]);
fails("CREATE TABLE strict (n int NOT NULL); SELECT streamsink.create_pipeline('x', server => 'iot', stream => 'nameless', target => 'strict')",
	qr/WARNING.*column "n" must not be null/, 'a NOT NULL column that no sampled entry fills gives a warning');
sql("CREATE SERVER nowhere FOREIGN DATA WRAPPER streamsink OPTIONS (host '127.0.0.1', port '1')");
fails("SELECT streamsink.create_pipeline('y', server => 'nowhere', stream => 's', target => 'drained')", qr/08001/, 'a Redis that is not there');
# What shows only while running is in status.
sql(q{SELECT streamsink.create_pipeline('y', server => 'nowhere', stream => 's', target => 'drained', connect => false); SELECT streamsink.start('y')});
wait_for_state($node, 'y', 'waiting');
like(sql("SELECT last_sqlstate, reason FROM streamsink.status WHERE pipeline = 'y'"), qr/^08001\|could not connect/, 'a Redis that is not there, while running');
sql("SELECT streamsink.drop_pipeline('y')");
# A stream whose key is replaced by something else is put aside, the others go on.
sql(q{CREATE TABLE globbed (_stream text, n int); SELECT streamsink.create_pipeline('glob', server => 'iot', stream => 'glob:*', target => 'globbed'); SELECT streamsink.start('glob')});
produce($redis, "glob:$_", [ n => $_ ]) for 1 .. 3;
$node->poll_query_until('postgres', 'SELECT count(*) = 3 FROM globbed') or die 'glob';
$redis->cli('DEL', 'glob:2');
$redis->cli('SET', 'glob:2', 'x');
produce($redis, 'glob:3', [ n => 4 ]);
$node->poll_query_until('postgres', 'SELECT count(*) = 4 FROM globbed') or die 'glob: ' . sql('TABLE streamsink.streams');
$node->poll_query_until('postgres', "SELECT state = 'wrong_type' FROM streamsink.streams WHERE stream = 'glob:2'") or die 'aside';
ok(1, 'one wrong key of many is put aside, the others go on');

# Redis goes away and comes back.
$redis->kill9;
wait_for_state($node, 'drain', 'waiting');
like(sql("SELECT last_sqlstate FROM streamsink.status WHERE pipeline = 'drain'"), qr/^08/, 'a lost Redis is a reason to wait');
$redis->start;
produce($redis, 'drain', [ n => 3000 ]);
$node->poll_query_until('postgres', "SELECT state = 'replaced' FROM streamsink.streams WHERE pipeline = 'drain'") or die 'not replaced: ' . sql('TABLE streamsink.streams');
ok(1, 'a Redis that forgot everything has another stream, which is not read unless that is wanted');
sql("SELECT streamsink.alter_pipeline('drain', on_replaced_stream => 'follow')");
$node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM drained WHERE n = 3000') or die 'after restart: ' . sql("TABLE streamsink.status");
ok(1, 'the pipeline goes on with on_replaced_stream => follow');

is(sql(q{SELECT count(*) FROM streamsink.status WHERE read <> written + refused + ignored + repeated + superseded + vanished}), 0, 'counters add up');
$node->stop;
done_testing;
