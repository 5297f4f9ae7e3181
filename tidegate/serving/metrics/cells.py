"""The one list of the model server's metrics: their names, labels and cells, used by server, judge, alerts and dashboards.

Every worker counts in its own slab of shared memory, an array of unsigned 64-bit cells with one writer a cell, so that
counting costs one addition and one scrape of any worker sees the whole pod.
"""

import math
import mmap
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.protocol.tensors import Array

REQUESTS = "tidegate_requests_total"
LATENCY = "tidegate_request_latency_seconds"
PREDICTIONS = "tidegate_predictions_total"
FEATURE_MISSING = "tidegate_feature_missing_total"
UNUSUAL_VALUES = "tidegate_unusual_values_total"
LOG_ROWS = "tidegate_log_rows_total"
LOG_DROPPED_ROWS = "tidegate_log_dropped_rows_total"
LOG_FAILURES = "tidegate_log_write_failures_total"
QUEUE_ROWS = "tidegate_queue_rows"
WORKERS_READY = "tidegate_workers_ready"

COMMON_LABELS = ("model", "version", "revision")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `labels` are its own, beside those that all have."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    purpose: str


METRICS = {
    metric.name: metric
    for metric in (
        Metric(REQUESTS, "counter", ("status",), "Inference requests by HTTP status."),
        Metric(LATENCY, "histogram", (), "Latency of answered inference requests."),
        Metric(PREDICTIONS, "counter", ("bin",), "Predictions; those of a binary classification by their probability."),
        Metric(FEATURE_MISSING, "counter", ("view",), "Rows without a usable row of a view."),
        Metric(UNUSUAL_VALUES, "counter", ("input",), "Values that the training data never held."),
        Metric(LOG_ROWS, "counter", (), "Rows written to the inference log."),
        Metric(LOG_DROPPED_ROWS, "counter", ("reason",), "Rows that the inference log lost."),
        Metric(LOG_FAILURES, "counter", (), "Failed writes to the object store."),
        Metric(QUEUE_ROWS, "gauge", (), "Rows waiting to be logged."),
        Metric(WORKERS_READY, "gauge", (), "Workers that answer requests."),
    )
}

# What the drift check pushes, since it ends before it could be scraped; with the labels `namespace` and `model`.
DRIFT_CHECKED = "tidegate_drift_checked_timestamp_seconds"
DRIFT_DETECTED = "tidegate_drift_detected"
DRIFT_INDEX = "tidegate_drift_psi"

PUSHED_METRICS = {
    metric.name: metric
    for metric in (
        Metric(DRIFT_CHECKED, "gauge", (), "When drift was last checked, by the clock on the wall."),
        Metric(DRIFT_DETECTED, "gauge", ("kind",), "1 if the last window drifted: data, prediction or concept."),
        Metric(DRIFT_INDEX, "gauge", ("column",), "Population stability index of an input in the last window."),
    )
}

STATUSES = (200, 400, 404, 405, 413, 415, 500, 503)
BINS = 10


def _latency_bounds() -> tuple[float, ...]:
    lowest, highest, ratio = 50e-6, 30.0, 1.1
    steps = math.ceil(math.log(highest / lowest) / math.log(ratio))
    return tuple(float(f"{lowest * (highest / lowest) ** (step / steps):.7g}") for step in range(steps + 1))


LATENCY_BOUNDS = _latency_bounds()
_BOUNDS_NS = tuple(bound * 1e9 for bound in LATENCY_BOUNDS)

_CELL = 8


class MetricsLayout:
    """Which cell of a slab counts what; the same in every worker of one model package."""

    def __init__(self, manifest: Manifest) -> None:
        """Lay out the cells for a model's feature views and inputs."""
        self.views = tuple(view.name for view in manifest.features.views) if manifest.features else ()
        self.inputs = tuple(spec.name for spec in manifest.signature.inputs)
        self.bins = BINS if manifest.task == "binary-classification" else 1
        self.latency_count = len(LATENCY_BOUNDS) + 1
        self.statuses_at = 0
        self.latency_at = self.statuses_at + len(STATUSES)
        self.latency_sum_at = self.latency_at + self.latency_count
        self.bins_at = self.latency_sum_at + 1
        self.views_at = self.bins_at + self.bins
        self.inputs_at = self.views_at + len(self.views)
        self.log_rows_at = self.inputs_at + len(self.inputs)
        self.log_dropped_queue_at = self.log_rows_at + 1
        self.log_dropped_store_at = self.log_rows_at + 2
        self.log_failures_at = self.log_rows_at + 3
        self.queued_at = self.log_rows_at + 4
        self.ready_at = self.log_rows_at + 5
        self.size = self.ready_at + 1


class MetricsMemory:
    """The slabs of all workers, in memory that workers forked from this process share."""

    def __init__(self, layout: MetricsLayout, workers: int) -> None:
        """Allocate one slab for each of `workers`."""
        self.layout = layout
        self.workers = workers
        self._map = mmap.mmap(-1, layout.size * _CELL * workers)
        self._cells = memoryview(self._map).cast("Q")

    def slab(self, worker: int) -> memoryview:
        """Return the cells of one worker."""
        return self._cells[worker * self.layout.size : (worker + 1) * self.layout.size]

    def totals(self) -> list[int]:
        """Return the cells summed over all workers."""
        cells = np.frombuffer(self._cells, np.uint64).reshape(self.workers, self.layout.size)
        totals: list[int] = cells.sum(axis=0).tolist()
        return totals


