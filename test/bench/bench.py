"""bench: every case in turn, round after round, and the results into one JSON file.

NOTES
    Started by "run", which builds and starts the servers.  A round has every
    case once, so that what disturbs the machine disturbs all of them, and
    ratios are taken within a round.
"""
import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time

import cases
import data
import latency
import shapes
from servers import Postgres, Redis

BATCHES = (100, 1000, 5000)


def plan(bench, quick):
    """The cases as (name, group, title, function), in the order in which they are printed."""
    todo = [("copy_once", "limits", "COPY text in one transaction", lambda: cases.copy_case(bench, None))]
    todo += [("copy_%d" % n, "limits", "COPY text, %s rows a transaction" % format(n, ","), lambda n=n: cases.copy_case(bench, n))
             for n in BATCHES]
    todo += [("drain_%d" % n, "limits", "bare hiredis XREADGROUP and XACK, %s a read" % format(n, ","),
              lambda n=n: cases.drain_case(bench, n)) for n in BATCHES[1:]]
    todo += [("w%d_b%d" % (w, n), "streamsink", "%d worker%s, batch %s" % (w, "s" * (w > 1), format(n, ",")),
              lambda w=w, n=n: cases.pipeline_case(bench, shapes.PLAIN, w, n)) for w in (1, 2) for n in BATCHES]
    variants = {"executemany": "executemany", "unnest": "INSERT over unnest", "copy": "binary COPY"}
    todo += [("py%s_%s" % ("" if p == 1 else p, v), "peers", "Python, %s, %d process%s of 5 tasks" % (text, p, "es" * (p > 1)),
              lambda p=p, v=v: cases.python_case(bench, v, p)) for p in (1, 2) for v, text in variants.items()]
    todo += [("py%s_plain_%s" % ("" if p == 1 else p, v), "peers",
              "Python, %s, replies as redis-py gives them, %d process%s" % (variants[v], p, "es" * (p > 1)),
              lambda p=p, v=v: cases.python_case(bench, v, p, True)) for p in (1, 2) for v in ("executemany", "copy")]
    todo += [("rsyslog", "peers", "rsyslog, imhiredis to ompgsql", lambda: cases.rsyslog_case(bench))]
    todo += [(name, "shapes", shape.title, lambda s=shape: cases.pipeline_case(bench, s)) for name, shape in shapes.SHAPES.items()]
    if quick:
        left_out = {"copy_100", "w1_b100", "w2_b100", "w2_b5000", "py_executemany", "py2_executemany", "py_unnest", "py2_unnest",
                    "py_plain_executemany", "py2_plain_executemany", "py2_plain_copy", "rsyslog",
                    "streams_10000"}  # ten entries a stream would measure how they are found
        todo = [t for t in todo if t[0] not in left_out]
    return todo


