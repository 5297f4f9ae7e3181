"""Retrainings as releases: a drift run's decision written down, and the release that answers it begun and closed.

monitoring/<model>/decisions/<window end>.json
"""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tidegate.errors import MonitoringError
from tidegate.monitoring.decision import DriftOutcome, check_and_decide
from tidegate.monitoring.push import push_drift_check
from tidegate.monitoring.records import MONITORING_ROOT, DriftCheck, Retraining, check_key, read_retrainings
from tidegate.monitoring.trigger import mark_finished, mark_started
from tidegate.project import Project
from tidegate.release.record import ReleaseLedger
from tidegate.storage import ObjectStore, open_store


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the drift policy decided after a check; `retraining` is the number of the claimed retraining, if one was due."""

    window_end: datetime
    retrain: bool
    reason: str
    retraining: int | None


def run_drift_check(project: Project, *, now: datetime, report: Path, run_id: str) -> DriftOutcome:
    """Check the window that ends now, decide, claim the retraining if one is due, and write the decision down.

    On a cluster with a Pushgateway the numbers are pushed as well; should that fail, the outcome says so in its note, and the
    alert on drift checks that are not made goes off in time.
    """
    outcome = check_and_decide(project, now=now, report=report, run_id=run_id)
    record = DecisionRecord(
        window_end=outcome.check.window_end,
        retrain=outcome.retrain,
        reason=outcome.reason,
        retraining=None if outcome.retraining is None else outcome.retraining.number,
    )
    key = check_key(project.name, record.window_end).replace("/checks/", "/decisions/")
    open_store(project.store_uri).put(key, msgspec.json.format(msgspec.json.encode(record)))
    try:
        _push(project, outcome.check)
    except MonitoringError as error:
        return replace(outcome, note=f"The numbers could not be pushed: {error}")
    return outcome


def _push(project: Project, check: DriftCheck) -> None:
    prometheus = project.on_cluster.prometheus if project.target == "kserve" else None
    if prometheus is not None and prometheus.pushgateway is not None:
        push_drift_check(prometheus.pushgateway, project.on_cluster.namespace, check, at=datetime.now(UTC))


def read_decisions(store: ObjectStore, model: str) -> list[DecisionRecord]:
    """Return every decision about a model, oldest window first."""
    keys = store.list(f"{MONITORING_ROOT}/{model}/decisions/")
    return [msgspec.json.decode(store.get(key).data, type=DecisionRecord) for key in keys]


def begin_retraining(project: Project, *, number: int, release_id: str) -> None:
    """Record that the release of a claimed retraining starts; raises MonitoringError if another run took it over."""
    store = open_store(project.store_uri)
    retraining = _retraining(store, project.name, number)
    if retraining.run_id != release_id:
        raise MonitoringError(
            f"retraining {number} of {project.name} was taken over by run {retraining.run_id!r}; nothing to start"
        )
    mark_started(store, retraining, release_id=release_id)


def close_retraining(project: Project, *, number: int, release_id: str) -> str:
    """Record how the release of a retraining ended, from the release record, and return that in words."""
    store = open_store(project.store_uri)
    release = ReleaseLedger(store, project.name).find(release_id)
    outcome = "no release was begun" if release is None else ": ".join(filter(None, (release.state, release.stopped_by)))
    mark_finished(store, _retraining(store, project.name, number), outcome=outcome)
    return outcome


def _retraining(store: ObjectStore, model: str, number: int) -> Retraining:
    for retraining in read_retrainings(store, model):
        if retraining.number == number:
            return retraining
    raise MonitoringError(f"model {model!r} has no retraining {number}; a drift run claims one")
