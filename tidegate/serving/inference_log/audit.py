"""The inference log for those who must not lose a record: a request is answered only once its record is durable.

Durable means that the object store has said so: of S3 that the object is stored, of a directory that the file and its name are
on the disk (fsync). Records that come within a few milliseconds are written as one file, and the requests that wait for them
are then told together ("group commit": DeWitt and others, Implementation Techniques for Main Memory Database Systems, SIGMOD
1984). When the store fails, they are told why, nothing is answered, and their records are not tried again: a record may exist
of a request that was refused, never the other way round.
"""

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from tidegate.errors import ServingError, in_one_line
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.events import emit
from tidegate.serving.inference_log.footprint import Footprint
from tidegate.serving.inference_log.limits import LogLimits
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.redaction import Redaction
from tidegate.serving.inference_log.table import LogBatch, LogTableBuilder
from tidegate.serving.inference_log.writer import LogWriter
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.storage.store import ObjectStore

_GROUP_SECONDS = 0.003  # so that a store gets at most some 300 files a second, and a file costs less than its rows

Done = Callable[[Exception | None], None]


@dataclass(slots=True)
class _Waiting:
    """A request that waits for its record; `done` is None once it was told."""

    record: LogRecord
    done: Done | None
    deadline: float


class AuditLog:
    """The audit log of one worker and one served version; records are kept by the thread of one event loop.

    Attributes:
        audits: Whether a request may be answered only once its record is kept: yes.
    """

    audits = True

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
        redaction: Redaction | None = None,
    ) -> None:
        """Start the writing thread; the arguments are those of `InferenceLog`."""
        self._builder = LogTableBuilder(manifest, model=model, version=version, revision=revision, redaction=redaction)
        self._writer = LogWriter(store, self._builder, model=model, version=version, metrics=metrics)
        self._footprint = Footprint(manifest)
        self._limits = limits
        self._metrics = metrics
        self._queue: deque[_Waiting] = deque()  # for the log's thread
        self._unanswered: deque[_Waiting] = deque()  # oldest first; the loop's own
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rows = self._bytes = 0  # waiting; changed by the loop alone
        self._writing_since: float | None = None
        self._closing = threading.Event()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._write_until_closed, name="audit-log", daemon=True)
        self._thread.start()

    def add(self, record: LogRecord) -> None:
        """Keep a record that no answer waits for, that of a failed request; if it cannot be kept, its rows are counted."""
        self.keep(record, partial(self._count_dropped, record.rows))

    def keep(self, record: LogRecord, done: Done) -> None:
        """Keep a record, and call `done` on this event loop: with None once it is durable, or with why it is not.

        At once if too much waits, or the store has been silent for too long; after `keep_seconds` at the latest.
        """
        record = self._footprint.fitted(record)
        refusal = self._refusal(record)
        if refusal is not None:
            done(refusal)
            return
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        waiting = _Waiting(record, done, self._loop.time() + self._limits.keep_seconds)
        self._rows += record.rows
        self._bytes += record.size
        self._unanswered.append(waiting)
        if self._timer is None:
            self._timer = self._loop.call_at(waiting.deadline, self._expire)
        self._queue.append(waiting)
        self._due.set()

    def close(self) -> None:
        """Keep what waits, and end the thread; a hanging store is left after `close_seconds`, its rows counted as lost."""
        self._closing.set()
        self._due.set()
        self._thread.join(self._limits.close_seconds)
        if self._thread.is_alive():
            reason = f"the store did not answer within {self._limits.close_seconds:g} s"
            emit("inference log lost rows", level="error", rows=self._rows, reason=reason)
            self._metrics.count_log_lost(self._rows)

    def _count_dropped(self, rows: int, error: Exception | None) -> None:
        if error is not None:
            self._metrics.count_log_dropped(rows)

    def _refusal(self, record: LogRecord) -> ServingError | None:
        since = self._writing_since
        if since is not None and time.monotonic() - since > self._limits.keep_seconds:
            return ServingError(f"the log's store has not answered for {time.monotonic() - since:.0f} s")
        if self._rows + record.rows > self._limits.queue_rows or self._bytes + record.size > self._limits.queue_bytes:
            return ServingError(f"{self._rows} rows wait to be kept already")
        return ServingError("the server is stopping") if self._closing.is_set() else None

    def _expire(self) -> None:
        """Refuse the requests that have waited too long, and look again when the next one will have."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        late = ServingError(f"the log's store did not take it within {self._limits.keep_seconds:g} s")
        while self._unanswered and (self._unanswered[0].done is None or self._unanswered[0].deadline <= now):
            self._tell([self._unanswered.popleft()], late)
        if self._unanswered:
            self._timer = asyncio.get_running_loop().call_at(self._unanswered[0].deadline, self._expire)

    def _written(self, group: Sequence[_Waiting], error: Exception | None) -> None:
        self._rows -= sum(waiting.record.rows for waiting in group)
        self._bytes -= sum(waiting.record.size for waiting in group)
        self._metrics.set_queued(self._rows)
        self._tell(group, error)
        while self._unanswered and self._unanswered[0].done is None:
            self._unanswered.popleft()

    def _tell(self, group: Sequence[_Waiting], error: Exception | None) -> None:
        for waiting in group:
            done, waiting.done = waiting.done, None
            if done is not None:
                done(error)

    def _write_until_closed(self) -> None:
        while not (self._closing.is_set() and not self._queue):
            self._due.wait()
            if not self._closing.is_set():
                time.sleep(_GROUP_SECONDS)
            self._due.clear()
            self._write_group()
            if self._queue:
                self._due.set()

    def _write_group(self) -> None:
        group: list[_Waiting] = []
        rows = 0
        while self._queue and rows < self._limits.rotate_rows:
            group.append(self._queue.popleft())
            rows += group[-1].record.rows
        self._writing_since = time.monotonic()
        error = self._write([waiting.record for waiting in group if waiting.done is not None])
        self._writing_since = None
        if group and self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, so no one waits
                self._loop.call_soon_threadsafe(self._written, group, error)

    def _write(self, records: Sequence[LogRecord]) -> Exception | None:
        """Store the records, one file for each hour of event time; return why that failed, or None."""
        try:
            hours: dict[datetime, list[LogBatch]] = defaultdict(list)
            for batch in self._builder.batches(records):
                hours[batch.hour].append(batch)
            reasons = [self._writer.put(self._writer.file(batches)) for batches in hours.values()]
        except Exception as error:  # the thread must outlive whatever a record holds
            emit("inference log write failed", level="error", error=in_one_line(error))
            return ServingError(in_one_line(error))
        return next((ServingError(reason) for reason in reasons if reason is not None), None)
