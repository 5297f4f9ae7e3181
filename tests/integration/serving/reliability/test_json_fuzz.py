"""Whatever JSON is sent, the answer is right or a refusal that says why; never a 5xx."""

import http.client
import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.serving.reliability.conftest import ECHO, echo_document

Path = tuple[str | int, ...]

# Fragments of JSON, or nearly so, to put where a value belongs.
ODD_VALUES = [
    *(b"null", b"true", b"[]", b"{}", b"[[]]", b"[null]", b'""', b"0", b"-1", b"-0", b"-0.0", b"1.5", b"1.0", b"1e2"),
    *(b"1e999", b"-1e999", b"1e-999", b"NaN", b"Infinity", b"-Infinity", b"01", b"+1", b".5", b"1.", b"0x10", b"1_000"),
    *(b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"1" * 400, b"-" + b"9" * 4000),
    *(b'"\\ud800"', b'"\\u0000"', b'"\\x"', b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"' + b"x" * 70_000 + b'"', b'"unended'),
    *(b"[1,2,]", b"[1 2]", b"[,1]", b"[1,2", b"{1:2}", b'{"a":1,"a":2}', b'{"binary_data_size":8}', b"'1'", b"/**/1", b""),
    *(b"[" * 10_000, b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000, b'[{"a":' * 500 + b"1" + b"}]" * 500),
    *(b'["a","b"]', b"[true,false]", b"[[1,2]]", b"[[1],[2]]", b"[1,[2]]", b"[[[1]],[2]]", b"[1,null]", b"[1e39,-1e39]"),
    *(b"[0,2]", b"[2,0]", b"[-1,2]", b"[1,-2]", b"[2]", b"[1,2,1]", b"[4294967296,4294967296]", b"[1.0,2]", b"[9999999999999]"),
    *(b'"FP32"', b'"BF16"', b'"fp32"', b'"INT64"', b'"BYTES"', b'"BOOL"', b'"UINT8"', b'"STRING"', b'"nan"'),
]

TENSOR_FIELDS = ("name", "datatype", "shape", "data", "parameters")
TENSORS = range(len(echo_document()["inputs"]))
PATHS: list[Path] = [
    *((field,) for field in ("id", "inputs", "outputs", "parameters", "surplus")),
    *(("inputs", index) for index in TENSORS),
    *(("inputs", index, field) for index in TENSORS for field in TENSOR_FIELDS),
]

mutations = st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(ODD_VALUES)), min_size=1, max_size=3)
cuts = st.none() | st.integers(0, 1200)
paddings = st.sampled_from([0, 40_000])  # large bodies are read in another way


def encoded(value: Any) -> bytes:
    """Return `value` as JSON; bytes in it are put there as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return b"{" + b",".join(encoded(key) + b":" + encoded(item) for key, item in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(encoded(item) for item in value) + b"]"
    return json.dumps(value).encode()


def changed(document: dict[str, Any], changes: Iterable[tuple[Path, bytes]]) -> bytes:
    for (*parents, last), value in changes:
        place: Any = document
        for parent in parents:
            place = place[parent]
            if isinstance(place, bytes):
                break
        else:
            place[last] = value
    return encoded(document)


def flat(data: Any) -> list[Any]:
    return [value for item in data for value in flat(item)] if isinstance(data, list) else [data]


def check(sent: bytes, answer: http.client.HTTPResponse) -> None:
    """Check that a refusal is the caller's fault and says why, and that what was answered is what was sent."""
    content = answer.read()
    assert answer.getheader("content-type") == "application/json"
    document = json.loads(content)
    if answer.status == 200:
        given = {tensor["name"]: flat(tensor["data"]) for tensor in json.loads(sent)["inputs"]}
        for output in document["outputs"]:
            if not output["datatype"].startswith("FP"):
                assert output["data"] == given[output["name"].removeprefix("same ")]
        return
    assert 400 <= answer.status < 500, (answer.status, content)
    assert list(document) == ["error"]
    assert "\n" not in document["error"]
    assert 5 < len(document["error"]) < 2000, document["error"]


@pytest.fixture
def connection(echo: Any, unharmed: None) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", echo.http_port, timeout=10)) as connection:
        yield connection


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(st.tuples(mutations, cuts, paddings), min_size=5, max_size=20))
def test_changed_requests_are_answered_or_refused(connection: http.client.HTTPConnection, requests: list[Any]) -> None:
    for changes, cut, padding in requests:
        body = changed(echo_document(), changes)[:cut] + b" " * padding
        connection.request("POST", ECHO, body, {"content-type": "application/json"})
        check(body, connection.getresponse())


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.tuples(st.sampled_from(("instances", "inputs", "both")), st.sampled_from(ODD_VALUES)), min_size=5))
def test_changed_v1_requests_are_answered_or_refused(connection: http.client.HTTPConnection, values: list[Any]) -> None:
    for where, value in values:
        row: dict[str, Any] = {tensor["name"]: tensor["data"] for tensor in echo_document()["inputs"]}
        row["fp32"] = value
        columns = {name: [data] for name, data in row.items()}
        document = {"instances": {"instances": [row]}, "inputs": {"inputs": columns}, "both": {"instances": value}}[where]
        connection.request("POST", "/v1/models/echo:predict", encoded(document), {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200 or 400 <= answer.status < 500, content
        assert isinstance(json.loads(content), dict)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"\xef\xbb\xbf{}", id="a byte order mark"),
        pytest.param('{"inputs":[]}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"inputs":[]} {}', id="two documents"),
        pytest.param(b"[" * 1_000_000, id="a million lists"),
        pytest.param(b'{"inputs":' * 10_000, id="ten thousand objects"),
        pytest.param(b'{"inputs":[],"inputs":[]}', id="a key given twice"),
        pytest.param(b'{"inputs":[' + b"{}," * 1000 + b"{}]}", id="a thousand tensors without a name"),
        pytest.param(b"\0" * 1000, id="NUL"),
        pytest.param(b"\xff" * 1000, id="no text"),
    ],
)
def test_what_is_no_request_is_refused(connection: http.client.HTTPConnection, body: bytes) -> None:
    connection.request("POST", ECHO, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 400
    assert json.loads(answer.read())["error"]
