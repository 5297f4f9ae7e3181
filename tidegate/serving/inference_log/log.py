"""The inference log that serving never waits for.

Records become columns in the thread that adds them, some at a time, for microseconds and without waiting for a lock. A thread
of the log turns those into Parquet files of an object store, nearly all of it without the interpreter's lock. When the store
fails or hangs, rows are kept and tried again until as many wait as may; from then on rows are dropped and counted. `close`
writes what is left, so that a server which is asked to stop loses nothing.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime

from tidegate.errors import in_one_line
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.events import emit
from tidegate.serving.inference_log.footprint import Footprint
from tidegate.serving.inference_log.limits import LogLimits
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.redaction import Redaction
from tidegate.serving.inference_log.sampling import is_sampled
from tidegate.serving.inference_log.table import LogBatch, LogTableBuilder
from tidegate.serving.inference_log.writer import LogFile, LogWriter
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.storage.store import ObjectStore

_SLICE_RECORDS = 128
_BLOCK_ROWS = 512
_SLICE_BYTES = 256 * 1024
_RETRY_SECONDS = 1.0


class InferenceLog:
    """The log of one worker and one served version; records are added by one thread.

    Attributes:
        audits: Whether a request may be answered only once its record is kept: not with this log.
    """

    audits = False

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
        sample_share: float = 1.0,
        redaction: Redaction | None = None,
    ) -> None:
        """Start the writing thread.

        Args:
            store: Where files are written.
            manifest: Of the package whose requests are logged.
            model: The model's name; it, `version` and `revision` are told in every row.
            version: The version that is served.
            revision: The InferenceService revision it belongs to.
            limits: When files are closed, and how much may wait.
            metrics: Counts what is written, dropped and left out.
            sample_share: Share of the requests to log, in (0, 1].
            redaction: Columns to leave empty or to hash.
        """
        self._builder = LogTableBuilder(
            manifest, model=model, version=version, revision=revision, redaction=redaction, sample_share=sample_share
        )
        self._writer = LogWriter(store, self._builder, model=model, version=version, metrics=metrics)
        self._footprint = Footprint(manifest)
        self._limits = limits
        self._metrics = metrics
        self._sample_share = sample_share
        self._most_rows = limits.queue_rows
        self._slice_records = min(_SLICE_RECORDS, limits.rotate_rows)
        self._slice_most = min(_SLICE_BYTES, limits.rotate_rows * self._footprint.row_bytes)
        self._slice_bytes = 0
        self._records: deque[LogRecord] = deque()
        self._packer = self._builder.packer(_BLOCK_ROWS)
        self._batches: deque[LogBatch] = deque()
        self._hours: dict[datetime, list[LogBatch]] = defaultdict(list)
        self._file: LogFile | None = None
        # What waits is the difference of two counts, each changed by one thread alone, so that adding takes no lock.
        self._added_rows = self._added_bytes = 0
        self._gathered_rows = self._gathered_bytes = 0
        self._finished_rows = self._finished_bytes = 0
        self._finishing = threading.Lock()  # for slices that both threads may fail to make columns of
        self._is_abandoned = False
        self._closing = threading.Event()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._write_until_closed, name="inference-log", daemon=True)
        self._thread.start()

    def add(self, record: LogRecord) -> None:
        """Log a request, or drop and count its rows if too much waits already; never waits, never raises."""
        if self._sample_share < 1 and not is_sampled(record.request_id, self._sample_share):
            self._metrics.count_log_sampled_out(record.rows)
            return
        record = self._footprint.fitted(record)
        added_rows, added_bytes = self._added_rows + record.rows, self._added_bytes + record.size
        if added_rows - self._finished_rows > self._most_rows or added_bytes - self._finished_bytes > self._limits.queue_bytes:
            self._metrics.count_log_dropped(record.rows)
            return
        self._added_rows, self._added_bytes = added_rows, added_bytes
        self._slice_bytes += record.size
        if self._packer is None or not self._packer.add(record):
            self._records.append(record)
        if len(self._records) >= self._slice_records or self._slice_bytes >= self._slice_most:
            self._slice_bytes = 0
            self._make_batches()
            self._call_if_due()

    def keep(self, record: LogRecord, done: Callable[[Exception | None], None]) -> None:
        """Add a record and call `done` at once: nothing waits for this log."""
        self.add(record)
        done(None)

    def close(self) -> None:
        """Write all that was added, trying a failing store once more; a hanging one is left after `close_seconds`."""
        self._most_rows = 0  # what comes now is dropped, and counted
        self._closing.set()
        self._due.set()
        self._thread.join(self._limits.close_seconds)
        if self._thread.is_alive():
            waiting = self._added_rows - self._finished_rows, self._added_bytes - self._finished_bytes
            self._lose(*waiting, f"the store did not answer within {self._limits.close_seconds:g} s")
            self._is_abandoned = True

    def _call_if_due(self) -> None:
        rows, size = self._added_rows - self._gathered_rows, self._added_bytes - self._gathered_bytes
        if rows >= self._limits.rotate_rows or size >= self._limits.rotate_bytes:
            self._due.set()

    def _make_batches(self) -> bool:
        """Turn a slice of the records into columns; return whether there were any.

        Both threads do so: the one that adds whenever there are enough, the log's with what is left when a file is due.
        """
        records = list(self._slice())
        try:
            if self._packer is not None:
                self._batches.extend(self._builder.packed(self._packer))
            self._batches.extend(self._builder.batches(records))
        except Exception as error:  # whatever a record holds, the request must not fail for its log
            self._lose(
                sum(record.rows for record in records),
                sum(record.size for record in records),
                f"no columns: {in_one_line(error)}",
            )
        return bool(records)

    def _slice(self) -> Iterator[LogRecord]:
        with suppress(IndexError):  # the other thread may take the last
            for _ in range(_SLICE_RECORDS):
                yield self._records.popleft()

    def _write_until_closed(self) -> None:
        while not self._closing.is_set():
            self._due.wait(self._limits.rotate_seconds)
            self._due.clear()
            while not self._write() and not self._closing.wait(_RETRY_SECONDS):
                pass
        while not self._write():
            self._give_up_file()

    def _write(self) -> bool:
        """Write all that waits, one file for each hour of event time; return whether the store took it."""
        self._gather()
        while (self._file is not None or self._hours) and not self._is_abandoned:
            if self._file is None:
                self._file = self._next_file()
            elif self._writer.put(self._file) is None:
                self._finish(self._file.rows, self._file.size)
                self._file = None
            else:
                return False
        return True

    def _gather(self) -> None:
        while self._make_batches():
            pass
        while self._batches:
            batch = self._batches.popleft()
            self._hours[batch.hour].append(batch)
            self._gathered_rows += batch.rows
            self._gathered_bytes += batch.size
        self._metrics.set_queued(self._added_rows - self._finished_rows)

    def _next_file(self) -> LogFile | None:
        _, batches = self._hours.popitem()
        try:
            return self._writer.file(batches)
        except Exception as error:  # the thread must outlive whatever goes wrong, such as a lack of memory
            rows, size = sum(batch.rows for batch in batches), sum(batch.size for batch in batches)
            self._lose(rows, size, f"no file: {in_one_line(error)}")
            return None

    def _give_up_file(self) -> None:
        if self._file is not None:
            self._lose(self._file.rows, self._file.size, "the store failed to the end")
            self._file = None

    def _lose(self, rows: int, size: int, reason: str) -> None:
        emit("inference log lost rows", level="error", rows=rows, reason=reason)
        self._metrics.count_log_lost(rows)
        self._finish(rows, size)

    def _finish(self, rows: int, size: int) -> None:
        with self._finishing:
            if not self._is_abandoned:  # whose rows are finished already
                self._finished_rows += rows
                self._finished_bytes += size
        self._metrics.set_queued(self._added_rows - self._finished_rows)
