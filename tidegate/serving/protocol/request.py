"""One inference request and its answer, whatever protocol they came by."""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tidegate.serving.protocol.errors import RequestError, bad_request
from tidegate.serving.protocol.tensors import Array, Tensor

if TYPE_CHECKING:
    from tidegate.serving.tracing.spans import Span

MAX_ID_LENGTH = 256
_LONGEST_TIMEOUT_US = 10**12

_process_part = ""
_numbers = itertools.count(1)


@dataclass(slots=True)
class InferRequest:
    """What a caller asks for.

    Attributes:
        id: The caller's request id, or one that `new_request_id` issued.
        tensors: Entity keys, request inputs, and possibly the features themselves, as they were sent.
        outputs: Names of the outputs the caller wants; None means all.
        timeout: How long the caller waits for the answer, in nanoseconds from its arrival on; 0 if the caller does not say.
        started: When the request had arrived, by `time.perf_counter_ns`.
        deadline: When nobody waits for the answer any more, by the same clock; it is not computed after that.
        abandoned: Set by the connection when the caller is gone; what was not begun is not computed.
        trace_parent: The caller's `traceparent` header (W3C Trace Context), unread; None if there was none.
        trace_state: The caller's `tracestate`, likewise; known where requests are traced.
        path: Where it was sent; known where requests are traced.
        span: What is told of it to whoever traces it; None of nearly all requests.
    """

    id: str
    tensors: list[Tensor]
    outputs: tuple[str, ...] | None = None
    timeout: int = 0
    started: int = 0
    deadline: int = 0
    abandoned: bool = False
    trace_parent: str | None = None
    trace_state: str | None = None
    path: str = ""
    span: "Span | None" = None

    def arrived(self, at: int, longest: int) -> None:
        """Set when the request arrived, and from its timeout, or the server's `longest` if that is shorter, its deadline."""
        self.started = at
        self.deadline = at + (min(self.timeout, longest) if self.timeout else longest)


@dataclass(slots=True)
class InferAnswer:
    """Output tensors by name, in the order in which they are answered."""

    status: ClassVar[int] = 200
    id: str
    outputs: dict[str, Array]


Reply = Callable[[InferAnswer | RequestError], None]
"""Called exactly once with the answer or the refusal; it must not raise."""


def nanoseconds(timeout: Any) -> int:
    """Return Triton's request parameter `timeout`, which is in microseconds, as nanoseconds; raises RequestError (400)."""
    if isinstance(timeout, bool) or not isinstance(timeout, int) or not 0 <= timeout <= _LONGEST_TIMEOUT_US:
        raise bad_request(f"parameter timeout: {timeout!r} is not a number of microseconds, 0 to {_LONGEST_TIMEOUT_US}")
    return timeout * 1000


def new_request_id() -> str:
    """Return a request id that no other process and no other call returns."""
    if not _process_part:
        _renew_process_part()
    return f"{_process_part}-{next(_numbers):x}"


def _renew_process_part() -> None:
    global _process_part
    _process_part = os.urandom(8).hex()


os.register_at_fork(after_in_child=_renew_process_part)
