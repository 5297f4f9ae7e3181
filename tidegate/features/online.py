"""Online lookups for the model server: features by entity key, straight from the packed rows, without Feast.

reader = OnlineReader.open("sqlite:///work/features/online.db", manifest.features)
lookup = await reader.read({"carrier": ["UA", "B6"], "origin": ["EWR", "JFK"]}, at=clock.now())
lookup.columns["origin_weather__temp"]     # float32, one value a row
lookup.times["origin_weather"]             # datetime64[us], NaT where no row within the TTL was found
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tidegate.errors import FeatureError
from tidegate.features.online_opening import open_row_reader
from tidegate.features.online_rows import FoundRow, RowReader
from tidegate.features.packed_row import KeyValue, key_order, pack_key, unpack_row, view_prefix
from tidegate.features.times import to_microseconds
from tidegate.packaging.format.manifest import FeatureContract, FeatureField, FeatureView

KeyColumn = Sequence[KeyValue | None] | npt.NDArray[Any]
"""One entity key value a row: strings or integers, None or "" where the row has no entity."""

_NAT = np.iinfo(np.int64).min

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
    """Reads the online store for one feature contract, from one event loop; a writer may write meanwhile.

    Attributes:
        waits: Whether a read may wait for something, as for a Redis; a file is read at once.
    """

    def __init__(self, rows: RowReader, contract: FeatureContract) -> None:
        """Read the views of `contract` from `rows`."""
        self.waits = rows.waits
        self._rows = rows
        self._join_keys = contract.join_keys
        self._views = [_ViewReader(contract.project, view) for view in contract.views]

    @classmethod
    def open(cls, uri: str, contract: FeatureContract) -> Self:
        """Open the online store at `uri` (`sqlite:///ABSOLUTE/PATH`, `redis://HOST:PORT/DB`) for the views of `contract`.

        A file need not be there yet: until it is, every feature is missing. A Redis must answer.

        Raises:
            FeatureError: The address or what lies there is not an online store, a Redis cannot be reached, or the contract
                names a datatype that cannot be looked up.
        """
        return cls(open_row_reader(uri), contract)

    async def read(self, keys: Mapping[str, KeyColumn], at: datetime) -> Lookup:
        """Look up every feature of the contract for a batch of rows, in one query, as one state of the store.

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
        found = await self._rows.fetch(list({key for row_keys in wanted for key in row_keys if key is not None}))
        batch = _Batch()
        for view, row_keys in zip(self._views, wanted, strict=True):
            view.collect(row_keys, found, moment, batch)
        return batch.lookup()

    def close(self) -> None:
        """Let go of the store."""
        self._rows.close()

    def _key_columns(self, keys: Mapping[str, KeyColumn]) -> dict[str, Sequence[KeyValue | None]]:
        try:
            columns = {name: _plain(keys[name]) for name in self._join_keys}
        except KeyError as error:
            raise FeatureError(f"entity key {error.args[0]!r}: not given; needed are {', '.join(self._join_keys)}") from None
        if len({len(values) for values in columns.values()}) > 1:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
            raise FeatureError(f"entity keys: one value a row is needed of each, found {lengths}")
        return columns


class _ViewReader:
    """Turns key columns into the keys of one view, and its packed rows into columns."""

    def __init__(self, project: str, view: FeatureView) -> None:
        self.name = view.name
        self._prefix = view_prefix(project, view.name)
        self._join_keys = key_order(view.join_keys)
        self._ttl = view.ttl_seconds * 1_000_000
        fields = sorted(view.features, key=lambda field: field.datatype)
        self._names = [field.name for field in fields]
        self._pick = _picker(self._names)
        self._defaults = tuple(_default(view.name, field) for field in fields)
        self._missing = (_NAT, *self._defaults)
        self._no_rows: list[tuple[Any, ...]] = [()] * len(self._missing)
        self._blocks = [
            (datatype, [f"{view.name}__{field.name}" for field in block])
            for datatype, block in groupby(fields, key=lambda field: field.datatype)
        ]

    def keys(self, columns: Mapping[str, Sequence[KeyValue | None]]) -> list[bytes | None]:
        """Return each row's key, or None where the row has no entity."""
        values = [columns[name] for name in self._join_keys]
        prefix = self._prefix
        if any(None in column or "" in column for column in values):
            return [None if None in row or "" in row else pack_key(prefix, row) for row in zip(*values, strict=True)]
        return [pack_key(prefix, row) for row in zip(*values, strict=True)]

    def collect(self, row_keys: list[bytes | None], found: Mapping[bytes, FoundRow], moment: int, batch: "_Batch") -> None:
        """Add one value for each of `row_keys` to this view's columns of the batch."""
        oldest = moment - self._ttl if self._ttl else _NAT
        values = {key: self._values(found.get(key) if key else None, oldest) for key in set(row_keys)}
        times, *features = zip(*[values[key] for key in row_keys], strict=True) if row_keys else self._no_rows
        batch.add_times(self.name, times)
        start = 0
        for datatype, names in self._blocks:
            batch.add(datatype, names, features[start : start + len(names)])
            start += len(names)

    def _values(self, hit: FoundRow | None, oldest: int) -> tuple[Any, ...]:
        """Return a row's event time and its features, in the order of the blocks."""
        if hit is None or hit[0] < oldest:
            return self._missing
        row = unpack_row(hit[1])
        try:
            values = self._pick(row)
        except KeyError:  # the row was written before the view had this feature
            values = tuple(row.get(name) for name in self._names)
        if None in values:
            values = tuple(default if value is None else value for value, default in zip(values, self._defaults, strict=True))
        return (hit[0], *values)


class _Batch:
    """Gathers the values of all views, so that each datatype becomes one array whose rows are the columns."""

    def __init__(self) -> None:
        self._columns: dict[str, tuple[list[str], list[tuple[Any, ...]]]] = {}
        self._times: tuple[list[str], list[tuple[int, ...]]] = ([], [])

    def add(self, datatype: str, names: list[str], values: list[tuple[Any, ...]]) -> None:
        """Add columns of one datatype, each with one value a row."""
        gathered = self._columns.setdefault(datatype, ([], []))
        gathered[0].extend(names)
        gathered[1].extend(values)

    def add_times(self, view: str, times: tuple[int, ...]) -> None:
        """Add the event times of the rows used of a view, in microseconds."""
        self._times[0].append(view)
        self._times[1].append(times)

    def lookup(self) -> Lookup:
        """Return everything added."""
        columns: dict[str, npt.NDArray[Any]] = {}
        for datatype, (names, values) in self._columns.items():
            columns.update(zip(names, np.array(values, dtype=_DTYPES[datatype]), strict=True))
        views, times = self._times
        return Lookup(columns, dict(zip(views, np.array(times, dtype=np.int64).view("datetime64[us]"), strict=True)))


def _picker(names: list[str]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    if len(names) == 1:
        return lambda row: (row[names[0]],)
    return itemgetter(*names)


def _plain(values: KeyColumn) -> Sequence[KeyValue | None]:
    if isinstance(values, np.ndarray):
        plain: list[KeyValue | None] = values.tolist()
        return plain
    return values


def _default(view: str, field: FeatureField) -> Any:
    if field.datatype not in _DTYPES:
        raise FeatureError(f"feature {view}:{field.name}: {field.datatype} cannot be looked up; use {', '.join(_DTYPES)}")
    if field.default is not None:
        return field.default
    if field.datatype not in _MISSING:
        raise FeatureError(f"feature {view}:{field.name}: {field.datatype} has no missing value; give it a default")
    return _MISSING[field.datatype]
