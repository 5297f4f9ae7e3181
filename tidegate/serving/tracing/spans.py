"""Follows sampled requests on their way through a model, and notes when each part of the way ended.

Nothing here knows OpenTelemetry: once the request is answered, `tidegate.serving.tracing.export` is given what was noted.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Protocol, TypeVar

from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer, InferRequest, Reply
from tidegate.serving.tracing.context import TraceParent, parse_trace_parent

Arguments = TypeVar("Arguments")
Result = TypeVar("Result")


@dataclass(slots=True)
class Part:
    """A part of a request's way.

    Attributes:
        name: What happened.
        began: When, by `time.perf_counter_ns`.
        ended: When it was over.
        attributes: What else is known of it.
    """

    name: str
    began: int
    ended: int
    attributes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Span:
    """A request that is traced.

    Attributes:
        parent: The caller's span; None where the trace begins here.
        parts: Those that are over, in their order.
        outcome: What became of the request.
        ended: When it was answered, by `time.perf_counter_ns`.
    """

    request: InferRequest
    parent: TraceParent | None
    parts: list[Part]
    outcome: InferAnswer | RequestError | None = None
    ended: int = 0

    def mark(self, name: str) -> None:
        """Note that a part ends now, which began where the one before it ended."""
        self.add(name, self.parts[-1].ended, perf_counter_ns())

    def add(self, name: str, began: int, ended: int, **attributes: int) -> None:
        """Note a part."""
        self.parts.append(Part(name, began, ended, attributes))


class Export(Protocol):
    """Takes spans away."""

    def add(self, span: Span, model: str, version: str) -> None:
        """Take a span that has ended; never waits, never raises."""

    def close(self) -> None:
        """Hand over what waits, for a bounded time."""


class Traced(Protocol):
    """What was run for a request."""

    @property
    def request(self) -> InferRequest:
        """The request."""


class Tracer:
    """Follows the requests of one model version."""

    def __init__(self, export: Export, model: str, version: str, *, share: float) -> None:
        """Prepare.

        Args:
            export: Takes the spans.
            model: The model's name.
            version: Its version.
            share: Of requests that belong to no trace yet, how many begin one; for all others their callers decide.
        """
        self._export = export
        self._model = model
        self._version = version
        self._share = share
        self._run_began = self._run_ended = 0

    def follow(self, request: InferRequest, reply: Reply) -> Reply:
        """Return what the request is to be answered by: `reply`, which of a sampled request also ends its span."""
        parent = None if request.trace_parent is None else parse_trace_parent(request.trace_parent)
        if not self._is_sampled(parent):
            return reply
        span = request.span = Span(request, parent, [Part("decode", request.started, perf_counter_ns())])

        def reply_and_end(outcome: InferAnswer | RequestError) -> None:
            reply(outcome)
            span.outcome, span.ended = outcome, perf_counter_ns()
            self._export.add(span, self._model, self._version)

        return reply_and_end

    def _is_sampled(self, parent: TraceParent | None) -> bool:
        if parent is not None:
            return parent.sampled
        return random.random() < self._share  # noqa: S311 — no secret

    def timed(self, run: Callable[[Arguments], Result]) -> Callable[[Arguments], Result]:
        """Return `run`, of which only one call may happen at a time, such that `mark_run` knows when it was."""

        def timed_run(arguments: Arguments) -> Result:
            self._run_began = perf_counter_ns()
            try:
                return run(arguments)
            finally:
                self._run_ended = perf_counter_ns()

        return timed_run

    def mark_run(self, calls: Sequence[Traced]) -> None:
        """Note in the spans of those that shared the last run how long they had waited for it, and how long it took."""
        for call in calls:
            span = call.request.span
            if span is not None:
                span.add("batch wait", span.parts[-1].ended, self._run_began)
                span.add("run", self._run_began, self._run_ended, requests=len(calls))


@dataclass(frozen=True, slots=True)
class Tracing:
    """What the settings ask of a worker: where spans go, and how many requests begin a trace."""

    export: Export
    share: float

    def tracer(self, model: str, version: str) -> Tracer:
        """Return a tracer of one model version."""
        return Tracer(self.export, model, version, share=self.share)


def open_tracing(traces: str, service: str) -> Tracing | None:
    """Return what `--traces` asks for, None for `off`; `service` is what the spans say they are of.

    Raises:
        PackageError: OpenTelemetry is not installed; the message names the extra.
    """
    if traces == "off":
        return None
    from tidegate.serving.tracing.export import SpanExport

    return Tracing(SpanExport(service), 0.0 if traces == "parent" else float(traces))
