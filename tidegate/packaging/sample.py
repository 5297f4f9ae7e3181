"""Draws the golden sample of a package: real training rows, and rows at and beyond the edges of what training held."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.manifest import TensorSpec

_UNKNOWN_CATEGORY = "never seen ☃"


def sample_rows(rows: pa.Table, count: int, seed: int) -> pa.Table:
    """Return `count` rows of the table (or all, if it has fewer), drawn with the seed, in the table's order."""
    if rows.num_rows <= count:
        return rows
    chosen = np.random.default_rng(seed).choice(rows.num_rows, size=count, replace=False)
    return rows.take(np.sort(chosen))


def golden_inputs(rows: pa.Table, inputs: Sequence[TensorSpec], *, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return the inputs of `count` real rows, and of the rows that `edge_inputs` makes of the first."""
    real = input_arrays(sample_rows(rows, count, seed), inputs)
    edges = edge_inputs({name: array[:1] for name, array in real.items()}, rows, inputs)
    return {name: np.concatenate([array, *edges[name]]) for name, array in real.items()}


def edge_inputs(base: Mapping[str, np.ndarray], rows: pa.Table, inputs: Sequence[TensorSpec]) -> dict[str, list[np.ndarray]]:
    """Return variations of one row, each of shape [1, …].

    Each input in turn takes its lowest and highest value, is missing if training held missing values, and is of a category
    that training never saw.
    """
    variations = [
        {**base, spec.name: np.full_like(base[spec.name], value)}
        for spec in inputs
        for value in _edge_values(spec, missing=rows.column(spec.name).null_count > 0)
    ]
    return {name: [row[name] for row in variations] for name in base}


def _edge_values(spec: TensorSpec, *, missing: bool) -> list[float | int | str]:
    if spec.datatype == "BYTES":
        return [_UNKNOWN_CATEGORY, ""] if missing else [_UNKNOWN_CATEGORY]
    ends: list[float | int | str] = [] if spec.minimum is None or spec.maximum is None else [spec.minimum, spec.maximum]
    if spec.datatype == "BOOL":
        return [False, True]
    if "INT" in spec.datatype:
        return [int(end) for end in ends]
    return [*ends, float("nan")] if missing else ends
