"""One call, which is one stream of HTTP/2: its message as it arrives, its answer as it leaves.

What nearly all calls are, one small message in one frame and one small answer, takes the short way through `receive` and
`answer`; the rest of this room is for messages in pieces and for callers that read slowly.
"""

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from tidegate.errors import in_one_line
from tidegate.serving.events import emit
from tidegate.serving.grpc_v2.arriving import PREFIX_BYTES, ArrivingMessage, prefix
from tidegate.serving.grpc_v2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, ErrorCode, StreamViolation, frame
from tidegate.serving.grpc_v2.headers import CallHead
from tidegate.serving.grpc_v2.status import ANSWER_HEADERS, ANSWER_TRAILERS, Code, Refusal
from tidegate.serving.protocol.compression import decompressed
from tidegate.serving.protocol.errors import RequestError

if TYPE_CHECKING:
    from tidegate.serving.grpc_v2.connection import GrpcConnection

_answer_start = Struct(f">5sI{len(ANSWER_HEADERS)}sIBIBI")
_HEADERS_START = frame(HEADERS, END_HEADERS, 0, ANSWER_HEADERS)[:5]
_answer_end = Struct(f">5sI{len(ANSWER_TRAILERS)}s")
_TRAILERS_START = frame(HEADERS, END_HEADERS | END_STREAM, 0, ANSWER_TRAILERS)[:5]


class Abandonable(Protocol):
    """Work that is pointless once its caller is gone."""

    abandoned: bool


Method = Callable[["Call", bytes], None]
"""Answers one call, given its message: now or later it calls `answer` or `refuse` once, or `send` and at last `finish`.

A RequestError that it raises is the refusal.
"""


