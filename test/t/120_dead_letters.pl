# Dead letters that one can live with: copies in a stream of Redis,
# notifications, and limits by age and number.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JSON::PP;
use MIME::Base64;
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('letters');
my $node  = new_node('letters', 'streamsink.discovery_interval' => '100ms', 'streamsink.sample_interval' => '100ms',
	'streamsink.backoff_max' => '1s', 'streamsink.dead_letter_threshold' => 20);
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub letters { my ($name, $what) = @_; return sql('SELECT ' . ($what // 'count(*)') . " FROM streamsink.dead_letters WHERE pipeline = '$name'"); }

# A stream of copies, each as a hash.
sub copies
{
	my ($stream) = @_;
	my ($json) = $redis->cli('--json', 'XRANGE', $stream, '-', '+');
	return map { +{ @{ $_->[1] } } } @{ JSON::PP->new->utf8->decode($json) };
}

# Somebody who listens: what he has heard since the last time.
my $listener;
sub heard
{
	my $out = $listener->query('SELECT 1');
	return map { JSON::PP->new->utf8->decode($_) } $out =~ /^Asynchronous notification "streamsink_dead_letters" with payload "(.*)" received from server/mg;
}
sub wait_heard
{
	my ($n) = @_;
	my @all;
	poll_until(sub { push @all, heard(); @all >= $n }, "$n notifications");
	return @all;
}

# ---- copies ----

sql(q{CREATE TABLE t (stream text, n int);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 'in:*', target => 't', columns => '{"stream": "_stream"}',
		dead_letter_stream => 'in:dead', max_entry_bytes => 2000000);
	SELECT streamsink.start('p')});
my $large = 'L' x 1_200_000;
produce($redis, 'in:a',
	[ _id => '1-1', n => 1 ],
	[ _id => '1-2', n => 'x', price => '0.10000000000000000000000000000000001' ],
	[ _id => '1-3', n => 'y', n => 'z', m => 1 ],
	[ _id => '1-4', n => "\xff\xfe", m => 1 ],
	[ _id => '1-5', n => "a\0b" ],
	[ _id => '1-6', n => "\xc3\xa4\x01\"" ],
	[ _id => '1-7', n => $large ],
	[ _id => '1-8', n => $large . $large ],
	[ _id => '1-9', n => 2 ]);
wait_settled($node, 'p');
poll_until(sub { $redis->cli('XLEN', 'in:dead') == 7 }, 'the copies');
my %copy = map { ($_->{id} => $_) } copies('in:dead');
is(join(' ', map { $_->{id} } copies('in:dead')), join(' ', map { "1-$_" } 2 .. 8), 'each dead letter is copied, in order');
is(sql('SELECT count(*) FROM streamsink.outbox'), 0, 'the outbox is empty');
my %flat = %{ $copy{'1-2'} };
is(delete $flat{dead_letter}, letters('p', 'min(id)'), 'a copy has the number of its dead letter');
is(sql("SELECT failed_at = '" . delete($flat{failed_at}) . "' FROM streamsink.dead_letters WHERE entry_id::text = '1-2'"), 't', '... and the time');
is_deeply(JSON::PP->new->decode(delete $flat{fields}), { n => 'x', price => '0.10000000000000000000000000000000001' }, '... and the fields, every digit');
is_deeply(\%flat, { pipeline => 'p', stream => 'in:a', id => '1-2', stage => 'decode', sqlstate => '22P02', attempts => 1,
		error => 'invalid input syntax for type integer: "x"' }, '... and the reason');
sub raw { return [ map { decode_base64($_) } @{ JSON::PP->new->decode($_[0]) } ] }
is_deeply(JSON::PP->new->decode($copy{'1-3'}{fields}), { n => 'z', m => 1 }, 'of doubled names the last is in the fields');
is_deeply(raw($copy{'1-3'}{raw}), [ n => 'y', n => 'z', m => 1 ], '... and all are in raw');
is($copy{'1-4'}{fields}, undef, 'bytes that are no text are not in the fields');
is_deeply(raw($copy{'1-4'}{raw}), [ n => "\xff\xfe", m => 1 ], '... but in raw');
is_deeply(raw($copy{'1-5'}{raw}), [ n => "a\0b" ], 'a NUL byte, too');
is_deeply(JSON::PP->new->decode($copy{'1-6'}{fields}), { n => "\xe4\x01\"" }, 'what text can represent is text');
is($copy{'1-6'}{raw}, undef, '... and needs no raw');
is_deeply([ map { $copy{$_}{omitted} } qw(1-2 1-7 1-8) ], [ undef, 1_200_001, 2_400_001 ], 'large entries are left out, which is said');
is_deeply([ grep { exists $copy{'1-7'}{$_} || exists $copy{'1-8'}{$_} } qw(fields raw) ], [], '... fields and raw');
like($copy{'1-8'}{detail}, qr/has 2400000 bytes, of which the first 1024 are kept/, 'the detail is that of the table');

is(sql(q{SELECT string_agg(stream, ' ' ORDER BY stream) FROM streamsink.streams WHERE pipeline = 'p'}), 'in:a', 'a pattern does not read its own dead letters');
is(sql(q{SELECT count(*), string_agg(n::text, ' ' ORDER BY n) FROM t}), '2|1 2', 'the good ones are written');
ok($node->poll_query_until('postgres', q{SELECT dead_letter_stream_length = 7 FROM streamsink.status WHERE pipeline = 'p'}), 'status shows the length of the stream');
is(sql(q{SELECT streams FROM streamsink.status WHERE pipeline = 'p'}), 1, '... which is none of the streams that are read');

# a stream of dead letters is a stream: another pipeline may read it
sql(q{CREATE TABLE reasons (pipeline text, id text, sqlstate text, failed_at timestamptz, fields jsonb, raw jsonb);
	SELECT streamsink.create_pipeline('reader', server => 'iot', stream => 'in:dead', target => 'reasons');
	SELECT streamsink.start('reader')});
wait_settled($node, 'reader');
is(sql(q{SELECT count(*), count(fields), count(raw), min(fields ->> 'price') FROM reasons}), '7|3|3|0.10000000000000000000000000000000001', 'another pipeline reads the copies');
is(letters('reader'), 0, 'all of them');

# preview and ingest pass it by, too; a stream that was read before is left from now on
produce($redis, 'in:b', [ n => 3 ]);
wait_settled($node, 'p');
sql(q{SELECT streamsink.alter_pipeline('p', dead_letter_stream => 'in:b')});
wait_settled($node, 'p');
produce($redis, 'in:b', [ n => 4 ]);
produce($redis, 'in:a', [ n => 5 ]);
poll_until(sub { sql('SELECT count(*) FROM t WHERE n = 5') == 1 }, 'the other stream');
sql(q{SELECT streamsink.stop('p')});
is(sql(q{SELECT count(*) FROM streamsink.preview('p') WHERE stream = 'in:b'}), 0, 'preview does not show its entries');
sql(q{CALL streamsink.ingest('p')});
is(sql('SELECT count(*) FROM t WHERE n = 4'), 0, 'nobody reads a stream that has become that of the dead letters');
sql(q{SELECT streamsink.alter_pipeline('p', reset => '{dead_letter_stream}'); SELECT streamsink.start('p')});
ok($node->poll_query_until('postgres', q{SELECT dead_letter_stream_length IS NULL AND state = 'running' FROM streamsink.status WHERE pipeline = 'p'}), 'without the stream there is no length');

# a database of another encoding: what goes to Redis is UTF-8
$node->safe_psql('postgres', q{CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('latin', 'CREATE EXTENSION streamsink');
create_server($node, $redis, 'iot', 'latin');
sub latin { return $node->safe_psql('latin', join "\n", q{SET client_encoding = 'UTF8';}, @_); }
my $cafe = "caf\xc3\xa9";
latin('CREATE TABLE t (v int);', qq{SELECT streamsink.create_pipeline('$cafe', server => 'iot', stream => '$cafe:*', target => 't', dead_letter_stream => '$cafe:dead');
	SELECT streamsink.start('$cafe')});
produce($redis, "$cafe:a", [ v => "\xc3\xa4" ], [ v => "\xe6\x97\xa5" ]);
poll_until(sub { $redis->cli('XLEN', "$cafe:dead") == 2 }, 'copies out of a LATIN1 database');
my @latin = copies("$cafe:dead");
is_deeply([ map { $_->{stream}, $_->{pipeline}, $_->{fields}, $_->{raw} } @latin ],
	[ "caf\xe9:a", "caf\xe9", "{\"v\":\"\xe4\"}", undef, "caf\xe9:a", "caf\xe9", "{\"v\":\"\x{65e5}\"}", undef ], 'text of the server is converted, that of the entry stays');
ok($node->poll_query_until('latin', 'SELECT dead_letter_stream_length = 2 FROM streamsink.status'), 'and the length is known');
is(latin('SELECT count(*) FROM streamsink.streams'), 1, 'and the stream not read');
latin(qq{SELECT streamsink.drop_pipeline('$cafe')});

# one that says nothing about its encoding: what is no UTF-8, in the message or where it is clipped, is escaped
$node->safe_psql('postgres', q{CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('ascii', 'CREATE EXTENSION streamsink');
create_server($node, $redis, 'iot', 'ascii');
$node->safe_psql('ascii', q{CREATE TABLE t (v int); SELECT streamsink.create_pipeline('ascii', server => 'iot', stream => 'ascii', target => 't', dead_letter_stream => 'ascii:dead')});
produce($redis, 'ascii', [ v => "\xff\xfe" ], [ v => 'x' . "\xc3\xa4" x 5000 ], [ v => 1 ]);
my $told = $node->safe_psql('ascii', "SET client_encoding = 'UTF8'; LISTEN streamsink_dead_letters; SELECT streamsink.start('ascii');
	SELECT streamsink.wait_for('ascii', '$PostgreSQL::Test::Utils::timeout_default s'); SELECT 1");
poll_until(sub { $redis->cli('XLEN', 'ascii:dead') == 2 }, 'copies out of a SQL_ASCII database');
my $invalid = 'invalid input syntax for type integer: "';
is_deeply([ map { $_->{error} } copies('ascii:dead') ], [ "$invalid\\xff\\xfe\"", "${invalid}x" . "\xe4" x 4075 ], 'its messages are text, clipped between characters');
like($told, qr/"error":"invalid input syntax for type integer: \\"\\\\xff\\\\xfe\\""/, '... in a notification, too');
is($node->safe_psql('ascii', 'SELECT count(*) FROM t'), 1, 'the good one is written');
$node->safe_psql('ascii', q{SELECT streamsink.drop_pipeline('ascii')});

# ---- Redis is away ----

sql(q{SELECT streamsink.create_pipeline('away', server => 'iot', stream => 'away', target => 't', dead_letter_stream => 'away:dead')});
$redis->stop;
sql(q{SELECT count(*) FROM streamsink.apply('away', (SELECT jsonb_agg(jsonb_build_object('_id', '5-' || i, 'n', 'x' || i)) FROM generate_series(1, 100) AS i))});
sql(q{BEGIN; SELECT count(*) FROM streamsink.apply('away', '[{"_id": "6-1", "n": "x"}]'); ROLLBACK});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 100 AND max(attempts) > 0 FROM streamsink.outbox WHERE kind = 'xadd' AND name = 'away:dead'}),
	'copies wait in the outbox while Redis is away');
# ... over a crash as well
$node->stop('immediate');
$redis->start;
$node->start;
poll_until(sub { ($redis->try_cli('XLEN', 'away:dead'))[1] >= 100 && sql('SELECT count(*) FROM streamsink.outbox') == 0 }, 'the copies');
my @ids = map { $_->{id} } copies('away:dead');
my %seen;
is(join(' ', grep { !$seen{$_}++ } @ids), join(' ', map { "5-$_" } 1 .. 100), '... and come when it is back, none lost, in order');

# ---- notifications ----

$listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN streamsink_dead_letters');
sql(q{CREATE TABLE u (n int); SELECT streamsink.create_pipeline('loud', server => 'iot', stream => 'loud', target => 'u', batch_size => 10);
	SELECT streamsink.start('loud')});
produce($redis, 'loud', map { { n => $_ } } 1 .. 10);
wait_settled($node, 'loud');
is(scalar(heard()), 0, 'nobody is told of good entries');
produce($redis, 'loud', [ n => "bad \"one\" \x01" ]);
wait_settled($node, 'loud');
my ($first) = wait_heard(1);
is_deeply($first, { pipeline => 'loud', reason => 'first', count => 1, stream => 'loud', sqlstate => '22P02',
		error => "invalid input syntax for type integer: \"bad \"one\" \x01\"" }, 'the first dead letter is notified');
produce($redis, 'loud', map { { n => "x$_" } } 1 .. 18);
wait_settled($node, 'loud');
is(scalar(heard()), 0, 'the next ones are not');
is(letters('loud'), 19, 'there are 19');
produce($redis, 'loud', [ n => 'x' ], [ n => 'y' ]);
wait_settled($node, 'loud');
my @more = wait_heard(1);
is_deeply([ map { $_->{reason} } @more ], ['threshold'], 'the threshold is');
cmp_ok($more[0]{count}, '>=', 20, '... with the number');
produce($redis, 'loud', map { { n => "x$_" } } 1 .. 30);
wait_settled($node, 'loud');
is(scalar(heard()), 0, 'beyond it nothing is');
sql(q{SELECT streamsink.discard_dead_letters('loud')});
produce($redis, 'loud', [ n => 'again' ]);
wait_settled($node, 'loud');
is_deeply([ map { $_->{reason} } wait_heard(1) ], ['first'], 'when all are gone, the first is one again');
# long names and messages: a notification has room for 8000 bytes
my $long = 'l' x 240;
sql(qq{SELECT streamsink.create_pipeline('$long', server => 'iot', stream => '} . ("\x01" x 1900) . q{', target => 'u');},
	qq{SELECT outcome FROM streamsink.apply('$long', jsonb_build_array(jsonb_build_object('n', repeat(chr(1), 5000))))});
my ($clipped) = wait_heard(1);
is($clipped->{pipeline}, $long, 'long texts are cut') or diag explain $clipped;
# a rollback tells nobody; the setting turns the threshold off, also at the first
sql(qq{BEGIN; SELECT streamsink.discard_dead_letters('$long'); SELECT outcome FROM streamsink.apply('$long', '[{"n": "x"}]'); ROLLBACK});
is(scalar(heard()), 0, 'a rollback tells nobody');
$node->append_conf('postgresql.conf', 'streamsink.dead_letter_threshold = 0');
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT current_setting('streamsink.dead_letter_threshold') = '0'}), 'reloaded');
sql(qq{SELECT streamsink.drop_pipeline('$long'); SELECT streamsink.discard_dead_letters('loud')});
produce($redis, 'loud', map { { n => "x$_" } } 1 .. 100);
wait_settled($node, 'loud');
my @last = wait_heard(1);
push @last, heard();
is_deeply([ map { $_->{reason} } @last ], ['first'], 'a threshold of 0 turns that off');
sql(q{SELECT streamsink.drop_pipeline('loud')});

# ---- back into the stream ----

sql(q{CREATE TABLE back (id text, n text CONSTRAINT early CHECK (n !~ 'x'));
	SELECT streamsink.create_pipeline('back', server => 'iot', stream => 'back', target => 'back', columns => '{"id": "_id"}');
	SELECT streamsink.start('back')});
produce($redis, 'back', map { { n => "x$_", _id => "7-$_" } } 1 .. 300);
wait_settled($node, 'back');
is(letters('back'), 300, 'all are refused');
sql(q{ALTER TABLE back DROP CONSTRAINT early;
	UPDATE streamsink.dead_letters SET fields = fields || '{"n": "edited"}' WHERE entry_id::text IN ('7-100', '7-300')});
my $first_half = $node->background_psql('postgres');
$first_half->query_safe(q{BEGIN; SELECT streamsink.requeue_dead_letters('back', streamsink.dead_letter_ids('back', n => 200))});
my ($out, $err) = ('', '');
my $rest = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', q{SELECT streamsink.retry_dead_letters('back')} ], '>', \$out, '2>', \$err);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%retry_dead_letters%'}) or die;
$first_half->query_safe('COMMIT');
$first_half->quit;
$rest->finish;
is($out . $err, "100\n", 'who tries all again gets those that another one did not put back');
poll_until(sub { sql('SELECT count(*) FROM streamsink.outbox') == 0 }, 'the outbox');
wait_settled($node, 'back');
is(sql(q{SELECT count(*), count(DISTINCT n), count(*) FILTER (WHERE n = 'edited') FROM back}), '300|299|2', 'each is written once, as it was edited');
is(sql(q{SELECT count(*) FROM back WHERE id LIKE '7-%'}), 100, 'those that were put back have new ids');
is(sql(q{SELECT repeated || ' ' || refused || ' ' || written || ' ' || dead_letters FROM streamsink.status WHERE pipeline = 'back'}), '0 300 200 0', 'nothing of them is dropped');
sql(q{SELECT streamsink.drop_pipeline('back')});

