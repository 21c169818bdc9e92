"""The result file of the benchmark: loaded, checked, and what is derived from it.

NOTES
    A ratio is the median of the rounds' ratios, never a ratio of medians: what
    disturbs the machine disturbs all of a round.  What was not measured is None.
"""

import json
import math
import operator
import statistics
from typing import NamedTuple

FORMAT = 1
GROUPS = ("limits", "streamsink", "peers", "shapes")
BASES = {"limits": "copy_1000", "streamsink": "copy_1000", "peers": "copy_1000", "shapes": "w1_b1000"}
BEST_PEER = "best peer"         # what a ratio is called that is to the best of them
LATENCY_RATE = 1000             # entries a second at which there is a target
MEMORY_FLAT_KB = 1024           # growth that is no growth, however small the process


class ResultsError(Exception):
    """A file that cannot be used, and why."""


# ---------------------------------------------------------------------------
# Format
# ---------------------------------------------------------------------------

def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


KINDS = {
    "text": (lambda v: isinstance(v, str) and v.strip() != "", "a text that is not empty"),
    "flag": (lambda v: isinstance(v, bool), "true or false"),
    "whole": (lambda v: is_number(v) and isinstance(v, int), "a whole number"),
    "count": (lambda v: is_number(v) and isinstance(v, int) and v > 0, "a whole number above 0"),
    "positive": (lambda v: is_number(v) and v > 0, "a number above 0"),
    "measure": (lambda v: is_number(v) and v >= 0, "a number of 0 or more"),
    "measure?": (lambda v: v is None or is_number(v) and v >= 0, "a number of 0 or more, or null"),
    "group": (lambda v: v in GROUPS, "one of " + ", ".join(GROUPS)),
    "list": (lambda v: isinstance(v, list), "a list"),
    "object": (lambda v: isinstance(v, dict), "an object"),
}

TOP = {"quick": "flag", "entries": "count", "rounds": "count", "seed": "whole", "started_at": "text", "machine": "object",
       "cases": "list", "runs": "list", "latency": "list", "memory": "list", "skipped": "list"}
LISTS = {
    "cases": {"case": "text", "group": "group", "title": "text"},
    "runs": {"case": "text", "round": "count", "entries": "count", "seconds": "positive",
             "cpu_seconds": "measure?", "redis_cpu_seconds": "measure?", "private_kb": "measure?",
             "wal_bytes": "measure?", "commits": "measure?"},
    "latency": {"rate": "positive", "streams": "count", "round": "count", "entries": "count", "p50_ms": "measure",
                "p99_ms": "measure", "p999_ms": "measure", "max_ms": "measure", "paused_ms": "measure?",
                "running_p99_ms": "measure?"},
    "memory": {"entries": "count", "private_kb": "measure"},
    "skipped": {"case": "text", "title": "text", "reason": "text"},
}
# What may occur once only in a list.
KEYS = {"cases": ("case",), "runs": ("case", "round"), "latency": ("rate", "streams", "round"),
        "memory": ("entries",), "skipped": ("case",)}


def check_fields(item, fields, where):
    if not isinstance(item, dict):
        raise ResultsError(f"{where}: must be an object")
    for name, kind in fields.items():
        valid, what = KINDS[kind]
        if name not in item:
            raise ResultsError(f'{where}: "{name}" is missing')
        if not valid(item[name]):
            raise ResultsError(f'{where}: "{name}" must be {what}, not {json.dumps(item[name])}')


def check_list(raw, name):
    seen = set()
    for number, item in enumerate(raw[name]):
        where = f"{name}[{number}]"
        check_fields(item, LISTS[name], where)
        key = tuple(item[k] for k in KEYS[name])
        if key in seen:
            raise ResultsError(f"{where}: there is another one with "
                               + ", ".join(f"{k} {item[k]}" for k in KEYS[name]))
        seen.add(key)
        if name == "runs" and item.get("round", 1) > raw["rounds"]:  # latency is measured several times a round
            raise ResultsError(f'{where}: round {item["round"]} of {raw["rounds"]}')


