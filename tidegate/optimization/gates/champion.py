"""The champion gate: is a challenger at least as good as the champion on the most recent labels, which neither has seen?"""

from pathlib import Path

import pyarrow as pa

from tidegate.errors import DataError
from tidegate.optimization.gates.accuracy import labelled_rows, labels_of
from tidegate.optimization.metrics import metric
from tidegate.packaging.format.manifest import Verdict
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.inference import PackageModel
from tidegate.project import Project


def compare_with_champion(project: Project, challenger: Path, champion: Path | None, recent: pa.Table) -> Verdict:
    """Compare two packages on the same recent rows, paired, by the metric of `gates.accuracy`.

    The gate passes if, with the project's confidence, the challenger loses no more than `gates.champion.max_loss`: the
    one-sided upper bound of the loss (of log_loss as a share of the champion's own) must lie at or below it. Without a champion
    it passes, and says so; with fewer labelled rows than `gates.champion.min_rows`, or rows that give no value, such as for
    want of a class, it fails, and says so.

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
    judged = metric(project.gates.accuracy.metric, threshold=project.serving.threshold)
    rows = labelled_rows(recent, project.label.column, project.task)
    labels = labels_of(rows, project.label.column)
    share = " as a share of it" if judged.loss_is_share else ""
    measure = f"{judged.name} loss to the champion{share}, upper {gate.confidence:.0%} bound"
    subject = _subject(challenger)

    def verdict(*, passed: bool, note: str, value: float | None = None) -> Verdict:
        return Verdict(
            gate="champion", subject=subject, measure=measure, value=value, bound=gate.max_loss, passed=passed, note=note
        )

    if champion is None:
        return verdict(passed=True, note="no champion yet: nothing to compare with")
    if rows.num_rows < gate.min_rows:
        return verdict(passed=False, note=f"{rows.num_rows} labelled rows, at least {gate.min_rows} are needed to decide")
    before, after = (PackageModel(package).predict(rows) for package in (champion, challenger))
    try:
        loss = judged.loss(labels, before, after, gate.confidence)
        values = [judged.estimate(labels, scores, gate.confidence).value for scores in (before, after)]
    except DataError as error:
        return verdict(passed=False, note=f"nothing can be compared: {error}")
    return verdict(
        value=loss.bound,
        passed=loss.bound <= gate.max_loss,
        note=f"champion {values[0]:.4f}, challenger {values[1]:.4f} on {rows.num_rows} labelled rows, paired ({judged.method})",
    )


def _subject(challenger: Path) -> str:
    variant = read_manifest(challenger).variant
    return f"{variant.candidate}/{variant.name}"
