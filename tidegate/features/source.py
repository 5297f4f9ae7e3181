"""A feature view's Parquet source as DuckDB sees it: checked columns, keys, and times in whole microseconds."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.dataset
from feast import FeatureView
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.file_source import FileSource
from feast.types import Bool, FeastType, Float32, Float64, Int32, Int64, String

from tidegate.errors import DataError, FeatureError
from tidegate.features.times import EARLIEST_US, LATEST_US, from_microseconds

_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"})
_NUMBERS = _INTEGERS | {"FLOAT", "DOUBLE"}
_TIMESTAMPS = frozenset(
    {"TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ_NS", "DATE"}
)
_ACCEPTED: dict[FeastType, frozenset[str]] = {
    Float32: _NUMBERS,
    Float64: _NUMBERS,
    Int32: _INTEGERS,
    Int64: _INTEGERS,
    String: frozenset({"VARCHAR"}),
    Bool: frozenset({"BOOLEAN"}),
}


@dataclass(frozen=True, slots=True)
class TimeColumn:
    """A timestamp column: its name, quoted, and its DuckDB type."""

    name: str
    kind: str

    @property
    def microseconds(self) -> str:
        """SQL of the time in microseconds since the epoch, rounded down."""
        if self.kind not in ("TIMESTAMP_NS", "TIMESTAMPTZ_NS"):
            return f"epoch_us({self.name})"
        # A cast from nanoseconds rounds half up, which looks ahead; and // truncates towards zero.
        nanoseconds = f"epoch_ns({self.name})"
        return f"(({nanoseconds} - (({nanoseconds} % 1000) + 1000) % 1000) // 1000)"

    def within(self, after_us: int | None, until_us: int) -> str:
        """Return SQL for a time later than `after_us` (None: any) and not later than `until_us`.

        It compares the bare column where that is exact, because DuckDB then skips parts of the file by their statistics.
        """
        if self.kind == "TIMESTAMP WITH TIME ZONE":
            column, after, until = self.name, _literal("TIMESTAMPTZ", after_us), _literal("TIMESTAMPTZ", until_us)
        elif self.kind == "TIMESTAMP":
            column, after, until = self.name, _literal("TIMESTAMP", after_us), _literal("TIMESTAMP", until_us)
        else:
            column, after, until = self.microseconds, str(after_us), str(until_us)
        return f"{column} <= {until}" if after_us is None else f"{column} > {after} AND {column} <= {until}"


@dataclass(frozen=True, slots=True)
class ViewSource:
    """Where and how to select a feature view's rows.

    Attributes:
        view: The view's name.
        relation: SQL to select from; its columns have the view's names.
        types: Column name to DuckDB type.
        event: When a row became knowable.
        created: When it was written, or None if the view does not say.
    """

    view: str
    relation: str
    types: dict[str, str]
    event: TimeColumn
    created: TimeColumn | None


def open_connection() -> duckdb.DuckDBPyConnection:
    """Open a DuckDB in memory for which a timestamp without a zone is UTC."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET parquet_metadata_cache = true")
    return connection


def open_source(
    connection: duckdb.DuckDBPyConnection, view: FeatureView, columns: list[str], repo_path: Path | str
) -> ViewSource:
    """Open the source of `view` and check that it holds its join keys, timestamps and the features `columns`.

    Raises:
        DataError: The source is missing or unreadable, lacks a column, or a column does not fit the view's declaration.
        FeatureError: The source is not made of Parquet files.
    """
    source = view.batch_source
    if not isinstance(source, FileSource) or not isinstance(source.file_format, ParquetFormat | None):
        raise FeatureError(f"feature view {view.name}: {type(source).__name__} is not supported; use a Parquet FileSource")
    relation = _relation(connection, view.name, source, repo_path)
    if source.field_mapping:
        renames = ", ".join(f"{quoted(old)} AS {quoted(new)}" for old, new in source.field_mapping.items())
        relation = f"(SELECT * RENAME ({renames}) FROM {relation})"  # noqa: S608
    try:
        described = connection.sql(f"SELECT * FROM {relation}")  # noqa: S608
    except duckdb.Error as error:
        raise DataError(f"feature view {view.name}: source {source.path} cannot be read: {_first_line(error)}") from error
    types = {name: str(kind) for name, kind in zip(described.columns, described.types, strict=True)}
    event = source.field_mapping.get(source.timestamp_field, source.timestamp_field)
    created = source.created_timestamp_column
    created = source.field_mapping.get(created, created) if created else None
    _check_columns(view, source.path, types, columns, [event, *([created] if created else [])])
    return ViewSource(
        view=view.name,
        relation=relation,
        types=types,
        event=TimeColumn(quoted(event), types[event]),
        created=TimeColumn(quoted(created), types[created]) if created else None,
    )


def quoted(name: str) -> str:
    """Return a column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _relation(connection: duckdb.DuckDBPyConnection, view: str, source: FileSource, repo_path: Path | str) -> str:
    uri = FileSource.get_uri_for_file_path(repo_path=str(repo_path), uri=source.file_options.uri)
    address = str(uri).removeprefix("file://")
    if "://" in address:
        filesystem, path = FileSource.create_filesystem_and_path(address, source.s3_endpoint_override)
        try:
            dataset = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet")
        except (OSError, ValueError) as error:
            raise DataError(f"feature view {view}: source {address} cannot be read: {_first_line(error)}") from error
        connection.register(f"source of {view}", dataset)
        return quoted(f"source of {view}")
    local = Path(address)
    if not local.exists():
        raise DataError(f"feature view {view}: source {local} does not exist; write it first")
    pattern = f"{local}/**/*.parquet" if local.is_dir() else str(local)
    literal = pattern.replace("'", "''")
    return f"read_parquet('{literal}')"


def _check_columns(view: FeatureView, path: str, types: dict[str, str], features: list[str], times: list[str]) -> None:
    for column in [*(entity.name for entity in view.entity_columns), *times, *features]:
        if column not in types:
            raise DataError(f"feature view {view.name}: source {path} has no column {column!r}; it has {', '.join(types)}")
    for column in times:
        if types[column] not in _TIMESTAMPS:
            raise DataError(f"feature view {view.name}: column {column!r} of {path} is {types[column]}, not a timestamp")
    declared = {field.name: field.dtype for field in [*view.entity_columns, *view.features]}
    for column in [*(entity.name for entity in view.entity_columns), *features]:
        accepted = _ACCEPTED.get(declared[column])
        if accepted is not None and types[column] not in accepted:
            raise DataError(
                f"feature view {view.name}: column {column!r} of {path} is {types[column]}, but the view declares "
                f"{declared[column]}; accepted are {', '.join(sorted(accepted))}"
            )


def _literal(kind: str, microseconds: int | None) -> str:
    moment = from_microseconds(min(max(microseconds or 0, EARLIEST_US), LATEST_US)).replace(tzinfo=None)
    return f"{kind} '{moment.isoformat(sep=' ')}'"  # the session's time zone is UTC


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
