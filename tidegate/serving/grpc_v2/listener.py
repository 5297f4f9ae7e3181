"""The gRPC port of a worker: takes connections, ends those that cost too much time, and drains them when the server stops."""

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

from tidegate.errors import ServingError
from tidegate.serving.grpc_v2.connection import GrpcConnection
from tidegate.serving.grpc_v2.health import HealthService
from tidegate.serving.grpc_v2.limits import MOST_HELD_BYTES, ConnectionLimits
from tidegate.serving.grpc_v2.repository import RepositoryService
from tidegate.serving.grpc_v2.service import InferenceService
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.settings import ServeSettings

_BACKLOG = 1024
_SWEEP_SECONDS = 1.0
_GOODBYE_SECONDS = 1.0  # for a caller to answer a ping; a caller who does not is left without
_POLL_SECONDS = 0.01


async def open_grpc(
    endpoint: Endpoint, settings: ServeSettings, count_connections: Callable[[int], None] = lambda _change: None
) -> "GrpcListener":
    """Open `settings.grpc_port` on the running loop, for `endpoint`; `count_connections` is told of changes of their number.

    Other workers may listen on the same port. Once the server is to stop, say so with `endpoint.drain()`, which watching
    health checkers are told, and when no more calls are wanted await `drain(seconds)` of what is returned.

    Raises:
        ServingError: The port cannot be opened.
    """
    listener = GrpcListener(endpoint, settings, count_connections)
    await listener.open()
    return listener


class GrpcListener:
    """An open gRPC port and its connections."""

    def __init__(self, endpoint: Endpoint, settings: ServeSettings, count_connections: Callable[[int], None]) -> None:
        """Take note of what to serve; nothing is opened yet."""
        self._settings = settings
        self._health = HealthService(endpoint)
        self._methods = (
            InferenceService(endpoint, settings).methods() | RepositoryService(endpoint).methods() | self._health.methods()
        )
        self._limits = ConnectionLimits(
            message_bytes=settings.max_body_bytes,
            read_ns=int(settings.read_seconds * 1e9),
            idle_ns=int(settings.idle_seconds * 1e9),
        )
        self._count_connections = count_connections
        self._connections: set[GrpcConnection] = set()
        self._held_bytes = 0
        self._server: asyncio.Server | None = None
        self._sweep_seconds = min(_SWEEP_SECONDS, settings.read_seconds / 4, settings.idle_seconds / 4)
        self._sweeping: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Bind and listen; raises ServingError."""
        host, port = self._settings.host, self._settings.grpc_port
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connection, host, port, backlog=_BACKLOG, reuse_port=self._settings.workers > 1 or None
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise ServingError(f"gRPC port {port} on {host} cannot be opened: {reason}; choose another --grpc-port") from error
        self._sweep()

    async def drain(self, seconds: float) -> bool:
        """Take no more connections, let the calls in flight be answered, and close; return whether all were in time.

        Callers are told to go elsewhere first, and none of their calls is lost that reaches the server before they heard it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        if self._server is not None:
            self._server.close()
        self._health.end_watches()
        for connection in tuple(self._connections):
            connection.drain()
        await self._wait_until_closed(min(deadline, loop.time() + _GOODBYE_SECONDS))
        for connection in tuple(self._connections):
            connection.leave()
        await self._wait_until_closed(deadline)
        if self._sweeping is not None:
            self._sweeping.cancel()
        unfinished = [connection for connection in self._connections if connection.calls]
        for connection in tuple(self._connections):
            connection.abort()
        return not unfinished

    def opened(self, connection: GrpcConnection) -> bool:
        """Take note of a new connection; False if there are too many."""
        self._connections.add(connection)
        self._count_connections(1)
        return len(self._connections) <= self._settings.max_connections

    def closed(self, connection: GrpcConnection) -> None:
        """Take note that a connection is gone."""
        self._connections.discard(connection)
        self._count_connections(-1)

    def hold(self, change: int) -> bool:
        """Take note of so many more (or fewer) bytes that wait; False if they are too many in all connections."""
        self._held_bytes += change
        return self._held_bytes <= MOST_HELD_BYTES

    def _connection(self) -> GrpcConnection:
        return GrpcConnection(self._methods, self._limits, self)

    async def _wait_until_closed(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while self._connections and loop.time() < deadline:
            await asyncio.sleep(_POLL_SECONDS)

    def _sweep(self) -> None:
        now = perf_counter_ns()
        for connection in tuple(self._connections):
            connection.sweep(now)
        self._sweeping = asyncio.get_running_loop().call_later(self._sweep_seconds, self._sweep)
