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
	intervals  bytea       NOT NULL
) USING heap;
COMMENT ON TABLE streamsink.ledger_log IS 'what single batches settled and is not folded into the ledger yet';
CREATE INDEX ledger_log_idx ON streamsink.ledger_log (pipeline, settled_at);
COMMENT ON INDEX streamsink.ledger_log_idx IS 'finds the log of a pipeline';
SELECT pg_catalog.pg_extension_config_dump('streamsink.ledger_log', '');

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
	CONSTRAINT outbox_queue_pkey PRIMARY KEY (id)
) USING heap;
COMMENT ON TABLE streamsink.outbox_queue IS 'commands for Redis, carried out after commit; rows of another system or database (a restored dump) are held';
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
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.dead_letter
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.dead_letter IS 'lets only superusers write by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.dead_letter_attempt
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.dead_letter_attempt IS 'lets only superusers write by SQL';
CREATE TRIGGER refuse_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON streamsink.outbox_queue
	FOR EACH STATEMENT EXECUTE FUNCTION streamsink.refuse_write();
COMMENT ON TRIGGER refuse_write ON streamsink.outbox_queue IS 'lets only superusers write by SQL';
