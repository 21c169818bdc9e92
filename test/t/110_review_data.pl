# What a reading of the data path and of what users can reach found with an
# attacker's eyes: each of these crashed a server, stopped a pipeline, leaked
# memory, or let somebody do what he must not.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('data');
my $node  = new_node('data', 'streamsink.discovery_interval' => '200ms', 'streamsink.sample_interval' => '200ms');
create_server($node, $redis);

sub sql { return $node->safe_psql('postgres', join "\n", @_); }

# ---- an error out of preview, caught by a block ----
# Its subtransaction stayed open: nothing behind it was committed, and the session ended in a crash.

sql(q{CREATE TABLE boom (n int);
	CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION USING errcode = '42501', message = 'boom'; END$$;
	CREATE TRIGGER boom BEFORE INSERT ON boom FOR EACH ROW EXECUTE FUNCTION boom();
	CREATE TABLE after_boom (n int);
	SELECT streamsink.create_pipeline('boom', server => 'iot', stream => 'boom', target => 'boom')});
produce($redis, 'boom', { n => 1 });
sql(q{DO $$BEGIN PERFORM streamsink.preview('boom'); EXCEPTION WHEN insufficient_privilege THEN RAISE NOTICE 'caught'; END$$;},
	q{INSERT INTO after_boom VALUES (1);});
is(sql('SELECT count(*) FROM after_boom'), '1', 'what follows a caught error of preview is committed');
is(sql(q{SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE pid = pg_backend_pid()}), '1', 'and the server is there');
unlike(slurp_file($node->logfile), qr/terminated by signal/, 'no process crashed');

# ---- memory ----

# the plan of the statement that failed stayed for ever
is(sql(q{DO $$BEGIN FOR i IN 1 .. 50 LOOP
			BEGIN PERFORM streamsink.apply('boom', '[{"n": 1}]'); EXCEPTION WHEN insufficient_privilege THEN NULL; END;
		END LOOP; END$$;},
		q{SELECT count(*) < 10 FROM pg_catalog.pg_backend_memory_contexts WHERE name = 'SPI Plan'}),
	't', 'calls that fail leave no plans behind');

# ---- a password that is made up ----

sql(q{CREATE ROLE guest LOGIN;
	SELECT streamsink.grant_access('guest');
	GRANT USAGE ON FOREIGN SERVER iot TO guest;
	CREATE USER MAPPING FOR guest SERVER iot OPTIONS (username 'default', password 'made up')});
my ($rc, $out, $err) = $node->psql('postgres', q{SET ROLE guest; SELECT streamsink.xadd('iot', 'theirs', '{"n": 1}')});
isnt($rc, 0, 'any password of a user that needs none is refused');
like($err, qr/refused the log-in/, 'by Redis');
is($redis->cli('EXISTS', 'theirs'), 0, 'nothing was written');
$redis->cli('CONFIG', 'SET', 'requirepass', 'made up');
is($node->psql('postgres', q{SET ROLE guest; SELECT streamsink.xadd('iot', 'theirs', '{"n": 1}')}), 0, 'the right one of the default user is taken');
$redis->cli('-a', 'made up', '--no-auth-warning', 'CONFIG', 'SET', 'requirepass', '');

# ---- who may write any table writes not these ----

