"""One connection to a Redis in its own protocol (RESP2), with a deadline on everything.

redis-py would do, but it costs a model server 35 MiB and 0.3 s, and a third of the time of a lookup; what a server and a
materialization need of the protocol is this page. Protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tidegate.features.redis_address import RedisAddress

Part = bytes | str | int
Reply = bytes | int | list[Any] | None
"""A status or a bulk string (bytes), an integer, a list of replies, or nothing."""

_CHUNK = 1 << 16


class RedisRefusal(Exception):
    """The Redis answered a command with an error; the connection is as good as before."""


class RedisDisconnected(ConnectionError):
    """The Redis closed the connection, or speaks another protocol."""


class RedisConnection:
    """Sends commands and reads their replies. After an OSError the connection must not be used again."""

    def __init__(
        self, address: RedisAddress, *, connect_seconds: float, call_seconds: float, peer: tuple[Any, ...] | None = None
    ) -> None:
        """Connect, log in and choose the database.

        Args:
            address: The Redis.
            connect_seconds: How long connecting may take, and then logging in; looking the host's name up is limited by
                the system's resolver alone.
            call_seconds: How long each call may take as a whole.
            peer: An address (`RedisConnection.peer`) to connect to without looking the host's name up.

        Raises:
            OSError: It cannot be reached, or does not answer in time.
            RedisRefusal: It refuses the login or the database.
        """
        self._limit = connect_seconds
        self._deadline = 0.0
        self._buffer = bytearray()
        self._position = 0
        self._socket = self._connect(address, peer or (address.host, address.port))
        try:
            self.peer: tuple[Any, ...] = self._socket.getpeername()
            self._log_in(address)
        except BaseException:
            self.close()
            raise
        self._limit = call_seconds

    def call(self, *command: Part) -> Reply:
        """Send one command and return its reply; raises RedisRefusal, or OSError if the connection is lost or too slow."""
        return self.pipeline([command])[0]

    def pipeline(self, commands: Sequence[Sequence[Part]]) -> list[Reply]:
        """Send commands in one go and return their replies.

        Raises:
            RedisRefusal: A command was refused, the first such one; the others were carried out.
            OSError: The connection is lost or too slow; which commands were carried out is not known.
        """
        self._deadline = time.monotonic() + self._limit
        self._socket.settimeout(self._limit)
        self._socket.sendall(b"".join(map(_packed, commands)))
        try:
            replies = [self._read_reply() for _ in commands]
        except ValueError as error:
            raise RedisDisconnected("it does not speak Redis' protocol") from error
        refusal = next((reply for reply in replies if isinstance(reply, RedisRefusal)), None)
        if refusal is not None:
            raise refusal
        return replies

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._socket.close()

    def _connect(self, address: RedisAddress, peer: tuple[Any, ...]) -> socket.socket:
        plain = socket.create_connection(peer[:2], timeout=self._limit)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if not address.tls:
                return plain
            return ssl.create_default_context().wrap_socket(plain, server_hostname=address.host)
        except BaseException:
            plain.close()
            raise

    def _log_in(self, address: RedisAddress) -> None:
        hello: list[list[Part]] = [["PING"], ["SELECT", address.database]]
        if address.password is not None:
            hello.insert(0, ["AUTH", *([address.user] if address.user else []), address.password])
        self.pipeline(hello)

    def _read_reply(self) -> Any:
        line = self._read_line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return self._read_bulk(int(rest))
        if kind == b"*":
            return None if rest == b"-1" else [self._read_reply() for _ in range(int(rest))]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"-":
            return RedisRefusal(rest.decode(errors="replace"))
        raise RedisDisconnected("it does not speak Redis' protocol")

    def _read_line(self) -> bytes:
        start = self._position
        end = self._buffer.find(b"\r\n", start)
        while end < 0:
            self._receive()
            end = self._buffer.find(b"\r\n", self._position)
        line = bytes(self._buffer[self._position : end])
        self._advance(end + 2)
        return line

    def _read_bulk(self, size: int) -> bytes | None:
        if size < 0:
            return None
        while len(self._buffer) < self._position + size + 2:
            self._receive()
        value = bytes(self._buffer[self._position : self._position + size])
        self._advance(self._position + size + 2)
        return value

    def _advance(self, position: int) -> None:
        if position == len(self._buffer):
            self._buffer.clear()
            position = 0
        self._position = position

    def _receive(self) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(remaining)
        received = self._socket.recv(_CHUNK)
        if not received:
            raise RedisDisconnected("it closed the connection")
        self._buffer += received


def _packed(command: Sequence[Part]) -> bytes:
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n%b" % (len(parts), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))
