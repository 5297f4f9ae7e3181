"""The last step of a release: roll a registered version out on the project's target."""

from typing import TYPE_CHECKING, Literal, cast

from tidegate.clock import open_clock
from tidegate.errors import TidegateError
from tidegate.project import Project
from tidegate.release.model import open_registry
from tidegate.release.record import ReleaseLedger
from tidegate.storage import open_store

if TYPE_CHECKING:
    from tidegate.rollout.record import RolloutRecord


def serving_environment(project: Project, *, clock: str) -> dict[str, str]:
    """Return the model server's settings for a revision of this project.

    Raises:
        ProjectError: It is to run on a cluster without an online store.
        FeatureError: On one machine: its Feast repository names no online store.
    """
    from tidegate.features.address import project_online_store

    serving = project.serving
    return {
        "TIDEGATE_NAME": project.name,
        "TIDEGATE_WORKERS": str(serving.workers),
        "TIDEGATE_ONLINE_STORE": project_online_store(project),
        "TIDEGATE_LOG_STORE": project.store_uri,
        "TIDEGATE_CLOCK": clock,
        "TIDEGATE_MAX_ROWS": str(serving.max_rows),
        "TIDEGATE_MAX_BODY_BYTES": str(serving.max_body_bytes),
        "TIDEGATE_LOG_ROTATE_ROWS": str(serving.log.rotate_rows),
        "TIDEGATE_LOG_ROTATE_SECONDS": str(serving.log.rotate_seconds),
        "TIDEGATE_LOG_QUEUE_ROWS": str(serving.log.queue_rows),
    }


def roll_out(project: Project, *, release_id: str, version: int, clock: str, reason: str) -> Literal["promoted", "rolled_back"]:
    """Shift traffic to `version` step by step; the judge promotes it or rolls it back. Returns the outcome.

    To be called in the main thread: a process that is told to end rolls back first. An error is written to the release record,
    from which `settle_rollout` says why the release ended.
    """
    ledger = ReleaseLedger(open_store(project.store_uri), project.name)
    try:
        finished = _carry_out(project, version=version, clock=clock, reason=reason)
    except TidegateError as error:
        ledger.stop(release_id, f"rollout: {error}")
        raise
    outcome = cast(Literal["promoted", "rolled_back"], finished.state)
    ledger.rolled_out(release_id, finished.rollout_id, outcome)
    return outcome


def _carry_out(project: Project, *, version: int, clock: str, reason: str) -> "RolloutRecord":
    from tidegate.deployment.opening import open_target
    from tidegate.rollout.opening import open_metrics_source
    from tidegate.rollout.rollout import run_rollout, start_rollout
    from tidegate.rollout.termination import terminated_like_interrupted

    store = open_store(project.store_uri)
    registry = open_registry(project)
    target = open_target(project)
    started = start_rollout(
        project=project,
        store=store,
        registry=registry,
        target=target,
        version=version,
        env=serving_environment(project, clock=clock),
        reason=reason,
        clock=open_clock(clock),
    )
    with terminated_like_interrupted():
        return run_rollout(
            project=project,
            store=store,
            registry=registry,
            target=target,
            metrics=open_metrics_source(project),
            rollout_id=started.rollout_id,
        )
