"""An online store in a SQLite file: its tables, and the one statement that never lets an older event win.

    rows        one packed row per (view, entity key), with the event and created time (microseconds since the epoch)
    watermarks  per view: up to which event time it was materialized, and from which definition of the view

The file is in WAL mode: readers are never blocked and see a whole transaction or none of it.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from tidegate.errors import FeatureError
from tidegate.features.online_rows import FoundRow, PackedRow, Watermark
from tidegate.features.packed_row import view_prefix

URI_PREFIX = "sqlite://"

_KEYS_PER_QUERY = 16_384  # a power of two; SQLite allows 32,766 parameters

_TABLES = """
CREATE TABLE IF NOT EXISTS rows (
    key BLOB PRIMARY KEY, event_us INTEGER NOT NULL, created_us INTEGER NOT NULL, row BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watermarks (
    project TEXT, view TEXT, until_us INTEGER NOT NULL, definition TEXT NOT NULL, PRIMARY KEY (project, view)
) WITHOUT ROWID;
"""

_UPSERT = """
INSERT INTO rows (key, event_us, created_us, row) VALUES (?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET event_us = excluded.event_us, created_us = excluded.created_us, row = excluded.row
WHERE (excluded.event_us, excluded.created_us) >= (rows.event_us, rows.created_us)
"""


def online_uri(path: Path) -> str:
    """Return the address of the online store at `path`: `sqlite:///ABSOLUTE/PATH`."""
    return f"{URI_PREFIX}{path.resolve()}"


def online_path(uri: str) -> Path:
    """Return the path in a `sqlite:///ABSOLUTE/PATH` address; raises FeatureError on any other."""
    path = uri.removeprefix(URI_PREFIX)
    if path == uri or not path.startswith("/"):
        raise FeatureError(f"online store {uri!r}: not an address of one; use sqlite:///ABSOLUTE/PATH or redis://HOST:PORT/DB")
    return Path(path)


def open_writer(path: Path) -> sqlite3.Connection:
    """Open the file for writing, with its tables, creating what is missing; raises FeatureError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_TABLES)
    except (OSError, sqlite3.Error) as error:
        raise FeatureError(f"online store {path}: cannot be opened for writing: {error}") from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection | None:
    """Open the file read-only, or return None while it, or a table in it, is not there yet; raises FeatureError."""
    if not path.exists():
        return None
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5, check_same_thread=False)
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'rows'").fetchone() is None:
            connection.close()
            return None
    except sqlite3.Error as error:
        raise FeatureError(f"online store {path}: cannot be read: {error}") from error
    return connection


def upsert(connection: sqlite3.Connection, rows: Iterable[PackedRow]) -> None:
    """Write rows, except where a later event (or, at the same event time, a later creation) is there already."""
    connection.executemany(_UPSERT, rows)


class FileRowReader:
    """Reads the file; it is a RowReader. A batch of rows is one state of the file, up to 16,384 keys."""

    waits = False

    def __init__(self, path: Path) -> None:
        """Open the file at `path`, which need not be there yet; raises FeatureError if it is no online store."""
        self._path = path
        self._connection = open_reader(path)

    async def fetch(self, keys: Sequence[bytes]) -> Mapping[bytes, FoundRow]:
        """Return the rows that lie under `keys`, without waiting for anything; raises FeatureError if it cannot."""
        if self._connection is None:
            self._connection = open_reader(self._path)
        if self._connection is None or not keys:
            return {}
        return _fetch(self._connection, self._path, keys)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class FileRows:
    """Writes the file; it is a RowWriter. Rows and watermarks are written in one transaction, and the file keeps every row."""

    def __init__(self, path: Path) -> None:
        """Open the file at `path`, creating what is missing; raises FeatureError."""
        self._path = path
        self._connection = open_writer(path)

    def write(self, rows: Sequence[PackedRow], marks: Sequence[Watermark], *, lifetime_us: int | None = None) -> None:
        """Write rows and watermarks, both or neither; raises FeatureError."""
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                upsert(self._connection, rows)
                self._connection.executemany(
                    "INSERT OR REPLACE INTO watermarks (project, view, until_us, definition) VALUES (?, ?, ?, ?)", marks
                )
        except sqlite3.Error as error:
            raise self._failure("written", error) from error

    def watermark_us(self, project: str, view: str, definition: str) -> int | None:
        """Return up to which event time a view is materialized from this definition; None if it is not."""
        query = "SELECT until_us FROM watermarks WHERE project = ? AND view = ? AND definition = ?"
        try:
            found = self._connection.execute(query, (project, view, definition)).fetchone()
        except sqlite3.Error as error:
            raise self._failure("read", error) from error
        return found[0] if found else None

    def read(self, keys: Sequence[bytes]) -> Mapping[bytes, FoundRow]:
        """Return the rows that lie under `keys`; raises FeatureError."""
        return _fetch(self._connection, self._path, keys)

    def delete_view(self, project: str, view: str) -> None:
        """Remove a view's watermark and every row of it, in one transaction."""
        prefix = view_prefix(project, view)
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("DELETE FROM rows WHERE key >= ? AND key < ?", (prefix, prefix + b"\xff"))
            cursor.execute("DELETE FROM watermarks WHERE project = ? AND view = ?", (project, view))
            cursor.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _failure(self, done: str, error: sqlite3.Error) -> FeatureError:
        return FeatureError(f"online store {self._path}: cannot be {done}: {error}")


def _fetch(connection: sqlite3.Connection, path: Path, keys: Sequence[bytes]) -> dict[bytes, FoundRow]:
    found: dict[bytes, FoundRow] = {}
    try:
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            found.update(_select(connection, keys[start : start + _KEYS_PER_QUERY]))
    except sqlite3.Error as error:
        raise FeatureError(f"online store {path}: cannot be read: {error}") from error
    return found


def _select(connection: sqlite3.Connection, keys: Sequence[bytes]) -> Iterable[tuple[bytes, FoundRow]]:
    # Padding to a power of two keeps the number of different statements, which SQLite compiles and caches, small.
    size = 1 << (len(keys) - 1).bit_length()
    padded = [*keys, *[keys[0]] * (size - len(keys))]
    query = f"SELECT key, event_us, row FROM rows WHERE key IN ({','.join('?' * size)})"  # noqa: S608
    return ((key, (event, row)) for key, event, row in connection.execute(query, padded))
