"""The access log: one line an inference request, of what was asked and how it ended, never of what it held."""

from typing import Literal

import msgspec

from tidegate.serving.events import now, write_line
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer, InferRequest
from tidegate.serving.settings import ServeSettings
from tidegate.serving.tracing.context import parse_trace_parent

_LONGEST_ERROR = 500
_WITH_VALUES = 400  # its message quotes what the caller sent, and only the caller is to read that


class AccessLine(msgspec.Struct, omit_defaults=True):
    """One line.

    Attributes:
        time: Wall-clock time at the end of the request.
        level: "info", or "warning" for a request that the caller got wrong, "error" for one that the server failed.
        event: Always "request".
        protocol: "http" or "grpc".
        status: HTTP status, or for gRPC the one that its code stands for.
        latency_us: Microseconds from the request's arrival to its answer.
        id: The request's id, if it could be read.
        trace_id: Of the caller's trace, if there is one.
        rows: How many were answered.
        error: Why it was refused; left out of a request with bad values, since the message quotes them.
    """

    time: str
    level: Literal["info", "warning", "error"]
    event: str
    protocol: str
    status: int
    latency_us: int
    id: str | None = None
    trace_id: str | None = None
    rows: int | None = None
    error: str | None = None


class AccessLog:
    """Writes lines about requests."""

    def __init__(self, *, errors_only: bool) -> None:
        """Write about all requests, or only about those that were not answered."""
        self._errors_only = errors_only
        self._encode = msgspec.json.Encoder().encode

    def note(self, protocol: str, nanoseconds: int, request: InferRequest | None, outcome: InferAnswer | RequestError) -> None:
        """Write about a request that has ended so many nanoseconds after it came; None if it could not even be read."""
        if self._errors_only and isinstance(outcome, InferAnswer):
            return
        line = AccessLine(now(), "info", "request", protocol, outcome.status, nanoseconds // 1000)
        if isinstance(outcome, RequestError):
            line.level = "error" if outcome.status >= 500 else "warning"
            if outcome.status != _WITH_VALUES:
                line.error = str(outcome)[:_LONGEST_ERROR]
        else:
            line.rows = len(next(iter(outcome.outputs.values()), ()))
        if request is not None:
            line.id = request.id
            parent = None if request.trace_parent is None else parse_trace_parent(request.trace_parent)
            line.trace_id = None if parent is None else parent.trace_id
        write_line(self._encode(line))


def open_access_log(settings: ServeSettings) -> AccessLog | None:
    """Return the log that the settings ask for; None if they ask for none."""
    return None if settings.access_log == "off" else AccessLog(errors_only=settings.access_log == "errors")
