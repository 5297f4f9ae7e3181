"""Online lookups for the model server: features by entity key, straight from the packed rows, without Feast.

reader = OnlineReader.open("sqlite:///work/features/online.db", manifest.features)
lookup = reader.read({"carrier": ["UA", "B6"], "origin": ["EWR", "JFK"]}, at=clock.now())
lookup.columns["origin_weather__temp"]     # float32, one value a row
lookup.times["origin_weather"]             # datetime64[us], NaT where no row within the TTL was found
"""

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tidegate.errors import FeatureError
from tidegate.features.online_file import online_path, open_reader
from tidegate.features.packed_row import KeyValue, key_order, pack_key, unpack_row, view_prefix
from tidegate.features.times import to_microseconds
from tidegate.packaging.manifest import FeatureContract, FeatureField, FeatureView

_NAT = np.iinfo(np.int64).min
_KEYS_PER_QUERY = 4096

_DTYPES: dict[str, npt.DTypeLike] = {"FP32": np.float32, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}
_MISSING: dict[str, Any] = {"FP32": math.nan, "BYTES": ""}


@dataclass(frozen=True, slots=True)
class Lookup:
    """What was found for a batch of rows.

    Attributes:
        columns: `<view>__<feature>` to its values: float32, int64, bool, or object (str), shape [rows]. A missing value is
            the contract's default, else NaN or "".
        times: View to the event time of the row used, datetime64[us] in UTC, shape [rows]; NaT if there was none, or only
            one older than the TTL.
    """

    columns: dict[str, npt.NDArray[Any]]
    times: dict[str, npt.NDArray[np.datetime64]]


class OnlineReader:
    """Reads the online store for one feature contract. Threads may share it; a writer may write meanwhile."""

    def __init__(self, path: Path, contract: FeatureContract) -> None:
        self._path = path
        self._join_keys = contract.join_keys
        self._views = [_ViewReader(contract.project, view) for view in contract.views]
        self._connection = open_reader(path)

    @classmethod
    def open(cls, uri: str, contract: FeatureContract) -> Self:
        """Open the online store at `uri` (`sqlite:///ABSOLUTE/PATH`) for the views of `contract`.

        The file need not be there yet: until it is, every feature is missing.

        Raises:
            FeatureError: The address or the file is not an online store, or the contract names a datatype that cannot be
                looked up.
        """
        return cls(online_path(uri), contract)

    def read(self, keys: Mapping[str, Sequence[KeyValue | None]], at: datetime) -> Lookup:
        """Look up every feature of the contract for a batch of rows, as one consistent state of the store.

        Args:
            keys: Join key to one value a row; at least the contract's join keys. A row whose key is None or "" has no entity.
            at: The event time of the lookup; rows older than a view's TTL at that time are missing.

        Raises:
            FeatureError: A join key is not given, lengths differ, a value is neither string nor integer, or the store
                cannot be read.
        """
        moment = to_microseconds(at)
        values = self._key_columns(keys)
        wanted = [view.keys(values) for view in self._views]
        found = self._fetch({key for row_keys in wanted for key in row_keys if key is not None})
        columns: dict[str, npt.NDArray[Any]] = {}
        times: dict[str, npt.NDArray[np.datetime64]] = {}
        for view, row_keys in zip(self._views, wanted, strict=True):
            times[view.name] = view.collect(row_keys, found, moment, columns)
        return Lookup(columns, times)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _key_columns(self, keys: Mapping[str, Sequence[KeyValue | None]]) -> dict[str, Sequence[KeyValue | None]]:
        try:
            columns = {name: _plain(keys[name]) for name in self._join_keys}
        except KeyError as error:
            raise FeatureError(f"entity key {error.args[0]!r}: not given; needed are {', '.join(self._join_keys)}") from None
        if len({len(values) for values in columns.values()}) > 1:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
            raise FeatureError(f"entity keys: one value a row is needed of each, found {lengths}")
        return columns

    def _fetch(self, keys: set[bytes]) -> dict[bytes, tuple[int, bytes]]:
        if self._connection is None:
            self._connection = open_reader(self._path)
        if self._connection is None or not keys:
            return {}
        ordered = list(keys)
        found: dict[bytes, tuple[int, bytes]] = {}
        try:
            for start in range(0, len(ordered), _KEYS_PER_QUERY):
                found.update(_select(self._connection, ordered[start : start + _KEYS_PER_QUERY]))
        except sqlite3.Error as error:
            raise FeatureError(f"online store {self._path}: cannot be read: {error}") from error
        return found


