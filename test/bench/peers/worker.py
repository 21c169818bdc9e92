#!/usr/bin/python3
"""A tuned Python worker between a Redis stream and PostgreSQL: one peer of the benchmark.

NOTES
Debian packages python3-redis, python3-hiredis, python3-asyncpg; python3-uvloop is used where it is there.
The fields are taken by position (device_id, sensor_type, value, timestamp, metadata), so the producer must keep that order.
One statement is one transaction: a multi-row INSERT, a COPY and asyncpg's executemany each commit (or fail) as a whole, without BEGIN and COMMIT around it.
XACK follows the commit, so delivery is at least once: see README.md.
Times and CPU run from the first read to the last XACK; interpreter start and connecting are left out.
"""
import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import platform
import re
import signal
import sys
import time
from datetime import datetime

import asyncpg
import hiredis
import redis
import redis.asyncio
import redis.asyncio.connection

try:
    import uvloop
except ImportError:
    uvloop = None

COLUMNS = ("timestamp", "device_id", "sensor_type", "value", "metadata")
READ_SIZE = 256 * 1024      # bytes a read from Redis may bring: the reply of a batch of 1,000 is about that
START_TIMEOUT = 60          # seconds in which all processes must be connected
TICK = os.sysconf("SC_CLK_TCK")


class Unexpected(Exception):
    """Said on stderr without a traceback."""


def hiredis_parser():
    """redis-py's parser on top of hiredis."""
    parser = redis.asyncio.connection.DefaultParser
    if "Hiredis" not in parser.__name__:
        # redis-py 6 turns down hiredis 2, which Debian 13 has beside it; what is read here is the same in both.
        from redis._parsers import hiredis as module
        module.HIREDIS_AVAILABLE = True
        parser = module._AsyncHiredisParser
    return parser


def rows_of(entries):
    """Tuples in the order of COLUMNS from the raw reply [[id, [name, value, ...]], ...]; ValueError on another number of fields."""
    parse = datetime.fromisoformat
    return [
        (parse(timestamp.decode()), device.decode(), sensor.decode(), float(value), metadata.decode())
        for _, (_, device, _, sensor, _, value, _, timestamp, _, metadata) in entries
    ]


def rows_of_dicts(entries):
    """The same from what redis-py makes of a reply: [(id, {name: value}), ...]."""
    parse = datetime.fromisoformat
    return [
        (parse(fields[b"timestamp"].decode()), fields[b"device_id"].decode(), fields[b"sensor_type"].decode(),
         float(fields[b"value"]), fields[b"metadata"].decode())
        for _, fields in entries
    ]


def arrays_of(entries):
    """The same as one list a column."""
    parse = datetime.fromisoformat
    timestamps, devices, sensors, values, metadata = [], [], [], [], []
    for _, (_, device, _, sensor, _, value, _, timestamp, _, meta) in entries:
        timestamps.append(parse(timestamp.decode()))
        devices.append(device.decode())
        sensors.append(sensor.decode())
        values.append(float(value))
        metadata.append(meta.decode())
    return timestamps, devices, sensors, values, metadata


async def make_writer(db, variant, table, plain):
    """An async function that writes a batch of entries in one transaction."""
    names = ", ".join(COLUMNS)
    rows = rows_of_dicts if plain else rows_of
    if variant == "executemany":
        insert = await db.prepare(f'INSERT INTO "{table}" ({names}) VALUES ($1, $2, $3, $4, $5)')

        async def write(entries):
            await insert.executemany(rows(entries))
    elif variant == "unnest":
        insert = await db.prepare(
            f'INSERT INTO "{table}" ({names}) SELECT * FROM unnest('
            "$1::timestamptz[], $2::varchar[], $3::varchar[], $4::float8[], $5::jsonb[])"
        )

        async def write(entries):
            await insert.fetch(*(zip(*rows(entries)) if plain else arrays_of(entries)))
    else:
        async def write(entries):
            await db.copy_records_to_table(table, columns=COLUMNS, records=rows(entries))
    return write


async def consume(args, client, consumer, write, settled):
    """Moves batches until all are settled or a read is empty; returns the time of this task's last XACK, None without one."""
    streams = {args.stream: ">"}
    last = None
    while settled.value < args.total:
        reply = await client.xreadgroup(args.group, consumer, streams, count=args.batch)
        if not reply:
            break
        entries = reply[0][1]
        await write(entries)
        acked = await client.xack(args.stream, args.group, *[entry[0] for entry in entries])
        last = time.monotonic()
        if acked != len(entries):
            raise Unexpected(f"XACK of {len(entries)} entries settled {acked}")
        with settled.get_lock():
            settled.value += acked
    return last


def backend_cpu(pids):
    """Seconds of CPU of these server processes, None if one of them cannot be read."""
    ticks = 0
    try:
        for pid in pids:
            with open(f"/proc/{pid}/stat") as stat:
                # The name in brackets may hold blanks: utime and stime are the 12th and 13th behind it.
                ticks += sum(int(field) for field in stat.read().rpartition(")")[2].split()[11:13])
    except OSError:
        return None
    return ticks / TICK


