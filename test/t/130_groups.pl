# Groups, markers and streams that somebody touched, moved, lost or replaced:
# every entry arrives once all the same, or the pipeline says why not.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('groups');
my $node  = new_node('groups', 'streamsink.max_workers' => 16, 'streamsink.setup_retry' => '300ms', 'streamsink.sample_interval' => '100ms',
	'streamsink.discovery_interval' => '200ms', 'streamsink.block_time' => '100ms');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# A pipeline of its own for each part: table, stream, group and pipeline share a name.
sub begin_part
{
	my ($name, $more) = @_;
	sql("CREATE TABLE $name (n int, t text)");
	sql("SELECT streamsink.create_pipeline('$name', server => 'iot', stream => '$name', target => '$name'" . ($more ? ", $more" : '') . ')');
	sql("SELECT streamsink.start('$name')");
	return;
}

sub send_range
{
	my ($name, $from, $to) = @_;
	produce($redis, $name, map { [ n => $_ ] } $from .. $to);
	return;
}

sub rows { my ($name) = @_; return sql("SELECT count(*) || '|' || count(DISTINCT n) FROM $name"); }
sub state_of { my ($name) = @_; return sql("SELECT state FROM streamsink.streams WHERE pipeline = '$name'"); }
sub wait_stream { my ($name, $state) = @_; poll_until(sub { state_of($name) eq $state }, sub { "stream $name to be $state, is " . state_of($name) }); return 1; }
sub begin_anew { my ($name) = @_; stop_workers($node, $name); sql("SELECT streamsink.start('$name')"); wait_workers($node, $name, 2); return; }
sub group_of { my ($name) = @_; my %g = split /\n/, $redis->cli('XINFO', 'GROUPS', $name); return \%g; }
sub marker_of { my ($name, $group) = @_; my ($m) = $redis->cli('XINFO', 'CONSUMERS', $name, $group // $name) =~ /^(streamsink:marker:\S+)$/m; return $m // ''; }
sub logged { my ($pattern) = @_; return slurp_file($node->logfile) =~ $pattern; }
sub checked { my ($name, $n, $what) = @_; wait_settled($node, $name); is(rows($name), "$n|$n", $what); return; }

# ---- the group is destroyed under load: it is made again at the end of what is settled without a hole ----
begin_part('destroyed');
send_range('destroyed', 1, 500);
wait_settled($node, 'destroyed');
my $last = group_of('destroyed')->{'last-delivered-id'};
$redis->cli('XGROUP', 'DESTROY', 'destroyed', 'destroyed');
send_range('destroyed', 501, 700);
poll_until(sub { rows('destroyed') eq '700|700' }, 'entries behind the destroyed group');
checked('destroyed', 700, 'XGROUP DESTROY: every entry once');
ok(logged(qr/consumer group "destroyed" of stream "destroyed" was lost and is made again at \Q$last\E/), 'it is made again behind the first run of settled entries');
is(sql("SELECT repeated FROM streamsink.status WHERE pipeline = 'destroyed'"), 0, 'and nothing was read twice');

# ---- the group was destroyed and made by hand at the end: what lies between is read ----
sql("SELECT streamsink.stop('destroyed')");
send_range('destroyed', 701, 750);
$redis->cli('XGROUP', 'DESTROY', 'destroyed', 'destroyed');
$redis->cli('XGROUP', 'CREATE', 'destroyed', 'destroyed', '$');
send_range('destroyed', 751, 800);
sql("SELECT streamsink.start('destroyed')");
checked('destroyed', 800, 'a group made by hand at its end: every entry once');
ok(logged(qr/50 entries of stream "destroyed" are read again/), 'those it had passed are made pending and read');

# ---- a group that was there before us: what it passed is not ours ----
send_range('before', 1, 30);
$redis->cli('XGROUP', 'CREATE', 'before', 'before', '$');
begin_part('before');
wait_for_state($node, 'before', 'running');
sql("SELECT streamsink.restart('before')");
wait_for_state($node, 'before', 'running');
send_range('before', 31, 40);
wait_settled($node, 'before');
is(rows('before'), '10|10', 'a group that somebody made is read from where it stands');
$redis->cli('XGROUP', 'DESTROY', 'before', 'before');
send_range('before', 41, 50);
wait_settled($node, 'before');
is(rows('before'), '20|20', 'also when it is lost and made again');

# ---- a lost group with holes in what is settled ----
begin_part('holes', q{on_lost_group => 'reread'});
wait_settled($node, 'holes');
stop_workers($node, 'holes');
send_range('holes', 1, 10);
$redis->cli('XREADGROUP', 'GROUP', 'holes', 'somebody', 'COUNT', '5', 'STREAMS', 'holes', '>');
sql("SELECT streamsink.start('holes')");
poll_until(sub { rows('holes') eq '5|5' }, 'the entries that are ours');
$redis->cli('XGROUP', 'DESTROY', 'holes', 'holes');
poll_until(sub { rows('holes') eq '10|10' }, sub { 'the others, there are ' . rows('holes') });
is(rows('holes'), '10|10', 'reread: it is made again before the first hole');

# ---- policies for a lost group ----
begin_part('resumed', q{on_lost_group => 'resume_after_last'});
send_range('resumed', 1, 10);
wait_settled($node, 'resumed');
$redis->cli('XGROUP', 'DESTROY', 'resumed', 'resumed');
send_range('resumed', 11, 20);
checked('resumed', 20, 'resume_after_last: goes on behind the last settled entry');
sql("SELECT streamsink.alter_pipeline('resumed', on_lost_group => 'stop')");
wait_for_state($node, 'resumed', 'running');
$redis->cli('XGROUP', 'DESTROY', 'resumed', 'resumed');
wait_stream('resumed', 'set_aside');
like(sql("SELECT reason FROM streamsink.streams WHERE pipeline = 'resumed'"), qr/lost.*on_lost_group/, 'stop: the stream is set aside with the reason');
send_range('resumed', 21, 30);
is(sql("SELECT state FROM streamsink.status WHERE pipeline = 'resumed'"), 'waiting', 'and the pipeline waits');
sql("SELECT streamsink.alter_pipeline('resumed', on_lost_group => 'reread')");
checked('resumed', 30, 'reread: every entry once');

# ---- with others in the group the default is to stop ----
begin_part('others');
send_range('others', 1, 10);
wait_settled($node, 'others');
$redis->cli('XGROUP', 'CREATECONSUMER', 'others', 'others', 'somebody');
sql("SELECT streamsink.restart('others')");
poll_until(sub { sql("SELECT foreign_consumers FROM streamsink.stream WHERE name = 'others'") eq 't' }, 'the other consumer to be noticed');
$redis->cli('XGROUP', 'DESTROY', 'others', 'others');
wait_stream('others', 'set_aside');
ok(1, 'a group that others read in too, lost: the stream is set aside');

# ---- XGROUP SETID, backwards, forwards, and beyond the end ----
begin_part('moved');
send_range('moved', 1, 300);
wait_settled($node, 'moved');
$redis->cli('XGROUP', 'SETID', 'moved', 'moved', '0');
send_range('moved', 301, 400);
checked('moved', 400, 'SETID back to 0: every entry once');
cmp_ok(sql("SELECT repeated FROM streamsink.status WHERE pipeline = 'moved'"), '>=', 300, 'those that came again were dropped');
# in one MULTI, so that nothing can be read in between
$redis->cli_stdin(join '', resp('MULTI'), (map { resp('XADD', 'moved', '*', 'n', $_) } 401 .. 450), resp('XGROUP', 'SETID', 'moved', 'moved', '$'), resp('EXEC'));
poll_until(sub { rows('moved') eq '450|450' }, sub { 'entries that SETID passed over: ' . rows('moved') });
checked('moved', 450, 'SETID forward while running: what it passed over is read');
$redis->cli('XGROUP', 'SETID', 'moved', 'moved', '99999999999999-0');
send_range('moved', 451, 460);
poll_until(sub { rows('moved') eq '460|460' }, 'entries before a group that stands behind the end');
checked('moved', 460, 'SETID beyond the end: set back, every entry once');
ok(logged(qr/stood behind the end of stream "moved"/), 'and said so');
sql("SELECT streamsink.stop('moved')");
send_range('moved', 461, 500);
$redis->cli('XGROUP', 'SETID', 'moved', 'moved', '$');
sql("SELECT streamsink.start('moved')");
checked('moved', 500, 'SETID forward while stopped: every entry once');

# ---- XGROUP DELCONSUMER with pending entries; XACK by hand ----
begin_part('robbed', q{batch_size => 10});
send_range('robbed', 1, 20);
wait_settled($node, 'robbed');
sql("SELECT streamsink.stop('robbed')");
my ($consumer) = grep { /^streamsink:[0-9a-f-]+:0$/ } split /\n/, $redis->cli('XINFO', 'CONSUMERS', 'robbed', 'robbed');
send_range('robbed', 21, 60);
$redis->cli('XREADGROUP', 'GROUP', 'robbed', $consumer, 'COUNT', '30', 'STREAMS', 'robbed', '>');
is((split /\n/, $redis->cli('XPENDING', 'robbed', 'robbed'))[0], 30, '30 entries are pending with the worker');
$redis->cli('XGROUP', 'DELCONSUMER', 'robbed', 'robbed', $consumer);
sql("SELECT streamsink.start('robbed')");
checked('robbed', 60, 'DELCONSUMER with pending entries: every entry once');
sql("SELECT streamsink.stop('robbed')");
send_range('robbed', 61, 80);
my @ids = grep { /^\d+-\d+$/ } split /\n/, $redis->cli('XREADGROUP', 'GROUP', 'robbed', $consumer, 'COUNT', '20', 'STREAMS', 'robbed', '>');
$redis->cli('XACK', 'robbed', 'robbed', @ids[ 5 .. 9 ]);
sql("SELECT streamsink.start('robbed')");
checked('robbed', 80, 'XACK by hand of entries nobody has written: every entry once');

# ---- reconcile: holes between settled entries ----
is(sql("SELECT streamsink.reconcile('robbed')"), 0, 'reconcile finds nothing where nothing is missing');
sql("SELECT streamsink.stop('robbed')");
send_range('robbed', 81, 120);
@ids = grep { /^\d+-\d+$/ } split /\n/, $redis->cli('XREADGROUP', 'GROUP', 'robbed', $consumer, 'COUNT', '20', 'STREAMS', 'robbed', '>');
# they are taken out of the pending list, and later ones are settled
$redis->cli('XACK', 'robbed', 'robbed', @ids);
sql("SELECT streamsink.reconcile('robbed')");
sql("SELECT streamsink.start('robbed')");
checked('robbed', 120, 'reconcile while stopped: what was missing is read, every entry once');

# ---- a hole between settled entries, found because the marker is gone ----
# of two workers none can tell by where the group stands that somebody moved it
begin_part('hole', 'workers => 2');
produce($redis, 'hole', map { { _id => "1-$_", n => $_ } } 1 .. 10);
wait_settled($node, 'hole');
# both have the stream now
begin_anew('hole');
my $reader = 'streamsink:' . sql("SELECT identity FROM streamsink.pipeline WHERE name = 'hole'") . ':0';
# at once: nobody sees the group between what is taken and what is left
$redis->cli_stdin(join '', resp('MULTI'), (map { resp('XADD', 'hole', "1-$_", 'n', $_) } 11 .. 20),
	resp('XREADGROUP', 'GROUP', 'hole', $reader, 'COUNT', '10', 'STREAMS', 'hole', '>'),
	resp('XACK', 'hole', 'hole', map { "1-$_" } 11 .. 20), (map { resp('XADD', 'hole', "1-$_", 'n', $_) } 21 .. 30), resp('EXEC'));
poll_until(sub { rows('hole') eq '20|20' }, sub { 'what is left, there are ' . rows('hole') });
begin_anew('hole');
is(rows('hole'), '20|20', 'what was acknowledged by hand in the middle is not looked for without a reason');
$redis->cli('XGROUP', 'DELCONSUMER', 'hole', 'hole', marker_of('hole'));
poll_until(sub { rows('hole') eq '30|30' }, sub { 'the hole to be filled, there are ' . rows('hole') });
checked('hole', 30, 'a missing marker is a reason: every entry once');

# ---- the same without anybody's help: gaps are looked into when they are old enough to be closed ----
begin_anew('hole');
$redis->cli_stdin(join '', resp('MULTI'), (map { resp('XADD', 'hole', "1-$_", 'n', $_) } 31 .. 40),
	resp('XGROUP', 'SETID', 'hole', 'hole', '$'), (map { resp('XADD', 'hole', "1-$_", 'n', $_) } 41 .. 50), resp('EXEC'));
poll_until(sub { rows('hole') eq '40|40' }, sub { 'what is left, there are ' . rows('hole') });
change_setting($node, 'streamsink.ledger_join_age', 0);
# the next look was a minute away
begin_anew('hole');
poll_until(sub { rows('hole') eq '50|50' }, sub { 'the hole to be looked into, there are ' . rows('hole') });
checked('hole', 50, 'a busy group that was moved: every entry once');

# ---- the stream is deleted and made anew ----
begin_part('replaced');
send_range('replaced', 1, 20);
wait_settled($node, 'replaced');
$redis->cli('DEL', 'replaced');
produce($redis, 'replaced', map { { _id => "1-$_", n => 100 + $_ } } 1 .. 5);
wait_stream('replaced', 'replaced');
like(sql("SELECT reason FROM streamsink.streams WHERE pipeline = 'replaced'"), qr/another stream/, 'a replaced stream with lower ids: set aside with the reason');
is(rows('replaced'), '20|20', 'nothing of it is read');
sql("SELECT streamsink.alter_pipeline('replaced', on_replaced_stream => 'follow')");
poll_until(sub { rows('replaced') eq '25|25' }, 'the new stream to be read');
checked('replaced', 25, 'follow: all of the new stream arrives');
$redis->cli('DEL', 'replaced');
send_range('replaced', 1001, 1010);
poll_until(sub { rows('replaced') eq '35|35' }, 'the third stream to be read');
checked('replaced', 35, 'follow: a new stream with higher ids as well');

# ---- markers: another pipeline's, and adopt ----
$redis->cli('XGROUP', 'CREATE', 'taken', 'taken', '0', 'MKSTREAM');
$redis->cli('XGROUP', 'CREATECONSUMER', 'taken', 'taken', 'streamsink:marker:6a3c1c9e-0000-4000-8000-000000000000:1:1:1:1.1.00000001');
send_range('taken', 1, 10);
begin_part('taken');
wait_stream('taken', 'set_aside');
like(sql("SELECT reason FROM streamsink.streams WHERE pipeline = 'taken'"), qr/belongs to another streamsink pipeline/, 'a group with the marker of another pipeline is refused');
is(rows('taken'), '0|0', 'nothing is read');
sql("BEGIN; SELECT streamsink.adopt('taken'); ROLLBACK");
is(marker_of('taken'), 'streamsink:marker:6a3c1c9e-0000-4000-8000-000000000000:1:1:1:1.1.00000001', 'adopt rolled back: nothing happens');
sql("SELECT streamsink.adopt('taken')");
poll_until(sub { rows('taken') eq '10|10' }, 'the adopted group to be read');
unlike(marker_of('taken'), qr/6a3c1c9e/, 'adopt: the marker is ours now');

# while running, a foreign marker that appears stops the reading
$redis->cli('XGROUP', 'CREATECONSUMER', 'taken', 'taken', 'streamsink:marker:6a3c1c9e-0000-4000-8000-000000000000:1:1:1:1.1.00000001');
wait_stream('taken', 'set_aside');
ok(1, 'a foreign marker that appears later is noticed');
sql("SELECT streamsink.adopt('taken')");
wait_stream('taken', 'ok');

# our marker vanishes: made again, nothing is lost
my $marker;
poll_until(sub {
		my @markers = $redis->cli('XINFO', 'CONSUMERS', 'taken', 'taken') =~ /^(streamsink:marker:\S+)$/mg;
		$marker = $markers[0];
		return @markers == 1 && $marker !~ /6a3c1c9e|\.0\.[0-9a-f]{8}$/;
	}, 'the marker to be ours alone');
$redis->cli('XGROUP', 'DELCONSUMER', 'taken', 'taken', $marker);
poll_until(sub { marker_of('taken') eq $marker }, 'the marker to be made again');
send_range('taken', 11, 20);
checked('taken', 20, 'a removed marker is made again');
my ($rc, $out, $err) = $node->psql('postgres', "SELECT streamsink.adopt('taken')");
like($err, qr/NOTICE:.*no consumer group/, 'adopt without need says so');

is(sql('SELECT count(*) FROM streamsink.status WHERE read <> written + refused + ignored + repeated + superseded + vanished'), 0, 'counters add up');
$node->stop;
done_testing;
