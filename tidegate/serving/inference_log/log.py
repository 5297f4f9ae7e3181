"""Writes the inference log: rows queue up in memory, and a thread turns them into Parquet files of an object store.

Serving never waits for the log. When the store fails, rows are kept and tried again until the queue is full; from then on
rows are dropped and counted. `close` writes what is left, so that a server which is asked to stop loses nothing.
"""

import threading
import time
import uuid
from collections import defaultdict, deque
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.errors import in_one_line
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.events import emit
from tidegate.serving.inference_log.schema import log_partition
from tidegate.serving.inference_log.table import LogRecord, LogTableBuilder
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.storage.store import ObjectStore

_ROWS_AT_ONCE = 1000
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LogLimits:
    """When a file is closed, and how many rows may wait."""

    rotate_rows: int = 5000
    rotate_seconds: float = 5.0
    queue_rows: int = 50_000


class InferenceLog:
    """The log of one worker."""

    def __init__(
        self,
        store: ObjectStore,
        manifest: Manifest,
        *,
        model: str,
        version: str,
        revision: str,
        limits: LogLimits,
        metrics: WorkerMetrics,
    ) -> None:
        """Start the writing thread; `model`, `version` and `revision` are put on every row."""
        self._store = store
        self._builder = LogTableBuilder(manifest, model=model, version=version, revision=revision)
        self._model = model
        self._version = version
        self._limits = limits
        self._metrics = metrics
        self._queue: deque[LogRecord] = deque()
        self._added_rows = 0  # written by the serving thread alone
        self._finished_rows = 0  # written by the log's thread alone
        self._open: dict[str, list[pa.Table]] = defaultdict(list)  # by partition
        self._open_rows = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_until_closed, name="inference-log")
        self._thread.start()

    def add(self, record: LogRecord) -> None:
        """Queue a request's rows, or drop and count them if the queue is full."""
        if self._added_rows - self._finished_rows + record.rows > self._limits.queue_rows:
            self._metrics.count_log_dropped(record.rows)
            return
        self._added_rows += record.rows
        self._queue.append(self._builder.without_unlogged(record))

    def close(self) -> None:
        """Write every queued row, trying a failing store once more, and end the thread."""
        self._closing.set()
        self._thread.join()

    def _write_until_closed(self) -> None:
        opened = time.monotonic()
        poll = min(0.05, self._limits.rotate_seconds / 4)
        while not self._closing.is_set():
            if self._open_rows == 0:
                opened = time.monotonic()
            self._take(min(_ROWS_AT_ONCE, self._limits.rotate_rows - self._open_rows))
            is_full = self._open_rows >= self._limits.rotate_rows
            if self._open_rows and (is_full or time.monotonic() - opened >= self._limits.rotate_seconds):
                self._write()
                if self._open_rows:
                    self._closing.wait(_RETRY_SECONDS)
            elif not self._queue:
                self._closing.wait(poll)
            self._metrics.set_queued(self._added_rows - self._finished_rows)
        while self._open_rows or self._queue:
            self._take(self._limits.rotate_rows - self._open_rows)
            self._write()
            self._give_up()
        self._metrics.set_queued(self._added_rows - self._finished_rows)

    def _take(self, wanted_rows: int) -> None:
        """Turn queued records into tables at once: those need a fraction of the memory."""
        records: dict[str, list[LogRecord]] = defaultdict(list)
        taken = 0
        while self._queue and taken < wanted_rows:
            record = self._queue.popleft()
            records[log_partition(self._model, self._version, record.event_time)].append(record)
            taken += record.rows
        for partition, belonging in records.items():
            self._open[partition].append(self._builder.build(belonging))
        self._open_rows += taken

    def _write(self) -> None:
        """Write what is open, one file an hour of event time; what the store does not take stays open."""
        for partition, tables in list(self._open.items()):
            table = pa.concat_tables(tables)
            if self._write_file(partition, table):
                del self._open[partition]
                self._open_rows -= table.num_rows
                self._finished_rows += table.num_rows
                self._metrics.count_log_written(table.num_rows)

    def _give_up(self) -> None:
        if self._open_rows:
            emit("inference log lost rows", level="error", rows=self._open_rows)
            self._metrics.count_log_lost(self._open_rows)
            self._finished_rows += self._open_rows
            self._open_rows = 0
            self._open.clear()

    def _write_file(self, partition: str, table: pa.Table) -> bool:
        key = f"{partition}{time.time_ns() // 1000}-{uuid.uuid4().hex[:12]}.parquet"
        try:
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            self._store.put(key, sink.getvalue().to_pybytes())
        except Exception as error:  # the thread must outlive whatever a store raises
            self._metrics.count_log_failure()
            emit("inference log write failed", level="error", key=key, error=in_one_line(error))
            return False
        return True
