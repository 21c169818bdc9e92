# Streams that vanish under a read that waits for them, entries that vanish
# before they are read, and entries of every shape that Redis takes.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('streams');
my $node  = new_node('streams', 'streamsink.discovery_interval' => '100ms', 'streamsink.sample_interval' => '100ms', 'streamsink.setup_retry' => '200ms');
create_server($node, $redis);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub status { return sql("SELECT $_[1] FROM streamsink.status WHERE pipeline = '$_[0]'"); }
sub make_pipeline
{
	my ($name, $columns, $more) = @_;
	sql("CREATE TABLE $name ($columns); SELECT streamsink.create_pipeline('$name', server => 'iot', stream => '$name', target => '$name'" . ($more // '') . "); SELECT streamsink.start('$name')");
	wait_for_state($node, $name, 'running');
	return;
}
sub stop_pipeline
{
	my ($name) = @_;
	sql("SELECT streamsink.stop('$name')");
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM streamsink.workers WHERE pipeline = '$name'") or die 'worker';
	return;
}

# ---- the key goes while a read waits for it, and comes back ----

my %gone = (
	DEL      => sub { $redis->cli('DEL', $_[0]) },
	UNLINK   => sub { $redis->cli('UNLINK', $_[0]) },
	PEXPIRE  => sub { $redis->cli('PEXPIRE', $_[0], 1) },
	RENAME   => sub { $redis->cli('RENAME', $_[0], "$_[0]:away") },
	SWAPDB   => sub { $redis->cli('SWAPDB', 0, 1) },
	FLUSHALL => sub { $redis->cli('FLUSHALL') });
foreach my $command (sort keys %gone)
{
	my $name = lc $command;
	make_pipeline($name, 'n int');
	produce($redis, $name, map { [ n => $_ ] } 1 .. 20);
	wait_settled($node, $name);
	poll_until(sub { $redis->cli('INFO', 'clients') =~ /blocked_clients:[1-9]/ }, 'a read that waits');
	$gone{$command}->($name);
	wait_for_state($node, $name, 'waiting');
	like(status($name, 'reason'), qr/no such key/, "$command while a read waits: the pipeline waits and says why");
	produce($redis, $name, [ n => 21 ]);
	ok($node->poll_query_until('postgres', "SELECT reason ~ 'another stream is there' FROM streamsink.status WHERE pipeline = '$name'"), "$command: it does not take another stream for the same one")
	  or diag(status_of($node, $name));
	sql("SELECT streamsink.alter_pipeline('$name', on_replaced_stream => 'follow')");
	ok(eval { wait_settled($node, $name) } && sql("SELECT count(*), count(DISTINCT n) FROM $name") eq '21|21', "$command: follows when it may") or diag(status_of($node, $name));
	sql("SELECT streamsink.drop_pipeline('$name')");
}

# ---- delivered to us, then deleted before we had read it ----

make_pipeline('vanished', 'n int');
produce($redis, 'vanished', [ n => 1 ]);
wait_settled($node, 'vanished');
stop_pipeline('vanished');
my ($consumer) = sql(q{SELECT 'streamsink:' || identity || ':0' FROM streamsink.pipeline WHERE name = 'vanished'});
produce($redis, 'vanished', map { [ n => $_ ] } 2 .. 6);
my @ids = $redis->cli('XREADGROUP', 'GROUP', 'vanished', $consumer, 'STREAMS', 'vanished', '>') =~ /^(\d+-\d+)$/mg;
is(@ids, 5, 'five entries are delivered to a worker that is gone');
$redis->cli('XDEL', 'vanished', @ids[ 1, 2 ]);
sql(q{SELECT streamsink.start('vanished')});
wait_settled($node, 'vanished');
is(sql('SELECT string_agg(n::text, $$,$$ ORDER BY n) FROM vanished'), '1,2,5,6', 'two of them are deleted: the others arrive');
is(status('vanished', 'vanished'), 2, '... they are counted as vanished');
is((split /\n/, $redis->cli('XPENDING', 'vanished', 'vanished'))[0], 0, '... and pending no more');
sql(q{SELECT streamsink.drop_pipeline('vanished')});

# ---- a lag that Redis does not know is not shown as none ----

make_pipeline('lagging', 'n int');
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE lagging');
stop_pipeline('lagging');
produce($redis, 'lagging', map { [ n => $_, _id => "$_-0" ] } 1 .. 50);
$redis->cli('XDEL', 'lagging', '30-0', '31-0');
unlike($redis->cli('XINFO', 'GROUPS', 'lagging'), qr/^lag\n\d+$/m, 'Redis does not know the lag of a group after XDEL');
sql(q{SELECT streamsink.alter_pipeline('lagging', batch_size => 5); SELECT streamsink.start('lagging')});
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM streamsink.streams WHERE pipeline = 'lagging' AND length = 48}) or die 'no sample';
isnt(status('lagging', q{coalesce(lag::text, 'unknown')}), '0', '... and streamsink does not say that there is none');
$locker->query_safe('COMMIT');
$locker->quit;
wait_settled($node, 'lagging');
is(sql('SELECT count(*) FROM lagging'), 48, '... all that is there arrives');
sql(q{SELECT streamsink.drop_pipeline('lagging')});

