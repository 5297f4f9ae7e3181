"""Mirrors a cluster's data into a pod's workspace: what changed is downloaded, what is gone is removed, the rest stays.

    mirror(S3Store.from_uri("s3://bucket/data"), workspace / "data")

What was mirrored is written down beside the folder (`.data.mirror.json`), so that a killed mirror is resumed by the next.
"""

import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from tidegate.errors import DataError, StorageError
from tidegate.storage.keys import is_key
from tidegate.storage.store import StoredEntry

_LOG = logging.getLogger(__name__)
_WORKERS = 8
_SAVE_SECONDS = 1.0
_MIB = 1 << 20


class MirroredStore(Protocol):
    """What is asked of the data's store; `tidegate.storage.s3.S3Store` is one."""

    @property
    def uri(self) -> str:
        """The store's address."""

    def entries(self) -> Iterable[StoredEntry]:
        """Return every object's key, size and entity tag."""

    def download(self, key: str, path: Path) -> None:
        """Write an object to a local file, atomically."""


@dataclass(frozen=True, slots=True)
class MirrorReport:
    """How many files were downloaded (and their bytes), found unchanged, and removed."""

    downloaded: int
    downloaded_bytes: int
    unchanged: int
    removed: int


def mirror(store: MirroredStore, folder: Path) -> MirrorReport:
    """Make the files below `folder` those of `store`; each appears whole or not at all.

    A file is downloaded again if its object's entity tag or size changed, or if the file itself was touched. Files that
    were never mirrored stay.

    Args:
        store: The data.
        folder: A local folder, created if it is missing.

    Raises:
        DataError: The store holds nothing.
        StorageError: The store cannot be read, the folder cannot be written, or a key leads out of it; what is mirrored
            already is not downloaded again.
    """
    entries = [entry for entry in store.entries() if not entry.key.endswith("/")]  # consoles mark folders so
    if not entries:
        raise DataError(f"data {store.uri}: holds nothing; upload the Parquet files that the feature views read")
    files = {entry.key: _file(store, folder, entry.key) for entry in entries}
    record = _Record(folder)
    stale = [entry for entry in entries if not record.holds(entry, files[entry.key])]
    removed = record.remove_others(files, folder)
    _download(store, stale, files, record)
    report = MirrorReport(len(stale), sum(entry.size for entry in stale), len(entries) - len(stale), removed)
    _LOG.info(
        "data %s: %d files (%.1f MiB) downloaded to %s, %d unchanged, %d removed",
        store.uri, report.downloaded, report.downloaded_bytes / _MIB, folder, report.unchanged, report.removed,
    )  # fmt: skip
    return report


def _file(store: MirroredStore, folder: Path, key: str) -> Path:
    file = folder / key
    if not is_key(key) or not file.resolve().is_relative_to(folder.resolve()):
        raise StorageError(f"data {store.uri}: key {key!r} leads out of {folder} or is no file name; remove that object")
    return file


def _download(store: MirroredStore, stale: list[StoredEntry], files: dict[str, Path], record: "_Record") -> None:
    def fetch(entry: StoredEntry) -> int:
        store.download(entry.key, files[entry.key])
        record.add(entry, files[entry.key])
        return entry.size

    total, done, done_bytes, told = sum(entry.size for entry in stale), 0, 0, time.monotonic()
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="mirror")
    try:
        for download in as_completed([pool.submit(fetch, entry) for entry in stale]):
            done, done_bytes = done + 1, done_bytes + download.result()
            if time.monotonic() - told > _SAVE_SECONDS:
                told = time.monotonic()
                record.save()
                mebibytes = f"{done_bytes / _MIB:.1f} of {total / _MIB:.1f} MiB"
                _LOG.info("data %s: %d of %d files, %s", store.uri, done, len(stale), mebibytes)
    finally:
        pool.shutdown(cancel_futures=True)
        record.save()


class _Record:
    """What was mirrored: by key, the object's entity tag, and the file's size and time as they were then."""

    def __init__(self, folder: Path) -> None:
        self._path = folder.parent / f".{folder.name}.mirror.json"
        self._files: dict[str, tuple[str, int, int]] = {}
        with suppress(OSError, msgspec.DecodeError):  # without a record, everything is downloaded
            self._files = msgspec.json.decode(self._path.read_bytes(), type=dict[str, tuple[str, int, int]])

    def holds(self, entry: StoredEntry, file: Path) -> bool:
        return self._files.get(entry.key) == (entry.etag, entry.size, _modified_ns(file))

    def add(self, entry: StoredEntry, file: Path) -> None:
        self._files[entry.key] = (entry.etag, file.stat().st_size, _modified_ns(file))

    def remove_others(self, files: dict[str, Path], folder: Path) -> int:
        """Remove the files of objects that are gone, and the folders they leave empty; return how many files."""
        others = [key for key in self._files if key not in files]
        for key in others:
            if is_key(key):
                _remove(folder / key, folder)
            del self._files[key]
        if others:
            self.save()
        return len(others)

    def save(self) -> None:
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(msgspec.json.encode(dict(self._files)))
            fresh.replace(self._path)
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error


def _remove(file: Path, folder: Path) -> None:
    try:
        file.unlink(missing_ok=True)
        while file.parent != folder and not any(file.parent.iterdir()):
            file = file.parent
            file.rmdir()
    except (FileNotFoundError, NotADirectoryError):  # somebody was quicker
        return
    except OSError as error:
        raise StorageError(f"cannot remove {file}: {error.strerror}") from error


def _modified_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
