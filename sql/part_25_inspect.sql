-- ---------------------------------------------------------------------------
-- Looking into a definition
-- ---------------------------------------------------------------------------

CREATE FUNCTION streamsink.statement(name text) RETURNS text
	AS 'MODULE_PATHNAME', 'streamsink_statement' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION streamsink.statement(text) IS 'the SQL that a pipeline runs over batch; NULL when it cannot be built, or the pipeline is not yours';

