"""A connection to a Redis that waits for its replies, with a deadline on every call; for materialization."""

import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress

from tidegate.features.redis_address import RedisAddress
from tidegate.features.redis_protocol import Part, RedisDisconnected, RedisRefusal, Reply, ReplyParser, packed

_CHUNK = 1 << 16


def login_commands(address: RedisAddress) -> list[list[Part]]:
    """Return what a new connection begins with: the login, if there is a password, and the choice of the database."""
    login: list[list[Part]] = []
    if address.password is not None:
        login.append(["AUTH", *([address.user] if address.user else []), address.password])
    return [*login, ["SELECT", address.database]]


class RedisConnection:
    """Sends commands and reads their replies. After an OSError the connection must not be used again."""

    def __init__(self, address: RedisAddress, *, connect_seconds: float, call_seconds: float) -> None:
        """Connect, log in and choose the database.

        Args:
            address: The Redis.
            connect_seconds: How long connecting may take, and then logging in; looking the host's name up is limited by
                the system's resolver alone.
            call_seconds: How long each call may take as a whole.

        Raises:
            OSError: It cannot be reached, or does not answer in time.
            RedisRefusal: It refuses the login or the database.
        """
        self._limit = connect_seconds
        self._parser = ReplyParser()
        self._socket = self._connect(address)
        try:
            self.pipeline(login_commands(address))
        except BaseException:
            self.close()
            raise
        self._limit = call_seconds

    def pipeline(self, commands: Sequence[Sequence[Part]]) -> list[Reply]:
        """Send commands in one go and return their replies.

        Raises:
            RedisRefusal: A command was refused, the first such one; the others were carried out.
            OSError: The connection is lost or too slow; which commands were carried out is not known.
        """
        deadline = time.monotonic() + self._limit
        self._socket.settimeout(self._limit)
        self._socket.sendall(b"".join(map(packed, commands)))
        replies: list[Reply] = []
        while len(replies) < len(commands):
            replies += self._parser.feed(self._receive(deadline))
        refusal = next((reply for reply in replies if isinstance(reply, RedisRefusal)), None)
        if refusal is not None:
            raise refusal
        return replies

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._socket.close()

    def _connect(self, address: RedisAddress) -> socket.socket:
        plain = socket.create_connection((address.host, address.port), timeout=self._limit)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not address.tls:
                return plain
            return ssl.create_default_context().wrap_socket(plain, server_hostname=address.host)
        except BaseException:
            plain.close()
            raise

    def _receive(self, deadline: float) -> bytes:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(remaining)
        received = self._socket.recv(_CHUNK)
        if not received:
            raise RedisDisconnected("it closed the connection")
        return received
