"""Counts what one worker does for one served version; counting costs an addition or two, and a scrape sees it at once."""

import threading
from bisect import bisect_left

import numpy as np

from tidegate.serving.metrics.layout import MOST_OF_ONE_ROW, ONE_ROW_EACH, QUEUE_DROPS, STORE_DROPS
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.metrics.names import (
    BATCH_BOUNDS,
    BATCH_QUEUE_ROWS,
    BATCH_REQUESTS,
    BATCH_ROWS,
    BINS,
    FEATURE_MISSING,
    LATENCY,
    LATENCY_BOUNDS,
    LOG_DROPPED_ROWS,
    LOG_FAILURES,
    LOG_QUEUE_ROWS,
    LOG_ROWS,
    LOG_SAMPLED_OUT_ROWS,
    PREDICTIONS,
    PROVIDER_FALLBACK,
    REJECTED,
    REQUESTS,
    UNUSUAL_VALUES,
)
from tidegate.serving.protocol.tensors import Array

_BOUNDS_NS = tuple(round(bound * 1e9) for bound in LATENCY_BOUNDS)  # integers compare twice as fast with integers
_LAST_BIN = BINS - 1
_FEW = 64  # of these, a loop is as quick as numpy
_FEW = 32  # predictions that are counted sooner one by one than as an array

# While a version is served again before its former log has ended, two logs' threads count in the same cells.
_log_counts = threading.Lock()


class WorkerMetrics:
    """Counts in one worker's cells of a version. All of it belongs to the loop's thread, but for what says otherwise."""

    def __init__(self, memory: MetricsMemory, worker: int) -> None:
        """Go on counting where this worker's cells are."""
        layout = memory.layout
        self._cells = memory.slab(worker)
        self._statuses = {int(status): cell for status, cell in layout.cells(REQUESTS).items()}
        self._rejections = layout.cells(REJECTED)
        self._views = layout.cells(FEATURE_MISSING)
        self._inputs = layout.cells(UNUSUAL_VALUES)
        self._log_drops = layout.cells(LOG_DROPPED_ROWS)
        self._latency = layout.at[LATENCY]
        self._latency_sum = self._latency + len(LATENCY_BOUNDS) + 1
        self._bins = layout.at[PREDICTIONS]
        self._before_one_row_each = layout.at[ONE_ROW_EACH] - 1
        self._batch_rows = layout.at[BATCH_ROWS]
        self._batch_requests = layout.at[BATCH_REQUESTS]
        self._at = layout.at

    def count_request(self, status: int, nanoseconds: int) -> None:
        """Count an inference request; of one that was answered (status 200) the latency, which counts it as well."""
        cells = self._cells
        if status == 200:
            cells[self._latency + bisect_left(_BOUNDS_NS, nanoseconds)] += 1
            cells[self._latency_sum] += nanoseconds
        else:
            cells[self._statuses[status]] += 1

    def count_rejected(self, reason: str) -> None:
        """Count a request that was not run, or not answered once it was; `reason` is one of `names.REJECTIONS`."""
        self._cells[self._rejections[reason]] += 1

    def count_probabilities(self, probabilities: Array) -> None:
        """Count a binary classification's predictions by their bin, tenths of the probability; NaN has none."""
        cells, first = self._cells, self._bins
        if probabilities.size <= _FEW:
            for value in probabilities.ravel().tolist():
                if 0.0 <= value < 1.0:
                    cells[first + int(value * BINS)] += 1
                elif value == value:
                    cells[first + (0 if value < 0.0 else _LAST_BIN)] += 1
            return
        known = probabilities[~np.isnan(probabilities)]
        bins = np.bincount(np.clip((known * BINS).astype(np.int64), 0, _LAST_BIN), minlength=BINS)
        for index, count in enumerate(bins.tolist()):
            if count:
                cells[first + index] += count

    def count_predictions(self, rows: int) -> None:
        """Count predictions of any other task than a binary classification."""
        self._cells[self._bins] += rows

    def count_missing(self, view: str, rows: int) -> None:
        """Count rows for which `view` held nothing to use."""
        self._cells[self._views[view]] += rows

    def count_unusual(self, name: str, rows: int) -> None:
        """Count rows whose input `name` holds what the training data never held."""
        self._cells[self._inputs[name]] += rows

    def count_batch(self, requests: int, rows: int) -> None:
        """Count one run of the graph: how many requests it answers, and how many rows they have."""
        if rows == requests and rows <= MOST_OF_ONE_ROW:
            self._cells[self._before_one_row_each + rows] += 1
            return
        self._observe(self._batch_rows, rows)
        self._observe(self._batch_requests, requests)

    def _observe(self, first: int, size: int) -> None:
        """Count `size` in the histogram whose bounds are powers of two."""
        self._cells[first + min((size - 1).bit_length(), len(BATCH_BOUNDS))] += 1
        self._cells[first + len(BATCH_BOUNDS) + 1] += size

    def set_batch_queue(self, rows: int) -> None:
        """Show how many rows wait for the graph."""
        self._cells[self._at[BATCH_QUEUE_ROWS]] = rows

    def set_fallback(self, fallback: bool) -> None:
        """Show whether the model runs on the CPU for want of the package's accelerator."""
        self._cells[self._at[PROVIDER_FALLBACK]] = int(fallback)

    def count_log_sampled_out(self, rows: int) -> None:
        """Count rows that the log leaves out on purpose."""
        self._cells[self._at[LOG_SAMPLED_OUT_ROWS]] += rows

    def count_log_dropped(self, rows: int) -> None:
        """Count rows that found the log's queue full."""
        self._cells[self._log_drops[QUEUE_DROPS]] += rows

    def count_log_written(self, rows: int) -> None:
        """Count rows that reached the object store; from the log's thread."""
        self._count_in_log(self._at[LOG_ROWS], rows)

    def count_log_lost(self, rows: int) -> None:
        """Count rows that the object store did not take; from the log's thread."""
        self._count_in_log(self._log_drops[STORE_DROPS], rows)

    def count_log_failure(self) -> None:
        """Count a failed write to the object store; from the log's thread."""
        self._count_in_log(self._at[LOG_FAILURES], 1)

    def _count_in_log(self, cell: int, count: int) -> None:
        with _log_counts:
            self._cells[cell] += count

    def set_queued(self, rows: int) -> None:
        """Show how many rows wait to be logged; from any thread."""
        self._cells[self._at[LOG_QUEUE_ROWS]] = rows

    def forget_gauges(self) -> None:
        """Reset what is true only while this worker serves this version; the counters stay."""
        for metric in (BATCH_QUEUE_ROWS, PROVIDER_FALLBACK, LOG_QUEUE_ROWS):
            self._cells[self._at[metric]] = 0
