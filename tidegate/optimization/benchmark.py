"""The benchmark of all surviving variants: interleaved rounds in one process, so that noise meets every variant alike."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import comb

import numpy as np
import pyarrow as pa

from tidegate.packaging.inference import PackageModel
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.manifest import BenchmarkRow, Verdict
from tidegate.packaging.sample import sample_rows
from tidegate.project import BenchmarkGate

_BATCHES_IN_TURN = 16
_WARM_UP_CALLS = 20
_CONFIDENCE = 0.95

Feeds = list[dict[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of single calls by variant and batch size, each of shape [rounds, calls]."""

    seconds: dict[tuple[str, int], np.ndarray]
    batch_sizes: tuple[int, ...]

    def percentile(self, variant: str, batch: int, percent: float) -> float:
        """Return a percentile over all calls, in seconds."""
        return float(np.percentile(self.seconds[variant, batch], percent))

    def ratio(self, variant: str, other: str, batch: int) -> tuple[float, float, float]:
        """Return the median over rounds of the ratio of the variant's p50 to the other's, and its 95 % interval."""
        return median_interval(np.median(self.seconds[variant, batch], axis=1) / np.median(self.seconds[other, batch], axis=1))


def measure_timings(models: Mapping[str, PackageModel], rows: pa.Table, gate: BenchmarkGate, seed: int) -> Timings:
    """Time every model on the same real rows, one row and each of the gate's batch sizes.

    In each round every model makes its calls in turn, and the order rotates from round to round: what slows the machine down
    for a while slows all of them. Garbage is not collected meanwhile.

    Args:
        models: By variant name; all on this process's CPU.
        rows: Real rows with every model's inputs; batches are drawn from them with the seed.
        gate: Batch sizes, rounds and calls a round.
        seed: Of the draw.
    """
    batch_sizes = tuple(sorted({1, *gate.batch_sizes}))
    names = list(models)
    feeds = {(name, batch): _feeds(models[name], rows, batch, seed) for name in names for batch in batch_sizes}
    seconds = {key: np.empty((gate.rounds, gate.calls_per_round)) for key in feeds}
    for name, batch in feeds:
        _time_calls(models[name], feeds[name, batch], np.empty(_WARM_UP_CALLS))
    with _without_garbage_collection():
        for turn in range(gate.rounds):
            for batch in batch_sizes:
                for name in _rotated(names, turn):
                    _time_calls(models[name], feeds[name, batch], seconds[name, batch][turn])
    return Timings(seconds, batch_sizes)


def benchmark_rows(timings: Timings, name: str, baseline: str) -> tuple[BenchmarkRow, ...]:
    """Return a variant's rows of the benchmark's table, none if it was not timed; ratios are to `baseline`."""
    timed = [batch for batch in timings.batch_sizes if (name, batch) in timings.seconds]
    return tuple(_row(timings, name, baseline, batch) for batch in timed)


def judge_latency(name: str, timings: Timings, gate: BenchmarkGate) -> Verdict:
    """Hold a variant's p99 for one row to the gate's bound."""
    milliseconds = timings.percentile(name, 1, 99) * 1e3
    return Verdict(
        gate="benchmark",
        subject=name,
        measure="p99 latency of one row, ms",
        value=milliseconds,
        bound=gate.max_p99_ms,
        passed=milliseconds <= gate.max_p99_ms,
        note=f"{gate.rounds} interleaved rounds of {gate.calls_per_round} calls, {gate.threads} thread(s)",
    )


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the median and its 95 % confidence interval from order statistics, which assumes no distribution.

    With fewer than 6 values no such interval exists; the whole range is returned then.

    >>> median_interval(np.arange(1.0, 16.0))
    (8.0, 4.0, 12.0)
    """
    ordered = np.sort(values)
    count = len(ordered)
    skipped = 0
    while 2 * _share_below(skipped + 1, count) <= 1 - _CONFIDENCE:
        skipped += 1
    skipped = max(skipped - 1, 0)
    return float(np.median(ordered)), float(ordered[skipped]), float(ordered[count - 1 - skipped])


def _share_below(successes: int, count: int) -> float:
    return float(sum(comb(count, k) for k in range(successes)) * 0.5**count)


def _row(timings: Timings, name: str, baseline: str, batch: int) -> BenchmarkRow:
    ratio, low, high = timings.ratio(name, baseline, batch)
    p50, p95, p99 = (timings.percentile(name, batch, percent) for percent in (50, 95, 99))
    return BenchmarkRow(
        variant=name,
        batch=batch,
        p50_us=p50 * 1e6,
        p95_us=p95 * 1e6,
        p99_us=p99 * 1e6,
        rows_per_second=batch / p50,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
    )


def _feeds(model: PackageModel, rows: pa.Table, batch: int, seed: int) -> Feeds:
    wanted = batch * _BATCHES_IN_TURN
    drawn = sample_rows(rows, wanted, seed)
    indices = np.arange(wanted) % drawn.num_rows
    arrays = input_arrays(drawn, model.manifest.signature.inputs)
    return [
        {name: np.ascontiguousarray(array[part]) for name, array in arrays.items()}
        for part in indices.reshape(_BATCHES_IN_TURN, batch)
    ]


def _time_calls(model: PackageModel, feeds: Feeds, into: np.ndarray) -> None:
    run: Callable[..., object] = model.graph.run
    clock = time.perf_counter
    for call in range(len(into)):
        feed = feeds[call % len(feeds)]
        start = clock()
        run(feed)
        into[call] = clock() - start


def _rotated(names: Sequence[str], turn: int) -> list[str]:
    shift = turn % len(names)
    return [*names[shift:], *names[:shift]]


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
