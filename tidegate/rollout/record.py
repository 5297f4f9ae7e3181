"""The rollout record: the write-ahead intent in the object store, from which a killed rollout continues.

    rollouts/<service>/current.json         which rollout is, or was, the last one, and how it began
    rollouts/<service>/<rollout_id>.json    its record: state, step, counts, looks, outcome

Every write is conditional, so two processes never both act on the same state. The record is written first, then traffic is
moved, then the alias; `in_force` says which traffic was last seen in force, so a crash in between is told from a manual edit.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from tidegate.deployment.inference_service import Revision, Service
from tidegate.errors import ObjectNotFound, PreconditionFailed, RolloutError
from tidegate.project import RolloutSection
from tidegate.rollout.judge import Evidence
from tidegate.rollout.tally import Tally
from tidegate.storage.probe import probe_conditional_writes
from tidegate.storage.store import ObjectStore

SCHEMA_VERSION = 1
KEPT_LOOKS = 200
ROOT = "rollouts/"

State = Literal["pending", "progressing", "promoting", "promoted", "rolling_back", "rolled_back"]
FINISHED: frozenset[State] = frozenset({"promoted", "rolled_back"})


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One look of the judge, with the numbers behind its verdict."""

    number: int
    at: datetime
    step: int
    percent: int
    verdict: Literal["continue", "advance", "rollback"]
    reason: str
    evidence: Evidence


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A change of state or step."""

    at: datetime
    state: State
    percent: int
    reason: str


class RolloutRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole rollout.

    Attributes:
        rules: The project file's rollout section as it was at the start; a later edit does not change a running rollout.
        stable: The revision deployed before; None for the first release of a service, which nothing can be compared with.
        champion: The version that the champion alias was at before; promotion moves it from there and from nowhere else.
        in_force: The canary's percentage last seen in force; None until the canary is deployed.
        settled: The traffic of this state and step is in force.
        outcome: Why the rollout ended, or is ending, as it does.
    """

    schema_version: int = SCHEMA_VERSION
    rollout_id: str
    service: str
    namespace: str
    version: int
    reason: str
    event_time: datetime
    logged_at: datetime
    rules: dict[str, Any]
    stable: Revision | None
    canary: Revision
    champion: int | None
    state: State = "pending"
    step: int = 0
    step_began_at: datetime | None = None
    in_force: int | None = None
    settled: bool = False
    outcome: str = ""
    stable_tally: Tally = Tally()
    canary_tally: Tally = Tally()
    looks_taken: int = 0
    looks: tuple[Look, ...] = ()
    transitions: tuple[Transition, ...] = ()

    @property
    def rollout_rules(self) -> RolloutSection:
        """The rules as the judge reads them."""
        return RolloutSection.model_validate(self.rules)

    @property
    def finished(self) -> bool:
        """The rollout has its outcome."""
        return self.state in FINISHED

    @property
    def percent(self) -> int:
        """The canary's share of the traffic that this state asks for."""
        if self.state == "progressing":
            return self.rollout_rules.steps[self.step]
        return 100 if self.state in ("promoting", "promoted") else 0

    def desired(self) -> Service | None:
        """Return what the target is to run in this state; None means no such service."""
        if self.state in ("promoting", "promoted"):
            return self.alone(self.canary)
        if self.stable is None:
            return None
        if self.state in ("rolling_back", "rolled_back"):
            return self.alone(self.stable)
        return self.alone(self.stable).with_canary(self.canary, self.percent)

    def before(self) -> tuple[Service | None, ...]:
        """Return what the target may run while this state's traffic is not known to be in force yet."""
        if self.stable is None:
            return (None,)
        stable = self.alone(self.stable)
        if self.in_force is None:
            return (stable,)
        percents = (self.in_force, self.rollout_rules.steps[self.step])  # the step's own: a step may have been cut short
        return tuple(stable.with_canary(self.canary, percent) for percent in percents)

    def alone(self, revision: Revision) -> Service:
        """Return the service with `revision` as its stable and no canary."""
        return Service(name=self.service, namespace=self.namespace, stable=revision)

    def moved_to(self, state: State, *, now: datetime, reason: str, step: int | None = None) -> "RolloutRecord":
        """Return the record with another state or step, not yet in force."""
        step = self.step if step is None else step
        moved = msgspec.structs.replace(self, state=state, step=step, settled=state in FINISHED, step_began_at=None)
        if state in ("promoting", "rolling_back"):
            moved = msgspec.structs.replace(moved, outcome=reason)
        transition = Transition(at=now, state=state, percent=moved.percent, reason=reason)
        return msgspec.structs.replace(moved, transitions=(*self.transitions, transition))

    def with_look(self, look: Look, stable: Tally, canary: Tally) -> "RolloutRecord":
        """Return the record with a look appended; of many looks, the last `KEPT_LOOKS` are kept."""
        return msgspec.structs.replace(
            self,
            stable_tally=stable,
            canary_tally=canary,
            looks_taken=look.number,
            looks=(*self.looks, look)[-KEPT_LOOKS:],
        )


