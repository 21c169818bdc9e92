# Values, encodings, targets and locks that stand in a row's way, and a
# subscriber that gets everything.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('data');
my $node  = new_node('data', 'streamsink.discovery_interval' => '100ms', 'streamsink.setup_retry' => '200ms', wal_level => 'logical', max_wal_senders => 5, max_replication_slots => 5);
sub sql_in { my ($db, @text) = @_; return $node->safe_psql($db, join "\n", q{SET client_encoding = 'UTF8';}, @text); }
sub sql { return sql_in('postgres', @_); }
create_server($node, $redis);

# ---- values at the ends of what a type takes ----

my @values = (
	# column, value, what is stored or the SQLSTATE
	[ 'num',   '999.99',                     '999.99' ],
	[ 'num',   '999.994',                    '999.99' ],
	[ 'num',   '999.995',                    '22003' ],
	[ 'num',   'NaN',                        'NaN' ],
	[ 'num',   'Infinity',                   '22003' ],
	[ 'big',   '1e131071',                   undef ],
	[ 'big',   '1e131072',                   '22003' ],
	[ 'big',   '-Infinity',                  '-Infinity' ],
	[ 'i2',    '32767',                      '32767' ],
	[ 'i2',    '32768',                      '22003' ],
	[ 'i2',    '-32769',                     '22003' ],
	[ 'i2',    '',                           '22P02' ],
	[ 'f8',    'NaN',                        'NaN' ],
	[ 'f8',    '1e309',                      '22003' ],
	[ 'f8',    '-1e-400',                    '22003' ],
	[ 'at',    'infinity',                   'infinity' ],
	[ 'at',    '-infinity',                  '-infinity' ],
	[ 'at',    '2023-02-29 00:00+00',        '22008' ],
	[ 'at',    '2024-02-29 23:59:60+00',     '2024-03-01 00:00:00+00' ],
	[ 'at',    '4714-11-24 00:00:00+00 BC',  '4714-11-24 00:00:00+00 BC' ],
	[ 'at',    '4714-11-23 00:00:00+00 BC',  '22008' ],
	[ 'at',    '294277-01-01 00:00:00+00',   '22008' ],
	[ 'd',     'infinity',                   'infinity' ],
	[ 'd',     '2100-02-29',                 '22008' ],
	[ 'd',     '5874898-01-01',              '22008' ],
	[ 'j',     '{"a": "\u0000"}',            '22P05' ],
	[ 'j',     '{"a": "\ud800"}',            '22P02' ],
	[ 'j',     '{"a": 1e999999}',            '22003' ],
	[ 'j',     '{"a": NaN}',                 '22P02' ],
	[ 'js',    '{"a": "\u0000"}',            '{"a": "\u0000"}' ],
	[ 'u',     '00000000-0000-0000-0000-00', '22P02' ],
	[ 'iv',    '178956970 years 8 months',   '22008' ],
	[ 'by',    '\x0',                        '22023' ],
	[ 'a',     '{1,2',                       '22P02' ],
	[ 'a',     '{2147483648}',               '22003' ]);
sql(q{SET TimeZone = 'UTC';
	CREATE TABLE v (n int PRIMARY KEY, num numeric(5,2), big numeric, i2 int2, f8 float8, at timestamptz, d date, j jsonb, js json, u uuid, iv interval, by bytea, a int[]);
	SELECT streamsink.create_pipeline('v', server => 'iot', stream => 'v', target => 'v');
	SELECT streamsink.start('v')});
