"""Two judges in wide use, to compare with: fixed thresholds on the last interval, and a z-test repeated at every look."""

import math
from dataclasses import dataclass

import numpy as np

from tidegate.project import RolloutSection

Z_95 = 1.6449


@dataclass(frozen=True)
class Interval:
    """Counts of both revisions, stable first: requests, errors, and latencies per bucket."""

    requests: np.ndarray
    errors: np.ndarray
    latencies: np.ndarray


class FixedThresholds:
    """Each interval passes or fails a check of its own numbers; a pass advances, `tolerated` failures roll back.

    So do Flagger (its tutorial tolerates 5 failed checks) and Argo Rollouts' analysis with a failure limit.
    """

    def __init__(self, rules: RolloutSection, bounds: np.ndarray, tolerated: int) -> None:
        self._rules, self._bounds, self._tolerated = rules, bounds, tolerated
        self._failed = 0

    def look(self, interval: Interval, in_step: Interval) -> str:
        """Judge the last interval."""
        if interval.requests[1] == 0:
            return "continue"
        self._failed += not self._passes(interval)
        if self._failed >= self._tolerated:
            return "rollback"
        return "advance" if in_step.requests[1] >= self._rules.min_requests and self._passes(interval) else "continue"

    def _passes(self, interval: Interval) -> bool:
        rates = interval.errors / np.maximum(interval.requests, 1)
        stable_p95, canary_p95 = (p95(each, self._bounds) for each in interval.latencies)
        slower = canary_p95 > stable_p95 * self._rules.max_latency_ratio
        return bool(rates[1] - rates[0] <= self._rules.max_error_increase) and not slower


class RepeatedZTest:
    """At every look, ordinary one-sided 95 % tests of all counts of the step: significantly worse rolls back, else advance."""

    def __init__(self, rules: RolloutSection, bounds: np.ndarray) -> None:
        self._rules, self._bounds = rules, bounds

    def look(self, interval: Interval, in_step: Interval) -> str:
        """Judge the step so far."""
        if min(in_step.requests) == 0:
            return "continue"
        if self._more_errors(in_step) or self._slower(in_step):
            return "rollback"
        return "advance" if in_step.requests[1] >= self._rules.min_requests else "continue"

    def _more_errors(self, counts: Interval) -> bool:
        rates = counts.errors / counts.requests
        spread = math.sqrt(float(np.sum(rates * (1 - rates) / counts.requests)))
        return bool(rates[1] - rates[0] - self._rules.max_error_increase > Z_95 * spread) and rates[1] > 0

    def _slower(self, counts: Interval) -> bool:
        limit = p95(counts.latencies[0], self._bounds) * self._rules.max_latency_ratio
        observed = int(counts.latencies[1].sum())
        beyond = int(counts.latencies[1][np.searchsorted(self._bounds, limit) + 1 :].sum())
        return beyond / observed - 0.05 > Z_95 * math.sqrt(0.05 * 0.95 / observed)


def p95(counts: np.ndarray, bounds: np.ndarray) -> float:
    """Return the upper bound of the bucket that holds the 95th percentile."""
    position = int(np.searchsorted(np.cumsum(counts), 0.95 * counts.sum()))
    return float(bounds[min(position, len(bounds) - 1)])
