"""What OpenTelemetry is told of a request."""

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer, InferRequest
from tidegate.serving.tracing import export
from tidegate.serving.tracing.context import parse_trace_parent
from tidegate.serving.tracing.export import SpanExport
from tidegate.serving.tracing.spans import Part, Span

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REST, GRPC = "/v2/models/tiny/infer", "/inference.GRPCInferenceService/ModelInfer"
ANSWER = InferAnswer("r1", {"y": np.zeros((4, 1))})

Exported = Callable[..., list[ReadableSpan]]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Exported:
    """Export one span, and return what was sent: its parts, and the span itself."""

    def send(path: str = REST, outcome: Any = ANSWER, trace_parent: str | None = None, trace_state: str | None = None) -> Any:
        memory = InMemorySpanExporter()
        monkeypatch.setattr(export, "OTLPSpanExporter", lambda: memory)
        exporting = SpanExport("tiny")
        request = InferRequest("r1", [], started=perf_counter_ns(), path=path, trace_state=trace_state)
        parent = None if trace_parent is None else parse_trace_parent(trace_parent)
        began = perf_counter_ns()
        parts = [Part("decode", request.started, began), Part("run", began, perf_counter_ns(), {"requests": 3})]
        exporting.add(Span(request, parent, parts, outcome, perf_counter_ns()), "tiny", "3")
        exporting.close()
        return memory.get_finished_spans()

    return send


@pytest.mark.parametrize(
    ("path", "outcome", "attributes", "status"),
    [
        pytest.param(REST, ANSWER, {"http.response.status_code": 200, "http.route": REST}, StatusCode.UNSET, id="answered"),
        pytest.param(REST, RequestError(429, "full"), {"http.response.status_code": 429}, StatusCode.UNSET, id="refused"),
        pytest.param(
            REST,
            RequestError(503, "no features"),
            {"http.response.status_code": 503, "error.type": "503"},
            StatusCode.ERROR,
            id="failed",
        ),
        pytest.param(
            GRPC, ANSWER, {"rpc.grpc.status_code": 0, "rpc.method": "ModelInfer"}, StatusCode.UNSET, id="gRPC: answered"
        ),
        pytest.param(GRPC, RequestError(400, "bad"), {"rpc.grpc.status_code": 3}, StatusCode.UNSET, id="gRPC: refused"),
        pytest.param(
            GRPC,
            RequestError(504, "late"),
            {"rpc.grpc.status_code": 4, "error.type": "504"},
            StatusCode.ERROR,
            id="gRPC: failed",
        ),
    ],
)
def test_an_ending_is_told_as_the_conventions_say(
    exported: Exported, path: str, outcome: Any, attributes: dict[str, Any], status: StatusCode
) -> None:
    *_, whole = exported(path, outcome)
    found = dict(whole.attributes or {})
    assert found | attributes == found
    assert ("http.route" in found) != ("rpc.system" in found)
    assert ("error.type" in found) == (status is StatusCode.ERROR)
    assert whole.status.status_code is status


def test_parts_are_children(exported: Exported) -> None:
    decode, run, whole = exported()
    assert [part.name for part in (decode, run, whole)] == ["decode", "run", "infer tiny"]
    assert run.attributes == {"tidegate.requests": 3}
    assert whole.parent is None
    for part in (decode, run):
        assert part.parent == whole.context


@pytest.mark.parametrize(
    ("trace_parent", "trace_state", "expected"),
    [
        pytest.param(PARENT, "a=1,b=2", "a=1,b=2", id="passed on"),
        pytest.param(PARENT, None, "", id="none"),
        pytest.param(PARENT, "no state at all", "", id="not valid: left out as a whole"),
        pytest.param(None, "a=1", "", id="without a trace it says nothing"),
    ],
)
def test_the_state_of_the_callers_trace(
    exported: Exported, trace_parent: str | None, trace_state: str | None, expected: str
) -> None:
    for span in exported(trace_parent=trace_parent, trace_state=trace_state):
        assert span.context is not None
        assert span.context.trace_state.to_header() == expected


@pytest.mark.parametrize(
    ("variables", "service"),
    [
        pytest.param({}, "tiny", id="the model's name"),
        pytest.param({"OTEL_SERVICE_NAME": "late"}, "late", id="as the operator says"),
        pytest.param({"OTEL_RESOURCE_ATTRIBUTES": "service.name=later,team=a"}, "later", id="among attributes"),
    ],
)
def test_the_service_is_named(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], service: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert {span.resource.attributes["service.name"] for span in exported()} == {service}
