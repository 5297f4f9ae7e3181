"""Logarithmic loss, of a classification: the mean of -log(probability given to the true class).

I. Good, "Rational decisions", JRSS B 14 (1952). It is the metric of a model whose probabilities themselves are used, since,
other than ROC AUC and accuracy, it notices when they are no longer calibrated.
"""

from typing import ClassVar

import numpy as np

from tidegate.errors import DataError
from tidegate.optimization.metrics.base import Array, Estimate, Loss, Metric
from tidegate.optimization.metrics.paired import mean_estimate, share_lost
from tidegate.packaging.format.manifest import Task

_LEAST = float(np.finfo(np.float32).eps)  # a probability of 0 costs as much as one of float32's resolution, not infinity
_ROUNDING = 1e-3  # half precision can give a probability a little beyond 1


class LogLoss(Metric):
    """The mean of -log(probability of the true class), in nats; a loss is a share of the baseline's own.

    See `tidegate.optimization.metrics.paired` for the intervals.
    """

    name: ClassVar[str] = "log_loss"
    tasks: ClassVar[frozenset[Task]] = frozenset({"binary-classification", "multiclass-classification"})
    higher_is_better: ClassVar[bool] = False
    loss_is_share: ClassVar[bool] = True
    method: ClassVar[str] = "delta method, corrected for skewness"

    def estimate(self, labels: Array, scores: Array, confidence: float) -> Estimate:
        """Return the mean loss and its interval; raises DataError if the scores are no probabilities."""
        return mean_estimate(self._losses(labels, scores), confidence)

    def loss(self, labels: Array, baseline: Array, variant: Array, confidence: float) -> Loss:
        """Return by which share of the baseline's loss the variant's is larger."""
        return share_lost(self._losses(labels, baseline), self._losses(labels, variant), confidence)

    def _losses(self, labels: Array, scores: Array) -> Array:
        truth, given = self.checked(labels, scores)
        beyond = given[(given < -_ROUNDING) | (given > 1 + _ROUNDING)]
        if beyond.size:
            raise DataError(f"log_loss needs probabilities; a model gave {beyond[0]:g}")
        of_truth = (
            np.where(truth == 1, given, 1 - given) if given.ndim == 1 else given[np.arange(len(given)), truth.astype(int)]
        )
        losses: Array = -np.log(np.clip(of_truth, _LEAST, 1.0))
        return losses
