"""Answered requests of one row, packed as they come.

Nearly every request of a tabular model is such a one, and needs no record that waits: its numbers are written into a block of
bytes at once, and only its texts are kept. So the request's own objects are free again while they are still in the processor's
cache, and the columns of many rows can be cut from it in one short and rare pause.
"""

import struct
import threading
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from tidegate.serving.inference_log.arrow_columns import number_dtype
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.request_columns import columns_of_rows
from tidegate.serving.inference_log.value_columns import Hashed, number_column, text_column

_CODES = {
    pa.int8(): "b",
    pa.int16(): "h",
    pa.int32(): "i",
    pa.int64(): "q",
    pa.uint8(): "B",
    pa.uint16(): "H",
    pa.uint32(): "I",
    pa.uint64(): "Q",
    pa.float32(): "f",
    pa.float64(): "d",
}  # no bool: a missing one would be packed as false
_CODES_OF_REQUEST = "qqqh"
_DTYPES_OF_REQUEST = [("event_time", "<i8"), ("logged_at", "<i8"), ("latency_us", "<i8"), ("status", "<i2")]
_HOUR = 3600 * 1_000_000


def can_be_packed(field: pa.Field) -> bool:
    """Return whether a column's values can be packed: single numbers and texts."""
    return field.type in _CODES or pa.types.is_string(field.type)


class PackedColumn:
    """A column of packed rows: where its value is, and what it becomes."""

    def __init__(self, field: pa.Field, source: int | str, hashed: Hashed | None) -> None:
        """Take the value at index `source` of a row, or the output of that name; `hashed` redacts its texts."""
        self.name: str = field.name
        self.type = field.type
        self.source = source
        self.hashed = hashed
        self.is_text = pa.types.is_string(field.type)


class PackedBlock:
    """Rows of one hour of event time.

    Attributes:
        start: When the hour begins, in microseconds since the epoch.
        rows: How many rows there are.
        size: Sum of the records' sizes, in bytes.
        numbers: The numbers of all rows.
        ids: The requests' ids.
        texts: The values of each column of texts.
    """

    __slots__ = ("ids", "numbers", "rows", "size", "start", "texts")

    def __init__(self, start: int, numbers: int, texts: int) -> None:
        """Make room for so many bytes of numbers, and so many columns of texts."""
        self.start = start
        self.rows = self.size = 0
        self.numbers = bytearray(numbers)
        self.ids: list[str] = []
        self.texts: list[list[Any]] = [[] for _ in range(texts)]


class RowPacker:
    """Packs the records of one model; one thread adds, and any may take."""

    def __init__(self, columns: Sequence[PackedColumn], most_rows: int) -> None:
        """Pack rows of these columns, `most_rows` to a block."""
        inputs = [column for column in columns if isinstance(column.source, int)]
        outputs = [column for column in columns if isinstance(column.source, str)]
        outputs.sort(key=lambda column: column.is_text)
        self._numbers = [column for column in (*inputs, *outputs) if not column.is_text]
        self._texts = [column for column in (*inputs, *outputs) if column.is_text]
        self._number_inputs = _picker([column.source for column in inputs if not column.is_text])
        self._text_inputs: list[Any] = [column.source for column in inputs if column.is_text]
        self._outputs = _picker([column.source for column in outputs])
        self._number_outputs = sum(not column.is_text for column in outputs)
        layout = struct.Struct("<" + _CODES_OF_REQUEST + "".join(_CODES[column.type] for column in self._numbers))
        self._pack, self._row_bytes = layout.pack_into, layout.size
        self._dtype = np.dtype(_DTYPES_OF_REQUEST + [(column.name, number_dtype(column.type)) for column in self._numbers])
        self._most_rows = most_rows
        self._lock = threading.Lock()
        self._block = PackedBlock(-_HOUR, 0, 0)
        self._full: list[PackedBlock] = []

    def add(self, record: LogRecord) -> bool:
        """Pack a record; return False, and leave it, if it is of another kind or lacks a value."""
        row = record.row
        if row is None or record.error is not None:
            return False
        try:
            event_time = round(record.event_time.timestamp() * 1e6)
            numbers = self._number_inputs(row)
            answered = [array.item() for array in self._outputs(record.outputs)]
            texts = answered[self._number_outputs :]
            if self._text_inputs:
                texts = [row[index] for index in self._text_inputs] + texts
            with self._lock:
                block = self._block
                if block.rows == self._most_rows or not 0 <= event_time - block.start < _HOUR:
                    block = self._next_block(event_time)
                self._pack(
                    block.numbers,
                    block.rows * self._row_bytes,
                    event_time,
                    record.logged_at // 1000,
                    record.latency_us,
                    record.status,
                    *numbers,
                    *answered[: self._number_outputs],
                )
                block.rows += 1
                block.size += record.size
                block.ids.append(record.request_id)
                for values, text in zip(block.texts, texts):  # noqa: B905 - as many, and a check would cost as much as the loop
                    values.append(text)
        except (struct.error, OverflowError, KeyError, TypeError, ValueError):
            return False
        return True

    def take(self) -> list[PackedBlock]:
        """Return the blocks that hold rows, and begin anew."""
        with self._lock:
            self._full.append(self._block)
            taken, self._full = self._full, []
            self._block = PackedBlock(-_HOUR, 0, 0)
        return [block for block in taken if block.rows]

    def columns(self, block: PackedBlock) -> dict[str, pa.Array]:
        """Return the columns of a block's rows."""
        rows = np.frombuffer(block.numbers, self._dtype, block.rows)
        columns = columns_of_rows(block.ids, rows["event_time"], rows["logged_at"], rows["status"], rows["latency_us"])
        columns |= {column.name: number_column(rows[column.name], column.type) for column in self._numbers}
        texts = zip(self._texts, block.texts, strict=True)
        return columns | {column.name: text_column(values, column.hashed) for column, values in texts}

    def _next_block(self, event_time: int) -> PackedBlock:
        self._full.append(self._block)
        start = event_time // _HOUR * _HOUR
        self._block = PackedBlock(start, self._row_bytes * self._most_rows, len(self._texts))
        return self._block


def _picker(sources: Sequence[Any]) -> Callable[[Any], Sequence[Any]]:
    """Return what takes those items of a row or a mapping, as a sequence however many there are."""
    if len(sources) > 1:
        return itemgetter(*sources)
    return lambda items: [items[source] for source in sources]
