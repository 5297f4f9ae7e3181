"""The label that a classification is answered with: the class that the threshold, or the highest probability, decides for."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.packaging.format.manifest import PROBABILITIES, PROBABILITY, Manifest

Array = NDArray[Any]


class Labels:
    """Turns the probabilities of one model into class names."""

    def __init__(self, manifest: Manifest) -> None:
        """Prepare for the classes and the threshold of a manifest."""
        self._task = manifest.task
        self._classes = np.array(manifest.classes, object)
        self._threshold = manifest.threshold

    @property
    def exist(self) -> bool:
        """Whether the model's task has labels: that of a classification has, any other has none."""
        return self._task in ("binary-classification", "multiclass-classification")

    def of(self, outputs: Mapping[str, Array]) -> Array:
        """Return each row's class, an object array of shape [rows], for the outputs of a classification.

        Class 1 of two from the threshold on; of more classes the first with the highest probability.
        """
        return self._classes[self.numbers(outputs)]

    def numbers(self, outputs: Mapping[str, Array]) -> Array:
        """Return each row's class as its number, shape [rows]; as `of` otherwise."""
        if self._task == "multiclass-classification":
            return np.asarray(outputs[PROBABILITIES].argmax(axis=1))
        return (outputs[PROBABILITY] >= self._threshold).astype(np.int8)
