"""One caller's connection: HTTP/2 with prior knowledge (RFC 9113), as much of it as gRPC needs, on the server's own loop.

Frames are read where they arrive, and a whole call is handed over in the same turn: no task and no future is made for it.
What a caller may cost is bounded: streams, headers, bytes in flight, the time each may take, and frames that do no work.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import cast

from tidegate.errors import in_one_line
from tidegate.serving.events import emit
from tidegate.serving.grpc_v2 import frames
from tidegate.serving.grpc_v2.calls import Call, Method
from tidegate.serving.grpc_v2.frames import (
    END_STREAM,
    MAX_STREAM_ID,
    PADDED,
    ConnectionViolation,
    ErrorCode,
    Setting,
    StreamViolation,
)
from tidegate.serving.grpc_v2.grants import Grants
from tidegate.serving.grpc_v2.headers import MAX_HEADER_BYTES, CallHead, HeaderDecoder
from tidegate.serving.grpc_v2.limits import (
    CONNECTION_WINDOW,
    FRAME_BYTES,
    LONGEST_MESSAGES_AT_ONCE,
    MAX_STREAMS,
    STREAM_WINDOW,
    ConnectionLimits,
    Patience,
    Register,
)
from tidegate.serving.grpc_v2.outflow import Outflow
from tidegate.serving.grpc_v2.reading import FrameReader
from tidegate.serving.grpc_v2.status import Code, Refusal

_REMEMBERED_RESETS = 2 * MAX_STREAMS
_LINGER_NS = 2_000_000_000
_LAST_PING = b"tidegate"
_REST_ON_THIS_PORT = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 54\r\n\r\n"
    b"This port speaks gRPC; REST is at the server's other.\n"
)


class GrpcConnection(asyncio.Protocol):
    """Reads one caller's frames and hands over whole calls.

    Attributes:
        calls: Those that have not ended, by stream id.
        limits: What the caller may cost.
        outflow: What leaves.
        grants: Permission to send long messages.
        register: Knows all connections.
        now: When the last bytes arrived, by `time.perf_counter_ns`.
    """

    outflow: Outflow
    grants: Grants
    _reader: FrameReader
    _transport: asyncio.Transport

    def __init__(self, methods: Mapping[str, Method], limits: ConnectionLimits, register: Register) -> None:
        """Answer the calls of `methods`, by path; be in `register` while connected."""
        self.limits = limits
        self.calls: dict[int, Call] = {}
        self.now = 0
        self._methods = methods
        self.register = register
        self._headers = HeaderDecoder()
        self._last_id = 0
        self._receive_window = CONNECTION_WINDOW
        self._resets: deque[int] = deque(maxlen=_REMEMBERED_RESETS)
        self._patience = Patience()
        self._busy_at = 0
        self._full_since: int | None = None
        self._closed_at: int | None = None
        self._is_leaving = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce this end."""
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        self.now = self._busy_at = perf_counter_ns()
        self._reader = FrameReader(self._patience, self.now)
        self.outflow = Outflow(transport, self._patience)
        self.grants = Grants(LONGEST_MESSAGES_AT_ONCE * self.limits.message_bytes, transport.write)
        stated = {
            Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_FRAME_SIZE: FRAME_BYTES,
            Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
        }
        if not self.register.opened(self):
            self._close(ErrorCode.NO_ERROR, "too many connections")
            return
        transport.write(frames.settings(stated) + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the caller is gone."""
        self.register.closed(self)
        self._stop()
        self._end_calls()

    def pause_writing(self) -> None:
        """Read no more from a caller who does not read."""
        self.outflow.pause()
        self._full_since = self.now
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._full_since = None
        self._transport.resume_reading()
        if self._closed_at is None:
            self.outflow.resume(perf_counter_ns())

    def data_received(self, data: bytes) -> None:
        """Read the frames in `data`."""
        if self._closed_at is not None:
            return
        self.now = perf_counter_ns()
        try:
            self._reader.read(data, self, self.now)
        except ConnectionViolation as violation:
            if not self._reader.has_preface and b"HTTP/1." in data[:2048]:
                self._transport.write(_REST_ON_THIS_PORT)
            self._close(violation.code, str(violation))
        except Exception as error:
            emit("a gRPC connection failed", level="error", error=f"{type(error).__name__}: {in_one_line(error)}")
            self._close(ErrorCode.INTERNAL_ERROR, "the server failed on this connection")

    def eof_received(self) -> bool:
        """Close: a caller who sends no more frames cannot take a long answer either."""
        return False

    # What the listener calls.

    def sweep(self, now: int) -> None:
        """End what has taken too long; called about once a second."""
        limits = self.limits
        self._patience.restore()
        if self._closed_at is not None:
            if now - self._closed_at > (limits.read_ns if self._transport.get_write_buffer_size() else _LINGER_NS):
                self._transport.abort()
        elif self._full_since is not None and now - self._full_since > limits.read_ns:
            self._transport.abort()
        elif self._reader.is_waiting and now - self._reader.read_at > limits.read_ns:
            self._close(ErrorCode.ENHANCE_YOUR_CALM, f"a frame was not sent within {limits.read_ns / 1e9:g} s")
        elif self.calls:
            self._busy_at = now
            self._end_slow_calls(now - limits.read_ns)
        elif now - self._busy_at > limits.idle_ns:
            self._close(ErrorCode.NO_ERROR, "idle")

    def drain(self) -> None:
        """Ask the caller to go elsewhere; calls that are on their way are still answered.

        The caller learns it before it is held to it (RFC 9113, section 6.8): the last stream is named once it has answered
        the ping, or at `leave`.
        """
        if self._closed_at is None and not self._is_leaving:
            self._transport.write(
                frames.goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR, "the server stops")
                + frames.frame(frames.PING, 0, 0, _LAST_PING)
            )

    def leave(self) -> None:
        """Take no new calls, and close when those that have begun are answered."""
        if self._closed_at is None and not self._is_leaving:
            self._is_leaving = True
            self._transport.write(frames.goaway(self._last_id, ErrorCode.NO_ERROR, "the server stops"))
            self._close_if_done()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # What calls call.

    def forget(self, call: Call) -> None:
        """Take note that a call has its whole answer."""
        del self.calls[call.id]
        self._patience.answers += 1
        call.close()
        if call.granted:
            self.grants.release(call)
        if not call.ended:
            self._reset(call.id, ErrorCode.NO_ERROR)
        if self._is_leaving:
            self._close_if_done()

    # Frames.

    def take_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Take a piece of a request."""
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < CONNECTION_WINDOW // 2:  # long before it is used up, since a frame is much smaller
            self._transport.write(frames.window_update(0, CONNECTION_WINDOW - self._receive_window))
            self._receive_window = CONNECTION_WINDOW
        call = self.calls.get(stream_id)
        if call is None:
            self._check_was_reset(stream_id)
            return
        ended = bool(flags & END_STREAM)
        if size == 0 and not ended:
            self._patience.spend()
        call.receive(frames.unpadded(payload) if flags & PADDED else payload, size, ended)

    def _check_was_reset(self, stream_id: int) -> None:
        """Refuse frames of streams that are over, unless this end ended them: then the caller may not know yet."""
        if stream_id == 0 or stream_id > self._last_id or stream_id % 2 == 0:
            if not self._is_leaving or stream_id == 0:
                raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, f"a frame of stream {stream_id}, which was not opened")
        elif stream_id not in self._resets:
            raise ConnectionViolation(ErrorCode.STREAM_CLOSED, f"a frame of stream {stream_id}, which has ended")
        self._patience.spend()

    def take_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Take a frame that carries no call; those of unknown kinds are passed over."""
        take = _TAKERS.get(kind)
        if take is not None:
            take(self, flags, stream_id, payload)

    def take_headers(self, stream_id: int, block: bytes, ended: bool) -> None:
        """Take the beginning of a request, or its trailers."""
        if stream_id % 2 == 0:
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, f"a caller cannot open stream {stream_id}")
        head = self._headers.decode(block)
        if stream_id <= self._last_id:
            self._take_trailers(stream_id, head, ended)
            return
        if self._is_leaving:
            return
        self._last_id = stream_id
        self._busy_at = self.now
        if head.malformed:
            raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR)
        if len(self.calls) >= MAX_STREAMS:
            raise StreamViolation(stream_id, ErrorCode.REFUSED_STREAM)
        method = self._methods.get(head.path)
        call = Call(self, stream_id, head, method or _unknown, self.now, STREAM_WINDOW)
        self.calls[stream_id] = call
        if head.refusal is not None or method is None:
            call.ended = ended
            call.refuse(head.refusal or _unknown_method(head.path))
        elif ended:
            call.end()

    def _take_trailers(self, stream_id: int, head: CallHead, ended: bool) -> None:
        call = self.calls.get(stream_id)
        if call is None:
            self._check_was_reset(stream_id)
        elif call.ended:
            raise StreamViolation(stream_id, ErrorCode.STREAM_CLOSED)
        elif not ended or head.has_pseudo_fields:
            raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR)
        else:
            call.end()

    def _take_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0:
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "a PRIORITY frame of no stream")
        if len(payload) != 5:
            raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "a PRIORITY frame must be 5 bytes long")

    def _take_reset(self, _flags: int, stream_id: int, payload: bytes) -> None:
        frames.read_number(payload, "RST_STREAM")
        self._check_was_opened(stream_id, "RST_STREAM")
        call = self.calls.pop(stream_id, None)
        if call is not None:
            self._discard(call)

    def _take_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id != 0:
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "a SETTINGS frame of a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS frame that acknowledges must be empty")
            return
        stated = frames.read_settings(payload)
        self._transport.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.outflow.adopt(stated, self.calls, self.now)

    def _take_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "a caller cannot push")

    def _take_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id != 0:
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "a PING frame of a stream")
        if len(payload) != 8:
            raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "a PING frame must be 8 bytes long")
        if not flags & frames.ACK:
            self._transport.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _LAST_PING:
            self.leave()

    def _take_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id != 0:
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "a GOAWAY frame of a stream")
        if len(payload) < 8:
            raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "a GOAWAY frame must be at least 8 bytes long")

    def _take_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        increment = frames.read_number(payload, "WINDOW_UPDATE")
        if stream_id:
            self._check_was_opened(stream_id, "WINDOW_UPDATE")
        self.outflow.widen(increment, self.calls, stream_id, self.now)

    def _check_was_opened(self, stream_id: int, what: str) -> None:
        if stream_id == 0 or (stream_id > self._last_id and not self._is_leaving):
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, f"a {what} frame of stream {stream_id}, which was not opened")

    # Ends.

    def end_stream(self, violation: StreamViolation) -> None:
        """End one stream, and go on with the others."""
        self._patience.spend()
        call = self.calls.pop(violation.stream_id, None)
        self._reset(violation.stream_id, violation.code)
        if call is not None:
            self._discard(call)

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        self._resets.append(stream_id)
        self._transport.write(frames.reset(stream_id, code))

    def _discard(self, call: Call) -> None:
        self.outflow.drop(call)
        call.abandon()
        self.grants.release(call)
        self._close_if_done()

    def _end_slow_calls(self, before: int) -> None:
        for call in self.outflow.stalled(before):
            del self.calls[call.id]
            self._reset(call.id, ErrorCode.CANCEL)
            self._discard(call)
        late = Refusal(Code.DEADLINE_EXCEEDED, f"the request was not sent within {self.limits.read_ns / 1e9:g} s")
        for call in [call for call in self.calls.values() if not call.ended and call.began < before]:
            call.refuse(late)

    def _end_calls(self) -> None:
        calls = tuple(self.calls.values())
        self.calls.clear()
        for call in calls:
            call.abandon()

    def _close_if_done(self) -> None:
        if self._is_leaving and not self.calls and self._closed_at is None:
            self._hang_up()

    def _hang_up(self) -> None:
        """Send no more, and read what comes only to drop it: closed at once, the socket would discard what was sent last."""
        self._stop()
        self._transport.write_eof()

    def _stop(self) -> None:
        self._closed_at = self.now
        self._reader.is_stopped = True

    def _close(self, code: ErrorCode, reason: str) -> None:
        self._end_calls()
        self._transport.write(frames.goaway(self._last_id, code, reason))
        self._hang_up()


def _unknown(call: Call, _message: bytes) -> None:
    call.refuse(_unknown_method(call.head.path))


def _unknown_method(path: str) -> Refusal:
    return Refusal(Code.UNIMPLEMENTED, f"unknown method {path[:200]}")


_TAKERS: dict[int, Callable[[GrpcConnection, int, int, bytes], None]] = {
    frames.PRIORITY: GrpcConnection._take_priority,
    frames.RST_STREAM: GrpcConnection._take_reset,
    frames.SETTINGS: GrpcConnection._take_settings,
    frames.PUSH_PROMISE: GrpcConnection._take_push_promise,
    frames.PING: GrpcConnection._take_ping,
    frames.GOAWAY: GrpcConnection._take_goaway,
    frames.WINDOW_UPDATE: GrpcConnection._take_window_update,
}
