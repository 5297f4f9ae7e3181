"""Starts workers, calls them, and says in words how one was lost.

with Workers() as workers:
    worker = workers.start("tidegate.optimization.search.build:Builder", package, limits=Limits(seconds=600))
    outcome = worker.call("build", "mlp/fp16", out)       # raises WorkerLost: "was killed by signal 11 (SIGSEGV)"
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from types import TracebackType
from typing import IO, Any, Self

from tidegate.errors import OptimizationError
from tidegate.optimization.isolation.memory import available_bytes, resident_bytes
from tidegate.optimization.isolation.nursery import End, Start

DEFAULT_SECONDS = 600.0
_SHARE_OF_MEMORY = 0.8
_LOOK_SECONDS = 0.1
_MEGABYTE = 1e6


class WorkerLost(OptimizationError):
    """A worker's call raised, or its process crashed, hung or took too much memory; the message is the reason, in one line."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call of a worker may take.

    Attributes:
        seconds: Wall time of one call.
        memory_bytes: Resident memory, looked at ten times a second; None means no limit. The address space is not limited,
            since CUDA reserves more of that than the machine has memory.
    """

    seconds: float = DEFAULT_SECONDS
    memory_bytes: int | None = None

    @classmethod
    def of_this_machine(cls, seconds: float = DEFAULT_SECONDS) -> Self:
        """Return limits that leave a fifth of the memory that is available now."""
        available = available_bytes()
        return cls(seconds, None if available is None else int(available * _SHARE_OF_MEMORY))


class Workers:
    """A context in which workers can be started; all of them end with it."""

    def __init__(self) -> None:
        """Start the nursery they come from; it takes about half a second to be ready, which is waited for at the first call."""
        ours, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the context
        optimized = ["-O"] * sys.flags.optimize  # finds the bytecode that is cached already
        command = [sys.executable, *optimized, "-W", "ignore", "-m", "tidegate.optimization.isolation.nursery"]
        self._process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            pass_fds=[theirs.fileno()],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # a library without threads can be forked
            start_new_session=True,  # the terminal's Ctrl-C reaches the caller alone
        )
        theirs.close()
        self._nursery = Connection(ours.detach())
        self._ready = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End every worker."""
        self.close()

    def close(self) -> None:
        """End every worker, and the nursery."""
        self._nursery.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def start(self, path: str, *arguments: Any, limits: Limits) -> "Worker":
        """Start a worker: an object of the class at `path` ("module:Class"), made with `arguments` at its first call."""
        connection, handle = socket.socketpair()
        said = tempfile.TemporaryFile()  # noqa: SIM115 - the worker's to close
        try:
            self._await_readiness()
            self._nursery.send(Start(path, arguments))
            for each in (handle.fileno(), said.fileno()):
                send_handle(self._nursery, each, self._process.pid)
            pid = self._nursery.recv()
        except (EOFError, OSError):
            raise self._nursery_lost() from None
        finally:
            handle.close()
        return Worker(self, pid, Connection(connection.detach()), said, limits)

    def end(self, pid: int) -> int:
        """End a worker, if it still runs, and return its wait status."""
        try:
            self._nursery.send(End(pid))
            return int(self._nursery.recv())
        except (EOFError, OSError):
            raise self._nursery_lost() from None

    def _await_readiness(self) -> None:
        if not self._ready:
            self._nursery.recv()
            self._ready = True

    def _nursery_lost(self) -> OptimizationError:
        last = _last_line(self._said)
        return OptimizationError(f"no worker process could be started{f': {last}' if last else ''}")


class Worker:
    """A process that answers calls, one at a time."""

    def __init__(self, workers: Workers, pid: int, connection: Connection, said: IO[bytes], limits: Limits) -> None:
        """Belong to `workers`, which start it."""
        self.pid = pid
        self._workers = workers
        self._connection = connection
        self._said = said
        self._limits = limits
        self._ended = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the process."""
        self.end()

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what the worker's method returns; raises WorkerLost, after which it has ended unless the method raised."""
        try:
            self._connection.send((method, arguments))
            self._wait()
            done, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise WorkerLost(self._how_it_ended()) from None
        if not done:
            raise WorkerLost(answer)
        return answer

    def end(self) -> None:
        """End the process, if it still runs."""
        if not self._ended:
            self._ended = True
            self._connection.close()
            with suppress(OptimizationError):
                self._workers.end(self.pid)
            self._said.close()

    def _wait(self) -> None:
        started = time.monotonic()
        while not self._connection.poll(_LOOK_SECONDS):
            if time.monotonic() - started > self._limits.seconds:
                self._lose(f"not done within {self._limits.seconds:g} s")
            held, allowed = resident_bytes(self.pid), self._limits.memory_bytes
            if held is not None and allowed is not None and held > allowed:
                self._lose(f"took {held / _MEGABYTE:,.0f} MB of memory; it may take {allowed / _MEGABYTE:,.0f} MB")

    def _lose(self, reason: str) -> None:
        self.end()
        raise WorkerLost(reason)

    def _how_it_ended(self) -> str:
        self._ended = True
        self._connection.close()
        status = self._workers.end(self.pid)
        last = _last_line(self._said)
        self._said.close()
        return describe_status(status) + (f": {last}" if last else "")


def describe_status(status: int) -> str:
    """Return how a process ended, from its wait status.

    >>> describe_status(11)
    'was killed by signal 11 (SIGSEGV)'
    >>> describe_status(3 << 8)
    'ended with status 3'
    """
    if not os.WIFSIGNALED(status):
        return f"ended with status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in signal.valid_signals() else "unknown"
    likely = ", as the kernel does when memory runs out" if number == signal.SIGKILL else ""
    return f"was killed by signal {number} ({name}){likely}"


def _last_line(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
    lines = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:300] if lines else ""
