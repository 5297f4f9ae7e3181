"""Mean absolute error, of a regression."""

from typing import ClassVar

import numpy as np

from tidegate.optimization.metrics.base import Array, Estimate, Loss, Metric
from tidegate.optimization.metrics.paired import mean_estimate, per_row, share_lost
from tidegate.packaging.format.manifest import Task


class Mae(Metric):
    """The mean absolute difference between prediction and label; a loss is a share of the baseline's own.

    See `tidegate.optimization.metrics.paired` for the intervals.
    """

    name: ClassVar[str] = "mae"
    tasks: ClassVar[frozenset[Task]] = frozenset({"regression"})
    higher_is_better: ClassVar[bool] = False
    loss_is_share: ClassVar[bool] = True
    method: ClassVar[str] = "delta method, corrected for skewness"

    def estimate(self, labels: Array, scores: Array, confidence: float) -> Estimate:
        """Return the error and its interval, in the label's unit."""
        return mean_estimate(self._distances(labels, scores), confidence)

    def loss(self, labels: Array, baseline: Array, variant: Array, confidence: float) -> Loss:
        """Return by which share of the baseline's error the variant's is larger."""
        return share_lost(self._distances(labels, baseline), self._distances(labels, variant), confidence)

    def _distances(self, labels: Array, scores: Array) -> Array:
        truth, predicted = self.checked(labels, scores)
        return per_row(np.abs(predicted.reshape(truth.shape) - truth))