class _ViewReader:
    """Turns key columns into the keys of one view, and its packed rows into columns."""

    def __init__(self, project: str, view: FeatureView) -> None:
        self.name = view.name
        self._prefix = view_prefix(project, view.name)
        self._join_keys = key_order(view.join_keys)
        self._ttl = view.ttl_seconds * 1_000_000
        self._names = [field.name for field in view.features]
        self._pick = itemgetter(*self._names) if len(self._names) > 1 else lambda row: (row[self._names[0]],)
        self._defaults = tuple(_default(view.name, field) for field in view.features)
        self._columns = [
            (position, f"{view.name}__{field.name}", _DTYPES[field.datatype]) for position, field in enumerate(view.features)
        ]

    def keys(self, columns: Mapping[str, Sequence[KeyValue | None]]) -> list[bytes | None]:
        """Return each row's key, or None where the row has no entity."""
        rows = zip(*(columns[name] for name in self._join_keys), strict=True)
        return [_key(self._prefix, row) for row in rows]

    def collect(
        self,
        row_keys: list[bytes | None],
        found: Mapping[bytes, tuple[int, bytes]],
        moment: int,
        columns: dict[str, npt.NDArray[Any]],
    ) -> npt.NDArray[np.datetime64]:
        """Add this view's columns, one value for each of `row_keys`, and return the event times of the rows used."""
        oldest = moment - self._ttl if self._ttl else _NAT
        rows, times = [], []
        for key in row_keys:
            hit = found.get(key) if key is not None else None
            if hit is None or hit[0] < oldest:
                rows.append(self._defaults)
                times.append(_NAT)
            else:
                rows.append(self._values(hit[1]))
                times.append(hit[0])
        by_feature = list(zip(*rows, strict=True)) or [()] * len(self._columns)
        for position, name, dtype in self._columns:
            columns[name] = np.array(by_feature[position], dtype=dtype)
        return np.array(times, dtype=np.int64).view("datetime64[us]")

    def _values(self, packed: bytes) -> tuple[Any, ...]:
        row = unpack_row(packed)
        try:
            values: tuple[Any, ...] = self._pick(row)
        except KeyError:  # the row was written before the view had this feature
            values = tuple(row.get(name) for name in self._names)
        if None in values:
            return tuple(default if value is None else value for value, default in zip(values, self._defaults, strict=True))
        return values


def _select(connection: sqlite3.Connection, keys: list[bytes]) -> Iterable[tuple[bytes, tuple[int, bytes]]]:
    # Padding to a power of two keeps the number of different statements, which SQLite compiles and caches, small.
    size = 1 << (len(keys) - 1).bit_length()
    padded = keys + keys[:1] * (size - len(keys))
    query = f"SELECT key, event_us, row FROM rows WHERE key IN ({','.join('?' * size)})"  # noqa: S608
    return ((key, (event, row)) for key, event, row in connection.execute(query, padded))


def _key(prefix: bytes, values: tuple[KeyValue | None, ...]) -> bytes | None:
    if None in values or "" in values:
        return None
    return pack_key(prefix, values)  # type: ignore[arg-type]


def _plain(values: Sequence[KeyValue | None]) -> Sequence[KeyValue | None]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _default(view: str, field: FeatureField) -> Any:
    if field.datatype not in _DTYPES:
        raise FeatureError(f"feature {view}:{field.name}: {field.datatype} cannot be looked up; use {', '.join(_DTYPES)}")
    if field.default is not None:
        return field.default
    if field.datatype not in _MISSING:
        raise FeatureError(f"feature {view}:{field.name}: {field.datatype} has no missing value; give it a default")
    return _MISSING[field.datatype]
