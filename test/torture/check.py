"""The invariants: what must be true once all is settled, whatever happened before."""

import re

from ledger import is_in, settled_ranges
from resp import as_dict, entry_key
from schedule import PIPELINES, STREAMS

SHOWN = 10

# Where what was applied can be counted: an upsert's table has one row a key however often it is applied.
APPLIED = {"tmpl": "tmpl", "shared": "shared", "upsert": "upsert_log", "async": "async", "xform": "xform"}

BAD_LOG = r"PANIC|TRAP:|corrupt|left undecided|cache lookup failed|invalid memory alloc|could not find tuple|leak|" \
          r"terminated by signal (?!9\b)\d+"


class Outcome:
    """One entry as each side has it."""

    def __init__(self):
        self.applied = []
        self.letters = []


def collect(pg):
    """(pipeline, stream, id): what became of it."""
    outcomes = {}
    for pipeline in PIPELINES:
        for kind, query in (
                ("applied", "SELECT stream, eid, p, n FROM %s WHERE eid IS NOT NULL" % APPLIED[pipeline]),
                ("letters", "SELECT stream, entry_id, fields ->> 'p', fields ->> 'n' FROM streamsink.dead_letters WHERE pipeline = '%s'" % pipeline)):
            for stream, entry_id, p, n in pg.sql(query, timeout=120):
                outcome = outcomes.setdefault((pipeline, stream, entry_id), Outcome())
                getattr(outcome, kind).append((int(p), int(n)))
    return outcomes


