"""Every route, method, header and field of the protocol: what was asked, and exactly what is answered."""

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests import small_packages
from tests.integration.serving.http_exchange import JSON, Response, ask

NAMES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
INFER, PREDICT = "/v2/models/iris/infer", "/v1/models/iris:predict"
BINARY = {"Content-Type": "application/octet-stream"}
LABELS = {"setosa", "versi color", "virginica"}


@pytest.fixture(scope="module")
def iris(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> int:
    """The port of a classifier of three classes on four columns."""
    package = small_packages.multiclass(tmp_path_factory.mktemp("iris") / "package")
    port: int = launch_once(package, version="7", grpc_port=0, max_rows=10, max_body_bytes=20_000).http_port
    return port


def tensors(rows: int = 1, **changed: Any) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": "FP32", "shape": [rows], "data": [1.0] * rows, **changed} for name in NAMES]


def body(rows: int = 1, **fields: Any) -> bytes:
    return json.dumps({"inputs": tensors(rows), **fields}).encode()


METADATA = {
    "name": "iris",
    "versions": ["7"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": name, "datatype": "FP32", "shape": [-1, 1]} for name in NAMES],
    "outputs": [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ],
}


@pytest.mark.parametrize(
    ("target", "answered"),
    [
        pytest.param("/v2/health/live", {"live": True}, id="live"),
        pytest.param("/v2/health/ready", {"ready": True}, id="ready"),
        pytest.param("/v2/models/iris", METADATA, id="metadata"),
        pytest.param("/v2/models/iris/versions/7", METADATA, id="metadata of the version"),
        pytest.param("/v2/models/iris/ready", {"name": "iris", "ready": True}, id="model ready"),
        pytest.param("/v2/models/iris/versions/7/ready", {"name": "iris", "ready": True}, id="version ready"),
        pytest.param("/v1/models", {"models": ["iris"]}, id="v1 models"),
        pytest.param("/v1/models/iris", {"name": "iris", "ready": True}, id="v1 ready"),
        pytest.param("/", {"status": "alive"}, id="v1 alive"),
        pytest.param("/v2/models/%69r%69s", METADATA, id="percent-encoded"),
        pytest.param("/v2/models/iris?verbose=1&x", METADATA, id="with a query"),
        pytest.param("http://elsewhere.example:99/v2/models/iris", METADATA, id="absolute form"),
    ],
)
def test_a_read_answers(iris: int, target: str, answered: Any) -> None:
    response = ask(iris, "GET", target)
    assert (response.status, response.json) == (200, answered)
    assert response.headers["content-type"] == "application/json"

    head = ask(iris, "HEAD", target)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(response.body))


def test_the_server_describes_itself(iris: int) -> None:
    response = ask(iris, "GET", "/v2")
    assert response.json.keys() == {"name", "version", "extensions"}
    assert response.json["name"] == "tidegate"
    assert response.json["extensions"] == ["binary_tensor_data"]
    assert response.headers["link"] == '</openapi.json>; rel="service-desc"; type="application/json"'
    assert ask(iris, "GET", "/v2/").json == response.json
    described = ask(iris, "GET", "/openapi.json")
    assert (described.status, described.json["openapi"]) == (200, "3.1.0")


@pytest.mark.parametrize(
    ("method", "target", "status", "said"),
    [
        pytest.param("GET", "/v2/models/other", 404, "unknown model 'other'; this server serves 'iris'", id="model"),
        pytest.param("POST", "/v2/models/other/infer", 404, "unknown model 'other'", id="infer of another model"),
        pytest.param("POST", "/v1/models/other:predict", 404, "unknown model 'other'", id="predict of another model"),
        pytest.param("GET", "/v1/models/other", 404, "unknown model 'other'", id="v1 model"),
        pytest.param("GET", "/v2/models/IRIS", 404, "unknown model 'IRIS'", id="names have their case"),
        pytest.param("GET", "/v2/models/iris/versions/8", 404, "unknown version '8' of model 'iris'", id="version"),
        pytest.param("GET", "/v2/models/iris/versions/07", 404, "unknown version '07'", id="versions are text"),
        pytest.param(
            "POST", "/v2/models/iris/versions/8/infer", 404, "this server serves version '7'", id="infer of a version"
        ),
        pytest.param("GET", "/v2/models", 404, "unknown path '/v2/models'", id="v2 has no list"),
        pytest.param("GET", "/v2/models/iris/", 404, "unknown path", id="trailing slash"),
        pytest.param("GET", "//v2", 404, "unknown path", id="two slashes"),
        pytest.param("GET", "/v2/models/iris/../iris", 404, "unknown path", id="dots"),
        pytest.param("GET", "/v3", 404, "unknown path '/v3'", id="version of the protocol"),
        pytest.param("POST", "/v2/repository/index", 404, "loading and unloading is turned off", id="repository"),
        pytest.param("GET", "/%zz", 404, "unknown path", id="no percent-encoding"),
        pytest.param("GET", "/%0d%0aset-cookie:x", 404, "unknown path", id="line ends in the path"),
        pytest.param("OPTIONS", "*", 404, "unknown path '*'", id="asterisk form"),
    ],
)
def test_what_is_not_there_is_refused_in_words(iris: int, method: str, target: str, status: int, said: str) -> None:
    response = ask(iris, method, target, body() if method == "POST" else None)
    assert response.status == status
    assert said in response.error


@pytest.mark.parametrize("target", [INFER, "/v2/models/iris/versions/7/infer", PREDICT])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_inference_is_a_post(iris: int, method: str, target: str) -> None:
    response = ask(iris, method, target)
    assert (response.status, response.headers["allow"]) == (405, "POST")
    assert method == "HEAD" or f"{method} {target!r}: use POST" in response.error


@pytest.mark.parametrize(
    "target", ["/v2", "/v2/health/live", "/v2/models/iris", "/v1/models/iris", "/metrics", "/openapi.json"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_reads_are_gets(iris: int, method: str, target: str) -> None:
    response = ask(iris, method, target, b"{}" if method == "POST" else None)
    assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")
    assert f"{method} {target!r}: use GET" in response.error


@pytest.mark.parametrize("target", [INFER, "/v2/models/iris/versions/7/infer", "/v2/models/ir%69s/infer?x=1"])
def test_an_answer_has_the_protocols_fields_and_no_others(iris: int, target: str) -> None:
    response = ask(iris, "POST", target, body(2, id="mine"), JSON)
    assert response.status == 200
    answer = response.json
    assert list(answer) == ["model_name", "model_version", "id", "outputs"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("iris", "7", "mine")
    assert [{name: value for name, value in output.items() if name != "data"} for output in answer["outputs"]] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [2, 3]},
        {"name": "label", "datatype": "BYTES", "shape": [2]},
    ]
    assert [len(output["data"]) for output in answer["outputs"]] == [6, 2]
    assert set(answer["outputs"][1]["data"]) <= LABELS


@pytest.mark.parametrize(
    ("fields", "outputs"),
    [
        pytest.param({"outputs": [{"name": "label"}]}, ["label"], id="one"),
        pytest.param(
            {"outputs": [{"name": "label"}, {"name": "probabilities"}]}, ["label", "probabilities"], id="in this order"
        ),
        pytest.param({"outputs": []}, ["probabilities", "label"], id="an empty list is all"),
        pytest.param({"outputs": None}, ["probabilities", "label"], id="null is all"),
        pytest.param({"outputs": [{"name": "label", "parameters": {"own": 1}}]}, ["label"], id="unknown parameters"),
        pytest.param({"parameters": {"own": {"a": [1]}}}, ["probabilities", "label"], id="unknown parameters of the request"),
        pytest.param({"parameters": None, "id": None}, ["probabilities", "label"], id="nulls for what may be left out"),
        pytest.param({"model_name": "iris", "future": [1, {}]}, ["probabilities", "label"], id="unknown fields"),
        pytest.param({"parameters": {"timeout": 9_000_000}}, ["probabilities", "label"], id="a timeout"),
    ],
)
def test_outputs_are_answered_as_chosen(iris: int, fields: dict[str, Any], outputs: list[str]) -> None:
    response = ask(iris, "POST", INFER, body(**fields), JSON)
    assert response.status == 200, response.body
    assert [output["name"] for output in response.json["outputs"]] == outputs


@pytest.mark.parametrize(
    ("fields", "binary"),
    [
        pytest.param({"parameters": {"binary_data_output": True}}, ["probabilities", "label"], id="all"),
        pytest.param(
            {"outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}]},
            ["probabilities"],
            id="one",
        ),
        pytest.param(
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "probabilities", "parameters": {"binary_data": False}}, {"name": "label"}],
            },
            ["label"],
            id="all but one",
        ),
        pytest.param({"parameters": {"binary_data_output": False}}, [], id="none"),
    ],
)
def test_binary_outputs_follow_the_json_in_their_order(iris: int, fields: dict[str, Any], binary: list[str]) -> None:
    response = ask(iris, "POST", INFER, body(**fields), JSON)
    assert response.status == 200, response.body
    header_length = response.headers.get("inference-header-content-length")
    assert (header_length is None) == (not binary)
    assert response.headers["content-type"] == ("application/octet-stream" if binary else "application/json")
    length = len(response.body) if header_length is None else int(header_length)
    outputs = json.loads(response.body[:length])["outputs"]
    assert [output["name"] for output in outputs if "data" not in output] == binary
    assert sum(output.get("parameters", {}).get("binary_data_size", 0) for output in outputs) == len(response.body) - length


