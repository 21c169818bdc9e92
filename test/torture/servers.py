"""The servers under torture: PostgreSQL, Redis and the proxy between them, all
below one folder.  The PostgreSQL that is first in PATH has a test build."""

import os
import re
import signal
import socket
import subprocess
import time

from resp import Redis

PYTHON = "/usr/bin/python3"

PG_SETTINGS = """
listen_addresses = ''
port = 5432
shared_preload_libraries = 'streamsink'
max_worker_processes = 24
max_connections = 50
fsync = off
wal_writer_delay = 2s
log_line_prefix = '%m [%p] %q%a '
streamsink.max_workers = 12
streamsink.block_time = '200ms'
streamsink.discovery_interval = '200ms'
streamsink.sample_interval = '300ms'
streamsink.command_timeout = '800ms'
streamsink.backoff_max = '1s'
streamsink.setup_retry = '300ms'
streamsink.fold_rows = 16
streamsink.ledger_join_age = '1s'
"""


class Unavailable(Exception):
    """The server could not be asked, or broke off."""


def poll(condition, seconds, what):
    """Until the condition is true; its value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError("timed out waiting for " + what)
        time.sleep(0.03)


class Postgres:
    def __init__(self, folder):
        self.folder = folder
        self.data = os.path.join(folder, "data")
        self.logfile = os.path.join(folder, "postgres.log")
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
        with open(os.path.join(self.data, "postgresql.conf"), "a") as conf:
            conf.write(PG_SETTINGS + "unix_socket_directories = '%s'\n" % folder)
        self.start()

    @staticmethod
    def run(*command):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        if done.returncode:
            raise Unavailable("%s: %s" % (command[0], done.stdout.decode()[-2000:]))

    def pg_ctl(self, *words):
        self.run("pg_ctl", "-D", self.data, "-l", self.logfile, "-w", "-s", *words)

    def start(self):
        self.pg_ctl("start")

    def stop(self, mode):
        self.pg_ctl("stop", "-m", mode)

    def psql(self, timeout):
        return ["psql", "-XAtq", "-h", self.folder, "-U", "postgres", "-d", "postgres", "-v", "ON_ERROR_STOP=1",
                "-v", "VERBOSITY=terse"]

    def sql(self, *statements, timeout=30):
        """Rows as lists of texts."""
        try:
            done = subprocess.run(self.psql(timeout) + ["-F", "\x1f", "-c", ";\n".join(statements)], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Unavailable("no answer in %d s to %s" % (timeout, statements[0])) from None
        if done.returncode:
            raise Unavailable(done.stderr.decode(errors="replace").strip())
        return [line.split("\x1f") for line in done.stdout.decode(errors="surrogateescape").splitlines()]

    def script(self, text):
        """Statements in a session of its own, which the caller does not wait for."""
        process = subprocess.Popen(self.psql(0) + ["-f", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process.stdin.write(text.encode())
        process.stdin.close()
        return process

    def log(self):
        with open(self.logfile, errors="replace") as log:
            return log.read()

    def logged(self, pattern):
        return len(re.findall(pattern, self.log()))


class RedisServer:
    def __init__(self, folder, durable):
        self.folder, self.durable = folder, durable
        self.path = os.path.join(folder, "redis.sock")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = None
        self.start()

    def start(self):
        # durable: what was answered is on disk, no entry is lost by Redis itself
        with open(os.path.join(self.folder, "redis.log"), "ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.path,
                 "--dir", self.folder, "--save", "", "--appendonly", "yes" if self.durable else "no", "--appendfsync", "always",
                 "--pidfile", os.path.join(self.folder, "redis.pid"), "--daemonize", "no"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        with open(os.path.join(self.folder, "redis.pid"), "w") as file:
            file.write("%d\n" % self.process.pid)
        poll(self.answers, 30, "Redis")

    def answers(self):
        if self.process.poll() is not None:
            raise Unavailable("Redis ended; see redis.log")
        try:
            redis = Redis(self.path)
            try:
                return redis("PING") == "PONG"
            finally:
                redis.close()
        except Exception:
            return False

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def call(self, *command):
        redis = Redis(self.path)
        try:
            return redis(*command)
        finally:
            redis.close()


class Proxy:
    def __init__(self, folder, port, seed):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib", "faultproxy.py")
        self.path = os.path.join(folder, "proxy.sock")
        self.process = subprocess.Popen([PYTHON, "-B", script, str(port), self.path, str(seed)],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())

    def command(self, line):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.path)
            sock.sendall(line.encode() + b"\n")
            answer = sock.makefile().readline().strip()
        if answer.startswith("error"):
            raise ValueError("%s: %s" % (line, answer))
        return answer

    def counts(self):
        return {name: int(n) for name, n in (pair.split("=") for pair in self.command("counts").split())}


class Servers:
    def __init__(self, folder, seed, durable=True):
        self.redis = self.proxy = self.pg = None
        try:
            self.redis = RedisServer(folder, durable)
            self.proxy = Proxy(folder, self.redis.port, seed)
            self.pg = Postgres(folder)
        except BaseException:
            self.end()
            raise

    def end(self):
        if self.proxy:
            self.proxy.process.kill()
        if self.redis and self.redis.process and self.redis.process.poll() is None:
            self.redis.signal(signal.SIGCONT)
            self.redis.kill()
        if self.pg:
            try:
                self.pg.stop("immediate")
            except Exception:
                pass
