"""Paths, methods, statuses and headers of the REST application."""

import asyncio
import gzip
import json
import struct
from dataclasses import dataclass
from typing import Any

import pytest

from tidegate.serving.metrics.names import REQUESTS
from tidegate.serving.metrics.text import render
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.rest.application import RestApplication
from tidegate.serving.rest.exchange import Exchange
from tidegate.serving.settings import ServeSettings


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class Line:
    """A connection that hands one exchange to the application, and keeps its response."""

    def __init__(self) -> None:
        self.reply: Reply | None = None

    def send(self, _exchange: Exchange, status: int, body: bytes, content_type: bytes, headers: bytes) -> None:
        assert self.reply is None
        lines = [line.partition(": ") for line in headers.decode().splitlines()]
        self.reply = Reply(status, {"content-type": content_type.decode()} | {name: value for name, _, value in lines}, body)


def ask(
    served: Any, method: str, path: str, body: bytes = b"", *, is_ready: bool = True, repository: Any = None, **headers: str
) -> Reply:
    endpoint = Endpoint("tiny")
    endpoint.repository = repository
    endpoint.swap(served.model)
    if not is_ready:
        endpoint.drain()
    line = Line()
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    exchange = Exchange(line, method.encode(), path.encode(), sent, body, True)  # type: ignore[arg-type]
    settings = ServeSettings(package="", max_body_bytes=2000)

    async def answered() -> Reply:
        RestApplication(endpoint, settings, lambda: render(served.memory)).handle(exchange)
        for _ in range(100):
            if line.reply is not None:
                return line.reply
            await asyncio.sleep(0.01)
        raise AssertionError("no response")

    return asyncio.run(answered())


def infer_body(**fields: Any) -> bytes:
    tensors = {"carrier": "UA", "origin": "EWR", "dest": "SFO", "distance": 1000, "hour": 9.5}
    inputs = [
        {"name": name, "datatype": "BYTES" if isinstance(value, str) else "FP32", "shape": [1], "data": [value]}
        for name, value in tensors.items()
    ]
    return json.dumps({"inputs": inputs, **fields}).encode()


@pytest.mark.parametrize("path", ["/v2/models/tiny/infer", "/v2/models/tiny/versions/3/infer"])
def test_infer(served: Any, path: str) -> None:
    reply = ask(served, "POST", path, infer_body(id="f1"), content_type="application/json; charset=utf-8")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    answer = reply.document
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "3", "f1")
    assert [output["name"] for output in answer["outputs"]] == ["probability", "label"]


def test_binary_answers_say_where_their_header_ends(served: Any) -> None:
    body = infer_body(parameters={"binary_data_output": True}, outputs=[{"name": "probability"}])
    reply = ask(served, "POST", "/v2/models/tiny/infer", body)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    (probability,) = struct.unpack("<f", reply.body[int(reply.headers["inference-header-content-length"]) :])
    assert 0 < probability < 1


def test_predict_v1_returns_the_callers_request_id(served: Any) -> None:
    row = {"carrier": "UA", "origin": "EWR", "dest": "SFO", "distance": 1000, "hour": 9.5}
    body = json.dumps({"instances": [row]}).encode()
    reply = ask(served, "POST", "/v1/models/tiny:predict", body, **{"x-request-id": "f9"})
    assert reply.status == 200
    assert reply.headers["x-request-id"] == "f9"
    assert set(reply.document["predictions"][0]) == {"probability", "label"}
    assert served.log.records[0].request_id == "f9"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/v2", {"name": "tidegate"}, id="server metadata"),
        pytest.param("/v2/health/live", {"live": True}, id="live"),
        pytest.param(
            "/v2/models/tiny", {"name": "tiny", "versions": ["3"], "platform": "onnxruntime_onnx"}, id="model metadata"
        ),
        pytest.param("/v2/models/tiny/versions/3", {"name": "tiny"}, id="versioned metadata"),
        pytest.param("/v2/models/tiny?verbose=1", {"name": "tiny"}, id="a query is of no concern"),
        pytest.param("/v2/models/ti%6Ey", {"name": "tiny"}, id="percent-encoded"),
        pytest.param("http://host:1/v2/models/tiny", {"name": "tiny"}, id="absolute form"),
        pytest.param("/v1/models", {"models": ["tiny"]}, id="v1 models"),
        pytest.param("/v1/models/tiny", {"name": "tiny", "ready": True}, id="v1 status"),
    ],
)
def test_what_can_be_read(served: Any, path: str, expected: dict[str, Any]) -> None:
    reply = ask(served, "GET", path)
    assert reply.status == 200
    document = reply.document
    assert {name: document[name] for name in expected} == expected


