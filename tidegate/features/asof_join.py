"""The point-in-time join: for every entity row, each view's latest row at that time, by DuckDB's ASOF joins."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import duckdb
import pyarrow as pa

from tidegate.features.source import ViewSource, quoted

_MICROSECOND = timedelta(microseconds=1)

MOMENT = "moment"
ROW = "row"


@dataclass(frozen=True, slots=True)
class ViewJoin:
    """How one view is joined.

    Attributes:
        source: The view's rows.
        keys: Join key of the view to the column of the entity rows that holds it.
        features: Column of the source to its name in the result.
        ttl: Age from which on a row (strictly older) is missing; None or zero means never.
    """

    source: ViewSource
    keys: dict[str, str]
    features: dict[str, str]
    ttl: timedelta | None


def asof_join(
    connection: duckdb.DuckDBPyConnection, entities: pa.Table, joins: Sequence[ViewJoin], *, only_created: bool
) -> list[tuple[str, pa.ChunkedArray]]:
    """Return the features of every entity row, as named columns in the order of the entity rows.

    Args:
        connection: Where the sources of `joins` are open.
        entities: The key columns, named by `entity_column`, `moment` (int64, microseconds since the epoch, null for none) and `row` (int64, 0, 1, …).
        joins: One for each view.
        only_created: Ignore a row until the time it was created, even if it describes an earlier one.
    """
    connection.register("entities", entities)
    columns: list[tuple[str, pa.ChunkedArray]] = []
    try:
        for join in joins:
            joined = connection.sql(_query(join, only_created=only_created)).to_arrow_table()
            columns += [(name, joined.column(name)) for name in join.features.values()]
    finally:
        connection.unregister("entities")
    return columns


def entity_column(key: str) -> str:
    """Return the name under which the entity rows carry the key column `key`."""
    return f"key {key}"


def _query(join: ViewJoin, *, only_created: bool) -> str:
    ttl = (join.ttl or timedelta(0)) // _MICROSECOND
    fresh = f"e.{MOMENT} - f.event_us <= {ttl}" if ttl else "TRUE"
    selected = ", ".join(
        f"CASE WHEN {fresh} THEN f.{_feature(name)} END AS {quoted(output)}" for name, output in join.features.items()
    )
    matches = " AND ".join(f"e.{quoted(entity_column(column))} = f.{_key(key)}" for key, column in join.keys.items())
    history = _history_as_created(join) if only_created and join.source.created_us else _history(join)
    return f"""
        SELECT {selected}
        FROM entities e ASOF LEFT JOIN ({history}) f ON {matches} AND e.{MOMENT} >= f.known_us
        ORDER BY e.{ROW}
    """  # noqa: S608


def _history(join: ViewJoin) -> str:
    """Return the view's rows, known from their event time on; of those of one key and time, the one created last."""
    source = join.source
    rows = f"""
        SELECT {_keys(join)}, {_features(join)}, {source.event_us} AS event_us, event_us AS known_us
        FROM {source.relation} WHERE {source.event} IS NOT NULL
    """  # noqa: S608
    if source.created_us is None:
        return rows
    keys = ", ".join(map(quoted, join.keys))
    return f"{rows} QUALIFY row_number() OVER (PARTITION BY {keys}, event_us ORDER BY {source.created_us} DESC NULLS LAST) = 1"


def _history_as_created(join: ViewJoin) -> str:
    """Return, for every time at which a key's best row changed, that row: the latest event among those created by then."""
    source = join.source
    fields = ", ".join(f"{_feature(name)} := {quoted(name)}" for name in join.features)
    keys = ", ".join(map(quoted, join.keys))
    features = ", ".join(f"best.{_feature(name)} AS {_feature(name)}" for name in join.features)
    return f"""
        SELECT * EXCLUDE (best), best.event_us AS event_us, {features} FROM (
            SELECT DISTINCT {_keys(join)}, known_us, max(version) OVER (PARTITION BY {keys} ORDER BY known_us) AS best FROM (
                SELECT *, greatest({source.event_us}, {source.created_us}) AS known_us,
                    struct_pack(event_us := {source.event_us}, created_us := {source.created_us}, {fields}) AS version
                FROM {source.relation}
                WHERE {source.event} IS NOT NULL AND {source.created_us} IS NOT NULL
            )
        )
    """  # noqa: S608


def _keys(join: ViewJoin) -> str:
    return ", ".join(f"{quoted(key)} AS {_key(key)}" for key in join.keys)


def _features(join: ViewJoin) -> str:
    return ", ".join(f"{quoted(name)} AS {_feature(name)}" for name in join.features)


def _key(name: str) -> str:
    return quoted(f"key {name}")


def _feature(name: str) -> str:
    return quoted(f"feature {name}")
