# The example firehose: one stream into many tables, beside workers of another kind.
#
# SS_SECONDS, SS_RATE: the sustained rate; SS_SEED: which creations and deletions.
use strict;
use warnings;
use File::Basename;
use IPC::Run ();
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamsinkTest;
use Test::More;

my $tree = $ENV{STREAMSINK_TREE} // dirname(__FILE__) . '/../..';
my $example = "$tree/examples/firehose";
my ($rate, $seconds) = ($ENV{SS_RATE} // 5000, $ENV{SS_SECONDS} // 15);
my $seed = $ENV{SS_SEED} // 20240501;
my $redis = new_redis('firehose');
my $node = new_node('firehose', _extension => 0, 'streamsink.sample_interval' => '500ms', 'streamsink.backoff_max' => '1s', 'streamsink.batch_timeout' => '10s',
	'streamsink.discovery_interval' => '200ms');
my @psql = ('psql', '-X', '-q', '-d', $node->connstr('postgres'));
my $json = JSON::PP->new->canonical;
my ($stream, $group) = ('firehose:events', 'firehose-processors');
my ($post, $like, $repost) = map { "app.bsky.feed.$_" } qw(post like repost);
my ($follow, $block, $profile) = qw(app.bsky.graph.follow app.bsky.graph.block app.bsky.actor.profile);
srand($seed);
note "seed $seed";

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub count { return sql("SELECT count(*) FROM $_[0]"); }
sub status { return sql("SELECT $_[0] FROM streamsink.status WHERE pipeline = 'firehose'"); }
sub add { return produce($redis, $stream, map { [ event => $json->encode($_) ] } @_); }
sub applied { add(@_); return wait_settled($node, 'firehose'); }
sub errors { return sql(q{SELECT coalesce(string_agg(error, '; ' ORDER BY id), '') FROM streamsink.dead_letters WHERE pipeline = 'firehose'}); }
sub uri { return "at://$_[0]/$_[1]/$_[2]"; }

sub commit { my ($repo, @ops) = @_; return { type => 'commit', repo => $repo, ops => \@ops }; }
sub create
{
	my ($collection, $rkey, %record) = @_;
	return { action => 'create', collection => $collection, rkey => "$rkey", cid => "cid$rkey",
		record => { '$type' => $collection, createdAt => '2026-01-01T12:00:00.000Z', %record } };
}
sub remove { return { action => 'delete', collection => $_[0], rkey => "$_[1]" }; }
sub a_post { my ($repo, $rkey) = @_; return commit($repo, create($post, $rkey, text => "post $rkey")); }

# A pipeline that is stopped: what is added then is one batch, or few.
sub stopped_with
{
	my (%change) = @_;
	sql("SELECT streamsink.stop('firehose')");
	my $arguments = join ', ', map { "$_ => $change{$_}" } sort keys %change;
	sql("SELECT streamsink.alter_pipeline('firehose', $arguments)") if $arguments;
	return;
}
sub go { sql("SELECT streamsink.start('firehose')"); wait_for_state($node, 'firehose', 'running'); return wait_settled($node, 'firehose'); }

# ---- workers that are not ours, first ----
my $out = "$ENV{TESTDIR}/firehose.foreign";
my $python;
sub start_python
{
	$python = fork // die $!;
	if ($python == 0)
	{
		exec('/usr/bin/python3', '-B', "$tree/test/lib/foreign_worker.py", $redis->socket, $stream, $group, 'python-1', $out) or POSIX::_exit(127);
	}
	poll_until(sub { ($redis->try_cli('XINFO', 'CONSUMERS', $stream, $group))[1] =~ /python-1/ }, 'the Python worker');
	return;
}
sub end_python { my ($signal) = @_; kill $signal, $python; waitpid $python, 0; undef $python; return; }
sub theirs { my @got = -e $out ? split /\n/, slurp_file($out) : (); return @got; }
sub ours { return split /\n/, sql(q{SELECT regexp_replace(uri, '.*/', '') FROM posts}); }

add(map { a_post('did:plc:p', $_) } 1 .. 500);
start_python();
poll_until(sub { theirs() == 500 }, 'what the Python worker takes alone');

command_ok([ @psql, '-v', 'host=' . $redis->host, '-v', 'port=' . $redis->port, '-f', "$example/setup.sql" ], 'setup.sql runs');
wait_for_state($node, 'firehose', 'running');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 5 FROM streamsink.workers WHERE pipeline = 'firehose'}), 'five parallel workers');
my $next = 501;
poll_until(sub { add(map { a_post('did:plc:p', $next++) } 1 .. 50); theirs() > 600 && count('posts') > 100 }, 'both to get entries');
pass('both get their part of the entries, in the same group at the same time');
# theirs is stopped: ours goes on
end_python('TERM');
add(map { a_post('did:plc:p', $next++) } 1 .. 500);
wait_settled($node, 'firehose');
poll_until(sub { theirs() + count('posts') == $next - 1 }, 'everything');
my %seen;
$seen{$_}++ for theirs(), ours();
is(scalar(grep { !$seen{$_} } 1 .. $next - 1), 0, 'theirs can be stopped: each entry has come to one of them');
is(scalar(grep { $_ != 1 } values %seen), 0, '... and to one only');
# ours is stopped: theirs goes on, also with what ours had read ahead
start_python();
poll_until(sub { add(map { a_post('did:plc:p', $next++) } 1 .. 50); theirs() > 1000 }, 'the Python worker to be back');
sql("SELECT streamsink.stop('firehose')");
my $rows = count('posts');
add(map { a_post('did:plc:p', $next++) } 1 .. 500);
poll_until(sub { theirs() + $rows == $next - 1 }, 'the Python worker to take the rest');
%seen = ();
$seen{$_}++ for theirs(), ours();
is(scalar(grep { !$seen{$_} || $seen{$_} != 1 } 1 .. $next - 1), 0, 'ours can be stopped: each entry has come to one of them, once');
# theirs dies with entries in its hands: ours takes them
kill 'STOP', $python;
$redis->cli('XREADGROUP', 'GROUP', $group, 'python-2', 'COUNT', 1, 'STREAMS', $stream, '>');
add(map { a_post('did:plc:p', $next++) } 1 .. 40);
$redis->cli('XREADGROUP', 'GROUP', $group, 'python-2', 'COUNT', 10, 'STREAMS', $stream, '>');
end_python('KILL');
sql(q{SELECT streamsink.alter_pipeline('firehose', claim_idle => '1 s')});
sql(q{SELECT streamsink.start('firehose')});
poll_until(sub { %seen = (); $seen{$_}++ for theirs(), ours(); !grep { !$seen{$_} } 1 .. $next - 1 }, 'what dead workers had');
pass('what a dead one had is taken over');

