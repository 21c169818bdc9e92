# create_target: the table is made from what the streams hold, whatever that is.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use StreamsinkTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = new_redis('auto');
my $node  = new_node('auto');
create_server($node, $redis);
sub sql { return $node->safe_psql('postgres', join "\n", @_); }

# The call's messages; dies if it fails.
sub create
{
	my ($args) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT streamsink.create_pipeline($args, create_target => true)");
	die "create_pipeline($args): $err" if $rc != 0;
	return $err;
}
sub columns
{
	my ($table) = @_;
	return sql("SELECT string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped");
}

# ---- sensors, with types for every field ----
produce($redis, 'mqtt:d1:temperature',
	[ timestamp => '2024-05-01T12:00:00Z', value => '23', active => 'true', count => 7, metadata => '{"firmware": "2.1"}', code => '007', price => '0.12345678901234567890' ],
	[ timestamp => '2024-05-01 12:00:01.5+02:00', value => '23.5', active => 'false', count => '-3', code => '12' ]);
produce($redis, 'mqtt:d2:humidity', [ timestamp => '2024-05-01T12:00:02', value => '1e2', note => '' ]);
my $err = create(q{'sensors', 'iot', 'mqtt:{device_id}:{sensor_type}', 'readings'});
is(columns('readings'), 'device_id text NOT NULL, sensor_type text NOT NULL, "timestamp" timestamp with time zone, value double precision, active boolean, '
	  . 'count bigint, code text, metadata jsonb, price numeric, note text', 'a type for each field');
