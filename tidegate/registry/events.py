"""What the registry writes down: events. A claim is the event of a registration, an alias the event of its last move.

models/<name>/claims/<n>.json               who owns version number n, and for which package
models/<name>/versions/<n>/…                the package, written once; `package.json` last: with it the version exists
models/<name>/aliases/<alias>.json          the last move of the alias, changed by compare-and-swap
models/<name>/events/<time>-<id>.json       the audit trail, append-only
"""

import re
from datetime import datetime
from typing import Literal

import msgspec

from tidegate.errors import RegistryError

ROOT = "models/"
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of the registry.

    Attributes:
        id: Unique.
        kind: What changed.
        model: The model's name.
        version: The version registered, or moved to.
        digest: `sha256:…` of the registered package's manifest.
        alias: The alias moved.
        previous: The version the alias was at before; null if it is new.
        sequence: How often the alias has moved, this move included; orders its moves.
        reason: Why.
        actor: Who, as `user@host`.
        event_time: When, in event time.
        logged_at: When, on the wall.
    """

    id: str
    kind: Literal["registered", "alias-moved"]
    model: str
    version: int
    digest: str | None = None
    alias: str | None = None
    previous: int | None = None
    sequence: int = 0
    reason: str
    actor: str
    event_time: datetime
    logged_at: datetime

    @property
    def key(self) -> str:
        """Where the audit trail holds this event; sorts by the time it was logged."""
        return f"{events_prefix(self.model)}{self.logged_at:%Y%m%dT%H%M%S.%fZ}-{self.id}.json"


def encode_event(event: Event) -> bytes:
    """Return the event as JSON."""
    return msgspec.json.encode(event)


def decode_event(raw: bytes, *, where: str) -> Event:
    """Read an event found at `where`; raises RegistryError if it is not one."""
    try:
        return msgspec.json.decode(raw, type=Event)
    except msgspec.MsgspecError as error:
        raise RegistryError(f"registry: {where} is damaged: {error}; restore it from a copy of the store") from error


def check_name(what: str, name: str) -> None:
    """Raise RegistryError unless `name` can name a model or an alias."""
    if not _NAME.fullmatch(name) or len(name) > 63:
        raise RegistryError(f"registry: {what} {name!r} must match {_NAME.pattern!r} and have at most 63 characters")


def claims_prefix(model: str) -> str:
    """Return the key prefix of a model's claims."""
    return f"{ROOT}{model}/claims/"


def claim_key(model: str, version: int) -> str:
    """Return the key of the claim of a version number."""
    return f"{claims_prefix(model)}{version}.json"


def versions_prefix(model: str) -> str:
    """Return the key prefix of a model's packages."""
    return f"{ROOT}{model}/versions/"


def version_prefix(model: str, version: int) -> str:
    """Return the key prefix of one package."""
    return f"{versions_prefix(model)}{version}/"


def aliases_prefix(model: str) -> str:
    """Return the key prefix of a model's aliases."""
    return f"{ROOT}{model}/aliases/"


def alias_key(model: str, alias: str) -> str:
    """Return the key of an alias."""
    return f"{aliases_prefix(model)}{alias}.json"


def events_prefix(model: str) -> str:
    """Return the key prefix of a model's audit trail."""
    return f"{ROOT}{model}/events/"
