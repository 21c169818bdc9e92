-- ---------------------------------------------------------------------------
-- Comments on definition and control
-- ---------------------------------------------------------------------------

COMMENT ON FUNCTION streamsink.create_pipeline(
	text, text, text, text, text, text, jsonb, text, text, text, text, text, text, int, int,
	bigint, interval, text, int, interval, interval, text, real, text, interval, interval,
	interval, text, text, bigint, interval, bool, bool, bool, jsonb, bool, bool)
	IS 'defines a pipeline from Redis streams into a table, stopped at first; with connect it is checked against Redis, which is only read';
COMMENT ON FUNCTION streamsink.alter_pipeline(
	text, text, text, text, text, text, jsonb, text, text, text, text, text, text, int, int,
	bigint, interval, text, int, interval, interval, text, real, text, interval, interval,
	interval, text, text, bigint, interval, bool, bool, bool, jsonb, bool,
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
