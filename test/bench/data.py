"""What is written to Redis and to COPY's files: entries of every shape, from a fixed seed.

NOTES
    A shape's entries are (stream, fields) with fields a flat list of bytes.
    Ids are given, not taken from the clock, so that every run reads the same.
"""
import json
import random

SEED = 20260301
FIRST_MS = 1772323200000  # 2026-03-01 00:00:00 UTC
KINDS = ("temperature", "humidity", "pressure")

READINGS = """CREATE TABLE {name} (id bigserial PRIMARY KEY, timestamp timestamptz NOT NULL, device_id varchar(100) NOT NULL,
    sensor_type varchar(100) NOT NULL, value double precision NOT NULL, metadata jsonb, created_at timestamptz DEFAULT now())"""


def reading(rng, i, pad=0):
    """The five fields of a reading, as text."""
    seconds, micros = divmod(i * 700, 1000000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    metadata = '{"unit":"C","battery":%d,"fw":"1.4.%d"' % (rng.randrange(101), rng.randrange(10))
    if pad:
        metadata += ',"note":"%s"' % ("".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=min(pad, 64))) * (pad // 64 + 1))[:pad]
    return ("dev-%04d" % rng.randrange(1000), rng.choice(KINDS), "%.4f" % rng.uniform(-40, 85),
            "2026-03-%02dT%02d:%02d:%02d.%06d+00:00" % (days % 31 + 1, hours, minutes, seconds, micros), metadata + "}")


NAMES = ("device_id", "sensor_type", "value", "timestamp", "metadata")


def readings(count, stream="bench", pad=0, bad=None):
    """Readings; bad is None, 'decode' (one in a hundred is no number) or 'write' (one breaks a constraint)."""
    rng = random.Random(SEED)
    dice = random.Random(SEED + 1)
    for i in range(count):
        values = list(reading(rng, i, pad))
        if bad and dice.randrange(100) == 0:
            values[2] = "broken" if bad == "decode" else "-1000"
        flat = []
        for name, value in zip(NAMES, values):
            flat += (name, value)
        yield stream(i) if callable(stream) else stream, flat


def small(count):
    """About 100 bytes an entry."""
    rng = random.Random(SEED)
    for i in range(count):
        yield "bench", ["device_id", "dev-%04d" % rng.randrange(1000), "value", "%.4f" % rng.uniform(-40, 85),
                        "note", "".join(rng.choices("abcdefghij", k=50))]


PAYLOAD_TYPES = ("bigint", "double precision", "text", "boolean")


def payload(count):
    """One field with a JSON object of twenty members."""
    rng = random.Random(SEED)
    for i in range(count):
        members = {}
        for k in range(5):
            members["i%d" % k] = rng.randrange(1 << 40)
            members["d%d" % k] = rng.random()
            members["t%d" % k] = "text %d of entry %d" % (k, i)
            members["b%d" % k] = rng.random() < 0.5
        yield "bench", ["payload", json.dumps(members)]


PAYLOAD_TABLE = "CREATE TABLE {name} (id bigserial PRIMARY KEY, %s)" % ", ".join(
    "i%d bigint, d%d double precision, t%d text, b%d boolean" % (k, k, k, k) for k in range(5))


def write_redis(entries, path):
    """XADD commands for redis-cli --pipe."""
    with open(path, "w", encoding="ascii", newline="") as out:
        for i, (stream, fields) in enumerate(entries):
            args = ["XADD", stream, "%d-%d" % (FIRST_MS + i // 8, i % 8)] + fields
            out.write("*%d\r\n" % len(args) + "".join("$%d\r\n%s\r\n" % (len(a), a) for a in args))


def write_copy(count, folder, sizes):
    """The readings as COPY's text, whole and cut into files of each size: {size: [paths]}, None for the whole."""
    lines = []
    for _, fields in readings(count):
        device, kind, value, when, metadata = fields[1::2]
        lines.append("\t".join((when, device, kind, value, metadata)) + "\n")
    paths = {}
    for size in (None, *sizes):
        step = size or count
        paths[size] = []
        for first in range(0, count, step):
            path = "%s/rows-%s-%d" % (folder, size or "all", first)
            with open(path, "w", encoding="ascii") as out:
                out.writelines(lines[first:first + step])
            paths[size].append(path)
    return paths
