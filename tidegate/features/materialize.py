"""Materialization: moves each view's latest rows from its source to the online store, from one watermark to the next."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
from feast import FeatureView
from feast.types import Bool, FeastType, Float32, Float64, Int32, Int64, String

from tidegate.errors import DataError, FeatureError
from tidegate.features.online_rows import PackedRow, RowWriter, Watermark
from tidegate.features.packed_row import key_order, pack_key, pack_row, view_prefix
from tidegate.features.source import ViewSource, open_source, quoted
from tidegate.features.times import from_microseconds, to_microseconds

_CLOCK_TOLERANCE = timedelta(hours=1)

_CASTS: dict[FeastType, str] = {
    Float32: "FLOAT",
    Float64: "DOUBLE",
    Int32: "BIGINT",
    Int64: "BIGINT",
    String: "VARCHAR",
    Bool: "BOOLEAN",
}


@dataclass(frozen=True, slots=True)
class ViewMaterialization:
    """What became of one view: rows written for event times after `since` (None: from the beginning) up to `until`."""

    view: str
    since: datetime | None
    until: datetime
    rows: int


@dataclass(frozen=True, slots=True)
class MaterializationReport:
    """What one materialization did; views that are not served online are not in it."""

    until: datetime
    views: tuple[ViewMaterialization, ...]

    @property
    def rows(self) -> int:
        """Rows written over all views."""
        return sum(view.rows for view in self.views)


class Materializer:
    """Materializes views one after another; a view's watermark moves only when its rows are in the online store.

    A killed materialization resumes where it stopped. A view whose definition changed starts from the beginning. Rows that
    arrive late, for an event time already passed, are picked up by their created timestamp.
    """

    def __init__(
        self, source: duckdb.DuckDBPyConnection, online: RowWriter, project: str, *, repository: Path, workspace: Path
    ) -> None:
        """Materialize from `source` into `online`.

        Args:
            source: Where views' sources are opened.
            online: The online store.
            project: Name of the Feast project.
            repository: The Feast repository's folder, to which paths of sources may be relative.
            workspace: What the sources lie below; on a cluster every pod has one of its own, so watermarks do not name it.
        """
        self._source = source
        self._online = online
        self._project = project
        self._repository = repository
        self._workspace = workspace
        self._opened: dict[str, ViewSource] = {}

    def materialize(self, views: Sequence[FeatureView], until: datetime, *, live: bool = False) -> MaterializationReport:
        """Bring the online rows of `views` to the state of event time `until`; nothing is written if a source is amiss.

        Args:
            views: What to materialize.
            until: Event time, with a time zone.
            live: Event time is the wall clock's, so the store may forget a row soon after its TTL. Never so in a replay.

        Raises:
            DataError: A source is missing, lacks a column or has a wrong type.
            FeatureError: A view has a type that cannot be materialized, or the online store cannot be written.
        """
        sources = [self._open(view) for view in views]
        done = [self._materialize(view, source, until, live=live) for view, source in zip(views, sources, strict=True)]
        return MaterializationReport(until, tuple(done))

    def _materialize(self, view: FeatureView, source: ViewSource, until: datetime, *, live: bool) -> ViewMaterialization:
        definition, until_us = self._definition(view), to_microseconds(until)
        since_us = self._online.watermark_us(self._project, view.name, definition)
        since = from_microseconds(since_us) if since_us is not None else None
        if since_us is not None and since_us >= until_us:
            return ViewMaterialization(view.name, since, until, 0)
        rows = list(self._pull(view, source, since_us, until_us))
        mark = Watermark(self._project, view.name, until_us, definition)
        self._online.write(rows, [mark], lifetime_us=_lifetime_us(view) if live else None)
        return ViewMaterialization(view.name, since, until, len(rows))

    def _open(self, view: FeatureView) -> ViewSource:
        definition = self._definition(view)
        if definition not in self._opened:
            columns = [field.name for field in view.features]
            self._opened[definition] = open_source(self._source, view, columns, self._repository)
        return self._opened[definition]

    def watermark_us(self, view: FeatureView) -> int | None:
        """Return up to which event time (microseconds since the epoch) a view is materialized; None if it is not."""
        return self._online.watermark_us(self._project, view.name, self._definition(view))

    def read(self, view: FeatureView, since_us: int, until_us: int) -> list[PackedRow]:
        """Return every row of a view that becomes knowable in (since, until], packed, in that order; writes nothing."""
        source = self._open(view)
        return sorted(self._pull(view, source, since_us, until_us, latest_only=False), key=known_at_us)

    def write(self, views: Sequence[FeatureView], rows: Sequence[PackedRow], until_us: int) -> None:
        """Write rows of several views, and then move all their watermarks to `until_us`.

        Raises:
            FeatureError: The online store cannot be written.
        """
        self._online.write(rows, [Watermark(self._project, view.name, until_us, self._definition(view)) for view in views])

    def _pull(
        self, view: FeatureView, source: ViewSource, since_us: int | None, until_us: int, *, latest_only: bool = True
    ) -> Iterator[PackedRow]:
        dtypes = {column.name: column.dtype for column in view.entity_columns}
        keys = key_order(dtypes)
        features = [field.name for field in view.features]
        selected = [
            *(_cast(view, key, dtypes[key]) for key in keys),
            *(_cast(view, field.name, field.dtype) for field in view.features),
        ]
        try:
            found = self._source.sql(_rows(source, keys, selected, since_us, until_us, latest_only=latest_only)).fetchall()
        except duckdb.Error as error:
            raise DataError(f"feature view {view.name}: {' '.join(str(error).split())}") from error
        prefix = view_prefix(self._project, view.name)
        for event_us, created_us, *values in found:
            row = pack_row(dict(zip(features, values[len(keys) :], strict=True)))
            yield pack_key(prefix, tuple(values[: len(keys)])), event_us, created_us, row

    def _definition(self, view: FeatureView) -> str:
        """Return a digest of everything in the view's definition that decides what its online rows hold."""
        source = view.batch_source
        parts = [
            *sorted(f"{field.name}:{field.dtype}" for field in [*view.entity_columns, *view.features]),
            str(source.path).replace(str(self._workspace), ""),
            str(source.timestamp_field),
            str(source.created_timestamp_column),
            str(sorted(source.field_mapping.items())),
            str(view.ttl),  # a longer one wants rows back that the store has forgotten
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def known_at_us(row: PackedRow) -> int:
    """Return when a row can be materialized: its event time, or when it was created, if that was later."""
    _, event_us, created_us, _ = row
    return max(event_us, created_us)


def _rows(
    source: ViewSource,
    keys: tuple[str, ...],
    selected: list[str],
    since_us: int | None,
    until_us: int,
    *,
    latest_only: bool,
) -> str:
    """Return the query for the window's rows, or only each key's latest, with their event and created times first."""
    created = f"coalesce({source.created.microseconds}, 0)" if source.created else "0"
    columns = ", ".join([f"{source.event.microseconds} AS event_us", f"{created} AS created_us", *selected])
    present = " AND ".join(f"{quoted(key)} IS NOT NULL" for key in keys)
    written = f" AND coalesce({source.created.within(None, until_us)}, true)" if source.created else ""
    window = f"{present} AND {source.event.within(since_us, until_us)}{written}"
    scans = [f"SELECT * FROM {source.relation} WHERE {window}"]  # noqa: S608
    if since_us is not None and source.created is not None:
        late = source.created.within(since_us, until_us)
        passed = source.event.within(None, since_us)
        scans.append(f"SELECT * FROM {source.relation} WHERE {present} AND {passed} AND {late}")  # noqa: S608
    names = ", ".join(map(quoted, keys))
    latest = f"QUALIFY row_number() OVER (PARTITION BY {names} ORDER BY event_us DESC, created_us DESC) = 1"
    return f"SELECT {columns} FROM ({' UNION ALL '.join(scans)}) {latest if latest_only else ''}"  # noqa: S608


def _cast(view: FeatureView, column: str, dtype: FeastType) -> str:
    if dtype not in _CASTS:
        raise FeatureError(f"feature view {view.name}: {column!r} is {dtype}, which cannot be materialized")
    return f"CAST({quoted(column)} AS {_CASTS[dtype]})"


def _lifetime_us(view: FeatureView) -> int | None:
    """Return how long after its event a live row is kept: longer than any server, whose clock may be slow, reads it."""
    return (view.ttl + _CLOCK_TOLERANCE) // timedelta(microseconds=1) if view.ttl else None