class WorkerMetrics:
    """Counts what one worker does."""

    def __init__(self, memory: MetricsMemory, worker: int) -> None:
        """Count in the slab of `worker`."""
        layout = memory.layout
        self._layout = layout
        self._cells = memory.slab(worker)
        self._status_cells = {status: layout.statuses_at + index for index, status in enumerate(STATUSES)}
        self._view_cells = {view: layout.views_at + index for index, view in enumerate(layout.views)}
        self._input_cells = {name: layout.inputs_at + index for index, name in enumerate(layout.inputs)}
        self._latency_at = layout.latency_at
        self._latency_sum_at = layout.latency_sum_at

    def count_request(self, status: int, nanoseconds: int) -> None:
        """Count an inference request; the latency only of one that was answered (status 200)."""
        cells = self._cells
        cells[self._status_cells[status]] += 1
        if status == 200:
            cells[self._latency_at + bisect_left(_BOUNDS_NS, nanoseconds)] += 1
            cells[self._latency_sum_at] += nanoseconds

    def count_probabilities(self, probabilities: Array) -> None:
        """Count a binary classification's predictions by their bin, tenths of the probability."""
        cells, first = self._cells, self._layout.bins_at
        if probabilities.size == 1:
            value = probabilities.item()
            if value == value:
                cells[first + min(max(int(value * BINS), 0), BINS - 1)] += 1
            return
        known = probabilities[~np.isnan(probabilities)]
        bins = np.bincount(np.clip((known * BINS).astype(np.int64), 0, BINS - 1), minlength=BINS)
        for index, count in enumerate(bins.tolist()):
            cells[first + index] += count

    def count_predictions(self, rows: int) -> None:
        """Count predictions of any other task than a binary classification."""
        self._cells[self._layout.bins_at] += rows

    def count_missing(self, view: str, rows: int) -> None:
        """Count rows for which `view` held nothing to use."""
        self._cells[self._view_cells[view]] += rows

    def count_unusual(self, name: str, rows: int) -> None:
        """Count rows whose input `name` holds what the training data never held."""
        self._cells[self._input_cells[name]] += rows

    def count_log_dropped(self, rows: int) -> None:
        """Count rows that found the log's queue full."""
        self._cells[self._layout.log_dropped_queue_at] += rows

    def count_log_written(self, rows: int) -> None:
        """Count rows that reached the object store; called by the log's thread alone."""
        self._cells[self._layout.log_rows_at] += rows

    def count_log_lost(self, rows: int) -> None:
        """Count rows that the object store did not take; called by the log's thread alone."""
        self._cells[self._layout.log_dropped_store_at] += rows

    def count_log_failure(self) -> None:
        """Count a failed write to the object store; called by the log's thread alone."""
        self._cells[self._layout.log_failures_at] += 1

    def set_queued(self, rows: int) -> None:
        """Show how many rows wait to be logged."""
        self._cells[self._layout.queued_at] = rows

    def set_ready(self, ready: bool) -> None:
        """Show whether this worker answers requests."""
        self._cells[self._layout.ready_at] = int(ready)

    def forget_gauges(self) -> None:
        """Reset what a dead worker cannot reset itself; its counters stay."""
        self.set_queued(0)
        self.set_ready(False)


def render(memory: MetricsMemory, labels: dict[str, str]) -> bytes:
    """Return all metrics in the Prometheus text format; `labels` are put on every one of them."""
    layout, cells = memory.layout, memory.totals()
    common = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    lines: list[str] = []

    def one(name: str, samples: Iterable[tuple[str, int]]) -> None:
        lines.append(_head(name))
        lines.extend(f"{name}{{{common}{extra}}} {value}" for extra, value in samples)

    def labelled(label: str, values: Sequence[str | int], first: int) -> list[tuple[str, int]]:
        return [(f',{label}="{_escaped(str(value))}"', cells[first + index]) for index, value in enumerate(values)]

    one(REQUESTS, labelled("status", STATUSES, layout.statuses_at))
    lines.extend(_latency_lines(layout, cells, common))
    bins = [f"{index / BINS:.1f}-{(index + 1) / BINS:.1f}" for index in range(BINS)]
    unbinned = [("", cells[layout.bins_at])]
    one(PREDICTIONS, labelled("bin", bins, layout.bins_at) if layout.bins == BINS else unbinned)
    one(FEATURE_MISSING, labelled("view", layout.views, layout.views_at))
    one(UNUSUAL_VALUES, labelled("input", layout.inputs, layout.inputs_at))
    one(LOG_ROWS, [("", cells[layout.log_rows_at])])
    dropped = [
        (',reason="queue-full"', cells[layout.log_dropped_queue_at]),
        (',reason="store-failed"', cells[layout.log_dropped_store_at]),
    ]
    one(LOG_DROPPED_ROWS, dropped)
    one(LOG_FAILURES, [("", cells[layout.log_failures_at])])
    one(QUEUE_ROWS, [("", cells[layout.queued_at])])
    one(WORKERS_READY, [("", cells[layout.ready_at])])
    return ("\n".join(lines) + "\n").encode()


def _head(name: str) -> str:
    return f"# HELP {name} {METRICS[name].purpose}\n# TYPE {name} {METRICS[name].kind}"


def _latency_lines(layout: MetricsLayout, cells: Sequence[int], common: str) -> list[str]:
    lines = [_head(LATENCY)]
    cumulative = 0
    for bound, count in zip(LATENCY_BOUNDS, cells[layout.latency_at :], strict=False):
        cumulative += count
        lines.append(f'{LATENCY}_bucket{{{common},le="{bound:.10g}"}} {cumulative}')
    cumulative += cells[layout.latency_at + len(LATENCY_BOUNDS)]
    lines.append(f'{LATENCY}_bucket{{{common},le="+Inf"}} {cumulative}')
    lines.append(f"{LATENCY}_sum{{{common}}} {cells[layout.latency_sum_at] / 1e9:.9g}")
    lines.append(f"{LATENCY}_count{{{common}}} {cumulative}")
    return lines


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
