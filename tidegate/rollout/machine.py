"""The state machine of a rollout: each method reads a record, acts on the target or the alias, and returns what it wrote.

The order is always the same: first the record says what is meant to be, then the traffic is moved, then the alias; so whoever
finds the record later, in whatever state, can complete it.
"""

from collections.abc import Callable
from datetime import datetime

import msgspec

from tidegate.deployment.inference_service import Service
from tidegate.deployment.target import Target
from tidegate.errors import DeploymentError, PreconditionFailed, RolloutError
from tidegate.registry.registry import CHAMPION, ModelRegistry
from tidegate.rollout.judge import Observation, Pair, judge
from tidegate.rollout.metrics_source import MetricsSource, RevisionCounters
from tidegate.rollout.record import Look, RecordChanged, RolloutJournal, RolloutRecord, State
from tidegate.rollout.tally import NOTHING

OnLook = Callable[[RolloutRecord], None]


class RolloutMachine:
    """Carries out one service's rollouts; holds no state of its own beyond the etags of the records it read."""

    def __init__(self, journal: RolloutJournal, registry: ModelRegistry, target: Target, now: Callable[[], datetime]) -> None:
        self.journal = journal
        self._registry = registry
        self._target = target
        self._now = now

    def load(self, rollout_id: str | None) -> RolloutRecord:
        """Return a rollout's record, by default the current one's; raises RolloutError if there is none."""
        record = self.journal.current() if rollout_id is None else self.journal.load(rollout_id)
        if record is None:
            raise RolloutError("no rollout has been started; use `tidegate rollout start VERSION`")
        return record

    def reload(self, record: RolloutRecord) -> RolloutRecord:
        """Return the record as another process left it, and undo what was done on the record as it was before."""
        record = self.journal.load(record.rollout_id)
        if record.finished:
            self.repair(record)
        return record

    def end(self, decide: Callable[[RolloutRecord], RolloutRecord], action: str) -> RolloutRecord:
        """Let `decide` move the current record to its last stretch, and carry it to its outcome."""
        record = self.load(None)
        if record.finished:
            raise RolloutError(f"rollout {record.rollout_id} is {record.state} already; there is nothing to {action}")
        while True:
            try:
                return self.proceed(decide(record), None)
            except RecordChanged:
                record = self.reload(record)
                if record.finished:
                    return record

    def repair(self, record: RolloutRecord) -> None:
        """Take back traffic that a process gave on an outdated reading of a rollout that is finished."""
        running, desired = self._target.get(record.service), record.desired()
        if running is None or desired is None or running == desired:
            return
        left_over = running.canary == record.canary or (record.state == "rolled_back" and running.stable == record.canary)
        if left_over and self.load(None).rollout_id == record.rollout_id:
            self._target.apply(desired)
            self._target.wait(record.service, timeout=record.rollout_rules.ready_seconds)

    def move(self, record: RolloutRecord, state: State, reason: str, step: int | None = None) -> RolloutRecord:
        """Write down another state or step; nothing else happens yet."""
        return self.journal.save(record.moved_to(state, now=self._now(), reason=reason, step=step))

    def is_champion(self, record: RolloutRecord) -> bool:
        """Tell whether the champion alias is at the rollout's version."""
        champion = self._registry.alias(record.service, CHAMPION)
        return champion is not None and champion.version == record.version

    def proceed(self, record: RolloutRecord, metrics: MetricsSource | None) -> RolloutRecord:
        """Act until the rollout is finished, needs a look, or waits to observe what a step begins with."""
        while not record.finished and not (record.state == "progressing" and record.settled):
            if record.state == "pending":
                record = self._deploy(record, metrics)
            elif record.state == "progressing":
                if metrics is None:
                    self._apply(record)
                    return record
                record = self._begin_step(record, metrics)
                if record.state == "progressing" and not record.settled:
                    return record
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

    def _deploy(self, record: RolloutRecord, metrics: MetricsSource | None) -> RolloutRecord:
        if record.stable is None:
            return self.move(record, "promoting", "first release of the service: nothing to compare with, so not judged")
        rules = record.rollout_rules
        if rules.strategy == "replace":
            taken = f"takes the place of {record.stable.name} at once, as rollout.strategy replace says, so not judged"
            return self.move(record, "promoting", taken)
        self._apply(record)
        try:
            self._target.wait(record.service, revision=record.canary.name, timeout=rules.ready_seconds)
        except DeploymentError as error:
            return self._give_up(record, f"canary {record.canary.name} is not ready: {error}")
        if metrics is not None:
            self._observe(record, metrics)  # before the canary gets traffic that nobody could judge
        record = msgspec.structs.replace(record, in_force=0)
        return self.move(record, "progressing", f"canary {record.canary.name} is ready")

    def _begin_step(self, record: RolloutRecord, metrics: MetricsSource) -> RolloutRecord:
        self._apply(record)
        rules = record.rollout_rules
        try:
            self._target.wait(record.service, timeout=rules.ready_seconds)
        except DeploymentError as error:
            return self._give_up(record, f"{record.percent} % of the traffic could not be given: {error}")
        try:
            stable, canary = self._observe(record, metrics)
        except RolloutError as error:
            return self._wait_to_see(record, error)
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

    def _wait_to_see(self, record: RolloutRecord, error: RolloutError) -> RolloutRecord:
        """Return the record as it is: the step begins once its counts are known; give up after as long as a step may last."""
        waited = (self._now() - record.transitions[-1].at).total_seconds()
        if waited <= record.rollout_rules.max_step_seconds:
            return record
        return self._give_up(record, f"nothing was observed for {waited:.0f} s at {record.percent} %: {error}")

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
        if running not in (*record.before(), desired):
            raise self._edited(record, running)
        self.journal.check(record)
        if desired is not None:
            self._target.apply(desired)

    def _check_unchanged(self, record: RolloutRecord, running: Service | None) -> None:
        if running != record.desired():
            raise self._edited(record, running)

    def _edited(self, record: RolloutRecord, running: Service | None) -> RolloutError:
        self.journal.check(record)
        return RolloutError(
            f"service {record.service} was changed by someone else: it is to run {_describe(running)}, but rollout "
            f"{record.rollout_id} set {_describe(record.desired())}; restore that, or end the rollout with "
            "`tidegate rollout abort`"
        )


def _describe(service: Service | None) -> str:
    if service is None:
        return "nothing"
    if service.canary is None:
        return f"{service.stable.name} alone"
    return f"{service.stable.name} with canary {service.canary.name} at {service.canary_percent} %"