like($err, qr/NOTICE:  table public\.readings was made for pipeline "sensors"\nDETAIL:  Types are guessed from 3 entries of 2 streams\. CREATE TABLE public\.readings \(\n    device_id text NOT NULL,/,
	'the statement is shown');
like(sql(q{SELECT obj_description('readings'::regclass)}), qr/pipeline "sensors".*CREATE TABLE public\.readings/s, '... and kept');
is(sql(q{SELECT count(*) FROM streamsink.streams}), 0, 'nothing was consumed');
is($redis->cli('XINFO', 'GROUPS', 'mqtt:d1:temperature'), '', '... and no group made');
sql(q{SELECT streamsink.start('sensors')});
wait_settled($node, 'sensors');
is(sql(q{SELECT string_agg(concat_ws(' ', device_id, value, price, code, metadata), ', ' ORDER BY timestamp) FROM readings}),
	'd1 23.5 12, d1 23 0.12345678901234567890 007 {"firmware": "2.1"}, d2 100', 'the entries that it was made from fit');
is(sql(q{SELECT count(*) FROM streamsink.dead_letters}), 0, '... all of them');

# ---- payload members by their JSON type; rest, columns, a key ----
produce($redis, 'events', [ event => 'placed', body => '{"id": 1, "amount": 12.50, "at": "2024-05-01T12:00:00Z", "sku": "0012", "paid": false, "items": [1], "gone": null, "mixed": 1, "deviceId": "x"}' ],
	[ event => 'placed', body => '{"id": 2, "mixed": {"a": 1}, "amount": 3}' ], [ event => 'broken', body => '{"id":' ], [ event => 'none' ]);
create(q{'events', 'iot', 'events', 'orders', columns => '{"device": "deviceId", "entry": "_id", "absent": "nowhere"}', payload => 'body', rest => 'more', on_conflict => 'update', key => 'id'});
is(join(', ', sort split /, /, columns('orders')), join(', ', sort 'entry streamsink.entry_id NOT NULL', 'event text', 'at timestamp with time zone', 'id bigint NOT NULL', 'sku text', 'gone text',
		'paid boolean', 'items jsonb', 'mixed jsonb', 'amount double precision', 'device text', 'absent text', 'more jsonb'), 'members of a payload have the types of JSON');
sql(q{SELECT streamsink.start('events')});
wait_settled($node, 'events');
is(sql('SELECT id, amount, sku, mixed, device FROM orders ORDER BY id'), qq{1|12.5|0012|1|x\n2|3||{"a": 1}|}, '... and are written');
is(sql(q{SELECT count(*) FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'p'}), 1, 'the key is the primary key');

# ---- hostile names and values ----
my @hostile = ('"; DROP TABLE readings; --', q{'; DROP TABLE readings; --}, '$$', "a\nb", 'é', 'select', 'Select', '"', '""', '\\', 'ctid', 'xmin', 'tableoid', 'cmax', '_id', '_seq', '_fields', '',
	'x' x 63, 'y' x 64, "\xff\xfe", "nul\0", '-- comment', '/* ', "tab\t", '%s%n', 'column_1 text); DROP TABLE readings; --');
$redis->cli_stdin(resp('XADD', 'hostile', '*', map { ($_ => 'v') } @hostile));	# produce() would take _id for itself
produce($redis, 'hostile', [ deep => '[' x 30000, deeper => '{"a":' x 12000, bytes => "\xff", zero => "a\0b", long => '{"x": "' . ('x' x 300_000) . '"}' ]);
$err = create(q{'hostile', 'iot', 'hostile', 'hostile', rest => 'more'});
like($err, qr/NOTICE:  some fields cannot be columns/, 'names that cannot be columns are reported');
my @there = split /,/, sql(q{SELECT string_agg(encode(convert_to(attname::text, 'UTF8'), 'hex'), ',') FROM pg_attribute WHERE attrelid = 'hostile'::regclass AND attnum > 0});
my @fit = grep { !/^(?:ctid|xmin|tableoid|cmax|_id|_seq|_fields||y+|\xff\xfe|nul\0)$/ } @hostile;
is(join(',', sort @there), join(',', sort map { my $b = $_; utf8::encode($b) if utf8::is_utf8($b); unpack('H*', $b) } @fit, qw(deep deeper bytes zero long more)), 'every other name is a column');
is(columns('readings') =~ /^device_id/ ? 1 : 0, 1, 'nothing else happened');
is(sql(q{SELECT string_agg(format_type(atttypid, -1), ',') FROM pg_attribute WHERE attrelid = 'hostile'::regclass AND attname = ANY ('{deep,deeper,bytes,zero,long}')}), join(',', ('text') x 5), 'odd values are text');
sql(q{SELECT streamsink.start('hostile')});
wait_settled($node, 'hostile');
is(sql(q{SELECT count(*) FROM streamsink.status WHERE pipeline = 'hostile' AND read = written + refused AND written + refused = 2}), 1, 'entries with such names are settled');

# ---- two thousand fields ----
produce($redis, 'wide', [ map { ("f$_" => $_) } 1 .. 2000 ], map { [ "g$_" => 1 ] } 1 .. 1500);
$err = create(q{'wide', 'iot', 'wide', 'wide', rest => 'more'});
like($err, qr/NOTICE:  there are more fields than streamsink\.max_columns permits as columns \(200\)\nDETAIL:  They go to "rest"/, 'columns are bounded');
is(sql(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'wide'::regclass AND attnum > 0}), 201, '... to 200 and the rest');
sql(q{SELECT streamsink.start('wide')});
wait_settled($node, 'wide');
is(sql(q{SELECT count(*) FROM wide w, jsonb_each(coalesce(to_jsonb(w) -> 'more', '{}') || (to_jsonb(w) - 'more')) e WHERE e.value <> 'null'}),
	3500, 'no field is lost');

# ---- many streams, large entries: bounded ----
produce($redis, "many:$_", [ n => $_ ], [ n => "$_.5" ]) for 1 .. 150;
$err = create(q{'many', 'iot', 'many:{x}', 'many'});
like($err, qr/from (\d+) entries of (\d+) streams/, 'many streams');
my ($entries, $streams) = $err =~ /from (\d+) entries of (\d+) streams/;
cmp_ok($streams, '==', 100, 'at most a hundred streams are looked at');
is(columns('many'), 'x text NOT NULL, n double precision', '... by their newest entries');
produce($redis, 'large', [ n => 1 ], map { [ doc => 'x' x 5_000_000, n => 2 ] } 1 .. 20);
create(q{'large', 'iot', 'large', 'large'});
is(columns('large'), 'doc text, n bigint', 'large entries');
produce($redis, 'long', [ old => 1 ], map { [ new => $_ ] } 1 .. 1200);
create(q{'long', 'iot', 'long', 'long'});
is(columns('long'), 'new bigint', 'the newest thousand of a long stream');

# ---- nothing to look at ----
my ($rc, $out);
($rc, $out, $err) = $node->psql('postgres', q{SELECT streamsink.create_pipeline('none', 'iot', 'nothing', 'none', create_target => true)});
isnt($rc, 0, 'no entries and no placeholders');
like($err, qr/ERROR:  no column is known for table public\."none"\nDETAIL:  There were no entries to look at\.\nHINT:  Call create_pipeline when/, '... are an error');
$err = create(q{'none', 'iot', 'nothing:{a}', 'none'});
like($err, qr/WARNING:  there were no entries to look at/, 'a placeholder alone makes a table, with a warning');
$err = create(q{'none2', 'iot', 'nothing:{a}', 'none2', evolve => true});
unlike($err, qr/WARNING/, '... and without one where it will evolve');

# ---- who may ----
sql(q{ALTER SERVER iot OPTIONS (ADD password_required 'false'); CREATE ROLE ingest LOGIN; SELECT streamsink.grant_access('ingest'); GRANT USAGE ON FOREIGN SERVER iot TO ingest; CREATE SCHEMA own AUTHORIZATION ingest});
($rc, $out, $err) = $node->psql('postgres', q{SET ROLE ingest; SELECT streamsink.create_pipeline('mine', 'iot', 'events', 'public.mine', create_target => true)});
like($err, qr/ERROR:  permission denied for schema public/, 'the owner needs CREATE on the schema');
is(sql(q{SELECT count(*) FROM streamsink.pipeline WHERE name = 'mine'}), 0, '... and there is no pipeline then');
$node->safe_psql('postgres', q{SET ROLE ingest; SELECT streamsink.create_pipeline('mine', 'iot', 'events', 'own.mine', payload => 'body', create_target => true); SELECT streamsink.start('mine')});
wait_settled($node, 'mine');
is(sql(q{SELECT tableowner, (SELECT count(*) FROM own.mine) FROM pg_tables WHERE tablename = 'mine'}), 'ingest|3', 'the table is the owner\'s');

# ---- two calls at the same time ----
my @sessions = map { $node->background_psql('postgres') } 1, 2;
my $same = q{SELECT streamsink.create_pipeline('same', 'iot', 'events', 'same', payload => 'body', create_target => true, if_not_exists => true)};
$_->query_safe('SET client_min_messages = error') for @sessions;
$sessions[0]->query_safe("BEGIN; $same");
$sessions[1]->query_until(qr/begun/, "\\echo begun\n$same;\n");
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%same%' AND pid <> pg_backend_pid()}) or die 'the second call does not wait';
$sessions[0]->query_safe('COMMIT');
$sessions[1]->query_safe('SELECT 1');
is(sql(q{SELECT count(*) FROM streamsink.pipeline WHERE name = 'same'}), 1, 'of two calls the later one finds pipeline and table');
$_->quit for @sessions;

$node->stop;
done_testing;
