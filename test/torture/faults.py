"""The faults of a schedule, carried out.

Each method begins one kind and returns true if it did; what lasts is ended by a
timer, after its time and not before it has struck.  Unavailable and OSError mean that another fault was in the way:
the conductor tries again.
"""

import contextlib
import os
import shutil
import signal
import threading
import time

from ledger import is_in, settled_ranges
from resp import RedisError, as_dict, entry_key
from schedule import STREAMS
from servers import Unavailable, poll


MORE_SECONDS = 0.25
MORE_TRIES = 24


class Truth:
    """What is not in the streams any more: (stream, id): (producer, n)."""

    def __init__(self):
        self.deleted = {}  # by the harness, whether it was read or not
        self.trimmed = {}  # by the harness, after it was settled
        self.lost = {}  # by Redis; its id is not settled for ever


def identity(fields):
    fields = as_dict(fields)
    return int(fields["p"]), int(fields["n"])


class Faults:
    def __init__(self, servers, truth, producers):
        self.producers = producers
        self.pg, self.redis, self.proxy = servers.pg, servers.redis, servers.proxy
        self.truth = truth
        self.armed = {}  # of points: number of the event: faults
        self.lock = threading.RLock()  # PostgreSQL starts, stops or is told of settings
        self.timers = []
        self.sessions = []
        self.added = {}  # columns by table
        self.events = 0

    def begin(self, event):
        self.events += 1
        name = event.kind
        if name.startswith("proxy_"):
            return self.break_network(name[len("proxy_"):], event)
        if name.startswith("point_"):
            return self.arm(event)
        return getattr(self, "change_" + name if name == "workers" else name)(event)

    def later(self, seconds, action, *args):
        timer = threading.Timer(seconds, action, args)
        timer.daemon = True
        self.timers.append(timer)
        timer.start()

    def strikes(self, kind):
        """How often a fault that lasts was felt."""
        if kind.startswith("proxy_"):
            return self.proxy.counts()[kind[len("proxy_"):]]
        return self.pg.log().count('": ' + kind[len("point_"):])

    def when_struck(self, event, tries, before, action, *args):
        """End a fault that was felt; give one that was not some more time."""
        if tries > 0 and self.strikes(event.kind) == before:
            self.later(MORE_SECONDS, self.when_struck, event, tries - 1, before, action, *args)
        else:
            action(*args)

    def wait(self):
        """Until what lasts is over."""
        for timer in self.timers:  # those that are added meanwhile too
            timer.join(60)

    def end_all(self):
        """No fault any more; both servers run."""
        self.proxy.command("clear")
        self.redis.signal(signal.SIGCONT)
        with self.lock:
            self.armed.clear()
            self.write_faults()
        for session in self.sessions:
            session.wait(30)

    # ---- processes ----

    def workers(self):
        return [int(row[0]) for row in self.pg.sql("SELECT pid FROM streamsink.workers WHERE pid IS NOT NULL ORDER BY pid")]

    def one_worker(self, event):
        pids = self.workers()
        return pids[event.args["which"] % len(pids)] if pids else None

    def worker_kill(self, event):
        pid = self.one_worker(event)
        if pid is None:
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    def backend_terminate(self, event):
        pid = self.one_worker(event)
        return pid is not None and self.pg.sql("SELECT pg_terminate_backend(%d)" % pid) == [["t"]]

    def backend_cancel(self, event):
        pid = self.one_worker(event)
        return pid is not None and self.pg.sql("SELECT pg_cancel_backend(%d)" % pid) == [["t"]]

    def pg_immediate(self, event):
        with self.lock:
            self.pg.stop("immediate")
            self.pg.start()
        return True

    def pg_fast(self, event):
        with self.lock:
            self.pg.stop("fast")
            self.pg.start()
        return True

    # ---- fault points ----

    def write_faults(self):
        path = os.path.join(self.pg.data, "faults.conf")
        with open(path + ".new", "w") as file:
            file.write("streamsink.fault = '%s'\n" % ", ".join(fault for faults in self.armed.values() for fault in faults))
        os.rename(path + ".new", path)
        with open(os.path.join(self.pg.data, "postmaster.pid")) as file:
            os.kill(int(file.readline()), signal.SIGHUP)

    def arm(self, event):
        number = self.events
        before = self.strikes(event.kind)
        with self.lock:
            self.armed[number] = event.args["faults"]
            self.write_faults()
        self.later(event.lasts, self.when_struck, event, MORE_TRIES, before, self.disarm, number)
        return True

    def disarm(self, number):
        with self.lock:
            self.armed.pop(number, None)
            self.write_faults()

    # ---- Redis and the network ----

    def redis_freeze(self, event):
        self.redis.signal(signal.SIGSTOP)
        self.later(event.lasts, self.thaw, self.redis.process.pid)
        return True

    def thaw(self, pid):
        if self.redis.process.pid == pid:
            self.redis.signal(signal.SIGCONT)

    def redis_kill(self, event):
        self.redis.kill()
        self.redis.start()
        return True

    def entries(self):
        return {(stream, entry_id): identity(fields)
                for streams in STREAMS.values() for stream in streams
                for entry_id, fields in self.redis.call("XRANGE", stream, "-", "+") or []}

    def redis_restore(self, event):
        """Redis loses what came after a snapshot.  No entry is under way, so that it is known which those are."""
        with contextlib.ExitStack() as stack:
            self.redis.call("SAVE")
            snapshot = os.path.join(self.redis.folder, "dump.rdb")
            shutil.copy(snapshot, snapshot + ".old")
            time.sleep(event.args["age"])
            for producer in self.producers:
                stack.enter_context(producer.gate)
            before = self.entries()
            self.redis.kill()
            shutil.copy(snapshot + ".old", snapshot)
            self.redis.start()
            after = self.entries()
            last = {stream: entry_key(as_dict(self.redis.call("XINFO", "STREAM", stream))["last-generated-id"])
                    for stream in {stream for stream, _ in after}}
        lost = {key: who for key, who in before.items() if key not in after}
        self.truth.lost.update(lost)
        # what was taken out and had come after the snapshot is lost as well
        for gone in (self.truth.deleted, self.truth.trimmed):
            for (stream, entry_id), who in list(gone.items()):
                if entry_key(entry_id) > last.get(stream, (0, 0)):
                    self.truth.lost[(stream, entry_id)] = gone.pop((stream, entry_id))
        return bool(lost)

    def client_kill(self, event):
        return self.redis.call("CLIENT", "KILL", "TYPE", "normal") > 0

    def break_network(self, kind, event):
        before = self.strikes(event.kind)
        self.proxy.command(" ".join(["set", kind] + ["%s=%s" % arg for arg in event.args.items()]))
        self.later(event.lasts, self.when_struck, event, MORE_TRIES, before, self.proxy.command, "clear " + kind)
        if kind == "slow_close":
            self.client_kill(event)
        return True

    # ---- streams and groups ----

    def delete(self, stream, entries):
        for entry_id, fields in entries:
            # noted first: should the answer be lost, it may be there still
            self.truth.deleted[(stream, entry_id)] = identity(fields)
        return self.redis.call("XDEL", stream, *[entry_id for entry_id, _ in entries]) > 0

    def xdel_new(self, event):
        stream = event.args["stream"]
        entries = self.redis.call("XREVRANGE", stream, "+", "-", "COUNT", event.args["count"])
        return bool(entries) and self.delete(stream, entries)

    def xdel_pending(self, event):
        stream = event.args["stream"]
        entries = []
        for row in self.redis.call("XPENDING", stream, event.args["pipeline"], "-", "+", event.args["count"]):
            entries += self.redis.call("XRANGE", stream, row[0], row[0])
        return bool(entries) and self.delete(stream, entries)

    def group(self, event):
        for group in self.redis.call("XINFO", "GROUPS", event.args["stream"]):
            group = as_dict(group)
            if group["name"] == event.args["pipeline"]:
                return group
        return None

    def xtrim(self, event):
        """Half of what was acknowledged and so is settled, the older one."""
        stream, pipeline = event.args["stream"], event.args["pipeline"]
        group = self.group(event)
        if group is None:
            return False
        # in this order: what is delivered later is above the first
        delivered = entry_key(group["last-delivered-id"])
        pending = self.redis.call("XPENDING", stream, pipeline)
        if pending[0]:
            delivered = min(delivered, (entry_key(pending[1])[0], entry_key(pending[1])[1] - 1))
        settled = [entry for entry in self.redis.call("XRANGE", stream, "-", "%d-%d" % (delivered[0], max(0, delivered[1])))
                   if entry_key(entry[0]) <= delivered]
        # what a group has passed may wait to be read again: only what the ledger has, for good
        ranges = self.settled(pipeline, stream)
        unsettled = [n for n, entry in enumerate(settled) if not is_in(ranges, entry_key(entry[0]))]
        settled = settled[:unsettled[0]] if unsettled else settled
        gone, kept = settled[:len(settled) // 2], settled[len(settled) // 2:]
        if not gone:
            return False
        for entry_id, fields in gone:
            self.truth.trimmed[(stream, entry_id)] = identity(fields)
        return self.redis.call("XTRIM", stream, "MINID", kept[0][0]) > 0

    def settled(self, pipeline, stream):
        ranges = settled_ranges(self.pg, "pipeline = '%s' AND stream = '%s'" % (pipeline, stream))
        self.pg.sql("SELECT txid_current()")  # a commit that is flushed, and all before it
        return ranges.get((pipeline, stream), [])

    def setid_back(self, event):
        group = self.group(event)
        first = self.redis.call("XRANGE", event.args["stream"], "-", "+", "COUNT", 1)
        if group is None or not first:
            return False
        low, high = entry_key(first[0][0])[0], entry_key(group["last-delivered-id"])[0]
        if high <= low:
            return False
        position = low + int((high - low) * event.args["part"])
        return self.redis.call("XGROUP", "SETID", event.args["stream"], event.args["pipeline"], "%d-0" % position) == "OK"

    def group_destroy(self, event):
        return self.redis.call("XGROUP", "DESTROY", event.args["stream"], event.args["pipeline"]) == 1

    def overlap(self, event):
        """Two workers get the same entries while the first has them in a transaction that takes long."""
        stream = pipeline = "shared"
        number = self.events
        before = self.strikes("point_sleep")
        self.pg.sql("SELECT streamsink.alter_pipeline('shared', workers => 3)")
        self.set_focus(pipeline)
        with self.lock:
            self.armed[number] = ["before-commit:sleep120"]
            self.write_faults()
        try:
            # until the workers have batches in hand and the next ones waiting
            time.sleep(0.4)
            for _ in range(event.args["times"]):
                poll(lambda: self.redis.call("XPENDING", stream, pipeline)[0] > 0, 3, "pending entries")
                lowest = entry_key(self.redis.call("XPENDING", stream, pipeline)[1] or "0-0")[0]
                if lowest:
                    self.redis.call("XGROUP", "SETID", stream, pipeline, "%d-0" % (lowest - 1))
                time.sleep(0.05)
            return self.strikes("point_sleep") > before
        finally:
            self.disarm(number)
            self.set_focus(None)

    def set_focus(self, pipeline):
        for producer in self.producers:
            producer.focus = pipeline

    def async_crash(self, event):
        """A crash behind an acknowledgement, where nobody else's commit flushed that of its batch."""
        number = self.events
        before = self.strikes("point_kill")
        self.set_focus("async")
        try:
            time.sleep(0.5)
            with self.lock:
                self.armed[number] = ["after-ack:kill%%%d" % event.args["nth"]]
                self.write_faults()
            return poll(lambda: self.strikes("point_kill") > before, 3, "a crash")
        finally:
            self.disarm(number)
            self.set_focus(None)

    def delconsumer(self, event):
        consumers = [as_dict(c) for c in self.redis.call("XINFO", "CONSUMERS", event.args["stream"], event.args["pipeline"])]
        consumers = [c["name"] for c in consumers if c["pending"] > 0]
        if not consumers:
            return False
        return self.redis.call("XGROUP", "DELCONSUMER", event.args["stream"], event.args["pipeline"],
                               consumers[event.args["which"] % len(consumers)]) > 0

    def setid_forward(self, event):
        return self.redis.call("XGROUP", "SETID", event.args["stream"], event.args["pipeline"], "$") == "OK"

    # ---- SQL ----

    def alter_column(self, event):
        table = event.args["pipeline"]
        name = "extra%d" % self.events
        drop = ", DROP COLUMN " + self.added[table] if table in self.added else ""
        self.pg.sql("SET lock_timeout = '3s'", "ALTER TABLE %s ADD COLUMN %s int DEFAULT 7%s" % (table, name, drop))
        self.added[table] = name
        return True

    def alter_constraint(self, event):
        table = event.args["pipeline"]
        self.pg.sql("SET lock_timeout = '3s'", "ALTER TABLE %s DROP CONSTRAINT IF EXISTS sane" % table,
                    "ALTER TABLE %s ADD CONSTRAINT sane CHECK (p >= 0 AND n >= 0)" % table)
        return True

    def lock_table(self, event):
        table = event.args["pipeline"]
        self.sessions.append(self.pg.script(
            "SET lock_timeout = '3s'; BEGIN; LOCK TABLE %s; SELECT pg_sleep(%s); COMMIT;" % (table, event.lasts)))
        query = "SELECT 1 FROM pg_locks WHERE relation = '%s'::regclass AND mode = 'AccessExclusiveLock' AND granted" % table
        try:
            return poll(lambda: len(self.pg.sql(query)) == 1, 2, "a lock")
        except TimeoutError:
            return False

    def start(self, pipeline):
        """Whatever else happens, it is to run again."""
        def attempt():
            try:
                self.pg.sql("SELECT streamsink.start('%s')" % pipeline)
                return True
            except Unavailable:
                return False
        poll(attempt, 30, "a start")

    def stop_start(self, event):
        pipeline = event.args["pipeline"]
        try:
            self.pg.sql("SELECT streamsink.stop('%s')" % pipeline)
            poll(lambda: self.pg.sql("SELECT 1 FROM streamsink.workers WHERE pipeline = '%s'" % pipeline) == [], 5, "workers to leave")
            if event.args["ingest"]:
                self.pg.sql("CALL streamsink.ingest('%s', 3)" % pipeline)
            return True
        except TimeoutError:
            return False
        finally:
            self.start(pipeline)

    def restart(self, event):
        self.pg.sql("SELECT streamsink.restart('%s')" % event.args["pipeline"])
        return True

    def change_workers(self, event):
        self.pg.sql("SELECT streamsink.alter_pipeline('%s', workers => %d)" % (event.args["pipeline"], event.args["workers"]))
        return True

    def rollback(self, event):
        name = event.args["pipeline"]
        self.pg.sql("BEGIN", "SELECT streamsink.stop('%s')" % name, "SELECT streamsink.alter_pipeline('%s', batch_size => 1)" % name,
                    "TRUNCATE %s" % name, "ROLLBACK")
        return True

    def retry_dead_letters(self, event):
        name = event.args["pipeline"]
        done = self.pg.sql(
            "UPDATE streamsink.dead_letters SET fields = fields || '{\"v\": \"7\"}' WHERE pipeline = '%s' AND id %% 3 < %d" % (name, event.args["mend"]),
            "SELECT streamsink.retry_dead_letters('%s')" % name)
        return int(done[-1][0]) > 0
