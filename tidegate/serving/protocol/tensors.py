"""Tensors of the Open Inference Protocol as numpy arrays: datatypes, JSON data and binary data, both ways.

A BYTES tensor is an object array of `str`; a JSON null is NaN in a floating-point tensor and None in a BYTES tensor, and
an error in any other. A number beyond the range of a floating-point datatype is infinite in it, which validation refuses.
BF16 is float32 in memory, which holds each of its values exactly; it travels in binary only, as in Triton.
Everything that cannot be a tensor of the stated datatype and shape is a RequestError with status 400.
"""

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidegate.errors import in_one_line
from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.serving.protocol import bfloat16
from tidegate.serving.protocol.errors import bad_request

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = dict(NUMPY_TYPES.items())

_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_ELEMENTS: dict[str, Any] = {"BOOL": bool, "BYTES": str | None} | dict.fromkeys(_FLOATS, float | None)
_LISTS: dict[str, Any] = {datatype: list[_ELEMENTS.get(datatype, int)] for datatype in DTYPES}  # type: ignore[misc]
_NUMBERS = frozenset({float, int})
_LENGTH = struct.Struct("<I")
MOST_AXES = 32
_MOST_ELEMENTS = 2**40


class Tensor(msgspec.Struct, gc=False):
    """A tensor as it was sent; nothing of it is known to be right but the types of these fields.

    `data` is a list of values, flat or nested as `shape` says; or the bytes of a tensor that was sent in binary; or a flat
    array of numbers that fit datatype and shape.
    """

    name: str
    datatype: str
    shape: list[int]
    data: Any = None
    parameters: dict[str, Any] | None = None


def array_of(tensor: Tensor) -> Array:
    """Return what was sent as an array of its datatype and shape; numbers sent in binary are not copied."""
    if isinstance(tensor.data, np.ndarray):
        element_count(tensor.shape, tensor.name)
        return tensor.data.astype(DTYPES[tensor.datatype]).reshape(tensor.shape)
    if isinstance(tensor.data, list):
        return from_values(tensor.data, tensor.datatype, tensor.shape, tensor.name)
    return from_binary(tensor.data, tensor.datatype, tensor.shape, tensor.name)


def dtype_of(datatype: str, name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a protocol datatype; `name` is the tensor's, for the message."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise bad_request(f"tensor {name!r}: datatype {datatype!r} is not supported; use one of {', '.join(DTYPES)}")
    return dtype


def element_count(shape: Sequence[int], name: str) -> int:
    """Return the number of elements of `shape`: of 1 to 32 axes, none negative, and not beyond all reason."""
    if not 0 < len(shape) <= MOST_AXES or min(shape) < 0:
        raise bad_request(f"tensor {name!r}: shape {shown(shape)} must have 1 to {MOST_AXES} axes, none of them below 0")
    count = math.prod(shape)
    if count > _MOST_ELEMENTS or (count == 0 and math.prod(filter(None, shape)) > _MOST_ELEMENTS):
        raise bad_request(f"tensor {name!r}: shape {shown(shape)} is beyond what a request can hold")
    return count


def shown(shape: Sequence[int]) -> str:
    """Return a shape for a message; of a long one the beginning."""
    return str(list(shape)) if len(shape) <= MOST_AXES else f"{list(shape[:MOST_AXES])} and {len(shape) - MOST_AXES} more"


def from_values(values: Sequence[Any], datatype: str, shape: Sequence[int], name: str) -> Array:
    """Return the tensor of these Python values: a flat list, or lists nested as `shape` says."""
    dtype = dtype_of(datatype, name)
    count = element_count(shape, name)
    if datatype == "BF16":
        raise bad_request(f"tensor {name!r}: BF16 has no JSON form; send its bytes (the binary tensor data extension)")
    if len(shape) > 1 and values and isinstance(values[0], list):
        values = _flattened(values, shape, name)
    if len(values) != count:
        raise bad_request(f"tensor {name!r}: data holds {len(values)} values, but shape {list(shape)} needs {count}")
    if datatype not in _FLOATS or not _NUMBERS.issuperset(map(type, values)):
        values = _converted(values, datatype, name)
    return _to_array(values, dtype, datatype, name).reshape(shape)


def from_binary(raw: bytes | memoryview, datatype: str, shape: Sequence[int], name: str) -> Array:
    """Return the tensor whose little-endian binary data is `raw`; BYTES elements are each preceded by their length."""
    dtype = dtype_of(datatype, name)
    count = element_count(shape, name)
    if datatype == "BYTES":
        return _strings_from_binary(memoryview(raw), count, shape, name).reshape(shape)
    size = bfloat16.BYTES_A_VALUE if datatype == "BF16" else dtype.itemsize
    if len(raw) != count * size:
        raise bad_request(
            f"tensor {name!r}: {len(raw)} bytes of data, but {datatype} of shape {list(shape)} needs {count * size}"
        )
    if datatype == "BOOL" and count and np.frombuffer(raw, np.uint8).max() > 1:
        raise bad_request(f"tensor {name!r}: a BOOL byte must be 0 or 1")
    if datatype == "BF16":
        return bfloat16.widened(raw).reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def to_binary(array: Array, datatype: str | None = None) -> bytes:
    """Return a tensor's little-endian binary data; float32 becomes BF16 if that is its `datatype`, rounded to even."""
    if array.dtype == object:
        parts: list[bytes] = []
        for value in array.ravel():
            encoded = value.encode()
            parts += (_LENGTH.pack(len(encoded)), encoded)
        return b"".join(parts)
    if datatype == "BF16":
        return bfloat16.narrowed(array)
    return array.tobytes()


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


def _flattened(values: Sequence[Any], shape: Sequence[int], name: str) -> list[Any]:
    if len(values) != shape[0]:
        raise bad_request(f"tensor {name!r}: data holds {len(values)} lists, but shape {list(shape)} needs {shape[0]}")
    for size in shape[1:]:
        if not all(isinstance(value, list) and len(value) == size for value in values):
            raise bad_request(f"tensor {name!r}: nested data does not agree with shape {list(shape)}")
        values = list(chain.from_iterable(values))
    return list(values)


def _converted(values: Sequence[Any], datatype: str, name: str) -> list[Any]:
    try:
        converted: list[Any] = msgspec.convert(values, _LISTS[datatype])
    except msgspec.ValidationError as error:
        raise bad_request(f"tensor {name!r}: {in_one_line(error)}") from error
    return converted


def _to_array(values: Sequence[Any], dtype: np.dtype[Any], datatype: str, name: str) -> Array:
    if datatype == "BYTES":
        array = np.empty(len(values), object)
        array[:] = values
        return array
    try:
        return np.array(values, dtype)
    except OverflowError as error:
        if dtype.kind == "f":
            raise bad_request(f"tensor {name!r}: a value is out of range for {datatype}") from error
        outside = next(value for value in values if not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)
        raise bad_request(f"tensor {name!r}: {outside} lies outside {datatype}") from error
