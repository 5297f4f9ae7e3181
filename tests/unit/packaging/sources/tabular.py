"""Packages a model of rows in memory: accepted inputs, its own answers, its graph, and the graph's answers to the same rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tests.unit.packaging.sources.round_trip import Trip
from tidegate.packaging.inputs import input_arrays, training_arrays
from tidegate.packaging.signature import infer_inputs
from tidegate.packaging.sources.opening import wrap_model


def frame_of(table: pa.Table, columns: Sequence[str]) -> pd.DataFrame:
    """The columns as a train function gets them."""
    return pd.DataFrame(training_arrays(table, list(columns)))


def tabular_trip(model: Any, table: pa.Table) -> Trip:
    """Wrap and convert a fitted model, with all columns and rows of the table as its sample."""
    source = wrap_model(model, "model")
    inputs = source.accept(infer_inputs(table, source.columns or table.column_names, None))
    rows = input_arrays(table, inputs)
    return Trip(source, inputs, rows, source.to_onnx(inputs, rows))


def numbers(count: int, columns: int = 4, *, seed: int = 0, missing: float = 0.05) -> np.ndarray:
    """Rows of float32, some missing; the third column holds steps, whose middles are steps too."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, columns)).astype(np.float32)
    rows[:, 2] = np.round(rows[:, 2] * 3, 1)
    rows[rng.random(rows.shape) < missing] = np.nan
    return rows


def table_of(rows: np.ndarray) -> pa.Table:
    """A column `c0`, `c1`, … for each of the matrix."""
    return pa.table({f"c{place}": rows[:, place] for place in range(rows.shape[1])})


def score(rows: np.ndarray, seed: int = 1) -> np.ndarray:
    """What the targets of the tests are made of: the sum of a row, and noise."""
    return np.nansum(rows, axis=1) + np.random.default_rng(seed).normal(size=len(rows)) * 0.5