# ---- limits ----

sub history { return sql('SELECT count(*) FROM streamsink.dead_letter_attempt a WHERE NOT EXISTS (SELECT FROM streamsink.dead_letter d WHERE d.id = a.dead_letter)'); }
my $log = -s $node->logfile;
sql(q{SELECT streamsink.create_pipeline('few', server => 'iot', stream => 'few', target => 'u', max_dead_letters => 10, batch_size => 100);});
produce($redis, 'few', map { { n => "x$_" } } 1 .. 35);
sql(q{CALL streamsink.ingest('few')});
is(letters('few', q{count(*) || ' ' || min(fields ->> 'n') || ' ' || max(fields ->> 'n')}), '10 x26 x35', 'ingest keeps as many as may be: the newest');
is(history(), 0, '... with their history');
like(slurp_file($node->logfile, $log), qr/removed 25 dead letters of pipeline "few".*\n.*0 were older than dead_letter_retention, 25 were more than max_dead_letters/, '... and says so');
# a worker looks when it comes, and when many were added
sql(q{SELECT streamsink.alter_pipeline('few', max_dead_letters => 5); SELECT streamsink.start('few')});
poll_until(sub { letters('few') == 5 }, 'removal at start');
produce($redis, 'few', map { { n => "y$_" } } 1 .. 1500);
wait_settled($node, 'few');
poll_until(sub { letters('few') < 1000 }, 'removal after many');
sql(q{SELECT streamsink.restart('few')});
poll_until(sub { letters('few') == 5 }, 'removal of what came since');
is(letters('few', q{string_agg(fields ->> 'n', ' ' ORDER BY id)}), 'y1496 y1497 y1498 y1499 y1500', 'a worker keeps the newest, too');
is(history(), 0, '... and no history of others');

