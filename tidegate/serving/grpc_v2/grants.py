"""Permission to send long messages, so that a connection holds no more of them at once than it has memory for."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from tidegate.serving.grpc_v2.frames import window_update

if TYPE_CHECKING:
    from tidegate.serving.grpc_v2.calls import Call


class Grants:
    """Widens the windows of calls whose messages are longer than a stream's first window.

    A call is granted all that its message needs, or waits for the messages before it: were each granted a part, all could
    wait for each other.
    """

    def __init__(self, budget: int, write: Callable[[bytes], None]) -> None:
        """Allow `budget` bytes at once; `write` sends frames."""
        self._left = budget
        self._write = write
        self._asking: deque[tuple[Call, int]] = deque()

    def ask(self, call: "Call", size: int) -> None:
        """Let the caller send `size` more bytes of this call, now or when others have ended."""
        if any(asking is call for asking, _ in self._asking):
            return
        self._asking.append((call, size))
        self._give()

    def release(self, call: "Call") -> None:
        """Take note that a call has ended."""
        self._left += call.granted
        self._asking = deque(asked for asked in self._asking if asked[0] is not call)
        self._give()

    def _give(self) -> None:
        while self._asking and self._asking[0][1] <= self._left:
            call, size = self._asking.popleft()
            self._left -= size
            call.grant(size)
            self._write(window_update(call.id, size))
