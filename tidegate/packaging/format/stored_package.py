"""Reads packages from an object store, and from there nothing larger than a package's parts can be."""

import shutil
from contextlib import suppress
from pathlib import Path

from tidegate.errors import ObjectNotFound, PackageError
from tidegate.packaging.format.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from tidegate.packaging.format.manifest_rules import LARGEST_MANIFEST, LARGEST_SIGNATURE
from tidegate.storage import ObjectStore


def stored_manifest(store: ObjectStore, prefix: str, where: str) -> bytes:
    """Return the bytes of `package.json` below `prefix`; raises ObjectNotFound, or PackageError if there are too many."""
    return _read(store, prefix + MANIFEST_NAME, LARGEST_MANIFEST, where)


def stored_signature(store: ObjectStore, prefix: str, where: str) -> bytes:
    """Return the bytes of `package.sig` below `prefix`; raises ObjectNotFound, or PackageError if there are too many."""
    return _read(store, prefix + SIGNATURE_NAME, LARGEST_SIGNATURE, where)


def download_files(store: ObjectStore, prefix: str, manifest: Manifest, to: Path, where: str) -> None:
    """Download the files that `manifest` lists, and the signature if there is one, into the directory `to`; verify them then.

    Raises:
        PackageError: A file is missing or has not the size it is said to have, or `to` has no room for all of them.
        StorageError: The store cannot be read.
    """
    needed, free = sum(entry.size for entry in manifest.files.values()), shutil.disk_usage(to).free
    if needed > free:
        raise PackageError(f"{where}: its files have {needed} bytes, and {to.parent} has room for {free}; make room")
    for name, entry in manifest.files.items():
        try:
            size = store.size(prefix + name)
            if size != entry.size:
                raise PackageError(f"{where}: {name} has {size} bytes, {MANIFEST_NAME} says {entry.size}; package again")
            store.download(prefix + name, to / name)
        except ObjectNotFound:
            raise PackageError(f"{where}: {name} is missing; package again") from None
    download_signature(store, prefix, to, where)


def download_signature(store: ObjectStore, prefix: str, to: Path, where: str) -> None:
    """Download `package.sig`, if there is one: a package that was fetched before may have been signed since."""
    with suppress(ObjectNotFound):
        _check_size(store, prefix + SIGNATURE_NAME, LARGEST_SIGNATURE, where)
        store.download(prefix + SIGNATURE_NAME, to / SIGNATURE_NAME)


def _read(store: ObjectStore, key: str, limit: int, where: str) -> bytes:
    _check_size(store, key, limit, where)
    return store.get(key).data


def _check_size(store: ObjectStore, key: str, limit: int, where: str) -> None:
    size = store.size(key)
    if size > limit:
        raise PackageError(f"{where}: {key} has {size} bytes, at most {limit} are read")
