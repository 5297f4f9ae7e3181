"""Draws the golden sample of a package: real training rows, and rows at and beyond the edges of what training held."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidegate.packaging.format.manifest import TensorSpec
from tidegate.packaging.inputs import input_arrays, is_tensor, missing_values

_UNKNOWN_CATEGORY = "never seen ☃"
_LONG_TEXT = "long " * 50
_DENORMAL = 1e-40  # of 32 bits: some runtimes flush it to zero
_BEYOND = 0.01  # of the range
_MAX_EDGE_ROWS = 192
_MAX_BYTES = 16 * 1024 * 1024
_MIN_ROWS = 8

Edge = float | int | str


def sample_rows(rows: pa.Table, count: int, seed: int) -> pa.Table:
    """Return `count` rows of the table (or all, if it has fewer), drawn with the seed, in the table's order."""
    if rows.num_rows <= count:
        return rows
    chosen = np.random.default_rng(seed).choice(rows.num_rows, size=count, replace=False)
    return rows.take(np.sort(chosen))


def golden_inputs(
    rows: pa.Table, inputs: Sequence[TensorSpec], *, count: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the inputs of up to `count` real rows, and those of edge rows made from the first of them.

    Each input in turn takes its lowest and highest value, values just beyond, zero, is missing if training held missing values;
    a text is of the rarest category, of one that training never saw, empty, or long. There are at most 192 edge rows: where
    there are more edges than that, a row has several, of different inputs. Tensors may make both fewer: each takes at most
    16 MiB, but there are at least 8 real rows.
    """
    names = [spec.name for spec in inputs]
    row_bytes = max(1.0, rows.select(names).nbytes / rows.num_rows)
    affordable = max(_MIN_ROWS, int(_MAX_BYTES / row_bytes))
    real = input_arrays(sample_rows(rows, min(count, affordable), seed), inputs)
    first = {name: array[:1] for name, array in real.items()}
    varied = [{**first, **_filled(first, edges)} for edges in _edge_rows(rows, inputs, min(_MAX_EDGE_ROWS, affordable))]
    return real, {name: np.concatenate([first[name][:0], *(row[name] for row in varied)]) for name in names}


def _filled(first: Mapping[str, np.ndarray], edges: Mapping[str, Edge]) -> dict[str, np.ndarray]:
    return {name: np.full_like(first[name], edge) for name, edge in edges.items()}


def _edge_rows(rows: pa.Table, inputs: Sequence[TensorSpec], most: int) -> list[dict[str, Edge]]:
    """Share the edges of all inputs out to rows: one each, or if they are too many, several of different inputs."""
    by_input = [[(spec.name, edge) for edge in _edges(spec, rows.column(spec.name))] for spec in inputs]
    longest = max(map(len, by_input), default=0)
    in_turn = [edges[turn] for turn in range(longest) for edges in by_input if turn < len(edges)]
    shared: list[dict[str, Edge]] = [{} for _ in range(min(most, len(in_turn)))]
    for place, (name, edge) in enumerate(in_turn):
        shared[place % len(shared)].setdefault(name, edge)
    return shared


def _edges(spec: TensorSpec, column: pa.ChunkedArray) -> list[Edge]:
    if spec.datatype == "BYTES":
        return [*_rarest(column), _UNKNOWN_CATEGORY, "", _LONG_TEXT]
    if spec.datatype == "BOOL":
        return [False, True]
    low, high = spec.minimum, spec.maximum
    ends: list[Edge] = [] if low is None or high is None else [low, high]
    if "INT" in spec.datatype:
        return _whole(spec, ends, within=is_tensor(column))
    if low is not None and high is not None:
        step = (high - low) * _BEYOND or abs(high) * _BEYOND or 1.0
        ends += [low - step, high + step, *([0.0, _DENORMAL] if low <= 0 <= high else [])]
    most = float(np.finfo(np.float16 if spec.datatype == "FP16" else np.float32).max)
    legal = [end for end in ends if abs(float(end)) <= most]
    return [*legal, float("nan")] if missing_values(column) else legal


def _whole(spec: TensorSpec, ends: list[Edge], *, within: bool) -> list[Edge]:
    """Return the ends as whole numbers, and those next to them, but for tensors, whose numbers are places in a table."""
    whole = [int(end) for end in ends]
    beyond = [] if within or not whole else [whole[0] - 1, whole[1] + 1, *([0] if whole[0] <= 0 <= whole[1] else [])]
    bounds = np.iinfo(spec.datatype.lower())
    return [end for end in (*whole, *beyond) if bounds.min <= end <= bounds.max]


def _rarest(column: pa.ChunkedArray) -> list[Edge]:
    if is_tensor(column):
        return []
    counts = pc.value_counts(column.cast(pa.string()).drop_null())
    if len(counts) == 0:
        return []
    return [str(counts.field("values")[int(np.argmin(counts.field("counts").to_numpy()))].as_py())]
