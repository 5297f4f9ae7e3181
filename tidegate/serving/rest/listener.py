"""Accepts REST connections, keeps the time for them, and closes them gracefully."""

import asyncio
from collections.abc import Callable
from email.utils import formatdate

from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.open_connections import OpenConnections, listen
from tidegate.serving.rest.application import RestApplication
from tidegate.serving.rest.connection import Connection
from tidegate.serving.rest.exchange import Exchange
from tidegate.serving.settings import ServeSettings

_SWEEP_SECONDS = 0.25


async def open_rest(
    endpoint: Endpoint, settings: ServeSettings, scrape: Callable[[], bytes], count_connections: Callable[[int], None]
) -> "RestListener":
    """Answer REST on the port of `settings`, which all workers share.

    Args:
        endpoint: What is served.
        settings: Port and limits.
        scrape: Returns the metrics of the whole pod.
        count_connections: Told of every change of the number of connections.

    Raises:
        ServingError: The port cannot be opened.
    """
    listener = RestListener(
        RestApplication(endpoint, settings, scrape).handle,
        max_body_bytes=settings.max_body_bytes,
        max_connections=settings.max_connections,
        read_seconds=settings.read_seconds,
        idle_seconds=settings.idle_seconds,
        count_connections=count_connections,
    )
    await listener.open(settings.host, settings.http_port, shared_port=settings.workers > 1)
    return listener


class RestListener(OpenConnections[Connection]):
    """The open port and its connections, on one event loop.

    Attributes:
        handle: Answers one exchange.
        max_body_bytes: Bytes allowed in one request's body.
        now: The loop's time, refreshed by every sweep: fine enough for timeouts, and free.
        date: The `date` header's line (RFC 9110, 6.6.1).
        is_draining: Every response closes its connection, since the server is about to stop.
    """

    def __init__(
        self,
        handle: Callable[[Exchange], None],
        *,
        max_body_bytes: int,
        max_connections: int,
        read_seconds: float,
        idle_seconds: float,
        count_connections: Callable[[int], None] = lambda _change: None,
    ) -> None:
        """Prepare; `open` listens. `count_connections` is told of every change of their number."""
        super().__init__(max_connections, count_connections)
        self.handle = handle
        self.max_body_bytes = max_body_bytes
        self.now = asyncio.get_running_loop().time()
        self.date = _date_line()
        self.is_draining = False
        self._read_seconds = read_seconds
        self._idle_seconds = idle_seconds
        self._server: asyncio.Server | None = None
        self._empty: asyncio.Event = asyncio.Event()
        self._sweeping: asyncio.TimerHandle | None = None

    async def open(self, host: str, port: int, *, shared_port: bool) -> None:
        """Listen; with `shared_port`, other processes listen on the same port. Raises ServingError if it is taken."""
        self._server = await listen(
            lambda: Connection(self), host, port, shared_port=shared_port, what="port", option="--http-port"
        )
        self._sweep()

    async def drain(self, seconds: float) -> bool:
        """Accept no more, let requests in flight finish for so long, close all; return whether all could finish."""
        self.is_draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        try:
            if self.connections:
                self._empty.clear()
                await asyncio.wait_for(self._empty.wait(), seconds)
            return True
        except TimeoutError:
            for connection in list(self.connections):
                connection.abort()
            return False
        finally:
            if self._sweeping is not None:
                self._sweeping.cancel()

    def closed(self, connection: Connection) -> None:
        """Take note that a connection is gone."""
        super().closed(connection)
        if not self.connections:
            self._empty.set()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self.date = _date_line()
        for connection in list(self.connections):
            connection.sweep(self.now, self._read_seconds, self._idle_seconds)
        self._sweeping = loop.call_later(_SWEEP_SECONDS, self._sweep)


def _date_line() -> bytes:
    return f"date: {formatdate(usegmt=True)}\r\n".encode()
