"""What requests with raw tensors have in common, so that it is read once: names, datatypes and shapes.

A protobuf library writes a `ModelInferRequest`'s fields in the order of their numbers:

    1 model_name, 2 model_version, 3 id | 4 parameters, 5 inputs, 6 outputs | 7 raw_input_contents

The part in the middle is the same in all requests of one caller, but for their number of rows; it is remembered as it was
written, with what protobuf said of it. A message is read by its outline only if it consists of exactly these parts.
"""

from collections.abc import Callable
from struct import Struct
from typing import Any

from tidegate.serving.grpc_v2.wire import NotCanonical, read_length
from tidegate.serving.protocol.tensors import Tensor

_MODEL_NAME, _MODEL_VERSION, _ID, _PARAMETERS, _RAW_INPUT = (number << 3 | 2 for number in (1, 2, 3, 4, 7))
_REMEMBERED = 8
_ONE_VALUE = ([1], [1, 1])
_LONGEST_MIDDLE = 64 * 1024
_SINGLE_VALUES = {
    "INT8": Struct("<b"),
    "INT16": Struct("<h"),
    "INT32": Struct("<i"),
    "INT64": Struct("<q"),
    "UINT8": Struct("<B"),
    "UINT16": Struct("<H"),
    "UINT32": Struct("<I"),
    "UINT64": Struct("<Q"),
    "FP16": Struct("<e"),
    "FP32": Struct("<f"),
    "FP64": Struct("<d"),
}

Found = tuple[str, str, str, tuple[str, ...] | None, int, list[Tensor]]
"""Model name, version and id as sent, wanted outputs, timeout in nanoseconds (0 if there is none), tensors."""


class Outlines:
    """The outlines of late: of a few callers, and of a few numbers of rows."""

    def __init__(self) -> None:
        """Start with none."""
        self._outlines: list[_Outline] = []

    def read(self, message: bytes) -> Found | None:
        """Return what a `ModelInferRequest` holds if it has a known outline, else None."""
        try:
            name, version, given, middle = _beginning(message)
            for index, outline in enumerate(self._outlines):
                if message.startswith(outline.middle, middle):
                    tensors = outline.tensors(message, middle + len(outline.middle) - 1)
                    if index:
                        self._outlines.insert(0, self._outlines.pop(index))
                    return name, version, given, outline.outputs, outline.timeout, tensors
        except (NotCanonical, IndexError, UnicodeDecodeError):
            pass
        return None

    def learn(self, message: bytes, tensors: list[Tensor], outputs: tuple[str, ...] | None, timeout: int) -> None:
        """Remember the outline of a message, given what protobuf says is in it."""
        try:
            middle = _beginning(message)[3]
            end = _end_of_middle(message, middle)
        except (NotCanonical, IndexError, UnicodeDecodeError):
            return
        known = any(outline.middle == message[middle : end + 1] for outline in self._outlines)
        if not known and end - middle <= _LONGEST_MIDDLE:
            self._outlines.insert(0, _Outline(message[middle : end + 1], tensors, outputs, timeout))
            del self._outlines[_REMEMBERED:]


def value_reader(datatype: str, shape: list[int]) -> Callable[[bytes], Any]:
    """Return what makes a tensor's data of its raw bytes.

    Of a tensor of one element it makes a list: most requests are one row, which is not worth an array a column. Bytes that are
    not one such element are left as they are, and refused later.
    """
    if shape not in _ONE_VALUE:
        return _as_is
    if datatype == "BYTES":
        return _single_text
    packed = _SINGLE_VALUES.get(datatype)
    return _as_is if packed is None else _single_number(packed)


class _Outline:
    """What is in a middle part, which includes the first byte of the raw contents: so none is the beginning of a longer one."""

    def __init__(self, middle: bytes, tensors: list[Tensor], outputs: tuple[str, ...] | None, timeout: int) -> None:
        self.middle = middle
        self.outputs = outputs
        self.timeout = timeout
        self._tensors = [(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors]
        self._readers = [value_reader(tensor.datatype, tensor.shape) for tensor in tensors]
        self._row = _row_of_numbers(tensors)
        self._row_starts = tuple([bytes((_RAW_INPUT, size)) for size in _sizes(tensors)]) if self._row else ()

    def tensors(self, message: bytes, position: int) -> list[Tensor]:
        """Return the tensors whose raw contents begin at `position`."""
        if self._row is not None and len(message) - position == self._row.size:
            row = self._row.unpack_from(message, position)
            if row[::2] == self._row_starts:
                return [Tensor(*described, [value]) for described, value in zip(self._tensors, row[1::2], strict=True)]
        return self._one_by_one(message, position)

    def _one_by_one(self, message: bytes, position: int) -> list[Tensor]:
        tensors = []
        size = len(message)
        for described, read in zip(self._tensors, self._readers, strict=True):
            if message[position] != _RAW_INPUT:
                raise NotCanonical
            length = message[position + 1]
            position += 2
            if length >= 0x80:
                length, position = read_length(message, position - 1)
            end = position + length
            if end > size:
                raise NotCanonical
            tensors.append(Tensor(*described, read(message[position:end])))
            position = end
        if position != size:
            raise NotCanonical
        return tensors


def _row_of_numbers(tensors: list[Tensor]) -> Struct | None:
    """Return how the raw contents of one row of numbers are written: of each its field's tag and length, and the number."""
    if any(tensor.shape not in _ONE_VALUE or tensor.datatype not in _SINGLE_VALUES for tensor in tensors):
        return None
    return Struct("<" + "".join(f"2s{_SINGLE_VALUES[tensor.datatype].format[1:]}" for tensor in tensors))


def _sizes(tensors: list[Tensor]) -> list[int]:
    return [_SINGLE_VALUES[tensor.datatype].size for tensor in tensors]


def _beginning(message: bytes) -> tuple[str, str, str, int]:
    """Return model name, version and id, and where what follows them begins."""
    name, position = _text(message, 0, _MODEL_NAME)
    version, position = _text(message, position, _MODEL_VERSION)
    given, position = _text(message, position, _ID)
    return name, version, given, position


def _text(message: bytes, position: int, tag: int) -> tuple[str, int]:
    if message[position] != tag:
        return "", position
    length, start = read_length(message, position + 1)
    end = start + length
    if end > len(message):
        raise NotCanonical
    return message[start:end].decode(), end


def _end_of_middle(message: bytes, position: int) -> int:
    """Return where the raw contents begin: after fields of which no number is below one before it, nor unknown."""
    last = _PARAMETERS
    while message[position] != _RAW_INPUT:
        tag = message[position]
        if not last <= tag < _RAW_INPUT or tag & 7 != _PARAMETERS & 7:
            raise NotCanonical
        last = tag
        length, position = read_length(message, position + 1)
        position += length
    return position


def _as_is(data: bytes) -> bytes:
    return data


def _single_number(packed: Struct) -> Callable[[bytes], Any]:
    size, unpack = packed.size, packed.unpack

    def read(data: bytes) -> Any:
        return list(unpack(data)) if len(data) == size else data

    return read


def _single_text(data: bytes) -> Any:
    if len(data) < 4 or int.from_bytes(data[:4], "little") != len(data) - 4:
        return data
    try:
        return [data[4:].decode()]
    except UnicodeDecodeError:
        return data
