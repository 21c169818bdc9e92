#!/usr/bin/python3
"""Exactly once under everything at once.

Producers number what they send, four pipelines read it, and a schedule made from
a seed breaks PostgreSQL, Redis, the network between them and the definitions, all
of it together.  Then the faults end, all is settled, and each number must be in
exactly one place.  Run it by "make torture SECONDS=n SEED=s", or with a test
build's programs first in PATH.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

import schedule
from check import Check
from faults import Faults, Truth
from producers import Producer
from resp import RedisError
from servers import Servers, Unavailable, poll

PRODUCERS = 3
TRY_SECONDS = 15  # one fault, while others are in its way
SETTLE_SECONDS = 90

SETUP = """
CREATE EXTENSION streamsink;
CREATE SERVER redis FOREIGN DATA WRAPPER streamsink OPTIONS (host '127.0.0.1', port '%(port)d', connect_timeout '600ms', command_timeout '600ms');
CREATE TABLE tmpl (dev text NOT NULL, kind text NOT NULL, p int NOT NULL, n int NOT NULL, v int NOT NULL, pad text, eid streamsink.entry_id, stream text);
CREATE TABLE shared (p int NOT NULL, n int NOT NULL, v int NOT NULL, pad text, eid streamsink.entry_id, stream text);
CREATE TABLE async (p int NOT NULL, n int NOT NULL, v int NOT NULL, pad text, eid streamsink.entry_id, stream text, UNIQUE (p, n));
CREATE TABLE upsert (p int, n int, v int NOT NULL, pad text, eid streamsink.entry_id, stream text, PRIMARY KEY (p, n));
-- a third of what comes is there already
INSERT INTO upsert SELECT p, n, -1 FROM generate_series(0, %(producers)d - 1) p, generate_series(0, %(numbers)d, 3) n;
CREATE TABLE upsert_log (p int, n int, eid streamsink.entry_id, stream text);
CREATE FUNCTION log_upsert() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN INSERT INTO public.upsert_log VALUES (NEW.p, NEW.n, NEW.eid, NEW.stream); RETURN NULL; END';
CREATE TRIGGER log_upsert AFTER INSERT OR UPDATE ON upsert FOR EACH ROW EXECUTE FUNCTION log_upsert();
SELECT streamsink.create_pipeline('tmpl', server => 'redis', stream => 't:{dev}:{kind}', target => 'tmpl',
	columns => '{"eid": "_id", "stream": "_stream"}', workers => 2, batch_size => 100, retry_backoff => '20 ms', retry_backoff_max => '200 ms');
SELECT streamsink.create_pipeline('shared', server => 'redis', stream => 'shared', target => 'shared',
	columns => '{"eid": "_id", "stream": "_stream"}', workers => 3, batch_size => 40, retry_backoff => '20 ms', retry_backoff_max => '200 ms');
SELECT streamsink.create_pipeline('upsert', server => 'redis', stream => 'u:*', target => 'upsert', on_conflict => 'update', key => 'p, n',
	columns => '{"eid": "_id", "stream": "_stream"}', batch_size => 50, retry_backoff => '20 ms', retry_backoff_max => '200 ms');
SELECT streamsink.create_pipeline('async', server => 'redis', stream => 'async', target => 'async',
	columns => '{"eid": "_id", "stream": "_stream"}', batch_size => 60, retry_backoff => '20 ms', retry_backoff_max => '200 ms',
	settings => '{"synchronous_commit": "off"}');
CREATE TYPE xform_row AS (p int, n int, v int, pad text);
CREATE TABLE xform (p int NOT NULL, n int NOT NULL, v int NOT NULL, pad text, eid streamsink.entry_id, stream text);
CREATE TABLE xform_side (p int NOT NULL, n int NOT NULL, UNIQUE (p, n));
SELECT streamsink.create_pipeline('xform', server => 'redis', stream => 'x:*', row_type => 'xform_row', workers => 2, batch_size => 50,
	retry_backoff => '20 ms', retry_backoff_max => '200 ms', transform => $$
		SELECT streamsink.refuse(_seq, 'before anything is written') FROM batch WHERE n %% 61 = 17;
		INSERT INTO xform (p, n, v, pad, eid, stream) SELECT p, n, v, pad, _id, _stream FROM batch;
		SELECT p, n INTO kept FROM batch WHERE n %% 53 <> 11 OR streamsink.refuse(_seq, 'after something was written');
		INSERT INTO xform_side SELECT * FROM kept
	$$);
