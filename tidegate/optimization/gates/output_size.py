"""How large an output is, so that one absolute tolerance fits outputs of any unit: prices in millions, embeddings near zero.

A probability has a size of 1. Any other output has the size that half of the golden rows exceed by their largest magnitude,
rows of nothing but zeros left out: a median, since adversarial rows can have answers beyond all measure. The targets of a
regression may have different units, so each has a size of its own.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.packaging.format.manifest import SCORE_OUTPUTS, Task

Array = NDArray[Any]


def output_size(name: str, expected: Array, task: Task) -> Array:
    """Return an output's size, shape [], or [targets] of a regression with several.

    Args:
        name: The output's.
        expected: The source model's own answers, floating-point numbers, shape [rows, …].
        task: Of the model.
    """
    if SCORE_OUTPUTS.get(task) != name:
        return np.asarray(_typical(np.abs(expected.astype(np.float64)).reshape(len(expected), -1).max(axis=1, initial=0.0)))
    if task != "regression":
        return np.asarray(1.0)
    magnitudes = np.abs(expected.astype(np.float64))
    if magnitudes.ndim == 1:
        return np.asarray(_typical(magnitudes))
    return np.array([_typical(target) for target in magnitudes.T])


def _typical(magnitudes: Array) -> float:
    usable = magnitudes[np.isfinite(magnitudes) & (magnitudes > 0)]
    return float(np.median(usable)) if usable.size else 1.0
