"""What is seen of a running server: spans at a real OTLP endpoint, access log lines, and a stderr that nobody reads."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.serving.otlp_collector import Collector, attributes_of, collecting

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
PATH = "/v2/models/tiny/infer"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


def traced(launch: Callable[..., Any], collector: Collector, traces: str) -> Any:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    return launch(traces=traces, process={"env": environment})


def named(collector: Collector, name: str) -> list[Any]:
    return [span for span in collector.spans if span.name == name]


def test_a_sampled_request_is_a_span_of_its_callers_trace_with_its_parts(
    launch: Callable[..., Any], collector: Collector, v2_body: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    server = traced(launch, collector, "parent")
    began = time.time_ns()
    for trace_parent in (UNSAMPLED, "nonsense", SAMPLED):
        assert server.request(PATH, v2_body("r1", rows=2), traceparent=trace_parent, tracestate="vendor=opaque")[0] == 200
    assert server.request(PATH, v2_body())[0] == 200
    eventually(lambda: len(collector.spans) >= 6, "spans")
    server.stop()

    (whole,) = named(collector, "infer tiny")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex(), whole.trace_state) == (TRACE, PARENT, "vendor=opaque")
    assert whole.kind == whole.SPAN_KIND_SERVER
    assert began <= whole.start_time_unix_nano < whole.end_time_unix_nano <= time.time_ns()
    assert attributes_of(whole) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": PATH,
        "tidegate.model": "tiny",
        "tidegate.request_id": "r1",
        "tidegate.rows": 2,
        "tidegate.version": "1",
        "url.path": PATH,
        "url.scheme": "http",
    }
    parts = sorted((span for span in collector.spans if span is not whole), key=lambda span: span.start_time_unix_nano)
    assert [part.name for part in parts] == ["decode", "validate", "lookup", "batch wait", "run"]
    assert {(part.trace_id.hex(), part.parent_span_id) for part in parts} == {(TRACE, whole.span_id)}
    assert len({part.span_id for part in parts}) == 5
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        limit = whole.end_time_unix_nano if following is None else following.start_time_unix_nano
        assert part.start_time_unix_nano <= part.end_time_unix_nano <= limit
    assert collector.services == {"tiny"}


def test_a_share_of_the_requests_begins_traces_and_every_ending_is_told(
    launch: Callable[..., Any], collector: Collector, v2_body: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    server = traced(launch, collector, "1")
    assert server.request(PATH, v2_body())[0] == 200
    assert server.request(PATH, v2_body(), traceparent=UNSAMPLED)[0] == 200
    bad = v2_body()
    bad["inputs"][3]["data"] = [None]
    assert server.request(PATH, bad)[0] == 400
    eventually(lambda: len(named(collector, "infer tiny")) == 2, "two spans")
    server.stop()

    answered, refused = named(collector, "infer tiny")
    assert (answered.parent_span_id, refused.parent_span_id) == (b"", b"")
    assert answered.trace_id != refused.trace_id
    assert attributes_of(refused)["http.response.status_code"] == 400
    assert refused.status.code == refused.status.STATUS_CODE_UNSET  # the caller's fault is no error of a server


def test_what_waits_is_sent_at_the_end_and_a_collector_that_is_gone_delays_nothing(
    launch: Callable[..., Any], collector: Collector, v2_body: Callable[..., Any]
) -> None:
    patient = {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
    server = launch(traces="1", process={"env": patient | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}})
    gone = launch(traces="1", process={"env": patient | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}})
    for each in (server, gone):
        assert each.request(PATH, v2_body())[0] == 200
    assert server.stop() == 0
    assert len(named(collector, "infer tiny")) == 1
    began = time.monotonic()
    assert gone.stop() == 0
    assert time.monotonic() - began < 6


def test_a_call_over_grpc_is_a_span_too(
    launch: Callable[..., Any], collector: Collector, eventually: Callable[..., None]
) -> None:
    server = traced(launch, collector, "parent")
    grpc_infer(server, ("traceparent", SAMPLED), ("tracestate", "vendor=opaque"))
    eventually(lambda: named(collector, "infer tiny") != [], "a span")
    (whole,) = named(collector, "infer tiny")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex(), whole.trace_state) == (TRACE, PARENT, "vendor=opaque")
    found = attributes_of(whole)
    expected = {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
    }
    assert found | expected == found


def grpc_infer(server: Any, *metadata: tuple[str, str]) -> None:
    import grpc

    from tidegate.serving.grpc_v2.messages import methods_of

    request_class, response_class = methods_of("inference.GRPCInferenceService")["ModelInfer"]
    request = request_class(model_name="tiny", id="g1")
    for name, value in {"carrier": b"UA", "origin": b"EWR", "dest": b"SFO", "distance": 1000.0, "hour": 9.5}.items():
        contents = {"bytes_contents": [value]} if isinstance(value, bytes) else {"fp32_contents": [value]}
        request.inputs.add(name=name, datatype="BYTES" if isinstance(value, bytes) else "FP32", shape=[1], contents=contents)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        assert call(request, timeout=10, metadata=metadata).id == "g1"


@pytest.mark.parametrize(
    ("access_log", "expected"),
    [
        pytest.param(
            "all",
            [("http", 200, "r1", 2), ("http", 400, "r2", None), ("http", 404, None, None), ("grpc", 200, "g1", 1)],
            id="all",
        ),
        pytest.param("errors", [("http", 400, "r2", None), ("http", 404, None, None)], id="errors"),
        pytest.param("off", [], id="off"),
    ],
)
def test_the_access_log_has_a_line_a_request(
    launch: Callable[..., Any], v2_body: Callable[..., Any], access_log: str, expected: list[tuple[Any, ...]]
) -> None:
    server = launch(access_log=access_log)
    assert server.request(PATH, v2_body("r1", rows=2), traceparent=SAMPLED)[0] == 200
    bad = v2_body("r2")
    bad["inputs"][0]["data"] = ["confidential", "one too many"]
    assert server.request(PATH, bad)[0] == 400
    assert server.request("/v2/models/other/infer", v2_body())[0] == 404
    grpc_infer(server)
    server.stop()
    lines = [event for event in server.events if event["event"] == "request"]
    assert [(line["protocol"], line["status"], line.get("id"), line.get("rows")) for line in lines] == expected
    assert all(line["latency_us"] > 0 for line in lines)
    assert "confidential" not in server.stderr
    assert [line.get("trace_id") for line in lines] == [TRACE if line.get("id") == "r1" else None for line in lines]


def test_one_scrape_shows_all_workers_and_their_processes(
    launch: Callable[..., Any], v2_body: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    server = launch(workers=2)
    eventually(lambda: scraped(server)["tidegate_workers_ready"] == [2], "both workers")
    for _ in range(20):
        assert server.request(PATH, v2_body())[0] == 200
    for _ in range(6):  # whichever worker answers
        found = scraped(server)
        assert sum(found["tidegate_requests_total"]) == found["tidegate_request_latency_seconds_count"][0] == 20
        assert found["tidegate_batch_rows_sum"] == found["tidegate_batch_requests_sum"] == [20]
        assert len(found["process_resident_memory_bytes"]) == len(found["process_start_time_seconds"]) == 2
        assert 1 <= found["tidegate_connections_open"][0] <= 3
        assert found["tidegate_batch_queue_rows"] == [0]


def scraped(server: Any) -> dict[str, list[float]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as response:
        text = response.read().decode()
    found: dict[str, list[float]] = {}
    for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
        found.setdefault(sample.name, []).append(sample.value)
    return found


def test_a_stderr_that_nobody_reads_stalls_nothing(launch: Callable[..., Any], v2_body: Callable[..., Any]) -> None:
    reading, writing = os.pipe()
    server = launch(access_log="all", process={"stderr": writing})
    os.close(writing)
    began = time.monotonic()
    for _ in range(600):  # of some 200 bytes a line, into a pipe of 64 KiB
        assert server.request(PATH, v2_body())[0] == 200
    assert time.monotonic() - began < 30
    assert server.stop() == 0
    filled = os.read(reading, 1_000_000)
    os.close(reading)
    events = [json.loads(line)["event"] for line in filled.split(b"\n")[:-1]]
    assert 100 < events.count("request") < 600  # it was full


def test_without_the_extra_tracing_is_refused_in_one_line(tiny_package: Any) -> None:
    script = (
        "import sys\nsys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None\n"
        "from tidegate.cli.main import run\nrun()"
    )
    command = [
        sys.executable,
        "-c",
        script,
        "serve",
        str(tiny_package),
        "--traces",
        "parent",
        "--online-store",
        "sqlite:////x.db",
    ]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert finished.returncode != 0
    (line,) = [line for line in finished.stderr.splitlines() if not line.startswith("{")]
    assert "pip install 'tidegate[tracing]'" in line
