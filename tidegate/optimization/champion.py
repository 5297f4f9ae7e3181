"""The champion gate: is a challenger at least as good as the champion on the most recent labels, which neither has seen?"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tidegate.optimization.accuracy import labelled_rows
from tidegate.optimization.delong import roc_areas
from tidegate.packaging.inference import PackageModel
from tidegate.packaging.manifest import Verdict
from tidegate.packaging.package import read_manifest
from tidegate.project import Project


def compare_with_champion(project: Project, challenger: Path, champion: Path | None, recent: pa.Table) -> Verdict:
    """Compare two packages on the same recent rows, paired, by ROC AUC.

    The gate passes if, with the project's confidence, the challenger loses no more than `gates.champion.max_loss`: the
    one-sided upper bound of the loss (DeLong, paired) must lie at or below it. Without a champion it passes, and says so; with
    fewer labelled rows than `gates.champion.min_rows`, or only one class among them, it fails, and says so.

    Args:
        project: The project file.
        challenger: The package that wants to be released.
        champion: The package now released, or None.
        recent: Rows that neither was trained on: all model inputs of both, and the label column (null where unknown).

    Raises:
        DataError: A column is missing or has a type that cannot be read as the model's input.
        PackageError: A package cannot be opened.
    """
    gate = project.gates.champion
    rows = labelled_rows(recent, project.label.column)
    labels = rows[project.label.column].to_numpy().astype(np.int64)
    fewest = int(min((labels == 0).sum(), (labels == 1).sum()))
    measure = f"roc_auc loss to the champion, upper {gate.confidence:.0%} bound"
    subject = _subject(challenger)

    def verdict(*, passed: bool, note: str, value: float | None = None) -> Verdict:
        return Verdict(
            gate="champion", subject=subject, measure=measure, value=value, bound=gate.max_loss, passed=passed, note=note
        )

    if champion is None:
        return verdict(passed=True, note="no champion yet: nothing to compare with")
    if rows.num_rows < gate.min_rows:
        return verdict(passed=False, note=f"{rows.num_rows} labelled rows, at least {gate.min_rows} are needed to decide")
    if fewest < 2:
        return verdict(passed=False, note=f"only one class among {rows.num_rows} labelled rows: nothing can be compared")
    areas = roc_areas(labels, np.stack([PackageModel(champion).predict(rows), PackageModel(challenger).predict(rows)]))
    bound = areas.loss_bound(0, 1, gate.confidence)
    before, after = (float(area) for area in areas.values)
    return verdict(
        value=bound,
        passed=bound <= gate.max_loss,
        note=f"champion {before:.4f}, challenger {after:.4f} on {rows.num_rows} labelled rows, paired (DeLong)",
    )


def _subject(challenger: Path) -> str:
    variant = read_manifest(challenger).variant
    return f"{variant.candidate}/{variant.name}"
