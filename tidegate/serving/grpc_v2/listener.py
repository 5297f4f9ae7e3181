"""The gRPC port of a worker: takes connections, ends those that cost too much time, and drains them when the server stops."""

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

from tidegate.serving.grpc_v2.connection import GrpcConnection
from tidegate.serving.grpc_v2.health import HealthService
from tidegate.serving.grpc_v2.limits import ConnectionLimits
from tidegate.serving.grpc_v2.repository import RepositoryService
from tidegate.serving.grpc_v2.service import InferenceService
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.open_connections import OpenConnections, listen
from tidegate.serving.settings import ServeSettings

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


class GrpcListener(OpenConnections[GrpcConnection]):
    """An open gRPC port and its connections."""

    def __init__(self, endpoint: Endpoint, settings: ServeSettings, count_connections: Callable[[int], None]) -> None:
        """Take note of what to serve; nothing is opened yet."""
        super().__init__(settings.max_connections, count_connections)
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
        self._server: asyncio.Server | None = None
        self._sweep_seconds = min(_SWEEP_SECONDS, settings.read_seconds / 4, settings.idle_seconds / 4)
        self._sweeping: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Bind and listen; raises ServingError."""
        settings = self._settings
        self._server = await listen(
            self._connection,
            settings.host,
            settings.grpc_port,
            shared_port=settings.workers > 1,
            what="gRPC port",
            option="--grpc-port",
        )
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
        for connection in tuple(self.connections):
            connection.drain()
        await self._wait_until_closed(min(deadline, loop.time() + _GOODBYE_SECONDS))
        for connection in tuple(self.connections):
            connection.leave()
        await self._wait_until_closed(deadline)
        if self._sweeping is not None:
            self._sweeping.cancel()
        unfinished = [connection for connection in self.connections if connection.calls]
        for connection in tuple(self.connections):
            connection.abort()
        return not unfinished

    def _connection(self) -> GrpcConnection:
        return GrpcConnection(self._methods, self._limits, self)

    async def _wait_until_closed(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while self.connections and loop.time() < deadline:
            await asyncio.sleep(_POLL_SECONDS)

    def _sweep(self) -> None:
        now = perf_counter_ns()
        for connection in tuple(self.connections):
            connection.sweep(now)
        self._sweeping = asyncio.get_running_loop().call_later(self._sweep_seconds, self._sweep)
