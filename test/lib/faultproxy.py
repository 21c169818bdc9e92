#!/usr/bin/python3
"""A TCP proxy that breaks connections in the ways a network does.

faultproxy.py TARGET_PORT CONTROL_SOCKET [SEED]

Listens on a free loopback port, whose number is its first line of output, and
passes everything on to 127.0.0.1:TARGET_PORT.  One line to the control socket
is a command, one line comes back:

  set KIND [NAME=VALUE ...]   a fault from now on, on open and new connections
  clear [KIND]                no fault of that kind any more, or none at all
  target PORT                 where new connections go; open ones are closed
  counts                      how often each kind struck: "kind=n kind=n ..."

Kinds and their arguments (milliseconds, bytes):

  latency ms= jitter=    each piece comes later
  bandwidth rate=        so many bytes a second
  slicer size= ms=       each piece in packets of that size, with a pause between
  timeout ms=            all is swallowed; with ms the connection is closed after that time
  freeze                 nothing moves in either direction, nothing is lost: half open
  reset_peer ms=         RST to both ends
  limit_data bytes=      closed after so many bytes
  slow_close ms=         when one end closes, the other learns of it later
  down keep=             connections are refused; open ones are closed unless keep=1

dir=up (to the server) or dir=down limits latency, bandwidth, slicer, timeout,
reset_peer and limit_data to one direction.  after=N lets N bytes of a
connection pass in that direction first, counted from the command on, so that a
fault comes in the middle of a reply.
"""

import asyncio
import os
import random
import socket
import struct
import sys

KINDS = ("latency", "bandwidth", "slicer", "timeout", "freeze", "reset_peer", "limit_data", "slow_close", "down")
NAMES = {"ms", "jitter", "rate", "size", "bytes", "keep", "after"}
LISTEN_BACKLOG = 64


class Fault:
    def __init__(self, kind, args):
        self.kind = kind
        self.dir = args.pop("dir", "both")
        self.args = {name: int(value) for name, value in args.items()}
        if kind not in KINDS or self.dir not in ("up", "down", "both") or set(self.args) - NAMES:
            raise ValueError("no such fault")
        self.after = self.args.get("after", 0) + (self.args.get("bytes", 0) if kind == "limit_data" else 0)
        self.gone = asyncio.Event()

    def get(self, name, default=0):
        return self.args.get(name, default)

    def applies(self, direction):
        return self.dir in ("both", direction) and self.kind not in ("slow_close", "down")

    async def pause(self, seconds):
        """So long, or until the fault is cleared."""
        try:
            await asyncio.wait_for(self.gone.wait(), seconds)
        except asyncio.TimeoutError:
            pass


class Connection:
    def __init__(self, client):
        self.client = client
        self.server = None
        self.passed = {"up": 0, "down": 0}
        self.marks = {}  # bytes that had passed when a fault was set
        self.closed = asyncio.Event()

    def mark(self, fault):
        self.marks[fault] = dict(self.passed)

    def beyond(self, fault, direction):
        """Bytes that may still pass before the fault strikes; 0 or less: it does."""
        mark = self.marks.get(fault)
        return fault.after - self.passed[direction] + (mark[direction] if mark else 0)

    def close(self, reset=False):
        for end in (self.client, self.server):
            if end is not None and reset:
                try:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                except OSError:
                    pass
        self.closed.set()


