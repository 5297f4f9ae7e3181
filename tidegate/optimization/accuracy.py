"""The accuracy gate: a variant's ROC AUC on the labelled holdout, and its loss against its candidate's baseline."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidegate.errors import DataError
from tidegate.optimization.delong import roc_areas
from tidegate.optimization.records import Accuracy
from tidegate.packaging.manifest import Verdict
from tidegate.project import AccuracyGate


def labelled_rows(table: pa.Table, label_column: str) -> pa.Table:
    """Return the rows whose label is known; raises DataError if the column is missing or holds anything but 0, 1 and null."""
    if label_column not in table.column_names:
        raise DataError(f"label column {label_column!r} is missing; the table has {', '.join(table.column_names)}")
    known = table.filter(pc.is_valid(table[label_column]))
    try:
        found = set(pc.unique(known[label_column].cast(pa.float64())).to_pylist())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"label column {label_column!r} has type {table[label_column].type}; 0 and 1 are needed") from None
    if not found <= {0.0, 1.0}:
        raise DataError(f"label column {label_column!r} holds {sorted(found - {0.0, 1.0})[0]:g}; 0 and 1 are needed")
    return known


def measure_accuracy(labels: np.ndarray, baseline: np.ndarray, variant: np.ndarray, confidence: float) -> Accuracy:
    """Compare two score vectors of shape [n] on the same labelled rows; raises DataError as `roc_areas` does."""
    areas = roc_areas(labels, np.stack([baseline, variant]))
    low, high = areas.interval(1, confidence)
    return Accuracy(
        metric="roc_auc",
        value=float(areas.values[1]),
        low=low,
        high=high,
        loss=areas.loss(0, 1),
        loss_bound=areas.loss_bound(0, 1, confidence),
        rows=len(labels),
    )


def judge_accuracy(name: str, accuracy: Accuracy, gate: AccuracyGate) -> tuple[Verdict, ...]:
    """Hold an accuracy to the gate's minimum, and its loss bound to the largest accepted loss."""
    note = f"{accuracy.rows} holdout rows"
    return (
        Verdict(
            gate="accuracy",
            subject=name,
            measure="roc_auc",
            value=accuracy.value,
            bound=(gate.bound or 0.0),
            passed=accuracy.value >= (gate.bound or 0.0),
            note=f"{note}, {gate.confidence:.0%} interval {accuracy.low:.4f} to {accuracy.high:.4f}",
        ),
        Verdict(
            gate="accuracy",
            subject=name,
            measure=f"roc_auc loss to its baseline, upper {gate.confidence:.0%} bound",
            value=accuracy.loss_bound,
            bound=gate.max_loss,
            passed=accuracy.loss_bound <= gate.max_loss,
            note=f"{note}, paired (DeLong), loss {accuracy.loss:.5f}",
        ),
    )


def not_judged(name: str, gate: AccuracyGate) -> Verdict:
    """Return the verdict of an accuracy that cannot be measured, since no labels were given; it passes, and says so."""
    return Verdict(
        gate="accuracy",
        subject=name,
        measure="roc_auc",
        value=None,
        bound=(gate.bound or 0.0),
        passed=True,
        note="not judged: no label column was given",
    )
