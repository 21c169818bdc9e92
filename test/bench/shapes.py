"""The shapes: what is in Redis, what table it goes to, how the pipeline is defined."""
from dataclasses import dataclass, field
from typing import Callable

import data


@dataclass
class Source:
    """Entries in a Redis database of their own; made once, read by many runs, each with a group of its own."""
    db: int
    share: float                      # of the run's number of entries
    entries: Callable
    one_stream: bool = True

    def count(self, total):
        return max(1000, int(total * self.share))


SOURCES = {
    "readings": Source(0, 1, data.readings),
    "streams_1000": Source(1, 1, lambda n: data.readings(n, lambda i: "readings:%d" % (i % 1000)), one_stream=False),
    "streams_10000": Source(2, 1, lambda n: data.readings(n, lambda i: "readings:%d" % (i % 10000)), one_stream=False),
    "entry_100": Source(3, 1, data.small),
    "entry_1k": Source(4, 0.3, lambda n: data.readings(n, pad=860)),
    "entry_50k": Source(5, 0.01, lambda n: data.readings(n, pad=50000)),
    "payload_20": Source(6, 0.3, data.payload),
    "bad_decode": Source(7, 1, lambda n: data.readings(n, bad="decode")),
    "bad_write": Source(8, 1, lambda n: data.readings(n, bad="write")),
}


@dataclass
class Shape:
    title: str
    source: str = "readings"
    table: str = data.READINGS
    after: tuple = ()                 # further DDL
    stream: str = "bench"
    options: dict = field(default_factory=dict)
    refused: bool = False             # some entries are meant to be
    superseded: bool = False          # fewer rows than entries are meant to be


BY_DEVICE = """CREATE TABLE {name} (device_id varchar(100), sensor_type varchar(100), timestamp timestamptz NOT NULL,
    value double precision NOT NULL, metadata jsonb, PRIMARY KEY (device_id, sensor_type))"""

PARTITIONED = """CREATE TABLE {name} (id bigserial, timestamp timestamptz NOT NULL, device_id varchar(100) NOT NULL,
    sensor_type varchar(100) NOT NULL, value double precision NOT NULL, metadata jsonb, created_at timestamptz DEFAULT now(),
    PRIMARY KEY (id, timestamp)) PARTITION BY RANGE (timestamp)"""
SECONDS_PER_PARTITION = 100

SHAPES = {
    "streams_1000": Shape("1,000 streams by template", "streams_1000", stream="readings:{shard}"),
    "streams_10000": Shape("10,000 streams by template", "streams_10000", stream="readings:{shard}"),
    "entry_100": Shape("entries of 100 bytes", "entry_100",
                       "CREATE TABLE {name} (id bigserial PRIMARY KEY, device_id text, value double precision, note text)"),
    "entry_1k": Shape("entries of 1 kB", "entry_1k"),
    "entry_50k": Shape("entries of 50 kB", "entry_50k"),
    "payload_20": Shape("JSON payload with 20 members", "payload_20", data.PAYLOAD_TABLE, options={"payload": "payload"}),
    "upsert": Shape("upsert on a key of 3,000 values", table=BY_DEVICE, options={"on_conflict": "update"}, superseded=True),
    "partitioned": Shape("partitioned table, 8 partitions", table=PARTITIONED, after=tuple(
        "CREATE TABLE {name}_%d PARTITION OF {name} FOR VALUES FROM ('%s') TO ('%s')"
        % (i, "2026-03-01 00:00+00" if i == 0 else "2026-03-01 00:%02d:%02d+00" % divmod(i * SECONDS_PER_PARTITION, 60),
           "2026-04-01 00:00+00" if i == 7 else "2026-03-01 00:%02d:%02d+00" % divmod((i + 1) * SECONDS_PER_PARTITION, 60))
        for i in range(8))),
    "indexes_2": Shape("two secondary indexes", after=(
        "CREATE INDEX ON {name} (device_id, timestamp)", "CREATE INDEX ON {name} (timestamp)")),
    "bad_1pct": Shape("1 % bad entries, refused while decoding", "bad_decode", refused=True),
    "bad_1pct_write": Shape("1 % bad entries, refused by a CHECK of the table", "bad_write", refused=True,
                            after=("ALTER TABLE {name} ADD CHECK (value > -273.15)",)),
}
PLAIN = Shape("five fields, one stream")
