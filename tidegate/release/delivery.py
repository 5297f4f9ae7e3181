"""The last step of a release: roll a registered version out on the project's target."""

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, cast

from tidegate.clock import open_clock
from tidegate.errors import TidegateError
from tidegate.project import Project
from tidegate.release.model import open_registry
from tidegate.release.record import ReleaseLedger
from tidegate.serving.settings import settings
from tidegate.storage import open_store

if TYPE_CHECKING:
    from tidegate.rollout.record import RolloutRecord

DECIDED_BY = {
    "name": "name",
    "workers": "serving.workers",
    "max_rows": "serving.max_rows",
    "max_body_bytes": "serving.max_body_bytes",
    "gpu_memory_bytes": "serving.gpu_memory_bytes",
    "max_connections": "serving.max_connections",
    "request_seconds": "serving.request_seconds",
    "read_seconds": "serving.read_seconds",
    "idle_seconds": "serving.idle_seconds",
    "drain_seconds": "serving.drain_seconds",
    "batch_rows": "serving.batching.rows",
    "batch_delay_ms": "serving.batching.delay_ms",
    "queue_rows": "serving.batching.queue_rows",
    "log_store": "store",
    "log_mode": "serving.log.mode",
    "log_sample": "serving.log.sample",
    "log_redact": "serving.log.redact",
    "log_rotate_rows": "serving.log.rotate_rows",
    "log_rotate_seconds": "serving.log.rotate_seconds",
    "log_queue_rows": "serving.log.queue_rows",
    "allow_cpu_fallback": "serving.allow_cpu_fallback",
    "access_log": "serving.access_log",
    "traces": "serving.traces",
}
"""The field of the project file that decides a setting of the model server."""

_COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"


def serving_environment(project: Project, *, clock: str) -> dict[str, str]:
    """Return the variables by which a revision's model server is told what this project decides.

    What is as the server does it anyway is left out: an InferenceService then shows what the project decides, and a runtime can
    choose what suits its cluster, such as how long idle connections stay open.

    Raises:
        ProjectError: It is to run on a cluster without an online store.
        FeatureError: On one machine: its Feast repository names no online store.
    """
    decided = serving_settings(project, clock=clock)
    variables = {
        setting.variable: setting.spell(decided[setting.name])
        for setting in settings()
        if setting.name in decided and decided[setting.name] != setting.default
    }
    if project.serving.traces_to is not None:
        variables[_COLLECTOR] = project.serving.traces_to
    return variables


def serving_settings(project: Project, *, clock: str) -> dict[str, Any]:
    """Return what the project file says of each of the model server's settings that it says something of, by name.

    Raises:
        ProjectError: As `serving_environment` does.
        FeatureError: As `serving_environment` does.
    """
    from tidegate.features.address import project_online_store

    decided = {name: attrgetter(field)(project) for name, field in DECIDED_BY.items()}
    return {name: value for name, value in decided.items() if value is not None} | {
        "workers": 1 if project.serves_on_gpu else project.serving.workers,
        "traces": str(project.serving.traces),
        "online_store": project_online_store(project),
        "log_store": project.store_uri,
        "clock": clock,
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
