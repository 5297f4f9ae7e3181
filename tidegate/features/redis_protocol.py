"""Redis' own protocol (RESP2): commands as bytes, and replies as they arrive, in pieces of any size.

redis-py would do, but it costs a model server 35 MiB and 0.3 s, and half as much again for a lookup; what a server and a
materialization need of the protocol is this page. Protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from collections.abc import Generator, Sequence
from typing import Any

Part = bytes | str | int
Reply = Any
"""A status or a bulk string (bytes), an integer, a list of replies, nothing (None), or a RedisRefusal."""


class RedisRefusal(Exception):
    """The Redis answered a command with an error; the connection is as good as before."""


class RedisDisconnected(ConnectionError):
    """The Redis closed the connection, or speaks another protocol."""


def packed(command: Sequence[Part]) -> bytes:
    """Return a command as it is sent."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n%b" % (len(parts), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))


class ReplyParser:
    """Turns what is received into replies."""

    def __init__(self) -> None:
        """Expect a first reply."""
        self._buffer = bytearray()
        self._position = 0
        self._reading = self._read_reply()

    def feed(self, received: bytes) -> list[Reply]:
        """Return the replies that are complete with `received`; raises RedisDisconnected if it is another protocol."""
        self._buffer += received
        replies: list[Reply] = []
        while True:
            try:
                next(self._reading)
            except StopIteration as complete:
                replies.append(complete.value)
                self._reading = self._read_reply()
            except ValueError as error:
                raise RedisDisconnected("it does not speak Redis' protocol") from error
            else:
                del self._buffer[: self._position]
                self._position = 0
                return replies

    def _read_reply(self) -> Generator[None, None, Reply]:
        line = yield from self._read_line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return (yield from self._read_bulk(int(rest)))
        if kind == b"*":
            return (yield from self._read_array(int(rest)))
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"-":
            return RedisRefusal(rest.decode(errors="replace"))
        raise ValueError(line)

    def _read_array(self, size: int) -> Generator[None, None, list[Reply] | None]:
        if size < 0:
            return None
        replies: list[Reply] = []
        while len(replies) < size:
            replies += self._complete_bulks(size - len(replies))
            if len(replies) < size:
                replies.append((yield from self._read_reply()))
        return replies

    def _complete_bulks(self, most: int) -> list[bytes | None]:
        """Return the bulk strings that are wholly there: what a lookup's replies are made of, read in one short loop."""
        buffer, position = self._buffer, self._position
        find, available = buffer.find, len(buffer)
        found: list[bytes | None] = []
        for _ in range(most):
            end = find(b"\r\n", position)
            if end < 0 or buffer[position] != 36:  # '$'
                break
            size = int(buffer[position + 1 : end])
            if size < 0:
                found.append(None)
                position = end + 2
                continue
            if end + size + 4 > available:
                break
            found.append(bytes(buffer[end + 2 : end + 2 + size]))
            position = end + size + 4
        self._position = position
        return found

    def _read_line(self) -> Generator[None, None, bytes]:
        while (end := self._buffer.find(b"\r\n", self._position)) < 0:
            yield
        line = bytes(self._buffer[self._position : end])
        self._position = end + 2
        return line

    def _read_bulk(self, size: int) -> Generator[None, None, bytes | None]:
        if size < 0:
            return None
        while len(self._buffer) < self._position + size + 2:
            yield
        value = bytes(self._buffer[self._position : self._position + size])
        self._position += size + 2
        return value