class Proxy:
    def __init__(self, target, seed):
        self.target = target
        self.random = random.Random(seed)
        self.faults = {}
        self.counts = {kind: 0 for kind in KINDS}
        self.connections = set()
        self.listener = self.bind(0)
        self.port = self.listener.getsockname()[1]
        self.accepting = None
        self.tasks = set()

    @staticmethod
    def bind(port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
        return sock

    def spawn(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    # ---- commands ----

    def up(self):
        self.listener.listen(LISTEN_BACKLOG)
        self.accepting = self.spawn(self.accept())

    def go_down(self, keep):
        """The port stays ours: bound, and nobody listens."""
        self.accepting.cancel()
        self.accepting = None
        self.listener.close()
        self.listener = self.bind(self.port)
        self.counts["down"] += 1
        if not keep:
            for connection in list(self.connections):
                connection.close()

    def set(self, kind, args):
        fault = Fault(kind, args)
        self.clear(kind)
        self.faults[kind] = fault
        for connection in self.connections:
            connection.mark(fault)
        if kind == "down":
            self.go_down(fault.get("keep"))
        elif kind == "reset_peer" and fault.after == 0:
            for connection in list(self.connections):
                self.spawn(self.reset(connection, fault))

    def clear(self, kind=None):
        for name in [kind] if kind else list(self.faults):
            fault = self.faults.pop(name, None)
            if fault is not None:
                fault.gone.set()
                if name == "down":
                    self.up()

    def command(self, line):
        words = line.split()
        try:
            if words[0] == "set":
                self.set(words[1], dict(word.split("=", 1) for word in words[2:]))
            elif words[0] == "clear":
                self.clear(*words[1:])
            elif words[0] == "target":
                self.target = int(words[1])
                for connection in list(self.connections):
                    connection.close()
            elif words[0] == "counts":
                return " ".join("%s=%d" % pair for pair in self.counts.items())
            else:
                return "error: no such command"
        except (ValueError, IndexError, TypeError) as error:
            return "error: %s" % error
        return "ok"

    async def control(self, reader, writer):
        while True:
            line = await reader.readline()
            if not line:
                break
            writer.write((self.command(line.decode()) + "\n").encode())
            await writer.drain()
        writer.close()

    # ---- connections ----

    async def accept(self):
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self.listener)
            client.setblocking(False)
            self.spawn(self.serve(client))

    async def serve(self, client):
        loop = asyncio.get_running_loop()
        connection = Connection(client)
        self.connections.add(connection)
        pumps = []
        try:
            connection.server = socket.socket()
            connection.server.setblocking(False)
            await loop.sock_connect(connection.server, ("127.0.0.1", self.target))
            for end in (client, connection.server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            fault = self.faults.get("reset_peer")
            if fault is not None and fault.after == 0:
                self.spawn(self.reset(connection, fault))
            pumps = [self.spawn(self.pump(connection, "up", client, connection.server)),
                     self.spawn(self.pump(connection, "down", connection.server, client))]
            await connection.closed.wait()
        except OSError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            if pumps:
                await asyncio.wait(pumps)
            self.connections.discard(connection)
            for end in (client, connection.server):
                if end is not None:
                    end.close()

    async def reset(self, connection, fault):
        await fault.pause(fault.get("ms") / 1000)
        if not connection.closed.is_set() and not fault.gone.is_set():
            self.counts["reset_peer"] += 1
            connection.close(reset=True)

    async def pump(self, connection, direction, source, sink):
        loop = asyncio.get_running_loop()
        try:
            while True:
                data = await loop.sock_recv(source, 65536)
                if not data:
                    break
                while data:
                    size = len(data)
                    for fault in self.faults.values():
                        if fault.applies(direction) and connection.beyond(fault, direction) > 0:
                            size = min(size, connection.beyond(fault, direction))
                    piece, data = data[:size], data[size:]
                    await self.carry(loop, connection, direction, sink, piece)
        except OSError:
            pass
        fault = self.faults.get("freeze")
        if fault is not None:
            await fault.gone.wait()
        fault = self.faults.get("slow_close")
        if fault is not None:
            self.counts["slow_close"] += 1
            await fault.pause(fault.get("ms", 1000) / 1000)
        connection.close()

    async def carry(self, loop, connection, direction, sink, piece):
        """One piece, all of it before or behind where each fault begins."""
        active = {fault.kind: fault for fault in self.faults.values()
                  if fault.applies(direction) and connection.beyond(fault, direction) <= 0}
        for kind in active:
            if kind != "slicer" or len(piece) > 1:
                self.counts[kind] += 1
        connection.passed[direction] += len(piece)

        if "freeze" in active:
            await active["freeze"].gone.wait()
        if "limit_data" in active:
            connection.close()
            await asyncio.Event().wait()
        if "reset_peer" in active:
            await active["reset_peer"].pause(active["reset_peer"].get("ms") / 1000)
            connection.close(reset=True)
            await asyncio.Event().wait()
        if "timeout" in active:
            ms = active["timeout"].get("ms")
            if ms:
                await active["timeout"].pause(ms / 1000)
                connection.close()
            return
        if "latency" in active:
            fault = active["latency"]
            jitter = fault.get("jitter")
            await fault.pause(max(0, fault.get("ms", 50) + self.random.randint(-jitter, jitter)) / 1000)
        if "bandwidth" in active:
            await active["bandwidth"].pause(len(piece) / max(1, active["bandwidth"].get("rate", 10000)))
        if "slicer" in active:
            fault = active["slicer"]
            size = max(1, fault.get("size", 10))
            while piece and not fault.gone.is_set():
                await loop.sock_sendall(sink, piece[:size])
                piece = piece[size:]
                await fault.pause(fault.get("ms") / 1000)
        if piece:
            await loop.sock_sendall(sink, piece)


async def main():
    target, path = int(sys.argv[1]), sys.argv[2]
    proxy = Proxy(target, int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    proxy.up()
    if os.path.exists(path):
        os.unlink(path)
    server = await asyncio.start_unix_server(proxy.control, path)
    print(proxy.port, flush=True)
    parent = os.getppid()
    async with server:
        # who started it may be killed
        while os.getppid() == parent:
            await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main())