class RecordChanged(RolloutError):
    """Someone else wrote the record since it was read."""


class RolloutJournal:
    """Reads and writes the records of one service."""

    def __init__(self, store: ObjectStore, service: str) -> None:
        self._store = store
        self._service = service
        self._etags: dict[str, str] = {}

    def begin(self, record: RolloutRecord) -> RolloutRecord:
        """Make `record` the service's current rollout.

        Raises:
            RolloutError: Another rollout of the service is not finished, or was begun at the same moment.
            StorageError: The store ignores conditional writes, or cannot be written.
        """
        probe_conditional_writes(self._store)
        key = self._key("current")
        data = msgspec.json.encode(record)
        try:
            pointer = self._store.get(key)
        except ObjectNotFound:
            pointer = None
        current = self.current()
        if current is not None and not current.finished:
            raise RolloutError(
                f"rollout {current.rollout_id} of {self._service} is {current.state} (version {current.version} at "
                f"{current.percent} %); wait for it, or end it with `tidegate rollout abort`"
            )
        try:
            if pointer is None:
                self._store.create(key, data)
            else:
                self._store.replace(key, data, pointer.etag)
        except PreconditionFailed:
            raise RolloutError(f"another rollout of {self._service} was begun at the same moment; see its status") from None
        return self.load(record.rollout_id)

    def current(self) -> RolloutRecord | None:
        """Return the rollout that runs, or ran last; None if there never was one."""
        try:
            pointer = self._store.get(self._key("current"))
        except ObjectNotFound:
            return None
        return self.load(self._decode(pointer.data, "current").rollout_id)

    def load(self, rollout_id: str) -> RolloutRecord:
        """Return a rollout's record; raises RolloutError if there is none, or it cannot be read."""
        try:
            stored = self._store.get(self._key(rollout_id))
        except ObjectNotFound:
            return self._first(rollout_id)
        self._etags[rollout_id] = stored.etag
        return self._decode(stored.data, rollout_id)

    def check(self, record: RolloutRecord) -> None:
        """Raise RecordChanged if someone else wrote the record since it was read."""
        if self._store.get(self._key(record.rollout_id)).etag != self._etags[record.rollout_id]:
            raise self._changed(record)

    def save(self, record: RolloutRecord) -> RolloutRecord:
        """Write the record if it is still as last read; raises RecordChanged if it is not."""
        etag = self._etags[record.rollout_id]
        try:
            self._etags[record.rollout_id] = self._store.replace(
                self._key(record.rollout_id), msgspec.json.encode(record), etag
            )
        except PreconditionFailed:
            raise self._changed(record) from None
        return record

    def history(self) -> Iterator[RolloutRecord]:
        """Yield every rollout of the service, oldest first."""
        for key in self._store.list(f"{ROOT}{self._service}/"):
            rollout_id = key.rpartition("/")[2].removesuffix(".json")
            if rollout_id != "current":
                yield self.load(rollout_id)

    def _first(self, rollout_id: str) -> RolloutRecord:
        """Write the record that a rollout began with: `begin` may have been killed after it wrote `current.json`."""
        try:
            pointer = self._store.get(self._key("current"))
        except ObjectNotFound:
            raise self._unknown(rollout_id) from None
        record = self._decode(pointer.data, "current")
        if record.rollout_id != rollout_id:
            raise self._unknown(rollout_id)
        try:
            self._etags[rollout_id] = self._store.create(self._key(rollout_id), pointer.data)
        except PreconditionFailed:
            return self.load(rollout_id)
        return record

    def _changed(self, record: RolloutRecord) -> RecordChanged:
        return RecordChanged(
            f"rollout {record.rollout_id} of {self._service} was changed by another process; run it again to continue"
        )

    def _unknown(self, rollout_id: str) -> RolloutError:
        return RolloutError(f"no rollout {rollout_id!r} of {self._service}; `tidegate rollout status` names the last one")

    def _decode(self, data: bytes, name: str) -> RolloutRecord:
        try:
            record = msgspec.json.decode(data, type=RolloutRecord)
        except msgspec.MsgspecError as error:
            raise RolloutError(f"{self._key(name)} of {self._store.uri} is not a rollout record: {error}") from error
        if record.schema_version != SCHEMA_VERSION:
            raise RolloutError(
                f"{self._key(name)} has schema version {record.schema_version}, not {SCHEMA_VERSION}; "
                "use the Tidegate that wrote it"
            )
        return record

    def _key(self, name: str) -> str:
        return f"{ROOT}{self._service}/{name}.json"


def utc_now() -> datetime:
    """Return the time on the wall, in UTC."""
    return datetime.now(UTC)
