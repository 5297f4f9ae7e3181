"""Records of the tiny package's requests."""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from tidegate.serving.inference_log.record import LogRecord

TIME = datetime(2013, 6, 1, 12, 30, tzinfo=UTC)
NAN = float("nan")


def text(*values: Any) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def record(request_id: str = "r1", *, rows: int = 2, at: datetime = TIME, failed: bool = False) -> LogRecord:
    full = LogRecord(
        request_id,
        rows,
        at,
        1_370_089_800_000_000_123,
        200,
        42,
        {"origin": text(*["EWR"] * rows), "dest": [None] * rows},
        {
            "carrier": text(*["UA"] * rows).reshape(rows, 1),
            "origin": text(*["EWR"] * rows).reshape(rows, 1),
            "distance": np.arange(rows, dtype=np.float32).reshape(rows, 1),
            "hour": np.full(rows, 9.5, np.float32),
        },
    )
    if failed:
        full.status, full.error = 503, "required feature is missing for origin EWR"
        return full
    full.inputs = {
        **full.inputs,
        "weather__temp": np.full((rows, 1), NAN, np.float32),
        "route__delay": np.full((rows, 1), 7, np.float32),
    }
    full.times = {
        "weather": np.full(rows, np.datetime64("NaT", "us")),
        "route": np.full(rows, np.datetime64("2013-06-01T12:00:00", "us")),
    }
    full.outputs = {"probability": np.full(rows, 0.25, np.float32), "label": text(*["on-time"] * rows)}
    return full


def row_record(request_id: str = "r1", *, row: list[Any] | None = None, at: datetime = TIME) -> LogRecord:
    """Return the record of one row whose inputs are Python values: carrier, origin, distance, hour and the features."""
    full = record(request_id, rows=1, at=at)
    full.inputs = {}
    full.row = ["UA", "EWR", 0.0, 9.5, NAN, 7] if row is None else row
    return full
