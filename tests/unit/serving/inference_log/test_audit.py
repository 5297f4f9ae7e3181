"""A request is answered only once its record is durable, and within a bounded time at any rate."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.serving.inference_log.records import TIME, record, row_record
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.inference_log.audit import AuditLog
from tidegate.serving.inference_log.limits import LogLimits
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.names import LOG_DROPPED_ROWS, LOG_FAILURES, LOG_QUEUE_ROWS, LOG_ROWS

MakeLog = Callable[..., AuditLog]


@pytest.fixture
def make_log(tiny_manifest: Manifest, store: Any, metric: Any) -> Iterator[MakeLog]:
    logs = []

    def make(**limits: float) -> AuditLog:
        log = AuditLog(
            store,
            tiny_manifest,
            model="tiny",
            version="3",
            revision="v3",
            limits=LogLimits(**limits),  # type: ignore[arg-type]
            metrics=WorkerMetrics(metric.memory, 0),
        )
        logs.append(log)
        return log

    yield make
    store.held.set()
    for log in logs:
        log.close()


async def kept(log: AuditLog, each: LogRecord) -> Exception | None:
    """Return what the request that waits for a record is told."""
    told: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    log.keep(each, told.set_result)
    return await told


async def all_kept(log: AuditLog, records: list[LogRecord]) -> list[Exception | None]:
    return await asyncio.gather(*(kept(log, each) for each in records))


def test_what_was_told_to_be_kept_is_in_the_store(make_log: MakeLog, store: Any, metric: Any) -> None:
    log = make_log()

    async def ask() -> None:
        for number in range(3):
            assert await kept(log, row_record(f"r{number}")) is None
            assert [row["request_id"] for row in store.rows()] == [f"r{before}" for before in range(number + 1)]

    asyncio.run(ask())
    assert metric(LOG_ROWS) == 3
    assert metric(LOG_QUEUE_ROWS) == 0


def test_records_that_come_together_share_a_file(make_log: MakeLog, store: Any) -> None:
    log = make_log()
    records = [row_record(f"r{number}") for number in range(50)] + [record(f"s{number}", rows=4) for number in range(50)]
    assert asyncio.run(all_kept(log, records)) == [None] * 100
    assert len(store.puts) < 10
    assert len(store.rows()) == 250


def test_a_group_of_two_hours_is_two_files(make_log: MakeLog, store: Any) -> None:
    log = make_log()
    asyncio.run(all_kept(log, [row_record("r1"), row_record("r2", at=TIME + timedelta(hours=1))]))
    assert {key.split("/")[3] for key in store.puts} == {"hour=2013-06-01T12", "hour=2013-06-01T13"}


def test_a_failing_store_is_told_and_what_comes_after_is_kept(make_log: MakeLog, store: Any, metric: Any) -> None:
    log = make_log()

    async def ask() -> None:
        store.broken = True
        assert str(await kept(log, row_record("lost"))) == "no space left"
        store.broken = False
        assert await kept(log, row_record("kept")) is None

    asyncio.run(ask())
    assert [row["request_id"] for row in store.rows()] == ["kept"]
    assert metric(LOG_FAILURES) == 1


def test_no_request_waits_longer_than_it_may_for_a_hanging_store(make_log: MakeLog, store: Any) -> None:
    log = make_log(keep_seconds=0.2, close_seconds=5)

    async def ask() -> None:
        store.held.clear()
        begun = time.monotonic()
        first = asyncio.ensure_future(kept(log, row_record("first")))
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(kept(log, row_record("second")))
        assert "did not take it within 0.2 s" in str(await first)
        assert "did not take it within 0.2 s" in str(await second)
        assert time.monotonic() - begun < 2
        await asyncio.sleep(0.1)
        at_once: list[Exception | None] = []
        log.keep(row_record("third"), at_once.append)
        assert "has not answered for" in str(at_once)
        store.held.set()
        while await kept(log, row_record("fourth")) is not None:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(ask(), 10))
    logged = [row["request_id"] for row in store.rows()]
    assert "fourth" in logged
    assert not {"second", "third"} & set(logged)  # refused before it was written, so never written


@pytest.mark.parametrize(
    "limits", [pytest.param({"queue_rows": 4}, id="rows"), pytest.param({"queue_bytes": 1300}, id="bytes")]
)
def test_only_so_many_may_wait(make_log: MakeLog, store: Any, limits: dict[str, int]) -> None:
    log = make_log(**limits)

    async def ask() -> list[Exception | None]:
        store.held.clear()
        waiting = asyncio.ensure_future(all_kept(log, [record("r1"), record("r2")]))
        await asyncio.sleep(0.05)
        refused = await kept(log, record("r3"))
        store.held.set()
        return [refused, *await waiting]

    refused, *others = asyncio.run(ask())
    assert str(refused) == "4 rows wait to be kept already"
    assert others == [None, None]


def test_a_failed_requests_record_is_kept_too_and_counted_if_it_is_not(make_log: MakeLog, store: Any, metric: Any) -> None:
    log = make_log()

    async def ask() -> None:
        log.add(record("r1", failed=True))
        await kept(log, row_record("r2"))
        store.broken = True
        log.add(record("r3", failed=True))
        await kept(log, row_record("r4"))

    asyncio.run(ask())
    assert sorted(row["prediction_id"] for row in store.rows()) == ["r1/0", "r1/1", "r2/0"]
    assert metric(LOG_DROPPED_ROWS, "queue-full") == 2


def test_closing_keeps_what_waits_and_refuses_what_comes_after(make_log: MakeLog, store: Any) -> None:
    log = make_log()

    async def ask() -> list[Exception | None]:
        waiting = asyncio.ensure_future(all_kept(log, [row_record(f"r{number}") for number in range(3)]))
        await asyncio.sleep(0.001)
        await asyncio.to_thread(log.close)
        return [*await waiting, await kept(log, row_record("late"))]

    *first, late = asyncio.run(ask())
    assert first == [None] * 3
    assert str(late) == "the server is stopping"
    assert len(store.rows()) == 3


def test_a_hanging_store_does_not_delay_the_end(make_log: MakeLog, store: Any, metric: Any) -> None:
    log = make_log(close_seconds=0.2)

    async def ask() -> None:
        store.held.clear()
        log.keep(record(), lambda error: None)
        await asyncio.sleep(0.05)
        await asyncio.to_thread(log.close)

    begun = time.monotonic()
    asyncio.run(ask())
    assert time.monotonic() - begun < 5
    assert metric(LOG_DROPPED_ROWS, "store-failed") == 2


def test_a_record_that_is_not_one_is_refused_and_ends_no_thread(make_log: MakeLog, store: Any) -> None:
    log = make_log()
    broken = row_record("broken")
    broken.status = "two hundred"  # type: ignore[assignment]

    async def ask() -> list[Exception | None]:
        return [await kept(log, broken), await kept(log, row_record("sound"))]

    refused, sound = asyncio.run(ask())
    assert "two hundred" in str(refused)
    assert sound is None