def add_defaults(raw):
    """What a file may leave out: latency is that of one stream."""
    if isinstance(raw, dict) and isinstance(raw.get("latency"), list):
        latency = [{"streams": 1, "paused_ms": None, "running_p99_ms": None, **item} if isinstance(item, dict) else item for item in raw["latency"]]
        return {**raw, "latency": latency}
    return raw


def check_format(raw):
    """Raises ResultsError if RAW is no result file."""
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ResultsError(f'"format" must be {FORMAT}: no result file of this benchmark')
    check_fields(raw, TOP, "result file")
    for name in LISTS:
        check_list(raw, name)
    known = {case["case"] for case in raw["cases"]}
    for number, run in enumerate(raw["runs"]):
        if run["case"] not in known:
            raise ResultsError(f'runs[{number}]: case "{run["case"]}" is not listed in "cases"')


def read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: {error}") from None


def load(path):
    """The Results of a file; raises ResultsError."""
    raw = read_json(path)
    try:
        return Results(raw)
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from None


# ---------------------------------------------------------------------------
# Medians and ratios
# ---------------------------------------------------------------------------

class Spread(NamedTuple):
    median: float
    low: float
    high: float
    count: int


def spread(values):
    """Of those that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), min(known), max(known), len(known)) if known else None


class Ratio(NamedTuple):
    """One thing divided by another, and the cases both were taken from."""
    spread: Spread
    cases: tuple
    more_is_better: bool = True


def throughput(run):
    return run["entries"] / run["seconds"]


def per_entry(field):
    """What reads FIELD of a run, divided by its entries, or None."""
    return lambda run: None if run[field] is None else run[field] / run["entries"]


class Results:
    """A valid result file; cases by name, runs by case and round."""

    def __init__(self, raw):
        raw = add_defaults(raw)
        check_format(raw)
        self.raw = raw
        self.quick, self.entries, self.rounds = raw["quick"], raw["entries"], raw["rounds"]
        self.cases = {case["case"]: case for case in raw["cases"]}
        self.skipped = {item["case"]: item for item in raw["skipped"]}
        self.memory = sorted(raw["memory"], key=lambda point: point["entries"])
        self.rates = sorted({(item["streams"], item["rate"]) for item in raw["latency"]})
        self._runs = {}
        for run in raw["runs"]:
            self._runs.setdefault(run["case"], {})[run["round"]] = run

    def runs(self, case):
        """{round: run}; empty if it never ran."""
        return self._runs.get(case, {})

    def listed(self, group):
        return [name for name, case in self.cases.items() if case["group"] == group]

    def ran(self, group):
        return [name for name in self.listed(group) if self.runs(name)]

    def best_peer(self):
        """By its median; None if none ran."""
        return max(self.ran("peers"), key=lambda case: self.measure(case, throughput).median, default=None)

    def without_runs(self):
        """(case, title, reason) of those that did not run; reason None if none is given."""
        names = list(self.cases) + [name for name in self.skipped if name not in self.cases]
        return [(name, (self.cases.get(name) or self.skipped[name])["title"],
                 self.skipped[name]["reason"] if name in self.skipped else None)
                for name in names if not self.runs(name)]

    def excused(self, names):
        """Whether one of them was skipped for a reason; a quick run has no long run."""
        return any(name in self.skipped or (name == "memory" and self.quick) for name in names)

    def measure(self, case, value):
        """Spread of VALUE, a function of a run, over the rounds."""
        return spread(value(run) for run in self.runs(case).values())

    def ratio(self, case, *bases, value=throughput):
        """Spread of VALUE of CASE by the highest of the bases in the same round, or None.

        Only rounds that have all of them count: the best one may be what is missing.
        """
        ratios = []
        for number, run in self.runs(case).items():
            below = [value(self.runs(base)[number]) for base in bases if number in self.runs(base)]
            above = value(run)
            if below and len(below) == len(bases) and None not in below + [above] and max(below) > 0:
                ratios.append(above / max(below))
        return spread(ratios)

    def latency(self, streams, rate, field):
        return spread(item[field] for item in self.raw["latency"] if (item["streams"], item["rate"]) == (streams, rate))

    def settled_memory(self):
        """The points after the first tenth of the long run; [] if there is but one."""
        points = [p for p in self.memory if p["entries"] > self.memory[-1]["entries"] / 10]
        return points if len(points) > 1 else []

    def ratios(self):
        """{name: Ratio} of all that has one: what targets and the regression check look at."""
        pairs = [(case, BASES[group]) for group in ("streamsink", "shapes") for case in self.ran(group)]
        found = {f"{case}/{base}": Ratio(self.ratio(case, base), (case, base))
                 for case, base in pairs + [("w1_b5000", "drain_5000")]}
        peers = self.ran("peers")
        found[f"w1_b1000/{BEST_PEER}"] = Ratio(self.ratio("w1_b1000", *peers), ("w1_b1000", *peers))
        found["CPU w1_b1000/copy_1000"] = Ratio(
            self.ratio("w1_b1000", "copy_1000", value=per_entry("cpu_seconds")), ("w1_b1000", "copy_1000"), False)
        return {name: ratio for name, ratio in found.items() if ratio.spread is not None}

    def targets(self):
        ratios = self.ratios()
        return [ratio_target(self, ratios, *target) for target in SPEED_TARGETS] + [
            latency_target(self), ratio_target(self, ratios, *CPU_TARGET), memory_target(self)]


# ---------------------------------------------------------------------------
# Targets
# ---------------------------------------------------------------------------

class Target(NamedTuple):
    """What is measured is in UNIT, BOUND too; met is None if it was not measured."""
    text: str
    spread: Spread
    relation: str
    bound: float
    unit: str
    needs: tuple                # if one of these was skipped, it cannot be measured

    @property
    def met(self):
        return None if self.spread is None else RELATIONS[self.relation](self.spread.median, self.bound)


RELATIONS = {"at least": operator.ge, "at most": operator.le, "below": operator.lt}

# Text, the ratio's two sides, what it shall be.
SPEED_TARGETS = (
    ("1 worker, 1,000 a batch, to COPY of 1,000 rows a transaction", "w1_b1000", "copy_1000", "at least", 0.9),
    ("1 worker, 5,000 a batch, to a bare drain of 5,000 a read", "w1_b5000", "drain_5000", "at least", 0.7),
    ("1 worker, 1,000 a batch, to the best peer", "w1_b1000", BEST_PEER, "at least", 5),
    ("1,000 streams, to 1 worker, 1,000 a batch", "streams_1000", "w1_b1000", "at least", 0.6),
    ("10,000 streams, to 1 worker, 1,000 a batch", "streams_10000", "w1_b1000", "at least", 0.4),
    ("1 % bad entries, to 1 worker, 1,000 a batch", "bad_1pct", "w1_b1000", "at least", 0.5),
)
CPU_TARGET = ("CPU seconds an entry, 1 worker, 1,000 a batch, to COPY of 1,000 rows a transaction",
              "CPU w1_b1000", "copy_1000", "at most", 1.3)


def ratio_target(results, ratios, text, above, below, relation, bound):
    found = ratios.get(f"{above}/{below}")
    needs = (above.removeprefix("CPU "), below)
    if below == BEST_PEER:
        best = results.best_peer()
        text += f" ({results.cases[best]['title']})" if best else ""
        peers = results.listed("peers")
        needs = needs[:1] + (tuple(peers) if all(results.excused([peer]) for peer in peers) else ())
    return Target(text, found and found.spread, relation, bound, "", needs)


def latency_target(results):
    return Target(f"99th percentile of latency at {LATENCY_RATE:,} entries/s",
                  results.latency(1, LATENCY_RATE, "p99_ms"), "below", 10, "ms", ("latency",))


def memory_target(results):
    """One long run, so no spread: highest less lowest once it has warmed up."""
    sizes = [point["private_kb"] for point in results.settled_memory()]
    growth = spread([max(sizes) - min(sizes)]) if sizes else None
    bound = max(min(sizes) / 10, MEMORY_FLAT_KB) if sizes else MEMORY_FLAT_KB
    return Target("private memory over the long run, highest less lowest", growth, "at most", bound, "kB",
                  ("memory",))
