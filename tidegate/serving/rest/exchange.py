"""One HTTP request and its response."""

from http import HTTPStatus
from time import perf_counter_ns
from typing import Protocol

from tidegate.serving.protocol.request import InferRequest

JSON = b"application/json"

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Line(Protocol):
    """What carries a response to its caller."""

    def send(self, exchange: "Exchange", status: int, body: bytes, content_type: bytes, headers: bytes) -> None:
        """Send a response; see `Exchange.respond`."""


class Exchange:
    """One request, and the place for its response, which is given exactly once.

    Attributes:
        method: Such as `b"POST"`.
        target: As it was sent: nearly always a path.
        headers: By lower-case name; of several of one name the last.
        body: The whole body.
        started: When the request had arrived, by `time.perf_counter_ns`.
        request: What is being computed for it, if anything; abandoned when the caller hangs up.
    """

    __slots__ = ("_line", "body", "headers", "keep_alive", "method", "request", "started", "target")

    def __init__(
        self, line: Line, method: bytes, target: bytes, headers: dict[bytes, bytes], body: bytes, keep_alive: bool
    ) -> None:
        self._line = line
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.started = perf_counter_ns()
        self.request: InferRequest | None = None

    def respond(self, status: int, body: bytes, content_type: bytes = JSON, headers: bytes = b"") -> None:
        """Send the response; `headers` are whole lines, each with its line end."""
        self._line.send(self, status, body, content_type, headers)


def response_head(status: int, content_type: bytes, length: int, date: bytes, headers: bytes) -> bytes:
    """Return all that goes before a response's body of so many bytes; `date` and `headers` are whole lines."""
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n" % (
        _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
        content_type,
        length,
        date,
        headers,
    )
