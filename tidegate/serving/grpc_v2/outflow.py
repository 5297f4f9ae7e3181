"""What leaves a connection, no faster than the caller takes it: HTTP/2's windows (RFC 9113, section 5.2), and the socket."""

import asyncio
from typing import TYPE_CHECKING

from tidegate.serving.grpc_v2.frames import (
    DATA,
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_WINDOW,
    ConnectionViolation,
    ErrorCode,
    Setting,
    StreamViolation,
    frame,
)
from tidegate.serving.grpc_v2.limits import Patience

if TYPE_CHECKING:
    from tidegate.serving.grpc_v2.calls import Call

_TABLE_OF_NO_SIZE = b"\x20"  # HPACK's dynamic table size update to 0 (RFC 7541, section 6.3)
_DEFAULT_TABLE_BYTES = 4096


class Outflow:
    """Writes frames; answers that the caller is not ready for wait here, and take turns.

    Attributes:
        write: Gives bytes to the socket.
        window: Bytes of messages that the caller will take on this connection.
        first_window: The same on each new stream.
        frame_bytes: The longest payload that the caller takes in one frame.
        is_restrained: Whether an answer cannot just be written: others wait, or something has to be said first.
    """

    def __init__(self, transport: asyncio.Transport, patience: Patience) -> None:
        """Start with HTTP/2's default settings."""
        self.write = transport.write
        self.window = DEFAULT_WINDOW
        self.first_window = DEFAULT_WINDOW
        self.frame_bytes = DEFAULT_FRAME_BYTES
        self.is_restrained = False
        self._patience = patience
        self._socket_full = False
        self._must_empty_table = False
        self._waiting: dict[int, Call] = {}

    def write_headers(self, stream_id: int, block: bytes, *, ends_stream: bool = False) -> None:
        """Write a header block."""
        if self._must_empty_table:
            self._must_empty_table = False
            self._restrain()
            block = _TABLE_OF_NO_SIZE + block
        self.write(frame(HEADERS, END_HEADERS | END_STREAM if ends_stream else END_HEADERS, stream_id, block))

    def enqueue(self, call: "Call") -> None:
        """Let what is unsent of a call leave as soon as it can."""
        self._waiting[call.id] = call
        self.is_restrained = True
        self.flush(call.moved)

    def drop(self, call: "Call") -> None:
        """Send no more of this call."""
        self._waiting.pop(call.id, None)
        self._restrain()

    def stalled(self, before: int) -> list["Call"]:
        """Return the calls whose caller has taken nothing since `before`."""
        return [call for call in self._waiting.values() if call.moved < before]

    def flush(self, now: int) -> None:
        """Send what the windows allow, one frame of each waiting call at a time."""
        moved = True
        while moved and self._waiting:
            moved = False
            for call in tuple(self._waiting.values()):
                if self._socket_full:
                    return
                moved |= self._send_some(call, now)
        self._restrain()

    def pause(self) -> None:
        """Take note that the socket's buffer is full."""
        self._socket_full = True

    def resume(self, now: int) -> None:
        """Take note that it has room again."""
        self._socket_full = False
        self.flush(now)

    def widen(self, increment: int, calls: "dict[int, Call]", stream_id: int, now: int) -> None:
        """Take note that the caller is ready for `increment` more bytes, on one stream or (0) on the connection.

        Raises:
            ConnectionViolation: The connection's increment is 0, or its window would be too large.
            StreamViolation: The same of a stream.
        """
        if stream_id == 0:
            if increment == 0:
                raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE by 0")
            if self.window + increment > MAX_WINDOW:
                raise ConnectionViolation(ErrorCode.FLOW_CONTROL_ERROR, "a window of more than 2**31 - 1 bytes")
            self.window += increment
        else:
            call = calls.get(stream_id)
            if call is None:
                return
            if increment == 0:
                raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR)
            if call.send_window + increment > MAX_WINDOW:
                raise StreamViolation(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
            call.send_window += increment
        if self._waiting:
            self.flush(now)

    def adopt(self, stated: dict[int, int], calls: "dict[int, Call]", now: int) -> None:
        """Take note of the caller's settings; raises ConnectionViolation."""
        self.frame_bytes = stated.get(Setting.MAX_FRAME_SIZE, self.frame_bytes)
        if stated.get(Setting.HEADER_TABLE_SIZE, _DEFAULT_TABLE_BYTES) < _DEFAULT_TABLE_BYTES:
            self._must_empty_table = True
        first_window = stated.get(Setting.INITIAL_WINDOW_SIZE, self.first_window)
        if first_window != self.first_window:
            change = first_window - self.first_window
            self.first_window = first_window
            for call in calls.values():
                call.send_window += change
                if call.send_window > MAX_WINDOW:
                    raise ConnectionViolation(ErrorCode.FLOW_CONTROL_ERROR, "a window of more than 2**31 - 1 bytes")
        self.flush(now)

    def _send_some(self, call: "Call", now: int) -> bool:
        unsent = call.unsent
        if not unsent or not call.is_open:
            return False
        size = min(len(unsent), call.send_window, self.window, self.frame_bytes)
        if size <= 0:
            return False
        self.write(frame(DATA, 0, call.id, bytes(unsent[:size])))
        del unsent[:size]
        self.window -= size
        call.send_window -= size
        call.moved = now
        self._patience.answers += 1
        if not unsent:
            self._waiting.pop(call.id, None)
            if call.finished:
                call.complete()
        return True

    def _restrain(self) -> None:
        self.is_restrained = bool(self._waiting) or self._must_empty_table
