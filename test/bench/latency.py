"""Latency, from XADD to a row that another session sees, and memory over a long run."""
import json
import subprocess
import time

import cases
import shapes
from servers import anonymous_kb

LATENCY_TABLE = """CREATE TABLE sensor_readings (id bigserial PRIMARY KEY, timestamp timestamptz NOT NULL, device_id varchar(100) NOT NULL,
    sensor_type varchar(100) NOT NULL, value double precision NOT NULL, metadata jsonb, created_at timestamptz DEFAULT now(), sent bigint)"""
PAUSE = 0.0002   # seconds between two looks at the table; it counts as latency
STALL_US = 5000  # a pause that took longer: the machine did not run what wanted to run


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def watch(bench, producer, entries):
    """(seen, microseconds from sending to seeing) of every row, and when this process itself did not run though it wanted to."""
    late = []
    pauses = []
    last = 0
    with bench.postgres.connection.cursor() as cursor:
        # a table without statistics: only the index finds the new rows without reading the old ones
        cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        cursor.execute("PREPARE look AS SELECT id, sent FROM sensor_readings WHERE id > $1 ORDER BY id")
        while len(late) < entries:
            cursor.execute("EXECUTE look(%d)" % last)
            rows = cursor.fetchall()
            seen = time.time_ns() // 1000
            for row_id, sent in rows:
                late.append((seen, seen - sent))
            if rows:
                last = rows[-1][0]
            elif producer.poll() is not None and producer.returncode != 0:
                raise RuntimeError("feed failed")
            before = time.time_ns() // 1000
            time.sleep(PAUSE)
            after = time.time_ns() // 1000
            if after - before > STALL_US:
                pauses.append((before, after))
        cursor.execute("DEALLOCATE look; RESET enable_seqscan; RESET enable_bitmapscan; RESET enable_sort")
    return late, pauses


def outside(late, pauses):
    """The latencies of rows that were not under way while the machine stood still."""
    return sorted(took for seen, took in late if not any(seen - took < end and begin < seen for begin, end in pauses))


def latency(bench, rate, entries, streams=1):
    """Percentiles at a rate, linger 0; with streams above 1 through a template."""
    source = shapes.Source(9, 0, None, one_stream=streams == 1)
    sql = bench.postgres
    sql.run("DROP TABLE IF EXISTS sensor_readings")
    sql.run(LATENCY_TABLE)
    bench.redis.cli(9, "FLUSHDB")
    stream = "live" if streams == 1 else "live:{shard}"
    group = cases.define(bench, "live", source, stream, {})
    feed = [bench.programs + "/feed", bench.redis.socket, "9", "live", str(streams)]
    if streams > 1:  # they are known before the clock runs; streams found while running are another matter
        subprocess.run([*feed, "100000", str(streams)], check=True, capture_output=True)
    else:
        subprocess.run([*feed, "1000", "100"], check=True, capture_output=True)
    warm = max(streams, 100) if streams > 1 else 100
    sql.run("SELECT streamsink.start('live')")
    sql.wait("SELECT count(*) = %d FROM sensor_readings" % warm)
    sql.run("TRUNCATE sensor_readings")
    sql.run("CHECKPOINT")

    producer = subprocess.Popen([*feed, str(rate), str(entries)], stdout=subprocess.PIPE, text=True)
    try:
        rows, pauses = watch(bench, producer, entries)
    finally:
        produced, _ = producer.communicate(timeout=60)
    took = json.loads(produced)["seconds"]
    if took > 1.1 * entries / rate + 1:
        raise RuntimeError("the producer was too slow for %d entries a second: %.1f s" % (rate, took))
    cases.finish(bench, "live", source, stream, group, entries)
    late = sorted(took for _, took in rows)
    running = outside(rows, pauses)
    return {"paused_ms": sum(end - begin for begin, end in pauses) / 1000,
            "running_p99_ms": percentile(running, 0.99) / 1000 if running else None, "rate": rate, "streams": streams, "entries": entries, "p50_ms": percentile(late, 0.5) / 1000,
            "p99_ms": percentile(late, 0.99) / 1000, "p999_ms": percentile(late, 0.999) / 1000, "max_ms": late[-1] / 1000}


def memory(bench, copies):
    """The worker's private memory while it settles many times the run's entries."""
    source = shapes.Source(10, 0, None, one_stream=False)
    bench.redis.cli(10, "FLUSHDB")
    for i in range(copies):
        bench.redis.cli(0, "COPY", "bench", "long:%d" % i, "DB", "10")
    total = bench.entries * copies
    bench.make_table(shapes.PLAIN)
    group = cases.define(bench, "long", source, "long:{part}", {})
    bench.postgres.run("SELECT streamsink.start('long')")
    points = []
    step = total // 50
    while not points or points[-1]["entries"] < total:
        goal = min(total, (points[-1]["entries"] if points else 0) + step)
        read = bench.postgres.wait("SELECT read FROM streamsink.status WHERE pipeline = 'long'", until=lambda n: n and n >= goal)
        points.append({"entries": read, "private_kb": max(map(anonymous_kb, cases.worker_pids(bench, "long")))})
    cases.finish(bench, "long", source, "long:{part}", group, total)
    bench.check_rows(shapes.PLAIN, total)
    bench.redis.cli(10, "FLUSHDB")
    return points