sql(q{CREATE ROLE scribe; GRANT pg_write_all_data TO scribe; GRANT USAGE ON SCHEMA streamsink TO scribe});
my $columns = q{SELECT string_agg(quote_ident(attname), ', ') FROM pg_catalog.pg_attribute WHERE attrelid = '%s'::regclass AND attnum > 0};
for my $table (qw(pipeline stream ledger ledger_log counter dead_letter dead_letter_attempt outbox_queue))
{
	for my $statement ("DELETE FROM streamsink.$table", "INSERT INTO streamsink.$table DEFAULT VALUES")
	{
		($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSET ROLE scribe; $statement");
		like($err, qr/42501/, "$statement is refused");
	}
}
($rc, $out, $err) = $node->psql('postgres', q{SET ROLE scribe; UPDATE streamsink.pipeline SET owner = 'postgres', enabled = true});
like($err, qr/permission denied to write table "pipeline"/, 'so nobody makes a pipeline run as somebody else');

# ---- one row that makes no sense ----

sql(q{UPDATE streamsink.pipeline SET retry_backoff = '1 month' WHERE name = 'boom';
	SELECT streamsink.create_pipeline('good', server => 'iot', stream => 'good', target => 'boom', connect => false)});
is(sql(q{SELECT string_agg(pipeline, ',' ORDER BY pipeline) FROM streamsink.status}), 'boom,good', 'it does not hide the others from status');
is(sql(q{SELECT count(*) FROM streamsink.pipelines}), 2, 'nor from pipelines');
sql(q{SELECT streamsink.drop_pipeline(name) FROM streamsink.pipelines});

# ---- a role that the owner's or the database's settings name ----

sql(q{CREATE ROLE worker_owner LOGIN; CREATE ROLE other; GRANT other TO worker_owner;
	CREATE TABLE who (who text DEFAULT current_user, n int); GRANT INSERT ON who TO worker_owner, other;
	SELECT streamsink.grant_access('worker_owner'); GRANT USAGE ON FOREIGN SERVER iot TO worker_owner;
	ALTER SERVER iot OPTIONS (ADD password_required 'false');
	ALTER ROLE worker_owner SET role = 'other';
	SET SESSION AUTHORIZATION worker_owner;
	SELECT streamsink.create_pipeline('who', server => 'iot', stream => 'who', target => 'who');
	SELECT streamsink.start('who')});
produce($redis, 'who', { n => 1 });
wait_settled($node, 'who');
is(sql('SELECT who FROM who'), 'worker_owner', 'a worker is the pipeline\'s owner all the same');
sql(q{SELECT streamsink.drop_pipeline('who')});

# ---- a database that is not UTF-8 ----
# Names were converted outside of a transaction, a pattern was sent as it stands, and one key that
# the encoding lacks stopped everything.

$node->safe_psql('postgres', q{CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('latin', 'CREATE EXTENSION streamsink');
create_server($node, $redis, 'iot', 'latin');
my $cafe = "caf\xc3\xa9";
produce($redis, "$cafe:\xc3\xbc", [ v => "\xc3\xa4" ], [ v => "\xe6\x97\xa5" ], [ v => "\xff" ], [ v => 'plain' ]);
produce($redis, "$cafe:\xe6\x97\xa5", [ v => 'not to be named' ]);
produce($redis, "$cafe:plain", [ v => 'x' ]);
sub latin { return $node->safe_psql('latin', join "\n", q{SET client_encoding = 'UTF8';}, @_); }
latin(q{CREATE TABLE t (k text, v text);},
	qq{SELECT streamsink.create_pipeline('l', server => 'iot', stream => '$cafe:{k}', target => 't');},
	q{SELECT streamsink.start('l')});
my @rows = ("plain|x", "\xc3\xbc|plain", "\xc3\xbc|\xc3\xa4");
ok(eval { poll_until(sub { latin('SELECT count(*) FROM t') eq '3' }, 'the rows', 30) }, 'a worker reads patterns there') or diag status_of($node, 'l', 'latin');
is(latin('SELECT k, v FROM t ORDER BY 1, 2'), join("\n", @rows), 'text is converted');
is(latin(q{SELECT stream, sqlstate, encode(raw[2], 'hex') FROM streamsink.dead_letters ORDER BY entry_id}),
	"$cafe:\xc3\xbc|22P05|e697a5\n$cafe:\xc3\xbc|22021|ff", 'what cannot be is kept byte for byte');
is(latin(q{SELECT streamsink.stop('l'); SELECT streamsink.requeue_dead_letters('l')}) =~ s/\s//gr, '2', 'dead letters are put back');
ok(eval { poll_until(sub { $redis->cli('XLEN', "$cafe:\xc3\xbc") eq '6' }, 'the requeued entries', 30) }, 'into the stream they came from');
like(latin('CALL streamsink.ingest(\'l\')'), qr/\|0\|2$/, 'a session reads them too');
is(latin(q{SELECT count(*) FROM streamsink.preview('l')}), 0, 'and looks at what is left');
like(slurp_file($node->logfile), qr/is not read: .*characters that the database's encoding lacks/, 'the key that has no name here is reported');

$node->stop;
done_testing;
