#!/usr/bin/env python3
"""report.py: a result file as tables, on the terminal and as Markdown.

NOTES
    The report is a list of blocks, made once: ("heading", text), ("text", text)
    or ("table", header, rows).  Two functions write such a list.
"""

import argparse
import os
import sys

from results import BASES, GROUPS, ResultsError, load, per_entry, throughput

INTRO = ("Produced by `make bench`: streamsink beside limits (COPY, a bare reader of Redis) and peers, on private "
         "servers on one machine. Machines are noisy. In each round every case runs once before the next round "
         "begins, and ratios are taken within a round: the ratios of one run are what counts, the absolute "
         "numbers are of this machine.")
HEADINGS = {"limits": "Limits", "streamsink": "streamsink", "peers": "Peers", "shapes": "Shapes of work"}
FACTS = {"cpu": "CPU", "cores": "Cores", "memory_gb": "Memory, GB", "os": "Operating system", "kernel": "Kernel",
         "disk": "Disk", "postgresql": "PostgreSQL", "redis": "Redis", "python": "Python",
         "python_redis": "redis (Python)", "python_hiredis": "hiredis (Python)", "asyncpg": "asyncpg (Python)",
         "uvloop": "uvloop (Python)", "settings": "Settings"}
MEMORY_ROWS = 11
NONE = "-"


# ---------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------

def number(value, digits=0):
    """With thousands separators."""
    return f"{value:,.{digits}f}"


def digits_of(value):
    """Decimals that leave two or three digits that count."""
    return 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3


def median(spread, digits, scale=1):
    return NONE if spread is None else number(spread.median * scale, digits)


def lowest_highest(spread, digits):
    if spread is None or spread.count == 1:
        return NONE
    return f"{number(spread.low, digits)}–{number(spread.high, digits)}"


def with_spread(spread, digits=None):
    """The spread is left out where there is but one value."""
    if spread is None:
        return NONE
    if digits is None:
        digits = digits_of(spread.median)
    both = f"{median(spread, digits)} ({lowest_highest(spread, digits)})"
    return both.removesuffix(f" ({NONE})")


# ---------------------------------------------------------------------------
# Blocks
# ---------------------------------------------------------------------------

def fact_value(value):
    if value is None or value == "":
        return NONE
    if isinstance(value, dict):
        return ", ".join(f"{name} = {fact_value(inner)}" for name, inner in value.items()) or NONE
    if isinstance(value, list):
        return ", ".join(fact_value(inner) for inner in value) or NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def machine_blocks(results):
    raw = results.raw
    rows = [[FACTS.get(name, name.replace("_", " ")), fact_value(value)] for name, value in raw["machine"].items()]
    rows += [["Date", raw["started_at"]], ["Entries a case", number(raw["entries"])],
             ["Rounds", number(raw["rounds"])], ["Seed", str(raw["seed"])]]
    if results.quick:
        rows.append(["Quick run", "yes"])
    return [("heading", "Machine and run"), ("table", ["What", "Value"], rows)]


def target_digits(target):
    """As many that rounding does not turn a miss into a hit."""
    if target.unit == "kB":
        return 0
    for digits in range(2, 8):
        shown = target.spread._replace(median=round(target.spread.median, digits))
        if target._replace(spread=shown).met == target.met:
            return digits
    return 8


def target_row(target):
    unit = f" {target.unit}" if target.unit else ""
    bound = f"{target.relation} {number(target.bound) if target.bound >= 10 else f'{target.bound:g}'}{unit}"
    if target.spread is None:
        return [target.text, NONE, bound, "not measured"]
    return [target.text, with_spread(target.spread, target_digits(target)) + unit, bound,
            "yes" if target.met else "no"]


def target_blocks(results):
    heading = "Targets (quick run: indicative)" if results.quick else "Targets"
    return [("heading", heading),
            ("text", "Median of the rounds (lowest–highest); ratios of entries/s unless said otherwise."),
            ("table", ["What", "Measured", "Target", "Met"], [target_row(target) for target in results.targets()])]


def case_title(results, case):
    """With what sets its runs apart from those of the others."""
    runs = results.runs(case).values()
    entries = sorted({run["entries"] for run in runs})
    title = results.cases[case]["title"]
    if entries != [results.entries]:
        title += ", " + " or ".join(number(count) for count in entries) + " entries"
    if len(runs) < results.rounds:
        title += f", {len(runs)} of {results.rounds} rounds"
    return title


def case_row(results, case, base):
    def measure(value):
        return results.measure(case, value)
    speed = measure(throughput)
    return [case_title(results, case), median(speed, 0), lowest_highest(speed, 0),
            with_spread(results.ratio(case, base)) if case != base else "base",
            median(measure(per_entry("cpu_seconds")), 2, 1e6),
            median(measure(per_entry("redis_cpu_seconds")), 2, 1e6),
            median(measure(lambda run: run["private_kb"]), 1, 1 / 1024),
            median(measure(per_entry("wal_bytes")), 0),
            median(measure(lambda run: run["commits"]), 0)]


