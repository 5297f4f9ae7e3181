"""v2 JSON bodies and the binary extension."""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.serving.protocol import codec_json
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer, new_request_id
from tidegate.serving.protocol.tensors import array_of

Attempt = Callable[[Callable[[], Any]], tuple[Any, int | None]]

X = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}


def body(**fields: Any) -> bytes:
    return json.dumps({"inputs": [X], **fields}).encode()


def binary_body(blob: bytes, **fields: Any) -> tuple[bytes, bytes]:
    header = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}], **fields}
    ).encode()
    return header + blob, str(len(header)).encode()


def test_a_json_body_is_read() -> None:
    request, wanted_binary = codec_json.decode(body(id="f1", outputs=[{"name": "probability"}]))
    assert request.id == "f1"
    assert array_of(request.tensors[0]).tolist() == [1, 2]
    assert request.outputs == ("probability",)
    assert "probability" not in wanted_binary


def test_a_missing_id_is_issued_and_never_twice() -> None:
    first, _ = codec_json.decode(body())
    second, _ = codec_json.decode(body(id=""))
    assert first.id
    assert second.id
    assert first.id != second.id
    assert len({new_request_id() for _ in range(1000)}) == 1000


def test_a_binary_tensor_follows_the_json_header() -> None:
    raw, length = binary_body(struct.pack("<2f", 1.5, 2))
    request, _ = codec_json.decode(raw, length)
    assert array_of(request.tensors[0]).tolist() == [1.5, 2]


@pytest.mark.parametrize(
    ("fields", "binary"),
    [
        pytest.param({}, set(), id="none asked for"),
        pytest.param({"parameters": {"binary_data_output": True}}, {"a", "b"}, id="all"),
        pytest.param({"outputs": [{"name": "a", "parameters": {"binary_data": True}}]}, {"a"}, id="one by name"),
        pytest.param(
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}],
            },
            {"b"},
            id="all but one",
        ),
    ],
)
def test_outputs_are_binary_as_asked_for(fields: dict[str, Any], binary: set[str]) -> None:
    _, wanted = codec_json.decode(body(**fields))
    assert {name for name in ("a", "b") if name in wanted} == binary


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(b"", "request body: Input data was truncated", id="empty"),
        pytest.param(b"{", "truncated", id="half"),
        pytest.param(b"[]", "Expected `object`, got `array`", id="a list"),
        pytest.param(b"{}", "missing required field `inputs`", id="no inputs"),
        pytest.param(b"\xff\xfe", "request body", id="not UTF-8"),
        pytest.param(b'{"inputs": [' * 50_000, "request body", id="nested beyond reason"),
        pytest.param(
            json.dumps({"inputs": [{**X, "shape": "2"}]}).encode(), "got `str` - at `$.inputs[0].shape`", id="shape as text"
        ),
        pytest.param(json.dumps({"inputs": [{**X, "name": None}]}).encode(), "at `$.inputs[0].name`", id="no name"),
        pytest.param(
            b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1e999]}]}', "out of range", id="1e999"
        ),
        pytest.param(json.dumps({"inputs": [{**X, "data": 3}]}).encode(), "data must be a list, not int", id="data no list"),
        pytest.param(
            json.dumps({"inputs": [X], "parameters": {"timeout": "1"}}).encode(),
            "timeout: '1' is not a number of",
            id="timeout",
        ),
        pytest.param(
            json.dumps({"inputs": [{k: v for k, v in X.items() if k != "data"}]}).encode(),
            "tensor 'x' has no data",
            id="no data",
        ),
        pytest.param(json.dumps({"inputs": [X], "id": "i" * 300}).encode(), "at most 256", id="id too long"),
        pytest.param(json.dumps({"inputs": [X], "id": 3}).encode(), "at `$.id`", id="id no text"),
        pytest.param(
            json.dumps({"inputs": [{**X, "parameters": {"binary_data_size": 8}}]}).encode(),
            "both data and binary_data_size",
            id="both kinds of data",
        ),
        pytest.param(
            json.dumps({"inputs": [{**X, "data": None, "parameters": {"binary_data_size": 8}}]}).encode(),
            "but there is no inference-header-content-length header",
            id="binary data without the header",
        ),
    ],
)
def test_a_malformed_body_is_a_400(raw: bytes, message: str) -> None:
    with pytest.raises(RequestError) as error:
        codec_json.decode(raw)
    assert error.value.status == 400
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("blob", "change", "message"),
    [
        pytest.param(b"\0" * 8, {"length": b"x"}, "is not a length within", id="length no number"),
        pytest.param(b"\0" * 8, {"length": b"-1"}, "is not a length within", id="length negative"),
        pytest.param(b"\0" * 8, {"length": b"99999"}, "is not a length within", id="length beyond the body"),
        pytest.param(b"\0" * 8, {"length": b"9" * 5000}, "is not a length within", id="length of many digits"),
        pytest.param(b"\0" * 8, {"length": "٣".encode()}, "is not a length within", id="length in other digits"),
        pytest.param(b"\0" * 4, {}, "binary_data_size 8, but 4 bytes follow", id="too few bytes"),
        pytest.param(b"\0" * 9, {}, "1 bytes after the last binary tensor", id="too many bytes"),
    ],
)
def test_a_malformed_binary_body_is_a_400(blob: bytes, change: dict[str, bytes], message: str) -> None:
    raw, length = binary_body(blob)
    with pytest.raises(RequestError) as error:
        codec_json.decode(raw, change.get("length", length))
    assert error.value.status == 400
    assert message in str(error.value)


