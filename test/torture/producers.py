"""Producers: each numbers what it sends, and knows what Redis took."""

import random
import threading
import time

from resp import Redis, RedisError
from schedule import PIPELINES, STREAMS

BAD_ONE_IN = 60


class Producer(threading.Thread):
    """Sends to all pipelines, straight to Redis: what lies between Redis and the workers is not its business."""

    def __init__(self, number, path, seed, rate):
        super().__init__(name="producer %d" % number, daemon=True)
        self.number, self.path, self.rate = number, path, rate
        self.random = random.Random("%s/%d" % (seed, number))
        self.ended = threading.Event()
        self.gate = threading.Lock()  # held while entries are under way
        self.next = 0
        self.acked = {}  # (stream, id): n
        self.uncertain = 0
        self.refused = 0
        self.focus = None  # a pipeline that gets all
        self.error = None

    def entry(self):
        r = self.random
        stream = r.choice(STREAMS[self.focus or r.choice(PIPELINES)])
        n = self.next
        self.next += 1
        value = "bad" if r.randrange(BAD_ONE_IN) == 0 else n * 31 % 100003
        pad = "x" * (r.randrange(5000) if r.randrange(50) == 0 else r.randrange(60))
        return stream, n, ("XADD", stream, "*", "p", self.number, "n", n, "v", value, "pad", pad)

    def run(self):
        try:
            redis = None
            while not self.ended.is_set():
                batch = [self.entry() for _ in range(self.random.randint(1, 40))]
                with self.gate:
                    redis = self.send(redis, batch)
                self.ended.wait(len(batch) / self.rate)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def send(self, redis, batch):
        """Note what was taken; returns the connection, or None if it was lost."""
        answered = 0
        try:
            redis = redis or Redis(self.path)
            redis.send(command for _, _, command in batch)
            for stream, n, _ in batch:
                reply = redis.reply()
                answered += 1
                if isinstance(reply, RedisError):
                    self.refused += 1
                else:
                    self.acked[(stream, reply)] = n
            return redis
        except OSError:
            # it may have them or not: what the streams hold at the end tells
            self.uncertain += len(batch) - answered
            if redis:
                redis.close()
            return None

    def end(self):
        self.ended.set()
        self.join(30)
        if self.is_alive():
            raise RuntimeError("%s does not end" % self.name)
        if self.error:
            raise self.error
