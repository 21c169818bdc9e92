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

