"""Tensors from JSON, from Python values, from binary, and back."""

import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.tensors import DTYPES, from_binary, from_values, to_binary

Attempt = Callable[[Callable[[], Any]], tuple[Any, int | None]]


def from_json(raw: bytes, datatype: str, shape: list[int], name: str) -> Any:
    return from_values(msgspec.json.decode(raw), datatype, shape, name)


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "expected"),
    [
        pytest.param(b"[1, 2.5]", "FP32", [2], [1.0, 2.5], id="flat floats, integers among them"),
        pytest.param(b"[[1], [2]]", "FP32", [2, 1], [[1.0], [2.0]], id="nested as the shape"),
        pytest.param(b"[1, 2]", "INT64", [2, 1], [[1], [2]], id="flat data of a two-axis shape"),
        pytest.param(b"[[[1,2]],[[3,4]]]", "INT8", [2, 1, 2], [[[1, 2]], [[3, 4]]], id="nested three deep"),
        pytest.param(b"[true, false]", "BOOL", [2], [True, False], id="booleans"),
        pytest.param('["a", "ü"]'.encode(), "BYTES", [2], ["a", "ü"], id="strings"),
        pytest.param(b'["a", null]', "BYTES", [2], ["a", None], id="a null string"),
        pytest.param(b"[0, 255]", "UINT8", [2], [0, 255], id="bounds of UINT8"),
        pytest.param(b"[]", "FP32", [0], [], id="no rows"),
        pytest.param(b" [ 1 ] ", "FP64", [1], [1.0], id="spaces"),
    ],
)
def test_json_data_becomes_a_tensor(raw: bytes, datatype: str, shape: list[int], expected: list[object]) -> None:
    tensor = from_json(raw, datatype, shape, "x")
    assert tensor.dtype == DTYPES[datatype]
    assert tensor.tolist() == expected


