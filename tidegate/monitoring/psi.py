"""The population stability index: how far two histograms over the same bins lie apart.

    >>> round(population_stability_index([50, 50], [50, 50]), 3)
    0.0
    >>> round(population_stability_index([50, 50], [80, 20]), 3)
    0.416

PSI is the symmetrized Kullback-Leibler divergence, sum of (p - q) ln(p / q); the customary reading is: below 0.1 stable,
0.1 to 0.2 moved, from 0.2 drifted (Siddiqi, *Credit Risk Scorecards*, 2006). A bin that is empty on one side counts as a
share of `EMPTY_SHARE`, whatever the number of rows, so that the index does not grow with the sample.
"""

from collections.abc import Sequence

import numpy as np

EMPTY_SHARE = 1e-4


def population_stability_index(reference: Sequence[int] | np.ndarray, current: Sequence[int] | np.ndarray) -> float:
    """Return the PSI of two arrays of counts over the same bins; each must hold at least one row (ValueError)."""
    expected, found = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if expected.shape != found.shape:
        raise ValueError(f"counts of shape {expected.shape} and {found.shape} are not over the same bins")
    if expected.sum() <= 0 or found.sum() <= 0:
        raise ValueError("counts hold no rows")
    p = np.maximum(expected / expected.sum(), EMPTY_SHARE)
    q = np.maximum(found / found.sum(), EMPTY_SHARE)
    return float(np.sum((q - p) * np.log(q / p)))
