"""Tests of results.py, check.py and report.py with made-up results: python3 -m unittest."""

import copy
import json
import os
import tempfile
import unittest

import check
import report
from results import Results, ResultsError, Spread, load

SPEEDS = {"copy_1000": 100, "drain_5000": 200, "w1_b1000": 95, "w1_b5000": 160, "py_copy": 10, "py2_copy": 15,
          "streams_1000": 70, "streams_10000": 50, "bad_1pct": 60}
GROUPS = {"copy_1000": "limits", "drain_5000": "limits", "w1_b1000": "streamsink", "w1_b5000": "streamsink",
          "py_copy": "peers", "py2_copy": "peers"}
TARGETS = ("copy", "drain", "peer", "streams_1000", "streams_10000", "bad", "latency", "cpu", "memory")


def made_up(rounds=3):
    """All targets met.  The machine is half as fast in each round as in the one before."""
    runs = [{"case": case, "round": number, "entries": 1000, "seconds": 2 ** number / speed, "cpu_seconds": 0.5,
             "redis_cpu_seconds": None, "private_kb": 5000, "wal_bytes": 300000, "commits": 1}
            for number in range(1, rounds + 1) for case, speed in SPEEDS.items()]
    latency = [{"rate": 1000, "round": number, "entries": 1000, "p50_ms": 1, "p99_ms": 2, "p999_ms": 3, "max_ms": 4}
               for number in range(1, rounds + 1)]
    return {"format": 1, "quick": False, "entries": 1000, "rounds": rounds, "seed": 1, "machine": {"rsyslog": None},
            "started_at": "2026-03-01T12:00:00Z", "runs": runs, "latency": latency, "skipped": [],
            "cases": [{"case": case, "group": GROUPS.get(case, "shapes"), "title": "title of " + case}
                      for case in SPEEDS],
            "memory": [{"entries": 1000 * n, "private_kb": 5000 + n} for n in range(1, 21)]}


def find(raw, case, number):
    return next(run for run in raw["runs"] if (run["case"], run["round"]) == (case, number))


def faster(raw, case, factors):
    """The runs of a case, round by round, that many times as fast."""
    for number, factor in enumerate(factors, 1):
        find(raw, case, number)["seconds"] /= factor


def without(raw, case, number=None):
    raw["runs"] = [run for run in raw["runs"] if run["case"] != case or number not in (None, run["round"])]


def skip(raw, case, reason="not on this system"):
    raw["skipped"].append({"case": case, "title": "title of " + case, "reason": reason})


class FormatTest(unittest.TestCase):
    def refused(self, change, message):
        raw = made_up()
        change(raw)
        with self.assertRaisesRegex(ResultsError, message):
            Results(raw)

    def test_what_is_wrong_is_said(self):
        self.refused(lambda raw: raw.update(format=2), '"format" must be 1')
        self.refused(lambda raw: raw.pop("rounds"), 'result file: "rounds" is missing')
        self.refused(lambda raw: raw["runs"][2].update(seconds=0), r'runs\[2\]: "seconds" must be a number above 0')
        self.refused(lambda raw: raw["runs"][0].update(seconds=float("inf")), '"seconds" must be a number above 0')
        self.refused(lambda raw: raw["runs"][0].update(entries=True), '"entries" must be a whole number above 0')
        self.refused(lambda raw: raw["runs"][1].update(wal_bytes="1"), '"wal_bytes" must be a number of 0 or more')
        self.refused(lambda raw: raw["runs"][0].update(case="other"), '"other" is not listed')
        self.refused(lambda raw: raw["runs"].append(raw["runs"][0]), "another one with case copy_1000, round 1")
        self.refused(lambda raw: raw["runs"][0].update(round=4), "round 4 of 3")
        self.refused(lambda raw: skip(raw, "rsyslog", " "), r'skipped\[0\]: "reason" must be a text')

    def test_no_file_and_no_json(self):
        with self.assertRaisesRegex(ResultsError, "/nowhere/x.json: .*No such file"):
            load("/nowhere/x.json")
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write("{")
            file.flush()
            with self.assertRaisesRegex(ResultsError, os.path.basename(file.name)):
                load(file.name)

    def test_latency_of_one_stream_need_not_say_so(self):
        raw = made_up()
        raw["latency"].append({**raw["latency"][0], "streams": 10000, "p99_ms": 50})
        self.assertEqual(Results(raw).latency(1, 1000, "p99_ms"), Spread(2, 2, 2, 3))
        self.assertEqual(Results(raw).latency(10000, 1000, "p99_ms").median, 50)


