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
	dead_letter_retention interval = NULL, trim_after interval = NULL,
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
	dead_letter_retention interval = NULL, trim_after interval = NULL,
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

