"""The parity gate: how far a variant's outputs lie from the source model's on the golden sample."""

from dataclasses import dataclass

import numpy as np

from tidegate.packaging.golden import Golden
from tidegate.packaging.inference import PackageModel
from tidegate.packaging.manifest import PROBABILITY, Verdict
from tidegate.project import ParityGate

_ROWS_ALONE = 32


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest absolute difference, and the share of rows whose class changes, over `rows` rows."""

    max_absolute: float
    flip_rate: float
    rows: int


def measure_parity(model: PackageModel, golden: Golden) -> Parity:
    """Compare a package with the golden outputs, all rows in one batch and some of them each on its own.

    A NaN where the golden sample has a number counts as an infinite difference.
    """
    expected = golden.outputs[PROBABILITY].astype(np.float64)
    together = model.outputs_of(golden.inputs)[PROBABILITY]
    alone = [_row_alone(model, golden, row) for row in _rows_alone(golden)]
    found = np.concatenate([together, *alone]).astype(np.float64)
    expected = np.concatenate([expected, expected[_rows_alone(golden)]])
    difference = np.where(np.isnan(found) & np.isnan(expected), 0.0, np.abs(found - expected))
    threshold = model.manifest.threshold or 0.5
    flips = (found >= threshold) != (expected >= threshold)
    return Parity(
        max_absolute=float(np.nan_to_num(difference, nan=np.inf).max()), flip_rate=float(flips.mean()), rows=golden.rows
    )


def judge_parity(name: str, parity: Parity, gate: ParityGate, *, reduced_precision: bool) -> tuple[Verdict, ...]:
    """Hold a parity to the gate's bounds, those for reduced precision if the variant reduces it."""
    tolerance = gate.int8 if reduced_precision else gate.full
    absolute, flips = tolerance.max_absolute, tolerance.max_flip_rate
    note = f"{parity.rows} golden rows, {'reduced' if reduced_precision else 'full'} precision"
    finite = parity.max_absolute if np.isfinite(parity.max_absolute) else None
    return (
        Verdict(
            gate="parity",
            subject=name,
            measure="largest absolute difference of the probability to the source model's",
            value=finite,
            bound=absolute,
            passed=finite is not None and finite <= absolute,
            note=note if finite is not None else f"{note}; an output is not a number",
        ),
        Verdict(
            gate="parity",
            subject=name,
            measure="share of rows whose class changes",
            value=parity.flip_rate,
            bound=flips,
            passed=parity.flip_rate <= flips,
            note=note,
        ),
    )


def _rows_alone(golden: Golden) -> list[int]:
    """Return row numbers spread evenly over the sample, its last row (an edge) among them."""
    return sorted({int(row) for row in np.linspace(0, golden.rows - 1, num=min(_ROWS_ALONE, golden.rows))})


def _row_alone(model: PackageModel, golden: Golden, row: int) -> np.ndarray:
    return model.outputs_of({name: array[row : row + 1] for name, array in golden.inputs.items()})[PROBABILITY]