class RatioTest(unittest.TestCase):
    def test_paired_by_round(self):
        found = Results(made_up()).ratio("w1_b1000", "copy_1000")
        for value in found[:3]:
            self.assertAlmostEqual(value, 0.95)

    def test_median_lowest_highest(self):
        raw = made_up()
        faster(raw, "w1_b1000", (2, 1, 4))
        found = Results(raw).ratio("w1_b1000", "copy_1000")
        for value, expected in zip(found, (1.9, 0.95, 3.8, 3)):
            self.assertAlmostEqual(value, expected)

    def test_missing_round_is_left_out(self):
        raw = made_up()
        faster(raw, "w1_b1000", (1, 1, 4))
        without(raw, "copy_1000", 3)
        found = Results(raw).ratio("w1_b1000", "copy_1000")
        self.assertEqual(found.count, 2)
        self.assertAlmostEqual(found.high, 0.95)

    def test_never_in_the_same_round(self):
        raw = made_up(2)
        without(raw, "copy_1000", 1)
        without(raw, "w1_b1000", 2)
        self.assertIsNone(Results(raw).ratio("w1_b1000", "copy_1000"))

    def test_best_peer_of_each_round(self):
        raw = made_up()
        faster(raw, "py_copy", (1, 3, 1))
        self.assertAlmostEqual(Results(raw).ratio("w1_b1000", "py_copy", "py2_copy").low, 95 / 30)

    def test_round_without_a_peer_is_no_better_round(self):
        raw = made_up()
        without(raw, "py2_copy", 1)
        self.assertAlmostEqual(Results(raw).ratios()["w1_b1000/best peer"].spread.high, 95 / 15)

    def test_null_is_not_zero(self):
        raw = made_up()
        for run in raw["runs"]:
            run["cpu_seconds"] = None
        self.assertNotIn("CPU w1_b1000/copy_1000", Results(raw).ratios())


class TargetTest(unittest.TestCase):
    def met(self, raw):
        return dict(zip(TARGETS, (target.met for target in Results(raw).targets())))

    def missed(self, change):
        raw = made_up()
        change(raw)
        self.assertEqual(len(check.missed_targets(Results(raw))[0]), list(self.met(raw).values()).count(False))
        return [name for name, met in self.met(raw).items() if met is not True]

    def test_all_met(self):
        self.assertEqual(self.missed(lambda raw: None), [])

    def test_missed(self):
        for case, name in (("w1_b5000", "drain"), ("streams_1000", "streams_1000"), ("bad_1pct", "bad"),
                           ("streams_10000", "streams_10000"), ("w1_b1000", "copy")):
            self.assertIn(name, self.missed(lambda raw, case=case: faster(raw, case, (0.7, 0.7, 0.7))))
        self.assertEqual(self.missed(lambda raw: faster(raw, "py_copy", (3, 3, 3))), ["peer"])
        self.assertEqual(self.missed(lambda raw: [item.update(p99_ms=10) for item in raw["latency"]]), ["latency"])
        self.assertEqual(self.missed(lambda raw: raw["memory"][9].update(private_kb=7000)), ["memory"])
        self.assertEqual(self.missed(lambda raw: [find(raw, "w1_b1000", n).update(cpu_seconds=0.7)
                                                  for n in (1, 2, 3)]), ["cpu"])

    def test_median_decides(self):
        self.assertEqual(self.missed(lambda raw: faster(raw, "w1_b5000", (0.1, 1, 1))), [])

    def test_memory_may_grow_at_first(self):
        self.assertEqual(self.missed(lambda raw: raw["memory"][0].update(private_kb=10)), [])

    def test_memory_of_a_large_process_may_grow_by_a_tenth(self):
        sizes = [{"entries": n, "private_kb": 100000 + 9000 * (n % 2)} for n in range(1, 21)]
        self.assertEqual(self.missed(lambda raw: raw.update(memory=sizes)), [])

    def test_not_measured_needs_a_reason(self):
        raw = made_up()
        without(raw, "drain_5000")
        self.assertIsNone(self.met(raw)["drain"])
        self.assertRegex(check.missed_targets(Results(raw))[0][0], "not measured, and no reason")
        skip(raw, "drain_5000")
        self.assertEqual(check.missed_targets(Results(raw))[0], [])

    def test_no_peer_ran(self):
        raw = made_up()
        for peer, count in (("py_copy", 1), ("py2_copy", 0)):
            without(raw, "py_copy")
            without(raw, "py2_copy")
            skip(raw, peer)
            self.assertEqual(len(check.missed_targets(Results(raw))[0]), count)