async def work(args, number, settled, ready):
    """One process: its tasks, each with a connection of its own; a dict of its figures."""
    pool = redis.asyncio.ConnectionPool(
        connection_class=redis.asyncio.UnixDomainSocketConnection,
        path=args.redis_socket,
        db=args.db,
        parser_class=hiredis_parser(),
        max_connections=args.tasks + 1,
        **({} if args.plain else {"socket_read_size": READ_SIZE}),
    )
    client = redis.asyncio.Redis(connection_pool=pool)
    if not args.plain:
        # The reply as it is: no dict an entry.
        client.set_response_callback("XREADGROUP", lambda reply, **options: reply)
    try:
        await client.xgroup_create(args.stream, args.group, id="0")
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
    # asyncio's pool connects on demand; have as many connections as tasks before the clock runs.
    await asyncio.gather(*[client.ping() for _ in range(args.tasks)])

    databases = [
        await asyncpg.connect(
            host=args.pg_host, port=args.pg_port, user=args.pg_user, database=args.pg_db,
            # asyncpg asks the catalog about array types by a query that costs a second to compile and nothing to run.
            server_settings={"application_name": "bench_python", "jit": "off"},
        )
        for _ in range(args.tasks)
    ]
    writers = [await make_writer(db, args.variant, args.table, args.plain) for db in databases]

    if not args.plain:
        # What lives until now stays; little of the rest is cyclic.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 20)

    pids = [db.get_server_pid() for db in databases]
    ready.wait(START_TIMEOUT)
    before = backend_cpu(pids)
    cpu = time.process_time()
    first = time.monotonic()
    lasts = await asyncio.gather(*[
        consume(args, client, f"{args.group}-{number}-{task}", write, settled) for task, write in enumerate(writers)
    ])
    cpu = time.process_time() - cpu
    after = backend_cpu(pids)

    figures = {
        "first": first,
        "last": max((last for last in lasts if last is not None), default=first),
        "cpu_seconds": cpu,
        "backend_cpu_seconds": None if before is None or after is None else after - before,
    }
    for db in databases:
        await db.close()
    await pool.disconnect()
    return figures


def run(args, number, settled, ready):
    # Not asyncio.run: after an error it would wait for the other tasks, and a cancelled executemany need not come back.
    loop = uvloop.new_event_loop() if uvloop else asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(work(args, number, settled, ready))


def said(error):
    return str(error) if isinstance(error, Unexpected) else f"{type(error).__name__}: {error}"


def run_child(args, number, settled, ready, answer):
    """One of several processes: its figures, or what went wrong, go through the pipe."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        answer.send(run(args, number, settled, ready))
    except Exception as error:
        ready.abort()
        answer.send(said(error))
        os._exit(1)


def run_processes(args, settled):
    """Figures of every process; raises Unexpected if one of them failed."""
    # So that children go too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(args.processes)
    children = []
    for number in range(args.processes):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=run_child, args=(args, number, settled, ready, sender), daemon=True)
        child.start()
        sender.close()
        children.append((child, receiver))

    answers = []
    for child, receiver in children:
        try:
            answers.append(receiver.recv())
        except EOFError:
            answers.append("a process ended without an answer")
        child.join()
    errors = [answer for answer in answers if isinstance(answer, str)]
    if errors:
        # A process that broke the barrier has the reason; the others only tell that it is broken.
        errors.sort(key=lambda error: error.startswith("BrokenBarrierError"))
        raise Unexpected("; ".join(errors))
    return answers


def arguments():
    parser = argparse.ArgumentParser(description="Move a Redis stream into a table; one line of JSON to stdout.")
    parser.add_argument("--redis-socket", required=True)
    parser.add_argument("--db", type=int, default=0)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--pg-host", required=True, help="folder of the socket, or a host")
    parser.add_argument("--pg-port", type=int, default=5432)
    parser.add_argument("--pg-user", required=True)
    parser.add_argument("--pg-db", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--variant", choices=("executemany", "unnest", "copy"), required=True)
    parser.add_argument("--plain", action="store_true", help="replies as redis-py gives them, a dict an entry, and nothing tuned")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--total", type=int, required=True)
    args = parser.parse_args()
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", args.table):
        parser.error(f'"{args.table}" is not a plain table name')
    if min(args.tasks, args.batch, args.total) < 1:
        parser.error("--tasks, --batch and --total begin at 1")
    return args


def main():
    args = arguments()
    settled = multiprocessing.get_context("fork").Value("q", 0)
    try:
        if args.processes == 1:
            figures = [run(args, 0, settled, multiprocessing.Barrier(1))]
        else:
            figures = run_processes(args, settled)
        if settled.value != args.total:
            raise Unexpected(f"{settled.value} entries were settled and {args.total} expected")
    except Exception as error:
        print(f"worker.py: {said(error)}", file=sys.stderr, flush=True)
        os._exit(1)

    backends = [figure["backend_cpu_seconds"] for figure in figures]
    print(json.dumps({
        "entries": settled.value,
        "seconds": round(max(figure["last"] for figure in figures) - min(figure["first"] for figure in figures), 6),
        "cpu_seconds": round(sum(figure["cpu_seconds"] for figure in figures), 3),
        "backend_cpu_seconds": None if None in backends else round(sum(backends), 3),
        "versions": {
            "python": platform.python_version(),
            "python_redis": redis.__version__,
            "python_hiredis": hiredis.__version__,
            "asyncpg": asyncpg.__version__,
            "uvloop": uvloop.__version__ if uvloop else None,
        },
    }))
    return 0


if __name__ == "__main__":
    sys.exit(main())
