"""A crew of real processes: stopped together, replaced when they die, given up when none of them can start."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tidegate.serving.crew import FIRST_DELAY, HOPELESS, LONGEST_DELAY, STEADY_SECONDS, Restarts

# A parent whose workers do as a script says, and note what happens to them in files of their own.
PARENT = """
import ctypes, os, signal, sys, time
from pathlib import Path
from tidegate.errors import ServingError
from tidegate.serving.crew import Crew

folder = Path(sys.argv[1])
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans become this process's children, as they do the first one's

def note(worker, what):
    with (folder / f"notes-{worker}").open("a") as file:
        file.write(f"{what} {os.getpid()}\\n")

def server_notes(worker):
    return (folder / f"notes-{worker}").read_text().splitlines()

def ready(worker):
    (folder / f"ready-{worker}").touch()
    note(worker, "ready")

def stopped_by(*numbers):
    return signal.sigwait(numbers)

def run_worker(worker):
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGQUIT))  # they may come before they are waited for
    SCRIPT

Crew(
    int(sys.argv[2]),
    run_worker,
    is_ready=lambda worker: (folder / f"ready-{worker}").exists(),
    forget=lambda worker: (folder / f"ready-{worker}").unlink(missing_ok=True),
    drain_seconds=float(sys.argv[3]),
    close_seconds=0.2,
).run()
"""
GOOD = "ready(worker); note(worker, signal.Signals(stopped_by(signal.SIGTERM, signal.SIGQUIT)).name)"


class Parent:
    """A crew's parent process and what its workers noted."""

    def __init__(self, folder: Path, script: str, workers: int, drain_seconds: float) -> None:
        self.folder = folder
        source = PARENT.replace("SCRIPT", script)
        command = [sys.executable, "-c", source, str(folder), str(workers), str(drain_seconds)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)

    def notes(self, worker: int) -> list[tuple[str, int]]:
        file = self.folder / f"notes-{worker}"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(what, int(process)) for what, process in map(str.split, lines)]

    def pids(self, worker: int) -> list[int]:
        return [process for what, process in self.notes(worker) if what == "ready"]

    def wait(self, seconds: float = 20) -> tuple[int, str]:
        _, stderr = self.process.communicate(timeout=seconds)
        return self.process.returncode, stderr.decode()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Callable[..., Parent]]:
    started: list[Parent] = []

    def start(script: str = GOOD, workers: int = 2, drain_seconds: float = 20) -> Parent:
        started.append(Parent(tmp_path, script, workers, drain_seconds))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def deaths(stderr: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("signals", "to_the_group", "seen"),
    [
        pytest.param([signal.SIGTERM], False, "SIGTERM", id="asked to stop"),
        pytest.param([signal.SIGINT], False, "SIGTERM", id="interrupted"),
        pytest.param([signal.SIGINT], True, "SIGTERM", id="interrupted from a terminal"),
        pytest.param([signal.SIGHUP], True, "SIGTERM", id="the terminal closed"),
        pytest.param([signal.SIGQUIT], False, "SIGQUIT", id="asked to stop at once"),
    ],
)
def test_all_workers_are_stopped_once(
    parent: Callable[..., Parent], signals: list[signal.Signals], to_the_group: bool, seen: str
) -> None:
    server = parent()
    until(lambda: len(server.pids(0)) == len(server.pids(1)) == 1, "two workers")
    for number in signals:
        (os.killpg if to_the_group else os.kill)(server.process.pid, number)
    assert server.wait() == (0, "")
    for worker in range(2):
        assert [what for what, _ in server.notes(worker)] == ["ready", seen]


def test_a_second_signal_stops_at_once(parent: Callable[..., Parent]) -> None:
    draining = "ready(worker); stopped_by(signal.SIGTERM); note(worker, 'draining'); stopped_by(signal.SIGQUIT)"
    server = parent(draining)
    until(lambda: len(server.pids(0)) == len(server.pids(1)) == 1, "two workers")
    os.kill(server.process.pid, signal.SIGTERM)
    until(lambda: all(len(server.notes(worker)) == 2 for worker in range(2)), "both draining")
    assert server.process.poll() is None
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.wait() == (0, "")


@pytest.mark.parametrize(("number", "drain_seconds"), [(signal.SIGTERM, 0.3), (signal.SIGQUIT, 60)])
def test_a_worker_that_does_not_stop_is_killed(
    parent: Callable[..., Parent], number: signal.Signals, drain_seconds: float
) -> None:
    server = parent(GOOD, drain_seconds=drain_seconds)
    until(lambda: len(server.pids(0)) == len(server.pids(1)) == 1, "two workers")
    os.kill(server.pids(0)[0], signal.SIGSTOP)
    os.kill(server.process.pid, number)
    code, stderr = server.wait()
    assert code == 1
    assert [(death["event"], death["worker"]) for death in deaths(stderr)] == [("worker did not stop, and is killed", 0)]
    assert [what for what, _ in server.notes(1)] == ["ready", number.name]


