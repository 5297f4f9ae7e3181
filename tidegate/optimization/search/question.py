"""What a search is asked, and what is wrong with it before anything is built."""

from dataclasses import dataclass

import pyarrow as pa

from tidegate.errors import DataError, OptimizationError
from tidegate.optimization.gates.accuracy import accuracy_gate, labelled_rows
from tidegate.optimization.isolation.workers import Limits
from tidegate.packaging.format.manifest import SCORE_OUTPUTS, Manifest
from tidegate.project import GatesSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a search is asked.

    Attributes:
        gates: Bounds, objective and prices.
        holdout: Rows that training never saw.
        label_column: Their label, or None: then accuracy is not judged, and the verdicts say so.
        seed: Of every draw.
        limits: Of each process.
    """

    gates: GatesSection
    holdout: pa.Table
    label_column: str | None
    seed: int
    limits: Limits

    def rows(self, manifest: Manifest) -> pa.Table:
        """Return the rows that a package's variants are judged on: those with a label, if there are labels.

        Raises:
            DataError: There are none, or the labels are not what the package's task needs.
            OptimizationError: A gate does not fit the package.
        """
        accuracy_gate(self.gates, manifest.task)
        _check_outputs(self.gates, manifest)
        if self.holdout.num_rows == 0:
            raise DataError("the holdout holds no rows; the gates need rows that training never saw")
        if self.label_column is None:
            return self.holdout
        if manifest.task not in SCORE_OUTPUTS:
            raise DataError(
                f"label column {self.label_column!r} was given, but a model of {manifest.task} has no score to judge"
            )
        rows = labelled_rows(self.holdout, self.label_column, manifest.task, manifest.classes)
        if rows.num_rows == 0:
            raise DataError(f"label column {self.label_column!r} holds no label; the gates need labelled rows")
        return rows


def _check_outputs(gates: GatesSection, manifest: Manifest) -> None:
    known = [spec.name for spec in manifest.signature.outputs]
    for name in gates.parity.outputs:
        if name not in known:
            raise OptimizationError(f"gates.parity.outputs.{name}: no such output; the model has {', '.join(known)}")
