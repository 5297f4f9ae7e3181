"""Reads windows of the inference log.

Duplicates (retries) may lie in the log; a window holds the row logged last for each prediction.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import duckdb
import pyarrow as pa

from tidegate.errors import MonitoringError, ObjectNotFound
from tidegate.monitoring.files import duckdb_session, local_files
from tidegate.serving.inference_log.schema import FIXED_COLUMNS, log_prefix
from tidegate.storage import ObjectStore

PARTITION = re.compile(r"/version=(?P<version>[^/]+)/(?P<unit>hour|day)=(?P<start>\d{4}-\d\d-\d\d(?:T\d\d)?)/[^/]+\.parquet$")
_ATTEMPTS = 5
_T = TypeVar("_T")

LOG_FILES = "read_parquet($files, union_by_name = true, hive_partitioning = false)"
# Status breaks a tie, so that of two rows logged in one microsecond the answered one is kept.
LAST_LOGGED = "QUALIFY row_number() OVER (PARTITION BY prediction_id ORDER BY logged_at DESC, status, latency_us) = 1"


def read_window(
    store: ObjectStore, model: str, start: datetime, end: datetime, *, version: int | None = None, answered: bool = True
) -> pa.Table:
    """Return the predictions of `model` with event time in [start, end), each once, ordered by event time.

    Args:
        store: The object store that holds the inference log.
        model: The model's name.
        start: First event time, with a time zone.
        end: Event time before which the window ends, with a time zone.
        version: Only rows that this version answered; None means all.
        answered: Only rows answered with status 200.

    Returns:
        The log's columns as `tidegate.serving.inference_log.schema` names them; no rows if the window is empty.

    Raises:
        MonitoringError: A file of the log is malformed.
    """

    def read() -> pa.Table:
        keys = [key for key, first, last in log_partitions(store, model, version) if first < end and last > start]
        with local_files(store, keys) as files, duckdb_session() as session:
            if not files:
                return FIXED_COLUMNS.empty_table()
            status = "WHERE status = 200" if answered else ""
            query = f"""
                SELECT * FROM (
                    SELECT * FROM {LOG_FILES} WHERE event_time >= $start AND event_time < $end {LAST_LOGGED}
                ) {status} ORDER BY event_time, prediction_id
            """  # noqa: S608
            return session.sql(query, params={"files": files, "start": start, "end": end}).to_arrow_table()

    return retried_while_compacted(read, f"inference log of {model}")


def describe_log(store: ObjectStore, model: str) -> str:
    """Say in a few words what the log of a model holds: its versions and range of event time."""
    found: dict[str, tuple[datetime, datetime]] = {}
    for key, first, last in log_partitions(store, model, None):
        match = PARTITION.search(key)
        version = match["version"] if match else "?"
        earliest, latest = found.get(version, (first, last))
        found[version] = (min(earliest, first), max(latest, last))
    if not found:
        return f"the inference log holds nothing of {model!r}"
    spans = [f"version {name} from {first:%Y-%m-%dT%H:%M}Z to {last:%Y-%m-%dT%H:%M}Z" for name, (first, last) in found.items()]
    return f"the inference log holds {', '.join(sorted(spans))}"


def log_partitions(store: ObjectStore, model: str, version: int | None) -> Iterator[tuple[str, datetime, datetime]]:
    """Yield each file of a model's log with the span of event time that its partition covers."""
    for key in store.list(log_prefix(model, None if version is None else str(version))):
        match = PARTITION.search(key)
        if match is not None:
            first = datetime.fromisoformat(match["start"]).replace(tzinfo=UTC)
            yield key, first, first + (timedelta(hours=1) if match["unit"] == "hour" else timedelta(days=1))


def retried_while_compacted(read: Callable[[], _T], what: str) -> _T:
    """Call `read` again if a compaction removed a file under it; raises MonitoringError naming `what` if it cannot be read."""
    for attempt in range(_ATTEMPTS):
        try:
            return read()
        except (ObjectNotFound, FileNotFoundError, duckdb.IOException) as error:
            if attempt == _ATTEMPTS - 1:
                raise MonitoringError(f"{what}: files vanish while they are read: {error}") from error
        except (duckdb.Error, pa.ArrowException) as error:
            raise MonitoringError(f"{what}: cannot be read: {' '.join(str(error).split())}") from error
    raise AssertionError("the last attempt returns or raises")
