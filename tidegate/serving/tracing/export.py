"""Hands spans to OpenTelemetry's SDK, whose thread sends them by OTLP over HTTP; its `OTEL_…` variables say where and how.

The attributes are those of OpenTelemetry's semantic conventions for HTTP and RPC servers.
"""

import logging
import random
import threading
from time import perf_counter_ns, time_ns
from typing import Any

import tidegate
from tidegate.extras import needing
from tidegate.serving.grpc_v2.status import Code, Refusal
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer
from tidegate.serving.tracing.spans import Span

with needing("tracing"):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

_SCOPE = InstrumentationScope("tidegate", tidegate.__version__)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_LAST_SECONDS = 2.0
_UNNAMED = "unknown_service"
_GRPC_SERVICE = "inference.GRPCInferenceService"


class SpanExport:
    """Sends the spans of one worker."""

    def __init__(self, service: str) -> None:
        """Start the SDK's thread; `service` is the service's name unless `OTEL_SERVICE_NAME` gives one."""
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)  # callers may send it any nonsense to warn of
        self._resource = resource
        self._processor = BatchSpanProcessor(OTLPSpanExporter())

    def add(self, span: Span, model: str, version: str) -> None:
        """Take a span that has ended; if too many wait, the SDK drops it."""
        trace_id = _new_id(128) if span.parent is None else int(span.parent.trace_id, 16)
        state = TraceState.from_header([span.request.trace_state]) if span.parent and span.request.trace_state else None
        to_wall = time_ns() - perf_counter_ns()
        context = SpanContext(trace_id, _new_id(64), is_remote=False, trace_flags=_SAMPLED, trace_state=state)
        parent = None
        if span.parent is not None:
            parent = SpanContext(
                trace_id, int(span.parent.span_id, 16), is_remote=True, trace_flags=_SAMPLED, trace_state=state
            )
        whole = ReadableSpan(
            f"infer {model}",
            context,
            parent,
            self._resource,
            _attributes(span, model, version),
            kind=SpanKind.SERVER,
            status=_status(span),
            start_time=span.request.started + to_wall,
            end_time=span.ended + to_wall,
            instrumentation_scope=_SCOPE,
        )
        for part in span.parts:
            self._processor.on_end(
                ReadableSpan(
                    part.name,
                    SpanContext(trace_id, _new_id(64), is_remote=False, trace_flags=_SAMPLED, trace_state=state),
                    context,
                    self._resource,
                    {f"tidegate.{name}": value for name, value in part.attributes.items()},
                    start_time=part.began + to_wall,
                    end_time=part.ended + to_wall,
                    instrumentation_scope=_SCOPE,
                )
            )
        self._processor.on_end(whole)

    def close(self) -> None:
        """Send what waits; a collector that does not answer delays the end by two seconds at most."""
        last = threading.Thread(target=self._processor.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)


def _attributes(span: Span, model: str, version: str) -> dict[str, Any]:
    request, outcome = span.request, span.outcome
    attributes: dict[str, Any] = {
        "tidegate.model": model,
        "tidegate.version": version,
        "tidegate.request_id": request.id,
    }
    status = 200 if outcome is None else outcome.status
    if isinstance(outcome, InferAnswer):
        attributes["tidegate.rows"] = len(next(iter(outcome.outputs.values()), ()))
    if request.path.startswith(f"/{_GRPC_SERVICE}/"):
        attributes |= {
            "rpc.system": "grpc",
            "rpc.service": _GRPC_SERVICE,
            "rpc.method": request.path.rpartition("/")[2],
            "rpc.grpc.status_code": int(_grpc_code(outcome)),
        }
    else:
        attributes |= {
            "http.request.method": "POST",
            "http.route": request.path,
            "url.path": request.path,
            "url.scheme": "http",
            "http.response.status_code": status,
        }
    if status >= 500:
        attributes["error.type"] = str(status)
    return attributes


def _grpc_code(outcome: InferAnswer | RequestError | None) -> Code:
    return Refusal.of(outcome).code if isinstance(outcome, RequestError) else Code.OK


def _status(span: Span) -> Status:
    """Return a server's status: what the caller got wrong is no error of the server."""
    if isinstance(span.outcome, RequestError) and span.outcome.status >= 500:
        return Status(StatusCode.ERROR, str(span.outcome))
    return Status(StatusCode.UNSET)


def _new_id(bits: int) -> int:
    return random.getrandbits(bits) or 1
