"""What happens around a server (stderr, folders, signals, descriptors, a frozen machine) does not end it or its answers."""

import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import small_packages
from tests.integration.serving.reliability.conftest import ECHO, complaints, echo_document, open_descriptors
from tests.integration.serving.reliability.wire import Wire, request

CLONE_NEWPID = 0x20000000
PR_SET_PDEATHSIG = 1
NOT_ALLOWED = 77


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_packages.every_type(tmp_path_factory.mktemp("packages") / "echo")


def assert_serves(server: Any) -> None:
    assert server.request(ECHO, echo_document())[0] == 200
    assert server.request(ECHO, b"{")[0] == 400
    with Wire(server.http_port) as wire:
        scraped = wire.send(request("/metrics")).answer()
    assert scraped is not None
    assert scraped.status == 200


def unread_pipe() -> int:
    """Return a pipe that takes no byte more, and whose reader only looks on."""
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    while True:
        try:
            os.write(writer, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    return writer


def broken_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(
    ("stderr", "workers"),
    [
        pytest.param(unread_pipe, 1, id="a full pipe"),
        pytest.param(unread_pipe, 2, id="a full pipe of two workers"),
        pytest.param(broken_pipe, 1, id="a broken pipe"),
        pytest.param(full_disk, 1, id="a full disk"),
    ],
)
def test_nobody_reads_what_it_says(
    launch_once: Callable[..., Any], package: Path, stderr: Callable[[], int], workers: int
) -> None:
    server = launch_once(package, process={"stderr": stderr()}, access_log="all", workers=workers)
    for _ in range(50):
        assert_serves(server)
    assert server.stop() == 0


def test_there_is_no_stderr_at_all(launch_once: Callable[..., Any], package: Path) -> None:
    server = launch_once(package, process={"preexec_fn": lambda: os.closerange(0, 3)}, access_log="all")
    assert_serves(server)
    assert server.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_its_folders_are_removed(launch_once: Callable[..., Any], package: Path, tmp_path: Path, workers: int) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    inside = shutil.copytree(package, temporary / "echo")
    sources = {"PYTHONPATH": str(Path.cwd()), "TMPDIR": str(temporary)}
    server = launch_once(inside, process={"cwd": here, "env": sources}, workers=workers)
    assert_serves(server)
    shutil.rmtree(here)
    shutil.rmtree(temporary)
    for _ in range(20):
        assert_serves(server)
    assert server.stop() == 0
    assert "Traceback" not in server.stderr


def test_its_descriptors_run_out(launch_once: Callable[..., Any], package: Path, eventually: Callable[..., None]) -> None:
    server = launch_once(package)
    assert_serves(server)
    process = psutil.Process(server.process.pid)
    allowed = open_descriptors(server) + 20
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (allowed, allowed))
    with ExitStack() as stack:
        served = stack.enter_context(Wire(server.http_port))
        assert served.send(request("/v2/health/live")).answer() is not None
        for _ in range(60):
            stack.enter_context(Wire(server.http_port))
        time.sleep(0.3)
        before = sum(process.cpu_times()[:2])
        time.sleep(1)
        assert sum(process.cpu_times()[:2]) - before < 0.5, "it spins while it cannot accept"
        assert served.send(request("/v2/health/live")).answer() is not None
    eventually(lambda: open_descriptors(server) < allowed, "closed connections", 5)
    assert_serves(server)


@pytest.mark.parametrize("workers", [1, 2])
def test_signals_that_mean_nothing_do_nothing(launch_once: Callable[..., Any], package: Path, workers: int) -> None:
    server = launch_once(package, workers=workers)
    parent = psutil.Process(server.process.pid)
    for process in (parent, *parent.children()):
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
            process.send_signal(number)
    time.sleep(0.2)
    assert_serves(server)
    assert complaints(server) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_terminal_is_closed(launch_once: Callable[..., Any], package: Path, workers: int) -> None:
    server = launch_once(package, workers=workers, log_rotate_seconds=30)
    assert_serves(server)
    assert server.stop(signal.SIGHUP) == 0
    assert list(server.store.rglob("*.parquet"))


def test_the_machine_is_frozen_for_a_while(launch_once: Callable[..., Any], package: Path) -> None:
    server = launch_once(package, request_seconds=0.5, read_seconds=0.5, idle_seconds=1)
    with Wire(server.http_port) as idle, Wire(server.http_port) as asking:
        assert idle.send(request("/v2/health/live")).answer() is not None
        server.process.send_signal(signal.SIGSTOP)
        asking.send(request("/v2/health/live"))
        time.sleep(1.5)
        server.process.send_signal(signal.SIGCONT)
        answer = asking.answer()
        assert answer is None or answer.status in (200, 408, 504)
    assert_serves(server)
    assert complaints(server) == []


def test_a_worker_frozen_for_good_does_not_keep_the_server(launch_once: Callable[..., Any], package: Path) -> None:
    server = launch_once(package, workers=2, drain_seconds=1)
    [frozen, _] = psutil.Process(server.process.pid).children()
    frozen.suspend()
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < 15
    assert not frozen.is_running() or frozen.status() == psutil.STATUS_ZOMBIE


def become_first_process() -> None:
    """Go on as the first process of a new process namespace; who was started waits for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWPID) != 0:
        os._exit(NOT_ALLOWED)
    first = os.fork()
    if first:
        os.closerange(3, 1024)  # else who started this would wait for the pipe that tells of a failed start
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_process_of_a_container_stops_as_any_other_and_survives_orphans(
    launch_once: Callable[..., Any], package: Path, program: Callable[[str], str], workers: int
) -> None:
    enter = program("nsenter")
    if subprocess.run(["/bin/true"], preexec_fn=become_first_process, check=False).returncode == NOT_ALLOWED:
        pytest.skip("this user may not make a process namespace")
    server = launch_once(package, workers=workers, process={"preexec_fn": become_first_process})
    [first] = psutil.Process(server.process.pid).children()
    for _ in range(3):
        subprocess.run([enter, "--target", str(first.pid), "--pid", "sh", "-c", "(sleep 0.1 &)"], check=True)
    time.sleep(0.5)
    assert_serves(server)
    assert len(first.children()) == (workers if workers > 1 else 0)
    first.terminate()
    assert server.process.wait(20) == 0
    assert complaints(server) == []


def test_another_server_has_its_port(launch_once: Callable[..., Any], package: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = launch_once(package, wait=False, http_port=port)
        assert server.process.wait(20) == 1
    assert server.stderr.startswith(f"error: port {port} on 127.0.0.1 cannot be opened")
