"""Late labels: appended to the object store when they become known, joined to predictions by `prediction_id`.

labels/<model>/known=<YYYY-MM-DDTHH>/<digest>.parquet          the hour holds the latest `known_at` of the file
"""

import hashlib
import re
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidegate.errors import DataError
from tidegate.monitoring.files import duckdb_session, local_files
from tidegate.monitoring.windows import retried_while_compacted
from tidegate.storage import ObjectStore

LABELS_ROOT = "labels"
LABEL_SCHEMA = pa.schema(
    [
        pa.field("prediction_id", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("known_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
_PARTITION = re.compile(r"/known=(\d{4}-\d\d-\d\dT\d\d)/[^/]+\.parquet$")
_FILES = "read_parquet($files, hive_partitioning = false)"


def record_labels(store: ObjectStore, model: str, table: pa.Table) -> int:
    """Append labels that became known, and return how many; recording the same table again changes nothing.

    Args:
        store: The object store.
        model: The model's name.
        table: `prediction_id`, `label` (0 or 1) and `known_at` (event time, UTC). Rows whose label is null stay unlabelled.

    Raises:
        DataError: A column is missing or has another type, or a label is neither 0 nor 1.
    """
    labels = _checked(table)
    if labels.num_rows == 0:
        return 0
    sink = pa.BufferOutputStream()
    pq.write_table(labels, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    latest = pc.max(labels["known_at"]).as_py()
    key = f"{LABELS_ROOT}/{model}/known={latest:%Y-%m-%dT%H}/{hashlib.sha256(content).hexdigest()[:20]}.parquet"
    store.put(key, content)
    return int(labels.num_rows)


def read_labels(store: ObjectStore, model: str, since: datetime, until: datetime) -> pa.Table:
    """Return the labels that became known in [since, until], the one known last for each prediction.

    Raises:
        MonitoringError: A label file is malformed.
    """

    def read() -> pa.Table:
        keys = [key for key in store.list(f"{LABELS_ROOT}/{model}/") if _may_hold(key, since)]
        with local_files(store, keys) as files, duckdb_session() as session:
            if not files:
                return LABEL_SCHEMA.empty_table()
            query = f"""
                SELECT prediction_id, label, known_at FROM {_FILES} WHERE known_at >= $since AND known_at <= $until
                QUALIFY row_number() OVER (PARTITION BY prediction_id ORDER BY known_at DESC, label) = 1
            """  # noqa: S608
            rows = session.sql(query, params={"files": files, "since": since, "until": until}).to_arrow_table()
            return rows.cast(LABEL_SCHEMA)

    return retried_while_compacted(read, f"labels of {model}")


def join_labels(window: pa.Table, labels: pa.Table) -> pa.Table:
    """Return the window with columns `label` and `known_at`, null where no label is known; rows and order are kept."""
    positions = pc.index_in(window["prediction_id"], value_set=labels["prediction_id"])
    return window.append_column("label", labels["label"].take(positions)).append_column(
        "known_at", labels["known_at"].take(positions)
    )


def _checked(table: pa.Table) -> pa.Table:
    for field in LABEL_SCHEMA:
        if field.name not in table.column_names:
            raise DataError(f"labels: no column {field.name!r}; {', '.join(LABEL_SCHEMA.names)} are needed")
    labels = table.select(LABEL_SCHEMA.names)
    labels = labels.filter(pc.is_valid(labels["label"]))
    for name in ("prediction_id", "known_at"):
        if labels[name].null_count:
            raise DataError(f"labels: {labels[name].null_count} labels have no {name}")
    if not pa.types.is_timestamp(labels["known_at"].type):
        raise DataError(f"labels: column 'known_at' is {labels['known_at'].type}; a timestamp (UTC) is needed")
    try:
        labels = labels.cast(LABEL_SCHEMA)
    except pa.ArrowException as error:
        raise DataError(f"labels: {error}; label must be 0 or 1, known_at a timestamp in UTC") from error
    foreign = labels["label"].filter(pc.invert(pc.is_in(labels["label"], value_set=pa.array([0, 1], pa.int8()))))
    if len(foreign):
        raise DataError(f"labels: label {foreign[0].as_py()} is neither 0 nor 1")
    return labels


def _may_hold(key: str, since: datetime) -> bool:
    match = _PARTITION.search(key)
    if match is None:
        return False
    hour = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    return hour + timedelta(hours=1) > since
