"""Area under the ROC curve, of a binary classification: how well it ranks. Intervals and paired losses are DeLong's."""

from typing import ClassVar

import numpy as np

from tidegate.optimization.metrics.base import Array, Estimate, Loss, Metric
from tidegate.optimization.metrics.delong import roc_areas
from tidegate.packaging.format.manifest import Task

_ROWS_OF_A_CLASS = 30  # with fewer the normal approximation of an area is too narrow


class RocAuc(Metric):
    """The probability that a row of class 1 has a higher score than one of class 0, ties counting half.

    See `tidegate.optimization.metrics.delong` for the method.
    """

    name: ClassVar[str] = "roc_auc"
    tasks: ClassVar[frozenset[Task]] = frozenset({"binary-classification"})
    higher_is_better: ClassVar[bool] = True
    loss_is_share: ClassVar[bool] = False
    method: ClassVar[str] = "DeLong"

    def estimate(self, labels: Array, scores: Array, confidence: float) -> Estimate:
        """Return the area and its interval; raises DataError without two rows of each class."""
        areas = roc_areas(labels, np.asarray(scores)[None])
        return Estimate(float(areas.values[0]), *areas.interval(0, confidence))

    def loss(self, labels: Array, baseline: Array, variant: Array, confidence: float) -> Loss:
        """Return by how much the variant's area is smaller."""
        areas = roc_areas(labels, np.stack([baseline, variant]))
        return Loss(areas.loss(0, 1), areas.loss_bound(0, 1, confidence))

    def rows_needed(self, labels: Array) -> int:
        """Return at how many rows like these the rarer class has enough."""
        ones = int((np.asarray(labels) == 1).sum())
        rarer = min(ones, len(labels) - ones)
        return -(-_ROWS_OF_A_CLASS * len(labels) // max(1, rarer))
