"""The metrics that a model's accuracy is judged by: one a file, found by name. The gates list the names that they accept.

>>> import numpy as np
>>> rmse = metric("rmse")
>>> labels, scores = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 6.0])
>>> round(rmse.estimate(labels, scores, confidence=0.95).value, 4)
1.7321
"""

import importlib
import pkgutil
from functools import cache

from tidegate.errors import OptimizationError
from tidegate.optimization.metrics.base import Metric


def metric(name: str, *, threshold: float = 0.5) -> Metric:
    """Return the metric called `name`; raises OptimizationError if there is none.

    Args:
        name: Such as "roc_auc".
        threshold: Of a binary classification, the probability from which class 1 is answered.
    """
    if name not in _all():
        raise OptimizationError(f"metric {name!r} is unknown; allowed: {', '.join(_all())}")
    return _all()[name](threshold=threshold)


def metric_names() -> tuple[str, ...]:
    """Return the names of all metrics, sorted."""
    return tuple(_all())


@cache
def _all() -> dict[str, type[Metric]]:
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return {kind.name: kind for kind in sorted(Metric.__subclasses__(), key=lambda kind: kind.name)}