def test_a_json_null_is_nan_in_a_float_tensor() -> None:
    tensor = from_json(b"[1, null]", "FP32", [2], "x")
    assert tensor[0] == 1
    assert math.isnan(tensor[1])


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_number_beyond_a_float_datatype_is_infinite_in_it() -> None:
    assert from_json(b"[1e39, -1e39]", "FP32", [2], "x").tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "message"),
    [
        pytest.param(b"[1]", "FP8", [1], "datatype 'FP8' is not supported; use one of BOOL", id="unknown datatype"),
        pytest.param(b"[1]", "FP32", [2], "data holds 1 values, but shape [2] needs 2", id="too few values"),
        pytest.param(b"[1, 2]", "FP32", [1], "data holds 2 values, but shape [1] needs 1", id="too many values"),
        pytest.param(b"[]", "FP32", [], "shape [] must have 1 to 32 axes", id="no axis"),
        pytest.param(b"[1]", "FP32", [-1], "none of them below 0", id="negative axis"),
        pytest.param(b"[1]", "FP32", [1] * 33, "must have 1 to 32 axes", id="more axes than any tensor has"),
        pytest.param(b"[1]", "FP32", [2**63 - 1] * 20_000, "and 19968 more must have 1 to 32 axes", id="axes beyond reason"),
        pytest.param(b"[1]", "FP32", [2**63 - 1] * 30, "beyond what a request can hold", id="sizes beyond reason"),
        pytest.param(b"[]", "FP32", [0, 2**62, 2**62], "beyond what a request can hold", id="none of too many"),
        pytest.param(b'["1"]', "FP32", [1], "Expected `float | null`, got `str` - at `$[0]`", id="text as a float"),
        pytest.param(b"[true]", "FP32", [1], "got `bool`", id="boolean as a float"),
        pytest.param(b"[1, 1.5]", "INT64", [2], "Expected `int`, got `float` - at `$[1]`", id="fraction as an integer"),
        pytest.param(b"[null]", "INT64", [1], "Expected `int`, got `null`", id="null integer"),
        pytest.param(b"[true]", "INT64", [1], "got `bool`", id="boolean as an integer"),
        pytest.param(b"[1]", "BYTES", [1], "Expected `str | null`, got `int`", id="integer as text"),
        pytest.param(b"[1]", "BOOL", [1], "Expected `bool`", id="integer as a boolean"),
        pytest.param(b"[300]", "INT8", [1], "300 lies outside INT8", id="outside INT8"),
        pytest.param(b"[-1]", "UINT8", [1], "-1 lies outside UINT8", id="outside UINT8"),
        pytest.param(b"[99999999999999999999]", "INT64", [1], "lies outside INT64", id="outside INT64"),
        pytest.param(b"[[1], [2, 3]]", "FP32", [2, 1], "does not agree with shape [2, 1]", id="ragged"),
        pytest.param(b"[[1], [2]]", "FP32", [1, 2], "holds 2 lists, but shape [1, 2] needs 1", id="nested otherwise"),
        pytest.param(b"[[1]]", "FP32", [1], "got `array`", id="nested data of a flat shape"),
        pytest.param(b"[1]", "BF16", [1], "BF16 has no JSON form; send its bytes", id="BF16"),
    ],
)
def test_json_data_that_is_no_such_tensor_is_a_400(raw: bytes, datatype: str, shape: list[int], message: str) -> None:
    with pytest.raises(RequestError) as error:
        from_json(raw, datatype, shape, "x")
    assert error.value.status == 400
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "message"),
    [
        pytest.param(b"\0" * 7, "FP32", [2], "7 bytes of data, but FP32 of shape [2] needs 8", id="too few bytes"),
        pytest.param(b"\0" * 9, "FP32", [2], "9 bytes of data", id="too many bytes"),
        pytest.param(b"\2", "BOOL", [1], "a BOOL byte must be 0 or 1", id="neither true nor false"),
        pytest.param(b"\1\0\0", "BYTES", [1], "cannot hold the 1 strings", id="no whole length"),
        pytest.param(b"\5\0\0\0ab", "BYTES", [1], "claims 5 bytes, but 2 are left", id="length beyond the data"),
        pytest.param(b"\1\0\0\0a\1", "BYTES", [1], "1 bytes left over", id="bytes left over"),
        pytest.param(b"\4\0\0\0abcd", "BYTES", [2], "data ends before string 1 of 2", id="one string too few"),
        pytest.param(b"\1\0\0\0\xff", "BYTES", [1], "value 0 is not UTF-8", id="not UTF-8"),
        pytest.param(b"", "BYTES", [10**12], "cannot hold", id="more strings than memory"),
        pytest.param(b"", "FP32", [10**12], "needs 4000000000000", id="more numbers than memory"),
        pytest.param(b"", "FP32", [10**15], "beyond what a request can hold", id="more numbers than any memory"),
    ],
)
def test_binary_data_that_is_no_such_tensor_is_a_400(raw: bytes, datatype: str, shape: list[int], message: str) -> None:
    with pytest.raises(RequestError) as error:
        from_binary(memoryview(raw), datatype, shape, "x")
    assert error.value.status == 400
    assert message in str(error.value)


def test_binary_strings_are_preceded_by_their_length() -> None:
    assert to_binary(np.array(["ab", "ü"], object)) == b"\2\0\0\0ab\2\0\0\0\xc3\xbc"


def test_binary_numbers_are_little_endian_and_not_copied() -> None:
    raw = struct.pack("<2f", 1.5, -2)
    tensor = from_binary(memoryview(raw), "FP32", [2, 1], "x")
    assert tensor.tolist() == [[1.5], [-2.0]]
    assert not tensor.flags.owndata


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
shapes = st.lists(st.integers(-2, 5), max_size=3)
datatypes = st.sampled_from([*DTYPES, "UINT64", "", "fp32"])


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@given(value=json_values, datatype=datatypes, shape=shapes)
def test_any_json_is_a_tensor_or_a_400(attempt: Attempt, value: object, datatype: str, shape: list[int]) -> None:
    values = value if isinstance(value, list) else [value]
    tensor, status = attempt(lambda: from_values(values, datatype, shape, "x"))
    assert status == 400 or (tensor.dtype == DTYPES[datatype] and list(tensor.shape) == shape)


@given(raw=st.binary(max_size=40), datatype=datatypes, shape=shapes)
def test_any_bytes_are_a_tensor_or_a_400(attempt: Attempt, raw: bytes, datatype: str, shape: list[int]) -> None:
    tensor, status = attempt(lambda: from_binary(memoryview(raw), datatype, shape, "x"))
    assert status == 400 or to_binary(tensor, datatype) == raw or datatype == "BF16"  # any NaN may become another
