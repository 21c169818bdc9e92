"""The harness itself: the same seed makes the same schedule, and what is wrong is seen."""

import os
import pathlib
import re
import subprocess
import sys
import unittest

import schedule
from check import Check
from faults import Truth

HERE = os.path.dirname(os.path.abspath(__file__))


def printed(*arguments):
    return subprocess.run([sys.executable, "-B", os.path.join(HERE, "torture.py"), "--schedule"] + list(arguments),
                          check=True, stdout=subprocess.PIPE).stdout.decode()


class ScheduleTest(unittest.TestCase):
    def test_same_seed_same_schedule(self):
        first = printed("--seed", "7", "--seconds", "60")
        self.assertEqual(first, printed("--seed", "7", "--seconds", "60"))
        self.assertNotEqual(first, printed("--seed", "8", "--seconds", "60"))

    def test_every_kind_is_there(self):
        for seed in range(20):
            kinds = {event.kind for event in schedule.make(seed, 5)}
            self.assertEqual(kinds, set(schedule.KINDS))

    def test_a_seed_is_printed(self):
        self.assertRegex(printed("--seconds", "10"), r"^# seed \d+, 10 s: make torture SECONDS=10 SEED=\d+\n")

    def test_what_loses_entries_is_asked_for(self):
        self.assertNotRegex(printed("--seed", "1", "--seconds", "600"), "redis_restore|setid_forward")
        self.assertRegex(printed("--seed", "1", "--seconds", "60", "--setid-forward"), "setid_forward")
        losing = printed("--seed", "1", "--seconds", "600", "--lose-tail")
        self.assertRegex(losing, "redis_restore")
        self.assertNotRegex(losing, "redis_kill")


class FakeRedis:
    """Answers as if every stream were empty but one of them."""

    def __init__(self, entries, pending=0):
        self.entries, self.pending = entries, pending

    def call(self, name, *words):
        if name == "XRANGE":
            return self.entries if words[0] == "shared" else []
        if name == "XINFO":
            return ["last-generated-id", "9-0"]
        if len(words) > 2:
            return []
        return [self.pending if words[0] == "shared" else 0, "1-0", "1-0", []]


class FakePostgres:
    def __init__(self, rows=(), letters=(), ranges=(("1-0", "2-1"),), counters=None, log="", twins=()):
        self.rows, self.letters, self.ranges, self.text, self.twins = rows, letters, ranges, log, twins
        self.counters = counters or [str(n) for n in (3, len(rows), len(letters), 3 - len(rows) - len(letters), 0, 0, 0)]

    def log(self):
        return self.text

    def sql(self, query, timeout=0):
        if "dead_letters" in query:
            return [list(row) for row in self.letters] if "'shared'" in query else []
        if "xform_side" in query:
            return [list(row) for row in self.twins]
        if "unnest" in query:
            return [["shared", "shared", low, high] for low, high in self.ranges]
        if "status" in query:
            return [["shared"] + list(self.counters)]
        return [list(row) for row in self.rows] if "FROM shared " in query else []


class Producer:
    number = 0

    def __init__(self, acked=None):
        self.acked = acked or {}


def fields(n):
    return ["p", "0", "n", str(n), "v", "1"]