class Call:
    """A caller's request and the way back to the caller.

    Attributes:
        id: The stream's.
        head: The request headers.
        began: When its headers had arrived, by `time.perf_counter_ns`.
        ended: Whether the caller has sent all of it.
        granted: Bytes of the message that the caller was allowed beyond the first window.
        held: Bytes of message and answer that wait, counted among those of all connections.
        work: Told when the caller is gone, so that what was not begun is not computed.
        closed: Called when the caller is gone or has its whole answer.
        send_window: Bytes that the caller is ready to take.
        unsent: Of the answer, what waits until the caller is ready; None if nothing ever had to wait.
        moved: When some of it last left.
    """

    __slots__ = (
        "_arriving",
        "_connection",
        "_headers_sent",
        "_method",
        "_receive_window",
        "began",
        "closed",
        "ended",
        "finished",
        "granted",
        "head",
        "held",
        "id",
        "is_open",
        "moved",
        "send_window",
        "unsent",
        "work",
    )

    def __init__(
        self, connection: "GrpcConnection", stream_id: int, head: CallHead, method: Method, began: int, receive_window: int
    ) -> None:
        self._connection = connection
        self._method = method
        self._receive_window = receive_window
        self._arriving: ArrivingMessage | None = None
        self._headers_sent = False
        self.id = stream_id
        self.head = head
        self.began = began
        self.send_window = connection.outflow.first_window
        self.is_open = True
        self.ended = False
        self.granted = 0
        self.held = 0
        self.work: Abandonable | None = None
        self.closed: Callable[[], None] | None = None
        self.unsent: bytearray | None = None
        self.finished = False
        self.moved = began

    # The request.

    def receive(self, payload: bytes, flow_bytes: int, ended: bool) -> None:
        """Take the next piece; `flow_bytes` is its size with padding. Raises StreamViolation."""
        if ended and self._arriving is None and not self.ended:
            size = len(payload) - PREFIX_BYTES
            if 0 <= size <= self._connection.limits.message_bytes and payload[:PREFIX_BYTES] == prefix.pack(0, size):
                self.ended = True
                self._check_content_length(len(payload))
                self._deliver(payload[PREFIX_BYTES:])
                return
        self._gather(payload, flow_bytes, ended)

    def end(self) -> None:
        """Take note that no more will come: the caller sent its trailers, or headers alone."""
        self._gather(b"", 0, True)

    def grant(self, size: int) -> None:
        """Let the caller send `size` more bytes of this message."""
        self.granted += size
        self._receive_window += size

    def _gather(self, payload: bytes, flow_bytes: int, ended: bool) -> None:
        if self.ended:
            raise StreamViolation(self.id, ErrorCode.STREAM_CLOSED)
        self._receive_window -= flow_bytes
        if self._receive_window < 0:
            raise StreamViolation(self.id, ErrorCode.FLOW_CONTROL_ERROR)
        self.ended = ended
        arriving = self._arriving
        if arriving is None:
            limit = self._connection.limits.message_bytes
            arriving = self._arriving = ArrivingMessage(limit, may_be_compressed=self.head.encoding != "identity")
        before = arriving.held
        try:
            arriving.add(payload)
            if not self._hold(arriving.held - before):
                return
            if ended:
                self._check_content_length(arriving.received)
                message = arriving.whole()
                self._arriving = None
                self._deliver(message, compressed=arriving.is_compressed)
            elif arriving.missing > self._receive_window:
                self._connection.grants.ask(self, arriving.missing - self._receive_window)
        except RequestError as error:
            self.refuse(Refusal.of(error))

    def _check_content_length(self, received: int) -> None:
        if self.head.content_length is not None and self.head.content_length != received:
            raise StreamViolation(self.id, ErrorCode.PROTOCOL_ERROR)

    def _deliver(self, message: bytes, *, compressed: bool = False) -> None:
        try:
            if compressed:
                message = decompressed(message, self.head.encoding, self._connection.limits.message_bytes)
            self._method(self, message)
        except RequestError as error:
            self.refuse(Refusal.of(error))
        except Exception as error:
            emit("a gRPC call failed", level="error", method=self.head.path, error=in_one_line(error))
            self.refuse(Refusal(Code.INTERNAL, "the server failed on this call; its log says how"))

    # The answer.

    def answer(self, message: bytes) -> None:
        """Send the one message of the answer, and that the call succeeded."""
        size = len(message) + PREFIX_BYTES
        outflow = self._connection.outflow
        if size <= outflow.window and size <= self.send_window and size <= outflow.frame_bytes and not outflow.is_restrained:
            if not self.is_open:
                return
            outflow.window -= size
            stream_id = self.id
            start = _answer_start.pack(
                _HEADERS_START, stream_id, ANSWER_HEADERS, size << 8 | DATA, 0, stream_id, 0, size - PREFIX_BYTES
            )
            outflow.write(start + message + _answer_end.pack(_TRAILERS_START, stream_id, ANSWER_TRAILERS))
            self._connection.forget(self)
        else:
            self.send(message)
            self.finish()

    def send(self, message: bytes) -> None:
        """Send one message of several."""
        if not self.is_open:
            return
        outflow = self._connection.outflow
        if not self._headers_sent:
            self._headers_sent = True
            outflow.write_headers(self.id, ANSWER_HEADERS)
        if not self.unsent:
            self.unsent = bytearray()
            self.moved = self._connection.now
        if not self._hold(len(message)):
            return
        self.unsent += prefix.pack(0, len(message))
        self.unsent += message
        outflow.enqueue(self)

    def finish(self) -> None:
        """Say that the call succeeded, after the last of several messages."""
        self.finished = True
        if self.is_open and not self.unsent:
            self.complete()

    def refuse(self, refusal: Refusal) -> None:
        """Say why there is no answer, or none any more."""
        if not self.is_open:
            return
        self._connection.outflow.drop(self)
        self._connection.outflow.write_headers(self.id, refusal.block(after_headers=self._headers_sent), ends_stream=True)
        self._connection.forget(self)

    def complete(self) -> None:
        """Send the trailers; nothing of the answer is unsent any more."""
        self._connection.outflow.write_headers(self.id, ANSWER_TRAILERS, ends_stream=True)
        self._connection.forget(self)

    def close(self) -> None:
        """Take note that the stream has ended."""
        self.is_open = False
        if self.held:
            self._connection.register.hold(-self.held)
        if self.closed is not None:
            self.closed()

    def _hold(self, size: int) -> bool:
        """Count bytes that wait, and refuse the call if all connections have too many of them."""
        self.held += size
        if self._connection.register.hold(size):
            return True
        self.refuse(Refusal(Code.UNAVAILABLE, "too many long messages wait on all connections; try again later"))
        return False

    def abandon(self) -> None:
        """Take note that the stream has ended before its answer."""
        if self.work is not None:
            self.work.abandoned = True
        self.close()
