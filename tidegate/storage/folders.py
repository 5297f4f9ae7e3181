"""Writes a directory whole or not at all: into a fresh one beside it, which then takes its place.

with fresh_folder_beside(to) as fresh:
    (fresh / "file").write_bytes(content)
    put_in_place(fresh, to)
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def fresh_folder_beside(to: Path) -> Iterator[Path]:
    """Give an empty directory `.NAME.…` on the disk of `to`, as readable as any; what is left of it at the end is removed."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # which would read as if something stood in the way of `to` itself
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(to.parent)) from error
    fresh = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    try:
        fresh.chmod(0o755)
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def put_in_place(fresh: Path, to: Path) -> None:
    """Make `fresh`, once all of it is on the disk, the directory `to`; an earlier one is moved aside first, then removed.

    A process that is killed between the two leaves the earlier one beside `to`, as `.NAME.…/replaced`.
    """
    for path in (*fresh.rglob("*"), fresh):
        _flush(path)
    with fresh_folder_beside(to) as aside:
        if to.exists():
            to.rename(aside / "replaced")
        fresh.rename(to)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
