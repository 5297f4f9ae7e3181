"""What reaches the object store, in which files, and what happens when it does not."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.errors import StorageError
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.inference_log.log import InferenceLog, LogLimits
from tidegate.serving.inference_log.schema import log_schema
from tidegate.serving.inference_log.table import LogRecord, LogTableBuilder
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.layout import MetricsLayout
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.metrics.names import LOG_DROPPED_ROWS, LOG_FAILURES, LOG_QUEUE_ROWS, LOG_ROWS
from tidegate.serving.metrics.text import render
from tidegate.storage import ObjectStore, open_store

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
        {"origin": text(*["EWR"] * rows), "dest": text(*[None] * rows)},
        {
            "carrier": text(*["UA"] * rows).reshape(rows, 1),
            "origin": text(*["EWR"] * rows).reshape(rows, 1),
            "distance": np.arange(rows, dtype=np.float32).reshape(rows, 1),
            "hour": np.full((rows, 1), 9.5, np.float32),
        },
    )
    if failed:
        full.status, full.error = 503, "required feature is missing"
        return full
    full.inputs |= {
        "weather__temp": np.full((rows, 1), NAN, np.float32),
        "route__delay": np.full((rows, 1), 7, np.float32),
    }
    full.times = {
        "weather": np.full(rows, np.datetime64("NaT", "us")),
        "route": np.full(rows, np.datetime64("2013-06-01T12:00:00", "us")),
    }
    full.outputs = {"probability": np.full(rows, 0.25, np.float32), "label": text(*["on-time"] * rows)}
    return full


@pytest.fixture
def builder(tiny_manifest: Manifest) -> LogTableBuilder:
    return LogTableBuilder(tiny_manifest, model="tiny", version="3", revision="v3")


def test_a_row_holds_everything(builder: LogTableBuilder, tiny_manifest: Manifest) -> None:
    table = builder.build([record()])
    table.validate(full=True)
    assert table.schema == log_schema(tiny_manifest)
    assert table.to_pylist()[1] == {
        "prediction_id": "r1/1",
        "request_id": "r1",
        "row": 1,
        "model": "tiny",
        "version": "3",
        "revision": "v3",
        "event_time": TIME,
        "logged_at": datetime(2013, 6, 1, 12, 30, tzinfo=UTC),
        "status": 200,
        "error": None,
        "cache_hit": False,
        "latency_us": 42,
        "key_origin": "EWR",
        "key_dest": None,
        "input_carrier": "UA",
        "input_origin": "EWR",
        "input_distance": 1.0,
        "input_hour": 9.5,
        "feature_weather__temp": None,
        "feature_route__delay": 7.0,
        "feature_time_weather": None,
        "feature_time_route": datetime(2013, 6, 1, 12, tzinfo=UTC),
        "output_probability": 0.25,
        "output_label": "on-time",
    }


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([record(failed=True)], id="alone"),
        pytest.param([record("r0", rows=1), record(failed=True)], id="after one that was answered"),
        pytest.param([record(failed=True), record("r2", rows=3)], id="before one that was answered"),
    ],
)
def test_a_failed_request_has_its_inputs_but_no_outputs(builder: LogTableBuilder, records: list[LogRecord]) -> None:
    table = builder.build(records)
    table.validate(full=True)
    failed = [row for row in table.to_pylist() if row["status"] == 503]
    assert [row["prediction_id"] for row in failed] == ["r1/0", "r1/1"]
    assert [row["input_distance"] for row in failed] == [0.0, 1.0]
    for row in failed:
        assert row["error"] == "required feature is missing"
        empty = ("feature_route__delay", "feature_time_route", "output_probability", "output_label")
        assert [row[column] for column in empty] == [None] * 4


class Flaky:
    """A store that fails while `broken`, and waits while `held`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.broken = False
        self.held = threading.Event()
        self.held.set()
        self.puts: list[str] = []

    def put(self, key: str, data: bytes) -> str:
        self.held.wait()
        if self.broken:
            raise StorageError("no space\nleft")
        tag = self._store.put(key, data)
        self.puts.append(key)
        return tag

    def rows(self) -> list[dict[str, Any]]:
        tables = [pq.read_table(io.BytesIO(self._store.get(key).data)) for key in self.puts]
        return pa.concat_tables(tables).to_pylist() if tables else []


@pytest.fixture
def store(tmp_path: Path) -> Flaky:
    return Flaky(open_store(str(tmp_path / "store")))


