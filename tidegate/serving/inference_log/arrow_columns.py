"""Arrow arrays straight from buffers.

`pyarrow.array` imports pandas, wherever that is installed, before it looks at its first value: a second and 50 MB that a
model server has no use for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tidegate.serving.protocol.tensors import Array

_DTYPES: dict[pa.DataType, Any] = {
    pa.bool_(): np.bool_,
    pa.int8(): np.int8,
    pa.int16(): np.int16,
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.uint8(): np.uint8,
    pa.uint16(): np.uint16,
    pa.uint32(): np.uint32,
    pa.uint64(): np.uint64,
    pa.float32(): np.float32,
    pa.float64(): np.float64,
}


def number_dtype(type_: pa.DataType) -> np.dtype[Any]:
    """Return the NumPy dtype of an Arrow type of numbers, booleans or timestamps."""
    dtype: np.dtype[Any] = np.dtype(_DTYPES.get(type_, np.int64))
    return dtype


def numbers(values: Array, type_: pa.DataType, valid: Array | None = None) -> pa.Array:
    """Return an array of numbers, booleans or timestamps (from `datetime64`, or int64 in the type's unit).

    Args:
        values: Shape [n]; cast to `type_` if they are of another width.
        type_: The Arrow type.
        valid: Which values are not null; None means all.
    """
    if values.dtype.kind == "M":
        values = values.astype("datetime64[us]").view(np.int64)
    if pa.types.is_boolean(type_):
        data = np.packbits(values.astype(np.bool_, copy=False), bitorder="little")
    else:
        data = np.ascontiguousarray(values, number_dtype(type_))
    return pa.Array.from_buffers(type_, len(values), [_validity(valid), pa.py_buffer(data)])


def rows_of(matrix: Array, type_: pa.DataType) -> list[pa.Array]:
    """Return each row of a matrix as an array, none of whose values is null."""
    count = matrix.shape[1]
    if pa.types.is_boolean(type_):
        return [numbers(row, type_) for row in matrix]
    values = pa.py_buffer(np.ascontiguousarray(matrix, number_dtype(type_)))
    return [pa.Array.from_buffers(type_, count, [None, values], 0, start) for start in range(0, matrix.size, count)]


def texts(values: Sequence[str | None]) -> pa.Array:
    """Return an array of strings; None is null."""
    try:
        joined = "".join(values)  # type: ignore[arg-type]
    except TypeError:
        return _texts_with_nulls(values)
    raw = joined.encode(errors="replace")
    if len(raw) == len(joined):
        return text_bytes(raw, np.fromiter(map(len, values), np.int32, len(values)))  # type: ignore[arg-type]
    encoded = [value.encode(errors="replace") for value in values]  # type: ignore[union-attr]
    return text_bytes(b"".join(encoded), np.fromiter(map(len, encoded), np.int32, len(encoded)))


def text_bytes(raw: bytes, lengths: Array) -> pa.Array:
    """Return the strings that `raw`, UTF-8, is cut into; `lengths` in bytes."""
    return pa.Array.from_buffers(pa.string(), len(lengths), [None, _offsets(lengths), pa.py_buffer(raw)])


def repeated(text: str | None, count: int) -> pa.Array:
    """Return `count` times the same text, for the cost of one: as a dictionary, or as nulls."""
    if text is None:
        return pa.nulls(count, pa.string())
    indices = pa.Array.from_buffers(pa.int32(), count, [None, pa.py_buffer(np.zeros(count, np.int32))])
    return pa.DictionaryArray.from_arrays(indices, texts([text]))


def lists(flat: pa.Array, lengths: Sequence[int] | Array, valid: Array | None = None) -> pa.Array:
    """Return `flat` cut into lists of these lengths; those that are not `valid` are null, whatever their length."""
    offsets = _offsets(lengths)
    return pa.Array.from_buffers(pa.list_(flat.type), len(lengths), [_validity(valid), offsets], children=[flat])


def _texts_with_nulls(values: Sequence[str | None]) -> pa.Array:
    encoded = [b"" if value is None else value.encode(errors="replace") for value in values]
    valid = np.fromiter((value is not None for value in values), np.bool_, len(values))
    buffers = [_validity(valid), _offsets([len(value) for value in encoded]), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _offsets(lengths: Sequence[int] | Array) -> pa.Buffer:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.py_buffer(offsets)


def _validity(valid: Array | None) -> pa.Buffer | None:
    return None if valid is None or valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
