"""The point-in-time join: for every entity row, each view's latest row at that time, by DuckDB's ASOF joins."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
        ttl: A row older than this is missing; None or zero means that it never is.
    """

    source: ViewSource
    keys: dict[str, str]
    features: dict[str, str]
    ttl: timedelta | None


def entity_column(key: str) -> str:
    """Return the name under which the entities carry the key column `key`."""
    return f"key {key}"


def asof_join(
    connection: duckdb.DuckDBPyConnection, entities: pa.Table, joins: Sequence[ViewJoin], *, only_created: bool
) -> list[tuple[str, pa.ChunkedArray]]:
    """Return the features of every entity row, as named columns in the order of the entity rows.

    DuckDB sees nothing but keys, times and row numbers; the features are gathered afterwards from the source's columns.

    Args:
        connection: Where the sources of `joins` are open.
        entities: The key columns, named by `entity_column`; `moment` (int64, microseconds since the epoch, null for none)
            and `row` (int64, 0, 1, ...).
        joins: One for each view.
        only_created: Ignore a row until the time it was created, even if it describes an earlier one.
    """
    columns: list[tuple[str, pa.ChunkedArray]] = []
    moments = pc.min_max(entities.column(MOMENT)).as_py()
    for join in joins:
        history = connection.sql(_history(join, moments["min"] or 0, moments["max"] or 0)).to_arrow_table()
        history = history.append_column("position", pa.array(np.arange(history.num_rows)))
        connection.register("entities", entities)
        connection.register("history", history)
        matches = connection.sql(_matches(join, only_created=only_created)).to_arrow_table()
        chosen = _positions(matches, entities.num_rows)
        columns += [(output, history.column(_feature(name)).take(chosen)) for name, output in join.features.items()]
        connection.unregister("history")  # before the next view's is read, so that only one is in memory
        del history, matches
    return columns


def _history(join: ViewJoin, first_us: int, last_us: int) -> str:
    """Return the query for the view's rows that can matter between two moments, with their times in microseconds."""
    source = join.source
    columns = [
        *(f"{quoted(key)} AS {quoted(entity_column(key))}" for key in join.keys),
        *(f"{quoted(name)} AS {quoted(_feature(name))}" for name in join.features),
        f"{source.event.microseconds} AS event_us",
        f"{source.created.microseconds if source.created else 'NULL::BIGINT'} AS created_us",
    ]
    ttl = _ttl_us(join)
    window = source.event.within(first_us - ttl - 1 if ttl else None, last_us)
    return f"SELECT {', '.join(columns)} FROM {source.relation} WHERE {window}"  # noqa: S608


def _matches(join: ViewJoin, *, only_created: bool) -> str:
    """Return the query for the pairs of entity `row` and `position` in the history."""
    keys = ", ".join(quoted(entity_column(key)) for key in join.keys)
    known = _known_when_created(keys) if only_created and join.source.created else _known_at_event(keys)
    same_key = " AND ".join(
        f"e.{quoted(entity_column(column))} = h.{quoted(entity_column(key))}" for key, column in join.keys.items()
    )
    ttl = _ttl_us(join)
    fresh = f"WHERE e.{MOMENT} - h.event_us <= {ttl}" if ttl else ""
    return f"""
        SELECT e.{ROW}, h.position
        FROM entities e ASOF JOIN ({known}) h ON {same_key} AND e.{MOMENT} >= h.known_us
        {fresh}
    """  # noqa: S608


def _known_at_event(keys: str) -> str:
    """Return the rows by the time they are for; of those of one key and time, the one created last."""
    return f"""
        SELECT {keys}, event_us, event_us AS known_us,
            arg_max(position, coalesce(created_us, {np.iinfo(np.int64).min})) AS position
        FROM history GROUP BY ALL
    """  # noqa: S608


def _known_when_created(keys: str) -> str:
    """Return, for each time at which a key's best row changed, that row: the latest event of those created by then."""
    version = "struct_pack(event_us := event_us, created_us := created_us, position := position)"
    return f"""
        SELECT * EXCLUDE (best), best.event_us AS event_us, best.position AS position FROM (
            SELECT DISTINCT {keys}, known_us, max({version}) OVER (PARTITION BY {keys} ORDER BY known_us) AS best
            FROM (SELECT *, greatest(event_us, created_us) AS known_us FROM history WHERE created_us IS NOT NULL)
        )
    """  # noqa: S608


def _positions(matches: pa.Table, rows: int) -> pa.Array:
    """Return each entity row's position in the history, null where it has none."""
    positions = np.full(rows, -1, dtype=np.int64)
    positions[matches.column(ROW).to_numpy()] = matches.column("position").to_numpy()
    return pa.array(positions, mask=positions < 0)


def _ttl_us(join: ViewJoin) -> int:
    return (join.ttl or timedelta(0)) // _MICROSECOND


def _feature(name: str) -> str:
    return f"feature {name}"
