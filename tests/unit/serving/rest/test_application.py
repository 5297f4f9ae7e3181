"""Paths, methods, statuses and headers of the REST application."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tidegate.serving.metrics.names import REQUESTS
from tidegate.serving.metrics.text import render
from tidegate.serving.rest.application import HttpApplication


class Scope:
    def __init__(self, method: str, path: str, headers: dict[str, str]) -> None:
        self.method, self.path, self.headers = method, path, headers


class Protocol:
    """What Granian hands to an application, for one request."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.reads = 0
        self.reply: tuple[int, dict[str, str], bytes] | None = None

    async def __call__(self) -> bytes:
        self.reads += 1
        return self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), 100):
            self.reads += 1
            yield self._body[start : start + 100]

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert self.reply is None
        self.reply = status, dict(headers), body


Reply = tuple[int, dict[str, str], bytes]


def send(served: Any, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
    application = HttpApplication(served.model, lambda: render(served.memory), max_body_bytes=2000)
    protocol = Protocol(body)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body and "transfer-encoding" not in sent:
        sent.setdefault("content-length", str(len(body)))
    asyncio.run(application.__rsgi__(Scope(method, path, sent), protocol))
    assert protocol.reply is not None
    return protocol.reply


def infer_body(**fields: Any) -> bytes:
    tensors = {"carrier": "UA", "origin": "EWR", "dest": "SFO", "distance": 1000, "hour": 9.5}
    inputs = [
        {"name": name, "datatype": "BYTES" if isinstance(value, str) else "FP32", "shape": [1], "data": [value]}
        for name, value in tensors.items()
    ]
    return json.dumps({"inputs": inputs, **fields}).encode()


@pytest.mark.parametrize("path", ["/v2/models/tiny/infer", "/v2/models/tiny/versions/3/infer"])
def test_infer(served: Any, path: str) -> None:
    status, headers, body = send(served, "POST", path, infer_body(id="f1"), content_type="application/json; charset=utf-8")
    assert status == 200
    assert headers["content-type"] == "application/json"
    answer = json.loads(body)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "3", "f1")
    assert [output["name"] for output in answer["outputs"]] == ["probability", "label"]


def test_binary_answers_say_where_their_header_ends(served: Any) -> None:
    body = infer_body(parameters={"binary_data_output": True}, outputs=[{"name": "probability"}])
    status, headers, answer = send(served, "POST", "/v2/models/tiny/infer", body)
    assert status == 200
    assert headers["content-type"] == "application/octet-stream"
    (probability,) = struct.unpack("<f", answer[int(headers["inference-header-content-length"]) :])
    assert 0 < probability < 1


def test_predict_v1_returns_the_callers_request_id(served: Any) -> None:
    row = {"carrier": "UA", "origin": "EWR", "dest": "SFO", "distance": 1000, "hour": 9.5}
    body = json.dumps({"instances": [row]}).encode()
    status, headers, answer = send(served, "POST", "/v1/models/tiny:predict", body, x_request_id="f9")
    assert status == 200
    assert headers["x-request-id"] == "f9"
    assert set(json.loads(answer)["predictions"][0]) == {"probability", "label"}
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
        pytest.param("/v1/models/tiny", {"name": "tiny", "ready": False}, id="v1 status"),
    ],
)
def test_what_can_be_read(served: Any, path: str, expected: dict[str, Any]) -> None:
    status, _, body = send(served, "GET", path)
    assert status == 200
    document = json.loads(body)
    assert {name: document[name] for name in expected} == expected


def test_metadata_names_what_callers_send_and_not_what_is_looked_up(served: Any) -> None:
    _, _, body = send(served, "GET", "/v2/models/tiny")
    document = json.loads(body)
    assert [tensor["name"] for tensor in document["inputs"]] == ["dest", "carrier", "origin", "distance", "hour"]
    assert document["outputs"] == [
        {"name": "probability", "datatype": "FP32", "shape": [-1]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/tiny/versions/3/ready"])
def test_readiness_is_a_status(served: Any, path: str) -> None:
    assert send(served, "GET", path)[0] == 503
    served.model.ready = True
    assert send(served, "GET", path)[0] == 200


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
    ],
)
def test_refusals(served: Any, method: str, path: str, status: int, message: str) -> None:
    found, headers, body = send(served, method, path)
    assert found == status
    assert message in json.loads(body)["error"]
    assert ("allow" in headers) == (status == 405)


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        pytest.param(b"{", {}, 400, "truncated", id="half a body"),
        pytest.param(infer_body(), {"content_type": "text/plain"}, 415, "content-type 'text/plain'", id="content type"),
        pytest.param(infer_body(), {"content_encoding": "gzip"}, 415, "content-encoding 'gzip'", id="content encoding"),
        pytest.param(b"x" * 2001, {}, 413, "2001 bytes, but at most 2000", id="too large"),
        pytest.param(b"x" * 2001, {"transfer_encoding": "chunked"}, 413, "more than 2000 bytes", id="too large, in chunks"),
        pytest.param(infer_body(outputs=[{"name": "z"}]), {}, 400, "output 'z'", id="unknown output"),
        pytest.param(infer_body().replace(b"SFO", b"down"), {}, 503, "could not be looked up", id="no features"),
    ],
)
def test_failures_are_counted_and_say_why(served: Any, body: bytes, headers: dict[str, str], status: int, message: str) -> None:
    found, _, answer = send(served, "POST", "/v2/models/tiny/infer", body, **headers)
    assert found == status
    assert message in json.loads(answer)["error"]
    assert f'{REQUESTS}{{model="tiny",version="3",revision="v3",status="{status}"}} 1' in render(served.memory).decode()


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-www-form-urlencoded", "APPLICATION/JSON;charset=utf-8"]
)
def test_json_is_read_under_the_type_that_curl_gives_it_unasked(served: Any, content_type: str) -> None:
    assert send(served, "POST", "/v2/models/tiny/infer", infer_body(), content_type=content_type)[0] == 200


def test_a_body_in_chunks_is_read(served: Any) -> None:
    assert send(served, "POST", "/v2/models/tiny/infer", infer_body(), transfer_encoding="chunked")[0] == 200


def test_a_body_that_is_too_large_is_not_read(served: Any) -> None:
    application = HttpApplication(served.model, lambda: render(served.memory), max_body_bytes=2000)
    protocol = Protocol(b"x" * 9999)
    asyncio.run(application.__rsgi__(Scope("POST", "/v2/models/tiny/infer", {"content-length": "9999"}), protocol))
    assert protocol.reads == 0


def test_metrics_carry_the_identity(served: Any) -> None:
    send(served, "POST", "/v2/models/tiny/infer", infer_body())
    status, headers, body = send(served, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f'{REQUESTS}{{model="tiny",version="3",revision="v3",status="200"}} 1' in body.decode()
