"""What goes wrong when: the same seed makes the same schedule."""

import random

PIPELINES = ("tmpl", "shared", "upsert", "async", "xform")
STREAMS = {
    "tmpl": ["t:dev%d:%s" % (n // 3, ("temp", "hum", "co2")[n % 3]) for n in range(30)],
    "shared": ["shared"],
    "upsert": ["u:0", "u:1", "u:2"],
    "async": ["async"],
    "xform": ["x:0", "x:1"],
}

# Points every batch passes, and those that need something else to happen.
COMMON_POINTS = ("after-read", "before-read", "after-fence", "after-ledger-check", "before-write", "after-write", "after-ledger",
                 "before-commit", "after-commit", "before-ack", "between-acks", "after-ack")
RARE_POINTS = ("after-connect", "after-publish", "in-dead-letter", "after-dead-letters", "before-fold", "in-fold", "after-fold",
               "before-join", "in-join", "before-claim", "after-claim", "before-group", "in-group", "group-made", "after-group", "before-cut", "after-cut", "before-leave")

PROXY = {
    "latency": lambda r: {"ms": r.randint(5, 80), "jitter": r.randint(0, 30)},
    "bandwidth": lambda r: {"rate": r.choice((5000, 50000, 200000))},
    "slicer": lambda r: {"size": r.choice((1, 3, 17, 200))},
    "timeout": lambda r: {"ms": r.choice((0, 50, 300)), "dir": r.choice(("up", "down", "both"))},
    "freeze": lambda r: {},
    "reset_peer": lambda r: {"ms": r.choice((0, 20)), "after": r.choice((0, 500, 5000))},
    "limit_data": lambda r: {"bytes": r.choice((1, 100, 3000, 10000)), "dir": r.choice(("up", "down"))},
    "slow_close": lambda r: {"ms": r.choice((50, 400))},
    "down": lambda r: {"keep": r.randint(0, 1)},
}


def pick(r):
    pipeline = r.choice(PIPELINES)
    return {"pipeline": pipeline, "stream": r.choice(STREAMS[pipeline])}


def point(action, chances):
    def make(r):
        points = [r.choice(COMMON_POINTS)] + r.sample(RARE_POINTS, 2)
        return {"faults": ["%s:%s%s" % (p, action(r), r.choice(chances)) for p in points]}
    return make


# kind: (arguments, shortest and longest duration in seconds; 0: over at once, how often beside others)
KINDS = {
    "worker_kill": (lambda r: {"which": r.randrange(100)}, 0, 0, 2),
    "backend_terminate": (lambda r: {"which": r.randrange(100)}, 0, 0, 3),
    "backend_cancel": (lambda r: {"which": r.randrange(100)}, 0, 0, 3),
    "pg_immediate": (lambda r: {}, 0, 0, 1),
    "pg_fast": (lambda r: {}, 0, 0, 1),
    "point_kill": (point(lambda r: "kill", ("%3", "%7", "/9")), 0.2, 0.8, 2),
    "point_error": (point(lambda r: "error", ("%2", "%5", "/4")), 0.2, 1.5, 4),
    "point_fatal": (point(lambda r: "fatal", ("%3", "/5")), 0.2, 1.0, 2),
    "point_sleep": (point(lambda r: "sleep%d" % r.randint(1, 60), ("", "/3")), 0.5, 2.0, 2),
    "point_wait": (lambda r: {"faults": [r.choice(COMMON_POINTS) + ":wait"]}, 0.1, 1.0, 2),
    "redis_freeze": (lambda r: {}, 0.1, 1.5, 3),
    "redis_kill": (lambda r: {}, 0, 0, 2),
    "client_kill": (lambda r: {}, 0, 0, 4),
    "xdel_new": (lambda r: dict(pick(r), count=r.randint(1, 6)), 0, 0, 4),
    "xdel_pending": (lambda r: dict(pick(r), count=r.randint(1, 20)), 0, 0, 4),
    "xtrim": (pick, 0, 0, 3),
    "setid_back": (lambda r: dict(pick(r), part=round(r.random(), 3)), 0, 0, 4),
    "group_destroy": (pick, 0, 0, 3),
    # what nobody has pending any more and nobody settled must be read again
    "delconsumer": (lambda r: dict(pick(r), which=r.randrange(100)), 0, 0, 3),
    "alter_column": (lambda r: {"pipeline": r.choice(PIPELINES)}, 0, 0, 2),
    "alter_constraint": (lambda r: {"pipeline": r.choice(PIPELINES)}, 0, 0, 2),
    "lock_table": (lambda r: {"pipeline": r.choice(PIPELINES)}, 0.2, 1.5, 2),
    "stop_start": (lambda r: {"pipeline": r.choice(PIPELINES), "ingest": r.randint(0, 1)}, 0, 0, 2),
    "restart": (lambda r: {"pipeline": r.choice(PIPELINES)}, 0, 0, 3),
    "workers": (lambda r: {"pipeline": r.choice(("shared", "tmpl")), "workers": r.randint(1, 3)}, 0, 0, 4),
    "rollback": (lambda r: {"pipeline": r.choice(PIPELINES)}, 0, 0, 3),
    # faults that mean something together only
    "overlap": (lambda r: {"times": r.randint(6, 14)}, 0, 0, 3),
    "async_crash": (lambda r: {"nth": r.randint(1, 4)}, 0, 0, 2),
    "retry_dead_letters": (lambda r: {"pipeline": r.choice(PIPELINES), "mend": r.randint(1, 3)}, 0, 0, 3),
}
for _kind, _args in PROXY.items():
    KINDS["proxy_" + _kind] = (_args, 0.2, 1.5, 2)


# A group set forward, while a busy worker reads on behind it, is noticed by reconcile() only.
PASSING = {
    "setid_forward": (pick, 0, 0, 3),
}

# An old snapshot of Redis comes back: instead of redis_kill, which loses nothing.
LOSING = {
    "redis_restore": (lambda r: {"age": round(r.uniform(0.05, 1.5), 2)}, 0, 0, 3),
}


class Event:
    def __init__(self, at, kind, args, lasts):
        self.at, self.kind, self.args, self.lasts = at, kind, args, lasts

    def __str__(self):
        words = " ".join("%s=%s" % (name, ",".join(value) if isinstance(value, list) else value)
                         for name, value in sorted(self.args.items()))
        return ("%8.3f  %-18s %s%s" % (self.at, self.kind, words, "  for %.2f s" % self.lasts if self.lasts else "")).rstrip()


def make(seed, seconds, only=None, every=0.35, lose_tail=False, setid_forward=False):
    """Every kind once, and others between; as many as the time allows, at random moments."""
    r = random.Random(seed)
    kinds = dict(KINDS)
    if setid_forward:
        kinds.update(PASSING)
    if lose_tail:
        del kinds["redis_kill"]
        kinds.update(LOSING)
    if only:
        kinds = {kind: kinds[kind] for kind in only}
    names = sorted(kinds)
    chosen = list(names) + r.choices(names, [kinds[name][3] for name in names], k=max(0, int(seconds / every) - len(names)))
    events = []
    for kind in chosen:
        args, shortest, longest, _ = kinds[kind]
        events.append(Event(round(r.uniform(0.5, max(1, seconds - 1)), 3), kind, args(r), round(r.uniform(shortest, longest), 2)))
    events.sort(key=lambda event: (event.at, event.kind))
    return events