# ---- routing ----
stopped_with(reset => q{'{claim_idle}'}, workers => 1);
go();
my ($alice, $bob) = ('did:plc:alice', 'did:plc:bob');
applied({ type => 'identity', did => $alice, handle => 'alice.example.org' }, a_post($alice, 'p1'), commit($bob, create($like, 'l1', subject => { uri => uri($alice, $post, 'p1'), cid => 'x' })),
	commit($bob, create($repost, 'r1', subject => { uri => uri($alice, $post, 'p1') })), commit($bob, create($follow, 'f1', subject => $alice)),
	commit($alice, create($block, 'b1', subject => $bob)), commit($bob, create($profile, 'self', displayName => 'Bob', description => 'builds')),
	commit($bob, create($post, 'p2', text => 'an answer', reply => { parent => { uri => uri($alice, $post, 'p1') } })));
is(errors(), '', 'commit, identity, account: nothing is refused');
is(sql("SELECT did, handle, display_name, description, status FROM users WHERE did IN ('$alice', '$bob') ORDER BY did"),
	"$alice|alice.example.org|||active\n$bob||Bob|builds|active", 'users: made if unknown, handle and profile');
is(sql(qq{SELECT did, cid, text, reply_to, created_at = '2026-01-01 12:00+00' FROM posts WHERE uri IN ('@{[uri($alice, $post, 'p1')]}', '@{[uri($bob, $post, 'p2')]}') ORDER BY did}),
	"$alice|cidp1|post p1||t\n$bob|cidp2|an answer|@{[uri($alice, $post, 'p1')]}|t", 'posts');
is(sql('SELECT did, post FROM likes'), "$bob|" . uri($alice, $post, 'p1'), 'likes');
is(sql('SELECT did, post FROM reposts'), "$bob|" . uri($alice, $post, 'p1'), 'reposts');
is(sql('SELECT did, subject FROM follows'), "$bob|$alice", 'follows');
is(sql('SELECT did, subject FROM blocks'), "$alice|$bob", 'blocks');
is(sql(q{SELECT string_agg(conrelid::regclass || ' ' || confrelid::regclass, ', ' ORDER BY conrelid::regclass::text, confrelid::regclass::text) FROM pg_constraint WHERE contype = 'f'
	AND connamespace = 'public'::regnamespace}),
	'blocks users, blocks users, follows users, follows users, likes posts, likes users, posts users, reposts posts, reposts users', '... with foreign keys');