def test_a_missing_id_is_issued_and_differs_each_time(iris: int) -> None:
    ids = [ask(iris, "POST", INFER, body(**fields), JSON).json["id"] for fields in ({}, {}, {"id": ""}, {"id": None})]
    assert all(ids)
    assert len(set(ids)) == 4


@pytest.mark.parametrize("given", ["a", "ü ☃ \U0001f600", 'with "quotes"\\\n\t', "x" * 256])
def test_an_id_is_echoed_as_it_was(iris: int, given: str) -> None:
    assert ask(iris, "POST", INFER, body(id=given), JSON).json["id"] == given


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        pytest.param(b"", "request body", id="nothing"),
        pytest.param(b"[]", "Expected `object`, got `array`", id="a list"),
        pytest.param(b"null", "Expected `object`, got `null`", id="null"),
        pytest.param(b"{}", "missing required field `inputs`", id="no inputs"),
        pytest.param(b'{"inputs": {}}', "Expected `array`, got `object`", id="inputs as an object"),
        pytest.param(b'{"inputs": []}', "holds no rows", id="empty inputs"),
        pytest.param(b'{"inputs": [1]}', "Expected `object`, got `int`", id="a number for a tensor"),
        pytest.param(b'{"inputs": [{"name": "sepal_length"}]}', "missing required field", id="half a tensor"),
        pytest.param(body()[:-1], "request body", id="cut off"),
        pytest.param(body() + b"x", "JSON is malformed", id="more after it"),
        pytest.param(b"\xef\xbb\xbf" + body(), "JSON is malformed", id="byte order mark"),
        pytest.param(body().decode().encode("utf-16"), "JSON is malformed", id="UTF-16"),
        pytest.param(b'{"id": "\xff", ' + body()[1:], "'utf-8' codec can't decode byte 0xff", id="no UTF-8"),
        pytest.param(b"[" * 10_000, "request body", id="deep"),
        pytest.param(b'{"inputs": ' + b"[" * 9_000, "request body", id="deep inputs"),
        pytest.param(b'{"x": ' + b'{"a":' * 3_000, "request body", id="deep unknown field"),
        pytest.param(body(id=5), "Expected `str | null`, got `int` - at `$.id`", id="number for an id"),
        pytest.param(body(id="x" * 257), "id is 257 characters long; at most 256 are allowed", id="long id"),
        pytest.param(body(outputs=[{"name": "none"}]), "output 'none' is none of this model's", id="unknown output"),
        pytest.param(body(outputs=["label"]), "Expected `object`, got `str`", id="output as text"),
        pytest.param(body(parameters=[]), "Expected `object | null`, got `array`", id="parameters as a list"),
        pytest.param(body(parameters={"timeout": -1}), "parameter timeout: -1 is not a number of microseconds", id="timeout"),
        pytest.param(body(parameters={"binary_data_output": "no"}), "parameter binary_data_output: 'no' is neither", id="flag"),
        pytest.param(
            body(outputs=[{"name": "label", "parameters": {"binary_data": 1}}]),
            "parameter binary_data: 1 is neither",
            id="number",
        ),
        pytest.param(body(11), "the request holds 11 rows; at most 10 are allowed, so split it", id="rows"),
        pytest.param(json.dumps({"inputs": tensors()[:3]}).encode(), "tensor 'petal_width' is missing", id="missing"),
        pytest.param(json.dumps({"inputs": [*tensors(), tensors()[0]]}).encode(), "'sepal_length' is given twice", id="twice"),
        pytest.param(
            json.dumps({"inputs": [*tensors(), {**tensors()[0], "name": "x"}]}).encode(),
            "'x' is no input of this model",
            id="unknown",
        ),
        pytest.param(
            json.dumps({"inputs": tensors(datatype="FP64")}).encode(), "is FP64, but this model takes FP32", id="datatype"
        ),
        pytest.param(
            json.dumps({"inputs": tensors(datatype="fp32")}).encode(), "datatype 'fp32' is not supported", id="lower case"
        ),
        pytest.param(
            json.dumps({"inputs": [tensors()[0], *tensors(2)[1:]]}).encode(),
            "has 2 rows, but 'sepal_length' has 1",
            id="uneven rows",
        ),
        pytest.param(json.dumps({"inputs": tensors(shape=[1, 2])}).encode(), "data holds 1 values", id="shape"),
        pytest.param(
            json.dumps({"inputs": tensors(parameters={"shared_memory_region": "r"}, data=None)}).encode(),
            "has no data",
            id="shared memory",
        ),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_in_words(iris: int, sent: bytes, said: str) -> None:
    response = ask(iris, "POST", INFER, sent, JSON)
    assert response.status == 400
    assert said in response.error


