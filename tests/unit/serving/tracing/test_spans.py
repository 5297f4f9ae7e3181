"""Who is followed, and what is noted on the way."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer, InferRequest
from tidegate.serving.tracing.spans import Span, Tracer, open_tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class ListExport:
    spans: list[tuple[Span, str, str]] = field(default_factory=list)

    def add(self, span: Span, model: str, version: str) -> None:
        self.spans.append((span, model, version))

    def close(self) -> None:
        pass


@dataclass
class AnyCall:
    request: InferRequest


@pytest.mark.parametrize(
    ("trace_parent", "share", "sampled"),
    [
        pytest.param(f"00-{TRACE}-{SPAN}-01", 0.0, True, id="the caller samples"),
        pytest.param(f"00-{TRACE}-{SPAN}-00", 1.0, False, id="the caller does not, whatever the share"),
        pytest.param(None, 0.0, False, id="no caller's trace, no share"),
        pytest.param(None, 1.0, True, id="no caller's trace, all"),
        pytest.param("nonsense", 0.0, False, id="a bad header is as none: no share"),
        pytest.param("nonsense", 1.0, True, id="a bad header is as none: all"),
    ],
)
def test_who_is_followed(trace_parent: str | None, share: float, sampled: bool) -> None:
    export, replies = ListExport(), []
    request = InferRequest("r1", [], trace_parent=trace_parent)
    reply = Tracer(export, "tiny", "3", share=share).follow(request, replies.append)
    assert (request.span is not None) == sampled
    reply(outcome := RequestError(503, "down"))
    assert replies == [outcome]
    assert [(span.outcome, model, version) for span, model, version in export.spans] == [(outcome, "tiny", "3")] * sampled


def test_the_share_is_kept() -> None:
    export = ListExport()
    tracer = Tracer(export, "tiny", "3", share=0.2)
    for _ in range(2000):
        tracer.follow(InferRequest("r", []), lambda _: None)(InferAnswer("r", {}))
    assert 250 < len(export.spans) < 550


def test_parts_follow_one_another_and_a_run_is_told_to_all_who_shared_it() -> None:
    export = ListExport()
    tracer = Tracer(export, "tiny", "3", share=1.0)
    calls = [AnyCall(InferRequest(f"r{number}", [])) for number in range(3)]
    replies = [tracer.follow(call.request, lambda _: None) for call in calls[:2]]  # the third is not traced
    for call in calls[:2]:
        assert call.request.span is not None
        call.request.span.mark("validate")
    run = tracer.timed(lambda numbers: sum(numbers))
    assert run([1, 2]) == 3
    tracer.mark_run(calls)
    answer: Any = InferAnswer("r", {"y": np.zeros(1)})
    for reply in replies:
        reply(answer)
    assert len(export.spans) == 2
    for span, _, _ in export.spans:
        assert [part.name for part in span.parts[1:]] == ["validate", "batch wait", "run"]
        assert [part.attributes for part in span.parts[1:]] == [{}, {}, {"requests": 3}]
        times = [time for part in span.parts[1:] for time in (part.began, part.ended)]
        assert times == sorted(times)
        assert times[-1] <= span.ended


def test_off_is_nothing_at_all() -> None:
    assert open_tracing("off", "tiny") is None
