"""A worker comes to the plan: it opens what is next, lets it answer when told, and closes what has served once that is idle."""

import asyncio
from collections.abc import Callable

from tests.unit.serving.repository.conftest import DAMAGED, FakeWorker, until, version
from tidegate.serving.repository.plan import Failure, Plan, PlanFolder, Report

Workers = Callable[[int], list[FakeWorker]]


async def come_to(worker: FakeWorker, folder: PlanFolder, plan: Plan) -> Report:
    folder.write(plan)
    await until(
        lambda: (report := folder.reported(worker.index)) is not None and report.generation == plan.generation, f"{plan}"
    )
    report = folder.reported(worker.index)
    assert report is not None
    return report


def test_what_is_next_is_opened_but_answers_only_when_it_is_to_serve(workers: Workers, folder: PlanFolder) -> None:
    async def follow() -> None:
        (worker,) = workers(1)
        worker.follower.start()
        assert await come_to(worker, folder, Plan(2, version("1"), next=version("2"))) == Report(2)
        assert (worker.answers, worker.still_open) == ("1", ["1", "2"])
        assert await come_to(worker, folder, Plan(3, version("2"))) == Report(3)
        assert worker.answers == "2"
        await until(lambda: worker.still_open == ["2"], "the replaced version closed")
        await worker.follower.stop(5)
        assert (worker.answers, worker.still_open) == ("2", ["2"])

    asyncio.run(follow())


def test_what_is_next_no_more_is_closed_unserved(workers: Workers, folder: PlanFolder) -> None:
    async def follow() -> None:
        (worker,) = workers(1)
        worker.follower.start()
        await come_to(worker, folder, Plan(2, version("1"), next=version("2")))
        await come_to(worker, folder, Plan(3, version("1"), next=version("3")))
        assert (worker.answers, worker.still_open) == ("1", ["1", "3"])
        await come_to(worker, folder, Plan(4, version("1")))
        assert (worker.answers, worker.still_open) == ("1", ["1"])
        await come_to(worker, folder, Plan(5, version("1"), next=version("2")))
        await worker.follower.stop(5)
        assert (worker.answers, worker.still_open) == ("1", ["1"])

    asyncio.run(follow())


def test_a_version_that_cannot_be_opened_is_reported_and_the_next_one_is_tried(workers: Workers, folder: PlanFolder) -> None:
    async def follow() -> None:
        (worker,) = workers(1)
        worker.cannot_open = {"2": DAMAGED, "3": MemoryError()}
        worker.follower.start()
        report = await come_to(worker, folder, Plan(2, version("1"), next=version("2")))
        assert report == Report(2, Failure(409, str(DAMAGED)))
        report = await come_to(worker, folder, Plan(3, version("1"), next=version("3")))
        assert report == Report(3, Failure(503, "MemoryError"))
        assert await come_to(worker, folder, Plan(4, version("1"), next=version("4"))) == Report(4)
        assert (worker.answers, worker.still_open) == ("1", ["1", "4"])
        await worker.follower.stop(5)

    asyncio.run(follow())


def test_a_worker_that_missed_a_step_comes_to_the_plan_all_the_same(workers: Workers, folder: PlanFolder) -> None:
    async def follow() -> None:
        (worker,) = workers(1)
        worker.follower.start()
        assert await come_to(worker, folder, Plan(9, version("5"))) == Report(9)
        assert worker.answers == "5"
        await come_to(worker, folder, Plan(10, None))
        assert (worker.answers, worker.endpoint.ready) == (None, False)
        await come_to(worker, folder, Plan(11, version("1")))
        assert (worker.answers, worker.endpoint.ready) == ("1", True)
        await worker.follower.stop(5)

    asyncio.run(follow())


def test_a_replaced_version_is_closed_when_it_is_idle_or_patience_ends(workers: Workers, folder: PlanFolder) -> None:
    async def follow() -> None:
        (worker,) = workers(1)
        busy = worker.opened[0]
        busy.idle = False
        worker.follower.start()
        await come_to(worker, folder, Plan(2, version("2")))
        await asyncio.sleep(0.05)
        assert not busy.closed
        busy.idle = True
        await until(lambda: busy.closed, "closed once idle")
        stuck = worker.opened[1]
        stuck.idle = False
        await come_to(worker, folder, Plan(3, version("3")))
        await until(lambda: stuck.closed, "closed although a request never ends")
        await worker.follower.stop(5)

    asyncio.run(follow())
