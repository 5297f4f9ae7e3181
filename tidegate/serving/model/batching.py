"""Adaptive batching: requests that are there at the same time share one run of the graph.

A batch is what has arrived when the graph is free, so a lone request never waits, and the busier the server, the larger the
batches ("natural" batching). A short run happens on the event loop itself, since handing it to a thread would take longer than
the run; a long one in a thread, meanwhile the loop goes on reading. Under concurrent traffic a batch may be told to wait a
little for more (`delay`), as in Clipper (Crankshaw et al., NSDI 2017) and Triton's dynamic batcher.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from queue import SimpleQueue
from time import perf_counter_ns
from typing import Any, Protocol

from tidegate.serving.model.reading import Inputs
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferRequest, Reply
from tidegate.serving.protocol.tensors import Array

_EXPIRY_SECONDS = 0.02  # how often waiting requests are looked through while the graph is busy
_RETRY_SECONDS = 1
LOOP_SECONDS = 0.001  # that a run may hold the loop up
_LONGEST_ON_LOOP = 0.005  # longer than a busy machine delays a short run
_RECOVERY = 0.95


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of batches and of the queue before them.

    Attributes:
        batch_rows: Most rows that requests are joined to; a single request may hold more.
        queue_rows: Rows that may wait; what comes beyond is refused with 429.
        delay: Longest wait for more rows under concurrent traffic, in seconds.
        rows_on_loop: A run of at most so many rows is short enough for the event loop; a longer one is for a thread.
    """

    batch_rows: int = 256
    queue_rows: int = 16_384
    delay: float = 0.0
    rows_on_loop: int = 1


class Call:
    """A request on its way through a served model.

    Attributes:
        request: The request.
        inputs: Its checked inputs.
        reply: Where the answer goes.
        event_time: When the prediction was asked for.
        times: Times of the feature rows used, by view.
    """

    __slots__ = ("event_time", "inputs", "reply", "request", "times")

    def __init__(self, request: InferRequest, inputs: Inputs, reply: Reply, event_time: datetime) -> None:
        self.request = request
        self.inputs = inputs
        self.reply = reply
        self.event_time = event_time
        self.times: Mapping[str, Array] = {}


class BatchMetrics(Protocol):
    """What batching counts."""

    def count_batch(self, requests: int, rows: int) -> None:
        """Count one run of the graph."""

    def set_batch_queue(self, rows: int) -> None:
        """Show how many rows wait for the graph."""

    def count_rejected(self, reason: str) -> None:
        """Count a request that was not computed: `queue-full`, `deadline` or `abandoned`."""


Run = Callable[[Sequence[Inputs]], dict[str, Array]]
"""Runs the graph once on the rows of several requests; raises whatever it raises."""


