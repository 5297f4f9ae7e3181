"""Starts a retraining exactly once, however many drift runs look at the same drift, crash or run again.

    decision, retraining = consider_retraining(project.monitoring.policy, store, check, run_id="drift-42")
    if retraining is not None:
        retraining = mark_started(store, retraining, release_id="...")      # then start the release
        ...
        mark_finished(store, retraining, outcome="promoted")

Retraining n of a model is claimed by creating its record, which only one run can. A run that loses has decided on a history
that is no longer the newest, and must not retrain. A claim whose run died before the release started is taken over after
its lease; a release that started is never started again by another run.
"""

from datetime import UTC, datetime, timedelta

import msgspec

from tidegate.errors import MonitoringError, PreconditionFailed
from tidegate.monitoring.policy import Decision, decide
from tidegate.monitoring.records import DriftCheck, Retraining, encode, read_checks, read_retrainings, retraining_key
from tidegate.project import DriftPolicySection
from tidegate.storage import ObjectStore

LEASE = timedelta(minutes=15)  # wall time a drift run has between its claim and the start of the release


def consider_retraining(
    policy: DriftPolicySection, store: ObjectStore, check: DriftCheck, *, run_id: str, now: datetime | None = None
) -> tuple[Decision, Retraining | None]:
    """Decide on the newest check, and claim the retraining if one is due.

    Args:
        policy: The project file's `monitoring.policy`.
        store: The object store with the model's checks and retrainings.
        check: The newest check, as `check_drift` recorded it.
        run_id: Names the drift run; a run that is tried again under the same name resumes its own claim.
        now: Event time of the decision; the check's `window_end` by default.

    Returns:
        The decision, and the claimed retraining if this run is the one to start the release.
    """
    at = check.window_end if now is None else now
    retrainings = read_retrainings(store, check.model)
    resumed = _resume(store, retrainings[-1], run_id) if retrainings else None
    if resumed is not None:
        return Decision(True, resumed.reason, resumed.at, (resumed.window_end,)), resumed
    decision = decide(policy, read_checks(store, check.model), retrainings, at)
    if not decision.retrain:
        return decision, None
    claimed = claim_retraining(store, check, decision, number=len(retrainings) + 1, run_id=run_id)
    if claimed is None:
        return Decision(False, "another drift run claimed this retraining first", at, decision.windows), None
    return decision, claimed


def claim_retraining(
    store: ObjectStore, check: DriftCheck, decision: Decision, *, number: int, run_id: str
) -> Retraining | None:
    """Create the record of retraining `number`, or return None if another run was first."""
    retraining = Retraining(
        number=number,
        model=check.model,
        version=check.version,
        at=decision.at,
        window_end=check.window_end,
        reason=decision.reason,
        run_id=run_id,
        claimed_at=datetime.now(UTC),
    )
    try:
        store.create(retraining_key(check.model, number), encode(retraining))
    except PreconditionFailed:
        return None
    return retraining


def mark_started(store: ObjectStore, retraining: Retraining, *, release_id: str) -> Retraining:
    """Record that the release runs; raises MonitoringError if another run took the claim over meanwhile."""
    return _change(store, retraining, state="started", release_id=release_id)


def mark_finished(store: ObjectStore, retraining: Retraining, *, outcome: str) -> Retraining:
    """Record how the release ended; raises MonitoringError if another run took the claim over meanwhile."""
    return _change(store, retraining, state="finished", outcome=outcome)


def _resume(store: ObjectStore, retraining: Retraining, run_id: str) -> Retraining | None:
    own = retraining.run_id == run_id and retraining.state != "finished"
    abandoned = retraining.state == "claimed" and datetime.now(UTC) >= retraining.claimed_at + LEASE
    if not own and not abandoned:
        return None
    try:
        return _change(store, retraining, run_id=run_id, claimed_at=datetime.now(UTC))
    except MonitoringError:
        return None


def _change(store: ObjectStore, retraining: Retraining, **changes: str | datetime) -> Retraining:
    key = retraining_key(retraining.model, retraining.number)
    stored = store.get(key)
    current = msgspec.json.decode(stored.data, type=Retraining)
    changed = msgspec.structs.replace(retraining, **changes)
    if current != retraining:
        raise MonitoringError(
            f"retraining {retraining.number} of {retraining.model} is {current.state} by run {current.run_id!r}; "
            f"run {retraining.run_id!r} must not go on with it"
        )
    try:
        store.replace(key, encode(changed), stored.etag)
    except PreconditionFailed as error:
        raise MonitoringError(
            f"retraining {retraining.number} of {retraining.model} was changed by another run meanwhile"
        ) from error
    return changed
