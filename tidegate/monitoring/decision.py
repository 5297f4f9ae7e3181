"""A whole drift run: check the last window, let the policy decide, and claim the retraining if one is due."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tidegate.monitoring.check import check_drift
from tidegate.monitoring.policy import Decision
from tidegate.monitoring.records import DriftCheck, Retraining, check_key
from tidegate.monitoring.trigger import consider_retraining
from tidegate.project import Project
from tidegate.registry.registry import ModelRegistry
from tidegate.storage import open_store


@dataclass(frozen=True, slots=True)
class DriftOutcome:
    """What a drift run found and decided.

    Attributes:
        check: The numbers.
        decision: What the drift policy made of them.
        retraining: The claim, if this run is the one to start the release.
        note: What went wrong besides, such as numbers that could not be pushed.
    """

    check: DriftCheck
    decision: Decision
    retraining: Retraining | None
    note: str = ""

    @property
    def retrain(self) -> bool:
        """Whether this run is to start the release."""
        return self.retraining is not None

    @property
    def reason(self) -> str:
        """The decision in words."""
        return self.decision.reason

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers behind the decision, by name."""
        found = {
            "rows": float(self.check.rows),
            "drifted_share": self.check.drifted_share,
            "prediction_psi": self.check.prediction.psi,
            "labelled_rows": float(self.check.concept.labelled_rows),
        }
        if self.check.concept.window is not None and self.check.concept.loss is not None:
            found |= {"roc_auc": self.check.concept.window, "roc_auc_loss": self.check.concept.loss}
        return found

    @property
    def markdown(self) -> str:
        """The decision and the farthest moved columns, for people."""
        farthest = self.check.columns[:10]
        rows = "\n".join(f"| {column.column} | {column.psi:.3f} | {'yes' if column.drifted else 'no'} |" for column in farthest)
        return (
            f"## {'Retrain' if self.retrain else 'Keep the champion'}\n\n{self.reason}\n\n"
            f"{self.check.model} version {self.check.version}, {self.check.window_start:%Y-%m-%d %H:%M} to "
            f"{self.check.window_end:%Y-%m-%d %H:%M} UTC, {self.check.rows:,} predictions\n\n{self.check.summary}\n\n"
            f"| column | PSI | drifted |\n| --- | ---: | --- |\n{rows}\n" + (f"\n{self.note}\n" if self.note else "")
        )


def check_and_decide(project: Project, *, now: datetime, report: Path, run_id: str | None = None) -> DriftOutcome:
    """Check the window that ends at `now` (event time) and decide whether to retrain.

    Args:
        project: The project file.
        now: End of the window, and event time of the decision.
        report: Where to write the HTML report, besides the object store.
        run_id: Names this run, so that the same run tried again resumes its claim; a fresh name by default.

    Raises:
        MonitoringError: The check could not be made.
    """
    store = open_store(project.store_uri)
    check = check_drift(project, store, ModelRegistry(store), now)
    report.write_bytes(store.get(check_key(project.name, check.window_end, ".html")).data)
    run_id = run_id or f"drift-{uuid.uuid4().hex[:12]}"
    decision, retraining = consider_retraining(project.monitoring.policy, store, check, run_id=run_id)
    return DriftOutcome(check, decision, retraining)
