# FakeRedis.pm
#	A server on a loopback port that says what a test tells it to: broken,
#	hostile, slow or dying peers that no real Redis would play.
#
# NOTES
#	One process listens, one more serves each connection; all of them are in a
#	process group of their own, which stop() ends.  Only core modules.
package FakeRedis;

use strict;
use warnings;
use IO::Socket::INET;
use POSIX ();
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes ();

# FakeRedis->new(%how):
#	replies  => { COMMAND => bytes, ... }  the answer to each command; a code
#	            reference is called with the fake and the arguments and returns
#	            bytes, or undef to hang up.  AUTH, SELECT, CLIENT and PING are
#	            answered as Redis does unless named; all else gets an error.
#	greeting => bytes                      sent at once, whatever the client says
#	hang_up  => 1                          close after the first answer
#	silent   => 1                          take everything, answer nothing
#	slice    => n                          send n bytes at a time, each in a packet of its own
sub new
{
	my ($class, %how) = @_;
	my $listener = IO::Socket::INET->new(
		Listen => 128,
		LocalAddr => '127.0.0.1',
		Proto => 'tcp') or die "cannot listen: $!";
	my $self = bless { %how, port => $listener->sockport, owner => $$ }, $class;
	my $pid = fork;

	die "cannot fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		POSIX::setpgid(0, 0);
		$SIG{$_} = 'DEFAULT' foreach qw(INT TERM HUP);
		$SIG{CHLD} = 'IGNORE';
		$SIG{PIPE} = 'IGNORE';
		eval { $self->listen_forever($listener) };
		POSIX::_exit(0); # whatever happens: the test's own exit handlers must not run here
	}
	POSIX::setpgid($pid, $pid);
	close $listener;
	$self->{pid} = $pid;
	return $self;
}

sub port { return $_[0]{port} }

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid};

	return unless defined $pid && $self->{owner} == $$;
	kill 'KILL', -$pid, $pid;
	local $?;
	waitpid $pid, 0;
}

sub DESTROY { $_[0]->stop }

sub listen_forever
{
	my ($self, $listener) = @_;

	while (1)
	{
		my $socket = $listener->accept or next;
		my $pid = fork;

		if (defined $pid && $pid == 0)
		{
			close $listener;
			setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
			$self->{socket} = $socket;
			$self->{input} = '';
			eval { $self->serve };
			POSIX::_exit(0);
		}
		close $socket;
	}
}

sub serve
{
	my ($self) = @_;

	$self->send_bytes($self->{greeting}) if defined $self->{greeting};
	while (my @command = $self->read_command)
	{
		next if $self->{silent} || defined $self->{greeting} && !$self->{hang_up};
		return if defined $self->{greeting};
		my $reply = $self->answer(@command);
		return unless defined $reply;
		$self->send_bytes($reply);
		return if $self->{hang_up};
	}
}

sub answer
{
	my ($self, $name, @arguments) = @_;
	my $reply = $self->{replies}{ uc $name };

	return $reply->($self, @arguments) if ref $reply;
	return $reply if defined $reply;
	return "+PONG\r\n" if uc $name eq 'PING';
	return "+OK\r\n" if $name =~ /^(AUTH|SELECT|CLIENT)$/i;
	return "-ERR unknown command\r\n";
}

# The next command's arguments; nothing at the end, or when it is no command.
sub read_command
{
	my ($self) = @_;
	my $head = $self->read_line;
	my @arguments;

	return unless defined $head && $head =~ /^\*(\d+)$/;
	foreach (1 .. $1)
	{
		my $len = $self->read_line;
		return unless defined $len && $len =~ /^\$(\d+)$/;
		my $value = $self->read_bytes($1 + 2);
		return unless defined $value;
		push @arguments, substr($value, 0, -2);
	}
	return @arguments;
}

sub read_line
{
	my ($self) = @_;

	until ($self->{input} =~ /\r\n/)
	{
		return unless $self->read_some;
	}
	$self->{input} =~ s/^(.*?)\r\n//s;
	return $1;
}

sub read_bytes
{
	my ($self, $len) = @_;

	while (length $self->{input} < $len)
	{
		return unless $self->read_some;
	}
	return substr($self->{input}, 0, $len, '');
}

sub read_some
{
	my ($self) = @_;

	return sysread $self->{socket}, $self->{input}, 65536, length $self->{input};
}

# Send all of it, in slices if the test wants so.
sub send_bytes
{
	my ($self, $bytes) = @_;
	my $slice = $self->{slice} || 1 << 16;
	my $sent = 0;

	while ($sent < length $bytes)
	{
		my $n = syswrite $self->{socket}, $bytes, $slice, $sent;
		return unless defined $n;
		$sent += $n;
		Time::HiRes::usleep(200) if $self->{slice};
	}
}

1;
