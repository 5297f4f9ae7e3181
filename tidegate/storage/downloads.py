"""Where a download goes until it is complete."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tidegate.errors import StorageError


@contextmanager
def download_target(path: Path) -> Iterator[Path]:
    """Give a fresh path beside `path` to write to, which becomes `path` at the end; raises StorageError if it cannot."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        fresh.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write the download {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            fresh.unlink()
