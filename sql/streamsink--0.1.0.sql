\echo Use "CREATE EXTENSION streamsink" to load this file. \quit

-- ---------------------------------------------------------------------------
-- Types: entry_id, its operators, casts and aggregates, its range types.
-- ---------------------------------------------------------------------------

CREATE TYPE streamsink.entry_id;

CREATE FUNCTION streamsink.entry_id_in(pg_catalog.cstring) RETURNS streamsink.entry_id
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_in(pg_catalog.cstring) IS 'input: milliseconds-sequence, or milliseconds alone';

CREATE FUNCTION streamsink.entry_id_out(streamsink.entry_id) RETURNS pg_catalog.cstring
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_out(streamsink.entry_id) IS 'output: milliseconds-sequence';

CREATE FUNCTION streamsink.entry_id_recv(pg_catalog.internal) RETURNS streamsink.entry_id
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_recv' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_recv(pg_catalog.internal) IS 'binary input: two 64-bit numbers in network byte order';

CREATE FUNCTION streamsink.entry_id_send(streamsink.entry_id) RETURNS pg_catalog.bytea
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_send(streamsink.entry_id) IS 'binary output: two 64-bit numbers in network byte order';

CREATE TYPE streamsink.entry_id (
	INPUT = streamsink.entry_id_in,
	OUTPUT = streamsink.entry_id_out,
	RECEIVE = streamsink.entry_id_recv,
	SEND = streamsink.entry_id_send,
	INTERNALLENGTH = 16,
	ALIGNMENT = double,
	STORAGE = plain
);
COMMENT ON TYPE streamsink.entry_id IS 'id of a Redis stream entry: milliseconds-sequence, unsigned 64-bit numbers';

CREATE FUNCTION streamsink.entry_id_lt(streamsink.entry_id, streamsink.entry_id) RETURNS bool
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_lt' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_lt(streamsink.entry_id, streamsink.entry_id) IS 'implementation of the operator <';

CREATE FUNCTION streamsink.entry_id_le(streamsink.entry_id, streamsink.entry_id) RETURNS bool
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_le' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_le(streamsink.entry_id, streamsink.entry_id) IS 'implementation of the operator <=';

CREATE FUNCTION streamsink.entry_id_eq(streamsink.entry_id, streamsink.entry_id) RETURNS bool
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_eq' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_eq(streamsink.entry_id, streamsink.entry_id) IS 'implementation of the operator =';

CREATE FUNCTION streamsink.entry_id_ne(streamsink.entry_id, streamsink.entry_id) RETURNS bool
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_ne' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_ne(streamsink.entry_id, streamsink.entry_id) IS 'implementation of the operator <>';

CREATE FUNCTION streamsink.entry_id_ge(streamsink.entry_id, streamsink.entry_id) RETURNS bool
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_ge' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_ge(streamsink.entry_id, streamsink.entry_id) IS 'implementation of the operator >=';

CREATE FUNCTION streamsink.entry_id_gt(streamsink.entry_id, streamsink.entry_id) RETURNS bool
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_gt' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_gt(streamsink.entry_id, streamsink.entry_id) IS 'implementation of the operator >';

CREATE OPERATOR streamsink.< (
	FUNCTION = streamsink.entry_id_lt,
	LEFTARG = streamsink.entry_id,
	RIGHTARG = streamsink.entry_id,
	COMMUTATOR = OPERATOR(streamsink.>),
	NEGATOR = OPERATOR(streamsink.>=),
	RESTRICT = pg_catalog.scalarltsel,
	JOIN = pg_catalog.scalarltjoinsel
);
COMMENT ON OPERATOR streamsink.< (streamsink.entry_id, streamsink.entry_id) IS 'is less than';

CREATE OPERATOR streamsink.<= (
	FUNCTION = streamsink.entry_id_le,
	LEFTARG = streamsink.entry_id,
	RIGHTARG = streamsink.entry_id,
	COMMUTATOR = OPERATOR(streamsink.>=),
	NEGATOR = OPERATOR(streamsink.>),
	RESTRICT = pg_catalog.scalarlesel,
	JOIN = pg_catalog.scalarlejoinsel
);
COMMENT ON OPERATOR streamsink.<= (streamsink.entry_id, streamsink.entry_id) IS 'is less than or equal to';

CREATE OPERATOR streamsink.= (
	FUNCTION = streamsink.entry_id_eq,
	LEFTARG = streamsink.entry_id,
	RIGHTARG = streamsink.entry_id,
	COMMUTATOR = OPERATOR(streamsink.=),
	NEGATOR = OPERATOR(streamsink.<>),
	RESTRICT = pg_catalog.eqsel,
	JOIN = pg_catalog.eqjoinsel,
	HASHES,
	MERGES
);
COMMENT ON OPERATOR streamsink.= (streamsink.entry_id, streamsink.entry_id) IS 'is equal to';

CREATE OPERATOR streamsink.<> (
	FUNCTION = streamsink.entry_id_ne,
	LEFTARG = streamsink.entry_id,
	RIGHTARG = streamsink.entry_id,
	COMMUTATOR = OPERATOR(streamsink.<>),
	NEGATOR = OPERATOR(streamsink.=),
	RESTRICT = pg_catalog.neqsel,
	JOIN = pg_catalog.neqjoinsel
);
COMMENT ON OPERATOR streamsink.<> (streamsink.entry_id, streamsink.entry_id) IS 'is not equal to';

CREATE OPERATOR streamsink.>= (
	FUNCTION = streamsink.entry_id_ge,
	LEFTARG = streamsink.entry_id,
	RIGHTARG = streamsink.entry_id,
	COMMUTATOR = OPERATOR(streamsink.<=),
	NEGATOR = OPERATOR(streamsink.<),
	RESTRICT = pg_catalog.scalargesel,
	JOIN = pg_catalog.scalargejoinsel
);
COMMENT ON OPERATOR streamsink.>= (streamsink.entry_id, streamsink.entry_id) IS 'is greater than or equal to';

CREATE OPERATOR streamsink.> (
	FUNCTION = streamsink.entry_id_gt,
	LEFTARG = streamsink.entry_id,
	RIGHTARG = streamsink.entry_id,
	COMMUTATOR = OPERATOR(streamsink.<),
	NEGATOR = OPERATOR(streamsink.<=),
	RESTRICT = pg_catalog.scalargtsel,
	JOIN = pg_catalog.scalargtjoinsel
);
COMMENT ON OPERATOR streamsink.> (streamsink.entry_id, streamsink.entry_id) IS 'is greater than';

CREATE FUNCTION streamsink.entry_id_cmp(streamsink.entry_id, streamsink.entry_id) RETURNS int4
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_cmp' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_cmp(streamsink.entry_id, streamsink.entry_id) IS 'less, equal or greater: -1, 0, 1';

CREATE FUNCTION streamsink.entry_id_sortsupport(pg_catalog.internal) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_sortsupport' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_sortsupport(pg_catalog.internal) IS 'fast sorting of entry ids';

CREATE FUNCTION streamsink.entry_id_hash(streamsink.entry_id) RETURNS int4
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_hash' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_hash(streamsink.entry_id) IS 'hash of an entry id';

CREATE FUNCTION streamsink.entry_id_hash_extended(streamsink.entry_id, int8) RETURNS int8
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_hash_extended' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_hash_extended(streamsink.entry_id, int8) IS 'seeded hash of an entry id';

CREATE OPERATOR CLASS streamsink.entry_id_ops DEFAULT FOR TYPE streamsink.entry_id USING btree AS
	OPERATOR 1 streamsink.<,
	OPERATOR 2 streamsink.<=,
	OPERATOR 3 streamsink.=,
	OPERATOR 4 streamsink.>=,
	OPERATOR 5 streamsink.>,
	FUNCTION 1 streamsink.entry_id_cmp(streamsink.entry_id, streamsink.entry_id),
	FUNCTION 2 (streamsink.entry_id, streamsink.entry_id) streamsink.entry_id_sortsupport(pg_catalog.internal),
	FUNCTION 4 (streamsink.entry_id, streamsink.entry_id) pg_catalog.btequalimage(pg_catalog.oid);
