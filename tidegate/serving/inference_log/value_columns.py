"""The inference log's columns of values: keys, inputs, feature times and outputs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from tidegate.serving.inference_log.arrow_columns import lists, number_dtype, numbers, rows_of, texts
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.protocol.tensors import Array

Hashed = Callable[[Sequence[str | None]], list[str | None]]
Place = Callable[[LogRecord], Mapping[str, Any]]


class ValueColumn:
    """One column of what records hold under one name, one row a prediction.

    Attributes:
        name: Of the column.
        place: Which of a record's mappings holds the values.
    """

    def __init__(self, field: pa.Field, place: Place, key: str, hashed: Hashed | None) -> None:
        """Make the column `field` of what `place` holds under `key`; `hashed` redacts its texts."""
        self.name: str = field.name
        self.place = place
        self._type = field.type
        self._key = key
        self._pick = itemgetter(key)
        self._hashed = hashed
        self._is_list = pa.types.is_list(field.type)
        self._is_text = pa.types.is_string(field.type)

    def of(self, mappings: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> pa.Array:
        """Return the rows of all records, whose mappings these are; null for those that hold nothing of the name."""
        try:
            pieces: list[Any] = list(map(self._pick, mappings))
            present = None
        except KeyError:
            pieces = [mapping.get(self._key) for mapping in mappings]
            held = [piece is not None for piece in pieces]
            if True not in held:
                return pa.nulls(sum(counts), self._type)
            pieces = [_missing(pieces, count) if piece is None else piece for piece, count in zip(pieces, counts, strict=True)]
            present = np.repeat(held, counts)
        if self._is_list:
            return self._lists(pieces, counts, present)
        if self._is_text:
            return text_column(_flat_texts(pieces), self._hashed)
        return number_column(np.concatenate(pieces, axis=None), self._type, present)

    def _lists(self, pieces: Sequence[Array], counts: Sequence[int], present: Array | None) -> pa.Array:
        flat: Array = np.concatenate(pieces, axis=None)
        of_one = self._type.value_type
        values = text_column(flat.tolist(), self._hashed) if pa.types.is_string(of_one) else number_column(flat, of_one)
        lengths = np.repeat([piece.size // count for piece, count in zip(pieces, counts, strict=True)], counts)
        return lists(values, lengths, present)


class RowInputs:
    """The input columns of requests of one row, whose inputs are Python values in the signature's order."""

    def __init__(self, fields: Sequence[pa.Field | None], hashed: Sequence[Hashed | None]) -> None:
        """Make the column `fields[i]` of the i-th value of every row, unless it is None; `hashed[i]` redacts its texts."""
        self._texts = []
        blocks: dict[pa.DataType, list[tuple[str, int]]] = {}
        for index, (field, hash_) in enumerate(zip(fields, hashed, strict=True)):
            if field is None or pa.types.is_list(field.type):
                continue
            if pa.types.is_string(field.type):
                self._texts.append((field.name, itemgetter(index), hash_))
            else:
                blocks.setdefault(field.type, []).append((field.name, index))
        self._blocks = [_Block(type_, columns) for type_, columns in blocks.items()]

    def of(self, rows: Sequence[Sequence[Any]]) -> dict[str, pa.Array]:
        """Return the columns."""
        columns: dict[str, pa.Array] = {}
        for block in self._blocks:
            columns |= block.of(rows)
        for name, pick, hashed in self._texts:
            columns[name] = text_column(list(map(pick, rows)), hashed)
        return columns


class _Block:
    """Columns of one type of number: they are read from the rows in one pass."""

    def __init__(self, type_: pa.DataType, columns: Sequence[tuple[str, int]]) -> None:
        self._type = type_
        self._dtype = number_dtype(type_)
        self._columns = columns
        self._names = [name for name, _ in columns]
        indexes = [index for _, index in columns]
        self._pick = itemgetter(*indexes) if len(indexes) > 1 else itemgetter(slice(indexes[0], indexes[0] + 1))

    def of(self, rows: Sequence[Sequence[Any]]) -> dict[str, pa.Array]:
        matrix = self._matrix(rows)
        if matrix is None:
            return {name: self._with_missing([row[index] for row in rows]) for name, index in self._columns}
        if matrix.dtype.kind == "f" and np.isnan(matrix).any():
            columns = [number_column(values, self._type) for values in matrix]
        else:
            columns = rows_of(matrix, self._type)
        return dict(zip(self._names, columns, strict=True))

    def _matrix(self, rows: Sequence[Sequence[Any]]) -> Array | None:
        """Return the values, one row a column; or None if one is missing where there is no NaN for it."""
        values: Iterable[Any] = chain.from_iterable(map(self._pick, rows))
        if self._dtype.kind == "b":
            values = list(values)
            if None in values:
                return None
        try:
            flat = np.fromiter(values, self._dtype, len(rows) * len(self._names))
        except (TypeError, ValueError, OverflowError):
            return None
        return np.ascontiguousarray(flat.reshape(len(rows), -1).T)

    def _with_missing(self, values: Sequence[Any]) -> pa.Array:
        present = np.fromiter((value is not None and value == value for value in values), np.bool_, len(values))
        held = [value if is_there else 0 for value, is_there in zip(values, present.tolist(), strict=True)]
        return numbers(np.array(held, self._dtype), self._type, present)


def text_column(values: Sequence[Any], hashed: Hashed | None = None) -> pa.Array:
    """Return a column of texts, hashed if need be; what is none becomes one, but for None, which is null."""
    if not set(map(type, values)) <= {str, type(None)}:
        values = [value if value is None or isinstance(value, str) else str(value) for value in values]
    return texts(values if hashed is None else hashed(values))


def number_column(values: Array, type_: pa.DataType, present: Array | None = None) -> pa.Array:
    """Return a column of numbers or times, null where a value is not `present`, a NaN or a NaT."""
    absent = np.isnan(values) if values.dtype.kind == "f" else np.isnat(values) if values.dtype.kind == "M" else None
    if absent is not None and absent.any():
        present = ~absent if present is None else present & ~absent
    return numbers(values, type_, present)


def _missing(pieces: Sequence[Any], count: int) -> Any:
    """Return a stand-in of `count` rows for a piece that is not there, of the same kind as those that are."""
    example = next(piece for piece in pieces if piece is not None)
    is_number = isinstance(example, np.ndarray) and example.dtype != object
    nothing = np.zeros(1, example.dtype) if is_number else np.array([None], object)
    return np.broadcast_to(nothing, count)


def _flat_texts(pieces: Sequence[Any]) -> list[Any]:
    """Return the values of all pieces, which are arrays, or sequences as keys are."""
    if any(not isinstance(piece, np.ndarray) for piece in pieces):
        return list(chain.from_iterable(piece.ravel() if isinstance(piece, np.ndarray) else piece for piece in pieces))
    values: list[Any] = np.concatenate(pieces, axis=None).tolist()
    return values
