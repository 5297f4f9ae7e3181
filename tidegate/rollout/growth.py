"""Counters of many processes, added up so that the totals only grow: over restarts, and after a process is gone."""

from collections import defaultdict
from collections.abc import Iterable

from tidegate.rollout.prometheus_api import Series

Labels = frozenset[tuple[str, str]]


class Growth:
    """The totals of counters of which each process starts at zero.

    A counter that falls was started again, so all that it shows now is new. What a vanished series had counted stays counted.
    The buckets of one histogram restart together: some may have passed their old values again by the next scrape.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._counters: dict[Labels, _Counter] = {}

    def see(self, series: Iterable[Series]) -> None:
        """Take in samples; those that were seen before, and older ones, change nothing."""
        scrapes: defaultdict[Labels, defaultdict[float, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        for one in series:
            together = frozenset((label, value) for label, value in one.labels.items() if label != "le")
            for at, value in one.samples:
                scrapes[together][at][one.labels.get("le", "")] = value
        for together, values in scrapes.items():
            counter = self._counters.setdefault(together, _Counter())
            for at in sorted(values):
                counter.see(at, values[at])

    def totals(self) -> list[tuple[dict[str, str], dict[str, int]]]:
        """Return the labels (without `le`) and the totals by bucket of every series; a plain counter's only bucket is ""."""
        return [(dict(labels), dict(counter.totals)) for labels, counter in self._counters.items()]


class _Counter:
    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._at = 0.0

    def see(self, at: float, values: dict[str, int]) -> None:
        if at <= self._at:
            return
        if any(value < self._last.get(bucket, 0) for bucket, value in values.items()):
            self._last = {}
        for bucket, value in values.items():
            self.totals[bucket] = self.totals.get(bucket, 0) + value - self._last.get(bucket, 0)
        self._last, self._at = values, at
