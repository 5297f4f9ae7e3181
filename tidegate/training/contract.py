"""What a user's train function is given: the examples before the holdout, as the model will see them in serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The argument of a train function.

    The function returns one fitted classifier, or a dict of candidate name to fitted classifier. A classifier has
    `classes_` equal to `[0, 1]` and `predict_proba`, and carries its preprocessing inside (such as a scikit-learn
    `Pipeline`), so that it lands in the served graph.

    Attributes:
        inputs: One row per example, one column per model input: strings as `object` (missing is `""`), integers as
            `int64`, floats as `float32` (missing is NaN). Serving gives the model exactly these types.
        label: `int64` of shape [n], 0 or 1.
        parameters: The project file's `training.parameters`.
        seed: The project file's `training.seed`.
    """

    inputs: pd.DataFrame
    label: np.ndarray
    parameters: Mapping[str, bool | int | float | str]
    seed: int
