"""Proves that a graph is whole in its file: that whoever loads it opens no other file, inside the package or out of it.

ONNX allows a tensor to lie in another file, named by an entry `location` of its `external_data`, and ONNX Runtime allows the
same of a compiled engine, by the attribute `embed_mode` = 0 of a node `EPContext`. A manifest's digests do not cover such a
file, and its path may lead anywhere. Both words are therefore searched for, and where one occurs the protobuf messages around
it are read; the `onnx` package, which serving does not have, is not needed.

Source of the field numbers: onnx.proto of ONNX 1.20; of the two rules: ONNX's "External Data" and ONNX Runtime's
"EP context design" documents.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from tidegate.errors import PackageError
from tidegate.packaging.format.plain_files import open_plain

_LOCATION, _EMBED_MODE = b"location", b"embed_mode"
_DEEPEST = 100  # protobuf's own limit

# The messages of onnx.proto that lead to a tensor or an attribute: their fields by number, and what message is in each.
_MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3

_Field = tuple[int, int, int, int]  # number, value of a varint (0 of any other kind), start and end of what it holds


def check_self_contained(path: Path) -> None:
    """Raise PackageError if the ONNX graph in the file `path` refers to another file, or is too garbled to tell."""
    with open_plain(path) as stream:
        if not stream.read(1):
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for word in (_LOCATION, _EMBED_MODE):
                if data.find(word) >= 0:
                    _Walk(data, word, path).look("ModelProto", 0, len(data), 0)


class _Walk:
    """Looks at every message of a graph that contains a word, and at none that does not."""

    def __init__(self, data: mmap.mmap, word: bytes, path: Path) -> None:
        self._data, self._word, self._path = data, word, path

    def look(self, message: str, start: int, end: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise self._error("is nested deeper than any graph")
        fields = list(self._fields(start, end))
        if message == "TensorProto":
            self._check_tensor(fields)
        if message == "AttributeProto" and self._word == _EMBED_MODE:
            self._check_attribute(fields)
        for number, _, first, last in fields:
            inner = _MESSAGES[message].get(number)
            if inner and self._data.find(self._word, first, last) >= 0:
                self.look(inner, first, last, depth + 1)

    def _check_tensor(self, fields: list[_Field]) -> None:
        for number, value, _, _ in fields:
            if number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value):
                raise self._error("keeps a tensor in another file (external data)")

    def _check_attribute(self, fields: list[_Field]) -> None:
        named = any(number == _ATTRIBUTE_NAME and self._data[start:end] == _EMBED_MODE for number, _, start, end in fields)
        values = [value for number, value, _, _ in fields if number == _ATTRIBUTE_INT]
        if named and values[-1:] != [1]:  # of a field that is there twice, protobuf takes the last
            raise self._error("keeps an engine in another file (embed_mode 0)")

    def _fields(self, at: int, end: int) -> Iterator[_Field]:
        while at < end:
            tag, at = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            value = 0
            if kind == 0:
                start = at
                value, at = self._varint(at, end)
            elif kind == 2:
                length, start = self._varint(at, end)
                at = start + length
            elif kind in (1, 5):
                start, at = at, at + (8 if kind == 1 else 4)
            else:
                raise self._error("is not a readable graph")
            if at > end:
                raise self._error("is not a readable graph")
            yield number, value, start, at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise self._error("is not a readable graph")

    def _error(self, what: str) -> PackageError:
        return PackageError(
            f"package {self._path.parent}: {self._path.name} {what}; package again with everything in one graph"
        )