DATATYPES = {"probability": "FP32", "label": "BYTES"}


def answer() -> InferAnswer:
    label = np.empty(2, object)
    label[:] = ["late", "on-time"]
    return InferAnswer("f1", {"probability": np.array([0.5, 0.25], np.float32), "label": label})


def test_an_answer_is_encoded_as_json() -> None:
    _, wanted = codec_json.decode(body())
    payload, header_length = codec_json.encode(answer(), "tiny", "3", DATATYPES, wanted)
    assert header_length is None
    assert json.loads(payload) == {
        "model_name": "tiny",
        "model_version": "3",
        "id": "f1",
        "outputs": [
            {"name": "probability", "datatype": "FP32", "shape": [2], "data": [0.5, 0.25]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["late", "on-time"]},
        ],
    }


def test_an_answer_is_encoded_with_binary_data() -> None:
    _, wanted = codec_json.decode(
        body(outputs=[{"name": "probability", "parameters": {"binary_data": True}}, {"name": "label"}])
    )
    payload, header_length = codec_json.encode(answer(), "tiny", "3", DATATYPES, wanted)
    assert header_length is not None
    header = json.loads(payload[:header_length])
    assert header["outputs"][0] == {
        "name": "probability",
        "datatype": "FP32",
        "shape": [2],
        "parameters": {"binary_data_size": 8},
    }
    assert header["outputs"][1]["data"] == ["late", "on-time"]
    assert struct.unpack("<2f", payload[header_length:]) == (0.5, 0.25)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
almost_tensor = st.fixed_dictionaries(
    {"name": st.text(max_size=3) | anything, "datatype": st.sampled_from(["FP32", "BYTES", "INT64", "nope"]) | anything},
    optional={
        "shape": st.lists(st.integers(-1, 4), max_size=3) | anything,
        "data": st.lists(anything, max_size=4) | anything,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9) | anything}) | anything,
    },
)
almost_request = st.fixed_dictionaries(
    {"inputs": st.lists(almost_tensor, max_size=3) | anything},
    optional={
        "id": st.text(max_size=4) | anything,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.text(max_size=3), "parameters": anything})) | anything,
        "parameters": anything,
    },
)


@given(document=almost_request, blob=st.binary(max_size=12), with_header=st.booleans())
def test_any_document_is_a_request_or_a_400(attempt: Attempt, document: Any, blob: bytes, with_header: bool) -> None:
    header = json.dumps(document).encode()
    body, length = (header + blob, str(len(header)).encode()) if with_header else (header, None)
    decoded, status = attempt(lambda: codec_json.decode(body, length))
    assert status == 400 or decoded[0].id


@given(
    raw=st.binary(max_size=60),
    header_length=st.none() | st.binary(max_size=3) | st.integers(0, 70).map(lambda n: str(n).encode()),
)
def test_any_bytes_are_a_request_or_a_400(attempt: Attempt, raw: bytes, header_length: bytes | None) -> None:
    decoded, status = attempt(lambda: codec_json.decode(raw, header_length))
    assert status == 400 or decoded[0].id


@pytest.mark.parametrize(
    ("fields", "timeout", "deadline"),
    [
        pytest.param({}, 0, 1_000 + 30_000, id="the server's own"),
        pytest.param({"parameters": {"timeout": 5}}, 5_000, 1_000 + 5_000, id="the caller's, in microseconds"),
        pytest.param({"parameters": {"timeout": 10**9}}, 10**12, 1_000 + 30_000, id="never longer than the server's"),
    ],
)
def test_a_timeout_becomes_a_deadline(fields: dict[str, Any], timeout: int, deadline: int) -> None:
    request, _ = codec_json.decode(body(**fields))
    assert request.timeout == timeout
    request.arrived(1_000, 30_000)
    assert (request.started, request.deadline) == (1_000, deadline)


def test_bf16_is_always_answered_in_binary() -> None:
    _, wanted = codec_json.decode(body())
    found = InferAnswer("f1", {"y": np.array([1.0, 2.0], np.float32)})
    payload, header_length = codec_json.encode(found, "m", "1", {"y": "BF16"}, wanted)
    assert header_length is not None
    assert payload[header_length:] == b"\x80\x3f\x00\x40"
