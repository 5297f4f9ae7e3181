"""Times named stages of code that was not written to be timed: each function is wrapped for a while, and stages do not overlap.

A stage's time is its functions' own, without that of wrapped functions that they call, and without what the wrapping costs.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any

import numpy as np

_TRIES, _CALLS = 200, 200  # short tries: the best of them nothing interrupted


class Stopwatch:
    """Time and calls by stage, of the code that runs between two calls of `lap`."""

    def __init__(self) -> None:
        """Find out what the wrapping costs."""
        self._laps: list[dict[str, float]] = []
        self._within = self._around = 0.0
        self._reset()
        self._calibrate()

    @contextmanager
    def timing(self, *places: tuple[Any, str, str]) -> Iterator[None]:
        """Time functions until the end of the block: (class or module, name of the function in it, stage)."""
        originals = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        try:
            for (owner, name, original), (_, _, stage) in zip(originals, places, strict=True):
                setattr(owner, name, self._wrapped(original, stage))
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    def lap(self) -> None:
        """Take note of what came since the last lap."""
        lap = {
            stage: max(0.0, spent - self._calls[stage] * self._within - self._children[stage] * self._around)
            for stage, spent in self._spent.items()
        }
        self._laps.append(lap)
        self._reset()

    def forget(self) -> None:
        """Forget all laps, such as those of a warm-up."""
        self._laps.clear()

    def medians(self, per: int) -> dict[str, float]:
        """Return the median microseconds of each stage over the laps, of which each did `per` things, for one of them."""
        stages = dict.fromkeys(stage for lap in self._laps for stage in lap)
        return {stage: float(np.median([lap.get(stage, 0.0) for lap in self._laps])) / per / 1e3 for stage in stages}

    def _reset(self) -> None:
        self._spent: dict[str, float] = {}
        self._calls: dict[str, int] = {}
        self._children: dict[str, int] = {}
        self._inner, self._inner_calls = 0, 0

    def _wrapped(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            outer, outer_calls = self._inner, self._inner_calls
            self._inner = self._inner_calls = 0
            begun = perf_counter_ns()
            try:
                return function(*arguments)
            finally:
                took = perf_counter_ns() - begun
                self._spent[stage] = self._spent.get(stage, 0) + took - self._inner
                self._calls[stage] = self._calls.get(stage, 0) + 1
                self._children[stage] = self._children.get(stage, 0) + self._inner_calls
                self._inner, self._inner_calls = outer + took, outer_calls + 1

        return timed

    def _calibrate(self) -> None:
        """Split a wrapped call of nothing into what its own stage sees and what its caller's stage sees."""

        def nothing() -> None:
            return None

        timed = self._wrapped(nothing, "calibration")
        plain = min(_nanoseconds(nothing) for _ in range(_TRIES))
        whole = within = math.inf
        for _ in range(_TRIES):
            self._reset()
            whole = min(whole, _nanoseconds(timed) - plain)
            within = min(within, self._spent["calibration"] / self._calls["calibration"] - plain)
        self._within, self._around = within, whole - within
        self._reset()


def _nanoseconds(function: Callable[[], None]) -> float:
    """Return what a call takes, loop included."""
    begun = perf_counter_ns()
    for _ in range(_CALLS):
        function()
    return (perf_counter_ns() - begun) / _CALLS
