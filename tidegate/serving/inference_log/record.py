"""What the server remembers of one request until it is written down."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from tidegate.serving.protocol.tensors import Array


class LogRecord(msgspec.Struct, gc=False):
    """One request as it is logged: one row a prediction, its inputs as they were sent, before any policy changed them.

    Nothing of a record may be changed once the log has it.

    Attributes:
        request_id: The request's id.
        rows: Number of rows.
        event_time: When the prediction was asked for, in event time.
        logged_at: Wall-clock nanoseconds since the epoch.
        status: HTTP status answered.
        latency_us: Microseconds from the request's arrival to its answer.
        keys: Entity keys by name, one value a row.
        inputs: Model inputs by name, one row a prediction, features included as far as they were found; or `row` holds them.
        times: Times of the feature rows used, by view, shape [rows].
        outputs: Outputs by name, one row a prediction; empty for a failed request.
        error: Why the request failed.
        row: The inputs of a request of one row, as Python values in the order of the signature; None where one is missing. Only
            of a model whose inputs all hold a single value a row; else None.
        size: About how many bytes it takes while it waits; the log measures it.
    """

    request_id: str
    rows: int
    event_time: datetime
    logged_at: int
    status: int
    latency_us: int
    keys: Mapping[str, Sequence[Any] | Array] = {}
    inputs: Mapping[str, Array] = {}
    times: Mapping[str, Array] = {}
    outputs: Mapping[str, Array] = {}
    error: str | None = None
    row: Sequence[Any] | None = None
    size: int = 0


class RequestLog(Protocol):
    """What a served model asks of its log."""

    audits: bool
    """Whether a request may be answered only once its record is kept."""

    def add(self, record: LogRecord) -> None:
        """Write a record down some time soon; never waits, never raises."""

    def keep(self, record: LogRecord, done: Callable[[Exception | None], None]) -> None:
        """Write a record down, and call `done` on the event loop once it is durable, or with why it is not."""

    def close(self) -> None:
        """Write what is left; called once, from another thread than the loop's."""