class CheckTest(unittest.TestCase):
    ENTRIES = [["1-0", fields(1)], ["2-0", fields(2)]]
    ROW = ("shared", "1-0", "0", "1")
    LETTER = ("shared", "2-0", "0", "2")

    def check(self, redis=None, truth=None, producers=(), struck=None, **pg):
        class Servers:
            pass
        servers = Servers()
        servers.redis = redis or FakeRedis(self.ENTRIES)
        servers.pg = FakePostgres(**dict({"rows": [self.ROW], "letters": [self.LETTER]}, **pg))
        return "\n".join(Check(servers, truth or Truth(), producers, struck or {"any": 1}).run())

    def test_all_is_well(self):
        self.assertEqual(self.check(), "")

    def test_twins(self):
        self.assertRegex(self.check(twins=[("0", "7", "xform")]), "producer 0, number 7: only in table xform")

    def test_lost(self):
        problems = self.check(rows=[])
        self.assertRegex(problems, "producer 0, number 1: entry 1-0 of stream shared, pipeline shared: 0 rows, 0 dead letters")
        self.assertRegex(problems, "ledger: settled, in 1-0 to 2-0")

    def test_doubled(self):
        self.assertRegex(self.check(rows=[self.ROW, self.ROW]), "entry 1-0 .* 2 rows")
        self.assertRegex(self.check(letters=[self.LETTER, ("shared", "1-0", "0", "1")]), "entry 1-0 .* 1 rows, 1 dead letters")

    def test_out_of_nowhere(self):
        self.assertRegex(self.check(rows=[self.ROW, ("shared", "5-0", "0", "5")]), "entry 5-0 of stream shared is in the database and was never")

    def test_exchanged(self):
        self.assertRegex(self.check(rows=[("shared", "1-0", "0", "7")]), r"entry 1-0 of stream shared is \(0, 1\) in the stream and \[\(0, 7\)\]")

    def test_deleted_may_be_gone_and_not_twice(self):
        truth = Truth()
        truth.deleted[("shared", "1-0")] = (0, 1)
        self.assertEqual(self.check(truth=truth, rows=[]), "")
        self.assertRegex(self.check(truth=truth, rows=[self.ROW, self.ROW]), "entry 1-0")

    def test_lost_by_redis_may_be_there_once(self):
        truth = Truth()
        truth.lost[("shared", "3-0")] = (0, 3)
        row = ("shared", "3-0", "0", "3")
        self.assertEqual(self.check(truth=truth, producers=[Producer({("shared", "3-0"): 3})]), "")
        self.assertEqual(self.check(truth=truth, rows=[self.ROW, row]), "")
        self.assertRegex(self.check(truth=truth, rows=[self.ROW, row, row]), "entry 3-0 .* 2 rows")

    def test_trimmed_must_be_there(self):
        truth = Truth()
        truth.trimmed[("shared", "1-0")] = (0, 1)
        redis = FakeRedis(self.ENTRIES[1:])
        self.assertEqual(self.check(truth=truth, redis=redis), "")
        self.assertRegex(self.check(truth=truth, redis=redis, rows=[]), "entry 1-0")

    def test_redis_lost_it(self):
        self.assertRegex(self.check(producers=[Producer({("shared", "3-0"): 3})]), "Redis took entry 3-0")

    def test_pending(self):
        self.assertRegex(self.check(redis=FakeRedis(self.ENTRIES, 4)), "4 entries of stream shared are pending still")

    def test_ledger(self):
        self.assertRegex(self.check(ranges=[("1-0", "1-1")]), "entry 2-0 of stream shared is not in the ledger")
        self.assertRegex(self.check(ranges=[("1-0", "2-5")]), "interval that ends at 2-4")
        self.assertRegex(self.check(ranges=[("1-0", "20-0")]), "beyond its last entry")

    def test_counters(self):
        self.assertRegex(self.check(counters=("4", "2", "1", "0", "0", "0", "0")), "do not add up")

    def test_log(self):
        for line in ("PANIC:  x", "ERROR:  cache lookup failed for type 7", "ERROR:  entry 3 of a batch was left undecided",
                     "LOG:  background worker (PID 7) was terminated by signal 11: Segmentation fault"):
            self.assertIn("the server's log has: " + line, self.check(log=line))
        self.assertEqual(self.check(log="LOG:  worker (PID 7) was terminated by signal 9: Killed"), "")

    def test_vacuous(self):
        self.assertRegex(self.check(struck={"redis_kill": 0}), "the fault redis_kill never struck")


class ListsTest(unittest.TestCase):
    def test_points_exist(self):
        """A point of that name is compiled in: else it could never strike."""
        source = os.path.join(HERE, "..", "..", "src")
        there = set()
        for path in pathlib.Path(source).glob("*.c"):
            there.update(re.findall(r'SS_FAULT\("([a-z-]+)"\)', path.read_text()))
        self.assertEqual(set(schedule.COMMON_POINTS + schedule.RARE_POINTS) - there, set())


if __name__ == "__main__":
    unittest.main()
