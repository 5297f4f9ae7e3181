"""Rollouts: start one, run it to its outcome, promote or abort it by hand, and repair what a crash left half-done.

    start_rollout(project=project, store=store, registry=registry, target=target, version=4, env=env, reason="drift")
    record = run_rollout(project=project, store=store, registry=registry, target=target, metrics=metrics)
    record.state                      # 'promoted' or 'rolled_back'
    record.outcome                    # why, with the numbers

A rollout deploys the version as a canary without traffic, waits until it is ready, and raises its share step by step; the
judge looks at each step. Whatever happens is written to the record before it is done, so a killed rollout continues where it
was when it is run again, as often as needed.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime

from tidegate.clock import Clock, WallClock
from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.target import Target
from tidegate.errors import RolloutError
from tidegate.project import Project
from tidegate.registry.registry import CHAMPION, ModelRegistry
from tidegate.rollout.judge import check_rules
from tidegate.rollout.machine import OnLook, RolloutMachine
from tidegate.rollout.metrics_source import MetricsSource
from tidegate.rollout.record import RecordChanged, RolloutJournal, RolloutRecord, utc_now
from tidegate.storage.store import ObjectStore

_DEFAULT_NAMESPACE = "default"


def start_rollout(
    *,
    project: Project,
    store: ObjectStore,
    registry: ModelRegistry,
    target: Target,
    version: int,
    env: Mapping[str, str],
    reason: str,
    clock: Clock | None = None,
    now: Callable[[], datetime] = utc_now,
) -> RolloutRecord:
    """Write down the intent to roll out a version; `run_rollout` carries it out. Nothing is deployed yet.

    Starting again what is under way, or what was promoted last and still runs, returns its record: a step that is retried
    after a crash changes nothing.

    Args:
        project: Names the service, and holds the rules, which the record keeps.
        store: Where the record is kept.
        registry: Holds the version and the champion alias.
        target: Where the service runs.
        version: The version to roll out.
        env: Settings of the model server.
        reason: Why; kept in the record and in the alias's audit trail.
        clock: Event time; the wall by default.
        now: The time on the wall.

    Raises:
        RolloutError: Another rollout is under way, the version is the stable already, the target runs a canary that no
            rollout owns, or the rules can never be met.
        RegistryError: There is no such version.
    """
    if project.rollout.strategy == "canary":
        check_rules(project.rollout)
    journal = RolloutJournal(store, project.name)
    canary = Revision(
        name=f"v{version}",
        storage_uri=registry.uri(project.name, version),
        env=dict(env),
        min_replicas=project.on_cluster.serving.min_replicas if project.target == "kserve" else 1,
    )
    current = journal.current()
    service = target.get(project.name)
    if current is not None and current.canary == canary and (not current.finished or _promoted_and_runs(current, service)):
        return current
    if current is None or current.finished:
        _check_free(project.name, service, canary)
    champion = registry.alias(project.name, CHAMPION)
    started = now()
    return journal.begin(
        RolloutRecord(
            rollout_id=f"{started:%Y%m%dT%H%M%S.%f}-v{version}",
            service=project.name,
            namespace=service.namespace if service else _namespace(project),
            version=version,
            reason=reason,
            event_time=(clock or WallClock()).now(),
            logged_at=started,
            rules=project.rollout.model_dump(mode="json"),
            stable=service.stable if service else None,
            canary=canary,
            champion=champion.version if champion else None,
        ).moved_to("pending", now=started, reason=reason)
    )


def run_rollout(
    *,
    project: Project,
    store: ObjectStore,
    registry: ModelRegistry,
    target: Target,
    metrics: MetricsSource,
    rollout_id: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
    on_look: OnLook | None = None,
    now: Callable[[], datetime] = utc_now,
) -> RolloutRecord:
    """Carry a rollout to its outcome, from wherever it is: promoted, or rolled back. Blocks; Ctrl-C aborts and rolls back.

    Args:
        project: Names the service.
        store: Where the record is kept.
        registry: Its champion alias moves at promotion.
        target: Where the service runs.
        metrics: What the judge sees.
        rollout_id: Which rollout; the current one by default.
        sleep: Waits between looks.
        on_look: Called after each look with the record, whose last look it is.
        now: The time on the wall.

    Raises:
        RolloutError: There is no such rollout; nothing can be observed before the canary gets its first traffic; someone
            else changed the service or the alias meanwhile; or the service did not settle after a rollback.
        DeploymentError: The target cannot be told what to machine.
    """
    machine = RolloutMachine(RolloutJournal(store, project.name), registry, target, now)
    try:
        record = machine.load(rollout_id)
        while not record.finished:
            try:
                record = machine.proceed(record, metrics)
                if not record.finished:
                    sleep(record.rollout_rules.look_seconds)
                if record.settled and not record.finished:
                    record = machine.look(record, metrics, on_look)
            except RecordChanged:
                record = machine.reload(record)
    except KeyboardInterrupt:
        if not machine.load(rollout_id).finished:
            abort_rollout(project=project, store=store, registry=registry, target=target, reason="interrupted", now=now)
        raise
    return record


def reconcile(
    *, project: Project, store: ObjectStore, registry: ModelRegistry, target: Target, now: Callable[[], datetime] = utc_now
) -> RolloutRecord | None:
    """Make target and alias agree with the current record, as far as no judge is needed; return the record, if any.

    A promotion or rollback that was decided is completed. A rollout under way is left to `run_rollout`, with its traffic as
    the record says.

    Raises:
        RolloutError: Someone else changed the service or the alias meanwhile, or the service did not settle.
    """
    machine = RolloutMachine(RolloutJournal(store, project.name), registry, target, now)
    record = machine.journal.current()
    if record is None:
        return None
    if record.finished:
        machine.repair(record)
        return record
    return machine.proceed(record, None)


def promote_rollout(
    *,
    project: Project,
    store: ObjectStore,
    registry: ModelRegistry,
    target: Target,
    reason: str,
    now: Callable[[], datetime] = utc_now,
) -> RolloutRecord:
    """Promote the current rollout's canary now, whatever the judge thinks; returns the finished record.

    Raises:
        RolloutError: No rollout is under way, or its canary has no traffic yet or is being rolled back.
    """
    machine = RolloutMachine(RolloutJournal(store, project.name), registry, target, now)

    def promote(record: RolloutRecord) -> RolloutRecord:
        if record.state not in ("progressing", "promoting"):
            raise RolloutError(f"rollout {record.rollout_id} is {record.state}; only one that is progressing can be promoted")
        return machine.move(record, "promoting", f"promoted by hand: {reason}") if record.state == "progressing" else record

    return machine.end(promote, "promote")


def abort_rollout(
    *,
    project: Project,
    store: ObjectStore,
    registry: ModelRegistry,
    target: Target,
    reason: str,
    now: Callable[[], datetime] = utc_now,
) -> RolloutRecord:
    """Roll the current rollout back now; returns the finished record. A promotion whose alias has moved stays promoted.

    Raises:
        RolloutError: No rollout is under way, or the service did not settle.
    """
    machine = RolloutMachine(RolloutJournal(store, project.name), registry, target, now)

    def abort(record: RolloutRecord) -> RolloutRecord:
        if record.state == "rolling_back" or (record.state == "promoting" and machine.is_champion(record)):
            return record
        return machine.move(record, "rolling_back", f"aborted: {reason}")

    return machine.end(abort, "abort")


def rollout_history(store: ObjectStore, service: str) -> list[RolloutRecord]:
    """Return every rollout of a service, oldest first."""
    return list(RolloutJournal(store, service).history())


def _namespace(project: Project) -> str:
    return project.on_cluster.namespace if project.target == "kserve" else _DEFAULT_NAMESPACE


def _promoted_and_runs(record: RolloutRecord, service: Service | None) -> bool:
    return record.state == "promoted" and service == record.desired()


def _check_free(name: str, service: Service | None, canary: Revision) -> None:
    if service is None:
        return
    if service.stable.name == canary.name:
        raise RolloutError(f"{name} runs {canary.name} as its stable revision already; roll out another version")
    if service.canary is not None:
        raise RolloutError(
            f"{name} has a canary {service.canary.name} at {service.canary_percent} % that no rollout owns; remove it first"
        )
