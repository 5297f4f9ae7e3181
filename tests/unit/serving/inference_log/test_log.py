"""What reaches the object store, in which files, and what happens when it does not."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from tests.unit.serving.inference_log.any_values import manifest_of
from tests.unit.serving.inference_log.records import TIME, record, row_record, text
from tidegate.packaging.format.manifest import Manifest, TensorSpec
from tidegate.serving.inference_log.limits import LogLimits
from tidegate.serving.inference_log.log import InferenceLog
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.sampling import is_sampled
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.names import LOG_DROPPED_ROWS, LOG_FAILURES, LOG_QUEUE_ROWS, LOG_ROWS, LOG_SAMPLED_OUT_ROWS

MakeLog = Callable[..., InferenceLog]
Eventually = Callable[[Callable[[], bool]], bool]


@pytest.fixture
def make_log(tiny_manifest: Manifest, store: Any, metric: Any) -> Iterator[MakeLog]:
    logs = []

    def make(*, sample_share: float = 1.0, version: str = "3", **limits: float) -> InferenceLog:
        log = InferenceLog(
            store,
            tiny_manifest,
            model="tiny",
            version=version,
            revision="v3",
            limits=LogLimits(**limits),  # type: ignore[arg-type]
            metrics=WorkerMetrics(metric.memory, 0),
            sample_share=sample_share,
        )
        logs.append(log)
        return log

    yield make
    store.held.set()
    for log in logs:
        log.close()


def predictions(store: Any) -> list[str]:
    return sorted(row["prediction_id"] for row in store.rows())


@pytest.mark.parametrize("count", [1, 127, 128, 300])
@pytest.mark.parametrize("make", [pytest.param(record, id="arrays"), pytest.param(row_record, id="Python values")])
def test_closing_writes_what_is_left(make_log: MakeLog, store: Any, metric: Any, make: Any, count: int) -> None:
    log = make_log(rotate_seconds=60)
    records = [make(f"r{number:03d}") for number in range(count)]
    for each in records:
        log.add(each)
    log.close()
    assert predictions(store) == [f"{each.request_id}/{row}" for each in records for row in range(each.rows)]
    assert metric(LOG_ROWS) == len(predictions(store))
    assert metric(LOG_QUEUE_ROWS) == 0


def test_files_are_partitioned_by_the_hour_of_event_time(make_log: MakeLog, store: Any) -> None:
    log = make_log(rotate_seconds=60)
    log.add(record("r1", at=TIME))
    log.add(record("r2", at=TIME + timedelta(minutes=45)))
    log.add(row_record("r3", at=TIME + timedelta(minutes=10)))
    log.close()
    partitions = sorted(key.rpartition("/")[0] for key in store.puts)
    assert partitions == [
        "inference-log/tiny/version=3/hour=2013-06-01T12",
        "inference-log/tiny/version=3/hour=2013-06-01T13",
    ]


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"rotate_rows": 4, "rotate_seconds": 60}, id="by rows"),
        pytest.param({"rotate_bytes": 1000, "rotate_rows": 2, "rotate_seconds": 60}, id="by bytes"),
        pytest.param({"rotate_rows": 1000, "rotate_seconds": 0.05}, id="by seconds"),
    ],
)
def test_files_are_rotated(make_log: MakeLog, store: Any, eventually: Eventually, limits: dict[str, float]) -> None:
    log = make_log(**limits)
    for number in range(3):
        for each in range(4):
            log.add(record(f"r{number}-{each}"))
        assert eventually(lambda expected=8 * (number + 1): len(store.rows()) == expected)  # type: ignore[misc]
    assert len(store.puts) >= 3


@pytest.mark.parametrize(
    "limits", [pytest.param({"queue_rows": 5}, id="rows"), pytest.param({"queue_bytes": 1000}, id="bytes")]
)
def test_a_full_queue_drops_and_counts_rows(make_log: MakeLog, store: Any, metric: Any, limits: dict[str, int]) -> None:
    store.held.clear()
    log = make_log(rotate_rows=1, rotate_seconds=0.01, **limits)
    for number in range(4):
        log.add(record(f"r{number}"))
    store.held.set()
    log.close()
    assert metric(LOG_DROPPED_ROWS, "queue-full") == 4
    assert predictions(store) == ["r0/0", "r0/1", "r1/0", "r1/1"]


def test_long_texts_count_as_what_they_are(make_log: MakeLog, store: Any, metric: Any) -> None:
    log = make_log(rotate_seconds=60, queue_bytes=1_000_000)
    for number in range(5):
        log.add(row_record(f"r{number}", row=["U" * 300_000, "EWR", 0.0, 9.5, 1.0, 7.0]))
    log.close()
    assert metric(LOG_DROPPED_ROWS, "queue-full") == 2
    assert [len(row["input_carrier"]) for row in store.rows()] == [300_000] * 3


def test_a_store_that_recovers_gets_every_row_once(make_log: MakeLog, store: Any, metric: Any, eventually: Eventually) -> None:
    store.broken = True
    log = make_log(rotate_rows=1, rotate_seconds=0.01)
    log.add(record("r1"))
    assert eventually(lambda: metric(LOG_FAILURES) > 0)
    store.broken = False
    log.add(record("r2"))
    log.close()
    assert predictions(store) == ["r1/0", "r1/1", "r2/0", "r2/1"]
    assert metric(LOG_DROPPED_ROWS, "store-failed") == 0


def test_a_store_that_stays_broken_loses_rows_that_are_counted(make_log: MakeLog, store: Any, metric: Any) -> None:
    store.broken = True
    log = make_log(rotate_seconds=60)
    log.add(record("r1"))
    log.add(record("r2", at=TIME + timedelta(hours=1)))
    log.close()
    assert metric(LOG_DROPPED_ROWS, "store-failed") == 4
    assert metric(LOG_ROWS) == 0


def test_a_hanging_store_delays_neither_requests_nor_the_end(
    make_log: MakeLog, store: Any, metric: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store.held.clear()
    log = make_log(rotate_rows=1, close_seconds=0.2)
    begun = time.monotonic()
    for number in range(500):
        log.add(record(f"r{number}"))
    log.close()
    assert time.monotonic() - begun < 5
    assert metric(LOG_DROPPED_ROWS, "store-failed") == 1000
    assert "the store did not answer within 0.2 s" in capsys.readouterr().err


def test_what_comes_after_the_end_is_dropped_and_counted(make_log: MakeLog, store: Any, metric: Any) -> None:
    log = make_log()
    log.close()
    log.add(record())
    assert metric(LOG_DROPPED_ROWS, "queue-full") == 2
    assert store.puts == []


def test_a_record_that_is_not_one_fails_no_request_and_ends_no_thread(
    make_log: MakeLog, store: Any, metric: Any, eventually: Eventually
) -> None:
    log = make_log(rotate_rows=1, rotate_seconds=0.02)
    broken = record("broken")
    broken.status = "two hundred"  # type: ignore[assignment]
    log.add(broken)
    assert eventually(lambda: metric(LOG_DROPPED_ROWS, "store-failed") == 2)
    log.add(record("sound"))
    assert eventually(lambda: predictions(store) == ["sound/0", "sound/1"])


def test_a_sample_is_logged_and_the_rest_counted(make_log: MakeLog, store: Any, metric: Any) -> None:
    log = make_log(sample_share=0.25)
    ids = [f"r{number}" for number in range(400)]
    for request_id in ids:
        log.add(row_record(request_id))
    log.close()
    kept = [request_id for request_id in ids if is_sampled(request_id, 0.25)]
    assert predictions(store) == sorted(f"{request_id}/0" for request_id in kept)
    assert {row["sample_share"] for row in store.rows()} == {0.25}
    assert metric(LOG_SAMPLED_OUT_ROWS) == 400 - len(kept)
    assert metric(LOG_DROPPED_ROWS, "queue-full") == 0


def test_one_log_ends_while_the_next_one_writes(make_log: MakeLog, store: Any) -> None:
    former, latter = make_log(rotate_seconds=60), make_log(rotate_seconds=60, version="4")
    for number in range(200):
        former.add(row_record(f"former-{number}"))
        latter.add(row_record(f"latter-{number}"))
    former.close()
    assert len(predictions(store)) == 200
    latter.add(row_record("last"))
    latter.close()
    versions = [(row["version"], row["request_id"].partition("-")[0]) for row in store.rows()]
    assert set(versions) == {("3", "former"), ("4", "latter"), ("4", "last")}
    assert len(versions) == 401


def test_packed_rows_are_rotated_and_written_to_the_last(
    tiny_manifest: Manifest, store: Any, metric: Any, eventually: Eventually
) -> None:
    manifest = manifest_of(tiny_manifest, [TensorSpec(name="x", datatype="FP32", shape=(-1,))])
    metrics = WorkerMetrics(metric.memory, 0)
    limits = LogLimits(rotate_rows=10, rotate_seconds=60)
    log = InferenceLog(store, manifest, model="tiny", version="3", revision="v3", limits=limits, metrics=metrics)
    outputs = {"probability": np.array([0.25], np.float32), "label": text("late")}
    for number in range(25):
        log.add(LogRecord(f"r{number:02d}", 1, TIME, 0, 200, 7, outputs=outputs, row=[number]))
    assert eventually(lambda: metric(LOG_ROWS) >= 10)
    log.add(LogRecord("failed", 1, TIME, 0, 500, 7, error="no", row=[1.0]))
    log.close()
    assert predictions(store) == ["failed/0", *(f"r{number:02d}/0" for number in range(25))]
    assert metric(LOG_ROWS) == 26
    assert metric(LOG_QUEUE_ROWS) == 0


def test_nothing_is_lost_or_doubled_between_the_two_threads(make_log: MakeLog, store: Any) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        log = make_log(rotate_rows=3, rotate_seconds=0.001)
        for number in range(3000):
            log.add(row_record(f"r{number:04d}") if number % 3 else record(f"r{number:04d}", rows=1))
        log.close()
    finally:
        sys.setswitchinterval(interval)
    assert predictions(store) == [f"r{number:04d}/0" for number in range(3000)]


def test_keeping_is_adding(make_log: MakeLog, store: Any) -> None:
    log = make_log()
    told: list[Exception | None] = []
    log.keep(row_record(), told.append)
    log.close()
    assert (log.audits, told, predictions(store)) == (False, [None], ["r1/0"])


def test_its_thread_does_not_keep_a_process_alive(make_log: MakeLog) -> None:
    log = make_log()
    [thread] = [thread for thread in threading.enumerate() if thread.name == "inference-log"]
    assert thread.daemon
    log.close()
    assert not thread.is_alive()


def test_a_record_is_small(make_log: MakeLog) -> None:
    assert sys.getsizeof(LogRecord("r", 1, TIME, 0, 200, 1)) < 200