@pytest.mark.parametrize(
    ("headers", "sent", "status", "said"),
    [
        pytest.param(
            {"Content-Type": "text/plain"}, body(), 415, "content-type 'text/plain' is not supported", id="content type"
        ),
        pytest.param({"Content-Type": "multipart/form-data; boundary=x"}, body(), 415, "is not supported", id="form"),
        pytest.param({"Content-Encoding": "br"}, body(), 415, "'br' is not supported", id="encoding"),
        pytest.param({"Content-Encoding": "gzip"}, body(), 400, "not compressed with gzip", id="no gzip"),
        pytest.param({"Content-Encoding": "gzip"}, gzip.compress(body())[:-9], 400, "gzip", id="half a gzip"),
        pytest.param(
            {"Content-Encoding": "gzip"}, gzip.compress(b" " * 1_000_000 + body()), 413, "20000", id="a gzip that explodes"
        ),
        pytest.param({}, body() + b" " * 20_000, 413, "at most 20000 are allowed", id="body too long"),
        pytest.param({"Inference-Header-Content-Length": "0"}, body(), 400, "request body", id="no JSON"),
        pytest.param({"Inference-Header-Content-Length": "x"}, body(), 400, "is not a length within the body", id="no number"),
        pytest.param({"X-Big": "x" * 600_000}, body(), 431, "more than 65536 bytes of headers", id="head too long"),
        pytest.param({f"X-{number}": "x" for number in range(200)}, body(), 431, "headers", id="too many headers"),
    ],
)
def test_headers_that_do_not_fit_are_refused_in_words(
    iris: int, headers: dict[str, str], sent: bytes, status: int, said: str
) -> None:
    response = ask(iris, "POST", INFER, sent, JSON | headers)
    assert response.status == status
    assert said in response.error


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        pytest.param({}, body(), id="no content type"),
        pytest.param({"Content-Type": "Application/JSON; charset=utf-8"}, body(), id="content type with a charset"),
        pytest.param(BINARY, body(), id="the extension's content type without binary data"),
        pytest.param({"Inference-Header-Content-Length": str(len(body()))}, body(), id="all of it is JSON"),
        pytest.param({"Content-Encoding": "identity"}, body(), id="identity"),
        pytest.param({"Content-Encoding": "gzip"}, gzip.compress(body()), id="gzip"),
        pytest.param({"Content-Encoding": "deflate"}, zlib.compress(body()), id="deflate"),
        pytest.param({"Accept": "text/html", "Accept-Language": "x"}, body(), id="an accept header nobody minds"),
    ],
)
def test_headers_that_fit(iris: int, headers: dict[str, str], sent: bytes) -> None:
    assert ask(iris, "POST", INFER, sent, headers).status == 200


