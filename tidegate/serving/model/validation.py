"""Checks a request's tensors against the signature and gives them the shapes the graph takes.

What the training data never held (an unknown category, a number outside its range, an axis of another length) is counted; then
it is treated as the input's policy says. What the policy changed is kept as it was sent, for the inference log.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tidegate.packaging.format.datatypes import DATATYPES, NUMPY_TYPES
from tidegate.packaging.format.manifest import Manifest, TensorSpec
from tidegate.serving.protocol.errors import RequestError, bad_request
from tidegate.serving.protocol.tensors import Array, is_null

_LONGEST_SHOWN = 40  # characters of a value that a caller sent
_MOST_SHOWN = 20  # categories in one message
_KEY_DATATYPES = ("BYTES", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")


@dataclass(slots=True)
class CheckedInputs:
    """Tensors that satisfy the signature.

    Attributes:
        rows: Number of rows, the same in every tensor.
        tensors: Model inputs by name, in the graph's shapes and dtypes. Without the looked-up features unless
            `features_given`.
        keys: Entity keys by name, one a row; a null key has no features.
        features_given: The caller sent the features itself, so that none are to be looked up.
        as_sent: What a policy changed, as it was before.
    """

    rows: int
    tensors: dict[str, Array]
    keys: dict[str, list[Any]]
    features_given: bool
    as_sent: dict[str, Array] = field(default_factory=dict)


class InputValidator:
    """Checks tensors against the signature of one model package.

    Attributes:
        known: What a tensor may be called: model inputs and entity keys.
    """

    def __init__(self, manifest: Manifest, *, max_rows: int, count_unusual: Callable[[str, int], None]) -> None:
        """Prepare the checks.

        Args:
            manifest: The package's manifest.
            max_rows: Rows allowed in one request.
            count_unusual: Called with an input's name and how many rows of it hold what the training data never held.
        """
        inputs = manifest.signature.inputs
        self._max_rows = max_rows
        self._keys = manifest.features.join_keys if manifest.features else ()
        self._request_checks = tuple(_TensorCheck(spec, count_unusual) for spec in inputs if spec.source == "request")
        self._feature_checks = tuple(_TensorCheck(spec, count_unusual) for spec in inputs if spec.source == "feature")
        self._all_checks = (*self._request_checks, *self._feature_checks)
        self._feature_names = frozenset(check.name for check in self._feature_checks)
        self.known = self._feature_names | {check.name for check in self._request_checks} | set(self._keys)

    def check(self, tensors: Mapping[str, Array]) -> CheckedInputs:
        """Return the tensors, checked and shaped; raises RequestError (400) naming tensor, row, value and bound."""
        rows = self._row_count(tensors)
        features_given = self._features_given(tensors)
        checks = self._all_checks if features_given else self._request_checks
        for check in checks:
            if check.name not in tensors:
                raise self._missing(check.name)
        as_sent: dict[str, Array] = {}
        checked = {check.name: check(tensors[check.name], rows, as_sent) for check in checks}
        keys_needed = bool(self._feature_checks) and not features_given
        keys = {key: self._key(tensors, key, rows) for key in self._keys if keys_needed or key in tensors}
        return CheckedInputs(rows, checked, keys, features_given, as_sent)

    def unknown(self, name: str) -> RequestError:
        """Return the refusal of a tensor that is no input."""
        return bad_request(f"tensor {name!r} is no input of this model; it takes {', '.join(self._wanted())}")

    def _row_count(self, tensors: Mapping[str, Array]) -> int:
        rows = -1
        for name, array in tensors.items():
            if name not in self.known:
                raise self.unknown(name)
            if rows == -1:
                rows, first = array.shape[0], name
            elif array.shape[0] != rows:
                raise bad_request(f"tensor {name!r} has {array.shape[0]} rows, but {first!r} has {rows}; all must agree")
        if rows < 1:
            raise bad_request(f"the request holds no rows; this model takes {', '.join(self._wanted())}")
        if rows > self._max_rows:
            raise bad_request(f"the request holds {rows} rows; at most {self._max_rows} are allowed, so split it")
        return rows

    def _features_given(self, tensors: Mapping[str, Array]) -> bool:
        given = self._feature_names & tensors.keys()
        if given and len(given) < len(self._feature_names):
            missing = ", ".join(sorted(self._feature_names - given))
            raise bad_request(f"some features are given, but not {missing}; give all of them, or none to have them looked up")
        return bool(given)

    def _key(self, tensors: Mapping[str, Array], name: str, rows: int) -> list[Any]:
        if name not in tensors:
            raise self._missing(name)
        return _check_key(tensors[name], name, rows)

    def _missing(self, name: str) -> RequestError:
        return bad_request(f"tensor {name!r} is missing; this model takes {', '.join(self._wanted())}")

    def _wanted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._keys, *(check.name for check in self._request_checks))))


class _TensorCheck:
    def __init__(self, spec: TensorSpec, count_unusual: Callable[[str, int], None]) -> None:
        self.name = spec.name
        self._datatype = spec.datatype
        self._dtype = NUMPY_TYPES[spec.datatype]
        self._row_shape = spec.shape[1:]
        self._row_is_scalar = all(size == 1 for size in self._row_shape)
        self._sizes = spec.sizes
        self._nullable = spec.nullable
        self._minimum = -np.inf if spec.minimum is None else spec.minimum
        self._maximum = np.inf if spec.maximum is None else spec.maximum
        self._categories = frozenset(spec.categories) if spec.categories is not None else None
        self._policy = spec.policy
        self._may_be_nan = spec.nullable and spec.policy.missing != "impute"
        self._count_unusual = count_unusual
        self._check_values = {"O": self._check_strings, "f": self._check_floats}.get(self._dtype.kind, self._check_integers)
        self._is_text = self._dtype.kind == "O"
        finite = float(np.finfo(self._dtype).max) if self._dtype.kind == "f" else np.inf
        self._low, self._high = max(self._minimum, -finite), min(self._maximum, finite)

    def __call__(self, array: Array, rows: int, as_sent: dict[str, Array]) -> Array:
        if array.dtype is not self._dtype and array.dtype != self._dtype:
            raise bad_request(f"tensor {self.name!r} is {DATATYPES[array.dtype]}, but this model takes {self._datatype}")
        if array.shape[1:] != self._row_shape:
            array = self._reshaped(array, rows)
        if not self._is_text and self._is_usual(array):
            return array
        checked = self._check_values(array, rows)
        if checked is not array:
            as_sent[self.name] = array
        return checked

    def _is_usual(self, array: Array) -> bool:
        """Return whether all numbers are as in training, or may be missing and are; nearly all requests end here."""
        if array.size == 1:
            value = array.item()
            return self._low <= value <= self._high or (self._may_be_nan and value != value)
        usual = np.count_nonzero((array >= self._low) & (array <= self._high))
        if usual != array.size and self._may_be_nan:
            usual += np.count_nonzero(array != array)
        return bool(usual == array.size)

    def _reshaped(self, array: Array, rows: int) -> Array:
        if self._row_is_scalar and array.size == rows and array.ndim <= 2:
            return array.reshape(rows, *self._row_shape)
        fits = array.ndim - 1 == len(self._row_shape) and all(
            expected in (-1, found) for expected, found in zip(self._row_shape, array.shape[1:], strict=True)
        )
        if not fits:
            wanted = [-1, *self._row_shape]
            raise bad_request(f"tensor {self.name!r} has shape {list(array.shape)}, but this model takes {wanted}")
        if array.size == 0:
            raise bad_request(f"tensor {self.name!r} has shape {list(array.shape)}, which holds no values")
        self._check_lengths(array, rows)
        return array

    def _check_lengths(self, array: Array, rows: int) -> None:
        for axis, (found, (least, greatest)) in enumerate(zip(array.shape[1:], self._sizes, strict=False), start=1):
            if not least <= found <= greatest:
                self._count_unusual(self.name, rows)
                if self._policy.out_of_range == "reject":
                    bounds = f"[{least}, {greatest}]"
                    raise bad_request(f"tensor {self.name!r} axis {axis} is {found} long, outside the trained range {bounds}")
                return

    def _check_integers(self, array: Array, rows: int) -> Array:
        return self._within_range(array, rows)

    def _check_floats(self, array: Array, rows: int) -> Array:
        infinite, missing = np.isinf(array), np.isnan(array)
        if infinite.any():
            at = int(infinite.argmax())
            value = array.ravel()[at]
            raise bad_request(f"{self._place(at, array, rows)} is {value}; it must be finite in {self._datatype}")
        if missing.any():
            if self._policy.missing == "impute":
                array = np.where(missing, self._dtype.type(self._policy.imputed), array)
            elif not self._nullable:
                at = int(missing.argmax())
                raise bad_request(f"{self._place(at, array, rows)} is null or NaN, but this input must be given")
        return self._within_range(array, rows)

    def _within_range(self, array: Array, rows: int) -> Array:
        outside = (array < self._minimum) | (array > self._maximum)
        if not outside.any():
            return array
        self._count_rows(outside, rows)
        if self._policy.out_of_range == "reject":
            at = int(outside.argmax())
            bounds = f"[{self._minimum:g}, {self._maximum:g}]"
            raise bad_request(f"{self._place(at, array, rows)} is {array.ravel()[at]:g}, outside the trained range {bounds}")
        if self._policy.out_of_range == "clamp":
            return np.where(outside, np.clip(array, self._minimum, self._maximum).astype(self._dtype), array)
        return array

    def _check_strings(self, array: Array, rows: int) -> Array:
        if None in array.ravel().tolist():
            array = self._without_nulls(array, rows)
        if self._categories is None:
            return array
        missing = "" if self._nullable else None
        unusual = [value not in self._categories and value != missing for value in array.ravel().tolist()]
        return self._within_categories(array, np.array(unusual), rows) if True in unusual else array

    def _without_nulls(self, array: Array, rows: int) -> Array:
        null = is_null(array)
        if self._policy.missing == "impute":
            return np.where(null, str(self._policy.imputed), array)
        if self._nullable:
            return np.where(null, "", array)
        raise bad_request(f"{self._place(int(null.argmax()), array, rows)} is null, but this input must be given")

    def _within_categories(self, array: Array, unknown: Array, rows: int) -> Array:
        self._count_rows(unknown, rows)
        if self._policy.unknown_category == "reject":
            at = int(unknown.argmax())
            value = str(array.ravel()[at])
            shown = value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}…"
            known = ", ".join(map(repr, sorted(self._categories or ())[:_MOST_SHOWN]))
            raise bad_request(f"{self._place(at, array, rows)} is {shown!r}, which is none of the trained categories: {known}")
        if self._policy.unknown_category == "impute":
            return np.where(unknown.reshape(array.shape), str(self._policy.imputed), array)
        return array

    def _count_rows(self, unusual: Array, rows: int) -> None:
        """Count the rows with an unusual value: a tensor of many counts once a row, as a single value does."""
        count = np.count_nonzero(unusual)
        if count and unusual.size != rows:
            count = np.count_nonzero(unusual.reshape(rows, -1).any(axis=1))
        if count:
            self._count_unusual(self.name, int(count))

    def _place(self, at: int, array: Array, rows: int) -> str:
        return f"tensor {self.name!r} row {at // (array.size // rows)}"


def _check_key(array: Array, name: str, rows: int) -> list[Any]:
    if DATATYPES[array.dtype] not in _KEY_DATATYPES:
        raise bad_request(f"entity key {name!r} is {DATATYPES[array.dtype]}; it must be one of {', '.join(_KEY_DATATYPES)}")
    if array.size != rows:
        raise bad_request(f"entity key {name!r} has shape {list(array.shape)}, but needs one value for each of the {rows} rows")
    values: list[Any] = array.reshape(rows).tolist()
    return values
