"""The private servers of a run, as the runner sees them: SQL, Redis, and what the kernel counts for a process."""
import os
import subprocess
import time

import psycopg2

TICK = os.sysconf("SC_CLK_TCK")


def cpu_of(pid):
    """User and system seconds of a process, its threads included."""
    with open("/proc/%d/stat" % pid) as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def anonymous_kb(pid):
    """Private anonymous memory: shared buffers, though touched by this process, are not in it."""
    with open("/proc/%d/smaps_rollup" % pid) as rollup:
        for line in rollup:
            if line.startswith("Anonymous:"):
                return int(line.split()[1])
    raise RuntimeError("no Anonymous line for process %d" % pid)


class Redis:
    def __init__(self, socket, port):
        self.socket = socket
        self.port = port
        self.pid = int(self.info("server")["process_id"])

    def cli(self, db, *args, **kwargs):
        done = subprocess.run(["redis-cli", "-s", self.socket, "-n", str(db), *map(str, args)],
                              check=True, capture_output=True, text=True, **kwargs)
        answer = done.stdout.strip()
        if answer.startswith(("ERR", "WRONGTYPE", "NOGROUP", "BUSYGROUP", "OOM")):
            raise RuntimeError("redis-cli %s: %s" % (args[0], answer))
        return answer

    def info(self, section):
        return dict(line.strip().split(":", 1) for line in self.cli(0, "INFO", section).splitlines() if ":" in line)

    def load(self, db, path):
        """Carry out the commands of a file; every one must succeed."""
        with open(path) as commands:
            done = subprocess.run(["redis-cli", "-s", self.socket, "-n", str(db), "--pipe"],
                                  stdin=commands, capture_output=True, text=True)
        if done.returncode != 0 or "errors: 0" not in done.stdout:
            raise RuntimeError("redis-cli --pipe: %s %s" % (done.stdout[:500], done.stderr[:500]))

    def cpu(self):
        return cpu_of(self.pid)


class Postgres:
    def __init__(self, socket_dir, port, database="bench", user="postgres"):
        self.dsn = {"host": socket_dir, "port": port, "dbname": database, "user": user}
        self.connection = self.connect()

    def connect(self):
        connection = psycopg2.connect(**self.dsn)
        connection.autocommit = True
        return connection

    def run(self, sql, *args):
        """Carry out a statement; its rows, or None."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return cursor.fetchall() if cursor.description else None

    def value(self, sql, *args):
        return self.run(sql, *args)[0][0]

    def wait(self, sql, *args, until=bool, limit=600, pause=0.02):
        """Poll a single value until it is as wanted."""
        give_up = time.monotonic() + limit
        while True:
            value = self.value(sql, *args)
            if until(value):
                return value
            if time.monotonic() > give_up:
                raise RuntimeError("still %r after %d s: %s" % (value, limit, sql))
            time.sleep(pause)  # between two looks, so that looking costs little

    def wal(self):
        return int(self.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