class CheckTest(unittest.TestCase):
    def failures(self, change, before=lambda raw: None, tolerance=0.2):
        old, new = made_up(), made_up()
        before(old)
        change(new)
        baseline = json.loads(json.dumps(check.make_baseline(Results(old))))
        check.check_baseline(baseline)
        return check.compare(Results(new), baseline, tolerance)[0]

    def test_same(self):
        self.assertEqual(self.failures(lambda raw: None), [])

    def test_regression(self):
        found = self.failures(lambda raw: faster(raw, "streams_1000", (0.7, 0.75, 0.72)))
        self.assertEqual(len(found), 1)
        self.assertRegex(found[0], r"regression: streams_1000/w1_b1000: 0\.53 .*baseline 0\.74 .*-28 %")

    def test_within_tolerance(self):
        def change(raw):
            faster(raw, "streams_1000", (0.85, 0.85, 0.85))
        self.assertEqual(self.failures(change), [])
        self.assertEqual(len(self.failures(change, tolerance=0.1)), 1)

    def test_noise_of_this_run(self):
        self.assertEqual(self.failures(lambda raw: faster(raw, "streams_1000", (0.5, 0.6, 1.1))), [])

    def test_noise_of_the_baseline(self):
        self.assertEqual(self.failures(lambda raw: faster(raw, "streams_1000", (0.7, 0.7, 0.7)),
                                       lambda raw: faster(raw, "streams_1000", (0.6, 1, 1.1))), [])

    def test_slower_machine(self):
        self.assertEqual(self.failures(lambda raw: [faster(raw, case, (0.1, 0.2, 0.3)) for case in SPEEDS]), [])

    def test_more_cpu_is_worse_and_less_is_not(self):
        for seconds, count in ((0.8, 1), (0.2, 0)):
            found = self.failures(lambda raw, s=seconds: [find(raw, "w1_b1000", n).update(cpu_seconds=s)
                                                          for n in (1, 2, 3)])
            self.assertEqual(len(found), count)

    def test_missing_case(self):
        found = self.failures(lambda raw: without(raw, "bad_1pct"))
        self.assertEqual(found, ["missing: bad_1pct: did not run, and no reason is given"])

    def test_case_that_is_no_longer_listed(self):
        def change(raw):
            without(raw, "bad_1pct")
            raw["cases"] = [case for case in raw["cases"] if case["case"] != "bad_1pct"]
        self.assertEqual(len(self.failures(change)), 1)

    def test_skipped_case(self):
        self.assertEqual(self.failures(lambda raw: (without(raw, "bad_1pct"), skip(raw, "bad_1pct"))), [])

    def test_ratio_that_cannot_be_had(self):
        found = self.failures(lambda raw: find(raw, "w1_b1000", 1).update(cpu_seconds=None) or [
            find(raw, "copy_1000", n).update(cpu_seconds=None) for n in (2, 3)])
        self.assertRegex(found[0], "missing: CPU w1_b1000/copy_1000")

    def test_baseline_that_is_none(self):
        for raw in ([], {"format": 2}, made_up()):
            with self.assertRaises(ResultsError):
                check.check_baseline(copy.deepcopy(raw))


class ReportTest(unittest.TestCase):
    def table(self, raw, heading):
        blocks = report.report_blocks(Results(raw))
        at = next(i for i, block in enumerate(blocks) if block[0] == "heading" and block[1].startswith(heading))
        return next(block for block in blocks[at:] if block[0] == "table")[2]

    def test_null_is_a_dash(self):
        self.assertEqual(self.table(made_up(), "Limits")[0],
                         ["title of copy_1000", "25,000", "12,500–50,000", "base", "500.00", "-", "4.9", "300", "1"])

    def test_case_without_runs_is_skipped(self):
        raw = made_up()
        without(raw, "bad_1pct")
        without(raw, "py_copy")
        skip(raw, "py_copy")
        self.assertEqual(self.table(raw, "Skipped"), [
            ["title of py_copy", "not on this system"],
            ["title of bad_1pct", "no runs in the result file, and no reason given"]])
        self.assertEqual([row[0] for row in self.table(raw, "Peers")], ["title of py2_copy"])

    def test_missed_and_unmeasured_targets(self):
        raw = made_up()
        faster(raw, "w1_b5000", (0.874, 0.874, 0.874))
        raw["memory"] = []
        rows = self.table(raw, "Targets")
        self.assertEqual(rows[1][1:], ["0.699 (0.699–0.699)", "at least 0.7", "no"])
        self.assertEqual(rows[-1][1:], ["-", "at most 1,024 kB", "not measured"])

    def test_quick_run_says_so(self):
        self.table({**made_up(), "quick": True}, "Targets (quick run: indicative)")

    def test_nothing_measured(self):
        raw = {**made_up(), "runs": [], "latency": [], "memory": []}
        text = report.plain(report.report_blocks(Results(raw)))
        self.assertIn("None ran.", text)
        self.assertNotRegex(text, " yes$")


if __name__ == "__main__":
    unittest.main()
