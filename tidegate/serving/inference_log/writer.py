"""Parquet files of the inference log, and their way into the object store."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.errors import in_one_line
from tidegate.serving.events import emit
from tidegate.serving.inference_log.schema import log_partition
from tidegate.serving.inference_log.table import LogBatch, LogTableBuilder
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.storage.store import ObjectStore

_TIMES = ("event_time", "logged_at", "latency_us")
_IDS = ("prediction_id", "request_id")


@dataclass(frozen=True, slots=True)
class LogFile:
    """A finished Parquet file; put again under its key if the store failed to say that it has it.

    Attributes:
        key: Where in the object store.
        data: The file.
        rows: Number of rows.
        size: Sum of the records' sizes, in bytes.
    """

    key: str
    data: bytes
    rows: int
    size: int


class LogWriter:
    """Makes and stores the files of one served version."""

    def __init__(
        self, store: ObjectStore, builder: LogTableBuilder, *, model: str, version: str, metrics: WorkerMetrics
    ) -> None:
        """Write what `builder` makes to `store`, and count it."""
        self._store = store
        self._builder = builder
        self._model = model
        self._version = version
        self._metrics = metrics

    def file(self, batches: Sequence[LogBatch]) -> LogFile:
        """Return a file of `batches`, all of one hour."""
        partition = log_partition(self._model, self._version, batches[0].hour)
        key = f"{partition}{time.time_ns() // 1000}-{uuid.uuid4().hex[:12]}.parquet"
        data = parquet_bytes(self._builder.table(batches))
        return LogFile(key, data, sum(batch.rows for batch in batches), sum(batch.size for batch in batches))

    def put(self, file: LogFile) -> str | None:
        """Store a file; return None, or in one line why the store did not take it."""
        try:
            self._store.put(file.key, file.data)
        except Exception as error:  # the log's thread must outlive whatever a store raises
            self._metrics.count_log_failure()
            emit("inference log write failed", level="error", key=file.key, error=in_one_line(error))
            return in_one_line(error)
        self._metrics.count_log_written(file.rows)
        return None


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table of the log as Parquet.

    Encoded so that serving pays little: texts as dictionaries, times as differences, numbers as they are; statistics only of
    event time, by which readers skip row groups; and snappy, since zstd takes 20 µs a column before its first byte. That is a
    third of the time of PyArrow's defaults, for a smaller file. Compaction writes zstd.
    """
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="snappy",
        use_dictionary=[each.name for each in table.schema if _repeats(each)],
        column_encoding=dict.fromkeys(_TIMES, "DELTA_BINARY_PACKED"),
        write_statistics=["event_time"],
        store_schema=False,  # in which readers would find dictionaries
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(table.schema.metadata)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _repeats(field: pa.Field) -> bool:
    is_text = pa.types.is_string(field.type) or pa.types.is_dictionary(field.type)
    return (is_text and field.name not in _IDS) or field.name in ("row", "status", "sample_share")
