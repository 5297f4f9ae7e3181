"""Concept drift: how much accuracy the model lost on late labels, against the holdout it was accepted on."""

from datetime import datetime
from math import sqrt
from statistics import NormalDist

import pyarrow as pa
import pyarrow.compute as pc

from tidegate.errors import DataError
from tidegate.monitoring.records import ConceptDrift
from tidegate.optimization.metrics.delong import RocAreas, roc_areas

CONFIDENCE = 0.95


def measure_concept_drift(
    reference: pa.Table, window: pa.Table, *, asked_before: datetime, min_rows: int, max_loss: float
) -> ConceptDrift:
    """Compare the AUC on a window's labelled rows with the AUC on the reference.

    Only predictions asked for before `asked_before` take part, so that slow labels have had the time to arrive too:
    flights that land late are also known late, and leaving them out would flatter the model. Concept has drifted when the
    loss is at least `max_loss` and its two-sided 95 % confidence interval lies above zero; the two samples are
    independent, so their DeLong variances add.

    Args:
        reference: Columns `probability` and `label`; rows without a label are left out.
        window: Columns `event_time`, `probability` and `label`; the same.
        asked_before: Event time.
        min_rows: Fewer labelled rows than this in the window say nothing.
        max_loss: The smallest loss of AUC that is concept drift.
    """
    ripe = window.filter(pc.less(window["event_time"], pa.scalar(asked_before, type=window["event_time"].type)))
    labelled = ripe.filter(pc.is_valid(ripe["label"]))
    if labelled.num_rows < min_rows:
        note = f"{labelled.num_rows} labelled rows of {ripe.num_rows}; {min_rows} are needed"
        return ConceptDrift(labelled_rows=labelled.num_rows, bound=max_loss, drifted=False, note=note)
    try:
        before, now = _areas(reference.filter(pc.is_valid(reference["label"]))), _areas(labelled)
    except DataError as error:
        return ConceptDrift(labelled_rows=labelled.num_rows, bound=max_loss, drifted=False, note=str(error))
    loss = float(before.values[0] - now.values[0])
    half_width = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * sqrt(before.covariance[0, 0] + now.covariance[0, 0])
    return ConceptDrift(
        labelled_rows=labelled.num_rows,
        reference=float(before.values[0]),
        window=float(now.values[0]),
        loss=loss,
        loss_low=loss - half_width,
        loss_high=loss + half_width,
        bound=max_loss,
        drifted=loss >= max_loss and loss - half_width > 0,
    )


def _areas(rows: pa.Table) -> RocAreas:
    return roc_areas(rows["label"].to_numpy(), rows["probability"].to_numpy()[None, :])
