"""Parquet objects of a store as local files that DuckDB can read."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from tidegate.storage import ObjectStore

_FOOTER = b"PAR1"
_GLOB = str.maketrans({"[": "[[]", "*": "[*]", "?": "[?]"})


@contextmanager
def local_files(store: ObjectStore, keys: Iterable[str]) -> Iterator[list[str]]:
    """Yield DuckDB paths of the objects: read in place in a directory, downloaded for the while from elsewhere.

    A Parquet file without its footer was not written, and is left out. Raises ObjectNotFound if an object is gone.
    """
    if store.uri.startswith("file://"):
        root = Path(store.uri.removeprefix("file://"))
        yield _written(root / key for key in keys)
        return
    with TemporaryDirectory(prefix="tidegate-") as folder:
        yield _written(_download(store, keys, Path(folder)))


@contextmanager
def duckdb_session() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a private in-memory DuckDB connection whose time zone is UTC."""
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def _download(store: ObjectStore, keys: Iterable[str], folder: Path) -> Iterator[Path]:
    for number, key in enumerate(keys):
        path = folder / f"{number}.parquet"
        store.download(key, path)
        yield path


def _written(paths: Iterable[Path]) -> list[str]:
    return [str(path).translate(_GLOB) for path in paths if _has_footer(path)]


def _has_footer(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(_FOOTER)))
        return size > 2 * len(_FOOTER) and file.read() == _FOOTER