def test_metadata_names_what_callers_send_and_not_what_is_looked_up(served: Any) -> None:
    document = ask(served, "GET", "/v2/models/tiny").document
    assert [tensor["name"] for tensor in document["inputs"]] == ["dest", "carrier", "origin", "distance", "hour"]
    assert document["outputs"] == [
        {"name": "probability", "datatype": "FP32", "shape": [-1]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/tiny/versions/3/ready"])
def test_readiness_is_a_status(served: Any, path: str) -> None:
    assert ask(served, "GET", path, is_ready=False).status == 503
    assert ask(served, "GET", path).status == 200
    assert ask(served, "HEAD", path).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        pytest.param("POST", "/v2/models/other/infer", 404, "unknown model 'other'; this server serves 'tiny'", id="model"),
        pytest.param("GET", "/v2/models/other", 404, "unknown model 'other'", id="model, read"),
        pytest.param("POST", "/v1/models/other:predict", 404, "unknown model 'other'", id="model, v1"),
        pytest.param(
            "POST",
            "/v2/models/tiny/versions/9/infer",
            404,
            "unknown version '9' of model 'tiny'; this server serves",
            id="version",
        ),
        pytest.param("GET", "/favicon.ico", 404, "unknown path '/favicon.ico'", id="path"),
        pytest.param("GET", "/v2/models/tiny/infer", 405, "use POST", id="GET on infer"),
        pytest.param("POST", "/v2/health/ready", 405, "use GET", id="POST on ready"),
        pytest.param("POST", "/v2/repository/index", 404, "start the server with --repository", id="repository"),
        pytest.param("GET", "*", 404, "unknown path", id="no path"),
        pytest.param("GET", "/" + "x" * 3000, 404, "x…'", id="a long path is cut"),
    ],
)
def test_refusals(served: Any, method: str, path: str, status: int, message: str) -> None:
    reply = ask(served, method, path)
    assert reply.status == status
    assert message in reply.document["error"]
    assert ("allow" in reply.headers) == (status == 405)


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        pytest.param(b"{", {}, 400, "truncated", id="half a body"),
        pytest.param(infer_body(), {"content_type": "text/plain"}, 415, "content-type 'text/plain'", id="content type"),
        pytest.param(infer_body(), {"content_encoding": "br"}, 415, "encoding 'br' is not supported", id="content encoding"),
        pytest.param(infer_body(), {"content_encoding": "gzip"}, 400, "not compressed with gzip", id="not compressed at all"),
        pytest.param(
            gzip.compress(b"x" * 2001), {"content_encoding": "gzip"}, 413, "more than 2000 bytes when unpacked", id="too large"
        ),
        pytest.param(
            gzip.compress(infer_body())[:-9], {"content_encoding": "gzip"}, 400, "ends before its gzip data", id="half a gzip"
        ),
        pytest.param(infer_body(outputs=[{"name": "z"}]), {}, 400, "output 'z'", id="unknown output"),
        pytest.param(infer_body().replace(b"SFO", b"down"), {}, 503, "could not be looked up", id="no features"),
    ],
)
def test_failures_are_counted_and_say_why(served: Any, body: bytes, headers: dict[str, str], status: int, message: str) -> None:
    reply = ask(served, "POST", "/v2/models/tiny/infer", body, **headers)
    assert reply.status == status
    assert message in reply.document["error"]
    assert f'{REQUESTS}{{model="tiny",version="3",revision="v3",status="{status}"}} 1' in render(served.memory).decode()


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-www-form-urlencoded", "APPLICATION/JSON;charset=utf-8"]
)
def test_json_is_read_under_the_type_that_curl_gives_it_unasked(served: Any, content_type: str) -> None:
    assert ask(served, "POST", "/v2/models/tiny/infer", infer_body(), content_type=content_type).status == 200


@pytest.mark.parametrize(
    "header",
    [pytest.param("1", id="past already"), pytest.param("30000", id="in time"), pytest.param("soon", id="no number")],
)
def test_the_timeout_of_a_proxy_is_the_requests(served: Any, header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(2_000_000, 10**12, 2_000_000))  # every look at it is two milliseconds later
    monkeypatch.setattr("tidegate.serving.model.batching.perf_counter_ns", lambda: next(clock) + 10**18)
    monkeypatch.setattr("tidegate.serving.rest.exchange.perf_counter_ns", lambda: 10**18)
    reply = ask(served, "POST", "/v2/models/tiny/infer", infer_body(), **{"x-envoy-expected-rq-timeout-ms": header})
    assert reply.status == (504 if header == "1" else 200), reply.body


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "identity"])
def test_a_compressed_body_is_read(served: Any, encoding: str) -> None:
    body = infer_body() if encoding == "identity" else gzip.compress(infer_body())
    assert ask(served, "POST", "/v2/models/tiny/infer", body, content_encoding=encoding).status == 200


def test_an_error_that_nobody_foresaw_is_a_500_and_told(
    served: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(served.model, "submit", lambda *_: {}["nothing"])
    reply = ask(served, "POST", "/v2/models/tiny/infer", infer_body())
    assert (reply.status, reply.document) == (500, {"error": "internal error; see the server's log"})
    assert '"error":"KeyError: \'nothing\'"' in capsys.readouterr().err
    assert f'{REQUESTS}{{model="tiny",version="3",revision="v3",status="500"}} 1' in render(served.memory).decode()


def test_no_model_is_a_503(served: Any) -> None:
    served.model = None
    reply = ask(served, "POST", "/v2/models/tiny/infer", infer_body())
    assert reply.status == 503
    assert "not loaded yet" in reply.document["error"]


def test_metrics_carry_the_identity(served: Any) -> None:
    ask(served, "POST", "/v2/models/tiny/infer", infer_body())
    reply = ask(served, "GET", "/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f'{REQUESTS}{{model="tiny",version="3",revision="v3",status="200"}} 1' in reply.body.decode()
