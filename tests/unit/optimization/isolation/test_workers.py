"""Workers: what they answer, how one is lost and what is said of it, and that none outlives its caller."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tidegate.errors import OptimizationError
from tidegate.optimization.isolation.memory import available_bytes, forget_peak, peak_bytes, resident_bytes
from tidegate.optimization.isolation.workers import Limits, WorkerLost, Workers, describe_status

PATH = "tests.unit.optimization.isolation.misbehaving:Misbehaving"
ROOT = Path(__file__).parents[4]
LIMITS = Limits(seconds=20)


@pytest.fixture(scope="module")
def workers():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # the nursery finds the tests' modules there
        with Workers() as started:
            yield started


def test_a_worker_keeps_its_object_between_calls(workers: Workers, capfd: pytest.CaptureFixture[str]) -> None:
    with workers.start(PATH, "hi", limits=LIMITS) as worker:
        assert [worker.call("greet", name) for name in "ab"] == ["hi, a", "hi, b"]
        assert worker.call("pid") == worker.pid != os.getpid()

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("method", "arguments", "limits", "reason"),
    [
        pytest.param("fail", (), LIMITS, "ValueError: two lines", id="raises"),
        pytest.param("run_out_of_memory", (), LIMITS, "ran out of memory", id="memory error"),
        pytest.param("segfault", (), LIMITS, "was killed by signal 11 (SIGSEGV)", id="segfault"),
        pytest.param("abort", (), LIMITS, "was killed by signal 6 (SIGABRT): terminate called: no such kernel", id="abort"),
        pytest.param(
            "die", (), LIMITS, "was killed by signal 9 (SIGKILL), as the kernel does when memory runs out", id="killed"
        ),
        pytest.param("exit", (), LIMITS, "ended with status 3", id="exits"),
        pytest.param("hang", (60,), Limits(seconds=0.2), "not done within 0.2 s", id="hangs"),
        pytest.param("no_such_method", (), LIMITS, "AttributeError: ", id="no such method"),
    ],
)
def test_how_a_worker_is_lost(workers: Workers, method: str, arguments: tuple, limits: Limits, reason: str) -> None:
    with workers.start(PATH, limits=limits) as worker, pytest.raises(WorkerLost) as lost:
        worker.call(method, *arguments)

    assert str(lost.value).startswith(reason)
    assert "\n" not in str(lost.value)


def test_a_worker_that_takes_too_much_memory_is_ended(workers: Workers) -> None:
    with (
        workers.start(PATH, limits=Limits(seconds=20, memory_bytes=400_000_000)) as worker,
        pytest.raises(WorkerLost, match=r"took [0-9,]+ MB of memory; it may take 400 MB"),
    ):
        worker.call("eat", 600)


def test_a_call_that_raises_leaves_the_worker_alive(workers: Workers) -> None:
    with workers.start(PATH, limits=LIMITS) as worker:
        with pytest.raises(WorkerLost):
            worker.call("fail")

        assert worker.call("greet", "again") == "hello, again"


def test_an_expected_error_has_no_type_before_it(workers: Workers) -> None:
    with workers.start(PATH, "refuse", limits=LIMITS) as worker, pytest.raises(WorkerLost, match=r"^no such greeting$"):
        worker.call("greet", "you")


def test_a_lost_worker_loses_no_other(workers: Workers) -> None:
    with workers.start(PATH, limits=LIMITS) as first, workers.start(PATH, limits=LIMITS) as second:
        with pytest.raises(WorkerLost):
            first.call("segfault")

        assert second.call("greet", "still") == "hello, still"


@pytest.mark.parametrize("threads", [1, 2])
def test_sessions_opened_after_the_fork_have_their_threads(workers: Workers, threads: int) -> None:
    graph = _product()
    for _ in range(2):
        with workers.start(PATH, limits=LIMITS) as worker:
            np.testing.assert_allclose(worker.call("run_graph", graph, threads), 256.0)


def _product() -> bytes:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [256, 256], np.ones(256 * 256, np.float32))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 256]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def test_what_a_worker_started_ends_with_it(workers: Workers) -> None:
    with workers.start(PATH, limits=LIMITS) as worker:
        child = worker.call("start_child")
        assert _runs(child)

    assert _comes_true(lambda: not _runs(child))


def test_the_context_ends_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with Workers() as workers:
        pids = [workers.start(PATH, limits=LIMITS).pid for _ in range(3)]

    assert _comes_true(lambda: not any(_runs(pid) for pid in pids))


_CALLER = f"""
from tidegate.optimization.isolation.workers import *
workers = Workers()
hanging = [workers.start({PATH!r}, limits=Limits(seconds=60)) for _ in range(2)]
print(workers._process.pid, *(worker.pid for worker in hanging), flush=True)
hanging[0].call("hang", 60)
"""


@pytest.mark.parametrize("killed", [pytest.param(0, id="the caller"), pytest.param(1, id="the nursery")])
def test_nothing_outlives_who_is_killed(killed: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CALLER], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as caller:
        assert caller.stdout is not None
        nursery, *hanging = map(int, caller.stdout.readline().split())

        os.kill((caller.pid, nursery)[killed], signal.SIGKILL)

        assert _comes_true(lambda: not any(_runs(pid) for pid in (nursery, *hanging)))
        caller.wait(10)


def test_ctrl_c_reaches_the_caller_alone() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CALLER], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    ) as caller:  # fmt: skip
        assert caller.stdout is not None
        pids = [int(pid) for pid in caller.stdout.readline().split()]
        assert all(os.getpgid(pid) != os.getpgid(caller.pid) for pid in pids)

        os.killpg(caller.pid, signal.SIGINT)

        caller.wait(10)
        assert _comes_true(lambda: not any(_runs(pid) for pid in pids))


def test_no_process_can_be_started_without_a_nursery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Workers() as workers, pytest.raises(OptimizationError, match="no worker process could be started"):
        workers.start(PATH, limits=LIMITS)


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, "ended with status 0"), (256, "ended with status 1"), (4, "was killed by signal 4 (SIGILL)")],
)
def test_a_wait_status_in_words(status: int, said: str) -> None:
    assert describe_status(status) == said


def test_memory_is_what_the_machine_says() -> None:
    held = resident_bytes()
    assert held is not None
    forget_peak()
    block = np.ones(8_000_000)
    peak = peak_bytes()

    assert peak is not None
    assert peak - held > 0.5 * block.nbytes
    assert (available_bytes() or 0) > 0
    assert resident_bytes(2**30) is None


def test_limits_leave_some_memory_to_others() -> None:
    limits, available = Limits.of_this_machine(5), available_bytes()

    assert limits.seconds == 5
    assert limits.memory_bytes is not None
    assert available is not None
    assert limits.memory_bytes < available


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _comes_true(condition: Callable[[], bool], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
