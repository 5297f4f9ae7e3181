"""A local directory as an object store: every key is a file, every write a rename or a hard link of a finished file."""

import errno
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tidegate.errors import ObjectNotFound, PreconditionFailed, StorageError
from tidegate.storage.downloads import download_target
from tidegate.storage.keys import RESERVED, check_key, check_prefix, is_key
from tidegate.storage.store import StoredObject

_LOCKS = 64
_ABANDONED_SECONDS = 24 * 3600
_PUBLISH_ATTEMPTS = 100


class DirectoryStore:
    """An ObjectStore below one directory, which the first write creates.

    A write goes to a staging file on the same file system, is synced, and then appears under its key at once: `create`
    by a hard link, which fails if the key is taken; `put` and `replace` by a rename, under a lock that every process and
    thread shares. The entity tag is the sha256 of the content, so a writer that compares tags should write content that
    never repeats. Symbolic links are never followed and never listed.
    """

    def __init__(self, root: Path) -> None:
        """Use the directory `root`; raises StorageError if something else lies there."""
        self._root = Path(os.path.realpath(root))
        self._staging = self._root / RESERVED / "staging"
        self._locks = self._root / RESERVED / "locks"
        self._swept = False
        if os.path.lexists(self._root) and not self._root.is_dir():
            raise StorageError(f"store {self.uri}: is not a directory; name a directory")

    @property
    def uri(self) -> str:
        """`file://` and the absolute path."""
        return f"file://{self._root}"

    def get(self, key: str) -> StoredObject:
        """Return an object; raises ObjectNotFound."""
        path = self._path(key)
        with self._explained("read", key):
            data = path.read_bytes()
        return StoredObject(data, _etag(data))

    def put(self, key: str, data: bytes) -> str:
        """Write an object whatever is there, and return its entity tag."""
        self._write(key, lambda file: file.write(data))
        return _etag(data)

    def create(self, key: str, data: bytes) -> str:
        """Write an object only if the key is free; raises PreconditionFailed if it is not."""
        path = self._path(key)
        if path.is_file():
            raise self._taken(key)
        with self._explained("write", key), self._staged(lambda file: file.write(data)) as staged:
            try:
                self._publish(lambda: os.link(staged, path), path)
            except FileExistsError:
                if path.is_file():
                    raise self._taken(key) from None
                raise
        return _etag(data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        """Write an object only if its entity tag is still `etag`; raises PreconditionFailed if it is not."""
        path = self._path(key)
        with self._explained("write", key), self._staged(lambda file: file.write(data)) as staged, self._locked(key):
            current = _etag(path.read_bytes()) if path.is_file() else None
            if current != etag:
                found = "is gone" if current is None else "was changed"
                raise PreconditionFailed(f"store {self.uri}: {key!r} {found} since it was read; read it again")
            self._publish(lambda: staged.replace(path), path)
        return _etag(data)

    def exists(self, key: str) -> bool:
        """Tell whether the key holds an object."""
        path = self._path(key)
        with self._explained("read", key):
            return path.is_file()

    def size(self, key: str) -> int:
        """Return how many bytes an object has; raises ObjectNotFound."""
        path = self._path(key)
        with self._explained("read", key):
            if not path.is_file():
                raise FileNotFoundError(errno.ENOENT, "no such object")
            return path.stat().st_size

    def list(self, prefix: str = "") -> Iterator[str]:
        """Return, sorted, every key that starts with `prefix`."""
        check_prefix(prefix)
        folder, _, _ = prefix.rpartition("/")
        if not self._is_inside(self._root / folder):
            return iter(())
        with self._explained("list", prefix):
            return iter(sorted(key for key in self._walk(folder) if key.startswith(prefix)))

    def delete(self, key: str) -> None:
        """Remove an object, and the folders it leaves empty; removing what is not there is no error."""
        if not self.exists(key):
            return
        path = self._path(key)
        with self._explained("delete", key), self._locked(key):
            if path.is_file():
                path.unlink()
                self._prune(path.parent)

    def upload(self, key: str, path: Path) -> None:
        """Write a local file as an object, streaming."""
        try:
            source = path.open("rb")
        except OSError as error:
            raise StorageError(f"store {self.uri}: cannot upload {path}: {error.strerror}") from error
        with source:
            self._write(key, lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def download(self, key: str, path: Path) -> None:
        """Write an object to a local file, atomically and streaming; raises ObjectNotFound."""
        source = self._path(key)
        with self._explained("read", key):
            file = source.open("rb")
        with file, download_target(path) as fresh, fresh.open("wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)

    def _path(self, key: str) -> Path:
        check_key(key)
        path = self._root / key
        if not self._is_inside(path):
            raise StorageError(f"store {self.uri}: key {key!r} leads through a symbolic link; replace the link by a directory")
        return path

    def _is_inside(self, path: Path) -> bool:
        return os.path.realpath(path) == str(path)

    def _write(self, key: str, fill: Callable[[BinaryIO], object]) -> None:
        path = self._path(key)
        with self._explained("write", key), self._staged(fill) as staged, self._locked(key):
            self._publish(lambda: staged.replace(path), path)

    @contextmanager
    def _staged(self, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
        self._prepare()
        staged = self._staging / uuid.uuid4().hex
        try:
            with staged.open("xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    def _prepare(self) -> None:
        self._staging.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)
        if not self._swept:
            self._remove_abandoned_staging_files()
            self._swept = True

    def _remove_abandoned_staging_files(self) -> None:
        oldest = time.time() - _ABANDONED_SECONDS
        for entry in os.scandir(self._staging):
            try:
                if entry.stat().st_mtime < oldest:
                    Path(entry).unlink(missing_ok=True)
            except FileNotFoundError:
                continue

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        self._prepare()
        shard = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % _LOCKS
        with (self._locks / f"{shard:02d}").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _publish(self, place: Callable[[], object], path: Path) -> None:
        for _ in range(_PUBLISH_ATTEMPTS):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                if any(folder.is_file() for folder in path.parents):
                    raise NotADirectoryError(errno.ENOTDIR, "a part of the key before the last is an object") from None
                continue  # a concurrent delete has pruned the empty folder between two looks at it
            except FileNotFoundError:
                continue  # the same, while the folders below it were made
            try:
                place()
            except FileNotFoundError:
                continue  # the same, later
            with suppress(FileNotFoundError):  # the object itself may have been deleted, and its folder with it
                _sync_directory(path.parent)
            return
        raise FileNotFoundError(errno.ENOENT, "its folder keeps vanishing")

    def _prune(self, folder: Path) -> None:
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(self._root / folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            if not is_key(key):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(key)
            elif entry.is_file(follow_symlinks=False):
                yield key

    def _taken(self, key: str) -> PreconditionFailed:
        return PreconditionFailed(f"store {self.uri}: {key!r} exists already")

    @contextmanager
    def _explained(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if verb == "read" and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                raise ObjectNotFound(f"store {self.uri}: holds no {key!r}") from None
            raise StorageError(f"store {self.uri}: cannot {verb} {key!r}: {error.strerror or error}") from error


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
