"""One row a prediction: turns what the server remembers of its requests into tables of the inference log's schema.

It takes two steps. `batches` turns some records into Arrow columns as soon as there are enough of them, since those need a
fraction of the memory; `table` joins what goes into one file, and adds the columns that are the same in every row. Serving pays
for the first step, a thread of the log for the second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import compress
from operator import attrgetter

import numpy as np
import pyarrow as pa

from tidegate.packaging.format.manifest import LABEL, Manifest
from tidegate.serving.inference_log.arrow_columns import numbers, repeated
from tidegate.serving.inference_log.packed_rows import PackedColumn, RowPacker, can_be_packed
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.redaction import REDACTED_ERROR, Redaction
from tidegate.serving.inference_log.request_columns import columns_of_records, columns_of_requests
from tidegate.serving.inference_log.schema import file_metadata, input_column, log_schema
from tidegate.serving.inference_log.value_columns import Hashed, Place, RowInputs, ValueColumn, text_column
from tidegate.serving.protocol.tensors import Array

_HOUR = 3600 * 1_000_000
_OF_REQUEST = ("prediction_id", "request_id", "row", "event_time", "logged_at", "status", "error", "latency_us")


@dataclass(frozen=True, slots=True)
class LogBatch:
    """The columns of some records.

    Attributes:
        hour: The hour of event time that all of them are of, UTC.
        columns: Those that differ between rows.
        rows: Number of rows.
        size: Sum of the records' sizes, in bytes.
    """

    hour: datetime
    columns: pa.RecordBatch
    rows: int
    size: int


class LogTableBuilder:
    """Builds the log's columns of one model package as it is served."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        model: str,
        version: str,
        revision: str,
        redaction: Redaction | None = None,
        sample_share: float = 1.0,
    ) -> None:
        """Prepare the columns; `model`, `version`, `revision`, `redaction` and `sample_share` are told in every row."""
        redaction = redaction or Redaction((), manifest)
        self._redacting = redaction.words is not None
        self._schema = log_schema(manifest)
        self._metadata = file_metadata(sample_share, redaction.words)
        self._words = {"model": model, "version": version, "revision": revision, "redacted": redaction.words}
        self._sample_share = sample_share
        inputs = {input_column(spec): spec.name for spec in manifest.signature.inputs}
        places = _places(manifest)

        def shown(column: str) -> bool:
            return column in self._schema.names and not redaction.omits(places[column][1])

        def hashed(column: str) -> Hashed | None:
            return redaction.hashed if redaction.hashes(places[column][1]) else None

        columns = {name: ValueColumn(self._schema.field(name), *places[name], hashed(name)) for name in places if shown(name)}
        self._varying = pa.schema([field for field in self._schema if field.name in columns or field.name in _OF_REQUEST])
        self._inputs = [column for name, column in columns.items() if name in inputs]
        self._others = [column for name, column in columns.items() if name not in inputs]
        fields = [self._schema.field(name) if shown(name) else None for name in inputs]
        self._row_inputs = RowInputs(fields, [hashed(name) for name in inputs])
        sources: dict[str, int | str] = {name: index for index, name in enumerate(inputs)}
        sources |= {name: key for name, (_, key) in places.items() if name.startswith("output_")}
        packable = manifest.features is None and all(can_be_packed(self._schema.field(name)) for name in columns)
        self._packed = (
            [PackedColumn(self._schema.field(name), sources[name], hashed(name)) for name in columns] if packable else None
        )

    def batches(self, records: Sequence[LogRecord]) -> Iterator[LogBatch]:
        """Yield the records' columns; one batch for each hour of event time, or two."""
        in_rows = [record for record in records if record.row is not None]
        for group in (in_rows, records if not in_rows else [record for record in records if record.row is None]):
            if group:
                yield from self._by_hour(group)

    def packer(self, most_rows: int) -> RowPacker | None:
        """Return what packs answered requests of one row; None for a model whose rows hold more than single values."""
        if self._packed is None:
            return None
        return RowPacker(self._packed, most_rows)

    def packed(self, packer: RowPacker) -> Iterator[LogBatch]:
        """Yield what the packer holds, and empty it."""
        for block in packer.take():
            columns = packer.columns(block) | {"error": pa.nulls(block.rows, pa.string())}
            yield self._of_columns(block.start // _HOUR, columns, block.rows, block.size)

    def table(self, batches: Sequence[LogBatch]) -> pa.Table:
        """Return one row a prediction, in the log's schema but for texts that are the same in every row: dictionaries."""
        varying = pa.Table.from_batches([batch.columns for batch in batches])
        count = varying.num_rows
        columns = dict(zip(varying.column_names, varying.columns, strict=True))
        columns |= {name: repeated(text, count) for name, text in self._words.items()}
        columns["cache_hit"] = numbers(np.zeros(count, np.bool_), pa.bool_())
        columns["sample_share"] = numbers(np.full(count, self._sample_share), pa.float64())
        in_order = [columns[each.name] if each.name in columns else pa.nulls(count, each.type) for each in self._schema]
        fields = [each.with_type(column.type) for each, column in zip(self._schema, in_order, strict=True)]
        return pa.Table.from_arrays(in_order, schema=pa.schema(fields, metadata=self._metadata))

    def _by_hour(self, records: Sequence[LogRecord]) -> Iterator[LogBatch]:
        seconds = np.fromiter(map(datetime.timestamp, map(attrgetter("event_time"), records)), np.float64, len(records))
        times = np.rint(seconds * 1e6).astype(np.int64)
        hours = times // _HOUR
        if (hours == hours[0]).all():
            yield self._batch(int(hours[0]), records, times)
            return
        for hour in np.unique(hours):
            belongs = hours == hour
            yield self._batch(int(hour), list(compress(records, belongs.tolist())), times[belongs])

    def _batch(self, hour: int, records: Sequence[LogRecord], event_times: Array) -> LogBatch:
        counts = [record.rows for record in records]
        rows = [record.row for record in records if record.row is not None]
        if rows:
            columns = columns_of_records(records, event_times) | self._row_inputs.of(rows)
        else:
            columns = columns_of_requests(records, counts, event_times)
            inputs = [record.inputs for record in records]
            columns |= {column.name: column.of(inputs, counts) for column in self._inputs}
        for column in self._others:
            columns[column.name] = column.of(list(map(column.place, records)), counts)
        columns["error"] = self._errors(records, counts)
        return self._of_columns(hour, columns, sum(counts), sum([record.size for record in records]))

    def _of_columns(self, hour: int, columns: dict[str, pa.Array], rows: int, size: int) -> LogBatch:
        in_order = [columns[name] for name in self._varying.names]
        batch = pa.RecordBatch.from_arrays(in_order, schema=self._varying)
        return LogBatch(datetime.fromtimestamp(hour * 3600, UTC), batch, rows, size)

    def _errors(self, records: Sequence[LogRecord], counts: Sequence[int]) -> pa.Array:
        errors = [record.error for record in records]
        if not any(errors):
            return pa.nulls(sum(counts), pa.string())
        if self._redacting:
            errors = [REDACTED_ERROR if error else None for error in errors]
        return text_column(np.repeat(np.array(errors, object), counts).tolist())


def _places(manifest: Manifest) -> dict[str, tuple[Place, str]]:
    """Return where in a record each column's values are: a mapping of the record, and the name in it."""
    places: dict[str, tuple[Place, str]] = {}
    if manifest.features:
        places |= {f"key_{key}": (attrgetter("keys"), key) for key in manifest.features.join_keys}
        places |= {f"feature_time_{view.name}": (attrgetter("times"), view.name) for view in manifest.features.views}
    places |= {input_column(spec): (attrgetter("inputs"), spec.name) for spec in manifest.signature.inputs}
    outputs = [*(spec.name for spec in manifest.signature.outputs), LABEL]
    return places | {f"output_{name}": (attrgetter("outputs"), name) for name in outputs}
