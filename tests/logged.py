"""The inference log as a reader finds it."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.table import LogTableBuilder
from tidegate.serving.inference_log.writer import parquet_bytes


def as_written(builder: LogTableBuilder, records: Sequence[LogRecord]) -> pa.Table:
    """Return what a reader finds in a log file of these records."""
    table = pq.ParquetFile(io.BytesIO(parquet_bytes(builder.table(list(builder.batches(records)))))).read()
    table.validate(full=True)
    return table