@pytest.fixture
def memory(tiny_manifest: Manifest) -> MetricsMemory:
    return MetricsMemory(MetricsLayout(tiny_manifest), 1)


@pytest.fixture
def make_log(tiny_manifest: Manifest, store: Flaky, memory: MetricsMemory) -> Iterator[Callable[..., InferenceLog]]:
    logs = []

    def make(**limits: float) -> InferenceLog:
        log = InferenceLog(
            store,  # type: ignore[arg-type]
            tiny_manifest,
            model="tiny",
            version="3",
            revision="v3",
            limits=LogLimits(**limits),  # type: ignore[arg-type]
            metrics=WorkerMetrics(memory, 0),
        )
        logs.append(log)
        return log

    yield make
    store.held.set()
    for log in logs:
        log.close()


def metric(memory: MetricsMemory, name: str, label: str = "") -> int:
    lines = render(memory).decode().splitlines()
    return int(next(line for line in lines if line.startswith(name) and label in line).split()[-1])


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_closing_writes_what_is_left(make_log: Callable[..., InferenceLog], store: Flaky, memory: MetricsMemory) -> None:
    log = make_log(rotate_seconds=60)
    for number in range(10):
        log.add(record(f"r{number}"))
    log.close()
    assert [row["prediction_id"] for row in store.rows()] == [f"r{number}/{row}" for number in range(10) for row in range(2)]
    assert metric(memory, LOG_ROWS) == 20
    assert metric(memory, LOG_QUEUE_ROWS) == 0


def test_files_are_partitioned_by_the_hour_of_event_time(make_log: Callable[..., InferenceLog], store: Flaky) -> None:
    log = make_log(rotate_seconds=60)
    log.add(record("r1", at=TIME))
    log.add(record("r2", at=TIME + timedelta(minutes=45)))
    log.add(record("r3", at=TIME + timedelta(minutes=10)))
    log.close()
    partitions = sorted(key.rpartition("/")[0] for key in store.puts)
    assert partitions == [
        "inference-log/tiny/version=3/hour=2013-06-01T12",
        "inference-log/tiny/version=3/hour=2013-06-01T13",
    ]


@pytest.mark.parametrize(
    ("limits", "files"),
    [
        pytest.param({"rotate_rows": 4, "rotate_seconds": 60}, 3, id="by rows"),
        pytest.param({"rotate_rows": 1000, "rotate_seconds": 0.05}, 1, id="by seconds"),
    ],
)
def test_files_are_rotated(make_log: Callable[..., InferenceLog], store: Flaky, limits: dict[str, float], files: int) -> None:
    log = make_log(**limits)
    for number in range(6):
        log.add(record(f"r{number}"))
    assert eventually(lambda: len(store.puts) >= files)
    assert eventually(lambda: len(store.rows()) == 12)


def test_a_full_queue_drops_and_counts_rows(make_log: Callable[..., InferenceLog], store: Flaky, memory: MetricsMemory) -> None:
    store.held.clear()
    log = make_log(rotate_rows=1, rotate_seconds=0.01, queue_rows=5)
    for number in range(4):
        log.add(record(f"r{number}"))
    store.held.set()
    log.close()
    assert metric(memory, LOG_DROPPED_ROWS, "queue-full") == 4
    assert [row["request_id"] for row in store.rows()] == ["r0", "r0", "r1", "r1"]


def test_a_store_that_recovers_gets_every_row_once(
    make_log: Callable[..., InferenceLog], store: Flaky, memory: MetricsMemory
) -> None:
    store.broken = True
    log = make_log(rotate_rows=1, rotate_seconds=0.01)
    log.add(record("r1"))
    assert eventually(lambda: metric(memory, LOG_FAILURES) > 0)
    store.broken = False
    log.add(record("r2"))
    log.close()
    assert sorted(row["prediction_id"] for row in store.rows()) == ["r1/0", "r1/1", "r2/0", "r2/1"]
    assert metric(memory, LOG_DROPPED_ROWS, "store-failed") == 0


def test_a_store_that_stays_broken_loses_rows_that_are_counted(
    make_log: Callable[..., InferenceLog], store: Flaky, memory: MetricsMemory
) -> None:
    store.broken = True
    log = make_log(rotate_seconds=60)
    log.add(record("r1"))
    log.close()
    assert metric(memory, LOG_DROPPED_ROWS, "store-failed") == 2
    assert metric(memory, LOG_ROWS) == 0
