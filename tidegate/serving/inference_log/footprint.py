"""What of a record waits to be written, and how much memory that takes."""

from collections.abc import Mapping

import msgspec

from tidegate.packaging.format.manifest import Manifest, TensorSpec
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.schema import MOST_VALUES, is_logged
from tidegate.serving.protocol.tensors import Array

_REQUEST_BYTES = 160  # of one row: ids, times, status
_VALUE_BYTES = 8


class Footprint:
    """Measures records of one model package.

    Attributes:
        row_bytes: About how many bytes a row takes, but for its texts.
    """

    def __init__(self, manifest: Manifest) -> None:
        """Prepare for a signature."""
        inputs, outputs = manifest.signature.inputs, manifest.signature.outputs
        logged = [spec for spec in (*inputs, *outputs) if is_logged(spec)]
        self.row_bytes = _REQUEST_BYTES + _VALUE_BYTES * sum(_values_in_row(spec) for spec in logged)
        self._texts = tuple(spec.name for spec in inputs if spec.datatype == "BYTES")
        self._text_indexes = tuple(index for index, spec in enumerate(inputs) if spec.datatype == "BYTES")
        self._unlogged = frozenset(spec.name for spec in (*inputs, *outputs) if not is_logged(spec))
        self._may_be_large = any(not is_logged(spec) or -1 in spec.shape[1:] for spec in (*inputs, *outputs))

    def fitted(self, record: LogRecord) -> LogRecord:
        """Return the record with its size, and without the tensors that get no column or are too long for theirs."""
        if self._may_be_large:
            most = MOST_VALUES * record.rows
            inputs, outputs = self._logged(record.inputs, most), self._logged(record.outputs, most)
            record = msgspec.structs.replace(record, inputs=inputs, outputs=outputs)
        row = record.row
        if row is None:
            record.size = self._size_of_columns(record)
            return record
        size = self.row_bytes
        for index in self._text_indexes:
            if row[index]:
                size += len(row[index])
        record.size = size
        return record

    def _size_of_columns(self, record: LogRecord) -> int:
        size = self.row_bytes * record.rows
        for name in self._texts:
            column = record.inputs.get(name)
            if column is not None:
                size += _text_bytes(column.ravel().tolist())
        return size

    def _logged(self, tensors: Mapping[str, Array], most: int) -> dict[str, Array]:
        """Copies: a tensor may be a view of a request's body, which would be kept with it."""
        return {name: array.copy() for name, array in tensors.items() if name not in self._unlogged and array.size <= most}


def _text_bytes(texts: list[str | None]) -> int:
    try:
        return len("".join(texts))  # type: ignore[arg-type]
    except TypeError:
        return sum(map(len, filter(None, texts)))


def _values_in_row(spec: TensorSpec) -> int:
    """Return how many values a row held in the sample at most."""
    count = 1
    for axis, size in enumerate(spec.shape[1:]):
        count *= spec.sizes[axis][1] if size == -1 and spec.sizes else abs(size)
    return count
