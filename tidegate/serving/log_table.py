"""One row a prediction: turns what the server remembers of its requests into tables of the inference log's schema."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from tidegate.packaging.manifest import Manifest
from tidegate.serving.log_schema import FIXED_COLUMNS, TIMESTAMP, input_column, log_schema
from tidegate.serving.tensors import Array

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


class LogTableBuilder:
    """Turns records into a table of the log's schema."""

    def __init__(self, manifest: Manifest, *, model: str, version: str, revision: str) -> None:
        """Build tables for one model package as `model`, `version` and `revision` serve it."""
        self._schema = log_schema(manifest)
        self._constants = {"model": model, "version": version, "revision": revision}
        self._inputs = {input_column(spec): spec.name for spec in manifest.signature.inputs}

    def build(self, records: Sequence[LogRecord]) -> pa.Table:
        """Return one row a prediction."""
        counts = [record.rows for record in records]
        total = sum(counts)
        columns = [pa.array(values, type=type_) for values, type_ in self._fixed(records, counts, total)]
        for column in list(self._schema)[len(FIXED_COLUMNS) :]:
            pieces = [self._piece(record, column.name) for record in records]
            columns.append(_column(pieces, counts, column.type))
        return pa.table(columns, schema=self._schema)

    def _fixed(self, records: Sequence[LogRecord], counts: list[int], total: int) -> list[tuple[Any, pa.DataType]]:
        ids = [record.request_id for record in records for _ in range(record.rows)]
        row_numbers = [row for count in counts for row in range(count)]
        values: dict[str, Any] = {
            "prediction_id": [f"{request_id}/{row}" for request_id, row in zip(ids, row_numbers, strict=True)],
            "request_id": ids,
            "row": row_numbers,
            **{name: [value] * total for name, value in self._constants.items()},
            "event_time": np.repeat([(record.event_time - _EPOCH) // _MICROSECOND for record in records], counts),
            "logged_at": np.repeat([record.logged_at // 1000 for record in records], counts),
            "status": np.repeat([record.status for record in records], counts),
            "error": [record.error for record in records for _ in range(record.rows)],
            "cache_hit": np.zeros(total, np.bool_),
            "latency_us": np.repeat([record.latency_us for record in records], counts),
        }
        return [(values[column.name], column.type) for column in FIXED_COLUMNS]

    def _piece(self, record: LogRecord, column: str) -> Array | None:
        kind, _, rest = column.partition("_")
        if column in self._inputs:
            return record.inputs.get(self._inputs[column])
        if kind == "key":
            return record.keys.get(rest)
        if kind == "output":
            return record.outputs.get(rest)
        return record.times.get(rest.removeprefix("time_"))


def _column(pieces: Sequence[Array | None], counts: Sequence[int], type_: pa.DataType) -> pa.Array:
    if pa.types.is_list(type_):
        rows = [
            row
            for piece, count in zip(pieces, counts, strict=True)
            for row in ([None] * count if piece is None else piece.reshape(count, -1).tolist())
        ]
        return pa.array(rows, type=type_)
    if pa.types.is_string(type_):
        texts: list[str | None] = []
        for piece, count in zip(pieces, counts, strict=True):
            row_values = [None] * count if piece is None else piece.ravel().tolist()
            texts += [value if value is None or isinstance(value, str) else str(value) for value in row_values]
        return pa.array(texts, type=type_)
    given = [piece for piece in pieces if piece is not None]
    if not given:
        return pa.nulls(sum(counts), type_)
    empty = given[0].dtype.type(0, "us") if given[0].dtype.kind == "M" else given[0].dtype.type(0)
    values: Array = np.concatenate(
        [np.full(count, empty) if piece is None else piece.ravel() for piece, count in zip(pieces, counts, strict=True)]
    )
    mask = np.repeat([piece is None for piece in pieces], counts)
    if values.dtype.kind == "f":
        mask |= np.isnan(values)
    elif values.dtype.kind == "M":
        mask |= np.isnat(values)
        return pa.array(values.astype("datetime64[us]").view(np.int64), mask=mask).cast(TIMESTAMP)
    return pa.array(values.astype(type_.to_pandas_dtype(), copy=False), type=type_, mask=mask)
