#!/usr/bin/python3
"""rsyslogd from a Redis stream (imhiredis) to PostgreSQL (ompgsql): one peer of the benchmark.

NOTES
imhiredis came with Debian 13; --root runs the rsyslogd of another root folder (rsyslog_root.sh), and everything goes by TCP on 127.0.0.1.
imhiredis knows no SELECT: the stream must be in database 0.
It reads ten entries at a time whatever its batchsize says and sends an XACK for each one once it is queued, so several inputs read side by side.
Time runs from the first read (the group's last delivered id moves) until the rows are seen; CPU is that of rsyslogd and, apart, of its backends.
"""
import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import asyncpg
import redis

HERE = os.path.dirname(os.path.abspath(__file__))
NAME = "bench_rsyslog"
MODULES = ("imhiredis.so", "ompgsql.so")
POLL = 0.01                 # seconds between two looks at the table
POLL_START = 0.001          # and at the group, until it is read
STALL = 30                  # seconds without a new row after which it has failed
TICK = os.sysconf("SC_CLK_TCK")


class Unexpected(Exception):
    """Said on stderr without a traceback."""


class Skipped(Exception):
    """rsyslog cannot be measured here."""


def find_rsyslogd(root):
    """The path of rsyslogd inside root; Skipped where it or a module is missing."""
    for path in ("/usr/sbin/rsyslogd", "/sbin/rsyslogd"):
        if os.access(root + path, os.X_OK):
            break
    else:
        raise Skipped("no rsyslogd on this system" if not root else f"no rsyslogd below {root}")
    folders = [root + "/usr/lib/rsyslog"]
    if os.path.isdir(root + "/usr/lib"):
        folders += [f"{root}/usr/lib/{name}/rsyslog" for name in os.listdir(root + "/usr/lib")]
    for module in MODULES:
        if not any(os.path.exists(f"{folder}/{module}") for folder in folders):
            raise Skipped(f"no {module[:-3]} on this system" if not root else f"no {module[:-3]} below {root}")
    if root and os.geteuid() != 0:
        raise Skipped("chroot wants root")
    return path