def test_a_worker_that_dies_is_replaced_and_the_other_goes_on(parent: Callable[..., Parent]) -> None:
    server = parent()
    until(lambda: len(server.pids(0)) == len(server.pids(1)) == 1, "two workers")
    os.kill(server.pids(0)[0], signal.SIGKILL)
    until(lambda: len(server.pids(0)) == 2, "a new worker")
    assert len(server.pids(1)) == 1
    os.kill(server.process.pid, signal.SIGTERM)
    code, stderr = server.wait()
    assert code == 0
    (death,) = deaths(stderr)
    assert (death["worker"], death["exit_code"], death["restart_in_seconds"]) == (0, -9, 0)


def test_a_worker_that_keeps_dying_is_started_ever_more_rarely_and_can_still_be_stopped(parent: Callable[..., Parent]) -> None:
    server = parent("ready(worker); os._exit(3) if worker == 0 else stopped_by(signal.SIGTERM)")
    time.sleep(1.0)
    os.kill(server.process.pid, signal.SIGTERM)
    code, stderr = server.wait()
    assert code == 0
    waits = [death["restart_in_seconds"] for death in deaths(stderr)]
    assert waits == [0, 0.1, 0.2, 0.4, 0.8][: len(waits)]
    assert 3 <= len(waits) <= 5
    assert len(server.pids(1)) == 1


def test_a_worker_that_never_got_ready_stops_the_server_in_its_own_words(parent: Callable[..., Parent]) -> None:
    server = parent("if worker == 0: raise ServingError('the golden\\nsample differs')\n    " + GOOD)
    code, stderr = server.wait()
    assert code == 1
    assert stderr.rstrip().endswith("ServingError: the golden sample differs")
    assert [what for what, _ in server.notes(1)] in ([], ["ready", "SIGTERM"], ["ready"])


def test_a_worker_that_is_killed_before_it_got_ready_is_replaced_as_well(parent: Callable[..., Parent]) -> None:
    server = parent("note(worker, 'begun')\n    len(server_notes(worker)) == 1 and time.sleep(60); " + GOOD, workers=1)
    until(lambda: bool(server.notes(0)), "a worker on its way")
    os.kill(server.notes(0)[0][1], signal.SIGKILL)
    until(lambda: len(server.pids(0)) == 1, "a ready worker")
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.wait()[0] == 0


def test_a_server_without_a_worker_that_can_start_again_ends(parent: Callable[..., Parent]) -> None:
    once = "if (folder / f'notes-{worker}').exists(): raise ServingError('the store is gone')\n    ready(worker); os._exit(1)"
    server = parent(once, workers=1)
    code, stderr = server.wait()
    assert code == 1
    assert stderr.rstrip().endswith("ServingError: the store is gone")
    assert len(deaths(stderr)) == 1 + HOPELESS


def test_workers_end_with_their_parent(parent: Callable[..., Parent]) -> None:
    server = parent()
    until(lambda: len(server.pids(0)) == len(server.pids(1)) == 1, "two workers")
    server.process.kill()
    server.process.wait()
    until(lambda: all(server.notes(worker)[-1][0] == "SIGTERM" for worker in range(2)), "both stopped")


def test_orphans_that_the_first_process_of_a_container_inherits_are_reaped(parent: Callable[..., Parent]) -> None:
    leave_an_orphan = "if os.fork() == 0: os.fork() or (time.sleep(0.2), note(worker, 'orphan')); os._exit(0)"
    server = parent(f"{leave_an_orphan}\n    os.wait(); {GOOD}", workers=1)
    until(lambda: "orphan" in dict(server.notes(0)), "an orphan")
    orphan = dict(server.notes(0))["orphan"]
    until(lambda: not psutil.pid_exists(orphan), "the orphan gone")
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.wait() == (0, "")


def test_delays_grow_to_a_bound_and_start_anew_after_a_long_life() -> None:
    restarts = Restarts()
    delays = [restarts.delay(0, lived=0.1) for _ in range(12)]
    assert delays[:4] == [0.0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY
    assert restarts.delay(1, lived=0.1) == 0.0
    assert restarts.delay(0, lived=STEADY_SECONDS) == 0.0
    assert restarts.delay(0, lived=0.1) == FIRST_DELAY