COMMENT ON OPERATOR FAMILY streamsink.entry_id_ops USING btree IS 'order of entry ids';
COMMENT ON OPERATOR CLASS streamsink.entry_id_ops USING btree IS 'order of entry ids: milliseconds, then sequence';

CREATE OPERATOR CLASS streamsink.entry_id_ops DEFAULT FOR TYPE streamsink.entry_id USING hash AS
	OPERATOR 1 streamsink.=,
	FUNCTION 1 streamsink.entry_id_hash(streamsink.entry_id),
	FUNCTION 2 streamsink.entry_id_hash_extended(streamsink.entry_id, int8);
COMMENT ON OPERATOR FAMILY streamsink.entry_id_ops USING hash IS 'equality of entry ids';
COMMENT ON OPERATOR CLASS streamsink.entry_id_ops USING hash IS 'equality of entry ids';

CREATE FUNCTION streamsink.entry_id_larger(streamsink.entry_id, streamsink.entry_id) RETURNS streamsink.entry_id
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_larger' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_larger(streamsink.entry_id, streamsink.entry_id) IS 'the later of two entry ids';

CREATE FUNCTION streamsink.entry_id_smaller(streamsink.entry_id, streamsink.entry_id) RETURNS streamsink.entry_id
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_smaller' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_smaller(streamsink.entry_id, streamsink.entry_id) IS 'the earlier of two entry ids';

