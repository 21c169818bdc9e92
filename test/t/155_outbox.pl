# emit() and publish() with real Redis servers: exactly what was committed, in
# order, also over times when Redis is away; what Redis refuses holds up only
# what has the same name.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $redis = new_redis('main');
my $other = new_redis('other');
my $node  = new_node('outbox', 'streamsink.backoff_max' => '1s', max_prepared_transactions => 5, _init => [ allows_streaming => 1 ]);
create_server($node, $redis);
create_server($node, $other, 'other');

sub sql { return $node->safe_psql('postgres', join ";\n", @_); }
sub fails { my ($statement, $pattern, $what) = @_; my ($rc, $out, $err) = $node->psql('postgres', $statement); return like($err, $pattern, $what); }
sub waiting { return sql('SELECT count(*) FROM streamsink.outbox'); }
sub wait_sent { my ($what) = @_; return poll_until(sub { waiting() == 0 }, $what // 'an empty outbox'); }

# The values of a field of a stream's entries, in order.
sub values_of
{
	my ($server, $stream, $field) = @_;
	my @lines = split /\n/, $server->cli('XRANGE', $stream, '-', '+');
	return join ' ', map { $lines[ $_ + 1 ] } grep { $lines[$_] eq $field } 0 .. $#lines - 1;
}
# A crash may repeat messages: until one is heard.
sub hears { my ($ear, $text, $what) = @_; return ok(poll_until(sub { grep { $_->[1] eq $text } $ear->messages }, $what), $what); }
sub heard { my ($ear, $n) = @_; return join ' ', map { $_->[1] } $ear->wait_messages($n); }

# ---- what is committed, and nothing else ----
my $ear = new_subscriber($redis, 'c', 'late');
sql(q{BEGIN; SELECT streamsink.publish('c', 'm1', 'iot'), streamsink.emit('s', '{"v": 1, "t": "ä", "none": null}', 'iot'); COMMIT},
	q{BEGIN; SELECT streamsink.publish('c', 'never', 'iot'), streamsink.emit('s', '{"v": "never"}', 'iot'); ROLLBACK},
	q{BEGIN; SELECT streamsink.publish('c', 'm2', 'iot'); SAVEPOINT a; SELECT streamsink.publish('c', 'never', 'iot'), streamsink.emit('s', '{"v": "never"}', 'iot');
		ROLLBACK TO a; SELECT streamsink.publish('c', 'm3', 'iot'), streamsink.emit('s', '{"v": 2}', 'iot'); COMMIT});
wait_sent();
is(heard($ear, 3), 'm1 m2 m3', 'a subscriber hears what was committed, in order');
is(values_of($redis, 's', 'v'), '1 2', 'a stream has what was committed, in order');
like($redis->cli('XRANGE', 's', '-', '+', 'COUNT', 1), qr/^\d+-\d+\nt\nä\nv\n1$/, '... field by field, without those that are null');
my ($ms) = $redis->cli('XRANGE', 's', '-', '+', 'COUNT', 1) =~ /^(\d+)/;
cmp_ok(abs($ms / 1000 - time), '<', 600, '... with an id that tells the time');
fails(q{BEGIN; SELECT streamsink.publish('c', 'never', 'iot'); PREPARE TRANSACTION 'p'}, qr/cannot PREPARE/, 'no command in a prepared transaction');

# Nothing is sent before the commit, whoever else is sending.
my $session = $node->background_psql('postgres');
$session->query_safe(q{BEGIN; SELECT streamsink.publish('late', 'first', 'iot')});
sql(q{SELECT streamsink.publish('c', 'm4', 'iot')});
is(heard($ear, 4), 'm1 m2 m3 m4', 'an open transaction holds nobody up');
$session->query_safe('COMMIT');
is(heard($ear, 5), 'm1 m2 m3 m4 first', '... and sends when it commits');
$session->quit;

# ---- a pipeline that tells ----
sql(q{CREATE TABLE readings (device text, v int CHECK (v < 1000));
	CREATE FUNCTION alert() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.v > 100 THEN
			PERFORM streamsink.publish('c', NEW.device || '=' || NEW.v), streamsink.emit('alerts', jsonb_build_object('device', NEW.device, 'v', NEW.v));
		END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER alert AFTER INSERT ON readings FOR EACH ROW EXECUTE FUNCTION alert();
	SELECT streamsink.create_pipeline('readings', server => 'iot', stream => 'readings', target => 'readings', batch_size => 100);
	SELECT streamsink.start('readings')});
produce($redis, 'readings', map { [ device => "d$_", v => $_ == 150 ? 5000 : $_ ] } 1 .. 200);
wait_settled($node, 'readings');
wait_sent();
my @above = grep { $_ != 150 } 101 .. 200;
is(values_of($redis, 'alerts', 'v'), join(' ', @above), 'entries of accepted rows only, each once, in order');
is(join(' ', map { $_->[1] } grep { $_->[1] =~ /=/ } $ear->wait_messages(5 + @above)), join(' ', map { "d$_=$_" } @above), '... and messages');
is(sql(q{SELECT count(*) FROM streamsink.dead_letters}), 1, 'the other one is refused');

# How long it takes from the commit to the subscriber: a courier is started for it, or is there still.
my @delays;
for my $i (1 .. 5)
{
	my $before = $ear->messages;
	my $start = time;
	sql(q{SELECT streamsink.publish('c', 'quick', 'iot')});
	$ear->wait_messages($before + 1);
	push @delays, sprintf '%.0f', 1000 * (time - $start);
}
note "ms from the call of psql to the message: @delays";

# ---- many ----
my $before_many = $ear->messages;
sql(q{SELECT count(streamsink.publish('c', i::text, 'iot')), count(streamsink.emit('many', jsonb_build_object('v', i), 'iot')) FROM generate_series(1, 10000) i});
my $start = time;
wait_sent('20,000 commands');
note sprintf '20,000 commands took %.1f s', time - $start;
is(join(' ', (map { $_->[1] } $ear->wait_messages($before_many + 10000))[ -10000 .. -1 ]), join(' ', 1 .. 10000), '10,000 messages of one transaction, in order');
is(values_of($redis, 'many', 'v'), join(' ', 1 .. 10000), '... and as many entries');

# Large ones: several pages, and one that is larger than a page.
sql(q{SELECT count(streamsink.emit('large', jsonb_build_object('v', i, 'x', repeat('x', CASE i WHEN 20 THEN 40000000 ELSE 3000000 END)), 'iot')) FROM generate_series(1, 30) i});
wait_sent('large entries');
is($redis->cli('XLEN', 'large'), 30, 'large entries');
$redis->cli('DEL', 'large');

# ---- others write to the same stream ----
sql(q{SELECT count(streamsink.emit('shared', jsonb_build_object('v', i), 'iot')) FROM generate_series(1, 3000) i});
produce($redis, 'shared', map { [ theirs => $_ ] } 1 .. 3000);
wait_sent();
is(values_of($redis, 'shared', 'v'), join(' ', 1 .. 3000), 'in order between the entries of another');
is(values_of($redis, 'shared', 'theirs'), join(' ', 1 .. 3000), '... which are all there');
# ids ahead of time, and at their very end
$redis->cli('XADD', 'ahead', '9999999999999-7', 'v', 0);
sql(q{SELECT streamsink.emit('ahead', '{"v": 1}', 'iot')});
wait_sent();
like($redis->cli('XREVRANGE', 'ahead', '+', '-', 'COUNT', 1), qr/^10000000000000-/, 'a stream whose ids are ahead of time gets larger ones');

# ---- what Redis refuses ----
$redis->cli('SET', 'wrong', 1);
sql(q{BEGIN; SELECT streamsink.emit('wrong', '{"v": 1}', 'iot'), streamsink.emit('good', '{"v": 1}', 'iot'), streamsink.emit('wrong', '{"v": 2}', 'iot'), streamsink.publish('c', 'good', 'iot'); COMMIT});
sql(q{SELECT streamsink.emit('wrong', '{"v": 3}', 'iot'), streamsink.emit('good', '{"v": 2}', 'iot')});
poll_until(sub { waiting() == 3 && sql('SELECT count(*) FROM streamsink.outbox WHERE behind IS NOT NULL') == 2 }, 'three that wait');
is(values_of($redis, 'good', 'v'), '1 2', 'a key of the wrong type holds up no other');
is(($ear->messages)[-1][1], 'good', '... and no message');
like(sql(q{SELECT kind, name, attempts > 0, last_error FROM streamsink.outbox WHERE behind IS NULL}), qr/^xadd\|wrong\|t\|WRONGTYPE/, 'the outbox says what is wrong');
is(sql(q{SELECT count(*) FROM streamsink.outbox o WHERE behind = (SELECT min(id) FROM streamsink.outbox) AND attempts = 0 AND last_error IS NULL}), 2, '... and what waits for it');
my $log = () = slurp_file($node->logfile) =~ /could not carry out outbox row/g;
is($log, 1, 'the log says it once');
# ... until it is mended
$redis->cli('DEL', 'wrong');
sql(q{SELECT streamsink.emit('wrong', '{"v": 4}', 'iot')});
wait_sent();
is(values_of($redis, 'wrong', 'v'), '1 2 3 4', 'when it is mended they go out in order, and nothing new before them');
# ... or discarded
$redis->cli('SET', 'wrong2', 1);
sql(q{SELECT streamsink.emit('wrong2', jsonb_build_object('v', i), 'iot') FROM generate_series(1, 3) i});
poll_until(sub { sql('SELECT count(*) FROM streamsink.outbox WHERE behind IS NOT NULL') == 2 }, 'two that wait');
is(sql(q{WITH d AS (DELETE FROM streamsink.outbox WHERE behind IS NULL RETURNING name) SELECT * FROM d}), 'wrong2', 'DELETE on the view discards');
poll_until(sub { sql('SELECT count(*) FROM streamsink.outbox WHERE behind IS NULL AND attempts > 0') == 1 }, 'the next one to be tried');
sql(q{DELETE FROM streamsink.outbox});
is(waiting(), 0, 'all of them');
# a row that somebody is discarding is neither sent again and again nor waited for
$redis->stop;
sql(q{SELECT streamsink.publish('c', 'discarded', 'iot'), streamsink.publish('other', 'kept', 'other')});
$session = $node->background_psql('postgres');
$session->query_safe(q{BEGIN; DELETE FROM streamsink.outbox WHERE server = 'iot'});
$redis->start;
sql(q{SELECT streamsink.publish('free', 'm', 'other')});
poll_until(sub { waiting() == 1 }, 'the others');
$session->query_safe('COMMIT');
$session->quit;
is(waiting(), 0, 'discarded while the courier was at it');

# A user of Redis who may do little: no clock, no MULTI.
$redis->cli(qw(ACL SETUSER small on >pw ~small* &small* +ping +client|setname +xadd +publish +xrange +xinfo));
sql(q{CREATE ROLE small; SELECT streamsink.grant_access('small'); GRANT USAGE ON FOREIGN SERVER iot TO small;
	CREATE USER MAPPING FOR small SERVER iot OPTIONS (username 'small', password 'pw')});
$ear = new_subscriber($redis, 'c', 'small');
sql(q{SET ROLE small; SELECT streamsink.emit('small', jsonb_build_object('v', i), 'iot'), streamsink.publish('small', i::text, 'iot') FROM generate_series(1, 20) i});
wait_sent();
is(values_of($redis, 'small', 'v'), join(' ', 1 .. 20), 'without MULTI and TIME: in order');
is(heard($ear, 20), join(' ', 1 .. 20), '... each once');
sql(q{SET ROLE small; SELECT streamsink.publish('forbidden', 'm', 'iot'), streamsink.publish('small', 'after', 'iot')});
is(heard($ear, 21), join(' ', 1 .. 20, 'after'), 'what is forbidden holds up nothing else');
poll_until(sub { sql('SELECT last_error FROM streamsink.outbox') =~ /^NOPERM/ }, 'NOPERM');
sql(q{DELETE FROM streamsink.outbox});
# the mapping is changed while its connection is open
$redis->cli(qw(ACL SETUSER small resetpass >new));
sql(q{ALTER USER MAPPING FOR small SERVER iot OPTIONS (SET password 'new')}, q{SET ROLE small; SELECT streamsink.publish('small', 'new', 'iot')});
is((map { $_->[1] } $ear->wait_messages(22))[-1], 'new', 'another password is used at once');
sql(q{REVOKE USAGE ON FOREIGN SERVER iot FROM small});
fails(q{SET ROLE small; SELECT streamsink.publish('small', 'x', 'iot')}, qr/permission denied for foreign server iot/, 'without USAGE on the server: refused at the call');

# ---- Redis is away ----
my $far = new_subscriber($other, 'far');
$redis->stop;
sql(q{SELECT streamsink.emit('away', jsonb_build_object('v', i), 'iot'), streamsink.publish('far', i::text, 'other') FROM generate_series(1, 50) i});
is(heard($far, 50), join(' ', 1 .. 50), 'one that is away holds up no other');
poll_until(sub { sql(q{SELECT count(*) FILTER (WHERE attempts > 0) || ' ' || count(*) FROM streamsink.outbox WHERE server = 'iot'}) eq '1 50' }, 'one to be tried');
# over a crash, with more that comes
$node->stop('immediate');
$node->start;
sql(q{SELECT streamsink.emit('away', jsonb_build_object('v', i), 'iot'), streamsink.publish('far', i::text, 'other') FROM generate_series(51, 60) i});
hears($far, 60, '... also after a crash');
$redis->start;
wait_sent();
is(values_of($redis, 'away', 'v'), join(' ', 1 .. 60), 'when it is back everything comes, once and in order');
# one that accepts connections and does not answer
sql(q{ALTER SERVER iot OPTIONS (ADD command_timeout '6s', ADD connect_timeout '6s')});
$redis->freeze;
sql(q{SELECT streamsink.emit('frozen', jsonb_build_object('v', i), 'iot') FROM generate_series(1, 10) i});
poll_until(sub { sql(q{SELECT max(attempts) > 0 FROM streamsink.outbox}) eq 't' }, 'the courier to give up');
poll_until(sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink late courier'}) == 1 }, 'the late courier to try');
$start = time;
sql(q{SELECT streamsink.emit('frozen', jsonb_build_object('v', i - 50), 'iot'), streamsink.publish('far', i::text, 'other') FROM generate_series(61, 70) i});
hears($far, 70, 'one that does not answer holds up no other');
cmp_ok(time - $start, '<', 5, '... nor does anybody wait for it');
$redis->thaw;
wait_sent();
is(values_of($redis, 'frozen', 'v'), join(' ', 1 .. 20), '... and gets each once, although it may have got it before it was frozen');
# the server is gone, and comes back
sql(q{SELECT streamsink.drop_pipeline('readings')});
wait_sent();
# a courier that has just sent something still knows the way
poll_until(sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink courier'}) == 0 }, 'the courier to leave');
sql(q{BEGIN; SELECT streamsink.emit('gone', '{"v": 1}', 'other'); DROP SERVER other CASCADE; COMMIT});
poll_until(sub { sql('SELECT last_error FROM streamsink.outbox') =~ /does not exist/ }, 'the reason');
create_server($node, $other, 'other');
wait_sent();
is(values_of($other, 'gone', 'v'), 1, 'commands for a server that was dropped wait for one of its name');
# out of memory: later
$other->cli('CONFIG', 'SET', 'maxmemory', 1);
sql(q{SELECT streamsink.emit('oom', jsonb_build_object('v', i), 'other') FROM generate_series(1, 5) i});
poll_until(sub { sql('SELECT max(last_error) FROM streamsink.outbox') =~ /OOM/ }, 'the reason');
$other->cli('CONFIG', 'SET', 'maxmemory', 0);
wait_sent();
is(values_of($other, 'oom', 'v'), join(' ', 1 .. 5), 'out of memory is a delay');

# ---- two databases, one stream ----
$node->safe_psql('postgres', 'CREATE DATABASE second');
$node->safe_psql('second', 'CREATE EXTENSION streamsink');
create_server($node, $redis, 'iot', 'second');
my @both = map { $node->background_psql($_) } 'postgres', 'second';
for my $round (1 .. 20)
{
	$both[$_]->query_safe("SELECT streamsink.emit('both', jsonb_build_object('db$_', i), 'iot') FROM generate_series(" . ($round * 10 - 9) . ', ' . $round * 10 . ') i') for 0, 1;
}
poll_until(sub { waiting() == 0 && $node->safe_psql('second', 'SELECT count(*) FROM streamsink.outbox') == 0 }, 'both');
is(values_of($redis, 'both', "db$_"), join(' ', 1 .. 200), "database $_: each once, in order") for 0, 1;
$_->quit for @both;
$node->safe_psql('postgres', 'DROP DATABASE second');

# ---- the extension goes with what waits, and comes again ----
sql(q{SELECT streamsink.publish('c', 'm', 'iot'); DROP EXTENSION streamsink CASCADE; CREATE EXTENSION streamsink});
create_server($node, $redis);
$ear = new_subscriber($redis, 'again');
sql(q{SELECT streamsink.publish('again', 'm', 'iot')});
is(heard($ear, 1), 'm', 'after DROP and CREATE EXTENSION');

# ---- a standby takes no commands ----
$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
my ($rc, $out, $err) = $standby->psql('postgres', q{SELECT streamsink.publish('c', 'm', 'iot')});
like($err, qr/cannot execute publish\(\) during recovery/, 'a standby takes no commands');
$standby->stop;
$node->stop;
done_testing;