applied({ type => 'identity', did => $alice, handle => 'alice.example.com' }, { type => 'account', did => $bob, active => JSON::PP::false, status => 'deactivated' });
is(sql("SELECT handle FROM users WHERE did = '$alice'"), 'alice.example.com', 'identity updates the handle');
is(sql("SELECT status FROM users WHERE did = '$bob'"), 'deactivated', 'account changes the status');

my $posts = count('posts');
applied(a_post($alice, 'p1'), a_post($alice, 'p1'), commit($bob, create($like, 'l1', subject => { uri => uri($alice, $post, 'p1') })));
is(count('posts') . '|' . count('likes') . '|' . errors(), "$posts|1|", 'a duplicate is skipped silently');

applied(a_post($bob, 'n1'), commit($bob, create($like, 'l2', subject => { uri => uri('did:plc:nobody', $post, 'x') })), commit($bob, create($follow, 'f2', subject => 'did:plc:nobody')), a_post($bob, 'n2'));
is(errors(), 'unknown post: at://did:plc:nobody/app.bsky.feed.post/x; unknown user: did:plc:nobody', 'a reference to something unknown is refused and recorded');
is(sql(q{SELECT string_agg(DISTINCT sqlstate, ' ') FROM streamsink.dead_letters}), '23503', '... as what it is');
is(count('posts'), $posts + 2, '... never fatal to its neighbours');
sql(q{SELECT streamsink.discard_dead_letters('firehose')});

my $ignored = status('ignored');
applied(commit($alice, create('app.bsky.graph.list', 'x')), commit($alice, create('com.example.other', 'x')), commit($alice, create('com.example.other', 'y'), create($post, 'with', text => 'x')));
is(status('ignored') - $ignored, 2, 'an unknown collection is ignored and counted');
is(sql('SELECT string_agg(collection || \' \' || n, \', \' ORDER BY collection) FROM (SELECT collection, sum(operations) AS n FROM ignored_operations GROUP BY 1) i'),
	'app.bsky.graph.list 1, com.example.other 2', '... by name');
is(errors(), '', '... and not refused');
is(sql("SELECT count(*) FROM posts WHERE uri = '@{[uri($alice, $post, 'with')]}'"), 1, '... nor does it stop its neighbours');

$posts = count('posts');
applied(commit('did:plc:whole', create($post, 'w1', text => 'x'), create($like, 'w2', subject => { uri => uri('did:plc:nobody', $post, 'x') }), create($post, 'w3', text => 'y')), a_post($alice, 'w4'));
is(count('posts') . '|' . sql(q{SELECT count(*) FROM users WHERE did = 'did:plc:whole'}), $posts + 1 . '|0', 'an entry with several operations is refused as a whole');
is(sql(q{SELECT count(*) FROM streamsink.dead_letters}), 1, '... as one');
applied(commit($alice, { action => 'paint', collection => $post, rkey => 'x' }), commit($alice, { action => 'create', collection => $post, rkey => 'x' }), { type => 'rumour', did => $alice },
	{ type => 'commit', repo => $alice }, commit($alice, create($post, 'time', createdAt => 'soon')));
produce($redis, $stream, [ event => '{"type": ' ], [ other => 1 ]);
wait_settled($node, 'firehose');
is(sql(q{SELECT count(*) FROM streamsink.dead_letters}), 8, 'what cannot be applied refuses its entry');
sql(q{SELECT streamsink.discard_dead_letters('firehose')});

# deletes for all of them
applied(commit($bob, map { remove(@$_) } [ $like, 'l1' ], [ $repost, 'r1' ], [ $follow, 'f1' ], [ $profile, 'self' ]), commit($alice, remove($block, 'b1'), remove($post, 'w4')));
is(join(' ', map { count($_) } qw(likes reposts follows blocks)), '0 0 0 0', 'deletes for all of them');
is(sql("SELECT display_name IS NULL, (SELECT count(*) FROM posts WHERE uri = '@{[uri($alice, $post, 'w4')]}') FROM users WHERE did = '$bob'"), 't|0', '... posts and profiles, too');
applied(commit($bob, create($like, 'l3', subject => { uri => uri($alice, $post, 'w4') })));
is(count('likes') . errors(), 0, 'what is deleted takes no like');

# ---- create and delete ----
stopped_with();
add(a_post($alice, 'gone1'), commit($alice, remove($post, 'gone1')), a_post($alice, 'back1'), commit($alice, remove($post, 'back1')), a_post($alice, 'back1'));
go();
sub there { my ($like) = @_; return sql("SELECT coalesce(string_agg(regexp_replace(uri, '.*/', ''), ' ' ORDER BY regexp_replace(uri, '.*/', '')), '') FROM posts WHERE uri LIKE '%/$like'"); }
is(there('gone_'), '', 'create and then delete of the same record in one batch ends deleted');
is(there('back_'), 'back1', '... and what is created after that is there');
applied(a_post($alice, 'gone2'));
is(there('gone_'), 'gone2', '... it is there');
applied(commit($alice, remove($post, 'gone2')));
is(there('gone_'), '', '... across two batches');

