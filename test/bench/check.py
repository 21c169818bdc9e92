#!/usr/bin/env python3
"""check.py: has streamsink become slower, beside what else ran in the same rounds?

NOTES
    Only ratios are looked at, never times: those of two machines, or of one on
    two days, cannot be compared.
    A ratio fails if its median is worse than the baseline's by more than the
    tolerance and each median lies outside the other's spread: noise does that
    to one of the two, not to both.
    Exit status: 0 all is well, 1 something is not, 2 a file cannot be used.
"""

import argparse
import json
import sys

from results import KINDS, ResultsError, Spread, check_fields, load, read_json

BASELINE = {"quick": "flag", "entries": "count", "rounds": "count", "cases": "list", "ratios": "object"}
RATIO = {"median": "positive", "low": "positive", "high": "positive", "cases": "list"}


# ---------------------------------------------------------------------------
# The baseline: ratios with their spread, and which cases ran
# ---------------------------------------------------------------------------

def make_baseline(results):
    ratios = results.ratios()
    if not ratios:
        raise ResultsError("no ratio in it: neither streamsink nor shapes ran beside its base")
    return {
        "format": 1,
        "quick": results.quick,
        "entries": results.entries,
        "rounds": results.rounds,
        "cases": [name for name in results.cases if results.runs(name)],
        "ratios": {name: {"median": round(ratio.spread.median, 4), "low": round(ratio.spread.low, 4),
                          "high": round(ratio.spread.high, 4), "cases": list(ratio.cases)}
                   for name, ratio in ratios.items()},
    }


def check_baseline(raw):
    """Raises ResultsError if RAW is no baseline."""
    if not isinstance(raw, dict) or raw.get("format") != 1:
        raise ResultsError('"format" must be 1: no baseline')
    check_fields(raw, BASELINE, "baseline")
    for name, ratio in raw["ratios"].items():
        check_fields(ratio, RATIO, f'ratio "{name}"')
        if not ratio["low"] <= ratio["median"] <= ratio["high"]:
            raise ResultsError(f'ratio "{name}": its median is not between "low" and "high"')
    if not all(KINDS["text"][0](name) for name in raw["cases"]):
        raise ResultsError('"cases" must be a list of names')


def load_baseline(path):
    raw = read_json(path)
    try:
        check_baseline(raw)
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from None
    return raw


# ---------------------------------------------------------------------------
# Comparing
# ---------------------------------------------------------------------------

def is_worse(new, old, tolerance, more_is_better=True):
    """By more than the tolerance, and by more than the noise of both."""
    if more_is_better:
        return new.median < old.median * (1 - tolerance) and new.median < old.low and old.median > new.high
    return new.median > old.median * (1 + tolerance) and new.median > old.high and old.median < new.low


def missing_cases(results, baseline):
    """A line for each case that did not run and gives no reason."""
    names = list(dict.fromkeys([*results.cases, *baseline["cases"]]))
    return [f"missing: {name}: did not run, and no reason is given"
            for name in names if not results.runs(name) and not results.excused([name])]


def compare(results, baseline, tolerance):
    """Lines of what has failed, and how many ratios were compared."""
    failures, compared = missing_cases(results, baseline), 0
    ratios = results.ratios()
    for name, old in baseline["ratios"].items():
        if name in ratios:
            compared += 1
            failures += regression(name, ratios[name], old, tolerance)
        elif all(results.runs(case) for case in old["cases"]):
            failures.append(f"missing: {name}: ran, but not in the same round, or without what is compared")
    return failures, compared


def regression(name, ratio, old, tolerance):
    """A line, if it is one."""
    new, before = ratio.spread, Spread(old["median"], old["low"], old["high"], 0)
    if not is_worse(new, before, tolerance, ratio.more_is_better):
        return []
    change = (new.median / before.median - 1) * 100
    return [f"regression: {name}: {show(new)}, baseline {show(before)}: {change:+.0f} %"]


def show(found):
    return f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})"


def remarks(results, baseline):
    """Lines of what makes the comparison a weaker one."""
    lines = []
    for field in ("quick", "entries", "rounds"):
        if baseline[field] != results.raw[field]:
            lines.append(f"note: {field}: {json.dumps(results.raw[field])}, "
                         f"in the baseline {json.dumps(baseline[field])}")
    for name in results.cases:
        if 0 < len(results.runs(name)) < results.rounds:
            lines.append(f"note: {name}: {len(results.runs(name))} of {results.rounds} rounds")
    for name, ratio in results.ratios().items():
        if name not in baseline["ratios"]:
            lines.append(f"note: {name}: not in the baseline")
        elif sorted(ratio.cases) != sorted(baseline["ratios"][name]["cases"]):
            lines.append(f"note: {name}: other cases ran than in the baseline")
    return lines


def missed_targets(results):
    """Lines of what was missed, or not measured for no reason; and of what was skipped."""
    lines, skipped = [], []
    for target in results.targets():
        if target.met is False:
            lines.append(f"target missed: {target.text}: {target.spread.median:.4g} {target.unit}".rstrip()
                         + f", shall be {target.relation} {target.bound:g} {target.unit}".rstrip())
        elif target.met is None and results.excused(target.needs):
            skipped.append(f"note: target skipped: {target.text}")
        elif target.met is None:
            lines.append(f"target not measured, and no reason is given: {target.text}")
    return lines, skipped


# ---------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------

def parse_arguments():
    parser = argparse.ArgumentParser(description="Compare the ratios of a benchmark run with a baseline.")
    parser.add_argument("results", metavar="RESULTS.json")
    parser.add_argument("baseline", metavar="BASELINE.json", nargs="?")
    parser.add_argument("--tolerance", type=float, default=20, metavar="PERCENT",
                        help="how much worse a ratio may be (default: 20)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--targets", action="store_true", help="check the targets instead")
    what.add_argument("--make-baseline", action="store_true", help="print a baseline instead")
    arguments = parser.parse_args()
    if (arguments.baseline is None) != (arguments.targets or arguments.make_baseline):
        parser.error("either a baseline, or --targets, or --make-baseline")
    if not 0 <= arguments.tolerance < 100:
        parser.error("--tolerance: 0 to 100")
    return arguments


def run(arguments):
    """Prints what there is to say; true if all is well."""
    results = load(arguments.results)
    if arguments.make_baseline:
        print(json.dumps(make_baseline(results), indent="\t"))
        return True
    if arguments.targets:
        failures, notes = missed_targets(results)
        passed = f"{len(results.targets()) - len(notes)} targets met"
        notes += ["note: quick run: indicative"] if results.quick else []
    else:
        baseline = load_baseline(arguments.baseline)
        failures, compared = compare(results, baseline, arguments.tolerance / 100)
        passed = f"{compared} ratios compared, none is worse by more than {arguments.tolerance:g} % and noise"
        notes = remarks(results, baseline)
    print("\n".join(notes + (failures or [passed])))
    return not failures


def main():
    try:
        return 0 if run(parse_arguments()) else 1
    except ResultsError as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
