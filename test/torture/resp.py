"""A Redis connection as small as it can be: commands out, replies in."""

import socket


class RedisError(Exception):
    """An error reply; the connection is in order."""


class Redis:
    def __init__(self, path, timeout=10.0):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")

    def close(self):
        self.file.close()
        self.sock.close()

    def send(self, commands):
        out = []
        for command in commands:
            out.append(b"*%d\r\n" % len(command))
            for word in command:
                word = word if isinstance(word, bytes) else str(word).encode()
                out.append(b"$%d\r\n%s\r\n" % (len(word), word))
        self.sock.sendall(b"".join(out))

    def line(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("connection lost")
        return line[:-2]

    def reply(self):
        """One reply; errors are returned."""
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            data = self.file.read(size + 2)
            if len(data) != size + 2:
                raise ConnectionError("connection lost")
            return data[:-2].decode("utf-8", "surrogateescape")
        if kind == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        raise ConnectionError("not a reply: %r" % line)

    def __call__(self, *command):
        self.send([command])
        reply = self.reply()
        if isinstance(reply, RedisError):
            raise reply
        return reply


def entry_key(entry_id):
    """What ids are ordered by."""
    ms, seq = entry_id.split("-")
    return int(ms), int(seq)


def as_dict(flat):
    return dict(zip(flat[::2], flat[1::2]))
