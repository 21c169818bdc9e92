"""What the database says is settled."""

from resp import entry_key


def settled_ranges(pg, where="true"):
    """(pipeline, stream): list of (first, last) as keys."""
    ranges = {}
    for pipeline, stream, low, high in pg.sql(
            "SELECT pipeline, stream, lower(r), upper(r) FROM streamsink.streams, unnest(settled) r WHERE " + where, timeout=120):
        ms, seq = entry_key(high)
        high = (ms, seq - 1) if seq > 0 else (ms - 1, 2 ** 64 - 1)
        ranges.setdefault((pipeline, stream), []).append((entry_key(low), high))
    return ranges


def is_in(ranges, key):
    return any(low <= key <= high for low, high in ranges)
