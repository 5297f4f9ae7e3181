"""Reads the files of a package without trusting them: no link, pipe or device is opened, and nothing is read beyond a bound."""

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import MANIFEST_NAME, FileEntry

_CHUNK = 1 << 20


@contextmanager
def open_plain(path: Path) -> Iterator[io.BufferedReader]:
    """Open a package's file; raises PackageError, which names it, if it is absent, unreadable, or not a plain file."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # before it is opened: to open a device can do something
            raise _not_plain(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_plain(path)
        with open(descriptor, "rb", closefd=False) as stream:
            yield stream
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def read_plain(path: Path, *, limit: int) -> bytes:
    """Return a file's bytes; raises PackageError if it has more than `limit` of them, or as `open_plain` does."""
    with open_plain(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise PackageError(f"package {path.parent}: {path.name} has more than {limit} bytes, which no package needs")
    return content


def check_entry(path: Path, entry: FileEntry) -> None:
    """Compare a file's size, and only if that is right its sha256, with its entry; raises PackageError if they differ."""
    what = f"package {path.parent}: {path.name}"
    with open_plain(path) as stream:
        before = os.fstat(stream.fileno())
        if before.st_size != entry.size:
            raise PackageError(f"{what} has {before.st_size} bytes, {MANIFEST_NAME} says {entry.size}; fetch it again")
        sha256 = _sha256(stream, before.st_size)
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise PackageError(f"{what} changes while it is verified; let nobody else write there")
    if sha256 != entry.sha256:
        raise PackageError(f"{what} has sha256 {sha256[:12]}…, {MANIFEST_NAME} says {entry.sha256[:12]}…; fetch it again")


def entry_of(path: Path) -> FileEntry:
    """Return the size and sha256 of a file; raises PackageError as `open_plain` does."""
    with open_plain(path) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(size=stream.tell(), sha256=digest)


def _sha256(stream: io.BufferedReader, size: int) -> str:
    """Hash exactly so many bytes: a file that somebody keeps appending to would never end."""
    digest = hashlib.sha256()
    while size and (chunk := stream.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _not_plain(path: Path) -> PackageError:
    return PackageError(f"package {path.parent}: {path.name} is not a plain file; package again")


def _unreadable(path: Path, error: OSError) -> PackageError:
    if error.errno == errno.ELOOP:
        return _not_plain(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        remedy = "not a model package" if path.name == MANIFEST_NAME else "package again"
        return PackageError(f"package {path.parent}: {path.name} is missing; {remedy}")
    return PackageError(f"package {path.parent}: {path.name} cannot be read: {error.strerror or error}; check its permissions")
