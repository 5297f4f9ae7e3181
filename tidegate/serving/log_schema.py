"""The inference log's columns and partitions: one row per prediction, as Parquet, under `inference-log/` of the object store.

    inference-log/<model>/version=<n>/hour=<YYYY-MM-DDTHH>/<unique>.parquet        hour is event time, UTC

Fixed columns come first, then one column per entity key (`key_<name>`), request input (`input_<name>`), looked-up feature
(`feature_<view>__<name>`), view timestamp (`feature_time_<view>`, when the row used became knowable; null if none was found)
and output (`output_<name>`). Duplicates may lie on disk; readers keep the last `logged_at` of each `prediction_id`.
"""

import pyarrow as pa

LOG_ROOT = "inference-log"
TIMESTAMP = pa.timestamp("us", tz="UTC")

FIXED_COLUMNS = pa.schema(
    [
        pa.field("prediction_id", pa.string(), nullable=False),  # `<request_id>/<row>`
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("event_time", TIMESTAMP, nullable=False),
        pa.field("logged_at", TIMESTAMP, nullable=False),
        pa.field("status", pa.int16(), nullable=False),  # HTTP status answered
        pa.field("error", pa.string()),
        pa.field("cache_hit", pa.bool_(), nullable=False),
        pa.field("latency_us", pa.int64(), nullable=False),
    ]
)


def log_prefix(model: str, version: str | None = None) -> str:
    """Return the key prefix of a model's log, or of one version of it."""
    prefix = f"{LOG_ROOT}/{model}/"
    return prefix if version is None else f"{prefix}version={version}/"
