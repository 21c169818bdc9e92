"""Every case as a function that runs it once and returns what was measured."""
import json
import subprocess
import sys
import time

import shapes
from servers import anonymous_kb, cpu_of

TABLE = "sensor_readings"
LONGEST = 1200  # seconds a single case may take


class Bench:
    """The servers, the sizes and the files that all cases share."""

    def __init__(self, redis, postgres, folder, entries, programs, copy_files, rsyslog):
        self.redis = redis
        self.postgres = postgres
        self.folder = folder
        self.entries = entries
        self.programs = programs      # folder of drain and feed
        self.copy_files = copy_files
        self.rsyslog = rsyslog        # arguments for rsyslog.py, or None
        self.serial = 0

    def group(self):
        self.serial += 1
        return "g%d" % self.serial

    def make_table(self, shape):
        sql = self.postgres.run
        sql("DROP TABLE IF EXISTS %s" % TABLE)
        sql(shape.table.format(name=TABLE))
        for statement in shape.after:
            sql(statement.format(name=TABLE))
        sql("CHECKPOINT")

    def check_rows(self, shape, entries, refused=0):
        rows = self.postgres.value("SELECT count(*) FROM %s" % TABLE)
        if rows + refused != entries and not shape.superseded:
            raise RuntimeError("%s: %d rows and %d refused of %d entries" % (shape.title, rows, refused, entries))
        if refused and not shape.refused:
            raise RuntimeError("%s: %d refused" % (shape.title, refused))

    def drop_group(self, db, stream, group):
        self.redis.cli(db, "XGROUP", "DESTROY", stream, group)


def copy_case(bench, size):
    """COPY by the server itself from local files, one transaction a file."""
    bench.make_table(shapes.PLAIN)
    session = bench.postgres.connect()
    with session.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
        wal = bench.postgres.wal()
        cpu = cpu_of(pid)
        started = time.monotonic()
        for path in bench.copy_files[size]:
            cursor.execute("COPY %s (timestamp, device_id, sensor_type, value, metadata) FROM '%s'" % (TABLE, path))
        seconds = time.monotonic() - started
        cpu = cpu_of(pid) - cpu
        memory = anonymous_kb(pid)
    session.close()
    bench.check_rows(shapes.PLAIN, bench.entries)
    return {"entries": bench.entries, "seconds": seconds, "cpu_seconds": cpu, "redis_cpu_seconds": None, "private_kb": memory,
            "wal_bytes": bench.postgres.wal() - wal, "commits": len(bench.copy_files[size])}


def drain_case(bench, count):
    group = bench.group()
    before = bench.redis.cpu()
    done = subprocess.run([bench.programs + "/drain", bench.redis.socket, "0", "bench", group, str(count), str(bench.entries)],
                          check=True, capture_output=True, text=True, timeout=LONGEST)
    result = json.loads(done.stdout)
    result.update(redis_cpu_seconds=bench.redis.cpu() - before, private_kb=None, wal_bytes=None, commits=None)
    bench.drop_group(0, "bench", group)
    return result


def as_sql(value):
    return "'%s'" % value if isinstance(value, str) else str(value)


def define(bench, name, source, stream, options):
    """A pipeline with a group of its own over the streams of a source; returns the group."""
    group = bench.group()
    arguments = {"server": "redis%d" % source.db, "stream": stream, "target": "public." + TABLE, "consumer_group": group, **options}
    bench.postgres.run("SELECT streamsink.create_pipeline('%s', %s)" % (
        name, ", ".join("%s => %s" % (key, as_sql(value)) for key, value in arguments.items())))
    return group


def worker_pids(bench, name):
    return [row[0] for row in bench.postgres.run("SELECT pid FROM streamsink.workers WHERE pipeline = '%s' AND pid IS NOT NULL" % name)]


def finish(bench, name, source, stream, group, entries):
    """Everything must be acknowledged; then the pipeline goes."""
    sql = bench.postgres
    if source.one_stream:
        sql.wait("SELECT streamsink.wait_for('%s')" % name)
    sql.run("SELECT streamsink.stop('%s')" % name)
    sql.wait("SELECT count(*) FROM streamsink.workers WHERE pipeline = '%s'" % name, until=lambda n: n == 0)
    sql.run("SELECT streamsink.discard_dead_letters('%s')" % name)
    sql.run("SELECT streamsink.drop_pipeline('%s', drop_group => true)" % name)
    sql.wait("SELECT count(*) FROM streamsink.outbox", until=lambda n: n == 0)


