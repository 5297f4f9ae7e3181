"""Histograms of a table's columns over bins that are fixed once, by the reference.

Fixed bins keep the numbers comparable between windows of any size: bins chosen anew for each window move with its number
of rows, and one outlier can squeeze all other values into a single bin. Numbers get bins between the reference's deciles,
open at both ends, and a value that fills more than a tenth of the rows gets a bin of its own; text gets its most frequent
values and one bin for all others. Missing values (null, NaN, empty text) are a bin of their own.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidegate.errors import MonitoringError
from tidegate.monitoring.files import duckdb_session

QUANTILES = 10
CATEGORIES = 20


@dataclass(frozen=True, slots=True)
class NumberBins:
    """Bins of a number: `(-inf, edges[0]], (edges[0], edges[1]], …, (edges[-1], inf)`, and missing."""

    edges: tuple[float, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each bin, the last for missing values."""
        limits = ["-∞", *(f"{edge:.4g}" for edge in self.edges), "∞"]
        between = [f"{low} to {high}" if low != high else f"= {high}" for low, high in itertools.pairwise(limits)]
        return (*between, "missing")


@dataclass(frozen=True, slots=True)
class CategoryBins:
    """Bins of a text: one for each category, one for every other text, and missing."""

    categories: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each bin, the last for missing values."""
        return (*self.categories, "other", "missing")


Bins = NumberBins | CategoryBins


def choose_bins(reference: pa.Table) -> dict[str, Bins]:
    """Return bins for each column of the reference; raises MonitoringError for a type that has none."""
    return {name: _choose(name, reference[name]) for name in reference.column_names}


def count_bins(table: pa.Table, bins: Mapping[str, Bins]) -> dict[str, np.ndarray]:
    """Count a table's rows into bins, in one pass over all of them.

    Args:
        table: Holds at least the columns that `bins` names.
        bins: What `choose_bins` returned.

    Returns:
        For each column an int64 array, one count for each of the bins' labels; its sum is the number of rows.

    Raises:
        MonitoringError: A column is missing, or does not hold the numbers or text that its bins are for.
    """
    absent = [name for name in bins if name not in table.column_names]
    if absent:
        raise MonitoringError(f"column {absent[0]!r} is missing; the table has {', '.join(table.column_names)}")
    if not bins:
        return {}
    columns = table.select(list(bins))
    for name, column_bins in bins.items():
        if _is_text(columns[name].type) is not isinstance(column_bins, CategoryBins) and columns[name].type != pa.null():
            raise MonitoringError(f"column {name!r} is {columns[name].type}, but the reference holds another kind of value")
    with duckdb_session() as session:
        session.register("data", columns)
        selected = ", ".join(_aggregate(name, column_bins) for name, column_bins in bins.items())
        (counted,) = session.sql(f"SELECT {selected} FROM data").fetchall()  # noqa: S608
    return {
        name: _as_array(dict(found or {}), column_bins, table.num_rows)
        for (name, column_bins), found in zip(bins.items(), counted, strict=True)
    }


def _choose(name: str, column: pa.ChunkedArray) -> Bins:
    if _is_text(column.type):
        return CategoryBins(_frequent(column))
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise MonitoringError(f"column {name!r} is {column.type}; only numbers and text can be watched")
    values = column.cast(pa.float64()).drop_null().to_numpy()
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return NumberBins(())
    probabilities = np.arange(1, QUANTILES) / QUANTILES
    deciles = np.quantile(values, probabilities, method="inverted_cdf")
    own, repeats = np.unique(deciles, return_counts=True)
    below = np.nextafter(own[repeats > 1], -np.inf)
    edges = np.unique(np.concatenate([own, below]))
    return NumberBins(tuple(edges[np.isfinite(edges)].tolist()))


def _frequent(column: pa.ChunkedArray) -> tuple[str, ...]:
    counted = pc.value_counts(column.cast(pa.string()).combine_chunks()).to_pylist()
    present = [(entry["counts"], entry["values"]) for entry in counted if entry["values"]]
    present.sort(key=lambda entry: (-entry[0], entry[1]))
    return tuple(value for _, value in present[:CATEGORIES])


def _aggregate(name: str, bins: Bins) -> str:
    column = '"' + name.replace('"', '""') + '"'
    if isinstance(bins, CategoryBins):
        known = ", ".join("'" + category.replace("'", "''") + "'" for category in bins.categories)
        text = f"CAST({column} AS VARCHAR)"
        if not known:
            return f"MAP {{'': count(*) FILTER ({text} <> '')}}"
        return f"histogram_exact({text}, [{known}]) FILTER ({text} <> '')"
    number = f"CAST({column} AS DOUBLE)"
    if not bins.edges:
        return f"MAP {{CAST('inf' AS DOUBLE): count(*) FILTER (NOT isnan({number}))}}"
    edges = ", ".join(f"CAST('{edge!r}' AS DOUBLE)" for edge in bins.edges)
    return f"histogram({number}, [{edges}]) FILTER (NOT isnan({number}))"


def _as_array(found: Mapping[float | str, int], bins: Bins, rows: int) -> np.ndarray:
    slots: Sequence[float | str]
    slots = (*bins.categories, "") if isinstance(bins, CategoryBins) else (*bins.edges, math.inf)
    counts = [found.get(slot, 0) for slot in slots]
    return np.array([*counts, rows - sum(counts)], dtype=np.int64)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
