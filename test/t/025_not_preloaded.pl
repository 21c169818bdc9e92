# A server that has not loaded the library at start: what needs that says so,
# with the line to add; definitions and apply() work all the same.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('bare');
my $node  = new_node('bare', shared_preload_libraries => '');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join "\n", @_); }
sub error_of
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql);
	return $err;
}

is(sql('SHOW shared_preload_libraries'), '', 'the library is not loaded at server start');
is(sql("SELECT extname FROM pg_extension WHERE extname = 'streamsink'"), 'streamsink', 'CREATE EXTENSION works');

# Definitions, and what stands behind the socket.
sql(q{CREATE TABLE t (v int CHECK (v < 100), w text);
	SELECT streamsink.create_pipeline('p', server => 'iot', stream => 's', target => 't', connect => false)});
is(sql(q{SELECT outcome FROM streamsink.apply('p', '[{"v": 1}, {"v": 100}, {"v": "x"}]')}), "written\nrefused\nrefused", 'apply works');
is(sql('SELECT v FROM t'), 1, '... and writes');
is(sql(q{SELECT string_agg(stage, ' ' ORDER BY id) FROM streamsink.dead_letters}), 'write decode', '... and keeps dead letters');
sql(q{UPDATE streamsink.dead_letters SET fields = '{"v": 2}'});
is(sql(q{SELECT streamsink.retry_dead_letters('p')}), 2, 'so does a retry');
sql(q{SELECT streamsink.alter_pipeline('p', batch_size => 10, connect => false)});
is(sql(q{SELECT batch_size FROM streamsink.pipelines}), 10, 'alter_pipeline works');
like(sql(q{SELECT streamsink.pipeline_def('p')}), qr/batch_size => 10/, 'pipeline_def works');
like(sql(q{SELECT string_agg("column", ' ') FROM streamsink.describe('p')}), qr/^v w /, 'describe works');

# A session's own connection to Redis needs no shared memory either.
sql(q{SELECT streamsink.create_pipeline('q', server => 'iot', stream => 's', target => 't')});
pass('create_pipeline that connects works');
like(sql(q{SELECT streamsink.xadd('iot', 's', '{"v": "3"}')}), qr/^\d+-\d+$/, 'xadd works');
is(sql(q{SELECT "row" ->> 'v', outcome FROM streamsink.preview('q')}), '3|written', 'preview works');

# What needs the library at server start.
my $line = qr/ERROR:.*streamsink.*HINT:.*shared_preload_libraries = 'streamsink'/s;
my %calls = (
	start      => q{SELECT streamsink.start('p')},
	restart    => q{SELECT streamsink.restart('p')},
	wait_until => q{SELECT streamsink.wait_until('p', 'running', '1 s')},
	wait_for   => q{SELECT streamsink.wait_for('p', '1 s')},
	ingest     => q{CALL streamsink.ingest('p')});
foreach my $call (sort keys %calls)
{
	like(error_of($calls{$call}), $line, "$call says which line is missing");
}
is(sql('SELECT bool_or(enabled) FROM streamsink.pipelines'), 'f', '... and changes nothing');

# What can stop things works without; views show what the tables have.
sql(q{SELECT streamsink.stop('p'); SELECT streamsink.stop_all()});
pass('stop and stop_all work');
is(sql(q{SELECT pipeline, state, dead_letters FROM streamsink.status ORDER BY 1}), "p|stopped|0\nq|stopped|0", 'the status view works');
is(sql(q{SELECT count(*) FROM streamsink.workers}), 0, 'the view of workers works');
is(sql(q{SELECT count(*) FROM streamsink.streams}), 0, 'the view of streams works');

# An enabled pipeline on such a server: the view says why nothing happens.
$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'streamsink'});
$node->restart;
sql(q{SELECT streamsink.start('q')});
wait_settled($node, 'q');
is(sql(q{SELECT count(*) FROM t WHERE v = 3}), 1, 'with the line it runs');
$node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
$node->restart;
is(sql(q{SELECT enabled FROM streamsink.pipelines WHERE name = 'q'}), 't', 'it is enabled when the line is taken away again');
like(sql(q{SELECT state, reason, hint FROM streamsink.status WHERE pipeline = 'q'}), qr/shared_preload_libraries = 'streamsink'/, '... and its status names the line');
sql(q{SELECT streamsink.stop('q'); SELECT streamsink.drop_pipeline('p'); SELECT streamsink.drop_pipeline('q'); DROP EXTENSION streamsink CASCADE});
pass('pipelines and extension can be dropped');
unlike(slurp_file($node->logfile), qr/PANIC|server process .* was terminated/, 'no crash');

done_testing();
