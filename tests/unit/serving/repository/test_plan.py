"""The plan is read whole, changed by one at a time, and outlives whoever was changing it."""

import os
import signal
import threading
from pathlib import Path

from tests.unit.serving.repository.conftest import version
from tidegate.serving.repository.plan import Failure, Plan, PlanFolder, Report


def test_what_is_written_is_read_and_seen_to_have_changed(folder: PlanFolder) -> None:
    before = folder.stamp()
    plan = Plan(7, version("1"), next=version("2"))
    folder.write(plan)
    assert folder.plan() == plan
    assert folder.stamp() != before
    assert folder.stamp() == folder.stamp()


def test_a_plan_that_somebody_removed_changes_nothing(folder: PlanFolder) -> None:
    for file in folder.path.iterdir():
        file.unlink()
    assert folder.stamp() is None


def test_a_report_counts_until_its_worker_dies(folder: PlanFolder) -> None:
    assert folder.reported(1) is None
    folder.report(1, Report(3, Failure(409, "damaged")))
    assert folder.reported(1) == Report(3, Failure(409, "damaged"))
    assert folder.reported(0) is None
    assert folder.forget(1)
    assert not folder.forget(1)
    assert folder.reported(1) is None


def test_a_plan_is_never_seen_half_written(folder: PlanFolder) -> None:
    done = threading.Event()

    def write() -> None:
        for number in range(300):
            folder.write(Plan(number, version("x" * (1 + number % 500))))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    read = 0
    while not done.is_set():
        plan = folder.plan()
        assert plan.serving is not None
        assert plan.generation == 1 or len(plan.serving.name) == 1 + plan.generation % 500
        read += 1
    writer.join()
    assert read > 10


def test_one_caller_has_the_turn_and_loses_it_with_its_process(folder: PlanFolder, tmp_path: Path) -> None:
    with folder.turn() as mine:
        assert mine
        with folder.turn() as other:
            assert not other
    taken, told = os.pipe()
    holder = os.fork()
    if holder == 0:
        with folder.turn():
            os.write(told, b"x")
            signal.pause()
    os.read(taken, 1)
    with folder.turn() as mine:
        assert not mine
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with folder.turn() as mine:
        assert mine
    os.close(taken)
    os.close(told)