def version(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def first_match(pattern, path):
    with open(path) as lines:
        found = re.search(pattern, lines.read(), re.M)
    return found.group(1).strip() if found else None


def module_version(name):
    try:
        return getattr(__import__(name), "__version__", "unknown")
    except ImportError:
        return None


def machine(bench):
    names = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", "shared_buffers", "max_wal_size", "min_wal_size", "autovacuum", "wal_compression")
    return {
        "cpu": first_match(r"^model name\s*:(.*)$", "/proc/cpuinfo"), "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "os": first_match(r'^PRETTY_NAME="(.*)"$', "/etc/os-release"), "kernel": platform.release(),
        "disk": version("df", "--output=fstype", bench.postgres.value("SHOW data_directory")).split()[-1],
        "postgresql": bench.postgres.value("SHOW server_version"), "redis": bench.redis.info("server")["redis_version"],
        "hiredis": version("pkg-config", "--modversion", "hiredis"),
        "streamsink": bench.postgres.value("SELECT extversion FROM pg_extension WHERE extname = 'streamsink'"),
        "python": platform.python_version(), "python_redis": module_version("redis"), "python_hiredis": module_version("hiredis"),
        "asyncpg": module_version("asyncpg"), "uvloop": module_version("uvloop"), "rsyslog": None,
        "settings": {name: bench.postgres.value("SHOW %s" % name) for name in names}}


def load(bench, wanted):
    for name, source in shapes.SOURCES.items():
        if name not in wanted:
            continue
        path = bench.work + "/commands"
        data.write_redis(source.entries(source.count(bench.entries)), path)
        bench.redis.load(source.db, path)
        os.unlink(path)


def prepare(bench):
    sql = bench.postgres.run
    sql("CREATE EXTENSION streamsink")
    for db in range(11):
        sql("CREATE SERVER redis%d FOREIGN DATA WRAPPER streamsink OPTIONS (path '%s', db '%d')" % (db, bench.redis.socket, db))
        sql("CREATE USER MAPPING FOR CURRENT_USER SERVER redis%d" % db)


def run_case(results, todo, number):
    name, _, title, function = todo
    started = time.monotonic()
    if any(s["case"] == name for s in results["skipped"]):
        return
    measured = function()
    if "skipped" in measured:
        results["skipped"].append({"case": name, "title": title, "reason": measured["skipped"]})
        print("  %-48s skipped: %s" % (title, measured["skipped"]), flush=True)
        return
    results["machine"].update(measured.pop("versions", {}))
    results["runs"].append({"case": name, "round": number, **measured})
    print("  %-48s %9s /s   (%.1f s in all)" % (title, format(round(measured["entries"] / measured["seconds"]), ","),
                                                time.monotonic() - started), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis-socket", required=True)
    parser.add_argument("--redis-port", type=int, required=True)
    parser.add_argument("--pg-host", required=True)
    parser.add_argument("--pg-port", type=int, required=True)
    parser.add_argument("--programs", required=True, help="folder of drain and feed")
    parser.add_argument("--work", required=True, help="folder for files that the server reads")
    parser.add_argument("--out", required=True)
    parser.add_argument("--entries", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", help="cases, with commas; also latency, memory")
    parser.add_argument("--rsyslog-root")
    args = parser.parse_args()

    entries = args.entries or (100000 if args.quick else 1000000)
    rounds = args.rounds or (1 if args.quick else 3)
    here = os.path.dirname(os.path.abspath(__file__))
    bench = cases.Bench(Redis(args.redis_socket, args.redis_port), Postgres(args.pg_host, args.pg_port), here, entries,
                        args.programs, None, ["--root", args.rsyslog_root] if args.rsyslog_root else [])
    bench.work = args.work
    todo = plan(bench, args.quick)
    only = args.only.split(",") if args.only else None
    if only:
        todo = [t for t in todo if t[0] in only]
    print("preparing %s entries a case, seed %d" % (format(entries, ","), data.SEED), flush=True)
    prepare(bench)
    needed = {"readings"} | {shapes.SHAPES[t[0]].source for t in todo if t[0] in shapes.SHAPES}
    load(bench, needed)
    if not only or any(name.startswith("copy") for name in only):
        bench.copy_files = data.write_copy(entries, args.work, BATCHES)

    results = {"format": 1, "quick": args.quick, "entries": entries, "rounds": rounds, "seed": data.SEED,
               "started_at": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "machine": machine(bench),
               "cases": [{"case": t[0], "group": t[1], "title": t[2]} for t in todo], "runs": [], "latency": [], "memory": [], "skipped": []}
    try:
        measure(bench, args, todo, results)
    finally:
        with open(args.out, "w") as out:
            json.dump(results, out, indent=1)
            out.write("\n")
    return 0


def measure_latency(bench, quick, results):
    """Every rate twice a round: the machine's own pauses are rare and long."""
    for _ in range(1 if quick else 2):
        for rate, streams in ((1000, 1),) if quick else ((100, 1), (1000, 1), (10000, 1), (10000, 10000)):
            count = 5000 if quick else min(rate * 10, results["entries"])
            number = 1 + sum((item["rate"], item["streams"]) == (rate, streams) for item in results["latency"])
            measured = latency.latency(bench, rate, count, streams)
            results["latency"].append({"round": number, **measured})
            print("  latency at %s/s over %s streams: p99 %.2f ms" % (format(rate, ","), format(streams, ","), measured["p99_ms"]), flush=True)


def measure(bench, args, todo, results):
    """All rounds, then the long run; results grow as they come."""
    entries = results["entries"]
    rounds = results["rounds"]
    only = args.only.split(",") if args.only else None
    for number in range(1, rounds + 1):
        print("round %d of %d" % (number, rounds), flush=True)
        for case in todo:
            run_case(results, case, number)
        if not only or "latency" in only:
            measure_latency(bench, args.quick, results)
    if not args.quick and (not only or "memory" in only):
        results["memory"] = latency.memory(bench, 10)
        print("  memory over %s entries: %d to %d kB" % (format(entries * 10, ","), min(p["private_kb"] for p in results["memory"]),
                                                       max(p["private_kb"] for p in results["memory"])), flush=True)


if __name__ == "__main__":
    sys.exit(main())
