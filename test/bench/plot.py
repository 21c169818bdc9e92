#!/usr/bin/env python3
"""plot.py: throughput over batch size and latency over rate, as SVG.

NOTES
    Drawn by gnuplot, which gets its script and the points on standard input.
    The same result file gives the same bytes: no dates, no locale.
    What was not measured is left out; a plot without any point is not written.
"""

import argparse
import math
import os
import subprocess
import sys

from results import ResultsError, load, throughput

# Okabe and Ito: told apart by the colour-blind too.
BLACK, ORANGE, GREEN, BLUE, RED, PINK = "#000000", "#e69f00", "#009e73", "#0072b2", "#d55e00", "#cc79a7"
BATCHES = (100, 1000, 5000)
PERCENTILES = (("p999_ms", "p99.9", RED, 9), ("p99_ms", "p99", ORANGE, 5), ("p50_ms", "p50", BLUE, 7))

COMMON = """
set encoding utf8
set border 3 linewidth 1 linecolor rgb "#555555"
set grid ytics linetype 1 linewidth 1 linecolor rgb "#dddddd"
set tics nomirror out scale 0.6 textcolor rgb "#222222"
set rmargin at screen 0.97
set logscale x
set bars 0.6
"""
# The key below the plot, in so many rows.
KEY = """
set bmargin at screen {bottom}
set key at screen 0.10, screen {top} left top Left reverse vertical maxrows {rows} samplen 3 spacing 1.2
"""


class Series:
    """One entry of the key: points (x, median, low, high), joined by a line unless dash is None."""

    def __init__(self, title, points, colour, point=None, dash=1):
        self.title, self.points, self.colour, self.point, self.dash = title, points, colour, point, dash

    def plots(self):
        """What gnuplot draws, each with the data once."""
        line = f'linetype 1 linewidth 2 linecolor rgb "{self.colour}"'
        title = "title '" + self.title.replace("'", "''") + "'"
        if self.point is None:
            return [f"'-' using 1:2 with lines {line} dashtype {self.dash} {title}"]
        mark = f"pointtype {self.point} pointsize 0.9"
        if self.dash is None:
            return [f"'-' using 1:2:3:4 with yerrorbars {line} {mark} {title}"]
        return [f"'-' using 1:2:3:4 with yerrorlines {line} dashtype {self.dash} {mark} {title}"]

    def data(self):
        return "\n".join(" ".join(f"{value:.6g}" for value in point) for point in self.points) + "\ne\n"


def point(x, spread, scale=1):
    return (x, spread.median * scale, spread.low * scale, spread.high * scale)


# ---------------------------------------------------------------------------
# Throughput over batch size
# ---------------------------------------------------------------------------

def batch_points(results, pattern, shift=1):
    """In thousands of entries a second; beside the batch size, so that marks do not hide each other."""
    found = [(batch, results.measure(pattern.format(batch), throughput)) for batch in BATCHES]
    return [point(batch * shift, spread, 1e-3) for batch, spread in found if spread]


def level(results, case, left, right):
    """A horizontal line at the median of a case; no points if it did not run."""
    spread = results.measure(case, throughput)
    return [point(x, spread, 1e-3) for x in (left, right)] if spread else []


def throughput_series(results, left, right):
    peer = results.best_peer()
    title = results.cases[peer]["title"] if peer else ""
    series = [
        Series("bare drain of Redis, 5,000 a read", level(results, "drain_5000", left, right), BLACK, dash=3),
        Series("COPY, all in one transaction", level(results, "copy_once", left, right), GREEN, dash=2),
        Series("COPY, as many rows a transaction", batch_points(results, "copy_{}", 0.94), GREEN, 13, None),
        Series("streamsink, 2 workers", batch_points(results, "w2_b{}", 1.06), RED, 5),
        Series("streamsink, 1 worker", batch_points(results, "w1_b{}"), BLUE, 7),
        Series(f"best peer: {title}", level(results, peer, left, right) if peer else [], PINK, dash=4),
    ]
    return [one for one in series if one.points]


def throughput_plot(results):
    left, right = BATCHES[0] / 1.5, BATCHES[-1] * 1.5
    tics = ", ".join(f'"{batch:,}" {batch}' for batch in BATCHES)
    settings = KEY.format(bottom=0.42, top=0.29, rows=6) + f"""
set title "Throughput over batch size"
set xlabel "entries a batch"
set ylabel "thousand entries/s"
set xrange [{left:.6g}:{right:.6g}]
set yrange [0:*]
set xtics ({tics})
"""
    return settings, throughput_series(results, left, right)


