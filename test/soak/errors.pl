# Errors, again and again: a hundred thousand batches fail, and what a worker
# holds (memory, its contexts, descriptors) and what it logs stays bounded.
#
#   make soak                      all of them, about ten minutes
#   SOAK_BATCHES=5000 make soak    fewer
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $batches = $ENV{SOAK_BATCHES} // 100_000;
my $refused = int($batches * 0.6);		# with an entry that is refused; the others fail with errors of the machine
my @steady  = qw(write decode beside commit);
my $each    = int(($batches - $refused) / @steady);
my $limit   = $ENV{SOAK_SECONDS} // 3600;
my $started = time;

my $redis = new_redis('soak');
my $node  = new_node('soak', 'streamsink.max_workers' => 10, 'autovacuum_naptime' => '5s', 'streamsink.sample_interval' => '500ms', 'checkpoint_timeout' => '1h', 'max_wal_size' => '4GB');
create_server($node, $redis);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub log_size { my $n = () = slurp_file($node->logfile) =~ /\n/g; return $n; }

sql(q{CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
		IF NEW.note = 'fail' THEN RAISE EXCEPTION 'as asked for' USING ERRCODE = '55P03'; END IF;
		RETURN NEW;
	END$$;
	CREATE FUNCTION check_note(note text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN
		IF note = 'fail' THEN RAISE EXCEPTION 'as asked for' USING ERRCODE = '53100'; END IF;
		RETURN true;
	END$$;
	CREATE DOMAIN note AS text CHECK (check_note(VALUE));
	CREATE TABLE refused (n int, note text CHECK (note <> 'bad'));
	CREATE TABLE write (n int, note text);
	CREATE TABLE decode (n int, note note);
	CREATE TABLE beside (n int, note text);
	CREATE TABLE commit (n int, note text);
	CREATE TRIGGER fail BEFORE INSERT ON write FOR EACH ROW EXECUTE FUNCTION fail();
	CREATE TRIGGER fail BEFORE INSERT ON beside FOR EACH ROW EXECUTE FUNCTION fail();
	CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON commit DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()});
sql("SELECT streamsink.create_pipeline('refused', server => 'iot', stream => 'refused', target => 'refused', batch_size => 2)");
sql("SELECT streamsink.create_pipeline('$_', server => 'iot', stream => '$_:*', target => '$_', retry_backoff => '1 ms', retry_backoff_max => '1 ms')") for @steady;

# What a worker holds now: kB of its own memory and in all, bytes in contexts, descriptors.
sub measure
{
	my ($name) = @_;
	my $row = sql("SELECT w.pid, w.memory_bytes, CASE WHEN s.pipeline = 'refused' THEN s.batches ELSE s.errors END FROM streamsink.workers w JOIN streamsink.status s USING (pipeline) WHERE w.pipeline = '$name'");
	my ($pid, $contexts, $done) = split /\|/, $row;
	return unless $pid;
	my $status = eval { slurp_file("/proc/$pid/status") } // return;
	my ($anon) = $status =~ /^RssAnon:\s+(\d+)/m;
	my ($rss)  = $status =~ /^VmRSS:\s+(\d+)/m;
	my $open = () = glob "/proc/$pid/fd/*";
	return { pid => $pid, anon => $anon, rss => $rss, contexts => $contexts, open => $open, done => $done };
}

my %base;
my %most;
sub sample
{
	my ($name, $wanted) = @_;
	my $now = measure($name) or return;
	$most{$name}{done} = $now->{done};
	return if $now->{done} < $wanted / 10;		# caches fill at first
	$base{$name} //= $now;
	foreach my $what (qw(anon rss contexts open))
	{
		$most{$name}{$what} = $now->{$what} if $now->{$what} > ($most{$name}{$what} // 0);
	}
	return;
}

sub check
{
	my ($name, $wanted, $before) = @_;
	my ($base, $most) = ($base{$name}, $most{$name});
	my $lines = log_size() - $before;
	my $now = measure($name);

	note sprintf '%s: %d of %d batches, own memory %d kB at a tenth, %d at most; resident %d, %d; contexts %d, %d bytes; descriptors %d, %d',
	  $name, $most->{done}, $wanted, map { ($base->{$_}, $most->{$_}) } qw(anon rss contexts open);
	cmp_ok($most->{done}, '>=', $wanted, "$name: so many batches failed");
	is($now->{pid}, $base->{pid}, "$name: in one process");
	cmp_ok($most->{anon}, '<=', $base->{anon} + 4096, "$name: its memory does not grow");
	cmp_ok($most->{contexts}, '<=', $base->{contexts} + 1024 * 1024, "$name: nor do its contexts");
	cmp_ok($most->{open}, '<=', $base->{open} + 3, "$name: nor what it has open");
	return;
}

# Batches of two, one of them refused.
my $lines = log_size();
my $sent = 0;
sql("SELECT streamsink.start('refused')");
my $next = 0;
while (($most{refused}{done} // 0) < $refused)
{
	die 'out of time' if time - $started > $limit;
	if ($sent < 2 * ($most{refused}{done} // 0) + 20_000 && $sent < 2 * $refused)
	{
		produce($redis, 'refused', map { [ n => $sent + $_, note => $_ % 2 ? 'good' : 'bad' ] } 1 .. 10_000);
		$sent += 10_000;
	}
	# what was read ahead may make batches of two or one: send more if they ran out
	elsif (sql("SELECT lag = 0 AND pending = 0 FROM streamsink.status WHERE pipeline = 'refused'") eq 't')
	{
		produce($redis, 'refused', map { [ n => $sent + $_, note => $_ % 2 ? 'good' : 'bad' ] } 1 .. 1000);
		$sent += 1000;
	}
	usleep(100_000);
	sample('refused', $refused);
}
check('refused', $refused, $lines);
wait_settled($node, 'refused');
is(sql('SELECT count(*), count(DISTINCT n) FROM refused'), join('|', ($sent / 2) x 2), 'refused: the good ones arrived once');
is(sql('SELECT count(*) FROM streamsink.dead_letters'), $sent / 2, 'refused: the others are dead letters');
cmp_ok(log_size() - $lines, '<', 100, 'refused: they are not logged one by one');
note sprintf '%d log lines, %.0f s', log_size() - $lines, time - $started;
sql("SELECT streamsink.stop('refused')");

# Errors of the machine without an end, four pipelines at a time.
$lines = log_size();
my $failing = time;
produce($redis, "$_:1", [ n => 1, note => 'fail' ]) for @steady;
sql('SELECT ' . join(', ', map { "streamsink.start('$_')" } @steady));
my $good = 0;
while (grep { ($most{$_}{done} // 0) < $each } @steady)
{
	die 'out of time' if time - $started > $limit;
	# entries come to another stream of a pipeline that waits
	produce($redis, 'beside:2', map { [ n => ++$good, note => 'good' ] } 1 .. 20);
	usleep(200_000);
	sample($_, $each) for @steady;
}
foreach my $name (@steady)
{
	check($name, $each, $lines);
}
my $seconds = time - $failing;
my $logged = log_size() - $lines;
note sprintf '%d log lines, %.0f s', $logged, $seconds;
# one entry of up to ten lines every 30 s and pipeline, and what the start says
cmp_ok($logged, '<', 4 * 10 * ($seconds / 30 + 3), 'a steady failure is not logged every time');
is(sql('SELECT count(*) FROM streamsink.attempt'), 4, 'one note of each pending batch');
my $size = sql("SELECT pg_total_relation_size('streamsink.attempt')");
note "$size bytes of notes";
cmp_ok($size, '<', 32 * 1024 * 1024, 'notes of what is tried are vacuumed as they go');
sql('DROP TRIGGER fail ON write; DROP TRIGGER fail ON beside; DROP TRIGGER fail ON commit;',
	'CREATE OR REPLACE FUNCTION check_note(note text) RETURNS bool LANGUAGE sql IMMUTABLE AS $$SELECT true$$');
wait_settled($node, $_) for @steady;
is(sql('SELECT (SELECT count(*) FROM write), (SELECT count(*) FROM decode), (SELECT count(*) FROM beside), (SELECT count(DISTINCT (n, note)) FROM beside), (SELECT count(*) FROM commit)'),
	join('|', 1, 1, $good + 1, $good + 1, 1), 'when the cause is gone, every entry arrives once');
$node->stop;
done_testing;