produce($redis, 'v', map { [ n => $_, $values[$_][0] => $values[$_][1] ] } 0 .. $#values);
wait_settled($node, 'v');
my %stored = map { split /\|/, $_, 2 } split /\n/, sql(q{SET TimeZone = 'UTC';
	SELECT n, coalesce(num::text, i2::text, f8::text, at::text, d::text, j::text, js::text, u::text, iv::text, encode(by, 'hex'), a::text, CASE WHEN big < 0 THEN big::text ELSE length(big::text)::text END) FROM v});
my %refused = map { my ($i, $code, $column) = split /\|/; $i => [ $code, $column ] } split /\n/, sql(q{SELECT fields ->> 'n', sqlstate, column_name FROM streamsink.dead_letters WHERE pipeline = 'v'});
foreach my $i (0 .. $#values)
{
	my ($column, $value, $expected) = @{ $values[$i] };
	$expected //= '131072';
	if ($expected =~ /^22[0-9P][0-9]{2}$/)
	{
		is(join(' ', @{ $refused{$i} // ['not refused'] }), "$expected $column", "$column '$value' is refused");
	}
	else { is($stored{$i}, $expected, "$column '$value' is stored"); }
}
is(keys(%stored) + keys(%refused), @values, 'all of them are one or the other');
sql(q{SELECT streamsink.drop_pipeline('v')});

# ---- databases of other encodings ----

my ($japan, $smile, $bad) = ("\xe6\x97\xa5\xe6\x9c\xac", "\xf0\x9f\x98\x80", "\xc3\x28");
foreach my $case (
	# encoding, what is stored of the values, what is refused with which SQLSTATE
	[ 'EUC_JP',    "plain $japan",            '22P05 22021 22021' ],
	[ 'LATIN1',    'plain',                   '22P05 22P05 22021 22021' ],
	# takes every byte but one, and so it is
	[ 'SQL_ASCII', "plain $japan $smile $bad", '22021' ])
{
	my ($encoding, $stored, $refused) = @$case;
	my $db = lc $encoding;

	sql("CREATE DATABASE $db ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
	$node->safe_psql($db, 'CREATE EXTENSION streamsink');
	create_server($node, $redis, 'iot', $db);
	sql_in($db, 'CREATE TABLE t (v text, i serial);',
		"SELECT streamsink.create_pipeline('p', server => 'iot', stream => '$db', target => 't'); SELECT streamsink.start('p');");
	produce($redis, $db, map { [ v => $_ ] } 'plain', $japan, $smile, $bad, "nul\0");
	wait_settled($node, 'p', $db);
	is(sql_in($db, $db eq 'sql_ascii' ? 'SET client_encoding = SQL_ASCII;' : '', q{SELECT string_agg(v, ' ' ORDER BY i) FROM t}), $stored, "$encoding: what it has is stored");
	is(sql_in($db, q{SELECT string_agg(sqlstate, ' ' ORDER BY entry_id) FROM streamsink.dead_letters}), $refused, "$encoding: what it lacks is refused");
	is(sql_in($db, q{SELECT encode((array_agg(raw[2] ORDER BY entry_id DESC))[1], 'hex') FROM streamsink.dead_letters}), unpack('H*', "nul\0"), "$encoding: byte for byte");
	sql_in($db, q{SELECT streamsink.drop_pipeline('p')});
}

# ---- targets that do not live and die with the ledger ----

sql(q{CREATE UNLOGGED TABLE unlogged (n int);
	CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nothing FOREIGN DATA WRAPPER nothing; CREATE FOREIGN TABLE remote (n int) SERVER nothing;
	CREATE TABLE kept (n int)});
foreach my $target (qw(unlogged temporary remote))
{
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nCREATE TEMP TABLE temporary (n int);
		SELECT streamsink.create_pipeline('x', server => 'iot', stream => 'x', target => '$target', connect => false)");
	like($err, qr/(?:0A000|42809|55000): .*HINT:  [^\n]*allow_inexact/s, "$target as a target is refused");
}
sql(q{SELECT streamsink.create_pipeline('kept', server => 'iot', stream => 'kept', target => 'kept', retry_backoff => '50 ms', retry_backoff_max => '100 ms', settings => '{"lock_timeout": "50ms"}');
	SELECT streamsink.start('kept')});
my $sent = 0;
sub send_some { produce($redis, 'kept', map { [ n => $_ ] } $sent + 1 .. $sent + 10); $sent += 10; return; }
sub check_exact
{
	my ($what) = @_;
	wait_settled($node, 'kept');
	is(sql(q{SELECT count(*), count(DISTINCT n) FROM kept}), "$sent|$sent", "$what: every entry once");
	return;
}
sub waits_ok
{
	my ($code, $reason, $what) = @_;
	send_some();
	ok($node->poll_query_until('postgres', "SELECT state = 'waiting' AND last_sqlstate = '$code' AND reason ~ '$reason' FROM streamsink.status WHERE pipeline = 'kept'"), "$what: the pipeline waits and says why")
	  or diag(status_of($node, 'kept'));
	return;
}
send_some();
check_exact('at first');
sql('ALTER TABLE kept SET UNLOGGED');
waits_ok('55000', 'unlogged', 'SET UNLOGGED while it runs');
sql('ALTER TABLE kept SET LOGGED');
check_exact('SET LOGGED');

# A lock that nobody lets go of: lock_timeout is the pipeline's own.
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE kept');
waits_ok('55P03', 'lock timeout', 'a table that is locked for long');
my $errors = sql(q{SELECT errors FROM streamsink.status WHERE pipeline = 'kept'});
$node->poll_query_until('postgres', "SELECT errors > $errors + 3 FROM streamsink.status WHERE pipeline = 'kept'");
is((split /\n/, $redis->cli('XPENDING', 'kept', 'kept'))[0], 10, '... the entries stay pending, with one consumer');
is(sql('SELECT count(*) FROM streamsink.workers WHERE pipeline = $$kept$$'), 1, '... in one worker');
$locker->query_safe('COMMIT');
$locker->quit;
check_exact('the lock is gone');

is(sql(q{SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'kept'}), 0, 'none of that refused an entry');

# ---- a subscriber that gets all tables, ours too ----

my $subscriber = new_node('subscriber', 'streamsink.discovery_interval' => '100ms');
create_server($subscriber, $redis);
$subscriber->safe_psql('postgres', 'CREATE TABLE kept (n int)');
sql('CREATE PUBLICATION everything FOR ALL TABLES');
# only tables that the subscriber has
sql('DROP TABLE v');
$subscriber->safe_psql('postgres', sprintf q{CREATE SUBSCRIPTION everything CONNECTION '%s' PUBLICATION everything}, $node->connstr('postgres') =~ s/'/''/gr);
send_some();
check_exact('with a subscriber');
ok($subscriber->poll_query_until('postgres', "SELECT count(*) = $sent FROM kept"), 'the rows are replicated') or diag($subscriber->safe_psql('postgres', 'SELECT count(*) FROM kept'));
ok($subscriber->poll_query_until('postgres', q{SELECT count(*) = 1 FROM streamsink.pipeline WHERE name = 'kept'}), 'so is the definition');
is($subscriber->safe_psql('postgres', q{SELECT enabled FROM streamsink.pipelines WHERE name = 'kept'}), 'f', '... which is not enabled there');
$subscriber->restart;
send_some();
check_exact('the subscriber was restarted');
ok($subscriber->poll_query_until('postgres', "SELECT count(*) = $sent FROM kept"), 'each row is there once');
is($subscriber->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'streamsink worker'}), 0, '... and no worker');
$subscriber->stop;

unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'no process crashed');
$node->stop;
done_testing;
