"""The ObjectStore protocol: what Tidegate asks of any place that keeps bytes under keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's bytes with the entity tag that a conditional write compares."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An object in a listing: its key, its size in bytes, and its entity tag."""

    key: str
    size: int
    etag: str


class ObjectStore(Protocol):
    """Keys to bytes. Keys are relative, `/`-separated, without empty, `.` or `..` parts (StorageError otherwise).

    Every write is atomic: a reader sees the old bytes or the new, and a killed writer leaves nothing under the key.
    """

    @property
    def uri(self) -> str:
        """The address of the store, without a trailing slash: `file:///…` or `s3://bucket/prefix`."""

    def get(self, key: str) -> StoredObject:
        """Return an object; raises ObjectNotFound."""

    def put(self, key: str, data: bytes) -> str:
        """Write an object whatever is there, and return its entity tag."""

    def create(self, key: str, data: bytes) -> str:
        """Write an object only if the key is free; raises PreconditionFailed if it is not."""

    def replace(self, key: str, data: bytes, etag: str) -> str:
        """Write an object only if its entity tag is still `etag`; raises PreconditionFailed if it is not."""

    def exists(self, key: str) -> bool:
        """Tell whether the key holds an object."""

    def size(self, key: str) -> int:
        """Return how many bytes an object has; raises ObjectNotFound."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield, sorted, every key that starts with `prefix`."""

    def delete(self, key: str) -> None:
        """Remove an object; removing what is not there is no error."""

    def upload(self, key: str, path: Path) -> None:
        """Write a local file as an object, streaming."""

    def download(self, key: str, path: Path) -> None:
        """Write an object to a local file, atomically and streaming; raises ObjectNotFound."""
