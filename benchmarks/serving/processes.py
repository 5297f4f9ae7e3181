"""Server processes on a core of their own: started until they are ready, stopped in between, and asked what they used."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_PATIENCE = 60.0
_IDLE = 0.05  # share of a core, below which a server has nothing left to do


def cores() -> tuple[int, int]:
    """Return the core of the servers and that of the clients; on a machine with one core they are the same."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this thread, and what it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        name: The contestant's.
        http_port: Of REST.
        grpc_port: Of gRPC.
        process: What was started.
        ready_after: Seconds from its start until it said that it was ready.
    """

    name: str
    http_port: int
    grpc_port: int
    process: subprocess.Popen[bytes]
    ready_after: float

    def pause(self) -> None:
        """Let it finish what it still has to do, and stop it, so that it takes nothing from the others."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            before, begun = self.cpu_seconds(), time.monotonic()
            time.sleep(0.02)
            if self.cpu_seconds() - before < _IDLE * (time.monotonic() - begun):
                break
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """Return the processor time of all its processes and threads so far."""
        return sum(time.clock_gettime_ns(_cpu_clock(process.pid)) for process in self._processes()) / 1e9

    def system_seconds(self) -> float:
        """Return how much of that the kernel took, in steps of 10 ms."""
        return sum(process.cpu_times().system for process in self._processes())

    def memory_mb(self) -> float:
        """Return its resident memory, shared pages divided among its processes."""
        return sum(process.memory_full_info().pss for process in self._processes()) / 1e6

    def resident_mb(self) -> float:
        """Return its resident memory as `ps` counts it, in all its processes."""
        return sum(process.memory_info().rss for process in self._processes()) / 1e6

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@contextmanager
def running(
    name: str, command: Sequence[str], *, http_port: int, grpc_port: int, core: int, health: str, folder: Path
) -> Iterator[Server]:
    """Run a server on a core until it is ready, yield it, and stop it at the end.

    Raises:
        SystemExit: It did not get ready; with the last that it said.
    """
    begun = time.perf_counter()
    with on_core(core), (folder / f"{name}.log").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder)
    try:
        while not _is_ready(http_port, health):
            if process.poll() is not None or time.perf_counter() - begun > _PATIENCE:
                last = (folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-15:]
                raise SystemExit("\n".join([f"{name} did not get ready: {' '.join(command)}", *last]))
            time.sleep(0.002)
        yield Server(name, http_port, grpc_port, process, time.perf_counter() - begun)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_ready(port: int, health: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=1):
            return True
    except OSError:
        return False


def _cpu_clock(process: int) -> int:
    """Return the number of another process's CPU-time clock, as clock_getcpuclockid(3) makes it on Linux."""
    return ~process << 3 | 2
