"""What the registry tells about versions and aliases."""

from dataclasses import dataclass
from datetime import datetime

from tidegate.packaging.format.manifest import Manifest
from tidegate.registry.events import Event


@dataclass(frozen=True, slots=True)
class AliasState:
    """Where an alias is and how it came there; `etag` changes with every move."""

    version: int
    previous: int | None
    sequence: int
    reason: str
    actor: str
    moved_at: datetime  # event time
    logged_at: datetime
    etag: str


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A registered version: its package's digest and manifest, why and when it was registered, and the aliases at it."""

    version: int
    digest: str
    reason: str
    actor: str
    event_time: datetime
    logged_at: datetime
    aliases: tuple[str, ...]
    manifest: Manifest


def alias_state(move: Event, etag: str) -> AliasState:
    """Return the state that an alias's last move put it in."""
    return AliasState(
        version=move.version,
        previous=move.previous,
        sequence=move.sequence,
        reason=move.reason,
        actor=move.actor,
        moved_at=move.event_time,
        logged_at=move.logged_at,
        etag=etag,
    )