# by age: the last failure counts
sql(q{SELECT streamsink.create_pipeline('old', server => 'iot', stream => 'old', target => 'u', dead_letter_retention => '1 hour')});
produce($redis, 'old', map { { n => "x$_" } } 1 .. 1200);
sql(q{CALL streamsink.ingest('old')});
is(letters('old'), 1200, 'what is young stays');
sql(q{UPDATE streamsink.dead_letter SET failed_at = failed_at - interval '61 min', first_failed_at = first_failed_at - interval '61 min'
	WHERE id IN (SELECT id FROM streamsink.dead_letters WHERE pipeline = 'old' ORDER BY id LIMIT 1100)});
sql(q{SELECT streamsink.retry_dead_letters('old', ARRAY(SELECT min(id) FROM streamsink.dead_letters WHERE pipeline = 'old'))});
$log = -s $node->logfile;
sql(q{SELECT streamsink.start('old')});
poll_until(sub { letters('old') == 101 }, 'removal by age');
is(letters('old', q{string_agg(attempts::text, '' ORDER BY id)}), '2' . '1' x 100, 'one that was tried again is young again');
is(history(), 0, '... and no history of others is left');
poll_until(sub { slurp_file($node->logfile, $log) =~ /removed 1099 dead letters of pipeline "old"/ }, 'the log line');
my $lines = () = slurp_file($node->logfile, $log) =~ /removed \d+ dead letters of pipeline "old"/g;
is($lines, 1, 'one line for all its steps');
# as often as the retention is short
sql(q{SELECT streamsink.alter_pipeline('old', dead_letter_retention => '1 s')});
poll_until(sub { letters('old') == 0 }, 'removal of all');
produce($redis, 'old', { n => 'later' });
wait_settled($node, 'old');
poll_until(sub { letters('old') == 0 }, 'removal, again and again');

