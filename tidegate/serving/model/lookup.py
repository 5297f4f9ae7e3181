"""Looks up the features of a request by its entity keys, and settles what a missing one means.

A feature is missing when its row is not found, is older than its view's time to live, or holds no value (null, NaN, "").
A missing optional feature becomes its default; a missing required one fails the request with 503, since the caller can do
nothing about it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from tidegate.errors import TidegateError
from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.manifest import FeatureContract, FeatureField, FeatureView, Signature
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.tensors import Array, is_null


class Lookup(Protocol):
    """What a reader found."""

    @property
    def columns(self) -> Mapping[str, Array]:
        """Values by `view__feature`, shape [rows]."""

    @property
    def times(self) -> Mapping[str, Array]:
        """By view, the times of the rows used; NaT where none was found or it was too old."""


class FeatureReader(Protocol):
    """Reads online features; `tidegate.features.online.OnlineReader` is one."""

    @property
    def waits(self) -> bool:
        """Whether a read may wait for something; one that does not needs no task of the event loop."""

    async def read(self, keys: Mapping[str, Sequence[str | int | None]], at: datetime) -> Lookup:
        """Return the features of each row of `keys` as they were knowable at `at`; raises FeatureError."""


@dataclass(slots=True)
class Features:
    """Looked-up features as the graph takes them, shape [rows, 1], and the times of the rows they came from."""

    tensors: dict[str, Array]
    times: Mapping[str, Array]


class FeatureLookup:
    """Fills in a model's features from a reader.

    Attributes:
        waits: Whether a read may wait for something.
    """

    def __init__(
        self,
        contract: FeatureContract,
        signature: Signature,
        reader: FeatureReader,
        count_missing: Callable[[str, int], None],
    ) -> None:
        """Prepare lookups.

        Args:
            contract: The features, their defaults, and which of them are required.
            signature: The model's inputs, which say what datatype the graph takes a feature as.
            reader: Where features come from.
            count_missing: Called with a view and how many of its rows were missing.
        """
        dtypes = {spec.name: NUMPY_TYPES[spec.datatype] for spec in signature.inputs}
        self.waits = reader.waits
        self._reader = reader
        self._count_missing = count_missing
        self._views = tuple(
            (view, tuple(_FieldFill(view, field, dtypes) for field in view.features)) for view in contract.views
        )

    async def read(self, keys: Mapping[str, Sequence[Any]], at: datetime) -> Features:
        """Return the features of every row of `keys` at event time `at`; raises RequestError (503)."""
        try:
            found = await self._reader.read(keys, at)
        except TidegateError as error:
            raise RequestError(503, f"features could not be looked up: {error}") from error
        tensors: dict[str, Array] = {}
        for view, fields in self._views:
            absent = np.isnat(found.times[view.name])
            absent_count = int(np.count_nonzero(absent))
            if absent_count:
                self._count_missing(view.name, absent_count)
            for fill in fields:
                column = fill(found.columns[fill.column], absent if absent_count else None, keys)
                tensors[fill.column] = column.reshape(-1, 1)
        return Features(tensors, found.times)


class _FieldFill:
    def __init__(self, view: FeatureView, field: FeatureField, dtypes: Mapping[str, np.dtype[Any]]) -> None:
        self.column = f"{view.name}__{field.name}"
        self._view = view
        self._field = field
        self._dtype = dtypes[self.column]
        self._default = _default_of(field, self._dtype)
        self._nan_is_fine = self._dtype.kind == "f" and field.default is None and not field.required

    def __call__(self, column: Array, absent: Array | None, keys: Mapping[str, Sequence[Any]]) -> Array:
        missing = self._missing(column, absent)
        if missing is not None:
            if self._field.required:
                raise RequestError(503, self._absence(int(missing.argmax()), keys))
            column = np.where(missing, self._default, column)
        return column if column.dtype == self._dtype else column.astype(self._dtype)

    def _missing(self, column: Array, absent: Array | None) -> Array | None:
        null: Array
        if column.dtype == object:
            null = is_null(column) | (column == "")
        elif column.dtype.kind == "f" and not self._nan_is_fine:
            null = np.isnan(column)
        else:
            return absent
        if not null.any():
            return absent
        return null if absent is None else null | absent

    def _absence(self, row: int, keys: Mapping[str, Sequence[Any]]) -> str:
        key = ", ".join(f"{name}={keys[name][row]}" for name in self._view.join_keys)
        return (
            f"required feature {self._view.name}:{self._field.name} is missing for {key} (row {row}): "
            f"it has no value in the online store, or one older than {self._view.ttl_seconds} s"
        )


def _default_of(field: FeatureField, dtype: np.dtype[Any]) -> Any:
    if field.default is not None:
        return field.default
    return {"f": np.nan, "O": ""}.get(dtype.kind, 0)
