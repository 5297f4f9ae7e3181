"""A drift run: check the newest window, let the drift policy decide, claim the retraining, and write the decision down.

monitoring/<model>/decisions/<window end>.json
"""

from datetime import datetime, timedelta

import msgspec

from tidegate.clock import Clock
from tidegate.monitoring.check import check_drift
from tidegate.monitoring.records import MONITORING_ROOT, DriftCheck, Retraining, check_key, read_retrainings
from tidegate.monitoring.trigger import consider_retraining, mark_finished, mark_started
from tidegate.project import Project
from tidegate.registry.registry import ModelRegistry
from tidegate.release.record import ReleaseLedger
from tidegate.storage import ObjectStore, open_store


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the drift policy decided after a check; `retraining` is the number of the claimed retraining, if one was due."""

    window_end: datetime
    decided_at: datetime  # event time
    retrain: bool
    reason: str
    retraining: int | None


def check_and_decide(project: Project, *, clock: Clock, run_id: str) -> tuple[DriftCheck, DecisionRecord]:
    """Check the window whose labels are due by now, decide, and claim the retraining if one follows.

    Args:
        project: The project file.
        clock: Event time. The window ends `monitoring.label_delay_hours` before now.
        run_id: Names this run; trying again under the same name resumes its claim.

    Raises:
        MonitoringError: There is nothing to check, or a record is malformed.
    """
    store = open_store(project.store_uri)
    now = clock.now()
    window_end = now - timedelta(hours=project.monitoring.label_delay_hours)
    check = check_drift(project, store, ModelRegistry(store), window_end)
    decision, retraining = consider_retraining(project.monitoring.policy, store, check, run_id=run_id, now=now)
    record = DecisionRecord(
        window_end=check.window_end,
        decided_at=now,
        retrain=retraining is not None,
        reason=decision.reason,
        retraining=None if retraining is None else retraining.number,
    )
    store.put(_decision_key(project.name, check), msgspec.json.format(msgspec.json.encode(record)))
    return check, record


def read_decisions(store: ObjectStore, model: str) -> list[DecisionRecord]:
    """Return every decision about a model, oldest window first."""
    keys = store.list(f"{MONITORING_ROOT}/{model}/decisions/")
    return [msgspec.json.decode(store.get(key).data, type=DecisionRecord) for key in keys]


def begin_retraining(project: Project, *, number: int, release_id: str) -> None:
    """Record that the release of a claimed retraining starts; raises MonitoringError if another run took it over."""
    store = open_store(project.store_uri)
    mark_started(store, _retraining(store, project.name, number), release_id=release_id)


def close_retraining(project: Project, *, number: int, release_id: str) -> str:
    """Record how the release of a retraining ended, from the release record, and return that in words."""
    store = open_store(project.store_uri)
    release = ReleaseLedger(store, project.name).find(release_id)
    outcome = (
        "no release record" if release is None else release.state + (f": {release.stopped_by}" if release.stopped_by else "")
    )
    mark_finished(store, _retraining(store, project.name, number), outcome=outcome)
    return outcome


def _retraining(store: ObjectStore, model: str, number: int) -> Retraining:
    return next(retraining for retraining in read_retrainings(store, model) if retraining.number == number)


def _decision_key(model: str, check: DriftCheck) -> str:
    return check_key(model, check.window_end).replace("/checks/", "/decisions/")
