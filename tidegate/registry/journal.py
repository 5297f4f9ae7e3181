"""Writes the registry's events down, and reads them back, several at a time."""

import getpass
import os
import socket
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

from tidegate.clock import Clock, WallClock
from tidegate.errors import PreconditionFailed
from tidegate.registry.events import Event, decode_event, encode_event
from tidegate.storage.store import ObjectStore

_READERS = 8
Key = TypeVar("Key")
Value = TypeVar("Value")


class Journal:
    """The events of a registry in its store."""

    def __init__(self, store: ObjectStore, *, clock: Clock | None = None, actor: str | None = None) -> None:
        """Use `store`; new events carry the event time of `clock` (default: the wall) and `actor` (default: `user@host`)."""
        self._store = store
        self._clock = clock or WallClock()
        self._actor = actor or _user_at_host()

    def new(self, **fields: Any) -> Event:
        """Return a new event with the given fields, made now by this journal's actor; nothing is written yet."""
        return Event(
            id=uuid.uuid4().hex, actor=self._actor, event_time=self._clock.now(), logged_at=datetime.now(UTC), **fields
        )

    def record(self, event: Event) -> None:
        """Add an event to the audit trail; adding it again changes nothing."""
        try:
            self._store.create(event.key, encode_event(event))
        except PreconditionFailed:
            return  # the key holds the event's id, so this very event is there

    def read(self, key: str) -> Event:
        """Return the event at `key`; raises ObjectNotFound, or RegistryError if it is damaged."""
        return decode_event(self._store.get(key).data, where=f"{self._store.uri}/{key}")

    def read_all(self, keys: Iterable[str]) -> list[Event]:
        """Return the events at `keys`, in their order."""
        return read_concurrently(self.read, keys)


def read_concurrently(read: Callable[[Key], Value], keys: Iterable[Key]) -> list[Value]:
    """Return `read(key)` for every key, in order, with several reads under way at once."""
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, keys))


def _user_at_host() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without an entry in its password file
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
