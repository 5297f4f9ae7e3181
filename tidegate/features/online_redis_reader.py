"""Reads rows of a Redis for a model server's event loop: one connection, with as many lookups under way as there are requests.

A Redis that is silent for 0.3 s is given up, and a connection that is lost is renewed by one task in the background: at once,
then ever more rarely, down to once a second. Meanwhile lookups fail without waiting. See docs/decisions/packed-online-store.md.
"""

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from typing import cast

from tidegate.errors import FeatureError
from tidegate.features.online_redis import CONNECT_SECONDS, lookup_command, pauses, reason_of, rows_in
from tidegate.features.online_rows import FoundRow
from tidegate.features.redis_address import RedisAddress
from tidegate.features.redis_connection import RedisConnection, login_commands
from tidegate.features.redis_protocol import RedisDisconnected, RedisRefusal, Reply, ReplyParser, packed

_LOG = logging.getLogger(__name__)
_TICK_SECONDS = 0.1
_SILENT_TICKS = 3
_PROBE = lookup_command([b""])  # whoever may log in may still be forbidden to read


class RedisRowReader:
    """Reads rows; it is a RowReader. It belongs to the event loop of its first lookup."""

    waits = True

    def __init__(self, address: RedisAddress) -> None:
        """Check that the rows can be read; raises FeatureError if not: a server that cannot should not get ready."""
        self._address = address
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._attempted = asyncio.Event()
        self._failure: str | None = None
        try:
            connection = RedisConnection(address, connect_seconds=CONNECT_SECONDS, call_seconds=CONNECT_SECONDS)
            connection.pipeline([_PROBE])
        except (OSError, RedisRefusal) as error:
            raise self._error(reason_of(error)) from error
        connection.close()

    async def fetch(self, keys: Sequence[bytes]) -> Mapping[bytes, FoundRow]:
        """Return the rows that lie under `keys`, as one state of the store; raises FeatureError if it cannot be read."""
        if not keys:
            return {}
        command = packed(lookup_command(keys))
        try:
            try:
                reply = await (await self._connected()).call(command)
            except RedisDisconnected:  # under way when the connection was lost: once more, if it is back at once
                reply = await (await self._connected()).call(command)
        except (OSError, RedisRefusal) as error:
            raise self._error(reason_of(error)) from error
        return rows_in(keys, reply)

    def close(self) -> None:
        """Hang up, and do not connect again."""
        self._failure = "is closed"
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.abort(RedisDisconnected(self._failure))
            self._connection = None

    def lost(self, connection: "_Connection", error: Exception) -> None:
        """Renew a lost connection. Lookups wait for that if the Redis hung up, but not if it fell silent."""
        if connection is self._connection:
            self._connection = None
            if not isinstance(error, RedisDisconnected):
                self._fail(reason_of(error))
            self._connect_in_background()

    async def _connected(self) -> "_Connection":
        if self._connection is None and self._failure is None:
            self._connect_in_background()
            await self._attempted.wait()
        if self._connection is None:
            raise self._error(self._failure or "is not connected")
        return self._connection

    def _connect_in_background(self) -> None:
        if self._connecting is None:
            loop = asyncio.get_running_loop()
            self._attempted.clear()
            self._connecting = loop.create_task(self._connect_persistently())
            loop.call_later(_TICK_SECONDS * _SILENT_TICKS, self._attempted.set)

    async def _connect_persistently(self) -> None:
        loop = asyncio.get_running_loop()
        since = loop.time()
        for pause in pauses():
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    connection = await self._connect()
                break
            except (OSError, RedisRefusal) as error:
                self._fail(reason_of(error))
                self._attempted.set()
            await asyncio.sleep(pause)
        if self._failure is not None:
            _LOG.warning("online store %s: is back after %.1f s", self._address.uri, loop.time() - since)
        self._connection, self._failure, self._connecting = connection, None, None
        self._attempted.set()

    async def _connect(self) -> "_Connection":
        context = ssl.create_default_context() if self._address.tls else None
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self), self._address.host, self._address.port, ssl=context
        )
        try:
            for command in [*login_commands(self._address), _PROBE]:
                await connection.call(packed(command))
        except BaseException:
            connection.abort(RedisDisconnected("it was refused"))
            raise
        return connection

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            _LOG.warning("online store %s: %s; connecting again", self._address.uri, reason)
        self._failure = reason

    def _error(self, reason: str) -> FeatureError:
        return FeatureError(f"online store {self._address.uri}: {reason}")


class _Connection(asyncio.Protocol):
    """One connection; replies come in the order of the calls."""

    def __init__(self, reader: RedisRowReader) -> None:
        self._reader = reader
        self._parser = ReplyParser()
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._silent_ticks = 0
        self._error: Exception = RedisDisconnected("it closed the connection")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        self._silent_ticks = 0
        try:
            replies = self._parser.feed(data)
        except RedisDisconnected as error:
            self.abort(error)
            return
        for reply in replies:
            waiting = self._waiting.popleft()
            if waiting.done():  # whoever asked has gone
                continue
            if isinstance(reply, RedisRefusal):
                waiting.set_exception(reply)
            else:
                waiting.set_result(reply)

    def connection_lost(self, _error: Exception | None) -> None:
        self._timer.cancel()
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(self._error)
        self._reader.lost(self, self._error)

    def call(self, command: bytes) -> "asyncio.Future[Reply]":
        """Send a command; the future becomes its reply, a RedisRefusal, or an OSError."""
        waiting: asyncio.Future[Reply] = self._loop.create_future()
        if self._transport.is_closing():
            waiting.set_exception(self._error)
        else:
            self._waiting.append(waiting)
            self._transport.write(command)
        return waiting

    def abort(self, error: Exception) -> None:
        """Hang up; calls under way fail with `error`."""
        self._error = error
        self._transport.abort()

    def _tick(self) -> None:
        # Ticks are counted, not time: if the loop itself was busy, what has arrived is read before the next tick.
        self._silent_ticks = self._silent_ticks + 1 if self._waiting else 0
        if self._silent_ticks > _SILENT_TICKS:
            self.abort(TimeoutError(f"no answer within {_TICK_SECONDS * _SILENT_TICKS:.1f} s"))
        else:
            self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)
