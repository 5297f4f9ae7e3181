"""The SQLite file behind the online store: its tables, and the one statement that never lets an older event win.

    rows        one packed row per (view, entity key), with the event and created time (microseconds since the epoch)
    watermarks  per view: up to which event time it was materialized, and from which definition of the view

The file is in WAL mode: readers are never blocked and see a whole transaction or none of it.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from tidegate.errors import FeatureError

URI_PREFIX = "sqlite://"

PackedRow = tuple[bytes, int, int, bytes]
"""Key, event time, created time (0 if unknown), packed row; times in microseconds since the epoch."""

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
        raise FeatureError(f"online store {uri!r}: not an address of one; use sqlite:///ABSOLUTE/PATH")
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


def delete_view(connection: sqlite3.Connection, project: str, view: str, prefix: bytes) -> None:
    """Remove every row of a view and its watermark, in one transaction."""
    with closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        cursor.execute("DELETE FROM rows WHERE key >= ? AND key < ?", (prefix, prefix + b"\xff"))
        cursor.execute("DELETE FROM watermarks WHERE project = ? AND view = ?", (project, view))
        cursor.execute("COMMIT")
