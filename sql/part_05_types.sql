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
