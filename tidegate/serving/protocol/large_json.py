"""Reads large v2 JSON bodies with simdjson, whose numbers become arrays without a Python object for each.

This is a fast way for what is usual, and decides nothing: numbers, flat or nested exactly as their shape says, and lists of
anything else. Whatever is not so is left to `codec_json`, which says what is wrong with it.

Source: Langdale and Lemire, "Parsing Gigabytes of JSON per Second", VLDB Journal 28 (2019).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import simdjson

from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.serving.protocol.tensors import MOST_AXES, Array, Tensor

AT_LEAST = 32 * 1024  # bytes; a smaller body is read as fast without
_MOST_KEPT = 256 * 1024  # bytes; what parsed a larger one is let go of, with its memory

_parser = simdjson.Parser()


def read(body: bytes) -> tuple[list[Tensor], dict[str, Any]] | None:
    """Return a body's tensors and its other fields; None if anything in it is not as usual.

    The numbers of a tensor are a flat array of its datatype's kind: float64, int64 or uint64.
    """
    parser = _parser if len(body) <= _MOST_KEPT else simdjson.Parser()
    try:
        return _Reading(body).of(parser.parse(body))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError):
        return None


class _Reading:
    """Counts the lists of a body while it is read, so that none can hide within another."""

    def __init__(self, body: bytes) -> None:
        self._lists = body.count(b"[")

    def of(self, document: Any) -> tuple[list[Tensor], dict[str, Any]] | None:
        fields = _fields(document)
        given = fields.pop("inputs")
        self._lists -= 1
        tensors = [self._tensor(_fields(tensor)) for tensor in given]
        others = {name: _plain(value) for name, value in fields.items()}
        self._lists -= isinstance(others.get("outputs"), list)
        return (tensors, others) if self._lists == 0 else None

    def _tensor(self, fields: dict[str, Any]) -> Tensor:
        name, datatype, shape = fields["name"], fields["datatype"], fields["shape"].as_list()
        if type(name) is not str or len(shape) > MOST_AXES or set(map(type, shape)) != {int}:
            raise TypeError
        self._lists -= 1
        parameters = fields.get("parameters")
        data = self._data(fields["data"], datatype, shape)
        return Tensor(name, datatype, shape, data, None if parameters is None else parameters.as_dict())

    def _data(self, data: Any, datatype: str, shape: Sequence[int]) -> Any:
        kind = _KINDS.get(datatype)
        if kind is None:
            self._lists -= 1
            return data.as_list()
        self._lists -= _check_nesting(data, shape)
        letter, dtype = kind
        numbers: Array = np.frombuffer(data.as_buffer(of_type=letter), dtype)
        if len(numbers) != math.prod(shape) or not _fit(numbers, NUMPY_TYPES[datatype]):  # type: ignore[index]
            raise ValueError
        return numbers


_KINDS: dict[str, tuple[str, type]] = (
    dict.fromkeys(("FP16", "FP32", "FP64"), ("d", np.float64))
    | dict.fromkeys(("INT8", "INT16", "INT32", "INT64"), ("i", np.int64))
    | dict.fromkeys(("UINT8", "UINT16", "UINT32", "UINT64"), ("u", np.uint64))
)


def _check_nesting(data: Any, shape: Sequence[int]) -> int:
    """Return how many lists there are in `data`; raises ValueError if they are neither one nor nested as `shape` says."""
    if len(data) != shape[0] or (len(shape) > 1 and type(data[0]) is not simdjson.Array):
        return 1
    lists, level = 1, [data]
    for size in shape[1:]:
        level = [inner for outer in level for inner in outer]
        lists += len(level)
        if not all(type(inner) is simdjson.Array and len(inner) == size for inner in level):
            raise ValueError
    return lists


def _fit(numbers: Array, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f" or not len(numbers):
        return True
    limits = np.iinfo(dtype)
    return bool(limits.min <= numbers.min() and numbers.max() <= limits.max)


def _fields(record: Any) -> dict[str, Any]:
    """Return an object's values, unread; raises ValueError if a name is given twice, which is for the other way to settle."""
    names = list(record.keys())
    fields = {name: record[name] for name in names}
    if len(fields) != len(names):
        raise ValueError
    return fields


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value