CREATE AGGREGATE streamsink.max(streamsink.entry_id) (
	SFUNC = streamsink.entry_id_larger,
	STYPE = streamsink.entry_id,
	COMBINEFUNC = streamsink.entry_id_larger,
	SORTOP = OPERATOR(streamsink.>),
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE streamsink.max(streamsink.entry_id) IS 'latest entry id';

CREATE AGGREGATE streamsink.min(streamsink.entry_id) (
	SFUNC = streamsink.entry_id_smaller,
	STYPE = streamsink.entry_id,
	COMBINEFUNC = streamsink.entry_id_smaller,
	SORTOP = OPERATOR(streamsink.<),
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE streamsink.min(streamsink.entry_id) IS 'earliest entry id';

-- A text that is no id is refused as a literal is, so assigning it to a column is allowed as the other way is.
CREATE CAST (streamsink.entry_id AS pg_catalog.text) WITH INOUT AS ASSIGNMENT;
COMMENT ON CAST (streamsink.entry_id AS pg_catalog.text) IS 'milliseconds-sequence';
CREATE CAST (pg_catalog.text AS streamsink.entry_id) WITH INOUT AS ASSIGNMENT;
COMMENT ON CAST (pg_catalog.text AS streamsink.entry_id) IS 'milliseconds-sequence, or milliseconds alone';

CREATE FUNCTION streamsink.entry_time(streamsink.entry_id) RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'streamsink_entry_time' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_time(streamsink.entry_id) IS 'time of an entry id, not later than the last timestamp there is';

CREATE CAST (streamsink.entry_id AS timestamptz) WITH FUNCTION streamsink.entry_time(streamsink.entry_id) AS ASSIGNMENT;
COMMENT ON CAST (streamsink.entry_id AS timestamptz) IS 'time of the entry, not later than the last timestamp there is';

CREATE FUNCTION streamsink.entry_id(timestamptz) RETURNS streamsink.entry_id
	AS 'MODULE_PATHNAME', 'streamsink_entry_id' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id(timestamptz) IS 'first entry id of a millisecond; 0-0 before 1970';

CREATE CAST (timestamptz AS streamsink.entry_id) WITH FUNCTION streamsink.entry_id(timestamptz);
COMMENT ON CAST (timestamptz AS streamsink.entry_id) IS 'first entry id of the millisecond; 0-0 before 1970';

CREATE FUNCTION streamsink.entry_ms(streamsink.entry_id) RETURNS numeric
	AS 'MODULE_PATHNAME', 'streamsink_entry_ms' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_ms(streamsink.entry_id) IS 'milliseconds of an entry id, since 1970-01-01 00:00 UTC';

CREATE FUNCTION streamsink.entry_seq(streamsink.entry_id) RETURNS numeric
	AS 'MODULE_PATHNAME', 'streamsink_entry_seq' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_seq(streamsink.entry_id) IS 'sequence of an entry id within its millisecond';

CREATE TYPE streamsink.entry_id_range;

CREATE FUNCTION streamsink.entry_id_range_canonical(streamsink.entry_id_range) RETURNS streamsink.entry_id_range
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_range_canonical' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_range_canonical(streamsink.entry_id_range) IS 'normal form of a range: lower bound included, upper bound excluded';

CREATE FUNCTION streamsink.entry_id_range_subdiff(streamsink.entry_id, streamsink.entry_id) RETURNS float8
	AS 'MODULE_PATHNAME', 'streamsink_entry_id_range_subdiff' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.entry_id_range_subdiff(streamsink.entry_id, streamsink.entry_id) IS 'distance of two entry ids in milliseconds';

CREATE TYPE streamsink.entry_id_range AS RANGE (
	SUBTYPE = streamsink.entry_id,
	SUBTYPE_OPCLASS = streamsink.entry_id_ops,
	CANONICAL = streamsink.entry_id_range_canonical,
	SUBTYPE_DIFF = streamsink.entry_id_range_subdiff,
	MULTIRANGE_TYPE_NAME = streamsink.entry_id_multirange
);
COMMENT ON TYPE streamsink.entry_id_range IS 'range of entry ids';
COMMENT ON TYPE streamsink.entry_id_multirange IS 'set of entry ids, as ranges';
COMMENT ON FUNCTION streamsink.entry_id_range(streamsink.entry_id, streamsink.entry_id) IS 'range from an entry id up to, and without, another';
COMMENT ON FUNCTION streamsink.entry_id_range(streamsink.entry_id, streamsink.entry_id, text) IS 'range of entry ids with the kinds of its bounds';
COMMENT ON FUNCTION streamsink.entry_id_multirange() IS 'empty set of entry ids';
COMMENT ON FUNCTION streamsink.entry_id_multirange(streamsink.entry_id_range) IS 'set of entry ids of one range';
COMMENT ON FUNCTION streamsink.entry_id_multirange(streamsink.entry_id_range[]) IS 'set of entry ids of some ranges';
COMMENT ON CAST (streamsink.entry_id_range AS streamsink.entry_id_multirange) IS 'set of entry ids of one range';
-- ---------------------------------------------------------------------------
-- Tables.  Read and written by C through table and index access; no triggers,
-- foreign keys or user-defined operators on what workers write.  Always heap:
-- another default_table_access_method must not reach them.
-- ---------------------------------------------------------------------------

CREATE FUNCTION streamsink.fdw_validator(options text[], catalog oid) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_fdw_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION streamsink.fdw_validator(text[], oid) IS 'checks the options of streamsink servers and user mappings';

CREATE FOREIGN DATA WRAPPER streamsink VALIDATOR streamsink.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER streamsink IS 'Redis servers that streamsink pipelines read from';

CREATE SEQUENCE streamsink.pipeline_id_seq AS int4;
COMMENT ON SEQUENCE streamsink.pipeline_id_seq IS 'numbers pipelines';
-- The columns up to settings have the order of create_pipeline's arguments (ss_catalog.h).
CREATE TABLE streamsink.pipeline (
	name                  text        NOT NULL,
	server                text        NOT NULL,
	stream                text        NOT NULL,
	target                text,
	row_type              text,
	transform             text,
	columns               jsonb,
	payload               text,
	rest                  text,
	on_conflict           text        NOT NULL,
	key                   text,
	consumer_group        text        NOT NULL,
	start_from            text        NOT NULL,
	workers               int4        NOT NULL,
	batch_size            int4        NOT NULL,
	batch_bytes           int8        NOT NULL,
	linger                interval    NOT NULL,
	on_error              text        NOT NULL,
	max_retries           int4,
	retry_backoff         interval    NOT NULL,
	retry_backoff_max     interval    NOT NULL,
	retry_growth          text        NOT NULL,
	max_dead_letter_rate  real,
	dead_letter_stream    text,
	dead_letter_retention interval,
	max_dead_letters      int8,
	trim_after            interval,
	claim_idle            interval,
	on_replaced_stream    text        NOT NULL,
	on_lost_group         text,
	max_entry_bytes       int8        NOT NULL,
	ledger_retention      interval    NOT NULL,
	allow_inexact         bool        NOT NULL,
	create_target         bool        NOT NULL,
	evolve                bool        NOT NULL,
	settings              jsonb       NOT NULL,
	id                    int4        NOT NULL,
	owner                 name        NOT NULL,
	identity              uuid        NOT NULL,
	incarnation           int4        NOT NULL,
	generation            int8        NOT NULL,
	enabled               bool        NOT NULL,
	enabled_system        text,
	enabled_database      oid,
	failure               text,
	created_at            timestamptz NOT NULL,
	altered_at            timestamptz NOT NULL,
	CONSTRAINT pipeline_pkey PRIMARY KEY (id),
	CONSTRAINT pipeline_name_key UNIQUE (name)
) USING heap;
COMMENT ON TABLE streamsink.pipeline IS 'definitions of pipelines, read by C; see the view pipelines';
SELECT pg_catalog.pg_extension_config_dump('streamsink.pipeline', '');
SELECT pg_catalog.pg_extension_config_dump('streamsink.pipeline_id_seq', '');

CREATE SEQUENCE streamsink.stream_id_seq AS int4;
COMMENT ON SEQUENCE streamsink.stream_id_seq IS 'numbers streams';
CREATE TABLE streamsink.stream (
	id          int4                NOT NULL,
	pipeline    int4                NOT NULL,
	name        text COLLATE "C"    NOT NULL,
	incarnation int4                NOT NULL,
	start_id    streamsink.entry_id NOT NULL,
	found_at    timestamptz         NOT NULL,
	foreign_consumers bool          NOT NULL DEFAULT false, -- others were seen reading in its group
	unseen       int8               NOT NULL DEFAULT 0, -- gaps of the ledger that were joined although what was in them was trimmed
	foreign_gaps int8               NOT NULL DEFAULT 0, -- ... although other consumers settled what was in them
	missed       int8               NOT NULL DEFAULT 0, -- entries known to have been trimmed before they were delivered
	trimmed      int8               NOT NULL DEFAULT 0, -- entries removed because of trim_after
	CONSTRAINT stream_pkey PRIMARY KEY (id),
	CONSTRAINT stream_name_key UNIQUE (pipeline, name, incarnation)
) USING heap;
COMMENT ON TABLE streamsink.stream IS 'streams that pipelines found, one row for each incarnation';
SELECT pg_catalog.pg_extension_config_dump('streamsink.stream', '');
SELECT pg_catalog.pg_extension_config_dump('streamsink.stream_id_seq', '');

CREATE TABLE streamsink.ledger (
	stream     int4                           NOT NULL,
	segment    int4                           NOT NULL,
	pipeline   int4                           NOT NULL,
	lowest     streamsink.entry_id            NOT NULL,
	highest    streamsink.entry_id            NOT NULL,
	settled    streamsink.entry_id_multirange NOT NULL,
	hashes     int8[]                         NOT NULL,
	settled_at timestamptz[]                  NOT NULL,
	CONSTRAINT ledger_pkey PRIMARY KEY (stream, segment)
) USING heap;
COMMENT ON TABLE streamsink.ledger IS 'settled entry ids of each stream, folded, in segments ordered by id; hashes and settled_at belong to the ranges in order, lowest and highest are the ends of the set';
CREATE INDEX ledger_pipeline_idx ON streamsink.ledger (pipeline);
COMMENT ON INDEX streamsink.ledger_pipeline_idx IS 'finds the streams of a pipeline';
SELECT pg_catalog.pg_extension_config_dump('streamsink.ledger', '');

CREATE TABLE streamsink.ledger_log (
	pipeline   int4        NOT NULL,
	settled_at timestamptz NOT NULL,
	intervals  bytea       NOT NULL,
	written    int8,	-- these: what the batch adds to the counters, NULL for nothing
	refused    int8,
	ignored    int8,
	repeated   int8,
	superseded int8,
	vanished   int8,
	"rows"     int8,
	batches    int8,
	errors     int8,
	retried    int8
) USING heap;
COMMENT ON TABLE streamsink.ledger_log IS 'what single batches settled and is not folded into the ledger yet';
CREATE INDEX ledger_log_idx ON streamsink.ledger_log (pipeline, settled_at);
COMMENT ON INDEX streamsink.ledger_log_idx IS 'finds the log of a pipeline';
SELECT pg_catalog.pg_extension_config_dump('streamsink.ledger_log', '');

-- Dumped: rows, ledger and counters belong together.
CREATE TABLE streamsink.counter (
	pipeline   int4 NOT NULL,
	written    int8 NOT NULL,
	refused    int8 NOT NULL,
	ignored    int8 NOT NULL,
	repeated   int8 NOT NULL,
	superseded int8 NOT NULL,
	vanished   int8 NOT NULL,
	"rows"     int8 NOT NULL,
	batches    int8 NOT NULL,
	errors     int8 NOT NULL,
	retried    int8 NOT NULL,
	reset_at   timestamptz,
	CONSTRAINT counter_pkey PRIMARY KEY (pipeline)
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE streamsink.counter IS 'counters of pipelines, without what the rows of ledger_log add to them; see the view status';
SELECT pg_catalog.pg_extension_config_dump('streamsink.counter', '');

CREATE SEQUENCE streamsink.dead_letter_id_seq;
COMMENT ON SEQUENCE streamsink.dead_letter_id_seq IS 'numbers dead letters';
CREATE TABLE streamsink.dead_letter (
	id              int8                NOT NULL,
	pipeline        int4                NOT NULL,
	stream          text                NOT NULL,
	entry_id        streamsink.entry_id NOT NULL,
	raw             bytea[]             NOT NULL,
	edited          jsonb,
	stage           text                NOT NULL,
	sqlstate        text                NOT NULL,
	error           text                NOT NULL,
	detail          text,
	table_name      text,
	column_name     text,
	constraint_name text,
	attempts        int4                NOT NULL,
	first_failed_at timestamptz         NOT NULL,
	failed_at       timestamptz         NOT NULL,
	truncated       bool                NOT NULL, -- kept in part only: it cannot be applied as it is
	CONSTRAINT dead_letter_pkey PRIMARY KEY (id)
) USING heap;
COMMENT ON TABLE streamsink.dead_letter IS 'entries that were refused; see the view dead_letters';
CREATE INDEX dead_letter_pipeline_idx ON streamsink.dead_letter (pipeline, id);
COMMENT ON INDEX streamsink.dead_letter_pipeline_idx IS 'finds the dead letters of a pipeline in order';
CREATE INDEX dead_letter_failed_idx ON streamsink.dead_letter (pipeline, failed_at);
COMMENT ON INDEX streamsink.dead_letter_failed_idx IS 'finds the dead letters of a pipeline that are older than a time';
SELECT pg_catalog.pg_extension_config_dump('streamsink.dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('streamsink.dead_letter_id_seq', '');

CREATE TABLE streamsink.dead_letter_attempt (
	dead_letter int8        NOT NULL,
	attempt     int4        NOT NULL,
	failed_at   timestamptz NOT NULL,
	stage       text        NOT NULL,
	sqlstate    text        NOT NULL,
	error       text        NOT NULL,
	CONSTRAINT dead_letter_attempt_pkey PRIMARY KEY (dead_letter, attempt)
) USING heap;
COMMENT ON TABLE streamsink.dead_letter_attempt IS 'history of the tries of each dead letter';
SELECT pg_catalog.pg_extension_config_dump('streamsink.dead_letter_attempt', '');

-- Not dumped: what it says is about this server.
CREATE TABLE streamsink.attempt (
	pipeline   int4                NOT NULL,
	share      int4                NOT NULL,
	stream     int4                NOT NULL, -- 0: a whole batch
	entry_id   streamsink.entry_id NOT NULL,
	trying     bool                NOT NULL,
	crashes    int4                NOT NULL,
	birth      timestamptz         NOT NULL, -- of the shared memory
	started_at timestamptz         NOT NULL
) USING heap;
COMMENT ON TABLE streamsink.attempt IS 'pending entries that are being tried, and how often the server crashed at it; gone once they are settled';
CREATE INDEX attempt_pipeline_idx ON streamsink.attempt (pipeline);
COMMENT ON INDEX streamsink.attempt_pipeline_idx IS 'finds the attempts of a pipeline';

CREATE SEQUENCE streamsink.outbox_id_seq;
COMMENT ON SEQUENCE streamsink.outbox_id_seq IS 'orders the outbox';
CREATE TABLE streamsink.outbox_queue (
	id         int8        NOT NULL,
	server     text        NOT NULL,
	role       name        NOT NULL,
	kind       text        NOT NULL,
	name       text        NOT NULL,
	pipeline   text,
	args       bytea[]     NOT NULL,
	created_at timestamptz NOT NULL,
	attempts   int4        NOT NULL,
	last_error text,
	origin_system   text   NOT NULL,
	origin_database oid    NOT NULL,
	queue      int8        NOT NULL, -- 0: not tried yet; n: n was refused, and this one has its name; -n: the server has been away since n
	retry_at   timestamptz, -- of the first of a queue
	entry_id   streamsink.entry_id, -- chosen before the entry is sent
	CONSTRAINT outbox_queue_pkey PRIMARY KEY (id)
) USING heap;
COMMENT ON TABLE streamsink.outbox_queue IS 'commands for Redis, carried out after commit; rows of another system or database (a restored dump) are held';
CREATE INDEX outbox_queue_turn_idx ON streamsink.outbox_queue (queue, id);
COMMENT ON INDEX streamsink.outbox_queue_turn_idx IS 'finds what is next, and what waits, in order';
SELECT pg_catalog.pg_extension_config_dump('streamsink.outbox_queue', '');
SELECT pg_catalog.pg_extension_config_dump('streamsink.outbox_id_seq', '');

-- What these rows say is done with the rights of the roles that they name, so a
-- role that may write any table (pg_write_all_data) must not write these.  C
-- does not go through triggers.
CREATE FUNCTION streamsink.refuse_write() RETURNS trigger
	AS 'MODULE_PATHNAME', 'streamsink_refuse_write' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION streamsink.refuse_write() IS 'lets only superusers write the tables of the extension by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.pipeline
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.pipeline IS 'lets only superusers write by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.stream
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.stream IS 'lets only superusers write by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.ledger
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.ledger IS 'lets only superusers write by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.ledger_log
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.ledger_log IS 'lets only superusers write by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.counter
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.counter IS 'lets only superusers write by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.dead_letter
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.dead_letter IS 'lets only superusers write by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.dead_letter_attempt
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.dead_letter_attempt IS 'lets only superusers write by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.attempt
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.attempt IS 'lets only superusers write by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.outbox_queue
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.outbox_queue IS 'lets only superusers write by SQL';
-- ---------------------------------------------------------------------------
-- Definition and control
-- ---------------------------------------------------------------------------

CREATE FUNCTION streamsink.create_pipeline(
	name text, server text, stream text, target text = NULL, row_type text = NULL,
	transform text = NULL, columns jsonb = NULL, payload text = NULL, rest text = NULL,
	on_conflict text = 'error', key text = NULL, consumer_group text = NULL,
	start_from text = '0', workers int = 1, batch_size int = 1000,
	batch_bytes bigint = 16777216, linger interval = '0', on_error text = 'dead_letter',
	max_retries int = NULL, retry_backoff interval = '500 ms',
	retry_backoff_max interval = '1 min', retry_growth text = 'exponential',
	max_dead_letter_rate real = NULL, dead_letter_stream text = NULL,
	dead_letter_retention interval = NULL, max_dead_letters bigint = NULL, trim_after interval = NULL,
	claim_idle interval = NULL, on_replaced_stream text = 'stop', on_lost_group text = NULL,
	max_entry_bytes bigint = 67108864, ledger_retention interval = '7 days',
	allow_inexact bool = false, create_target bool = false, evolve bool = false,
	settings jsonb = '{}', connect bool = true, if_not_exists bool = false) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_create_pipeline' LANGUAGE C VOLATILE;

CREATE FUNCTION streamsink.alter_pipeline(
	name text, server text = NULL, stream text = NULL, target text = NULL, row_type text = NULL,
	transform text = NULL, columns jsonb = NULL, payload text = NULL, rest text = NULL,
	on_conflict text = NULL, key text = NULL, consumer_group text = NULL,
	start_from text = NULL, workers int = NULL, batch_size int = NULL,
	batch_bytes bigint = NULL, linger interval = NULL, on_error text = NULL,
	max_retries int = NULL, retry_backoff interval = NULL,
	retry_backoff_max interval = NULL, retry_growth text = NULL,
	max_dead_letter_rate real = NULL, dead_letter_stream text = NULL,
	dead_letter_retention interval = NULL, max_dead_letters bigint = NULL, trim_after interval = NULL,
	claim_idle interval = NULL, on_replaced_stream text = NULL, on_lost_group text = NULL,
	max_entry_bytes bigint = NULL, ledger_retention interval = NULL,
	allow_inexact bool = NULL, create_target bool = NULL, evolve bool = NULL,
	settings jsonb = NULL, connect bool = true,
	reset text[] = NULL, new_name text = NULL, new_owner text = NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_alter_pipeline' LANGUAGE C VOLATILE;

CREATE FUNCTION streamsink.drop_pipeline(name text, drop_group bool = false, if_exists bool = false) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_drop_pipeline' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.start(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_start' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.stop(name text, timeout interval = '2 s') RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_stop' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.restart(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_restart' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.stop_all() RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_stop_all' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.wait_until(name text, state text, timeout interval = '1 min') RETURNS bool
	AS 'MODULE_PATHNAME', 'streamsink_wait_until' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.wait_for(name text, timeout interval = '1 min') RETURNS bool
	AS 'MODULE_PATHNAME', 'streamsink_wait_for' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.adopt(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_adopt' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.seek(name text, to_position text, stream text = NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_seek' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.reconcile(name text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'streamsink_reconcile' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.pipeline_def(name text, new_name text = NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'streamsink_pipeline_def' LANGUAGE C STABLE;
CREATE FUNCTION streamsink.describe(name text,
	OUT "column" text, OUT type text, OUT source text, OUT required bool) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'streamsink_describe' LANGUAGE C VOLATILE;

CREATE TYPE streamsink.outcome AS (stream text, id streamsink.entry_id, "row" jsonb, outcome text, sqlstate text, error text);
COMMENT ON TYPE streamsink.outcome IS 'what became of an entry in apply or preview';
CREATE FUNCTION streamsink.apply(name text, entries jsonb, stream text = NULL) RETURNS SETOF streamsink.outcome
	AS 'MODULE_PATHNAME', 'streamsink_apply' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.preview(name text, n int = 10) RETURNS SETOF streamsink.outcome
	AS 'MODULE_PATHNAME', 'streamsink_preview' LANGUAGE C VOLATILE;
CREATE PROCEDURE streamsink.ingest(name text, max_batches int = NULL,
	INOUT batches bigint = 0, INOUT written bigint = 0, INOUT refused bigint = 0)
	AS 'MODULE_PATHNAME', 'streamsink_ingest' LANGUAGE C;

CREATE FUNCTION streamsink.xadd(server text, stream text, fields jsonb, id text = '*', maxlen bigint = NULL) RETURNS streamsink.entry_id
	AS 'MODULE_PATHNAME', 'streamsink_xadd' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.emit(stream text, fields jsonb, server text = NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_emit' LANGUAGE C VOLATILE;
CREATE FUNCTION streamsink.publish(channel text, message text, server text = NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_publish' LANGUAGE C VOLATILE;

-- ---------------------------------------------------------------------------
-- Looking into a definition
-- ---------------------------------------------------------------------------

CREATE FUNCTION streamsink.statement(name text) RETURNS text
	AS 'MODULE_PATHNAME', 'streamsink_statement' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.statement(text) IS 'the SQL that a pipeline runs over batch; NULL when it cannot be built, or the pipeline is not yours';

-- ---------------------------------------------------------------------------
-- Comments on definition and control
-- ---------------------------------------------------------------------------

COMMENT ON FUNCTION streamsink.create_pipeline(
	text, text, text, text, text, text, jsonb, text, text, text, text, text, text, int, int,
	bigint, interval, text, int, interval, interval, text, real, text, interval, bigint,
	interval, interval, text, text, bigint, interval, bool, bool, bool, jsonb, bool, bool)
	IS 'defines a pipeline from Redis streams into a table, stopped at first; with connect it is checked against Redis, which is only read';
COMMENT ON FUNCTION streamsink.alter_pipeline(
	text, text, text, text, text, text, jsonb, text, text, text, text, text, text, int, int,
	bigint, interval, text, int, interval, interval, text, real, text, interval, bigint,
	interval, interval, text, text, bigint, interval, bool, bool, bool, jsonb, bool,
	text[], text, text)
	IS 'changes what is given of a pipeline, resets what is named to its default, renames it or gives it to another owner';
COMMENT ON FUNCTION streamsink.drop_pipeline(text, bool, bool)
	IS 'removes a pipeline with its ledger and dead letters; after commit also its marker, or with drop_group its consumer group, in Redis';
COMMENT ON FUNCTION streamsink.start(text)
	IS 'starts a pipeline; its workers come at commit';
COMMENT ON FUNCTION streamsink.stop(text, interval)
	IS 'stops a pipeline; when it returns no batch is in flight; running ones are cancelled after the time-out, which loses nothing';
COMMENT ON FUNCTION streamsink.restart(text)
	IS 'makes the workers of a pipeline begin anew, and starts it if it was stopped';
COMMENT ON FUNCTION streamsink.stop_all()
	IS 'stops every running pipeline that you may control';
COMMENT ON FUNCTION streamsink.wait_until(text, text, interval)
	IS 'waits until a pipeline is in a state (stopped, starting, running, waiting, stopping, failed); false on time-out';
COMMENT ON FUNCTION streamsink.wait_for(text, interval)
	IS 'waits until everything that its streams hold at the call is settled and acknowledged; false on time-out';
COMMENT ON FUNCTION streamsink.adopt(text)
	IS 'takes over consumer groups that another database, system or pipeline marked as its own, after commit';
COMMENT ON FUNCTION streamsink.seek(text, text, text)
	IS 'moves a pipeline, or one stream of it, to a position: what lies behind it is applied (again), what lies before it is not; groups follow after commit';
COMMENT ON FUNCTION streamsink.reconcile(text)
	IS 'compares what is settled with the streams and their consumer groups, and makes what is missing be read again; returns how many entries';
COMMENT ON FUNCTION streamsink.pipeline_def(text, text)
	IS 'the call of create_pipeline that makes a pipeline again, under a new name if one is given';
COMMENT ON FUNCTION streamsink.describe(text)
	IS 'the columns of batch for a pipeline, and what each is filled from';
COMMENT ON FUNCTION streamsink.apply(text, jsonb, text)
	IS 'runs given entries through a pipeline in this transaction, without Redis';
COMMENT ON FUNCTION streamsink.preview(text, int)
	IS 'shows what would become of the next entries of a pipeline; nothing is consumed or kept';
COMMENT ON PROCEDURE streamsink.ingest(text, int, bigint, bigint, bigint)
	IS 'drains in this session what the streams of a stopped pipeline hold at the call, committing after each batch';
COMMENT ON FUNCTION streamsink.xadd(text, text, jsonb, text, bigint)
	IS 'adds an entry to a stream at once, whatever becomes of the transaction';
COMMENT ON FUNCTION streamsink.emit(text, jsonb, text)
	IS 'adds an entry to a stream after commit, through the outbox';
COMMENT ON FUNCTION streamsink.publish(text, text, text)
	IS 'publishes a message to a channel after commit, through the outbox';
-- ---------------------------------------------------------------------------
-- Refusing and ignoring, from a transform.  Costly, so that other conditions
-- beside them are looked at before.
-- ---------------------------------------------------------------------------

CREATE FUNCTION streamsink.refuse(seq int, message text, detail text = NULL, errcode text = 'P0001') RETURNS bool
	AS 'MODULE_PATHNAME', 'streamsink_refuse' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION streamsink.refuse(int, text, text, text)
	IS 'in a transform: makes the entry with this _seq a dead letter that leaves no trace in tables; returns false';
CREATE FUNCTION streamsink.ignore(seq int, reason text = NULL) RETURNS bool
	AS 'MODULE_PATHNAME', 'streamsink_ignore' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION streamsink.ignore(int, text)
	IS 'in a transform: counts the entry with this _seq as ignored, and hides it from the statements that follow; returns false';

-- ---------------------------------------------------------------------------
-- Dead letters
-- ---------------------------------------------------------------------------

CREATE FUNCTION streamsink.raw_fields(raw bytea[]) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'streamsink_raw_fields' LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION streamsink.raw_fields(bytea[]) IS
	'names and values as a JSON object, of doubled names the last; NULL where text cannot represent them';

CREATE FUNCTION streamsink.retry_dead_letters(name text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'streamsink_retry_dead_letters' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION streamsink.retry_dead_letters(text) IS
	'applies all dead letters of a pipeline again; returns how many succeeded';
CREATE FUNCTION streamsink.retry_dead_letters(name text, ids bigint[]) RETURNS bigint
	AS 'MODULE_PATHNAME', 'streamsink_retry_dead_letters' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION streamsink.retry_dead_letters(text, bigint[]) IS
	'applies these dead letters of a pipeline again; returns how many succeeded';

CREATE FUNCTION streamsink.requeue_dead_letters(name text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'streamsink_requeue_dead_letters' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION streamsink.requeue_dead_letters(text) IS
	'adds all dead letters of a pipeline to their streams again after commit, as new entries; returns their number';
CREATE FUNCTION streamsink.requeue_dead_letters(name text, ids bigint[]) RETURNS bigint
	AS 'MODULE_PATHNAME', 'streamsink_requeue_dead_letters' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION streamsink.requeue_dead_letters(text, bigint[]) IS
	'adds these dead letters of a pipeline to their streams again after commit, as new entries; returns their number';

CREATE FUNCTION streamsink.discard_dead_letters(name text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'streamsink_discard_dead_letters' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION streamsink.discard_dead_letters(text) IS
	'deletes all dead letters of a pipeline; returns their number';
CREATE FUNCTION streamsink.discard_dead_letters(name text, ids bigint[]) RETURNS bigint
	AS 'MODULE_PATHNAME', 'streamsink_discard_dead_letters' LANGUAGE C STRICT VOLATILE;
COMMENT ON FUNCTION streamsink.discard_dead_letters(text, bigint[]) IS
	'deletes these dead letters of a pipeline; returns their number';
CREATE FUNCTION streamsink.discard_dead_letters_before(name text, before timestamptz) RETURNS bigint
	AS 'MODULE_PATHNAME', 'streamsink_discard_dead_letters_before' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION streamsink.discard_dead_letters_before(text, timestamptz) IS
	'deletes the dead letters of a pipeline that failed last before a time; returns their number';

-- STABLE: as a condition on an id it is asked once, and the ids are found by an index.
CREATE FUNCTION streamsink.dead_letter_ids(name text, after bigint = 0, n int = 1000) RETURNS bigint[]
	AS 'MODULE_PATHNAME', 'streamsink_dead_letter_ids' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION streamsink.dead_letter_ids(text, bigint, int) IS
	'ids of the next dead letters of a pipeline behind one, in order: a page of them, however many there are';

-- Pipelines whose owner the current user is a member of: their dead letters hold
-- data, so pg_monitor does not see them.  An owner that was dropped leaves superusers.
CREATE VIEW streamsink.dead_letters WITH (security_barrier) AS
	SELECT d.id,
		p.name AS pipeline,
		d.stream,
		d.entry_id,
		d.entry_id::pg_catalog.timestamptz AS entry_time,
		CASE WHEN d.edited IS NULL THEN streamsink.raw_fields(d.raw) ELSE d.edited END AS fields,
		d.raw,
		d.edited IS NOT NULL AS edited,
		d.stage,
		d.sqlstate,
		d.error,
		d.detail,
		d.table_name,
		d.column_name,
		d.constraint_name,
		d.attempts,
		d.first_failed_at,
		d.failed_at,
		d.truncated
	FROM streamsink.dead_letter d
		JOIN streamsink.pipeline p ON p.id OPERATOR(pg_catalog.=) d.pipeline
		LEFT JOIN pg_catalog.pg_roles o ON o.rolname OPERATOR(pg_catalog.=) p.owner
	WHERE CASE
			WHEN o.oid IS NOT NULL THEN pg_catalog.pg_has_role(o.oid, 'MEMBER')
			ELSE (SELECT u.rolsuper FROM pg_catalog.pg_roles u WHERE u.rolname OPERATOR(pg_catalog.=) CURRENT_USER)
		END;
COMMENT ON VIEW streamsink.dead_letters IS
	'refused entries with the reason; takes DELETE, and UPDATE of fields only';

CREATE FUNCTION streamsink.dead_letters_delete() RETURNS trigger
	AS 'MODULE_PATHNAME', 'streamsink_dead_letters_delete' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION streamsink.dead_letters_delete() IS 'DELETE on the view dead_letters';
CREATE TRIGGER dead_letters_delete INSTEAD OF DELETE ON streamsink.dead_letters
	FOR EACH ROW EXECUTE FUNCTION streamsink.dead_letters_delete();
COMMENT ON TRIGGER dead_letters_delete ON streamsink.dead_letters IS 'deletes a dead letter with its history';

CREATE FUNCTION streamsink.dead_letters_update() RETURNS trigger
	AS 'MODULE_PATHNAME', 'streamsink_dead_letters_update' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION streamsink.dead_letters_update() IS 'UPDATE on the view dead_letters';
CREATE TRIGGER dead_letters_update INSTEAD OF UPDATE ON streamsink.dead_letters
	FOR EACH ROW EXECUTE FUNCTION streamsink.dead_letters_update();
COMMENT ON TRIGGER dead_letters_update ON streamsink.dead_letters IS 'sets the fields that a retry uses';

CREATE VIEW streamsink.dead_letter_attempts WITH (security_barrier) AS
	SELECT d.id AS dead_letter,
		p.name AS pipeline,
		a.attempt,
		a.failed_at,
		a.stage,
		a.sqlstate,
		a.error
	FROM streamsink.dead_letter_attempt a
		JOIN streamsink.dead_letter d ON d.id OPERATOR(pg_catalog.=) a.dead_letter
		JOIN streamsink.pipeline p ON p.id OPERATOR(pg_catalog.=) d.pipeline
		LEFT JOIN pg_catalog.pg_roles o ON o.rolname OPERATOR(pg_catalog.=) p.owner
	WHERE CASE
			WHEN o.oid IS NOT NULL THEN pg_catalog.pg_has_role(o.oid, 'MEMBER')
			ELSE (SELECT u.rolsuper FROM pg_catalog.pg_roles u WHERE u.rolname OPERATOR(pg_catalog.=) CURRENT_USER)
		END;
COMMENT ON VIEW streamsink.dead_letter_attempts IS 'every try of each dead letter that failed';

CREATE VIEW streamsink.dead_letter_summary WITH (security_barrier) AS
	SELECT s.pipeline,
		s.stage,
		s.sqlstate,
		s.column_name,
		s.constraint_name,
		s.count,
		s.first_failed_at,
		s.failed_at,
		d.error AS sample_error,
		s.sample_id
	FROM (SELECT l.pipeline,
			l.stage,
			l.sqlstate,
			l.column_name,
			l.constraint_name,
			pg_catalog.count(*) AS count,
			pg_catalog.min(l.first_failed_at) AS first_failed_at,
			pg_catalog.max(l.failed_at) AS failed_at,
			pg_catalog.max(l.id) AS sample_id
		FROM streamsink.dead_letters l
		GROUP BY l.pipeline, l.stage, l.sqlstate, l.column_name, l.constraint_name) s
		JOIN streamsink.dead_letter d ON d.id OPERATOR(pg_catalog.=) s.sample_id;
COMMENT ON VIEW streamsink.dead_letter_summary IS 'dead letters by pipeline and reason, with the newest one as a sample';

-- ---------------------------------------------------------------------------
-- Status.  Intent is in the tables, fact in shared memory: each view is the
-- tables with functions over shared memory beside them, so that what does not
-- run still shows.  Nothing here calls Redis.
-- ---------------------------------------------------------------------------

CREATE FUNCTION streamsink.pipeline_status(id int4,
	OUT enabled bool, OUT state text, OUT reason text, OUT hint text,
	OUT state_since timestamptz, OUT next_retry_at timestamptz, OUT workers_wanted int4, OUT workers int4,
	OUT "read" int8, OUT written int8, OUT "rows" int8, OUT refused int8, OUT ignored int8,
	OUT repeated int8, OUT superseded int8, OUT vanished int8, OUT batches int8, OUT errors int8,
	OUT read_rate float8, OUT written_rate float8, OUT latency_p50 interval, OUT latency_p99 interval,
	OUT last_batch_at timestamptz, OUT last_error text, OUT last_sqlstate text,
	OUT last_error_at timestamptz, OUT stats_reset timestamptz, OUT error_rate float8, OUT redis bool, OUT retried int8) RETURNS record
	AS 'MODULE_PATHNAME', 'streamsink_pipeline_status' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.pipeline_status(int4) IS 'state and counters of a pipeline by its number; see the view status';

CREATE FUNCTION streamsink.worker_slots(
	OUT pipeline int4, OUT slot int4, OUT pid int4, OUT consumer text, OUT state text, OUT streams int4,
	OUT batch_entries int8, OUT batch_bytes int8, OUT batch_started_at timestamptz,
	OUT "read" int8, OUT written int8, OUT wait_redis interval, OUT map interval,
	OUT "write" interval, OUT "commit" interval, OUT memory_bytes int8,
	OUT backend_start timestamptz, OUT last_error text, OUT share int4) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'streamsink_worker_slots' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.worker_slots() IS 'processes that read for pipelines of this database; see the view workers';

CREATE FUNCTION streamsink.stream_samples(pipeline int4,
	OUT stream int4, OUT worker_pid int4, OUT state text, OUT reason text, OUT length int8,
	OUT first_id streamsink.entry_id, OUT last_id streamsink.entry_id, OUT last_delivered_id streamsink.entry_id,
	OUT lag int8, OUT lag_time interval, OUT pending int8, OUT foreign_pending int8, OUT oldest_pending interval,
	OUT last_entry_at timestamptz, OUT sampled_at timestamptz) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'streamsink_stream_samples' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.stream_samples(int4) IS 'what workers last saw of the streams of a pipeline; see the view streams';

CREATE FUNCTION streamsink.settled_ids(pipeline int4,
	OUT stream int4, OUT settled streamsink.entry_id_multirange) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'streamsink_settled_ids' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.settled_ids(int4) IS 'settled entry ids of the streams of a pipeline; see the view streams';

CREATE FUNCTION streamsink.reset_stats(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'streamsink_reset_stats' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.reset_stats(text) IS 'sets the counters of a pipeline to zero';

CREATE FUNCTION streamsink.health(name text = NULL, max_error_rate real = 0.05, max_lag interval = '1 min') RETURNS jsonb
	AS 'MODULE_PATHNAME', 'streamsink_health' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION streamsink.health(text, real, interval) IS 'whether a pipeline, or all that you may see, do their work: status ok, degraded or down, with counters and checks; NULL for a limit: none';

CREATE VIEW streamsink.pipelines WITH (security_barrier) AS
	SELECT p.name, p.owner, p.server, p.stream, p.target,
		(streamsink.pipeline_status(p.id)).enabled AS enabled,
		CASE WHEN pg_catalog.pg_has_role(r.oid, 'MEMBER') THEN streamsink.statement(p.name) END AS statement,
		p.row_type, p.transform, p.columns, p.payload, p.rest, p.on_conflict, p.key,
		p.consumer_group, p.start_from, p.workers, p.batch_size, p.batch_bytes, p.linger,
		p.on_error, p.max_retries, p.retry_backoff, p.retry_backoff_max, p.retry_growth,
		p.max_dead_letter_rate, p.dead_letter_stream, p.dead_letter_retention, p.max_dead_letters, p.trim_after,
		p.claim_idle, p.on_replaced_stream, p.on_lost_group, p.max_entry_bytes,
		p.ledger_retention, p.allow_inexact, p.create_target, p.evolve,
		p.settings, p.created_at, p.altered_at, p.id
	FROM streamsink.pipeline p
		LEFT JOIN pg_catalog.pg_roles r ON r.rolname = p.owner
	WHERE pg_catalog.pg_has_role('pg_monitor', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'MEMBER');
COMMENT ON VIEW streamsink.pipelines IS 'definitions of pipelines; statement is the SQL that runs, shown to members of the owner';

CREATE VIEW streamsink.status WITH (security_barrier) AS
	SELECT p.name AS pipeline, s.state, s.reason, s.hint, s.state_since, s.next_retry_at,
		s.workers_wanted, s.workers, t.streams, t.lag, t.lag_time, t.pending, t.foreign_pending, t.oldest_pending,
		s."read", s.written, s."rows", s.refused, s.ignored, s.repeated, s.superseded, s.vanished,
		s.batches, s.errors, s.read_rate, s.written_rate, s.latency_p50, s.latency_p99,
		(SELECT pg_catalog.count(*) FROM streamsink.dead_letter d WHERE d.pipeline = p.id) AS dead_letters,
		t.dead_letter_stream_length,
		s.last_batch_at, s.last_error, s.last_sqlstate, s.last_error_at, t.sampled_at, s.stats_reset,
		(SELECT coalesce(pg_catalog.sum(m.missed), 0)::int8 FROM streamsink.stream m WHERE m.pipeline = p.id) AS missed,
		s.error_rate, s.redis, t.stream_length, s.retried
	FROM streamsink.pipeline p
		LEFT JOIN pg_catalog.pg_roles r ON r.rolname = p.owner
		CROSS JOIN LATERAL streamsink.pipeline_status(p.id) s
		CROSS JOIN LATERAL (
			SELECT pg_catalog.count(*) FILTER (WHERE x.stream <> 0) AS streams,
				pg_catalog.sum(x.lag) FILTER (WHERE x.stream <> 0)::int8 AS lag,
				pg_catalog.max(x.lag_time) FILTER (WHERE x.stream <> 0) AS lag_time,
				pg_catalog.sum(x.pending) FILTER (WHERE x.stream <> 0)::int8 AS pending,
				pg_catalog.sum(x.foreign_pending) FILTER (WHERE x.stream <> 0)::int8 AS foreign_pending,
				pg_catalog.max(x.oldest_pending) FILTER (WHERE x.stream <> 0) AS oldest_pending,
				pg_catalog.max(x.length) FILTER (WHERE x.stream = 0) AS dead_letter_stream_length,
				pg_catalog.sum(x.length) FILTER (WHERE x.stream <> 0)::int8 AS stream_length,
				pg_catalog.max(x.sampled_at) AS sampled_at
			FROM streamsink.stream_samples(p.id) x) t
	WHERE pg_catalog.pg_has_role('pg_monitor', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'MEMBER');
COMMENT ON VIEW streamsink.status IS 'state and statistics of each pipeline; lag and pending are sums over the streams whose numbers are known';

CREATE VIEW streamsink.workers WITH (security_barrier) AS
	SELECT p.name AS pipeline, w.slot, w.pid, w.consumer, w.state, w.streams, w.batch_entries, w.batch_bytes,
		w.batch_started_at, w."read", w.written, w.wait_redis, w.map, w."write", w."commit",
		w.memory_bytes, w.backend_start, w.last_error, w.share
	FROM streamsink.pipeline p
		LEFT JOIN pg_catalog.pg_roles r ON r.rolname = p.owner
		JOIN streamsink.worker_slots() w ON w.pipeline = p.id
	WHERE pg_catalog.pg_has_role('pg_monitor', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'MEMBER');
COMMENT ON VIEW streamsink.workers IS 'processes that read for pipelines: background workers, and sessions (share NULL) in ingest or a retry';

CREATE VIEW streamsink.streams WITH (security_barrier) AS
	SELECT p.name AS pipeline, t.name AS stream, t.worker_pid, t.state, t.reason, t.length,
		t.first_id, t.last_id, t.last_delivered_id, t.settled, t.lag, t.lag_time,
		t.pending, t.foreign_pending, t.oldest_pending, t.last_entry_at, t.sampled_at, t.incarnation,
		t.unseen, t.foreign_gaps, t.missed, t.trimmed
	FROM streamsink.pipeline p
		LEFT JOIN pg_catalog.pg_roles r ON r.rolname = p.owner
		CROSS JOIN LATERAL (	-- the functions run once for each pipeline
			SELECT s.name, s.incarnation, s.unseen, s.foreign_gaps, s.missed, s.trimmed, x.worker_pid, x.state, x.reason, x.length,
				x.first_id, x.last_id, x.last_delivered_id, l.settled, x.lag, x.lag_time,
				x.pending, x.foreign_pending, x.oldest_pending, x.last_entry_at, x.sampled_at
			FROM streamsink.stream s
				LEFT JOIN streamsink.stream_samples(p.id) x ON x.stream = s.id
				LEFT JOIN streamsink.settled_ids(p.id) l ON l.stream = s.id
			WHERE s.pipeline = p.id
				AND s.incarnation = (SELECT pg_catalog.max(n.incarnation) FROM streamsink.stream n
					WHERE n.pipeline = s.pipeline AND n.name = s.name)) t
	WHERE pg_catalog.pg_has_role('pg_monitor', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'MEMBER');
COMMENT ON VIEW streamsink.streams IS 'streams of each pipeline, with what workers last saw of them and the ids that are settled';

CREATE VIEW streamsink.outbox WITH (security_barrier) AS
	SELECT q.id, q.server, q.kind, q.name, q.pipeline, q.created_at, q.attempts, q.last_error,
		CASE WHEN q.queue <> 0 THEN
			(SELECT nullif(pg_catalog.min(h.id), q.id) FROM streamsink.outbox_queue h WHERE h.queue = q.queue)
		END AS behind,
		q.retry_at, q.role
	FROM streamsink.outbox_queue q
		LEFT JOIN pg_catalog.pg_roles r ON r.rolname = q.role
	WHERE CASE
			WHEN r.oid IS NOT NULL THEN pg_catalog.pg_has_role(r.oid, 'MEMBER')
			ELSE (SELECT u.rolsuper FROM pg_catalog.pg_roles u WHERE u.rolname = CURRENT_USER)
		END;
COMMENT ON VIEW streamsink.outbox IS 'commands for Redis that are not carried out yet; takes DELETE, which discards them; behind is the one that others wait for';

CREATE FUNCTION streamsink.outbox_delete() RETURNS trigger
	AS 'MODULE_PATHNAME', 'streamsink_outbox_delete' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION streamsink.outbox_delete() IS 'DELETE on the view outbox';
CREATE TRIGGER outbox_delete INSTEAD OF DELETE ON streamsink.outbox
	FOR EACH ROW EXECUTE FUNCTION streamsink.outbox_delete();
COMMENT ON TRIGGER outbox_delete ON streamsink.outbox IS 'discards a command';

-- The numbers of status and outbox in the long form that monitoring wants; the
-- names follow Prometheus.  What is unknown has no row.
CREATE VIEW streamsink.metrics WITH (security_barrier) AS
	SELECT v.metric, v.type, v.help,
		pg_catalog.jsonb_build_object('pipeline', s.pipeline) || v.labels AS labels,
		v.value::float8 AS value
	FROM streamsink.status s
		CROSS JOIN LATERAL (VALUES
			('streamsink_up', 'gauge', '1 if the pipeline is running', '{}'::jsonb, (s.state = 'running')::int4::float8),
			('streamsink_pipeline_in_state', 'gauge', '1 for the state that the pipeline is in', '{"state": "stopped"}', (s.state = 'stopped')::int4),
			('streamsink_pipeline_in_state', 'gauge', '1 for the state that the pipeline is in', '{"state": "starting"}', (s.state = 'starting')::int4),
			('streamsink_pipeline_in_state', 'gauge', '1 for the state that the pipeline is in', '{"state": "running"}', (s.state = 'running')::int4),
			('streamsink_pipeline_in_state', 'gauge', '1 for the state that the pipeline is in', '{"state": "waiting"}', (s.state = 'waiting')::int4),
			('streamsink_pipeline_in_state', 'gauge', '1 for the state that the pipeline is in', '{"state": "stopping"}', (s.state = 'stopping')::int4),
			('streamsink_pipeline_in_state', 'gauge', '1 for the state that the pipeline is in', '{"state": "failed"}', (s.state = 'failed')::int4),
			('streamsink_workers', 'gauge', 'worker processes', '{}', s.workers),
			('streamsink_workers_wanted', 'gauge', 'worker processes that there should be', '{}', s.workers_wanted),
			('streamsink_streams', 'gauge', 'streams that workers look at', '{}', s.streams),
			('streamsink_entries_read_total', 'counter', 'entries taken from Redis', '{}', s."read"),
			('streamsink_entries_written_total', 'counter', 'entries that became rows', '{}', s.written),
			('streamsink_entries_refused_total', 'counter', 'entries that were refused', '{}', s.refused),
			('streamsink_entries_ignored_total', 'counter', 'entries that were left out on purpose', '{}', s.ignored),
			('streamsink_entries_repeated_total', 'counter', 'entries that came again and were settled already', '{}', s.repeated),
			('streamsink_entries_superseded_total', 'counter', 'entries that a later one with the same key replaced in their batch', '{}', s.superseded),
			('streamsink_entries_vanished_total', 'counter', 'entries deleted in Redis after they were delivered', '{}', s.vanished),
			('streamsink_entries_missed_total', 'counter', 'entries removed in Redis before they were delivered, at least', '{}', s.missed),
			('streamsink_rows_total', 'counter', 'rows that the statements wrote', '{}', s."rows"),
			('streamsink_batches_total', 'counter', 'batches committed', '{}', s.batches),
			('streamsink_errors_total', 'counter', 'tries of workers that failed', '{}', s.errors),
			('streamsink_dead_letters_retried_total', 'counter', 'dead letters that a retry applied', '{}', s.retried),
			('streamsink_dead_letters', 'gauge', 'dead letters that are left', '{}', s.dead_letters),
			('streamsink_dead_letter_stream_length', 'gauge', 'entries in dead_letter_stream', '{}', s.dead_letter_stream_length),
			('streamsink_stream_length', 'gauge', 'entries in the streams', '{}', s.stream_length),
			('streamsink_lag_entries', 'gauge', 'entries not delivered yet', '{}', s.lag),
			('streamsink_lag_seconds', 'gauge', 'how long the oldest of them has been waiting', '{}', pg_catalog.date_part('epoch', s.lag_time)),
			('streamsink_pending', 'gauge', 'entries delivered and not acknowledged', '{}', s.pending),
			('streamsink_foreign_pending', 'gauge', 'the same, of other consumers', '{}', s.foreign_pending),
			('streamsink_oldest_pending_seconds', 'gauge', 'age of the oldest entry that is not acknowledged', '{}', pg_catalog.date_part('epoch', s.oldest_pending)),
			('streamsink_error_ratio', 'gauge', 'share of entries refused over the last minute, or the last few', '{}', s.error_rate),
			('streamsink_latency_seconds', 'gauge', 'from entry id to commit, since statistics were reset', '{"quantile": "0.5"}', pg_catalog.date_part('epoch', s.latency_p50)),
			('streamsink_latency_seconds', 'gauge', 'from entry id to commit, since statistics were reset', '{"quantile": "0.99"}', pg_catalog.date_part('epoch', s.latency_p99)),
			('streamsink_last_batch_timestamp_seconds', 'gauge', 'when the last batch was committed', '{}', pg_catalog.date_part('epoch', s.last_batch_at)),
			('streamsink_last_error_timestamp_seconds', 'gauge', 'when a try failed last', '{}', pg_catalog.date_part('epoch', s.last_error_at)),
			('streamsink_sampled_timestamp_seconds', 'gauge', 'when a worker looked at the streams last', '{}', pg_catalog.date_part('epoch', s.sampled_at))
		) AS v (metric, type, help, labels, value)
	WHERE v.value IS NOT NULL
	UNION ALL
	SELECT v.metric, 'gauge', v.help,
		pg_catalog.jsonb_build_object('redis', q.server, 'pipeline', q.pipeline), v.value
	FROM (SELECT o.server, coalesce(o.pipeline, '') AS pipeline, pg_catalog.count(*)::float8 AS n,
			pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - pg_catalog.min(o.created_at)) AS age
		FROM streamsink.outbox_queue o
			LEFT JOIN pg_catalog.pg_roles r ON r.rolname = o.role
		WHERE pg_catalog.pg_has_role('pg_monitor', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'MEMBER')
		GROUP BY o.server, coalesce(o.pipeline, '')) q
		CROSS JOIN LATERAL (VALUES
			('streamsink_outbox_rows', 'commands for Redis that wait to be carried out', q.n),
			('streamsink_outbox_oldest_seconds', 'age of the oldest of them', q.age)
		) AS v (metric, help, value);
COMMENT ON VIEW streamsink.metrics IS 'counters and gauges of each pipeline, named as Prometheus wants them; what is unknown has no row';
-- ---------------------------------------------------------------------------
-- Grants.  Nothing is for PUBLIC: functions and types are by default, and what
-- these can do (name servers, read counters) is for whom the DBA chooses.
-- ---------------------------------------------------------------------------

CREATE FUNCTION streamsink.grant_access(role name) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	ext oid := (SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname = 'streamsink');
	item record;
BEGIN
	EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA streamsink TO %I', role);
	FOR item IN
		SELECT p.oid::pg_catalog.regprocedure AS name
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc p ON p.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND p.proname <> 'grant_access'
	LOOP
		EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %I', item.name, role);
	END LOOP;
	FOR item IN
		SELECT t.oid::pg_catalog.regtype AS name
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_type t ON t.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND t.typtype IN ('b', 'c', 'd', 'e', 'r') AND t.typcategory <> 'A'
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
	LOOP
		EXECUTE pg_catalog.format('GRANT USAGE ON TYPE %s TO %I', item.name, role);
	END LOOP;
	FOR item IN
		SELECT c.oid::pg_catalog.regclass AS name, c.relname
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND c.relkind = 'v'
	LOOP
		EXECUTE pg_catalog.format('GRANT SELECT ON %s TO %I', item.name, role);
		IF item.relname = 'dead_letters' THEN
			EXECUTE pg_catalog.format('GRANT DELETE, UPDATE (fields) ON %s TO %I', item.name, role);
		ELSIF item.relname = 'outbox' THEN
			EXECUTE pg_catalog.format('GRANT DELETE ON %s TO %I', item.name, role);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION streamsink.grant_access(name) IS 'lets a role define and watch pipelines: schema, functions, types and views, but no table; run it again after an update';

DO $$
DECLARE
	ext oid := (SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname = 'streamsink');
	item record;
BEGIN
	FOR item IN
		SELECT 'ROUTINE' AS kind, p.oid::pg_catalog.regprocedure::pg_catalog.text AS name
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc p ON p.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
		UNION ALL
		SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::pg_catalog.regclass::pg_catalog.text
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND c.relkind IN ('r', 'v', 'S')
		UNION ALL
		-- an array and a multirange follow their element and range
		SELECT 'TYPE', t.oid::pg_catalog.regtype::pg_catalog.text
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_type t ON t.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND t.typtype IN ('b', 'c', 'd', 'e', 'r') AND t.typcategory <> 'A'
		UNION
		-- before 17 row types of tables and views are no members; a column of such a type would block an update
		SELECT 'TYPE', c.reltype::pg_catalog.regtype::pg_catalog.text
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = ext
			AND c.relkind IN ('r', 'v')
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC', item.kind, item.name);
	END LOOP;
END
$$;

REVOKE ALL ON SCHEMA streamsink FROM PUBLIC;

-- Monitoring sees states and numbers of all pipelines, and none of their data.
GRANT USAGE ON SCHEMA streamsink TO pg_monitor;
GRANT SELECT ON streamsink.pipelines, streamsink.status, streamsink.workers, streamsink.streams, streamsink.metrics TO pg_monitor;
GRANT EXECUTE ON FUNCTION streamsink.pipeline_status(int4), streamsink.worker_slots(),
	streamsink.stream_samples(int4), streamsink.settled_ids(int4), streamsink.statement(text),
	streamsink.health(text, real, interval) TO pg_monitor;