class Check:
    def __init__(self, servers, truth, producers, faults_struck):
        self.pg, self.redis = servers.pg, servers.redis
        self.truth, self.producers, self.struck = truth, producers, faults_struck
        self.problems = []
        self.numbers = {}

    def fail(self, text):
        self.problems.append(text)

    def run(self):
        self.streams()
        self.entries()
        self.twins()
        self.ledger()
        self.counters()
        self.log()
        for kind, n in sorted(self.struck.items()):
            if n == 0:
                self.fail("the fault %s never struck: the run proves nothing about it" % kind)
        return self.problems

    # ---- what there is ----

    def streams(self):
        """What the streams hold, and what the harness took out of them."""
        self.present = {}
        self.pending = 0
        self.last = {}
        for pipeline in PIPELINES:
            for stream in STREAMS[pipeline]:
                for entry_id, fields in self.redis.call("XRANGE", stream, "-", "+") or []:
                    fields = as_dict(fields)
                    self.present[(stream, entry_id)] = (int(fields["p"]), int(fields["n"]))
                self.last[stream] = entry_key(as_dict(self.redis.call("XINFO", "STREAM", stream))["last-generated-id"])
                pending = self.redis.call("XPENDING", stream, pipeline)
                if pending[0]:
                    self.fail("%d entries of stream %s are pending still, from %s on" % (pending[0], stream, pending[1]))
        for producer in self.producers:
            for (stream, entry_id), n in producer.acked.items():
                key = (stream, entry_id)
                if self.known(key) is None:
                    self.fail("Redis took entry %s of stream %s (producer %d, %d) and does not have it" % (entry_id, stream, producer.number, n))

    def known(self, key):
        for place in (self.present, self.truth.trimmed, self.truth.deleted, self.truth.lost):
            if key in place:
                return place[key]
        return None

    def may_be_gone(self, key):
        return key in self.truth.deleted or key in self.truth.lost and key not in self.present

    # ---- each entry once ----

    def entries(self):
        self.outcomes = collect(self.pg)
        must = dict(self.present)
        must.update(self.truth.trimmed)
        pipeline_of = {stream: pipeline for pipeline in PIPELINES for stream in STREAMS[pipeline]}
        bad = []
        for (stream, entry_id), who in must.items():
            if self.may_be_gone((stream, entry_id)):
                continue
            outcome = self.outcomes.get((pipeline_of[stream], stream, entry_id), Outcome())
            if len(outcome.applied) + len(outcome.letters) != 1:
                bad.append((pipeline_of[stream], stream, entry_id, who, outcome))
        for (pipeline, stream, entry_id), outcome in self.outcomes.items():
            who = self.known((stream, entry_id))
            if who is None:
                self.fail("entry %s of stream %s is in the database and was never in the stream" % (entry_id, stream))
            elif self.may_be_gone((stream, entry_id)) and len(outcome.applied) + len(outcome.letters) > 1:
                bad.append((pipeline, stream, entry_id, who, outcome))
            elif any(found != who for found in outcome.applied + outcome.letters):
                self.fail("entry %s of stream %s is %s in the stream and %s in the database" %
                          (entry_id, stream, who, outcome.applied + outcome.letters))
        self.numbers.update(
            entries=len(must), deleted=len(self.truth.deleted), trimmed=len(self.truth.trimmed), lost=len(self.truth.lost),
            rows=sum(len(o.applied) for o in self.outcomes.values()), dead_letters=sum(len(o.letters) for o in self.outcomes.values()))
        if bad:
            self.fail("%d entries are not there exactly once" % len(bad))
            self.ranges = settled_ranges(self.pg)
            for case in bad[:SHOWN]:
                self.fail(self.explain(*case))

    def explain(self, pipeline, stream, entry_id, who, outcome):
        """All that is known of one entry."""
        lines = ["producer %d, number %d: entry %s of stream %s, pipeline %s: %d rows, %d dead letters" %
                 (who[0], who[1], entry_id, stream, pipeline, len(outcome.applied), len(outcome.letters))]
        ranges = self.ranges.get((pipeline, stream), [])
        inside = [r for r in ranges if r[0] <= entry_key(entry_id) <= r[1]]
        lines.append("    ledger: %s" % ("settled, in %d-%d to %d-%d" % (inside[0][0] + inside[0][1]) if inside else "not settled"))
        key = (stream, entry_id)
        lines.append("    Redis: %s, pending: %s" % (
            "there" if key in self.present else "lost by Redis" if key in self.truth.lost else "trimmed by the harness" if key in self.truth.trimmed else "deleted by the harness",
            self.redis.call("XPENDING", stream, pipeline, entry_id, entry_id, 1)))
        lines += ["    log: " + line for line in self.pg.log().splitlines() if entry_id in line][:5]
        return "\n".join(lines)

    def twins(self):
        """What a transform writes into two tables is in both or in none."""
        for p, n, where in self.pg.sql("SELECT p, n, CASE WHEN a IS NULL THEN 'xform_side' ELSE 'xform' END FROM xform a FULL JOIN xform_side b USING (p, n) "
                                       "WHERE a IS NULL OR b IS NULL LIMIT %d" % SHOWN):
            self.fail("producer %s, number %s: only in table %s" % (p, n, where))

    # ---- the ledger ----

    def ledger(self):
        """It contains every id that was delivered, and begins and ends only at such."""
        ranges = self.ranges = settled_ranges(self.pg)
        self.numbers["intervals"] = sum(len(r) for r in ranges.values())
        for pipeline in PIPELINES:
            for stream in STREAMS[pipeline]:
                mine = ranges.get((pipeline, stream), [])
                for low, high in mine:
                    for end in (low, high):
                        if self.known((stream, "%d-%d" % end)) is None:
                            self.fail("the ledger of stream %s has an interval that ends at %d-%d, which never was an entry" % ((stream,) + end))
                    if high > self.last[stream]:
                        self.fail("the ledger of stream %s goes beyond its last entry" % stream)
        for (stream, entry_id), _ in list(self.present.items()) + list(self.truth.trimmed.items()):
            pipeline = next(p for p in PIPELINES if stream in STREAMS[p])
            if not is_in(ranges.get((pipeline, stream), []), entry_key(entry_id)):
                self.fail("entry %s of stream %s is not in the ledger" % (entry_id, stream))
        for (pipeline, stream, entry_id) in self.outcomes:
            if (stream, entry_id) not in self.truth.lost and not is_in(ranges.get((pipeline, stream), []), entry_key(entry_id)):
                self.fail("entry %s of stream %s is in the database and not in the ledger" % (entry_id, stream))

    # ---- the rest ----

    def counters(self):
        for row in self.pg.sql("SELECT pipeline, read, written, refused, ignored, repeated, superseded, vanished FROM streamsink.status"):
            name, numbers = row[0], [int(n) for n in row[1:]]
            if numbers[0] != sum(numbers[1:]):
                self.fail("the counters of pipeline %s do not add up: %s" % (name, row[1:]))
            # an id that Redis lost may be given anew, and what is doubtful then becomes a dead letter that was not read
            there = sum(len(o.applied) + len(o.letters) for key, o in self.outcomes.items() if key[0] == name)
            if not self.truth.lost and numbers[1] + numbers[2] != there:
                self.fail("pipeline %s counts %d entries written and %d refused, and has %d" % (name, numbers[1], numbers[2], there))

    def log(self):
        log = self.pg.log()
        for line in log.splitlines():
            # the hint comes whenever a recovery was interrupted, as these are
            if re.search(BAD_LOG, line) and "HINT:  This probably means" not in line:
                self.fail("the server's log has: " + line)
        self.numbers["crashes"] = len(re.findall(r"terminated by signal 9", log))
