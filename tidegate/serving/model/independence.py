"""Finds out whether a graph answers each row for itself: only then may rows of several requests share one run.

Rows depend on each other where a graph reduces over the batch axis, or quantizes by the range of a whole batch, as
DynamicQuantizeLinear does: there a stranger's outlier would change a caller's answer. No graph is read for that; it is run.
"""

from collections.abc import Callable, Mapping
from time import perf_counter

import numpy as np

from tidegate.errors import in_one_line
from tidegate.packaging.format.golden import Golden
from tidegate.serving.protocol.tensors import Array

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
Tolerances = Callable[[str, Array], tuple[float, float]]

_MOST_ROWS = 8
_MOST_SECONDS = 0.25
_FARTHER = 64  # how much larger the strangers' numbers are
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6  # of runs of the same size: the same kernels in the same order


def why_rows_depend(run: Run, golden: Golden, tolerances: Tolerances) -> str | None:
    """Return what shows that a row's answer depends on the others in its run, or None if nothing does.

    Args:
        run: Runs the graph on the signature's inputs.
        golden: The golden sample, whose first rows are tried.
        tolerances: Relative and absolute tolerance between runs of other sizes, for an output's name and what it should be.
    """
    return _among_strangers(run, golden) or _one_by_one(run, golden, tolerances)


def _one_by_one(run: Run, golden: Golden, tolerances: Tolerances) -> str | None:
    """Compare rows run alone with what was recorded of them among others."""
    begun = perf_counter()
    for row in range(min(golden.rows, _MOST_ROWS)):
        try:
            alone = run(_rows(golden.inputs, [row]))
        except Exception as error:  # ONNX Runtime raises its own kinds of errors
            return f"row {row} of the golden sample cannot be run alone: {in_one_line(error)}"
        for name, expected in golden.outputs.items():
            if not _agree(alone[name], expected[row : row + 1], *tolerances(name, expected)):
                return f"row {row} of the golden sample has another {name!r} alone than among {golden.rows} rows"
        if perf_counter() - begun > _MOST_SECONDS:
            break
    return None


def _among_strangers(run: Run, golden: Golden) -> str | None:
    """Compare the first row's answer among its like with that among strangers, in runs of one size."""
    order = np.resize(np.arange(golden.rows), _MOST_ROWS)
    like = _rows(golden.inputs, order)
    strangers = {name: _strange(array) for name, array in like.items()}
    expected = run(like)
    try:
        found = run(strangers)
    except Exception:  # the graph takes no such numbers, so no request of them can change another's answer
        return None
    for name, values in expected.items():
        if not _agree(found[name][:1], values[:1], max(_RELATIVE, _digits(values)), _ABSOLUTE):
            return f"a row has another {name!r} when the other rows of its run hold larger numbers"
    return None


def _rows(arrays: Mapping[str, Array], rows: "list[int] | Array") -> dict[str, Array]:
    return {name: np.ascontiguousarray(array[rows]) for name, array in arrays.items()}


def _strange(array: Array) -> Array:
    """Return the first row as it is and larger numbers in the others; texts and integers, which may be codes, change places."""
    others = array[:0:-1]
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            others = np.nan_to_num((others + 1) * array.dtype.type(_FARTHER), copy=False, nan=np.nan)
    return np.concatenate([array[:1], others])


def _agree(found: Array, expected: Array, relative: float, absolute: float) -> bool:
    if found.shape != expected.shape:
        return False
    if expected.dtype.kind != "f":
        return bool(np.array_equal(found, expected))
    return bool(np.allclose(found.astype(np.float64), expected.astype(np.float64), relative, absolute, equal_nan=True))


def _digits(values: Array) -> float:
    return 4 * float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0
