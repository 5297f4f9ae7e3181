"""One row a prediction: turns what the server remembers of its requests into tables of the inference log's schema."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import numpy as np
import pyarrow as pa

from tidegate.packaging.format.manifest import LABEL, Manifest
from tidegate.serving.inference_log.arrow_columns import lists, numbers, texts
from tidegate.serving.inference_log.schema import FIXED_COLUMNS, MOST_VALUES, TIMESTAMP, input_column, is_logged, log_schema
from tidegate.serving.protocol.tensors import Array

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class LogRecord:
    """One request as it is logged: one row a prediction.

    Attributes:
        request_id: The request's id.
        rows: Number of rows.
        event_time: When the prediction was asked for, in event time.
        logged_at: Wall-clock nanoseconds since the epoch.
        status: HTTP status answered.
        latency_us: Microseconds from the request's arrival to its answer.
        keys: Entity keys by name, shape [rows].
        inputs: Model inputs by name, features included as far as they were found.
        times: Times of the feature rows used, by view.
        outputs: Outputs by name; empty for a failed request.
        error: Why the request failed.
    """

    request_id: str
    rows: int
    event_time: datetime
    logged_at: int
    status: int
    latency_us: int
    keys: dict[str, Array]
    inputs: dict[str, Array]
    times: Mapping[str, Array] = field(default_factory=dict)
    outputs: dict[str, Array] = field(default_factory=dict)
    error: str | None = None


_Place = Callable[[LogRecord], Mapping[str, Array]]


class LogTableBuilder:
    """Turns records into a table of the log's schema."""

    def __init__(self, manifest: Manifest, *, model: str, version: str, revision: str) -> None:
        """Build tables for one model package as `model`, `version` and `revision` serve it."""
        self._schema = log_schema(manifest)
        self._constants = {"model": model, "version": version, "revision": revision}
        self._places = _places(manifest)
        specs = (*manifest.signature.inputs, *manifest.signature.outputs)
        self._unlogged = frozenset(spec.name for spec in specs if not is_logged(spec))
        self._has_large = any(not is_logged(spec) or -1 in spec.shape[1:] for spec in specs)

    def without_unlogged(self, record: LogRecord) -> LogRecord:
        """Return a record that does not keep the tensors alive which get no column, or are too long for theirs."""
        if not self._has_large:
            return record
        most = MOST_VALUES * record.rows
        return replace(record, inputs=self._logged(record.inputs, most), outputs=self._logged(record.outputs, most))

    def _logged(self, tensors: Mapping[str, Array], most: int) -> dict[str, Array]:
        """Copies: a tensor may be a view of a request's body, which would be kept with it."""
        return {name: array.copy() for name, array in tensors.items() if name not in self._unlogged and array.size <= most}

    def build(self, records: Sequence[LogRecord]) -> pa.Table:
        """Return one row a prediction."""
        counts = [record.rows for record in records]
        fixed = self._fixed(records, counts)
        columns = [fixed[column.name] for column in FIXED_COLUMNS]
        for column in list(self._schema)[len(FIXED_COLUMNS) :]:
            place, name = self._places[column.name]
            pieces = [place(record).get(name) for record in records]
            make = _list_column if pa.types.is_list(column.type) else _column
            columns.append(make(pieces, counts, column.type))
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _fixed(self, records: Sequence[LogRecord], counts: list[int]) -> dict[str, pa.Array]:
        ids = [record.request_id for record in records for _ in range(record.rows)]
        rows = [row for count in counts for row in range(count)]

        def repeated(values: list[int], type_: pa.DataType) -> pa.Array:
            return numbers(np.repeat(np.array(values, np.int64), counts), type_)

        return {
            "prediction_id": texts([f"{request_id}/{row}" for request_id, row in zip(ids, rows, strict=True)]),
            "request_id": texts(ids),
            "row": numbers(np.array(rows, np.int32), pa.int32()),
            **{name: texts([value] * len(rows)) for name, value in self._constants.items()},
            "event_time": repeated([(record.event_time - _EPOCH) // _MICROSECOND for record in records], TIMESTAMP),
            "logged_at": repeated([record.logged_at // 1000 for record in records], TIMESTAMP),
            "status": repeated([record.status for record in records], pa.int16()),
            "error": texts([record.error for record in records for _ in range(record.rows)]),
            "cache_hit": numbers(np.zeros(len(rows), np.bool_), pa.bool_()),
            "latency_us": repeated([record.latency_us for record in records], pa.int64()),
        }


def _places(manifest: Manifest) -> dict[str, tuple[_Place, str]]:
    """Return where in a record each column's values are: a mapping of the record, and the name in it."""
    places: dict[str, tuple[_Place, str]] = {}
    if manifest.features:
        places |= {f"key_{key}": (attrgetter("keys"), key) for key in manifest.features.join_keys}
        places |= {f"feature_time_{view.name}": (attrgetter("times"), view.name) for view in manifest.features.views}
    places |= {input_column(spec): (attrgetter("inputs"), spec.name) for spec in manifest.signature.inputs}
    outputs = [*(spec.name for spec in manifest.signature.outputs), LABEL]
    return places | {f"output_{name}": (attrgetter("outputs"), name) for name in outputs}


def _column(pieces: Sequence[Array | None], counts: Sequence[int], type_: pa.DataType) -> pa.Array:
    """Return the column of single values that `pieces` make up, one piece a record; a record without a piece has nulls."""
    present = np.repeat([piece is not None for piece in pieces], counts)
    example = next((piece for piece in pieces if piece is not None), None)
    if example is None:
        return pa.nulls(len(present), type_)
    empty = np.array([None], object) if example.dtype == object else np.zeros(1, example.dtype)
    values: Array = np.concatenate(
        [
            np.broadcast_to(empty, count) if piece is None else piece.reshape(count)
            for piece, count in zip(pieces, counts, strict=True)
        ]
    )
    return _values(values, present, type_)


def _list_column(pieces: Sequence[Array | None], counts: Sequence[int], type_: pa.DataType) -> pa.Array:
    """Return the column of tensors that `pieces` make up, as `_column` does."""
    present = np.repeat([piece is not None for piece in pieces], counts)
    values = [piece.ravel() for piece in pieces if piece is not None]
    if not values:
        return pa.nulls(len(present), type_)
    lengths = [0 if piece is None else piece.size // count for piece, count in zip(pieces, counts, strict=True)]
    flat: Array = np.concatenate(values)
    column = _values(flat, np.ones(len(flat), np.bool_), type_.value_type)
    return lists(column, np.repeat(lengths, counts).tolist(), present)


def _values(values: Array, present: Array, type_: pa.DataType) -> pa.Array:
    if pa.types.is_string(type_):
        return texts([value if value is None or isinstance(value, str) else str(value) for value in values.tolist()])
    if values.dtype.kind == "f":
        present = present & ~np.isnan(values)
    elif values.dtype.kind == "M":
        present = present & ~np.isnat(values)
    return numbers(values, type_, present)
