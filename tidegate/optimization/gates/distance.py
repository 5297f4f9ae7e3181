"""How far two arrays of answers to the same rows lie apart: by the error of their numbers, by their classes, or at all."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tidegate.packaging.format.manifest import Task

Array = NDArray[Any]
Rows = NDArray[np.bool_]
Kind = Literal["floating-point numbers", "integers", "booleans", "text"]

_KINDS: dict[str, Kind] = {"b": "booleans", "i": "integers", "u": "integers", "O": "text", "U": "text", "S": "text"}
_TIE = 1e-6  # a score this close to the threshold, or to another class's, is float32's rounding away from another class


@dataclass(frozen=True, slots=True)
class Error:
    """The largest errors between two arrays of floating-point numbers; None is without end.

    Attributes:
        absolute: The largest difference.
        relative: The largest difference as a share of the expected number; zeros are left out.
        of_tolerance: The largest difference as a share of the tolerance there.
        element: Which element, in the order of the flat array, `of_tolerance` is of; None if nothing differs.
    """

    absolute: float | None
    relative: float | None
    of_tolerance: float | None
    element: int | None


def kind_of(array: Array) -> Kind:
    """Return what an array holds; widths do not matter."""
    return _KINDS.get(array.dtype.kind, "floating-point numbers")


def error_between(expected: Array, found: Array, *, absolute: Array, relative: float) -> Error:
    """Return how far numbers lie apart, with a tolerance of `absolute + relative * |expected|` for each element.

    A NaN or infinity on one side only is infinitely far; on both sides it is no difference.

    Args:
        expected: Numbers of any shape.
        found: Of the same shape.
        absolute: Broadcast to that shape.
        relative: Of each expected number.
    """
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    if expected.size == 0:
        return Error(0.0, 0.0, 0.0, None)
    magnitude = np.abs(expected)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        difference = np.where((found == expected) | (np.isnan(found) & np.isnan(expected)), 0.0, np.abs(found - expected))
        difference = np.nan_to_num(difference, nan=np.inf, posinf=np.inf)
        # An infinite expectation allows no error; without this it would allow any.
        tolerance = absolute + relative * np.where(np.isfinite(magnitude), magnitude, 0.0)
        of_tolerance = np.where(difference == 0, 0.0, difference / tolerance)
        of_expected = np.where(difference == 0, 0.0, difference / magnitude)[magnitude > 0]
    element = int(of_tolerance.argmax())
    largest = float(of_tolerance.flat[element])
    return Error(
        absolute=_finite(float(difference.max())),
        relative=_finite(float(of_expected.max(initial=0.0))),
        of_tolerance=_finite(largest),
        element=element if largest > 0 else None,
    )


def rows_that_differ(expected: Array, found: Array) -> Rows:
    """Return which rows of integers, booleans or text are not the same, shape [rows]."""
    rows: Rows = (found != expected).reshape(len(expected), -1).any(axis=1)
    return rows


def rows_that_change_class(expected: Array, found: Array, task: Task, threshold: float) -> Rows | None:
    """Return which rows' scores stand for another class, shape [rows]; None of a task without classes.

    A row whose expected score is tied has no class of its own, and changes none.

    Args:
        expected: Probabilities of class 1, shape [rows], or of every class, shape [rows, classes].
        found: Of the same shape.
        task: Of the model.
        threshold: Of a binary classification.
    """
    changed: Rows
    if task == "binary-classification":
        changed = ((found >= threshold) != (expected >= threshold)) & (np.abs(expected - threshold) > _TIE)
        return changed
    if task == "multiclass-classification":
        best = np.sort(expected, axis=1)[:, -2:]
        changed = (found.argmax(axis=1) != expected.argmax(axis=1)) & (best[:, -1] - best[:, 0] > _TIE)
        return changed
    return None


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
