"""The inference log's columns and partitions: one row per prediction, as Parquet, under `inference-log/` of the object store.

    inference-log/<model>/version=<n>/hour=<YYYY-MM-DDTHH>/<unique>.parquet        hour is event time, UTC

Fixed columns come first, then one column per entity key (`key_<name>`), request input (`input_<name>`), looked-up feature
(`feature_<view>__<name>`), view timestamp (`feature_time_<view>`, when the row used became knowable; null if none was found)
and output (`output_<name>`). Duplicates may lie on disk; readers keep the last `logged_at` of each `prediction_id`.
"""

import math
from datetime import datetime

import pyarrow as pa

from tidegate.packaging.format.manifest import LABEL, Manifest, TensorSpec
from tidegate.packaging.labels import Labels

LOG_ROOT = "inference-log"
MOST_VALUES = 1_024  # of one tensor in one row
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
        pa.field("sample_share", pa.float64()),  # of all requests that were logged then; a file older than sampling has none
        pa.field("redacted", pa.string()),  # names left empty, or hashed where `:hash` follows; parted by commas
    ]
)


def log_prefix(model: str, version: str | None = None) -> str:
    """Return the key prefix of a model's log, or of one version of it."""
    prefix = f"{LOG_ROOT}/{model}/"
    return prefix if version is None else f"{prefix}version={version}/"


def log_partition(model: str, version: str, event_time: datetime) -> str:
    """Return the key prefix of the partition that `event_time` (UTC) falls into."""
    return f"{log_prefix(model, version)}hour={event_time:%Y-%m-%dT%H}/"


def log_schema(manifest: Manifest) -> pa.Schema:
    """Return the log's columns for one model package.

    Entity keys are text, whatever their type in the store. Numbers keep their type (FP16 and BF16 widen to 32 bits), and a NaN
    is a null. A tensor of more than one value a row is a flat list; one that can have more than 1,024 has no column, since a
    log of images would outgrow the server's memory, and a longer one than the sample held is null.
    """
    columns = list(FIXED_COLUMNS)
    if manifest.features:
        columns += [pa.field(f"key_{key}", pa.string()) for key in manifest.features.join_keys]
    columns += [pa.field(input_column(spec), _arrow_type(spec)) for spec in manifest.signature.inputs if is_logged(spec)]
    if manifest.features:
        columns += [pa.field(f"feature_time_{view.name}", TIMESTAMP) for view in manifest.features.views]
    columns += [pa.field(f"output_{spec.name}", _arrow_type(spec)) for spec in manifest.signature.outputs if is_logged(spec)]
    if Labels(manifest).exist:
        columns.append(pa.field(f"output_{LABEL}", pa.string()))
    return pa.schema(columns)


def file_metadata(sample_share: float, redacted: str | None) -> dict[str, str]:
    """Return what a file of the log tells about itself in its footer; a compacted one tells it in its columns alone."""
    told = {"tidegate.sample_share": repr(sample_share)}
    return told if redacted is None else told | {"tidegate.redacted": redacted}


def input_column(spec: TensorSpec) -> str:
    """Return the column of a model input: `input_<name>`, or `feature_<view>__<name>` for a looked-up feature."""
    return f"{'input' if spec.source == 'request' else 'feature'}_{spec.name}"


def is_logged(spec: TensorSpec) -> bool:
    """Return whether an input or output has a column: a row of it holds few enough values, as far as the signature knows."""
    greatest = [spec.sizes[axis][1] if size == -1 and spec.sizes else size for axis, size in enumerate(spec.shape[1:])]
    return math.prod(abs(size) for size in greatest) <= MOST_VALUES


def _arrow_type(spec: TensorSpec) -> pa.DataType:
    scalar = _ARROW_TYPES[spec.datatype]
    return scalar if all(size == 1 for size in spec.shape[1:]) else pa.list_(scalar)


_ARROW_TYPES = {
    "BOOL": pa.bool_(),
    "INT8": pa.int8(),
    "INT16": pa.int16(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "UINT8": pa.uint8(),
    "UINT16": pa.uint16(),
    "UINT32": pa.uint32(),
    "UINT64": pa.uint64(),
    "FP16": pa.float32(),
    "BF16": pa.float32(),
    "FP32": pa.float32(),
    "FP64": pa.float64(),
    "BYTES": pa.string(),
}
