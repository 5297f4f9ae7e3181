"""How long a graph takes, measured while it is loaded, so that the batcher knows which runs are short."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from tidegate.packaging.format.golden import Golden
from tidegate.serving.protocol.tensors import Array

Run = Callable[[Mapping[str, Array]], object]

_LARGEST_BATCH = 64
_BATCH_SECONDS = 0.1  # a larger batch is not tried
_REPEATS = 5
_REPEATING_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a run, in whole: what is copied to a GPU and back, too.

    Attributes:
        row_seconds: Of one row.
        batch_seconds: Of `batch_rows` rows.
        batch_rows: At least 1.
    """

    row_seconds: float
    batch_seconds: float
    batch_rows: int

    def rows_within(self, seconds: float) -> int:
        """Return how many rows a run may have to take no longer than `seconds`; 0 if one row takes longer."""
        if self.row_seconds > seconds:
            return 0
        if self.batch_rows == 1 or self.batch_seconds <= self.row_seconds:
            return max(1, self.batch_rows)
        each_more = (self.batch_seconds - self.row_seconds) / (self.batch_rows - 1)
        return 1 + int((seconds - self.row_seconds) / each_more)


def measure(run: Run, golden: Golden) -> Speed:
    """Time runs of one row, and of as many as are likely to fit a batch."""
    row_seconds = _quickest(run, golden, 1)
    rows = max(1, min(_LARGEST_BATCH, int(_BATCH_SECONDS / row_seconds)))
    return Speed(row_seconds, row_seconds if rows == 1 else _quickest(run, golden, rows), rows)


def measure_whole(run: Run, golden: Golden) -> Speed:
    """Time runs of the whole sample, for a graph that may not run fewer rows; one row is taken to last as long."""
    seconds = _quickest(run, golden, golden.rows)
    return Speed(seconds, seconds, golden.rows)


def _quickest(run: Run, golden: Golden, rows: int) -> float:
    """Return the seconds of the quickest of a few runs, since others use the machine, too."""
    order = np.resize(np.arange(golden.rows), rows)
    inputs = {name: np.ascontiguousarray(array[order]) for name, array in golden.inputs.items()}
    begun, quickest = perf_counter(), float("inf")
    run(inputs)  # the first run of a shape also plans its memory
    for _ in range(_REPEATS):
        start = perf_counter()
        run(inputs)
        quickest = min(quickest, perf_counter() - start)
        if perf_counter() - begun > _REPEATING_SECONDS:
            break
    return quickest
