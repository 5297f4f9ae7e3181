"""The inference log's columns that say which request a row is of, and how it went."""

from collections.abc import Sequence
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from tidegate.serving.inference_log.arrow_columns import numbers, text_bytes, texts
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.schema import TIMESTAMP
from tidegate.serving.protocol.tensors import Array

_of_request = attrgetter("request_id", "logged_at", "status", "latency_us")
_FIRST_ROW = "/0"


def columns_of_records(records: Sequence[LogRecord], event_times: Array) -> dict[str, pa.Array]:
    """Return the columns of records of one row each; `event_times` in microseconds since the epoch."""
    ids, logged_at, statuses, latencies = zip(*map(_of_request, records), strict=True)
    return columns_of_rows(
        ids, event_times, _microseconds(logged_at), np.array(statuses, np.int16), np.array(latencies, np.int64)
    )


def columns_of_rows(
    ids: Sequence[str], event_times: Array, logged_at: Array, statuses: Array, latencies: Array
) -> dict[str, pa.Array]:
    """Return the columns of requests of one row each; both times in microseconds since the epoch."""
    joined = f"{_FIRST_ROW.join(ids)}{_FIRST_ROW}"
    if joined.isascii():
        lengths = np.fromiter(map(len, ids), np.int32, len(ids)) + len(_FIRST_ROW)
        predictions = text_bytes(joined.encode(), lengths)
    else:
        predictions = texts([request_id + _FIRST_ROW for request_id in ids])
    return {
        "prediction_id": predictions,
        "request_id": texts(ids),
        "row": _zeros(len(ids)),
        "event_time": numbers(event_times, TIMESTAMP),
        "logged_at": numbers(logged_at, TIMESTAMP),
        "status": numbers(statuses, pa.int16()),
        "latency_us": numbers(latencies, pa.int64()),
    }


def columns_of_requests(records: Sequence[LogRecord], counts: Sequence[int], event_times: Array) -> dict[str, pa.Array]:
    """Return the columns of requests of `counts` rows; `event_times` of each request, in microseconds since the epoch."""
    ids, logged_at, statuses, latencies = zip(*map(_of_request, records), strict=True)
    raw = [request_id.encode(errors="replace") for request_id in ids]
    lengths = np.repeat(np.fromiter(map(len, raw), np.int32, len(raw)), counts)
    numbered = [_row_endings(count) for count in counts]
    predictions = b"".join([name + name.join(endings) for name, (endings, _) in zip(raw, numbered, strict=True)])

    def repeated(values: Array, type_: pa.DataType) -> pa.Array:
        return numbers(np.repeat(values, counts), type_)

    return {
        "prediction_id": text_bytes(predictions, lengths + np.concatenate([sizes for _, sizes in numbered])),
        "request_id": text_bytes(b"".join([name * count for name, count in zip(raw, counts, strict=True)]), lengths),
        "row": numbers(np.concatenate([np.arange(count, dtype=np.int32) for count in counts]), pa.int32()),
        "event_time": repeated(event_times, TIMESTAMP),
        "logged_at": repeated(_microseconds(logged_at), TIMESTAMP),
        "status": repeated(np.array(statuses, np.int16), pa.int16()),
        "latency_us": repeated(np.array(latencies, np.int64), pa.int64()),
    }


def _microseconds(nanoseconds: Sequence[Any]) -> Array:
    whole: Array = np.array(nanoseconds, np.int64) // 1000
    return whole


@lru_cache(4)
def _zeros(count: int) -> pa.Array:
    return numbers(np.zeros(count, np.int32), pa.int32())


@cache  # a request's rows are few, and bounded by the server's `max_rows`
def _row_endings(count: int) -> tuple[tuple[bytes, ...], Array]:
    """Return `/0`, `/1`, … of `count` rows, and their lengths."""
    endings = tuple(b"/%d" % row for row in range(count))
    return endings, np.fromiter(map(len, endings), np.int32, count)
