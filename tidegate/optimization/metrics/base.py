"""What a metric is: the value of one model with its interval, and what another model loses against it on the same rows."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import DataError
from tidegate.packaging.format.manifest import Task

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric's value and its two-sided confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Loss:
    """How much worse one model is than another on the same rows, and the one-sided upper confidence bound of that."""

    value: float
    bound: float


@dataclass(frozen=True)
class Metric(ABC):
    """How good a model is on labelled rows.

    Labels are class numbers, shape [rows], or values, shape [rows] or [rows, targets]. Scores are a model's output that the
    task's metrics judge: the probability of class 1, shape [rows]; the probabilities, shape [rows, classes]; or the
    predictions, in the labels' shape.

    Attributes:
        threshold: Of a binary classification, the probability from which class 1 is answered.
        name: As the gates call it.
        tasks: Whose models it can judge.
        higher_is_better: Whether a better model has the larger value.
        loss_is_share: Whether a loss is a share of the better model's value, as it is where values have a unit.
        method: What the interval of the loss rests on, in a word or two.
    """

    threshold: float = 0.5

    name: ClassVar[str]
    tasks: ClassVar[frozenset[Task]]
    higher_is_better: ClassVar[bool]
    loss_is_share: ClassVar[bool]
    method: ClassVar[str]

    @abstractmethod
    def estimate(self, labels: Array, scores: Array, confidence: float) -> Estimate:
        """Return one model's value; raises DataError if these rows cannot give one."""

    @abstractmethod
    def loss(self, labels: Array, baseline: Array, variant: Array, confidence: float) -> Loss:
        """Return what `variant` loses against `baseline`, paired; raises DataError if these rows cannot tell."""

    def rows_needed(self, labels: Array) -> int:
        """Return how many rows, labelled like these, the intervals need to be what they say."""
        return 2

    def checked(self, labels: Array, scores: Array) -> tuple[Array, Array]:
        """Return labels and scores as float64; raises DataError unless there are as many of each, two or more, all finite."""
        labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
        if len(labels) != len(scores):
            raise DataError(f"{self.name}: {len(labels)} labels, but {len(scores)} scores")
        if len(labels) < 2:
            raise DataError(f"{self.name} needs two labelled rows or more; there are {len(labels)}")
        if not np.isfinite(scores).all():
            raise DataError(f"{self.name} needs finite scores; a model gave NaN or infinity")
        return labels.astype(np.float64), scores
