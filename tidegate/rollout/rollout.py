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

import msgspec

from tidegate.clock import Clock, WallClock
from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.target import Target
from tidegate.errors import DeploymentError, PreconditionFailed, RolloutError
from tidegate.project import Project
from tidegate.registry.registry import CHAMPION, ModelRegistry
from tidegate.rollout.judge import Observation, Pair, check_rules, judge
from tidegate.rollout.metrics_source import MetricsSource, RevisionCounters
from tidegate.rollout.record import Look, RecordChanged, RolloutJournal, RolloutRecord, State, utc_now
from tidegate.rollout.tally import NOTHING
from tidegate.storage.store import ObjectStore

OnLook = Callable[[RolloutRecord], None]
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

    Starting again what is already under way (same version, same settings) returns its record.

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
    check_rules(project.rollout)
    journal = RolloutJournal(store, project.name)
    canary = Revision(name=f"v{version}", storage_uri=registry.uri(project.name, version), env=dict(env))
    current = journal.current()
    if current is not None and not current.finished and current.canary == canary:
        return current
    service = target.get(project.name)
    if current is None or current.finished:
        _check_free(project.name, service, canary)
    champion = registry.alias(project.name, CHAMPION)
    started = now()
    return journal.begin(
        RolloutRecord(
            rollout_id=f"{started:%Y%m%dT%H%M%S.%f}-v{version}",
            service=project.name,
            namespace=service.namespace if service else _DEFAULT_NAMESPACE,
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
        RolloutError: There is no such rollout; someone else changed the service or the alias meanwhile; or the service
            did not settle after a rollback.
        DeploymentError: The target cannot be told what to run.
    """
    run = _Run(RolloutJournal(store, project.name), registry, target, now)
    try:
        record = run.load(rollout_id)
        while not record.finished:
            try:
                record = run.proceed(record, metrics)
                if not record.finished:
                    sleep(record.rollout_rules.look_seconds)
                    record = run.look(record, metrics, on_look)
            except RecordChanged:
                record = run.load(record.rollout_id)
    except KeyboardInterrupt:
        if not run.load(rollout_id).finished:
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
    run = _Run(RolloutJournal(store, project.name), registry, target, now)
    record = run.journal.current()
    if record is None or record.finished:
        return record
    return run.proceed(record, None)


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
    run = _Run(RolloutJournal(store, project.name), registry, target, now)
    record = run.load_unfinished("promote")
    if record.state not in ("progressing", "promoting"):
        raise RolloutError(f"rollout {record.rollout_id} is {record.state}; only one that is progressing can be promoted")
    if record.state == "progressing":
        record = run.move(record, "promoting", f"promoted by hand: {reason}")
    return run.proceed(record, None)


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
    run = _Run(RolloutJournal(store, project.name), registry, target, now)
    while True:
        record = run.load_unfinished("abort")
        try:
            if record.state == "promoting" and run.is_champion(record):
                return run.proceed(record, None)
            if record.state != "rolling_back":
                record = run.move(record, "rolling_back", f"aborted: {reason}")
            return run.proceed(record, None)
        except RecordChanged:
            continue


def rollout_history(store: ObjectStore, service: str) -> list[RolloutRecord]:
    """Return every rollout of a service, oldest first."""
    return list(RolloutJournal(store, service).history())


class _Run:
    """The state machine: each method reads a record, acts, and returns the record it wrote."""

    def __init__(self, journal: RolloutJournal, registry: ModelRegistry, target: Target, now: Callable[[], datetime]) -> None:
        self.journal = journal
        self._registry = registry
        self._target = target
        self._now = now

    def load(self, rollout_id: str | None) -> RolloutRecord:
        record = self.journal.current() if rollout_id is None else self.journal.load(rollout_id)
        if record is None:
            raise RolloutError("no rollout has been started; use `tidegate rollout start VERSION`")
        return record

    def load_unfinished(self, action: str) -> RolloutRecord:
        record = self.load(None)
        if record.finished:
            raise RolloutError(f"rollout {record.rollout_id} is {record.state} already; there is nothing to {action}")
        return record

    def move(self, record: RolloutRecord, state: State, reason: str, step: int = 0) -> RolloutRecord:
        return self.journal.save(record.moved_to(state, now=self._now(), reason=reason, step=step))

    def is_champion(self, record: RolloutRecord) -> bool:
        champion = self._registry.alias(record.service, CHAMPION)
        return champion is not None and champion.version == record.version

    def proceed(self, record: RolloutRecord, metrics: MetricsSource | None) -> RolloutRecord:
        """Act until the rollout is finished or needs a look."""
        while not record.finished and not (record.state == "progressing" and record.settled):
            if record.state == "pending":
                record = self._deploy(record)
            elif record.state == "progressing":
                if metrics is None:
                    self._apply(record)
                    return record
                record = self._begin_step(record, metrics)
            elif record.state == "promoting":
                record = self._promote(record)
            else:
                record = self._roll_back(record)
        return record

    def look(self, record: RolloutRecord, metrics: MetricsSource, on_look: OnLook | None) -> RolloutRecord:
        """Let the judge look, and write down what it saw together with what follows."""
        self._check_unchanged(record, self._target.get(record.service))
        record, look = self._judge(record, metrics)
        steps = record.rollout_rules.steps
        if look.verdict == "rollback":
            record = self.move(record, "rolling_back", look.reason)
        elif look.verdict == "advance" and record.step == len(steps) - 1:
            record = self.move(record, "promoting", look.reason)
        elif look.verdict == "advance":
            record = self.move(record, "progressing", look.reason, step=record.step + 1)
        else:
            record = self.journal.save(record)
        if on_look is not None:
            on_look(record)
        return record

    def _judge(self, record: RolloutRecord, metrics: MetricsSource) -> tuple[RolloutRecord, Look]:
        stable, canary = record.stable_tally, record.canary_tally
        unseen = ""
        try:
            seen_stable, seen_canary = self._observe(record, metrics)
            stable, canary = stable.add(seen_stable), canary.add(seen_canary)
        except RolloutError as error:
            unseen = f"; nothing observed: {error}"
        at = self._now()
        observation = Observation(
            step=record.step,
            step_seconds=(at - (record.step_began_at or at)).total_seconds(),
            in_step=Pair(stable=stable.in_step, canary=canary.in_step),
            in_rollout=Pair(stable=stable.in_rollout, canary=canary.in_rollout),
        )
        judgement = judge(record.rollout_rules, observation)
        look = Look(
            number=record.looks_taken + 1,
            at=at,
            step=record.step,
            percent=record.percent,
            verdict=judgement.verdict,
            reason=judgement.reason + unseen,
            evidence=judgement.evidence,
        )
        return record.with_look(look, stable, canary), look

    def _observe(self, record: RolloutRecord, metrics: MetricsSource) -> tuple[RevisionCounters, RevisionCounters]:
        assert record.stable is not None  # noqa: S101 - a first release is never observed
        observed = metrics.observe(record.service)
        return (
            observed.get(record.stable.name, record.stable_tally.seen or NOTHING),
            observed.get(record.canary.name, record.canary_tally.seen or NOTHING),
        )

    def _deploy(self, record: RolloutRecord) -> RolloutRecord:
        if record.stable is None:
            return self.move(record, "promoting", "first release of the service: nothing to compare with, so not judged")
        self._apply(record)
        rules = record.rollout_rules
        try:
            self._target.wait(record.service, revision=record.canary.name, timeout=rules.ready_seconds)
        except DeploymentError as error:
            return self._give_up(record, f"canary {record.canary.name} is not ready: {error}")
        record = msgspec.structs.replace(record, in_force=0)
        return self.move(record, "progressing", f"canary {record.canary.name} is ready")

    def _begin_step(self, record: RolloutRecord, metrics: MetricsSource) -> RolloutRecord:
        self._apply(record)
        rules = record.rollout_rules
        try:
            self._target.wait(record.service, timeout=rules.ready_seconds)
        except DeploymentError as error:
            return self._give_up(record, f"{record.percent} % of the traffic could not be given: {error}")
        stable, canary = self._observe(record, metrics)
        if record.step == 0:
            with_past = rules.steps[0] > 50
            stable_tally = record.stable_tally.begin_rollout(stable, with_past=with_past)
            canary_tally = record.canary_tally.begin_rollout(canary, with_past=False)
        else:
            stable_tally, canary_tally = record.stable_tally.begin_step(stable), record.canary_tally.begin_step(canary)
        return self.journal.save(
            msgspec.structs.replace(
                record,
                settled=True,
                in_force=record.percent,
                step_began_at=self._now(),
                stable_tally=stable_tally,
                canary_tally=canary_tally,
            )
        )

    def _promote(self, record: RolloutRecord) -> RolloutRecord:
        self._apply(record)
        try:
            self._target.wait(record.service, timeout=record.rollout_rules.ready_seconds)
        except DeploymentError as error:
            if self.is_champion(record):
                raise
            return self._give_up(record, f"promoted revision {record.canary.name} did not settle: {error}")
        self._crown(record)
        return self.move(record, "promoted", record.outcome)

    def _crown(self, record: RolloutRecord) -> None:
        if self.is_champion(record):
            return
        try:
            self._registry.move_alias(
                record.service,
                CHAMPION,
                record.version,
                reason=f"rollout {record.rollout_id}: {record.outcome}",
                expected=record.champion,
            )
        except PreconditionFailed as error:
            raise RolloutError(
                f"rollout {record.rollout_id} cannot move alias {CHAMPION} of {record.service} to version {record.version}: "
                f"{error}; move it back, or end the rollout with `tidegate rollout abort`"
            ) from error

    def _roll_back(self, record: RolloutRecord) -> RolloutRecord:
        running = self._target.get(record.service)
        desired = record.desired()
        if running is None or not self._is_ours(record, running):
            return self.move(record, "rolled_back", record.outcome)
        if desired is None:
            self._target.delete(record.service)
            return self.move(record, "rolled_back", record.outcome)
        self._target.apply(desired)
        try:
            self._target.wait(record.service, timeout=record.rollout_rules.ready_seconds)
        except DeploymentError as error:
            raise RolloutError(
                f"rollout {record.rollout_id} rolls {record.service} back to {desired.stable.name}, which did not settle: "
                f"{error}; run the rollout again once it can"
            ) from error
        return self.move(record, "rolled_back", record.outcome)

    def _give_up(self, record: RolloutRecord, reason: str) -> RolloutRecord:
        return self.move(record, "rolling_back", reason)

    def _is_ours(self, record: RolloutRecord, running: Service) -> bool:
        return record.canary in (running.stable, running.canary) or running == record.desired()

    def _apply(self, record: RolloutRecord) -> None:
        running, desired = self._target.get(record.service), record.desired()
        if running not in (record.before(), desired):
            raise self._edited(record, running)
        if desired is not None:
            self._target.apply(desired)

    def _check_unchanged(self, record: RolloutRecord, running: Service | None) -> None:
        if running != record.desired():
            raise self._edited(record, running)

    def _edited(self, record: RolloutRecord, running: Service | None) -> RolloutError:
        return RolloutError(
            f"service {record.service} was changed by someone else: it is to run {_describe(running)}, but rollout "
            f"{record.rollout_id} set {_describe(record.desired())}; restore that, or end the rollout with "
            "`tidegate rollout abort`"
        )


def _check_free(name: str, service: Service | None, canary: Revision) -> None:
    if service is None:
        return
    if service.stable.name == canary.name:
        raise RolloutError(f"{name} runs {canary.name} as its stable revision already; roll out another version")
    if service.canary is not None:
        raise RolloutError(
            f"{name} has a canary {service.canary.name} at {service.canary_percent} % that no rollout owns; remove it first"
        )


def _describe(service: Service | None) -> str:
    if service is None:
        return "nothing"
    if service.canary is None:
        return f"{service.stable.name} alone"
    return f"{service.stable.name} with canary {service.canary.name} at {service.canary_percent} %"
