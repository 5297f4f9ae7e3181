"""ROC AUC with its covariance over several models on the same rows, by the fast form of DeLong's method.

E. DeLong, D. DeLong, D. Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic
curves", Biometrics 44 (1988); X. Sun, W. Xu, "Fast implementation of DeLong's algorithm", IEEE Signal Processing Letters 21
(2014): midranks make it O(n log n).

    >>> import numpy as np
    >>> areas = roc_areas(np.array([0, 0, 1, 1]), np.array([[0.1, 0.4, 0.35, 0.8]]))
    >>> areas.values.tolist()
    [0.75]
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tidegate.errors import DataError


@dataclass(frozen=True, slots=True)
class RocAreas:
    """The AUC of each of k models, shape [k], and the covariance of these estimates, shape [k, k]."""

    values: np.ndarray
    covariance: np.ndarray

    def interval(self, model: int, confidence: float) -> tuple[float, float]:
        """Return the two-sided confidence interval of one model's AUC, cut off at 0 and 1."""
        width = NormalDist().inv_cdf(0.5 + confidence / 2) * float(np.sqrt(max(self.covariance[model, model], 0.0)))
        area = float(self.values[model])
        return max(0.0, area - width), min(1.0, area + width)

    def loss(self, before: int, after: int) -> float:
        """Return how much less the AUC of model `after` is than that of model `before`."""
        return float(self.values[before] - self.values[after])

    def loss_bound(self, before: int, after: int, confidence: float) -> float:
        """Return the one-sided upper confidence bound of `loss`."""
        cov = self.covariance
        variance = cov[before, before] + cov[after, after] - 2 * cov[before, after]
        return self.loss(before, after) + NormalDist().inv_cdf(confidence) * float(np.sqrt(max(variance, 0.0)))


def roc_areas(labels: np.ndarray, scores: np.ndarray) -> RocAreas:
    """Return the AUCs of k models on the same n rows.

    Args:
        labels: 0 or 1, shape [n].
        scores: Higher means class 1 is likelier, shape [k, n].

    Raises:
        DataError: The labels hold fewer than two rows of a class, or a score is not finite.
    """
    positive = np.asarray(labels) == 1
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if min(positives, negatives) < 2:
        raise DataError(f"ROC AUC needs two rows of each class; there are {positives} of class 1 and {negatives} of class 0")
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise DataError("ROC AUC needs finite scores; a model gave NaN or infinity")
    of_positives, of_negatives = scores[:, positive], scores[:, ~positive]
    ranks = np.stack([_midranks(np.concatenate(pair)) for pair in zip(of_positives, of_negatives, strict=True)])
    won_by_positives = (ranks[:, :positives] - np.stack([_midranks(row) for row in of_positives])) / negatives
    won_by_negatives = 1 - (ranks[:, positives:] - np.stack([_midranks(row) for row in of_negatives])) / positives
    covariance = np.cov(won_by_positives) / positives + np.cov(won_by_negatives) / negatives
    return RocAreas(won_by_positives.mean(axis=1), np.atleast_2d(covariance))


def _midranks(values: np.ndarray) -> np.ndarray:
    """Return each value's rank from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