foreach my $workers (1, 5)
{
	# what is left of each record is what its last operation says
	my (@events, %last);
	foreach my $n (1 .. 2500)
	{
		my $key = "w$workers" . 'x' . int(rand 400);
		my $delete = $last{$key} && rand() < 0.6;
		push @events, commit('did:plc:w' . substr($key, -1), $delete ? remove($post, $key) : create($post, $key, text => $n));
		$last{$key} = $delete ? 'deleted' : 'there';
	}
	stopped_with(workers => $workers, batch_size => 20);
	add(@events);
	go();
	is(there("w${workers}x%"), join(' ', sort grep { $last{$_} eq 'there' } keys %last), "... with $workers worker" . ($workers > 1 ? 's' : ''));
	is(errors(), '', '... and nothing is refused');
}

# ---- it comes back by itself ----
stopped_with(workers => 5, batch_size => 1000);
go();
$posts = count('posts');
$redis->cli('CLIENT', 'KILL', 'TYPE', 'normal');
add(map { a_post($alice, "again$_") } 1 .. 100);
ok($node->poll_query_until('postgres', "SELECT count(*) = $posts + 100 FROM posts"), 'reconnects by itself');
$redis->cli('XGROUP', 'DESTROY', $stream, $group);
add(map { a_post($alice, "group$_") } 1 .. 100);
ok($node->poll_query_until('postgres', q{SELECT count(*) = 100 FROM posts WHERE uri LIKE '%/group%'}), 'makes the group again when it is gone');
wait_settled($node, 'firehose');
is(sql("SELECT count(*) FROM posts WHERE uri LIKE '%/gone_'"), 0, '... and nothing comes back that was deleted');

# ---- the rate ----
sql(q{SELECT streamsink.discard_dead_letters('firehose'), streamsink.stop('firehose')});
sql('TRUNCATE users, posts, likes, reposts, follows, blocks, record_versions');
$redis->cli('XTRIM', $stream, 'MAXLEN', 0);
go();
my ($report, $err) = ('', '');
my $peak = 0;
my $bench = IPC::Run::start([ "$tree/examples/events/benchmark", '--rate', $rate, '--seconds', $seconds, '--json', '--pipeline', 'firehose', '--stream', $stream,
		'--group', $group, '--producer', "'$example/producer' --distance 30000 --unknown 0.001 --seed 5", '--redis', 'redis-cli -s ' . $redis->socket,
		'--psql', "psql -d '" . $node->connstr('postgres') . "'" ], '<', \'', '>', \$report, '2>', \$err);
my $clients = 0;
while ($bench->pumpable)
{
	my $memory = 0;
	foreach my $pid (split /\n/, sql(q{SELECT pid FROM streamsink.workers WHERE pipeline = 'firehose'}))
	{
		$memory += $1 if -e "/proc/$pid/status" && slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
	}
	$peak = $memory if $memory > $peak;
	my $now = () = $redis->cli('CLIENT', 'LIST') =~ /name=streamsink/g;
	$clients = $now if $now > $clients;
	$bench->pump_nb;
	select undef, undef, undef, 0.5;	# between two looks
}
$bench->finish;
note $report, $err, "memory of the workers: $peak kB; connections: $clients";
$report = eval { $json->decode($report) } // {};
is($report->{ingested}, $rate * $seconds, "sustained $rate events a second");
ok($report->{ok}, '... the backlog does not grow') or diag($err, status_of($node, 'firehose'));
cmp_ok($peak, '<', 400_000, '... with small memory');
cmp_ok($clients, '<', 18, '... and few connections');
# five workers do not keep the order: what was referred to too early is there now
sql(q{SELECT streamsink.retry_dead_letters('firehose')});
is(sql(q{SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'firehose' AND error NOT LIKE 'unknown post: at://did:plc:nobody/%'}), 0,
	'... and what is refused in the end is what refers to nothing');
cmp_ok(sql(q{SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'firehose'}), '>', 0, '... which is some');
is(sql(q{SELECT read = written + refused + ignored + repeated + superseded + vanished FROM streamsink.status WHERE pipeline = 'firehose'}), 't', 'and counted');

end_python('KILL') if $python;
$node->stop;
$redis->stop;
done_testing();
