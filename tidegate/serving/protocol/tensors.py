"""Tensors of the Open Inference Protocol as numpy arrays: datatypes, JSON data and binary data, both ways.

A BYTES tensor is an object array of `str`; a JSON null is NaN in a floating-point tensor and None in a BYTES tensor, and
an error in any other. A number beyond the range of a floating-point datatype is infinite in it, which validation refuses.
Everything that cannot be a tensor of the stated datatype and shape is a RequestError with status 400.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidegate.errors import in_one_line
from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.serving.protocol.errors import bad_request

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = dict(NUMPY_TYPES.items())

_ELEMENTS: dict[str, Any] = {
    "BOOL": bool,
    "BYTES": str | None,
    "FP16": float | None,
    "FP32": float | None,
    "FP64": float | None,
}
_FLAT = {datatype: msgspec.json.Decoder(list[_ELEMENTS.get(datatype, int)]) for datatype in DTYPES}  # type: ignore[misc]
_NESTED = msgspec.json.Decoder(list[list[Any]])
_LENGTH = struct.Struct("<I")


def dtype_of(datatype: str, name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a protocol datatype; `name` is the tensor's, for the message."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise bad_request(f"tensor {name!r}: datatype {datatype!r} is not supported; use one of {', '.join(DTYPES)}")
    return dtype


def element_count(shape: Sequence[int], name: str) -> int:
    """Return the number of elements of `shape`, of which no axis may be negative."""
    if not shape or min(shape) < 0:
        raise bad_request(f"tensor {name!r}: shape {list(shape)} must have at least one axis and none below 0")
    return math.prod(shape)


def from_json(raw: bytes | memoryview, datatype: str, shape: Sequence[int], name: str) -> Array:
    """Return the tensor whose JSON `data` is `raw`: a flat list, or lists nested as `shape` says."""
    dtype = dtype_of(datatype, name)
    count = element_count(shape, name)
    try:
        values: list[Any] = _FLAT[datatype].decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        values = _nested_values(raw, datatype, shape, name, error)
    if len(values) != count:
        raise bad_request(f"tensor {name!r}: data holds {len(values)} values, but shape {list(shape)} needs {count}")
    return _to_array(values, dtype, datatype, name).reshape(shape)


def from_values(values: list[Any], datatype: str, name: str) -> Array:
    """Return the tensor whose first axis is `values`: scalars, or equally shaped nested lists of them."""
    dtype = dtype_of(datatype, name)
    shape = [len(values)]
    flat = values
    while flat and isinstance(flat[0], list):
        shape.append(len(flat[0]))
        flat = _flattened_once(flat, shape[-1], shape, name)
    return _to_array(_converted(flat, datatype, name), dtype, datatype, name).reshape(shape)


def from_binary(raw: memoryview, datatype: str, shape: Sequence[int], name: str) -> Array:
    """Return the tensor whose little-endian binary data is `raw`; BYTES elements are each preceded by their length."""
    dtype = dtype_of(datatype, name)
    count = element_count(shape, name)
    if datatype == "BYTES":
        return _strings_from_binary(raw, count, shape, name).reshape(shape)
    if len(raw) != count * dtype.itemsize:
        raise bad_request(
            f"tensor {name!r}: {len(raw)} bytes of data, but {datatype} of shape {list(shape)} needs {count * dtype.itemsize}"
        )
    if datatype == "BOOL" and count and np.frombuffer(raw, np.uint8).max() > 1:
        raise bad_request(f"tensor {name!r}: a BOOL byte must be 0 or 1")
    return np.frombuffer(raw, dtype).reshape(shape)


def to_binary(array: Array) -> bytes:
    """Return a tensor's little-endian binary data."""
    if array.dtype == object:
        parts: list[bytes] = []
        for value in array.ravel():
            encoded = value.encode()
            parts += (_LENGTH.pack(len(encoded)), encoded)
        return b"".join(parts)
    return array.tobytes()


def strings(values: Sequence[bytes], shape: Sequence[int], name: str) -> Array:
    """Return the BYTES tensor of UTF-8 `values`."""
    if len(values) != element_count(shape, name):
        raise bad_request(f"tensor {name!r}: {len(values)} values, but shape {list(shape)} needs {math.prod(shape)}")
    array = np.empty(len(values), object)
    array[:] = [_text(value, name, index) for index, value in enumerate(values)]
    return array.reshape(shape)


def is_null(array: Array) -> Array:
    """Return which elements of a BYTES tensor are null."""
    return np.fromiter((value is None for value in array.ravel()), np.bool_, array.size).reshape(array.shape)


def _strings_from_binary(raw: memoryview, count: int, shape: Sequence[int], name: str) -> Array:
    if count > len(raw) // _LENGTH.size:
        raise bad_request(f"tensor {name!r}: {len(raw)} bytes of data cannot hold the {count} strings of shape {list(shape)}")
    array = np.empty(count, object)
    position = 0
    for index in range(count):
        if position + _LENGTH.size > len(raw):
            raise bad_request(f"tensor {name!r}: data ends before string {index} of {count}")
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        if length > len(raw) - position:
            raise bad_request(f"tensor {name!r}: string {index} claims {length} bytes, but {len(raw) - position} are left")
        array[index] = _text(bytes(raw[position : position + length]), name, index)
        position += length
    if position != len(raw):
        raise bad_request(f"tensor {name!r}: {len(raw) - position} bytes left over after its {count} strings")
    return array


def _text(value: bytes, name: str, index: int) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise bad_request(f"tensor {name!r}: value {index} is not UTF-8: {error.reason}") from error


def _nested_values(raw: bytes | memoryview, datatype: str, shape: Sequence[int], name: str, flat_error: Exception) -> list[Any]:
    if len(shape) < 2:
        raise bad_request(f"tensor {name!r}: {in_one_line(flat_error)}") from flat_error
    try:
        flat: list[Any] = _NESTED.decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise bad_request(f"tensor {name!r}: {in_one_line(flat_error)}") from flat_error
    if len(flat) != shape[0]:
        raise bad_request(f"tensor {name!r}: data holds {len(flat)} lists, but shape {list(shape)} needs {shape[0]}")
    for size in shape[1:]:
        flat = _flattened_once(flat, size, shape, name)
    return _converted(flat, datatype, name)


def _flattened_once(values: list[Any], size: int, shape: Sequence[int], name: str) -> list[Any]:
    flat: list[Any] = []
    for value in values:
        if not isinstance(value, list) or len(value) != size:
            raise bad_request(f"tensor {name!r}: nested data does not agree with shape {list(shape)}")
        flat += value
    return flat


def _converted(values: list[Any], datatype: str, name: str) -> list[Any]:
    try:
        converted: list[Any] = msgspec.convert(values, list[_ELEMENTS.get(datatype, int)])  # type: ignore[misc]
    except msgspec.ValidationError as error:
        raise bad_request(f"tensor {name!r}: {in_one_line(error)}") from error
    return converted


def _to_array(values: list[Any], dtype: np.dtype[Any], datatype: str, name: str) -> Array:
    if datatype == "BYTES":
        array = np.empty(len(values), object)
        array[:] = values
        return array
    try:
        return np.array(values, dtype)
    except OverflowError as error:
        outside = next(value for value in values if not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)
        raise bad_request(f"tensor {name!r}: {outside} lies outside {datatype}") from error
