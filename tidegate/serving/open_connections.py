"""The open connections of one port of one worker: how many there are, and how much they hold together."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from tidegate.errors import ServingError

C = TypeVar("C")

_BACKLOG = 1024
_MOST_HELD_BYTES = 256 * 1024 * 1024  # large bodies, parts of messages, answers that their callers have no room for


class OpenConnections(Generic[C]):
    """Knows all connections of a port, which tell it of themselves.

    Attributes:
        connections: Those that are open.
    """

    def __init__(self, most: int, count: Callable[[int], None]) -> None:
        """Allow so many connections; `count` is told of every change of their number."""
        self.connections: set[C] = set()
        self._most = most
        self._count = count
        self._held_bytes = 0

    def opened(self, connection: C) -> bool:
        """Take note of a new connection; False if there are too many, which it then tells its caller."""
        self.connections.add(connection)
        self._count(1)
        return len(self.connections) <= self._most

    def closed(self, connection: C) -> None:
        """Take note that a connection is gone."""
        self.connections.discard(connection)
        self._count(-1)

    def hold(self, change: int) -> bool:
        """Take note of so many more (or fewer) bytes that wait; False if they are too many in all connections."""
        self._held_bytes += change
        return self._held_bytes <= _MOST_HELD_BYTES


async def listen(
    connect: Callable[[], asyncio.BaseProtocol], host: str, port: int, *, shared_port: bool, what: str, option: str
) -> asyncio.Server:
    """Listen on a port; with `shared_port`, other processes listen on it, too.

    Raises:
        ServingError: It cannot be opened; `what` it is and the `option` that chooses it are in the message.
    """
    try:
        return await asyncio.get_running_loop().create_server(
            connect, host, port, backlog=_BACKLOG, reuse_port=shared_port or None
        )
    except OSError as error:
        reason = error.strerror or error
        raise ServingError(f"{what} {port} on {host} cannot be opened: {reason}; choose another {option}") from error