# ---------------------------------------------------------------------------
# Latency over rate
# ---------------------------------------------------------------------------

def latency_points(results, streams, field, shift):
    """The axis is logarithmic: there is no place for 0."""
    found = [(rate, results.latency(count, rate, field)) for count, rate in results.rates if count == streams]
    return [point(rate * shift, spread) for rate, spread in found if spread.low > 0]


def latency_series(results):
    """Lines for one stream; for more of them open marks, beside the lines."""
    series = []
    for number, streams in enumerate(sorted({streams for streams, _ in results.rates})):
        for field, title, colour, mark in PERCENTILES:
            if number == 0:
                series.append(Series(title, latency_points(results, streams, field, 1), colour, mark))
            else:
                series.append(Series(f"{title}, {streams:,} streams",
                                     latency_points(results, streams, field, 1 + 0.12 * number), colour, mark - 1, None))
    return [one for one in series if one.points]


def decades(low, high):
    """Tics at 1, 2 and 5 times powers of ten that enclose LOW and HIGH."""
    steps = [digit * 10.0 ** power for power in range(math.floor(math.log10(low)) - 1,
                                                       math.ceil(math.log10(high)) + 2) for digit in (1, 2, 5)]
    first = max(step for step in steps if step <= low)
    last = min(step for step in steps if step >= high)
    return [step for step in steps if first <= step <= last]


def latency_plot(results):
    series = latency_series(results)
    if not series:
        return "", []
    values = [value for one in series for at in one.points for value in at[2:]]
    steps = decades(min(values), max(values))
    rates = [at[0] for one in series for at in one.points]
    xtics = ", ".join(f'"{rate:,.6g}" {rate:.6g}' for rate in sorted({rate for _, rate in results.rates}))
    ytics = ", ".join(f'"{step:,.6g}" {step:.6g}' for step in steps)
    settings = KEY.format(bottom=0.31, top=0.18, rows=3) + f"""
set title "Latency over rate, from XADD to a row that another session sees"
set xlabel "entries/s"
set ylabel "milliseconds"
set xrange [{min(rates) / 1.5:.6g}:{max(rates) * 1.5:.6g}]
set logscale y
set yrange [{steps[0]:.6g}:{steps[-1]:.6g}]
set xtics ({xtics})
set ytics ({ytics})
"""
    return settings, series


# ---------------------------------------------------------------------------
# gnuplot
# ---------------------------------------------------------------------------

def script(name, settings, series, terminal):
    plots = ", ".join(text for one in series for text in one.plots())
    return (f"{terminal.format(name=name)}\n{COMMON}{settings}plot {plots}\n"
            + "".join(one.data() for one in series))


SVG = 'set terminal svg size 800,540 fixed noenhanced font "DejaVu Sans,Verdana,Arial,sans-serif,13" ' \
      'background rgb "white" name "{name}"'


def draw(path, text):
    """Nothing is left behind of a plot that failed."""
    try:
        done = subprocess.run(["gnuplot"], input=text.encode(), capture_output=True, check=False,
                              env={**os.environ, "LC_ALL": "C.UTF-8"})
    except OSError as error:
        raise ResultsError(f"gnuplot (package gnuplot-nox): {error.strerror}") from None
    if done.returncode or not done.stdout.rstrip().endswith(b"</svg>"):
        raise ResultsError(f"gnuplot: {done.stderr.decode(errors='replace').strip()}")
    with open(path, "wb") as file:
        file.write(done.stdout)


def main():
    parser = argparse.ArgumentParser(description="Plot a result file of the benchmark.")
    parser.add_argument("results", metavar="RESULTS.json")
    parser.add_argument("prefix", metavar="OUT_PREFIX", help="writes OUT_PREFIX-throughput.svg and -latency.svg")
    arguments = parser.parse_args()
    try:
        results = load(arguments.results)
        for name, plot in (("throughput", throughput_plot), ("latency", latency_plot)):
            settings, series = plot(results)
            if series:
                draw(f"{arguments.prefix}-{name}.svg", script(name, settings, series, SVG))
            else:
                print(f"plot.py: no {name} in {arguments.results}: not drawn", file=sys.stderr)
    except (ResultsError, OSError) as error:
        print(f"plot.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
