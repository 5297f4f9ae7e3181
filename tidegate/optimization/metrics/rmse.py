"""Root mean squared error, of a regression. Its interval is that of the mean squared error, whose root is taken at the end."""

from math import sqrt
from typing import ClassVar

from tidegate.optimization.metrics.base import Array, Estimate, Loss, Metric
from tidegate.optimization.metrics.paired import mean_estimate, per_row, share_lost
from tidegate.packaging.format.manifest import Task


class Rmse(Metric):
    """The root of the mean squared difference between prediction and label; a loss is a share of the baseline's own.

    Squares make few rows weigh much: with heavy-tailed errors prefer `mae`. See `tidegate.optimization.metrics.paired`.
    """

    name: ClassVar[str] = "rmse"
    tasks: ClassVar[frozenset[Task]] = frozenset({"regression"})
    higher_is_better: ClassVar[bool] = False
    loss_is_share: ClassVar[bool] = True
    method: ClassVar[str] = "delta method, corrected for skewness"

    def estimate(self, labels: Array, scores: Array, confidence: float) -> Estimate:
        """Return the error and its interval, in the label's unit."""
        return mean_estimate(self._squares(labels, scores), confidence, sqrt)

    def loss(self, labels: Array, baseline: Array, variant: Array, confidence: float) -> Loss:
        """Return by which share of the baseline's error the variant's is larger."""
        return share_lost(self._squares(labels, baseline), self._squares(labels, variant), confidence, sqrt)

    def _squares(self, labels: Array, scores: Array) -> Array:
        truth, predicted = self.checked(labels, scores)
        return per_row((predicted.reshape(truth.shape) - truth) ** 2)
