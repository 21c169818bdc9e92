# A bad entry becomes one dead letter with every byte of its fields; its
# neighbours arrive.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('bad');
my $node  = new_node('bad');
create_server($node, $redis);
$node->safe_psql('postgres', q{
	CREATE TABLE parent (id int PRIMARY KEY);
	INSERT INTO parent VALUES (1);
	CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
	CREATE TABLE t (n int NOT NULL, amount numeric, share percent, note text, doc jsonb, at timestamptz,
		parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED, big text,
		CONSTRAINT small CHECK (amount < 1000), CONSTRAINT n_key UNIQUE (n));
	SELECT streamsink.create_pipeline('bad', server => 'iot', stream => 'bad', target => 't', max_entry_bytes => 1048576);
	SELECT streamsink.start('bad')});

my $long = 'v' x 5_000_000;
my @cases = (
	# name, fields, expected SQLSTATE, column, constraint
	[ 'wrong type',          [ n => 'one' ],                       '22P02', 'n' ],
	[ 'out of range',        [ n => '99999999999' ],               '22003', 'n' ],
	[ 'missing field',       [ note => 'no n' ],                   '23502', 'n' ],
	[ 'NUL byte',            [ n => 1, note => "a\0b" ],           '22021', 'note' ],
	[ 'invalid UTF-8',       [ n => 1, note => "\xc3\x28" ],       '22021', 'note' ],
	[ 'domain',              [ n => 1, share => 101 ],             '23514', undef, 'percent_check' ],
	[ 'invalid JSON',        [ n => 1, doc => '{"a":' ],           '22P02', 'doc' ],
	[ 'NUL in JSON',         [ n => 1, doc => '{"a": "\u0000"}' ], '22P05', 'doc' ],
	[ 'bad time',            [ n => 1, at => '2024-02-30' ],       '22008', 'at' ],
	[ 'check constraint',    [ n => 2, amount => 1000 ],           '23514', undef, 'small' ],
	[ 'unique constraint',   [ n => 10 ],                          '23505', undef, 'n_key' ],
	[ 'foreign key',         [ n => 3, parent => 77 ],             '23503', undef, 't_parent_fkey' ],
	[ 'fifty thousand fields with a bad one', [ n => 'x', map { ("f$_" => $_) } 1 .. 50_000 ], '22P02', 'n' ],
	[ 'too large',           [ n => 4, big => $long ],             '54000' ],
	[ 'a hundred megabytes', [ n => 4, big => 'w' x 100_000_000 ], '54000' ],
);

# Good ones around every bad one.
my $good = 10;
my @expected_good;
for my $case (@cases)
{
	produce($redis, 'bad', [ n => $good, amount => '0.1234567890123456789', parent => 1 ], $case->[1], [ n => $good + 1 ]);
	push @expected_good, $good, $good + 1;
	$good += 2;
}
# An entry with many fields that are not columns is a good one.
produce($redis, 'bad', [ n => 5, map { ("f$_" => $_) } 1 .. 50_000 ]);
wait_settled($node, 'bad');

is($node->safe_psql('postgres', 'SELECT string_agg(n::text, $$,$$ ORDER BY n) FROM t'),
	join(',', sort { $a <=> $b } 5, @expected_good), 'every good neighbour arrived');
is($node->safe_psql('postgres', 'SELECT DISTINCT amount FROM t WHERE amount IS NOT NULL'), '0.1234567890123456789', 'with every digit');
is($node->safe_psql('postgres', "SELECT count(*) FROM streamsink.dead_letters WHERE pipeline = 'bad'"), scalar @cases, 'one dead letter for each bad entry');

my $i = 0;
for my $case (@cases)
{
	my ($name, $fields, $sqlstate, $column, $constraint) = @$case;
	my ($row) = $node->safe_psql('postgres', "SELECT sqlstate, column_name, constraint_name, attempts FROM streamsink.dead_letters ORDER BY entry_id, id OFFSET $i LIMIT 1");
	my @got = split /\|/, $row, -1;
	is($got[0], $sqlstate, "$name: SQLSTATE");
	is($got[1], $column, "$name: column") if defined $column;
	is($got[2], $constraint, "$name: constraint") if defined $constraint;
	is($got[3], 1, "$name: one attempt");
	if ($sqlstate ne '54000')
	{
		my $hex = $node->safe_psql('postgres', "SELECT md5(string_agg(f, '' ORDER BY o)) FROM (SELECT raw FROM streamsink.dead_letters ORDER BY entry_id, id OFFSET $i LIMIT 1) d, unnest(d.raw) WITH ORDINALITY AS u(f, o)");
		require Digest::MD5;
		is($hex, Digest::MD5::md5_hex(join '', @$fields), "$name: every byte is kept");
	}
	$i++;
}
is($node->safe_psql('postgres', "SELECT detail ~ '100000000' AND octet_length(raw[4]) <= 65536 FROM streamsink.dead_letters ORDER BY entry_id DESC, id DESC LIMIT 1"),
	't', 'of the largest one its size and a prefix');
is($node->safe_psql('postgres', "SELECT refused, written FROM streamsink.status WHERE pipeline = 'bad'"),
	scalar(@cases) . '|' . (@expected_good + 1), 'status counts them');
is($redis->cli('XPENDING', 'bad', 'bad') =~ s/\n.*//sr, 0, 'all of them are acknowledged');

$node->stop;
done_testing;