class Batcher:
    """The queue before one model's graph, of one event loop."""

    def __init__(
        self,
        run: Run,
        limits: BatchLimits,
        metrics: BatchMetrics,
        *,
        answered: Callable[[Sequence[Call], dict[str, Array]], None],
        failed: Callable[[Call, Exception], None],
    ) -> None:
        """Run batches.

        Args:
            run: The graph.
            limits: Bounds.
            metrics: What is counted.
            answered: Called with the requests of one run and its outputs, whose rows are theirs in their order.
            failed: Called with a request that is not answered and why: a RequestError, or what `run` raised on it.
        """
        self._run = run
        self._pace = Pace(limits.rows_on_loop)
        self._limits = limits
        self._metrics = metrics
        self._answered = answered
        self._failed = failed
        self._queue: deque[Call] = deque()
        self._rows = 0
        self._is_scheduled = False
        self._is_busy = False
        self._was_concurrent = False
        self._thread: _RunThread | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def add(self, call: Call) -> None:
        """Queue a request for the next run; raises RequestError (429) if the queue is full."""
        rows = call.inputs.rows
        if self._rows + rows > self._limits.queue_rows and self._queue:
            self._metrics.count_rejected("queue-full")
            message = f"{self._rows} rows wait for the model, and at most {self._limits.queue_rows} may; try again later"
            raise RequestError(429, message, b"retry-after: %d\r\n" % _RETRY_SECONDS)
        self._queue.append(call)
        self._rows += rows
        if not self._is_scheduled and not self._is_busy:
            self._schedule()
        elif self._is_busy:
            self._metrics.set_batch_queue(self._rows)
            if self._expiry is None:
                self._expiry = asyncio.get_running_loop().call_later(_EXPIRY_SECONDS, self._expire)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._queue and not self._is_busy

    def close(self) -> None:
        """End the thread, if there is one, after the run it is at."""
        if self._thread is not None:
            self._thread.close()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._is_scheduled = True
        if self._limits.delay and self._was_concurrent and self._rows < self._limits.batch_rows:
            loop.call_later(self._limits.delay, self._turn)
        else:
            loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Run one batch of what has come by now."""
        self._is_scheduled = False
        calls = self._next_batch()
        if not calls:
            return
        rows = sum(call.inputs.rows for call in calls)
        if self._pace.is_short(rows):
            begun = perf_counter_ns()
            outcomes = _outcomes(self._run, calls)
            self._pace.learn(rows, (perf_counter_ns() - begun) / 1e9)
            self._deliver(outcomes)
        else:
            self._is_busy = True
            self._in_thread(calls)
        if self._queue and not self._is_busy:
            self._schedule()

    def _next_batch(self) -> list[Call]:
        calls: list[Call] = []
        rows = 0
        now = perf_counter_ns()
        while self._queue:
            call = self._queue[0]
            if calls and (rows + call.inputs.rows > self._limits.batch_rows or not _fit(calls[0].inputs, call.inputs)):
                break
            self._queue.popleft()
            self._rows -= call.inputs.rows
            if _is_over(call, now):
                self._turn_away(call, now)
            else:
                calls.append(call)
                rows += call.inputs.rows
        self._was_concurrent = len(calls) > 1
        self._metrics.set_batch_queue(self._rows)
        return calls

    def _turn_away(self, call: Call, now: int) -> None:
        """Refuse a request that nobody waits for any more."""
        if call.request.abandoned:
            self._metrics.count_rejected("abandoned")
            self._failed(call, RequestError(499, "the caller is gone"))
        else:
            self._metrics.count_rejected("deadline")
            waited = (now - call.request.started) / 1e9
            self._failed(call, RequestError(504, f"past its deadline after {waited:.3g} s, so it was not computed"))

    def _expire(self) -> None:
        """Refuse what passed its deadline while the graph is busy."""
        self._expiry = None
        now = perf_counter_ns()
        gone = [call for call in self._queue if _is_over(call, now)]
        if gone:
            self._queue = deque(call for call in self._queue if not _is_over(call, now))
            self._rows -= sum(call.inputs.rows for call in gone)
            for call in gone:
                self._turn_away(call, now)
        if self._queue and self._is_busy:
            self._expiry = asyncio.get_running_loop().call_later(_EXPIRY_SECONDS, self._expire)

    def _in_thread(self, calls: list[Call]) -> None:
        if self._thread is None:
            self._thread = _RunThread(self._run)
        loop = asyncio.get_running_loop()
        self._thread.start(calls, lambda outcomes, took: loop.call_soon_threadsafe(self._back, outcomes, took))

    def _back(self, outcomes: "Sequence[Outcome]", seconds: float) -> None:
        self._is_busy = False
        self._pace.learn(sum(call.inputs.rows for calls, _ in outcomes for call in calls), seconds)
        self._deliver(outcomes)
        if self._queue and not self._is_scheduled:
            self._schedule()

    def _deliver(self, outcomes: "Sequence[Outcome]") -> None:
        for calls, outcome in outcomes:
            if isinstance(outcome, Exception):
                self._failed(calls[0], outcome)
            else:
                self._metrics.count_batch(len(calls), sum(call.inputs.rows for call in calls))
                self._answered(calls, outcome)


Outcome = tuple[Sequence[Call], dict[str, Array] | Exception]
Done = Callable[[Sequence[Outcome], float], Any]
"""Called with what came of a batch, and the seconds that it took."""


class Pace:
    """Tells which runs are short enough for the event loop: by the golden sample, and by what runs have taken since.

    A model may take much longer for some inputs than for those of its sample, such as long texts. Once a run has held the loop
    up, runs go to the thread until enough short ones have shown that it was the exception.
    """

    def __init__(self, rows_on_loop: int) -> None:
        """Begin with how many rows of the golden sample are as many as the event loop can spare the time for."""
        self._rows_on_loop = rows_on_loop
        self._slowdown = 1.0

    def is_short(self, rows: int) -> bool:
        """Whether a run of so many rows is expected to hold the loop up for less than it may be."""
        return rows * self._slowdown <= self._rows_on_loop

    def learn(self, rows: int, seconds: float) -> None:
        """Take note of what a run of so many rows took."""
        if seconds > _LONGEST_ON_LOOP:
            expected = LOOP_SECONDS * rows / max(1, self._rows_on_loop)
            self._slowdown = max(self._slowdown, seconds / expected)
        elif self._slowdown > 1:
            self._slowdown = max(1.0, self._slowdown * _RECOVERY)


def _outcomes(run: Run, calls: Sequence[Call]) -> list[Outcome]:
    """Run a batch; if it fails, each of its requests by itself, so that one does not spoil the others."""
    try:
        return [(calls, run([call.inputs for call in calls]))]
    except Exception as error:  # ONNX Runtime raises its own kinds of errors
        if len(calls) == 1:
            return [(calls, error)]
        return [outcome for call in calls for outcome in _outcomes(run, [call])]


def _is_over(call: Call, now: int) -> bool:
    """Return whether nobody waits for the answer any more."""
    return call.request.abandoned or now >= call.request.deadline


def _fit(first: Inputs, other: Inputs) -> bool:
    """Return whether the rows of two requests have one shape, so that one run can take both."""
    if first.columns is None or other.columns is None or first.blocks is not None or other.blocks is not None:
        return True
    return all(array.shape[1:] == other.columns[name].shape[1:] for name, array in first.columns.items())


class _RunThread:
    """Runs long batches, one at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._batches: SimpleQueue[tuple[Sequence[Call], Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="graph", daemon=True)
        self._thread.start()

    def start(self, calls: Sequence[Call], done: Done) -> None:
        self._batches.put((calls, done))

    def close(self) -> None:
        self._batches.put(None)

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            calls, done = batch
            begun = perf_counter_ns()
            outcomes = _outcomes(self._run, calls)
            done(outcomes, (perf_counter_ns() - begun) / 1e9)