def group_blocks(results, group):
    cases = results.ran(group)
    if not cases:
        return [("heading", HEADINGS[group]), ("text", "None ran.")]
    base = BASES[group]
    title = results.cases[base]["title"] if base in results.cases else base
    header = ["Case", "Entries/s", "Lowest–highest", "Ratio", "CPU s/million", "Redis CPU s/million",
              "Private MB", "WAL bytes/entry", "Commits"]
    return [("heading", HEADINGS[group]),
            ("text", f"Ratio: entries/s by those of the base in the same round. The base: {title}."),
            ("table", header, [case_row(results, case, base) for case in cases])]


def latency_blocks(results):
    if not results.rates:
        return [("heading", "Latency"), ("text", "Not measured.")]
    rows = [[number(streams), number(rate)] + [with_spread(results.latency(streams, rate, field))
                                               for field in ("p50_ms", "p99_ms", "p999_ms", "max_ms", "paused_ms", "running_p99_ms")]
            for streams, rate in results.rates]
    return [("heading", "Latency"),
            ("text", "Milliseconds from XADD to a row that another session sees; median of the measurements (lowest–highest). "
             "Paused: how long the measuring process itself, which sleeps 0.2 ms at a time, was not run for more than 5 ms: "
             "that of the machine, whatever runs on it. The last column leaves out the entries that were under way then."),
            ("table", ["Streams", "Entries/s", "p50", "p99", "p99.9", "Max", "Paused", "p99 without"], rows)]


def evenly(items, count):
    """COUNT of them with the first and the last, or all."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def memory_blocks(results):
    points = results.memory
    if not points:
        return [("heading", "Memory over a long run"), ("text", "Not measured.")]
    summary = f"{number(len(points))} points over {number(points[-1]['entries'])} entries"
    settled = [point["private_kb"] for point in results.settled_memory()]
    if settled:
        summary += f"; after the first tenth {number(min(settled))}–{number(max(settled))} kB"
    shown = evenly(points, MEMORY_ROWS)
    if len(shown) < len(points):
        summary += f". {len(shown)} of the points"
    rows = [[number(point["entries"]), number(point["private_kb"])] for point in shown]
    return [("heading", "Memory over a long run"), ("text", summary + "."),
            ("table", ["Entries", "Private kB"], rows)]


def skipped_blocks(results):
    rows = [[title, reason or "no runs in the result file, and no reason given"]
            for _, title, reason in results.without_runs()]
    rows += [[item["title"] + " (some rounds)", item["reason"]]
             for name, item in results.skipped.items() if results.runs(name)]
    if not rows:
        return []
    return [("heading", "Skipped"), ("table", ["Case", "Reason"], rows)]


def report_blocks(results):
    blocks = machine_blocks(results) + target_blocks(results)
    for group in GROUPS:
        blocks += group_blocks(results, group)
    return blocks + latency_blocks(results) + memory_blocks(results) + skipped_blocks(results)


# ---------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------

def is_numeric(rows, column):
    """Whether it is set flush right: numbers, spreads, dashes only.  A title may begin with a number."""
    if column == 0:
        return all(row[0].replace(",", "").isdigit() for row in rows)
    return all(row[column][0].isdigit() or row[column] in (NONE, "base") for row in rows)


def plain_table(header, rows):
    lines = [header] + rows
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    right = [is_numeric(rows, i) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cell.rjust(width) if flush else cell.ljust(width)
                               for cell, width, flush in zip(line, widths, right)).rstrip()
                     for line in lines)


def markdown_table(header, rows):
    def line(cells):
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    rule = "|" + "|".join("---:" if is_numeric(rows, i) else "---" for i in range(len(header))) + "|"
    return "\n".join([line(header), rule] + [line(row) for row in rows])


def plain(blocks):
    write = {"heading": lambda text: f"{text}\n{'=' * len(text)}", "text": str, "table": plain_table}
    return "\n\n".join(write[kind](*content) for kind, *content in blocks) + "\n"


def pictures(prefix):
    """Links to the plots that are there, beside the Markdown file."""
    titles = {"throughput": "Throughput over batch size", "latency": "Latency over rate"}
    return [f"![{title}]({os.path.basename(prefix)}-{name}.svg)" for name, title in titles.items()
            if os.path.exists(f"{prefix}-{name}.svg")]


def markdown(blocks, plots):
    write = {"heading": lambda text: f"## {text}", "text": str, "table": markdown_table}
    return "\n\n".join(["# Benchmark", INTRO] + [write[kind](*content) for kind, *content in blocks] + plots) + "\n"


def main():
    parser = argparse.ArgumentParser(description="Show a result file of the benchmark.")
    parser.add_argument("results", metavar="RESULTS.json")
    parser.add_argument("--markdown", metavar="OUT.md", help="write Markdown too")
    parser.add_argument("--plots", metavar="PREFIX", help="link plot.py's PREFIX-throughput.svg and -latency.svg, which are beside it")
    arguments = parser.parse_args()
    try:
        blocks = report_blocks(load(arguments.results))
        if arguments.markdown:
            with open(arguments.markdown, "w", encoding="utf-8") as file:
                file.write(markdown(blocks, pictures(arguments.plots) if arguments.plots else []))
    except (ResultsError, OSError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    sys.stdout.write(plain(blocks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
