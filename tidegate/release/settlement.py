"""Settles a release whose rollout ended in whatever way: no half-done rollout, and a record that says how it ended and why."""

from typing import Literal, cast

from tidegate.errors import RolloutError
from tidegate.project import Project
from tidegate.release.model import open_registry
from tidegate.release.record import ReleaseLedger, ReleaseRecord
from tidegate.rollout.record import RolloutJournal, RolloutRecord
from tidegate.storage import ObjectStore, open_store


def settle_rollout(project: Project, *, release_id: str) -> str:
    """Roll back what the rollout of a release left half-done, write the outcome down, and return it in words.

    A rollout that reached its outcome is left as it is. Settling again changes nothing.

    Args:
        project: The project file.
        release_id: The pipeline run's id.

    Raises:
        RolloutError: The release was never begun or registered no version, or the service did not settle after the rollback.
        DeploymentError: The target cannot be reached.
    """
    store = open_store(project.store_uri)
    ledger = ReleaseLedger(store, project.name)
    release = ledger.find(release_id)
    if release is None or release.version is None:
        raise RolloutError(f"release {release_id!r} of {project.name} registered no version; there is nothing to settle")
    rollout = _rollout_of(release, store, project)
    if rollout is None:
        cause = release.stopped_by or "the step that rolls out ended before it began"
        ledger.stop(release_id, cause)
        return f"version {release.version} was not rolled out: {cause}"
    if not rollout.finished:
        rollout = _roll_back(project, store, rollout, release)
    if (release.state, release.rollout_id) != (rollout.state, rollout.rollout_id):
        ledger.rolled_out(release_id, rollout.rollout_id, cast(Literal["promoted", "rolled_back"], rollout.state))
    return f"version {release.version} was {rollout.state.replace('_', ' ')}: {rollout.outcome}"


def _rollout_of(release: ReleaseRecord, store: ObjectStore, project: Project) -> RolloutRecord | None:
    """Return the rollout of the release's version, which no other release has; None if it was never started."""
    current = RolloutJournal(store, project.name).current()
    return current if current is not None and current.version == release.version else None


def _roll_back(project: Project, store: ObjectStore, rollout: RolloutRecord, release: ReleaseRecord) -> RolloutRecord:
    from tidegate.deployment.opening import open_target
    from tidegate.rollout.rollout import abort_rollout

    cause = f": {release.stopped_by}" if release.stopped_by else ""
    reason = f"the step that rolls out ended before the outcome{cause}"
    try:
        return abort_rollout(
            project=project, store=store, registry=open_registry(project), target=open_target(project), reason=reason
        )
    except RolloutError:
        current = RolloutJournal(store, project.name).load(rollout.rollout_id)
        if not current.finished:  # else someone else ended it at the same moment
            raise
        return current
