-- After errors: how long a worker waits, and the arguments that say how often it
-- tries and when it gives up.

SET client_min_messages = warning;
CREATE SERVER trouble_server FOREIGN DATA WRAPPER streamsink OPTIONS (host 'localhost');
CREATE TABLE trouble_target (n int);

-- ---------------------------------------------------------------------------
-- Waits: milliseconds after the n-th failure in a row, without jitter
-- ---------------------------------------------------------------------------
CREATE FUNCTION trouble_backoff(first bigint, longest bigint, growth int, setup bool, failures int) RETURNS bigint
	AS '$libdir/streamsink', 'streamsink_test_backoff' LANGUAGE C STRICT;
CREATE FUNCTION trouble_waits(first bigint, longest bigint, growth int, setup bool) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(trouble_backoff(first, longest, growth, setup, n)::text, ' ' ORDER BY n)
	FROM unnest('{1,2,3,4,5,6,7,8,9,20,21,22,63,64,65,1000,2147483647}'::int[]) AS n
$$;
SELECT kind, trouble_waits(500, 60000, growth, false) AS waits FROM unnest('{exponential,linear,constant}'::text[], '{0,1,2}'::int[]) AS k (kind, growth);
-- as long as a day, which is the most
SELECT kind, trouble_waits(86400000, 86400000, growth, false) AS waits FROM unnest('{exponential,linear,constant}'::text[], '{0,1,2}'::int[]) AS k (kind, growth);
-- nothing asked for: not a busy loop
SELECT kind, trouble_waits(0, 0, growth, false) AS waits FROM unnest('{exponential,linear,constant}'::text[], '{0,1,2}'::int[]) AS k (kind, growth);
-- what somebody has to mend: grows, whatever was asked for, up to streamsink.setup_retry
SHOW streamsink.setup_retry;
SELECT kind, trouble_waits(500, 600000, growth, true) AS waits FROM unnest('{exponential,linear,constant}'::text[], '{0,1,2}'::int[]) AS k (kind, growth);

-- ---------------------------------------------------------------------------
-- Arguments
-- ---------------------------------------------------------------------------
CREATE FUNCTION trouble_define(arguments text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE format('SELECT streamsink.create_pipeline(%L, %L, %L, %L, connect => false, %s)', 'trouble', 'trouble_server', 's', 'trouble_target', arguments);
	RETURN QUERY SELECT concat_ws(', ', 'retries ' || max_retries, 'rate ' || max_dead_letter_rate, retry_backoff, retry_backoff_max)
		FROM streamsink.pipelines WHERE name = 'trouble';
	PERFORM streamsink.drop_pipeline('trouble');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN NEXT sqlstate || ' ' || sqlerrm;
	RETURN NEXT '  detail: ' || detail;
	RETURN NEXT '  hint: ' || hint;
END $$;
SELECT arguments, result FROM unnest(ARRAY[
	'max_retries => 0', 'max_retries => 2147483647', 'max_retries => -1', 'max_retries => NULL',
	'max_dead_letter_rate => 0', 'max_dead_letter_rate => 0.001', 'max_dead_letter_rate => 1', 'max_dead_letter_rate => 1.01',
	'max_dead_letter_rate => -0.5', $$max_dead_letter_rate => 'NaN'$$, $$max_dead_letter_rate => 'Infinity'$$, 'max_dead_letter_rate => NULL',
	$$retry_backoff => '1 min'$$, $$retry_backoff => '61 s'$$, $$retry_backoff_max => '499 ms'$$, $$retry_backoff => '0', retry_backoff_max => '0'$$,
	$$retry_backoff => '2 h', retry_backoff_max => '1 day'$$]) AS arguments, LATERAL trouble_define(arguments) AS result;
-- a change of one of the two waits is held against the other
SELECT streamsink.create_pipeline('trouble', 'trouble_server', 's', 'trouble_target', connect => false, max_retries => 3, max_dead_letter_rate => 0.25);
SELECT streamsink.alter_pipeline('trouble', retry_backoff => '2 min');
SELECT streamsink.alter_pipeline('trouble', retry_backoff => '2 min', retry_backoff_max => '2 min');
SELECT streamsink.alter_pipeline('trouble', reset => '{retry_backoff_max}');
SELECT streamsink.alter_pipeline('trouble', reset => '{retry_backoff, retry_backoff_max}');
SELECT * FROM streamsink.pipeline_def('trouble');
SELECT streamsink.alter_pipeline('trouble', reset => '{max_retries, max_dead_letter_rate}');
SELECT max_retries IS NULL AND max_dead_letter_rate IS NULL AS reset FROM streamsink.pipelines WHERE name = 'trouble';
SELECT streamsink.drop_pipeline('trouble');

DROP TABLE trouble_target;
DROP FUNCTION trouble_waits, trouble_backoff, trouble_define;
DROP SERVER trouble_server;
