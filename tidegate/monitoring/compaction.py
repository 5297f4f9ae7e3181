"""Compacts the inference log: a day's many small files become one, without a moment in which a row is missing."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.monitoring.files import duckdb_session, local_files
from tidegate.monitoring.windows import LAST_LOGGED, LOG_FILES, log_partitions, retried_while_compacted
from tidegate.serving.inference_log.schema import log_prefix
from tidegate.storage import ObjectStore


@dataclass(frozen=True, slots=True)
class Compaction:
    """How many files became how many."""

    files_before: int
    files_after: int


def compact(store: ObjectStore, model: str, before: datetime) -> Compaction:
    """Merge the inference log's files of each version and day that ended at or before `before` (event time) into one.

    The merged file appears first, then its sources go: a reader in between sees rows twice, and readers keep each once.
    A crash leaves the same state, which the next call finishes. Files that arrive later are merged by a later call.

    Raises:
        MonitoringError: A file of the log is malformed.
    """
    days: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, _, _ in log_partitions(store, model, None):
        version, partition = key.removeprefix(log_prefix(model)).split("/")[:2]
        days[version, partition.partition("=")[2][:10]].append(key)
    today = f"{before.astimezone(UTC):%Y-%m-%d}"
    merged = [
        _merge(store, keys, f"{log_prefix(model)}{version}/day={day}/", what=f"inference log of {model}")
        for (version, day), keys in days.items()
        if len(keys) > 1 and day < today
    ]
    return Compaction(files_before=sum(merged), files_after=len(merged))


def _merge(store: ObjectStore, keys: list[str], folder: str, *, what: str) -> int:
    digest = hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:20]

    def read() -> pa.Table:
        with local_files(store, keys) as files, duckdb_session() as session:
            query = f"SELECT * FROM {LOG_FILES} {LAST_LOGGED} ORDER BY event_time, prediction_id"  # noqa: S608
            return session.sql(query, params={"files": files}).to_arrow_table()

    rows = retried_while_compacted(read, what)
    with TemporaryDirectory(prefix="tidegate-") as temporary:
        path = Path(temporary, "merged.parquet")
        pq.write_table(rows, path, compression="zstd")
        store.upload(f"{folder}{digest}.parquet", path)
    for key in keys:
        store.delete(key)
    return len(keys)
