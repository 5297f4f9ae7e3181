"""The fast way of large bodies reads what the other way reads, or leaves it to that."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.serving.protocol import codec_json, large_json
from tidegate.serving.protocol.tensors import array_of

Attempt = Callable[[Callable[[], Any]], tuple[Any, int | None]]


def body(*tensors: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"inputs": tensors, **fields}).encode()


def tensor(datatype: str, shape: list[int], data: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data, **fields}


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(body(tensor("FP32", [3], [1, -0.0, 0.1])), id="flat floats, integers among them"),
        pytest.param(body(tensor("FP64", [2, 2], [[1.5, 2], [3, 1e300]])), id="nested as the shape"),
        pytest.param(body(tensor("FP16", [1, 2, 2], [[[1, 2], [3, 65504]]])), id="nested three deep"),
        pytest.param(body(tensor("FP32", [2, 2], [1, 2, 3, 4])), id="flat data of a nested shape"),
        pytest.param(body(tensor("INT64", [2], [-(2**63), 2**63 - 1])), id="bounds of INT64"),
        pytest.param(body(tensor("UINT64", [1], [2**64 - 1])), id="bounds of UINT64"),
        pytest.param(body(tensor("INT8", [2], [-128, 127])), id="bounds of INT8"),
        pytest.param(body(tensor("BYTES", [2], ["a", None]), tensor("BOOL", [1], [True])), id="what is no number"),
        pytest.param(body(tensor("FP32", [0], [])), id="no rows"),
        pytest.param(body(tensor("FP32", [1], [1]), id="f1", outputs=[{"name": "y"}], parameters={"timeout": 9}), id="fields"),
        pytest.param(body(tensor("FP32", [1], [1], parameters={"a": 1}), other={"b": 2}), id="fields of no meaning"),
    ],
)
def test_what_is_usual_is_read(raw: bytes) -> None:
    found = codec_json._parsed_large(raw)
    assert found is not None
    expected = codec_json._parsed(raw)
    assert (found.id, found.outputs, found.parameters) == (expected.id, expected.outputs, expected.parameters)
    for one, other in zip(found.inputs, expected.inputs, strict=True):
        assert (one.name, one.datatype, one.shape, one.parameters) == (
            other.name,
            other.datatype,
            other.shape,
            other.parameters,
        )
        np.testing.assert_array_equal(array_of(one), array_of(other))
        assert array_of(one).dtype == array_of(other).dtype


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"inputs": 3}', id="inputs no list"),
        pytest.param(body(tensor("FP32", [2], [1, None])), id="null"),
        pytest.param(body(tensor("FP32", [1], [True])), id="boolean as a float"),
        pytest.param(body(tensor("INT64", [1], [1.5])), id="fraction as an integer"),
        pytest.param(body(tensor("INT8", [1], [128])), id="outside INT8"),
        pytest.param(body(tensor("UINT8", [1], [-1])), id="outside UINT8"),
        pytest.param(body(tensor("INT64", [1], [2**63])), id="outside INT64"),
        pytest.param(body(tensor("FP32", [2], [1])), id="too few"),
        pytest.param(body(tensor("FP32", [2, 2], [[1, 2, 3], [4]])), id="ragged"),
        pytest.param(body(tensor("FP32", [2], [1, [2]])), id="a list among numbers"),
        pytest.param(body(tensor("FP32", [2, 1], [[1], 2])), id="a number among lists"),
        pytest.param(body(tensor("FP32", [1, 1], [[[1]]])), id="nested too deep"),
        pytest.param(body(tensor("FP8", [1], [1]), tensor("FP32", [1], [[1]])), id="lists that make up for each other"),
        pytest.param(b'{"inputs": [], "inputs": []}', id="a field given twice"),
        pytest.param(
            b'{"inputs": [{"name": "x", "name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]}', id="a name twice"
        ),
        pytest.param(b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1e999]}]}', id="1e999"),
        pytest.param(b'{"inputs": [{"name": "\xff", "datatype": "FP32", "shape": [1], "data": [1]}]}', id="not UTF-8"),
        pytest.param(b'{"inputs": ' + b"[" * 50_000, id="nested beyond reason"),
    ],
)
def test_anything_else_is_left_to_the_other_way(raw: bytes) -> None:
    assert codec_json._parsed_large(raw) is None


values = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False) | st.text(max_size=2)
anything = st.recursive(values, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
tensors = st.fixed_dictionaries(
    {
        "name": st.text(max_size=3),
        "datatype": st.sampled_from(["FP32", "FP64", "FP16", "INT64", "UINT8", "INT32", "BYTES", "BOOL", "BF16", "nope"]),
        "shape": st.lists(st.integers(-1, 3), min_size=0, max_size=3),
        "data": st.lists(anything, max_size=4)
        | st.lists(st.floats(-9, 9), max_size=4)
        | st.lists(st.integers(0, 9), max_size=4),
    }
)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@settings(max_examples=300, deadline=None)
@given(st.lists(tensors, max_size=2))
def test_both_ways_agree(attempt: Attempt, inputs: list[dict[str, Any]]) -> None:
    raw = body(*inputs)
    found = codec_json._parsed_large(raw)
    if found is None:
        return
    for one, other in zip(found.inputs, codec_json._parsed(raw).inputs, strict=True):
        expected, refusal = attempt(lambda other=other: array_of(other))
        array, again = attempt(lambda one=one: array_of(one))
        assert again == refusal
        np.testing.assert_array_equal(array, expected)


def test_a_body_that_is_still_being_answered_does_not_hinder_the_next() -> None:
    rows = [[float(row * 100 + column) for column in range(100)] for row in range(100)]
    raw = body(tensor("FP32", [100, 100], rows))
    assert len(raw) > large_json.AT_LEAST
    held = [codec_json.decode(raw)[0].tensors[0] for _ in range(3)]
    assert all(isinstance(one.data, np.ndarray) for one in held)
    for one in held:
        assert array_of(one).tolist() == rows
