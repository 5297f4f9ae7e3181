"""Intervals for metrics that are the mean of a loss per row: of one model, and of the ratio between two on the same rows.

The ratio of two means has, by the delta method, the variance of the mean of `after - ratio * before`, divided by the mean of
`before` (W. Cochran, "Sampling Techniques", 3rd ed., 1977, section 6.3). Losses of single rows are skewed: most are small and
a few are large, so that the normal upper bound lies too low. It is raised by the first term of the Edgeworth expansion of
Student's statistic (N. Johnson, "Modified t tests and confidence intervals for asymmetrical populations", JASA 73, 1978;
P. Hall, "On the removal of skewness by transformation", JRSS B 54, 1992), and never lowered. With tails so heavy that their
few largest rows are not in the sample at all, no interval of the sample can know of them.
"""

from collections.abc import Callable
from math import sqrt
from statistics import NormalDist
from typing import Any

from numpy.typing import NDArray

from tidegate.optimization.metrics.base import Estimate, Loss

Array = NDArray[Any]
Scale = Callable[[float], float]


def mean_estimate(losses: Array, confidence: float, scale: Scale = float) -> Estimate:
    """Return `scale` of the mean of losses >= 0, shape [rows], and its two-sided interval."""
    mean, tail = float(losses.mean()), 0.5 + confidence / 2
    low = mean - NormalDist().inv_cdf(tail) * _standard_error(losses)
    return Estimate(scale(mean), scale(max(0.0, low)), scale(mean + _width_above(losses, tail)))


def share_lost(before: Array, after: Array, confidence: float, scale: Scale = float) -> Loss:
    """Return by which share `scale` of the mean of losses grew, and the one-sided upper bound of that.

    Args:
        before: The baseline's loss on each row, >= 0, shape [rows].
        after: The variant's on the same rows.
        confidence: Of the bound.
        scale: From the mean to the metric, rising, such as the square root. Of a baseline that never errs there is no share;
            the loss is then the metric of `after` itself.
    """
    mean = float(before.mean())
    if mean == 0:
        return Loss(scale(float(after.mean())), scale(float(after.mean()) + _width_above(after, confidence)))
    ratio = float(after.mean()) / mean
    bound = ratio + _width_above(after - ratio * before, confidence) / mean
    return Loss(scale(ratio) - 1, scale(bound) - 1)


def per_row(errors: Array) -> Array:
    """Return the mean of each row's errors, shape [rows]: of several targets, every one weighs the same."""
    means: Array = errors.reshape(len(errors), -1).mean(axis=1)
    return means


def _width_above(values: Array, confidence: float) -> float:
    quantile = NormalDist().inv_cdf(confidence)
    skewed = max(0.0, _skewness(values)) * (2 * quantile**2 + 1) / (6 * sqrt(len(values)))
    return (quantile + skewed) * _standard_error(values)


def _standard_error(values: Array) -> float:
    return float(values.std(ddof=1)) / sqrt(len(values))


def _skewness(values: Array) -> float:
    deviations = values - values.mean()
    spread = float(deviations.std())
    return float(((deviations / spread) ** 3).mean()) if spread > 0 else 0.0
