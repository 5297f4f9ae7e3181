"""Proof that a store honours conditional writes, on which the model registry and the rollout record stand."""

import uuid
import weakref
from collections.abc import Callable

from tidegate.errors import PreconditionFailed, StorageError
from tidegate.storage.store import ObjectStore

_proven: "weakref.WeakSet[ObjectStore]" = weakref.WeakSet()


def probe_conditional_writes(store: ObjectStore) -> None:
    """Raise StorageError unless `store` refuses to create a taken key and to replace a changed object.

    The proof writes a key of its own under `probe/` and removes it; it is made once for each opened store.
    """
    if store in _proven:
        return
    key = f"probe/{uuid.uuid4().hex}"
    first = store.create(key, b"first")
    try:
        if not _is_refused(lambda: store.create(key, b"second")) or store.get(key).data != b"first":
            raise _ignored(store, "created a key that was taken (If-None-Match)")
        store.replace(key, b"third", first)
        if not _is_refused(lambda: store.replace(key, b"fourth", first)) or store.get(key).data != b"third":
            raise _ignored(store, "replaced an object that had changed (If-Match)")
    finally:
        store.delete(key)
    _proven.add(store)


def _is_refused(write: Callable[[], str]) -> bool:
    try:
        write()
    except PreconditionFailed:
        return True
    return False


def _ignored(store: ObjectStore, did: str) -> StorageError:
    return StorageError(
        f"store {store.uri}: ignores conditional writes: it {did}; the registry needs a store that honours them, "
        "such as AWS S3, MinIO, Ceph or a directory"
    )
