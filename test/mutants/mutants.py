"""Small wrong changes to the protocol.  Each must make one of its tests fail.

A change replaces a piece of one source file, which must stand there once; more
says what else is replaced with it.  The tests are TAP files of test/t, or
"regress:NAME ..." or "isolation:NAME ...".
"""


class Mutant:
    def __init__(self, name, file, old, new, *tests, more=()):
        self.name, self.tests = name, tests
        self.edits = [(file, old, new), *more]


MUTANTS = [
    # ---- the order of commit, flush and acknowledgement ----
    Mutant("acknowledge-before-commit", "ss_loop.c",
           "\tSetCurrentStatementStartTimestamp();\n\tStartTransactionCommand();\n\tarm_deadline();",
           "\tss_settle_acks_add(pump->acks, batch, 0);\n\tss_pump_acknowledge(pump, false);\n"
           "\tSetCurrentStatementStartTimestamp();\n\tStartTransactionCommand();\n\tarm_deadline();",
           "055_crash_points.pl"),
    Mutant("no-flush-gate", "ss_ack.c",
           "XLogRecPtr durable = GetFlushRecPtr(NULL);", "XLogRecPtr durable = PG_UINT64_MAX;",
           "055_crash_points.pl"),
    Mutant("dead-letter-outside-the-transaction", "ss_loop.c",
           '\tSS_FAULT("after-commit");\n',
           '\tSS_FAULT("after-commit");\n\tif (batch->nrefusals > 0)\n\t{\n\t\tStartTransactionCommand();\n'
           '\t\tss_deadletter_store(pipeline, batch);\n\t\tCommitTransactionCommand();\n\t\tMemoryContextSwitchTo(turn);\n\t}\n',
           "055_crash_points.pl",
           more=[("ss_loop.c", '#include "ss_error.h"\n', '#include "ss_deadletter.h"\n#include "ss_error.h"\n'),
                 ("ss_settle.c", "\t\t\tss_deadletter_store(pipeline, batch);\n", "\t\t\t(void) 0;\n")]),

    # ---- the ledger decides ----
    Mutant("no-ledger-check-on-new-entries", "ss_settle.c",
           "if (block->count > 0 && (shared ||", "if (block->count > 0 && !block->contiguous && (shared ||",
           "130_groups.pl"),
    Mutant("no-ledger-check-on-pending-entries", "ss_settle.c",
           "if (block->count > 0 && (shared ||", "if (block->count > 0 && block->contiguous && (shared ||",
           "055_crash_points.pl"),
    Mutant("shared-streams-trust-the-high-mark", "ss_loop.c",
           "bool\t\t   shared = pump->run->tmpl->single && pump->nshares > 1;", "bool\t\t   shared = false;",
           "055_crash_points.pl", "133_shared.pl"),
    Mutant("pending-entries-as-one-interval", "ss_stream.c",
           "ss_batch_begin_block(batch, stream, !pending);", "ss_batch_begin_block(batch, stream, true);",
           "133_shared.pl"),
    Mutant("high-marks-are-not-loaded", "ss_group.c",
           "streams[i]->high = highs[i];", "streams[i]->high = SS_ENTRYID_MIN;",
           "055_crash_points.pl"),
    Mutant("ledger-row-left-out", "ss_settle.c",
           "\tif (n > 0)\n\t\tss_ledger_append(", "\tif (n > 5)\n\t\tss_ledger_append(",
           "130_groups.pl"),
    Mutant("repeated-entries-twice-in-one-batch", "ss_settle.c",
           "\tdrop_doubled(batch);\n", "", "133_shared.pl"),
    Mutant("settled-ranges-are-not-published", "ss_loop.c",
           "\tif (shared)\n\t\tss_settle_publish(batch);\n", "", "133_shared.pl"),
    Mutant("merge-without-asking-redis", "ss_streamgap.c",
           "if (empty && holds_entries && ss_entryid_compare(info.first, gap->before) <= 0)", "if (empty || true)",
           "045_ledger_join.pl"),
    Mutant("fold-forgets", "ss_ledgerfold.c",
           "\tfold_intervals(pipeline_id, &read.set);\n", "\tif (read.set.n > 1)\n\t\tfold_intervals(pipeline_id, &read.set);\n",
           "regress:install ledger"),

    # ---- pending entries ----
    Mutant("own-pending-forgotten-on-reconnect", "ss_discover.c",
           "due[i]->recovered = false;", "due[i]->recovered = true;",
           "055_crash_points.pl",
           more=[("ss_pump.c", "pump->streams[i]->recovered = false;", "pump->streams[i]->recovered = true;")]),
    Mutant("dead-consumers-are-left-alone", "ss_pump.c",
           "bool more = !pump->session && pump->run->tmpl->single && ss_takeover_step(pump);", "bool more = false;",
           "030_pipeline.pl", "133_shared.pl"),

    # ---- the fence ----
    Mutant("no-generation-check-in-the-batch", "ss_settle.c",
           "\tif (!ss_catalog_is_current(pipeline))\n\t\treturn SS_SETTLE_CHANGED;\n", "",
           "133_shared.pl", "056_control_storm.pl"),

    # ---- groups, markers, what was set back ----
    Mutant("lost-group-behind-the-last-settled", "ss_group.c",
           "policy == SS_LOST_RESUME ? stream->high : end_of_first_run(pump, stream)", "stream->high",
           "130_groups.pl"),
    Mutant("passed-entries-are-not-looked-for", "ss_reconcile.c",
           "claimed += claim_gap(pump, stream, &gaps[i]);", "claimed += 0;",
           "130_groups.pl"),
    Mutant("no-look-between-settled-entries", "ss_group.c",
           "if (!finding->all_gaps && ss_entryid_compare(stream->high, after) > 0)", "if (ss_entryid_compare(stream->high, after) > 0)",
           "130_groups.pl"),
    Mutant("newest-entry-not-verified", "ss_verify.c",
           "hash == 0 || found == 0 || hash == found ? SS_VERIFY_INTACT", "true ? SS_VERIFY_INTACT",
           "131_redis_loss.pl"),
    Mutant("lost-ids-stay-settled", "ss_verify.c",
           "\tss_ledger_replace(pipeline->id, stream->id, intervals, kept);\n", "",
           "131_redis_loss.pl"),
    Mutant("doubtful-entries-are-swallowed", "ss_verify.c",
           "\t\tss_deadletter_store(pump->run->pipeline, doubtful);\n", "",
           "131_redis_loss.pl"),
    Mutant("everything-lost-is-reread", "ss_verify.c",
           "\t\tif (reused)\n\t\t{", "\t\ttrace->keep = trace->verified;\n\t\tif (reused)\n\t\t{",
           "131_redis_loss.pl"),
    Mutant("foreign-markers-are-overlooked", "ss_findings.c",
           "if (kind > census->marker)", "if (kind > census->marker && kind != SS_MARKER_FOREIGN)",
           "130_groups.pl"),
    Mutant("copies-do-not-wait", "ss_findings.c",
           "if (census->silence_ms < ss_guc_failover_delay)", "if (false)",
           "132_set_back.pl"),
    Mutant("replaced-streams-go-unnoticed", "ss_findings.c",
           "finding->unusual = finding->replaced = true;", "finding->unusual = true;",
           "030_pipeline.pl"),
    Mutant("markers-are-not-watched", "ss_group.c",
           "if (ss_findings_is_touched(pump->run->pipeline, consumers, nconsumers))", "if (false)",
           "130_groups.pl"),
    Mutant("moved-groups-are-not-noticed", "ss_group.c",
           "ss_entryid_compare(group->last_delivered, stream->delivered) > 0)", "false)",
           "130_groups.pl"),

    # ---- after the commit ----
    Mutant("outbox-row-deleted-before-it-is-sent", "ss_courier.c",
           "\terror = try_row(courier, channel, row);\n", "\tdelete_row(courier, row);\n\terror = try_row(courier, channel, row);\n",
           "133_shared.pl", "055_crash_points.pl"),

    # ---- after errors ----
    Mutant("tried-for-ever-in-spite-of-max-retries", "ss_trouble.c",
           "batch->final = pipeline->max_retries >= 0 &&", "batch->final = false &&",
           "140_errors.pl"),
    Mutant("entries-are-blamed-for-deadlocks", "ss_error.c",
           "== SS_ERROR_RETRY && !ss_error_is_collision(sqlstate) &&", "== SS_ERROR_RETRY &&",
           "140_errors.pl",
           more=[("ss_trouble.c", "\tif (ss_error_is_collision(sqlstate))\n", "\tif (false)\n")]),
    Mutant("batches-that-deadlock-stay-as-large", "ss_trouble.c",
           "if (++trouble->collisions >= MAX_COLLISIONS)", "if (false)",
           "140_errors.pl"),
    Mutant("what-waits-counts-as-being-tried", "ss_worker.c",
           "\t\t\tss_attempt_withdraw();\n", "",
           "141_crash_loop.pl"),
    Mutant("too-much-is-tried-again-as-it-is", "ss_trouble.c",
           "if (deadline || sqlstate == ERRCODE_OUT_OF_MEMORY)", "if (false)",
           "140_errors.pl"),
    Mutant("any-share-of-refused-entries-is-fine", "ss_breaker.c",
           "trial.refused > rate * trial.seen)", "trial.refused > rate * trial.seen + WINDOW_ENTRIES)",
           "140_errors.pl"),
    Mutant("what-trips-the-breaker-is-settled", "ss_settle.c",
           "\tif (ss_breaker_trips(pipeline, batch))\n\t\treturn SS_SETTLE_TRIPPED;\n", "",
           "140_errors.pl",
           more=[("ss_settle.c", '\tSS_FAULT("before-commit");\n\treturn SS_SETTLE_DONE;',
                  '\tif (ss_breaker_trips(pipeline, batch))\n\t{\n\t\tCommitTransactionCommand();\n\t\tStartTransactionCommand();\n'
                  '\t\treturn SS_SETTLE_TRIPPED;\n\t}\n\treturn SS_SETTLE_DONE;')]),
    Mutant("crashing-entries-are-tried-for-ever", "ss_settle.c",
           "\tif (batch->crashes >= SS_ATTEMPT_CRASHES)\n\t\tss_attempt_refuse(batch);\n", "",
           "141_crash_loop.pl"),
    Mutant("pending-entries-stay-together-after-a-crash", "ss_pump.c",
           "if (pump->attempts && ss_attempt_alone(pump->attempts))\n\t\treturn 1;\n", "",
           "141_crash_loop.pl"),
    Mutant("restarts-count-as-crashes", "ss_attempt.c",
           "return pgstat_fetch_stat_archiver()->stat_reset_timestamp >= time;", "return true;",
           "141_crash_loop.pl"),
    Mutant("terminated-workers-count-as-crashes", "ss_attempt.c",
           "if (birth != ss_shmem->made_at && crashed_since(started_at))", "if (crashed_since(0))",
           "141_crash_loop.pl"),
    Mutant("settled-entries-stay-noted", "ss_attempt.c",
           "if (marked || batch->crashes >= SS_ATTEMPT_CRASHES)", "if (false)",
           "140_errors.pl"),
]
