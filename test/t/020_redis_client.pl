# The Redis client as SQL sees it: options of servers and user mappings, and
# xadd() against servers that are away, refuse, talk nonsense or say nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use FakeRedis;
use PostgreSQL::Test::Utils;
use StreamsinkTest;
use Test::More;
use Time::HiRes qw(time);

$ENV{REDISCLI_AUTH} = 'open sesame';
my $redis = new_redis('client', 'requirepass' => 'open sesame');
my $node = new_node('client');

# Run SQL; the error's SQLSTATE with message, detail and hint, or "ok <result>".
sub run_sql
{
	my ($sql, %how) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n"
		  . ($how{role} ? "SET ROLE $how{role};\n" : '') . $sql);

	return "ok $out" if $rc == 0;
	$err =~ s/^psql:<stdin>:\d+: //mg;
	$err =~ s/^(LOCATION|LINE|CONTEXT|STATEMENT):.*\n?//mg;
	return $err;
}

sub refused_ok
{
	my ($sql, $sqlstate, $text, $name, %how) = @_;
	my $got = run_sql($sql, %how);

	like($got, qr/ERROR:  $sqlstate: .*$text/s, $name);
	unlike($got, qr/open sesame|geheim/, "$name: no password in the message");
}

# A server that leads to a port, made anew.
sub point_to
{
	my ($port, $options) = @_;

	$node->safe_psql('postgres',
		"DROP SERVER IF EXISTS peer CASCADE;
		CREATE SERVER peer FOREIGN DATA WRAPPER streamsink
			OPTIONS (host '127.0.0.1', port '$port', connect_timeout '1s', command_timeout '1500 ms'"
		  . ($options ? ", $options" : '') . ')');
}

my $xadd = q{SELECT streamsink.xadd('peer', 'k', '{"a": 1}')};

# ---- options ----

my $create = 'CREATE SERVER wrong FOREIGN DATA WRAPPER streamsink OPTIONS';

refused_ok("$create (hots 'a')", 'HV00D', 'Valid options in this context are: host, port, path, db',
	'an unknown option names the valid ones');
refused_ok("$create (password 'geheim')", 'HV00D', 'belongs to the user mapping', 'a password does not belong to a server');
refused_ok("$create (port '0')", '22023', 'between 1 and 65535', 'port out of range');
refused_ok("$create (port 'redis')", '22023', 'whole number', 'port is a number');
refused_ok("$create (db '-1')", '22023', 'must be between 0', 'db is not negative');
refused_ok("$create (host '')", '22023', 'must not be empty', 'host is not empty');
refused_ok("$create (connect_timeout '5 apples')", '22023', 'Valid units', 'a time has a known unit');
refused_ok("$create (command_timeout '0')", '22023', 'between 1', 'a timeout of nothing');
refused_ok("$create (path 'redis.sock')", '22023', 'absolute path', 'path is absolute');
refused_ok("$create (path '/redis.sock', host 'a')", '22023', 'either a path or host', 'path or host');
refused_ok("$create (tls 'on')", '0A000', 'without TLS', 'TLS is refused, not ignored');
refused_ok("$create (sentinel_master 'a')", '0A000', 'not supported', 'Sentinel is refused, not ignored');

point_to($redis->port);
my $map = 'CREATE USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS';
refused_ok("$map (host 'a')", 'HV00D', 'belongs to the server', 'a host does not belong to a user mapping');
refused_ok("$map (passwd 'geheim')", 'HV00D', 'username, password', 'an unknown option of a mapping');
refused_ok("$map (username 'a')", '22023', 'needs a password', 'a username without a password');
refused_ok("SELECT streamsink.xadd('nobody', 'k', '{\"a\": 1}')", '42704', 'CREATE SERVER', 'no such server');
$node->safe_psql('postgres', 'CREATE FOREIGN DATA WRAPPER other; CREATE SERVER strange FOREIGN DATA WRAPPER other');
refused_ok("SELECT streamsink.xadd('strange', 'k', '{\"a\": 1}')", '42809', 'another foreign-data wrapper',
	'the server of another wrapper');

# ---- log-in ----

refused_ok($xadd, '28P01', 'NOAUTH', 'no password');
$node->safe_psql('postgres', "$map (password 'geheim')");
refused_ok($xadd, '28P01', 'WRONGPASS', 'a wrong password');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (ADD username 'nobody')");
refused_ok($xadd, '28P01', 'WRONGPASS', 'an unknown user');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (DROP username, SET password 'open sesame')");
like(run_sql($xadd), qr/^ok \d+-\d+$/, 'the right password');
$redis->cli('ACL', 'SETUSER', 'adder', 'on', '>a b', '~k', '+xadd', '+ping');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (ADD username 'adder', SET password 'a b')");
like(run_sql($xadd), qr/^ok \d+-\d+$/, 'a user who may XADD and nothing else');
refused_ok(q{SELECT streamsink.xadd('peer', 'other', '{"a": 1}')}, '42501', 'NOPERM', 'a key the user may not touch');

# ---- who may ----

$node->safe_psql('postgres', q{
	CREATE ROLE joe;
	GRANT USAGE ON SCHEMA streamsink TO joe;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA streamsink TO joe;
	GRANT USAGE ON FOREIGN DATA WRAPPER streamsink TO joe});
refused_ok($xadd, '42501', 'permission denied for foreign server peer', 'a role without USAGE', role => 'joe');
$node->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER peer TO joe');
refused_ok($xadd, '2F003', 'password is required', 'a role without a password', role => 'joe');
refused_ok("$create (path '/tmp/redis.sock')", '42501', 'Only superusers', 'a unix socket is for superusers', role => 'joe');
refused_ok("$create (password_required 'false')", '42501', 'Only superusers', 'password_required too', role => 'joe');
$node->safe_psql('postgres', "CREATE USER MAPPING FOR joe SERVER peer OPTIONS (password 'open sesame')");
like(run_sql($xadd, role => 'joe'), qr/^ok .*\d+-\d+$/s, 'a role with a password');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR joe SERVER peer OPTIONS (DROP password, password_required 'false')");
refused_ok($xadd, '28P01', 'NOAUTH', 'a superuser lets it do without', role => 'joe');
refused_ok("SET ROLE joe; ALTER USER MAPPING FOR joe SERVER peer OPTIONS (password 'geheim')", '42501', 'Only superusers',
	'what a superuser set is changed by superusers');

# ---- xadd ----

$node->safe_psql('postgres', q{
	DROP USER MAPPING FOR CURRENT_USER SERVER peer;
	CREATE USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (password 'open sesame')});
is(run_sql(q{SELECT streamsink.xadd('peer', 'x', '{"s": "h\u00e9 \"you\"", "n": 1.50, "t": true, "z": null, "o": {"a": [1, 2]}}', id => '5')}),
	'ok 5-0', 'an id of our own');
is($redis->cli('XRANGE', 'x', '-', '+'),
	qq{5-0\nn\n1.50\no\n{"a": [1, 2]}\ns\nh\xc3\xa9 "you"\nt\ntrue}, 'values as text, null left out');
is(run_sql(q{SELECT count(streamsink.xadd('peer', 'many', jsonb_build_object('i', i), maxlen => 100)) FROM generate_series(1, 1000) i}),
	'ok 1000', 'many entries over one connection');
cmp_ok($redis->cli('XLEN', 'many'), '<', 1000, 'maxlen trims');
is(run_sql(q{BEGIN; SELECT streamsink.xadd('peer', 'kept', '{"a": 1}', id => '1-1'); ROLLBACK}), 'ok 1-1', 'in a transaction');
is($redis->cli('XLEN', 'kept'), 1, 'a rollback leaves the entry');
refused_ok(q{SELECT streamsink.xadd('peer', 'x', '{"a": 1}', id => 'now')}, '22023', 'invalid entry id', 'no id');
refused_ok(q{SELECT streamsink.xadd('peer', 'x', '{"a": 1}', id => '4-0')}, 'HV000', 'equal or smaller', 'an id below the last one');
refused_ok(q{SELECT streamsink.xadd('peer', 'x', '{"a": null}')}, '22023', 'at least one field', 'no field');
refused_ok(q{SELECT streamsink.xadd('peer', 'x', '[1]')}, '22023', 'JSON object', 'no object');
refused_ok(q{SELECT streamsink.xadd('peer', NULL, '{"a": 1}')}, '22004', '"stream" must not be null', 'no stream');

# ---- one session over a server that goes and comes back ----

my $session = $node->background_psql('postgres', on_error_stop => 0);
like($session->query($xadd), qr/^\d+-\d+$/, 'a session adds');
$redis->restart;
like($session->query($xadd), qr/^\d+-\d+$/, 'and again after Redis was restarted');
$node->safe_psql('postgres', "ALTER SERVER peer OPTIONS (ADD db '3')");
like($session->query($xadd), qr/^\d+-\d+$/, 'and after the server was altered');
is($redis->cli('-n', '3', 'XLEN', 'k'), 1, 'which was followed');
$redis->freeze;
my $started = time;
$session->query("SET statement_timeout = '300ms'");
$session->query($xadd);
cmp_ok(time - $started, '<', 1.4, 'a frozen server does not keep a session from being cancelled');
$redis->thaw;
$session->query('RESET statement_timeout');
like($session->query(q{SELECT streamsink.xadd('peer', 'late', '{"a": 1}', id => '7-7')}), qr/^7-7$/,
	'a late reply is not taken for the next one');
$session->quit;
$redis->stop;
refused_ok($xadd, '08001', 'Connection refused', 'nobody listens');
$redis->start;

# ---- peers that are not what they should be ----

my $not_redis = 'does not follow the Redis protocol';
my @peers = (
	[ 'an HTTP server', '08P01', $not_redis, greeting => "HTTP/1.1 400 Bad Request\r\n\r\n" ],
	[ 'a TLS server', '08P01', $not_redis, greeting => "\x15\x03\x01\x00\x02\x02\x28" ],
	[ 'silence', '08001', 'did not reply in time', silent => 1 ],
	[ 'a peer that hangs up', '08001', 'closed the connection', replies => { PING => sub { undef } } ],
	[ 'a full server', '53300', 'too many clients', greeting => "-ERR max number of clients reached\r\n" ],
	[ 'a loading server', '57P03', 'LOADING', replies => { PING => "-LOADING Redis is loading\r\n" } ],
	[ 'a protected server', '28P01', 'DENIED', greeting => "-DENIED Redis is running in protected mode\r\n" ],
	[ 'a server that repeats what it is sent', '28P01', 'refused the log-in',
		password => 'geheim', replies => { AUTH => "-ERR unknown command 'AUTH' with args 'geheim'\r\n" } ],
	[ 'a member of a cluster', '0A000', 'Redis Cluster is not supported', replies => { XADD => "-MOVED 1 a:1\r\n" } ],
	[ 'a replica', '08006', 'READONLY', replies => { XADD => "-READONLY no\r\n" } ],
	[ 'a reply that does not come', '08006', 'did not reply in time', replies => { XADD => '' } ],
	[ 'half a reply', '08006', 'closed the connection',
		replies => { XADD => sub { $_[0]->send_bytes("\$5\r\n1-"); return } } ],
	[ 'a number for an id', '08P01', 'type integer came', replies => { XADD => ":1\r\n" } ],
	[ 'a word for an id', '08P01', 'did not send the id', replies => { XADD => "\$3\r\nabc\r\n" } ],
	[ 'a bad string end', '08P01', 'does not end where', replies => { XADD => "\$3\r\nabcd\r\n" } ],
	[ 'deep nesting', '08P01', 'invalid reply', replies => { XADD => "*1\r\n" x 1_000_000 } ],
	[ 'an absurd array', '08P01', 'invalid reply', replies => { XADD => "*4294967295\r\n" } ],
	[ 'an array beyond the limit', '54000', 'too large', replies => { XADD => "*8000000\r\n" } ],
	[ 'an absurd string', '08P01', 'absurd length', replies => { XADD => "\$999999999999\r\nabc" } ],
	[ 'an overflowing string', '08P01', 'invalid reply', replies => { XADD => "\$99999999999999999999\r\nabc" } ],
	[ 'an endless line', '08P01', 'does not end', replies => { XADD => '+' . ('a' x 1_000_000) } ],
	[ 'an endless number', '08P01', 'does not end', replies => { XADD => ':' . ('1' x 1000) } ],
	[ 'a push message', '08P01', 'invalid reply', replies => { XADD => ">2\r\n+a\r\n+b\r\n" } ],
);

foreach my $peer (@peers)
{
	my ($name, $sqlstate, $text, %how) = @$peer;
	my $password = delete $how{password};
	my $fake = FakeRedis->new(%how);

	point_to($fake->port);
	$node->safe_psql('postgres', "$map (password '$password')") if defined $password;
	refused_ok($xadd, $sqlstate, $text, $name);
	$fake->stop;
}

# Replies that come in pieces are one reply.
my $reply = "\$15\r\n1712345678901-0\r\n";
my $fake = FakeRedis->new(replies => { XADD => $reply }, slice => 1);
point_to($fake->port);
is(run_sql($xadd), 'ok 1712345678901-0', 'byte by byte');
$fake->stop;
$fake = FakeRedis->new(
	replies => {
		XADD => sub {
			my ($self, $key) = @_;
			$self->send_bytes(substr $reply, 0, $key);
			Time::HiRes::usleep(1000);
			return substr $reply, $key;
		}
	});
point_to($fake->port);
is(run_sql(q{SELECT count(*) FROM generate_series(0, 22) i
	WHERE streamsink.xadd('peer', i::text, '{"a": 1}')::text = '1712345678901-0'}),
	'ok 23', 'in two parts, wherever it is cut');
$fake->stop;

# ---- nothing is left behind by a thousand failures ----

my $http = FakeRedis->new(greeting => "HTTP/1.1 400 Bad Request\r\n\r\n");
my $cut = FakeRedis->new(replies => { XADD => sub { $_[0]->send_bytes("*2\r\n\$100000\r\n" . 'x' x 90_000); return } });
$node->safe_psql('postgres', "CREATE SERVER http FOREIGN DATA WRAPPER streamsink OPTIONS (host '127.0.0.1', port '" . $http->port . "');
	CREATE SERVER cut FOREIGN DATA WRAPPER streamsink OPTIONS (host '127.0.0.1', port '" . $cut->port . "')");
my $out = $node->safe_psql('postgres', q{
	CREATE FUNCTION fail(server text, n int) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE failures int := 0;
	BEGIN
		FOR i IN 1 .. n LOOP
			BEGIN
				PERFORM streamsink.xadd(server, 'k', '{"a": 1}');
			EXCEPTION WHEN protocol_violation OR connection_failure THEN
				failures := failures + 1;
			END;
		END LOOP;
		RETURN failures || ' failures, ' ||
			(SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name LIKE 'streamsink%') || ' bytes, ' ||
			(SELECT count(*) FROM pg_ls_dir('/proc/' || pg_backend_pid() || '/fd')) || ' descriptors';
	END $$;
	SELECT fail('http', 10) FROM fail('cut', 10);
	SELECT fail('http', 500);
	SELECT fail('cut', 500)});
my ($first, $second, $third) = map { s/^\d+ failures, //r } split /\n/, $out;
like($out, qr/^10 failures.*\n500 failures.*\n500 failures/, 'each attempt failed');
is($second, $first, 'failed log-ins leave no memory and no descriptor');
is($third, $first, 'nor do broken replies');
$_->stop foreach $http, $cut;

unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC/, 'no process crashed');

done_testing();