def predict(port: int, document: Any, **headers: str) -> Response:
    return ask(port, "POST", PREDICT, json.dumps(document).encode(), JSON | headers)


ROW = dict.fromkeys(NAMES, 1.0)


def test_version_1_answers_rows_as_rows_and_columns_as_columns(iris: int) -> None:
    by_rows = predict(iris, {"instances": [ROW, {**ROW, "petal_width": 9}]})
    assert by_rows.status == 200
    assert list(by_rows.json) == ["predictions"]
    assert [list(prediction) for prediction in by_rows.json["predictions"]] == [["probabilities", "label"]] * 2
    by_columns = predict(iris, {"inputs": {name: [1.0, 9 if name == "petal_width" else 1] for name in NAMES}})
    assert list(by_columns.json) == ["outputs"]
    assert by_columns.json["outputs"] == {
        name: [prediction[name] for prediction in by_rows.json["predictions"]] for name in ("probabilities", "label")
    }


def test_version_1_echoes_the_id_of_its_header(iris: int) -> None:
    assert predict(iris, {"instances": [ROW]}, **{"X-Request-Id": "mine"}).headers["x-request-id"] == "mine"
    assert predict(iris, {"instances": [ROW]}).headers["x-request-id"]
    refused = predict(iris, {"instances": [ROW]}, **{"X-Request-Id": "x" * 257})
    assert (refused.status, refused.error) == (400, "x-request-id is 257 characters long; at most 256 are allowed")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        pytest.param({}, "give either 'instances' (a list of rows) or 'inputs' (a dict of columns)", id="neither"),
        pytest.param({"instances": [ROW], "inputs": {}}, "give either", id="both"),
        pytest.param([ROW], "Expected `object`, got `array`", id="a list"),
        pytest.param({"instances": []}, "'instances' must be a list of at least one row", id="no rows"),
        pytest.param({"instances": None}, "'instances' must be a list of at least one row", id="null"),
        pytest.param({"instances": ROW}, "'instances' must be a list of at least one row", id="a row for rows"),
        pytest.param({"instances": [ROW, 1]}, "instances[1] must be an object", id="a number for a row"),
        pytest.param(
            {"instances": [ROW, {"sepal_length": 1}]}, "instances[1] and instances[0] differ in these names", id="uneven"
        ),
        pytest.param({"instances": [{"sepal_length": 1}]}, "tensor 'sepal_width' is missing", id="missing"),
        pytest.param({"instances": [{**ROW, "x": 1}]}, "'x' is no input of this model", id="unknown"),
        pytest.param({"instances": [{**ROW, "sepal_width": "1"}]}, "tensor 'sepal_width'", id="text"),
        pytest.param({"instances": [{**ROW, "sepal_width": None}]}, "row 0 is null or NaN", id="null value"),
        pytest.param({"instances": [{**ROW, "sepal_width": [1, 2]}]}, "tensor 'sepal_width'", id="list"),
        pytest.param({"instances": [{**ROW, "sepal_width": {}}]}, "tensor 'sepal_width'", id="object"),
        pytest.param({"instances": [ROW] * 11}, "at most 10 are allowed", id="rows"),
        pytest.param({"inputs": []}, "'inputs' must be an object", id="inputs as a list"),
        pytest.param({"inputs": dict.fromkeys(NAMES, 1.0)}, "must be a list of at least one value", id="bare columns"),
        pytest.param({"inputs": {name: [] for name in NAMES}}, "must be a list of at least one value", id="empty columns"),
        pytest.param(
            {"inputs": {name: [1, 2][: 1 + (name == "sepal_width")] for name in NAMES}}, "2 rows", id="uneven columns"
        ),
    ],
)
def test_version_1_refuses_in_words(iris: int, document: Any, said: str) -> None:
    response = predict(iris, document)
    assert response.status == 400
    assert said in response.error


def test_the_metrics_have_prometheus_content_type(iris: int) -> None:
    response = ask(iris, "GET", "/metrics")
    assert response.status == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE tidegate_requests_total counter" in response.body
