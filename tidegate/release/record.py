"""The release record: what one run of the release pipeline found and how it ended, kept in the object store.

    releases/<project>/<event time>-<release id>.json

A run that a gate stops is a good outcome, recorded with the number that missed its bound; a record still `running` whose
run is gone was interrupted.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from tidegate.errors import RegistryError
from tidegate.packaging.format.manifest import Verdict
from tidegate.storage import ObjectStore
from tidegate.storage.probe import probe_conditional_writes

State = Literal["running", "stopped", "registered", "promoted", "rolled_back"]


class ReleaseRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One release.

    Attributes:
        release_id: The pipeline run's id.
        event_time: When the release was made, event time, ISO 8601.
        reason: Why it was made, such as "initial" or a drift decision.
        state: How far it came; `stopped` means that a gate did not pass, or that the rollout failed.
        stopped_by: The verdict that stopped it, in words, or the error that kept its version from being rolled out.
        verdicts: Every gate's findings so far.
        version: The registered version, once there is one.
        rollout_id: The rollout's record, once there is one.
    """

    release_id: str
    project: str
    event_time: str
    reason: str
    state: State = "running"
    stopped_by: str = ""
    verdicts: tuple[Verdict, ...] = ()
    version: int | None = None
    rollout_id: str | None = None
    started_at: str
    updated_at: str


class ReleaseLedger:
    """Reads and writes the release records of one project."""

    def __init__(self, store: ObjectStore, project: str) -> None:
        """Keep the records of `project` in `store`."""
        self._store = store
        self._prefix = f"releases/{project}/"
        self._project = project

    def begin(self, release_id: str, *, event_time: datetime, reason: str) -> ReleaseRecord:
        """Record that a release started; beginning the same one again returns what is there.

        Raises:
            RegistryError: There is no reason.
            StorageError: The store cannot be written, or ignores conditional writes: better known now than after training.
        """
        if not reason.strip():
            raise RegistryError(f"release {release_id!r}: reason {reason!r} is empty; say why, it is kept in the audit trail")
        existing = self.find(release_id)
        if existing is not None:
            return existing
        probe_conditional_writes(self._store)
        now = _now()
        record = ReleaseRecord(
            release_id=release_id,
            project=self._project,
            event_time=event_time.astimezone(UTC).isoformat(),
            reason=reason,
            started_at=now,
            updated_at=now,
        )
        key = f"{self._prefix}{event_time.astimezone(UTC):%Y%m%dT%H%M%S}-{release_id}.json"
        self._store.create(key, msgspec.json.format(msgspec.json.encode(record)))
        return record

    def find(self, release_id: str) -> ReleaseRecord | None:
        """Return the record of a release, or None."""
        key = self._key_of(release_id)
        return None if key is None else msgspec.json.decode(self._store.get(key).data, type=ReleaseRecord)

    def records(self) -> list[ReleaseRecord]:
        """Return every record, oldest event time first."""
        return [msgspec.json.decode(self._store.get(key).data, type=ReleaseRecord) for key in self._store.list(self._prefix)]

    def add_verdicts(self, release_id: str, verdicts: Iterable[Verdict]) -> ReleaseRecord:
        """Add what a gate found; a repeated step replaces its earlier verdicts."""

        def change(record: ReleaseRecord) -> ReleaseRecord:
            fresh = {(verdict.gate, verdict.subject, verdict.measure): verdict for verdict in record.verdicts}
            fresh.update({(verdict.gate, verdict.subject, verdict.measure): verdict for verdict in verdicts})
            return msgspec.structs.replace(record, verdicts=tuple(fresh.values()))

        return self._update(release_id, change)

    def stop(self, release_id: str, stopped_by: str) -> ReleaseRecord:
        """Record what stopped the release."""
        return self._update(release_id, lambda record: msgspec.structs.replace(record, state="stopped", stopped_by=stopped_by))

    def registered(self, release_id: str, version: int) -> ReleaseRecord:
        """Record the version that the release registered."""
        return self._update(release_id, lambda record: msgspec.structs.replace(record, state="registered", version=version))

    def rolled_out(self, release_id: str, rollout_id: str, outcome: Literal["promoted", "rolled_back"]) -> ReleaseRecord:
        """Record how the rollout of the release ended; why is in the rollout's own record."""
        outcomes = {"state": outcome, "rollout_id": rollout_id, "stopped_by": ""}
        return self._update(release_id, lambda record: msgspec.structs.replace(record, **outcomes))

    def _update(self, release_id: str, change: Callable[[ReleaseRecord], ReleaseRecord]) -> ReleaseRecord:
        key = self._key_of(release_id)
        if key is None:
            raise RegistryError(f"release {release_id!r} of {self._project} was never begun; start the release pipeline")
        stored = self._store.get(key)
        record = change(msgspec.json.decode(stored.data, type=ReleaseRecord))
        record = msgspec.structs.replace(record, updated_at=_now())
        self._store.replace(key, msgspec.json.format(msgspec.json.encode(record)), stored.etag)
        return record

    def _key_of(self, release_id: str) -> str | None:
        keys = (key for key in self._store.list(self._prefix) if key.endswith(f"-{release_id}.json"))
        return next((key for key in keys if key.removeprefix(self._prefix).partition("-")[2] == f"{release_id}.json"), None)


def _now() -> str:
    return datetime.now(UTC).isoformat()