# ---- names and values of every shape ----

make_pipeline('shapes', 'n int, k text, "sp ace" text, rest jsonb', ", rest => 'rest'");
produce($redis, 'shapes',
	[ n => 1, k => 'first', k => 'last' ],
	[ n => 2, '' => 'nameless', k => '' ],
	[ n => 3, 'sp ace' => "two\r\n\$3\r\nlines" ],
	[ n => 4, x => 1, x => 2 ],
	[ n => 5, "bad\xff" => 1 ],
	[ n => 6, k => "*1\r\n\$8\r\nFLUSHALL\r\n" ]);
wait_settled($node, 'shapes');
is(sql(q{SELECT n, k, replace("sp ace", E'\r\n', '/'), rest FROM shapes WHERE n < 6 ORDER BY n}),
	join("\n", '1|last||{}', '2|||{"": "nameless"}', '3||two/$3/lines|{}', '4|||{"x": "2"}'), 'doubled, nameless, odd: the last of a name counts');
is(sql(q{SELECT length(k) FROM shapes WHERE n = 6}), 18, 'a value that looks like a command is a value');
is(sql(q{SELECT sqlstate, encode(raw[3], 'hex') FROM streamsink.dead_letters WHERE pipeline = 'shapes'}), '22021|626164ff', 'a name that is no text makes a dead letter');
sql(q{SELECT streamsink.drop_pipeline('shapes')});

# The largest id there is, and the smallest.
make_pipeline('ids', 'id streamsink.entry_id, at timestamptz, n int', q{, columns => '{"id": "_id", "at": "_time"}'});
my $max = '18446744073709551615';
produce($redis, 'ids', [ _id => '0-1', n => 1 ], [ _id => "$max-0", n => 2 ], [ _id => "$max-$max", n => 3 ]);
wait_settled($node, 'ids');
is(sql(q{SELECT id, n, at = 'infinity' OR at > '200000-01-01' FROM ids ORDER BY n}), "0-1|1|f\n$max-0|2|t\n$max-$max|3|t", 'ids at both ends');
stop_pipeline('ids');
$redis->cli('XGROUP', 'SETID', 'ids', 'ids', '0');
sql(q{SELECT streamsink.start('ids')});
ok($node->poll_query_until('postgres', q{SELECT repeated = 3 FROM streamsink.status WHERE pipeline = 'ids'}), '... are known when they come again') or diag(status_of($node, 'ids'));
is(sql('SELECT count(*) FROM ids'), 3, '... and written once');
sql(q{SELECT streamsink.drop_pipeline('ids')});

# ---- keys that come and go while they are looked for ----

sql(q{CREATE TABLE many (k text, n int); SELECT streamsink.create_pipeline('many', server => 'iot', stream => 'many:{k}', target => 'many', workers => 2); SELECT streamsink.start('many')});
for my $round (1 .. 10)
{
	produce($redis, "many:$_", [ n => $round ]) for map { $round * 10 + $_ } 1 .. 10;
	$redis->cli_stdin(join '', map { (resp('XADD', "many:brief$_", '*', 'x', 1), resp('DEL', "many:brief$_")) } 1 .. 200);
	# names that must not match, or are no streams
	$redis->cli_stdin(join '', map { resp('SET', "many:string$round.$_", 1) } 1 .. 50);
}
$node->poll_query_until('postgres', q{SELECT count(DISTINCT k) = 100 FROM many}) or diag(status_of($node, 'many'));
wait_settled($node, 'many');
is(sql(q{SELECT count(*), count(DISTINCT k) FROM many WHERE n IS NOT NULL}), '100|100', 'streams that stay are found among those that come and go');
sql(q{SELECT streamsink.drop_pipeline('many')});

unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'no process crashed');
$node->stop;
done_testing;