def pipeline_case(bench, shape, workers=1, batch=1000):
    """A pipeline from start() until every entry is settled."""
    source = shapes.SOURCES[shape.source]
    entries = source.count(bench.entries)
    sql = bench.postgres
    bench.make_table(shape)
    group = define(bench, "bench", source, shape.stream, {"workers": workers, "batch_size": batch, **shape.options})

    wal = sql.wal()
    redis_cpu = bench.redis.cpu()
    started = time.monotonic()
    sql.run("SELECT streamsink.start('bench')")
    sql.wait("SELECT read >= %d FROM streamsink.status WHERE pipeline = 'bench'" % entries, limit=LONGEST)
    seconds = time.monotonic() - started
    redis_cpu = bench.redis.cpu() - redis_cpu
    pids = worker_pids(bench, "bench")
    result = {"entries": entries, "seconds": seconds, "cpu_seconds": sum(map(cpu_of, pids)), "redis_cpu_seconds": redis_cpu,
              "private_kb": max(map(anonymous_kb, pids)), "wal_bytes": sql.wal() - wal}
    read, refused, result["commits"] = sql.run("SELECT read, refused, batches FROM streamsink.status WHERE pipeline = 'bench'")[0]
    if read != entries:
        raise RuntimeError("%d entries were read of %d" % (read, entries))
    times = sql.run("SELECT wait_redis, map, write, commit FROM streamsink.workers WHERE pipeline = 'bench' AND slot IS NOT NULL")
    result["times_ms"] = dict(zip(("wait_redis", "map", "write", "commit"), (round(sum(t.total_seconds() * 1000 for t in column)) for column in zip(*times))))
    finish(bench, "bench", source, shape.stream, group, entries)
    bench.check_rows(shape, entries, refused)
    return result


def last_json(done, what):
    if done.returncode != 0 or not done.stdout.strip():
        raise RuntimeError("%s failed: %s%s" % (what, done.stdout, done.stderr[-2000:]))
    return json.loads(done.stdout.strip().splitlines()[-1])


def python_case(bench, variant, processes, plain=False):
    """A Python worker with redis-py and asyncpg."""
    bench.make_table(shapes.PLAIN)
    group = bench.group()
    dsn = bench.postgres.dsn
    wal = bench.postgres.wal()
    redis_cpu = bench.redis.cpu()
    result = last_json(subprocess.run(
        [sys.executable, bench.folder + "/peers/worker.py", "--redis-socket", bench.redis.socket, "--db", "0", "--stream", "bench",
         "--group", group, "--pg-host", dsn["host"], "--pg-port", str(dsn["port"]), "--pg-user", dsn["user"], "--pg-db", dsn["dbname"],
         "--table", TABLE, "--variant", variant, "--tasks", "5", "--processes", str(processes), "--batch", "1000",
         "--total", str(bench.entries), *(["--plain"] if plain else [])], capture_output=True, text=True, timeout=LONGEST), "the Python worker")
    bench.check_rows(shapes.PLAIN, bench.entries)
    cpu = result["cpu_seconds"] + (result.get("backend_cpu_seconds") or 0)
    bench.drop_group(0, "bench", group)
    return {"entries": result["entries"], "seconds": result["seconds"], "cpu_seconds": cpu, "private_kb": None, "commits": None,
            "redis_cpu_seconds": bench.redis.cpu() - redis_cpu, "wal_bytes": bench.postgres.wal() - wal}


def rsyslog_case(bench):
    """rsyslogd with imhiredis and ompgsql."""
    bench.make_table(shapes.PLAIN)
    group = bench.group()
    dsn = bench.postgres.dsn
    wal = bench.postgres.wal()
    redis_cpu = bench.redis.cpu()
    result = last_json(subprocess.run(
        [sys.executable, bench.folder + "/peers/rsyslog.py", *bench.rsyslog, "--redis-port", str(bench.redis.port), "--stream", "bench",
         "--group", group, "--pg-port", str(dsn["port"]), "--pg-user", dsn["user"], "--pg-db", dsn["dbname"],
         "--table", TABLE, "--total", str(bench.entries)], capture_output=True, text=True, timeout=LONGEST), "rsyslog")
    if "skipped" in result:
        return result
    bench.check_rows(shapes.PLAIN, bench.entries)
    bench.drop_group(0, "bench", group)
    return {"versions": result["versions"], "entries": result["entries"], "seconds": result["seconds"], "cpu_seconds": result["cpu_seconds"] + (result.get("backend_cpu_seconds") or 0), "private_kb": None,
            "commits": None, "redis_cpu_seconds": bench.redis.cpu() - redis_cpu, "wal_bytes": bench.postgres.wal() - wal}