# Somebody is dealing with the dead letters: he has them to himself, and batches go on.
sql(q{SELECT streamsink.alter_pipeline('old', reset => '{dead_letter_retention}')});
produce($redis, 'old', map { { n => "z$_" } } 1 .. 50);
wait_settled($node, 'old');
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; SELECT streamsink.retry_dead_letters('old', ARRAY(SELECT min(id) FROM streamsink.dead_letters WHERE pipeline = 'old'))});
sql(q{UPDATE streamsink.pipeline SET dead_letter_retention = '1 s', generation = generation + 1 WHERE name = 'old'});
my $before = sql(q{SELECT (SELECT count(*) FROM u), now()});
produce($redis, 'old', map { { n => $_ } } 1 .. 20);
wait_settled($node, 'old');
my ($rows, $time) = split /\|/, $before;
is(sql('SELECT count(*) FROM u'), $rows + 20, 'batches go on while a retry holds the dead letters');
$node->poll_query_until('postgres', "SELECT now() > '$time'::timestamptz + interval '3 s'") or die;
is(letters('old'), 50, '... and none is removed, though all are old');
is(sql(q{SELECT count(*) FROM pg_locks WHERE NOT granted}), 0, '... and nobody waits for a lock');
$holder->query_safe('COMMIT');
poll_until(sub { letters('old') == 0 }, 'removal when he has ended');
$holder->quit;

# a retry meets the removal: it waits for a step, or finds nothing
produce($redis, 'old', map { { n => "w$_" } } 1 .. 2000);
wait_settled($node, 'old');
my $tried = 0;
poll_until(sub {
	$tried++;
	sql(q{SELECT streamsink.retry_dead_letters('old', ARRAY(SELECT id FROM streamsink.dead_letters WHERE pipeline = 'old' ORDER BY id DESC LIMIT 100))});
	letters('old') <= 100;
}, 'removal of what is not tried again');
poll_until(sub { letters('old') == 0 }, 'removal of the rest');
ok($tried, "removal and retries do not harm each other ($tried rounds)");
is(sql(q{SELECT state, errors FROM streamsink.status WHERE pipeline = 'old'}), 'running|0', 'the pipeline had no error');

$listener->quit;
$node->stop;
done_testing();
