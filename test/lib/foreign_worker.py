#!/usr/bin/python3
"""foreign_worker SOCKET STREAM GROUP CONSUMER OUT: a worker of another kind, as people have
them in Python.  Reads in the group, appends the rkey of each operation to the file OUT,
acknowledges; takes over what has been pending with somebody for a second.
SIGTERM: after the batch at work."""

import json
import signal
import sys

import redis

socket, stream, group, consumer, out = sys.argv[1:]
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
r = redis.Redis(unix_socket_path=socket, decode_responses=True)
try:
    r.xgroup_create(stream, group, id="0", mkstream=True)
except redis.ResponseError as error:
    if "BUSYGROUP" not in str(error):
        raise


def handle(entries):
    with open(out, "a") as f:
        for _, fields in entries:
            for op in json.loads(fields["event"])["ops"]:
                f.write(op["rkey"] + "\n")
    r.xack(stream, group, *[entry_id for entry_id, _ in entries])


while not stopping:
    claimed = r.xautoclaim(stream, group, consumer, min_idle_time=1000, count=100)[1]
    if claimed:
        handle(claimed)
    for _, entries in r.xreadgroup(group, consumer, {stream: ">"}, count=20, block=200):
        handle(entries)
