# StreamsinkTest: what the TAP tests share.  A PostgreSQL node with streamsink
# loaded, private Redis servers that can be killed and frozen, and waiting.
#
#   use StreamsinkTest;
#   my $redis = new_redis('main');
#   my $node = new_node('main', 'streamsink.block_time' => '200ms');
#   create_server($node, $redis);                   # foreign server "iot"
#   produce($redis, 'readings', [ value => 1 ], { value => 2, device => 'a' });
#
# Waiting polls and gives up after $PostgreSQL::Test::Utils::timeout_default
# seconds with a message; nothing here sleeps and hopes.

package StreamsinkTest;

use strict;
use warnings;
use Carp;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

our @EXPORT = qw(new_node new_redis new_proxy new_subscriber create_server server_options produce resp
  poll_until wait_for_state wait_settled wait_workers stop_workers
  status_of try_sql change_setting);

# A started node with the extension in database postgres.  Settings by name;
# _init => [...] goes to init, _start => 0 leaves it stopped, _extension => 0
# leaves the extension out.  fsync is off unless a test of durability sets it.
sub new_node
{
	my ($name, %conf) = @_;
	my %init = @{ delete $conf{_init} // [] };
	my $start = delete $conf{_start} // 1;
	my $extension = delete $conf{_extension} // 1;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$init{extra} = [ '--encoding=UTF8', '--locale=C', '--username=postgres', @{ $init{extra} // [] } ];
	$node->init(%init);
	%conf = (
		shared_preload_libraries => 'streamsink',
		max_worker_processes     => 20,
		fsync                    => 'off',
		restart_after_crash      => 'on',
		log_statement            => 'none',
		%conf);
	$node->append_conf('postgresql.conf', "$_ = '$conf{$_}'") for sort keys %conf;
	$ENV{PGUSER} = 'postgres';
	return $node unless $start;
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION streamsink') if $extension;
	return $node;
}

# A started Redis server; further arguments are configuration ('maxmemory', '1mb').
sub new_redis
{
	my ($name, @conf) = @_;
	return StreamsinkTest::Redis->new($name, @conf);
}

# A proxy before a Redis server, which breaks connections as asked (StreamsinkTest::Proxy).
sub new_proxy
{
	my ($redis, $seed) = @_;
	return StreamsinkTest::Proxy->new($redis, $seed);
}

# Somebody who listens to channels (StreamsinkTest::Subscriber).
sub new_subscriber
{
	my ($redis, @channels) = @_;
	return StreamsinkTest::Subscriber->new($redis, @channels);
}

# OPTIONS for CREATE SERVER.
sub server_options
{
	my ($redis) = @_;
	return sprintf "host '%s', port '%d'", $redis->host, $redis->port;
}

sub create_server
{
	my ($node, $redis, $name, $dbname) = @_;
	$name //= 'iot';
	$node->safe_psql($dbname // 'postgres',
		"CREATE SERVER $name FOREIGN DATA WRAPPER streamsink OPTIONS (" . server_options($redis) . ')');
	return;
}

# A command as Redis reads it; binary safe.
sub resp
{
	my @args = @_;
	return '*' . @args . "\r\n" . join('', map { my $b = $_; utf8::encode($b) if utf8::is_utf8($b); '$' . length($b) . "\r\n$b\r\n" } @args);
}

# Add entries to a stream, many a second.  An entry is a list of names and
# values ([ value => 1 ]), or a hash; _id => '1-1' gives it an id.  Returns
# their number.
sub produce
{
	my ($redis, $stream, @entries) = @_;
	my $text = '';

	foreach my $entry (@entries)
	{
		my @fields = ref $entry eq 'HASH' ? map { ($_, $entry->{$_}) } sort keys %$entry : @$entry;
		my $id = '*';
		for (my $i = 0; $i < @fields; $i += 2)
		{
			next if $fields[$i] ne '_id';
			$id = (splice @fields, $i, 2)[1];
			last;
		}
		$text .= resp('XADD', $stream, $id, @fields);
	}
	$redis->cli_stdin($text) if @entries;
	return scalar @entries;
}

# Wait until CODE returns true; dies with WHAT otherwise.  Returns its value.
sub poll_until
{
	my ($code, $what, $timeout) = @_;
	my $end = time + ($timeout // $PostgreSQL::Test::Utils::timeout_default);

	while (1)
	{
		my $value = $code->();
		return $value if $value;
		last if time > $end;
		usleep(50_000);
	}
	croak 'timed out waiting for ' . (ref $what ? $what->() : $what // 'a condition');
}

# What a statement gives in database postgres; undef if it fails, or while the server is away.
sub try_sql
{
	my ($node, $sql) = @_;
	my ($rc, $out);

	# psql that finds no server may be gone before it is given the statement: IPC::Run dies of the broken pipe
	eval { ($rc, $out) = $node->psql('postgres', $sql, timeout => 60); 1 } or $@ =~ /Broken pipe/ or die $@;
	return defined $rc && $rc == 0 ? $out : undef;
}

# ALTER SYSTEM SET; a new session has the setting when the workers were told.
sub change_setting
{
	my ($node, $name, $value) = @_;
	my $before = $node->safe_psql('postgres', 'SELECT pg_catalog.clock_timestamp()');

	$node->safe_psql('postgres', $_) foreach "ALTER SYSTEM SET $name = " . quote($value), 'SELECT pg_catalog.pg_reload_conf()';
	poll_until(sub { (try_sql($node, "SELECT pg_catalog.pg_conf_load_time() > '$before'") // '') eq 't' }, "$name to be read");
	return;
}

# The row of the status view, for messages.
sub status_of
{
	my ($node, $pipeline, $dbname) = @_;
	my ($rc, $out, $err) = $node->psql($dbname // 'postgres',
		"SELECT pg_catalog.to_jsonb(s) FROM streamsink.status s WHERE s.pipeline = " . quote($pipeline));
	return $out || $err;
}

# Wait for a pipeline's state as status shows it: 'running', 'waiting', 'stopped', ...
sub wait_for_state
{
	my ($node, $pipeline, $state, $dbname) = @_;
	my $query = 'SELECT state = ' . quote($state) . ' FROM streamsink.status WHERE pipeline = ' . quote($pipeline);

	return 1 if $node->poll_query_until($dbname // 'postgres', $query);
	croak "pipeline \"$pipeline\" did not reach state \"$state\": " . status_of($node, $pipeline, $dbname);
}

# Wait until so many workers of a pipeline run, each with its streams prepared.
sub wait_workers
{
	my ($node, $pipeline, $number) = @_;
	my $query = "SELECT count(*) = $number FROM streamsink.workers WHERE state = 'running' AND pipeline = " . quote($pipeline);

	return 1 if $node->poll_query_until('postgres', $query);
	croak "not $number workers of pipeline \"$pipeline\" run: " . status_of($node, $pipeline);
}

# Stop a pipeline and wait until its workers are gone.
sub stop_workers
{
	my ($node, $pipeline) = @_;

	$node->safe_psql('postgres', 'SELECT streamsink.stop(' . quote($pipeline) . ')');
	return 1 if $node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM streamsink.workers WHERE pipeline = ' . quote($pipeline));
	croak "the workers of pipeline \"$pipeline\" do not leave: " . status_of($node, $pipeline);
}

# Wait until everything that is in Redis now is settled and acknowledged.
sub wait_settled
{
	my ($node, $pipeline, $dbname) = @_;
	my $out = $node->safe_psql($dbname // 'postgres',
		'SELECT streamsink.wait_for(' . quote($pipeline) . ", '$PostgreSQL::Test::Utils::timeout_default s')");

	return 1 if $out eq 't';
	croak "pipeline \"$pipeline\" did not settle: " . status_of($node, $pipeline, $dbname);
}

sub quote
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

# ---------------------------------------------------------------------------
# A Redis server: loopback port and unix socket, nothing saved unless asked for
# ---------------------------------------------------------------------------
package StreamsinkTest::Redis;

use strict;
use warnings;
use Carp;
use IPC::Run ();
use PostgreSQL::Test::Utils ();
use POSIX ();
use Scalar::Util ();
use Time::HiRes qw(usleep time);

my @servers;

sub new
{
	my ($class, $name, @conf) = @_;
	my $self = bless {
		name  => $name,
		conf  => \@conf,
		dir   => PostgreSQL::Test::Utils::tempdir_short(),
		port  => PostgreSQL::Test::Cluster::get_free_port(),
		owner => $$,
	}, $class;

	push @servers, $self;
	Scalar::Util::weaken($servers[-1]);
	$self->start;
	return $self;
}

sub host { return '127.0.0.1' }
sub port { return $_[0]{port} }
sub dir { return $_[0]{dir} }
sub socket { return "$_[0]{dir}/redis.sock" }
sub logfile { return "$_[0]{dir}/redis.log" }
sub pid { return $_[0]{pid} }

# Start it (again); returns when it answers and has loaded its data.
sub start
{
	my ($self) = @_;
	my %conf = (
		port       => $self->{port},
		bind       => '127.0.0.1',
		unixsocket => $self->socket,
		dir        => $self->{dir},
		logfile    => $self->logfile,
		pidfile    => "$self->{dir}/redis.pid",
		save       => '',
		appendonly => 'no',
		daemonize  => 'no',
		@{ $self->{conf} });

	croak "Redis \"$self->{name}\" runs already" if $self->{pid};
	my $pid = fork // croak "could not fork: $!";
	if ($pid == 0)
	{
		# The test's own exit handlers must not run here.
		open STDIN, '<', '/dev/null';
		exec('redis-server', map { ("--$_", $conf{$_}) } sort keys %conf) or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	open my $file, '>', "$self->{dir}/redis.pid" or croak $!;
	print $file "$pid\n";
	close $file;

	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while (1)
	{
		return $self if ($self->try_cli('PING'))[1] eq 'PONG';
		if (waitpid($pid, POSIX::WNOHANG()) == $pid)
		{
			delete $self->{pid};
			croak "Redis \"$self->{name}\" ended at once: " . PostgreSQL::Test::Utils::slurp_file($self->logfile);
		}
		croak "Redis \"$self->{name}\" does not answer" if time > $end;
		usleep(20_000);
	}
}

# Run a command; its output without the last newline.  Dies if Redis refuses it.
sub cli
{
	my ($self, @args) = @_;
	my ($status, $out) = $self->try_cli(@args);
	croak "redis-cli @args: $out" if $status;
	return $out;
}

# The same, returning exit status and output.
sub try_cli
{
	my ($self, @args) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'redis-cli', '-s', $self->socket, '-e', @args ], '<', \'', '>', \$out, '2>', \$err);
	my $status = $?;
	chomp($out, $err);
	return ($status, $out ne '' ? $out : $err);
}

# Many commands as they go over the wire (see resp()); dies if one is refused.
# Returns the number of replies.
sub cli_stdin
{
	my ($self, $text) = @_;
	my ($out, $err) = ('', '');
	my $name = "$self->{dir}/pipe.$$";

	# From a file: megabytes through a pipe of ours would depend on how both ends are scheduled.
	open my $file, '>:raw', $name or croak "$name: $!";
	print {$file} $text or croak "$name: $!";
	close $file or croak "$name: $!";
	IPC::Run::run([ 'redis-cli', '-s', $self->socket, '--pipe' ], '<', $name, '>', \$out, '2>', \$err);
	unlink $name;
	croak "redis-cli --pipe: $out$err" unless "$out$err" =~ /errors: 0, replies: (\d+)/;
	return $1;
}

# End it in order (saving what its configuration says).
sub stop
{
	my ($self) = @_;
	$self->signal_and_reap('TERM');
	return;
}

sub kill9
{
	my ($self) = @_;
	$self->signal_and_reap('KILL');
	return;
}

# Stop answering, with every connection open; and go on.
sub freeze
{
	my ($self) = @_;
	kill 'STOP', $self->{pid} or croak "could not stop $self->{pid}: $!";
	return;
}

sub thaw
{
	my ($self) = @_;
	kill 'CONT', $self->{pid} or croak "could not continue $self->{pid}: $!";
	return;
}

sub restart
{
	my ($self) = @_;
	$self->stop;
	return $self->start;
}

# ---- replicas: fail-over by hand ----

# Make it a replica of another server; returns when it has all of what that one has.
sub follow
{
	my ($self, $master) = @_;
	$self->cli('REPLICAOF', $master->host, $master->port);
	$self->wait_caught_up($master);
	return $self;
}

# Until the replica has every byte of the master's, and the master goes on sending.
sub wait_caught_up
{
	my ($self, $master) = @_;
	StreamsinkTest::poll_until(sub {
		my $mine = $self->cli('INFO', 'replication');
		my ($offset) = $master->cli('INFO', 'replication') =~ /^master_repl_offset:(\d+)/m;
		return $mine =~ /^master_link_status:up/m && $mine =~ /^slave_repl_offset:$offset\b/m;
	}, "Redis \"$self->{name}\" to follow \"$master->{name}\"");
	return;
}

# From here on the replica learns nothing more: what the master takes now is lost by a fail-over.
sub cut_replication
{
	my ($self) = @_;
	$self->cli('REPLICAOF', '127.0.0.1', 1);
	return;
}

sub promote
{
	my ($self) = @_;
	$self->cli('REPLICAOF', 'NO', 'ONE');
	return;
}

# ---- snapshots: an old state comes back ----

# Save its data and keep a copy; returns the copy's path.
sub snapshot
{
	my ($self) = @_;
	my $copy = "$self->{dir}/snapshot." . ++$self->{snapshots} . '.rdb';
	$self->cli('SAVE');
	require File::Copy;
	File::Copy::copy("$self->{dir}/dump.rdb", $copy) or croak "$copy: $!";
	return $copy;
}

# Kill it and start it from such a copy: it has lost what came after.  Not with appendonly.
sub restore
{
	my ($self, $copy) = @_;
	$self->kill9;
	require File::Copy;
	File::Copy::copy($copy, "$self->{dir}/dump.rdb") or croak "$copy: $!";
	return $self->start;
}

sub signal_and_reap
{
	my ($self, $signal) = @_;
	my $pid = $self->{pid} or return;
	my $end = time + 20;

	kill 'CONT', $pid;
	kill $signal, $pid;
	until (waitpid($pid, POSIX::WNOHANG()) != 0)
	{
		kill 'KILL', $pid if time > $end;
		usleep(10_000);
	}
	delete $self->{pid};
	unlink "$self->{dir}/redis.pid";
	return;
}

sub DESTROY
{
	my ($self) = @_;
	return unless $self->{owner} == $$;
	local ($?, $!, $@);
	$self->signal_and_reap('KILL');
	return;
}

END
{
	my $status = $?;
	foreach my $server (@servers)
	{
		$server->DESTROY if $server;
	}
	$? = $status;
}

# ---------------------------------------------------------------------------
# A proxy before a Redis server (faultproxy.py, whose head has the faults)
#
#   my $proxy = new_proxy($redis);       # $proxy->port is where clients go
#   $proxy->set('limit_data', bytes => 500, dir => 'down');
#   $proxy->count('limit_data');         # how often it really struck
#   $proxy->clear;
# ---------------------------------------------------------------------------
package StreamsinkTest::Proxy;

use strict;
use warnings;
use Carp;
use File::Basename ();
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils ();
use Scalar::Util ();

my @proxies;

sub new
{
	my ($class, $redis, $seed) = @_;
	my $self = bless { dir => PostgreSQL::Test::Utils::tempdir_short(), owner => $$ }, $class;
	my $script = File::Basename::dirname(__FILE__) . '/faultproxy.py';

	$self->{pid} = open $self->{out}, '-|', '/usr/bin/python3', '-B', $script, $redis->port, "$self->{dir}/control", $seed // 0
	  or croak "could not start the proxy: $!";
	push @proxies, $self;
	Scalar::Util::weaken($proxies[-1]);
	chomp($self->{port} = readline($self->{out}) // croak 'the proxy ended at once');
	$self->{control} = IO::Socket::UNIX->new(Peer => "$self->{dir}/control") or croak "no proxy: $!";
	return $self;
}

sub host { return '127.0.0.1' }
sub port { return $_[0]{port} }

sub command
{
	my ($self, $line) = @_;
	print { $self->{control} } "$line\n";
	$self->{control}->flush;
	my $answer = readline($self->{control}) // croak 'the proxy is gone';
	chomp $answer;
	croak "$line: $answer" if $answer =~ /^error/;
	return $answer;
}

# A fault from now on.
sub set
{
	my ($self, $kind, %args) = @_;
	$self->command(join ' ', 'set', $kind, map { "$_=$args{$_}" } sort keys %args);
	return;
}

# Another server from now on, as after a fail-over.
sub lead_to
{
	my ($self, $redis) = @_;
	$self->command('target ' . $redis->port);
	return;
}

# One fault's end, or that of all.
sub clear
{
	my ($self, $kind) = @_;
	$self->command('clear' . (defined $kind ? " $kind" : ''));
	return;
}

# How often a fault struck.
sub count
{
	my ($self, $kind) = @_;
	my %counts = map { split /=/ } split / /, $self->command('counts');
	return $counts{$kind} // croak "no fault \"$kind\"";
}

sub DESTROY
{
	my ($self) = @_;
	return unless $self->{owner} == $$ && $self->{pid};
	local ($?, $!, $@);
	kill 'KILL', delete $self->{pid};
	close $self->{out};
	return;
}

END
{
	my $status = $?;
	foreach my $proxy (@proxies)
	{
		$proxy->DESTROY if $proxy;
	}
	$? = $status;
}

# ---------------------------------------------------------------------------
# A subscriber: what is published while it listens
#
#   my $ear = new_subscriber($redis, 'alerts', 'other');    # listens when this returns
#   $ear->wait_messages(3);                                 # [ channel, message ], ...: all so far
# ---------------------------------------------------------------------------
package StreamsinkTest::Subscriber;

use strict;
use warnings;
use Carp;
use IO::Socket::UNIX;

sub new
{
	my ($class, $redis, @channels) = @_;
	my $self = bless { buffer => '', messages => [], listening => 0 }, $class;

	$self->{socket} = IO::Socket::UNIX->new(Peer => $redis->socket) or croak "no Redis: $!";
	print { $self->{socket} } StreamsinkTest::resp('SUBSCRIBE', @channels);
	$self->{socket}->flush;
	$self->{socket}->blocking(0);
	StreamsinkTest::poll_until(sub { $self->messages; $self->{listening} == @channels }, 'the subscription');
	return $self;
}

# What has come so far.
sub messages
{
	my ($self) = @_;
	1 while sysread($self->{socket}, $self->{buffer}, 65536, length $self->{buffer});
	# replies are arrays of strings, or of two strings and a number
	while ($self->{buffer} =~ /\G\*3\r\n/gc)
	{
		my @parts;
		my $end;
		while (@parts < 3 && $self->{buffer} =~ /\G(?:\$(\d+)|:(\d+))\r\n/gc)
		{
			if (defined $2) { push @parts, $2; next; }
			my $at = pos $self->{buffer};
			last if length $self->{buffer} < $at + $1 + 2;
			push @parts, substr $self->{buffer}, $at, $1;
			pos($self->{buffer}) = $at + $1 + 2;
		}
		last if @parts < 3;
		$self->{listening} = $parts[2] if $parts[0] eq 'subscribe';
		push @{ $self->{messages} }, [ @parts[ 1, 2 ] ] if $parts[0] eq 'message';
		$self->{buffer} = substr $self->{buffer}, pos $self->{buffer};
		pos($self->{buffer}) = 0;
	}
	pos($self->{buffer}) = 0;
	return @{ $self->{messages} };
}

# The same, once there are so many at least.
sub wait_messages
{
	my ($self, $n) = @_;
	StreamsinkTest::poll_until(sub { $self->messages >= $n }, "$n messages");
	return $self->messages;
}

1;
