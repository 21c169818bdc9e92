# Every rule of test/layers fails when it is broken: in a copy, one at a time.
use strict;
use warnings;
use File::Basename;
use File::Path qw(make_path remove_tree);
use PostgreSQL::Test::Utils;
use Test::More;

my $tree = $ENV{STREAMSINK_TREE} // dirname(__FILE__) . '/../..';

# A copy of what layers looks at, without anything built.
sub copy_tree
{
	my $copy = PostgreSQL::Test::Utils::tempdir();
	system('sh', '-c', 'cd "$1" && tar -cf - --exclude="*.o" --exclude="*.so" --exclude="*.bc" Makefile streamsink.control src sql doc test expected | tar -C "$2" -xf -',
		'sh', $tree, $copy) == 0 or die 'could not copy';
	return $copy;
}

# The number of problems, and the names of the rules with their results.
sub run_layers
{
	my ($dir) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ $^X, "$dir/test/layers", $dir ], '>', \$out, '2>', \$err);
	my %result;
	while ($out =~ /^(not ok|ok) \d+ (?:- (.*)|# skip.*)$/mg)
	{
		$result{ $2 // 'skipped' } = $1 eq 'ok';
	}
	my $problems = () = $err =~ /^# (?! )/mg;
	return ($problems, %result);
}

sub edit
{
	my ($file, $code) = @_;
	local $_ = -e $file ? slurp_file($file) : '';
	$code->();
	open my $fh, '>', $file or die "$file: $!";
	print $fh $_;
	close $fh;
}

my $append = sub { my ($file, $text) = @_; return sub { my ($dir) = @_; edit("$dir/$file", sub { $_ .= "$text\n" }) } };
my ($script) = map { my $s = $_; $s =~ s{^\Q$tree\E/}{}; $s }
  (sort glob "$tree/sql/streamsink--0*.sql")[0];

my @breaks = (
	[ 'network input and output is in ss_redis only', $append->('src/ss_guc.c', 'static int f(void) { return socket(1, 2, 3); }') ],
	[ 'network input and output is in ss_redis only', $append->('src/ss_guc.c', 'static void f(void) { redisCommand(c, "PING"); }') ],
	[ 'SPI is used only where the user\'s SQL runs', $append->('src/ss_guc.c', 'static void f(void) { SPI_connect(); }') ],
	[ 'locks are taken in shared memory\'s files only', $append->('src/ss_guc.c', 'static void f(void) { LWLockAcquire(l, LW_SHARED); }') ],
	[ 'XACK is sent by settling only', $append->('src/ss_guc.c', 'static void f(void) { ss_stream_append_ack(r, s, g, i, 1); }') ],
	[ 'XACK is sent by settling only', $append->('src/ss_guc.c', 'static const char *const f = "XACK";') ],
	[ 'cJSON is called in one file only', $append->('src/ss_guc.c', 'static void f(void) { cJSON_Delete(NULL); }') ],
	[ 'versions are looked at in ss_compat.h only', $append->('src/ss_guc.c', "#if PG_VERSION_NUM >= 170000\n#endif") ],
	[ 'no call that blocks, forks, overruns or leaks in a server process', $append->('src/ss_guc.c', 'static void f(char *b) { sprintf(b, "x"); }') ],
	[ 'every error has an errcode', $append->('src/ss_guc.c', "static void f(void) { ereport(ERROR,\n(errmsg(\"errcode (\"))); }") ],
	[ 'no file has more than 600 lines', $append->('src/ss_guc.c', "\n" x 600) ],
	[ 'every file begins as the others do', sub { edit("$_[0]/src/ss_guc.c", sub { s/#include "ss_compat.h"\n// }) } ],
	[ 'every file begins as the others do', sub { edit("$_[0]/src/ss_guc.c", sub { s/ss_guc\.c/ss_gcu.c/ }) } ],
	[ 'every external name has its prefix', $append->('src/ss_guc.h', 'extern int guc_init(void);') ],
	[ 'the library exports what the server looks up and nothing else',
		sub {
			my ($dir) = @_;
			edit("$dir/lib.c", sub { $_ = "int helper(void) { return 0; }\nvoid _PG_init(void) {}\n" });
			system('gcc', '-shared', '-fPIC', '-o', "$dir/streamsink.so", "$dir/lib.c") == 0 or die 'gcc failed';
		} ],
	[ 'SQL functions and C functions match', $append->('src/ss_guc.c', 'SS_SQL_FUNCTION(streamsink_nothing);') ],
	[ 'SQL functions and C functions match', $append->($script, "CREATE FUNCTION streamsink.nothing() RETURNS void\n\tAS 'MODULE_PATHNAME', 'streamsink_nothing' LANGUAGE C;") ],
	[ 'the install script creates in its own schema, plainly', $append->($script, 'CREATE OR REPLACE VIEW streamsink.v AS SELECT 1;') ],
	[ 'the install script creates in its own schema, plainly', $append->($script, 'CREATE TABLE t (a int);') ],
	[ 'every test is listed and has its expected output', $append->('test/sql/unlisted.sql', 'SELECT 1;') ],
	[ 'every test is listed and has its expected output', $append->('test/specs/unlisted.spec', '') ],
	[ 'every test is listed and has its expected output', sub { unlink "$_[0]/expected/install.out" or die $! } ],
	[ 'tests wait for conditions, not for time', $append->('test/t/999_waits.pl', 'sle' . 'ep 5;') ],
	[ 'faults are provoked by the tests that doc/faults.md names', $append->('doc/faults.md', '| 999 | a fault | nothing | `030_pipeline`: "words that stand ' . 'nowhere" |') ],
	[ 'faults are provoked by the tests that doc/faults.md names', $append->('doc/faults.md', '| 999 | a fault | nothing | `999_nothing`: "words" |') ],
	[ 'faults are provoked by the tests that doc/faults.md names', $append->('doc/faults.md', '| 999 | a fault | nothing | nobody knows |') ],
);

my ($before, %whole) = run_layers(copy_tree());
ok(keys %whole > 10, 'layers runs');
foreach my $break (@breaks)
{
	my ($rule, $code) = @$break;
	my $dir = copy_tree();
	$code->($dir);
	my ($after, %result) = run_layers($dir);
	ok(exists $result{$rule} && !$result{$rule} && $after > $before, "broken: $rule");
	remove_tree($dir);
}

# None is forgotten here.
my %broken = map { ($_->[0] => 1) } @breaks;
is(join(', ', grep { !$broken{$_} && $_ ne 'skipped' } sort keys %whole), '', 'every rule was broken once');

done_testing();
