"""What the benchmark measured, and what follows from it: percentiles, throughput, and ratios paired by round."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.packaging.format.manifest import BenchmarkRow

Floats = NDArray[np.floating[Any]]

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, order=True)
class Load:
    """How a variant was called: so many rows a call, by so many callers at once."""

    batch: int
    callers: int = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One variant's calls in one round: seconds of each call by any caller, of the whole turn, and of processor time in it."""

    calls: Floats
    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Every turn by variant and load, one a round; the rounds of all variants go together."""

    loads: tuple[Load, ...]
    turns: dict[tuple[str, Load], list[Turn]] = field(default_factory=dict)

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that were timed."""
        return tuple(dict.fromkeys(name for name, _ in self.turns))

    @property
    def single(self) -> Load:
        """One row by one caller."""
        return Load(1)

    @property
    def bulk(self) -> Load:
        """The largest batch by one caller."""
        return Load(max(load.batch for load in self.loads))

    @property
    def busiest(self) -> Load:
        """The largest batch by the most callers."""
        return max(self.loads)

    def percentile(self, variant: str, load: Load, percent: float) -> float:
        """Return a percentile over all calls, in seconds."""
        return float(np.percentile(np.concatenate([turn.calls for turn in self.turns[variant, load]]), percent))

    def medians(self, variant: str, load: Load) -> Floats:
        """Return the median seconds of a call in each round."""
        return np.array([np.median(turn.calls) for turn in self.turns[variant, load]])

    def seconds_per_row(self, variant: str, load: Load) -> Floats:
        """Return the seconds that a row took in each round.

        Of one caller they are the median call's, which no stall of the machine moves. Several callers wait for each other
        between their calls too, so theirs are the whole turn's.
        """
        if load.callers == 1:
            return self.medians(variant, load) / load.batch
        return np.array([turn.wall / (len(turn.calls) * load.batch) for turn in self.turns[variant, load]])

    def processor_seconds_per_row(self, variant: str, load: Load) -> Floats:
        """Return the processor seconds that a row took in each round, those of waiting threads included."""
        return np.array([turn.cpu / (len(turn.calls) * load.batch) for turn in self.turns[variant, load]])

    def rows(self, variant: str, baseline: str) -> tuple[BenchmarkRow, ...]:
        """Return a variant's rows of the benchmark's table, none if it was not timed; ratios are to `baseline`."""
        return tuple(self._row(variant, baseline, load) for load in self._loads_of(variant))

    def _loads_of(self, variant: str) -> Iterator[Load]:
        return (load for load in self.loads if (variant, load) in self.turns)

    def _row(self, variant: str, baseline: str, load: Load) -> BenchmarkRow:
        ratio, low, high = median_interval(self.medians(variant, load) / self.medians(baseline, load))
        p50, p95, p99 = (self.percentile(variant, load, percent) * 1e6 for percent in (50, 95, 99))
        return BenchmarkRow(
            variant=variant,
            batch=load.batch,
            concurrency=load.callers,
            p50_us=p50,
            p95_us=p95,
            p99_us=p99,
            rows_per_second=1 / float(np.median(self.seconds_per_row(variant, load))),
            ratio=ratio,
            ratio_low=low,
            ratio_high=high,
        )


def median_interval(values: Floats) -> tuple[float, float, float]:
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