def version_of(command):
    try:
        output = subprocess.run(command + ["-v"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Skipped(f"rsyslogd does not run: {error}")
    match = re.match(r"rsyslogd\s+(\S+)", output)
    if not match:
        raise Skipped("rsyslogd does not run")
    return match.group(1)


def write_config(args, work, inside):
    """The configuration in the folder work, which rsyslogd sees as inside; its path as rsyslogd sees it."""
    inputs = "\n".join(
        f'input(type="imhiredis" server="127.0.0.1" port="{args.redis_port}" mode="stream" key="{args.stream}"\n'
        f'\tstream.consumerGroup="{args.group}" stream.consumerName="{args.group}-{number}" stream.readFrom="0"\n'
        f'\tstream.consumerACK="on" stream.autoclaimIdleTime="0" batchsize="{args.batch}" ruleset="rows")'
        for number in range(args.readers)
    )
    queue = max(20 * args.batch, 100_000)
    values = {
        "WORK": inside, "TABLE": args.table, "QUEUE": queue, "LIGHT": queue * 9 // 10, "BATCH": args.batch, "WRITERS": args.writers,
        "PG_PORT": args.pg_port, "PG_USER": args.pg_user, "PG_DB": args.pg_db, "NAME": NAME, "INPUTS": inputs,
    }
    with open(f"{HERE}/rsyslog.conf.in") as template:
        text = re.sub(r"@([A-Z_]+)@", lambda match: str(values[match.group(1)]), "".join(
            line for line in template if not line.startswith("#")))
    with open(f"{work}/rsyslog.conf", "w") as config:
        config.write(text)
    return f"{inside}/rsyslog.conf"


def cpu_of(pids):
    """Seconds of CPU of these processes, None if one of them cannot be read."""
    ticks = 0
    try:
        for pid in pids:
            with open(f"/proc/{pid}/stat") as stat:
                # The name in brackets may hold blanks: utime and stime are the 12th and 13th behind it.
                ticks += sum(int(field) for field in stat.read().rpartition(")")[2].split()[11:13])
    except OSError:
        return None
    return ticks / TICK


def messages_of(work):
    """The last of what rsyslogd said, on one line."""
    lines = []
    for name in ("output", "messages"):
        try:
            with open(f"{work}/{name}", errors="replace") as file:
                lines += [line.strip() for line in file if line.strip()]
        except FileNotFoundError:
            pass
    return " | ".join(lines[-4:]) or "it said nothing"


async def await_rows(args, daemon, client, db, work):
    """Waits for the first read and for the rows; returns the seconds between them."""
    def alive():
        if daemon.poll() is not None:
            raise Unexpected(f"rsyslogd ended with {daemon.returncode}: {messages_of(work)}")

    deadline = time.monotonic() + STALL
    while client.xinfo_groups(args.stream)[0]["last-delivered-id"] == b"0-0":
        alive()
        if time.monotonic() > deadline:
            raise Unexpected(f"rsyslogd does not read: {messages_of(work)}")
        await asyncio.sleep(POLL_START)
    first = time.monotonic()

    # A sequence tells cheaply how far it is; the rows are counted near the end only.
    sequence = await db.fetchval("SELECT pg_get_serial_sequence($1, 'id')", args.table)
    if sequence is None:
        raise Unexpected(f'table "{args.table}" has no serial column "id"')
    drawn = await db.prepare(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}")
    count = await db.prepare(f'SELECT count(*) FROM "{args.table}"')
    wanted = args.before_rows + args.total
    seen = -1
    while True:
        alive()
        now = await drawn.fetchval()
        if now - args.before_drawn >= args.total:
            now = await count.fetchval()
            if now >= wanted:
                return time.monotonic() - first
        if now != seen:
            seen, deadline = now, time.monotonic() + STALL
        elif time.monotonic() > deadline:
            raise Unexpected(f"no new row in {STALL} seconds: {messages_of(work)}")
        await asyncio.sleep(POLL)


async def measure(args):
    root = args.root.rstrip("/") if args.root else ""
    path = find_rsyslogd(root)
    command = ["chroot", root, path] if root else [path]
    version = version_of(command)

    client = redis.Redis(host="127.0.0.1", port=args.redis_port)
    # imhiredis would make the group too; made here, its state can be watched from the start.
    client.xgroup_create(args.stream, args.group, id="0")
    if len(client.xinfo_groups(args.stream)) != 1:
        raise Unexpected(f'stream "{args.stream}" has other groups')
    db = await asyncpg.connect(host="127.0.0.1", port=args.pg_port, user=args.pg_user, database=args.pg_db)
    args.before_rows = await db.fetchval(f'SELECT count(*) FROM "{args.table}"')
    sequence = await db.fetchval("SELECT pg_get_serial_sequence($1, 'id')", args.table)
    args.before_drawn = await db.fetchval(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}") if sequence else 0

    work = tempfile.mkdtemp(prefix="bench-rsyslog-", dir=f"{root}/tmp")
    daemon = None
    try:
        inside = work[len(root):]
        config = write_config(args, work, inside)
        with open(f"{work}/output", "w") as output:
            daemon = subprocess.Popen(
                command + ["-n", "-f", config, "-i", f"{inside}/rsyslogd.pid"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        seconds = await await_rows(args, daemon, client, db, work)
        backends = await db.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = $1", NAME)
        cpu = cpu_of([daemon.pid])
        backend_cpu = cpu_of([backend["pid"] for backend in backends])
        rows = await db.fetchval(f'SELECT count(*) FROM "{args.table}"') - args.before_rows
        if rows != args.total:
            raise Unexpected(f"{rows} rows were written and {args.total} expected")
        # The XACK of an entry races with its row.
        deadline = time.monotonic() + STALL
        while pending := client.xpending(args.stream, args.group)["pending"]:
            if time.monotonic() > deadline:
                raise Unexpected(f"{pending} entries are still pending")
            await asyncio.sleep(POLL)
    finally:
        if daemon is not None:
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        if args.keep:
            print(f"rsyslog.py: kept {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    await db.close()
    return {
        "entries": rows,
        "seconds": round(seconds, 6),
        "cpu_seconds": cpu,
        "backend_cpu_seconds": backend_cpu,
        "versions": {"rsyslog": version},
    }


def arguments():
    parser = argparse.ArgumentParser(description="Move a Redis stream of database 0 into a table by rsyslogd; one line of JSON to stdout.")
    parser.add_argument("--root", help="folder of the system whose rsyslogd runs, by chroot; this system without it")
    parser.add_argument("--redis-port", type=int, required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--group", required=True, help="must not exist yet")
    parser.add_argument("--pg-port", type=int, required=True)
    parser.add_argument("--pg-user", required=True)
    parser.add_argument("--pg-db", required=True)
    parser.add_argument("--table", required=True, help='with a serial column "id"; no other writer meanwhile')
    parser.add_argument("--total", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1000, help="messages a transaction")
    parser.add_argument("--readers", type=int, default=8, help="inputs, each a thread and a consumer of the group")
    parser.add_argument("--writers", type=int, default=2, help="worker threads of the queue, each with a connection")
    parser.add_argument("--keep", action="store_true", help="leave the temporary folder behind")
    args = parser.parse_args()
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", args.table):
        parser.error(f'"{args.table}" is not a plain table name')
    for value in (args.stream, args.group, args.pg_user, args.pg_db):
        if not re.fullmatch(r"[A-Za-z0-9_.:-]+", value):
            parser.error(f'"{value}" is not a plain name')
    if min(args.total, args.batch, args.readers, args.writers) < 1:
        parser.error("--total, --batch, --readers and --writers begin at 1")
    return args


def main():
    args = arguments()
    # So that rsyslogd and the folder go too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        print(json.dumps(asyncio.run(measure(args))))
    except Skipped as reason:
        print(json.dumps({"skipped": str(reason)}))
    except Exception as error:
        text = str(error) if isinstance(error, Unexpected) else f"{type(error).__name__}: {error}"
        print(f"rsyslog.py: {text}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
