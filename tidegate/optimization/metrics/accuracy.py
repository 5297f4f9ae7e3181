"""Accuracy, of a classification: the share of rows whose class is right.

Of one model with the score interval of E. Wilson, "Probable inference, the law of succession, and statistical inference",
JASA 22 (1927). Of two with the score bound of T. Tango, "Equivalence test and confidence interval for the difference in
proportions for the paired-sample design", Statistics in Medicine 17 (1998), which is right even where the models differ on no
row at all: n such rows leave a loss of z^2 / (n + z^2) possible, about 2.7 / n with 95 % confidence, and not 0.
"""

from math import sqrt
from statistics import NormalDist
from typing import ClassVar

from tidegate.optimization.metrics.base import Array, Estimate, Loss, Metric
from tidegate.packaging.format.manifest import Task

_HALVINGS = 60


class Accuracy(Metric):
    """The share of rows whose class is right: by the threshold, or the most probable of several."""

    name: ClassVar[str] = "accuracy"
    tasks: ClassVar[frozenset[Task]] = frozenset({"binary-classification", "multiclass-classification"})
    higher_is_better: ClassVar[bool] = True
    loss_is_share: ClassVar[bool] = False
    method: ClassVar[str] = "Tango"

    def estimate(self, labels: Array, scores: Array, confidence: float) -> Estimate:
        """Return the share and its interval."""
        right = self._right(labels, scores)
        rows, share = len(right), float(right.mean())
        square = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
        centre = (share + square / (2 * rows)) / (1 + square / rows)
        width = sqrt(square * (share * (1 - share) / rows + square / (4 * rows * rows))) / (1 + square / rows)
        return Estimate(share, max(0.0, min(share, centre - width)), min(1.0, max(share, centre + width)))

    def loss(self, labels: Array, baseline: Array, variant: Array, confidence: float) -> Loss:
        """Return how much smaller the variant's share is."""
        before, after = self._right(labels, baseline), self._right(labels, variant)
        lost, won = int((before & ~after).sum()), int((after & ~before).sum())
        value = (lost - won) / len(before)
        return Loss(value, max(value, _tango_bound(lost, won, len(before), NormalDist().inv_cdf(confidence))))

    def _right(self, labels: Array, scores: Array) -> Array:
        truth, given = self.checked(labels, scores)
        answered = given >= self.threshold if given.ndim == 1 else given.argmax(axis=1)
        right: Array = answered == truth
        return right


def _tango_bound(lost: int, won: int, rows: int, quantile: float) -> float:
    """Return the difference above the found one at which the score statistic is -quantile; it falls all the way."""
    low, high = (lost - won) / rows, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _tango_statistic(lost, won, rows, middle) > -quantile else (low, middle)
    return high


def _tango_statistic(lost: int, won: int, rows: int, difference: float) -> float:
    spread = difference * (1 - difference)
    b = (2 * rows - lost + won) * difference - lost - won
    won_if = (sqrt(max(0.0, b * b + 8 * rows * won * spread)) - b) / (4 * rows)
    variance = rows * (2 * won_if + spread)
    distance = lost - won - rows * difference
    return distance / sqrt(variance) if variance > 0 else float("-inf")