SELECT streamsink.start(name) FROM streamsink.pipelines;
"""


class Torture:
    def __init__(self, options, events):
        self.options, self.events = options, events
        self.folder = tempfile.mkdtemp(prefix="ss-torture.")
        self.servers = None
        self.producers = []
        self.truth = Truth()
        self.struck = {event.kind: 0 for event in events}
        self.started = time.monotonic()

    def say(self, text):
        print(text, flush=True)

    def now(self):
        return time.monotonic() - self.started

    def set_up(self):
        self.servers = Servers(self.folder, self.options.seed, durable=not self.options.lose_tail)
        pg = self.servers.pg
        with open(os.path.join(pg.data, "faults.conf"), "w") as file:
            file.write("streamsink.fault = ''\n")
        with open(os.path.join(pg.data, "postgresql.conf"), "a") as file:
            file.write("include 'faults.conf'\nstreamsink.fault_seed = %d\n" % (self.options.seed % 2 ** 31))
        pg.sql("SELECT pg_reload_conf()")
        pg.sql(SETUP % {"port": self.servers.proxy.port, "producers": PRODUCERS,
                        "numbers": int(self.options.rate * (self.options.seconds * 3 + 60))})
        if pg.sql("SELECT count(*) FROM pg_settings WHERE name = 'streamsink.fault' AND context <> 'internal'") != [["1"]]:
            raise SystemExit("this is no test build: no fault point acts")

    def conduct(self, faults):
        """All events in order, each at its time or as soon as those before let it."""
        for event in self.events:
            time.sleep(max(0, event.at - self.now()))
            end = time.monotonic() + TRY_SECONDS
            why = ""
            while True:
                try:
                    struck = faults.begin(event)
                except (Unavailable, OSError, RedisError, TimeoutError) as error:
                    struck, why = False, str(error).splitlines()[0][:120] if str(error) else repr(error)
                if struck or time.monotonic() > end:
                    break
                time.sleep(0.1)
            self.struck[event.kind] += 1 if struck else 0
            self.say("# %7.3f %s%s" % (self.now(), event, "" if struck else "  NOT: " + why))

    def settle(self):
        """Until nothing is left to do; an error if it does not come to that."""
        pg = self.servers.pg
        end = time.monotonic() + SETTLE_SECONDS

        def attempt(sql, wanted):
            try:
                return pg.sql(sql, timeout=60) == wanted
            except Unavailable:
                return False
        for name in schedule.PIPELINES:
            poll(lambda: attempt("SELECT streamsink.start('%s')" % name, [[""]]), 30, "a start")
        if self.options.setid_forward:
            for name in schedule.PIPELINES:
                poll(lambda: pg.sql("SELECT streamsink.reconcile('%s') >= 0" % name) == [["t"]], 30, "reconcile")
        for name in schedule.PIPELINES:
            poll(lambda: attempt("SELECT streamsink.wait_for('%s', '5 s')" % name, [["t"]]), max(1, end - time.monotonic()),
                 "pipeline %s to settle" % name)
            poll(lambda: attempt("SELECT state FROM streamsink.status WHERE pipeline = '%s'" % name, [["running"]]),
                 max(1, end - time.monotonic()), "pipeline %s to run" % name)

    def count_strikes(self, faults):
        """What was begun must also have been felt."""
        for kind in self.struck:
            if kind.startswith(("point_", "proxy_")):
                self.struck[kind] = faults.strikes(kind)
            elif kind == "worker_kill":
                self.struck[kind] = min(self.struck[kind], self.servers.pg.logged("was terminated by signal 9"))

    def run(self):
        self.set_up()
        self.producers = [Producer(n, self.servers.redis.path, self.options.seed, self.options.rate) for n in range(PRODUCERS)]
        for producer in self.producers:
            producer.start()
        self.started = time.monotonic()
        faults = Faults(self.servers, self.truth, self.producers)
        self.conduct(faults)
        time.sleep(max(0, self.options.seconds - self.now()))
        faults.wait()
        for producer in self.producers:
            producer.end()
        faults.end_all()
        self.count_strikes(faults)
        problems = []
        try:
            self.settle()
        except (TimeoutError, Unavailable) as error:
            problems.append(str(error))
            for row in self.servers.pg.sql("SELECT to_jsonb(s) FROM streamsink.status s"):
                problems.append("    " + row[0])
        check = Check(self.servers, self.truth, self.producers, self.struck)
        problems += check.run()
        self.report(check)
        return problems

    def report(self, check):
        numbers = dict(check.numbers, uncertain=sum(p.uncertain for p in self.producers))
        for row in self.servers.pg.sql("SELECT sum(repeated), sum(vanished), sum(errors) FROM streamsink.status"):
            numbers.update(zip(("repeated", "vanished", "errors"), row))
        self.say("# %d events in %.1f s; struck: %s" % (len(self.events), self.now(), ", ".join("%s %d" % pair for pair in sorted(self.struck.items()))))
        self.say("# " + ", ".join("%s %s" % pair for pair in sorted(numbers.items())))

    def end(self):
        if self.servers:
            self.servers.end()
        if os.environ.get("KEEP"):
            self.say("# kept: " + self.folder)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="a random one unless given")
    parser.add_argument("--rate", type=int, default=300, help="entries a second and producer")
    parser.add_argument("--every", type=float, default=0.35, help="seconds from fault to fault")
    parser.add_argument("--only", help="these kinds of faults, joined by commas")
    parser.add_argument("--setid-forward", action="store_true", help="groups are set forward; ends with reconcile()")
    parser.add_argument("--lose-tail", action="store_true", help="old snapshots of Redis come back")
    parser.add_argument("--schedule", action="store_true", help="print the schedule and do nothing")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10 ** 6)
    events = schedule.make(options.seed, options.seconds, options.only.split(",") if options.only else None,
                           options.every, options.lose_tail, options.setid_forward)
    others = [word for word in sys.argv[1:] if word in ("--lose-tail", "--setid-forward")]
    print("# seed %d, %g s: make torture SECONDS=%g SEED=%d%s" % (
        options.seed, options.seconds, options.seconds, options.seed, " ARGS='%s'" % " ".join(others) if others else ""), flush=True)
    if options.schedule:
        for event in events:
            print(event)
        return 0

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    torture = Torture(options, events)
    problems = ["it did not come to an end"]
    try:
        problems = torture.run()
    except Exception:  # pylint: disable=broad-except
        problems = [traceback.format_exc()]
    finally:
        torture.end()
    for problem in problems[:60]:
        print("not ok - " + problem)
    print("%s - each number in exactly one place (seed %d)" % ("not ok" if problems else "ok", options.seed))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
