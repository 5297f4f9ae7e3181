"""Forks workers on request, so that each starts within milliseconds, its libraries loaded: a program of its own.

    python -m tidegate.optimization.isolation.nursery FD

A fresh interpreter takes most of a second to import NumPy, ONNX and ONNX Runtime; a fork of one that has them takes none.
`multiprocessing`'s fork server would do, but its workers import the caller's main module anew (kfp's, in a pipeline step), and
keep it alive after the caller has been killed.

It is safe because nothing here is more than imported: a session, with its threads and locks, is opened in a worker only.

No worker outlives the search: the nursery sees the end of its connection when the caller dies, whatever killed it, and ends its
workers; where the kernel can, it ends them too if the nursery itself is killed.
"""

import ctypes
import importlib
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Any

_PRELOADED = (
    "tidegate.optimization.benchmark.subject",
    "tidegate.optimization.search.build",
)
_PR_SET_PDEATHSIG = 1
_FIRST_VICTIM = "1000"  # of the kernel, when memory runs out


@dataclass(frozen=True, slots=True)
class Start:
    """Asks for a worker: an object of the class at `path` ("module:Class") made with `arguments`, whose methods are called.

    Two handles follow: of its connection, and of the file for what it prints. The answer is the worker's process id.
    """

    path: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class End:
    """Asks to end the worker with this process id, if it still runs; the answer is its wait status."""

    pid: int


def main() -> None:
    """Answer requests until the caller is gone, then end every worker."""
    caller = Connection(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    for module in _PRELOADED:
        importlib.import_module(module)
    importlib.import_module("tidegate.optimization.variants").variant_names()  # finds them by importing each
    caller.send(os.getpid())
    workers: set[int] = set()
    with suppress(EOFError, ConnectionError):
        while True:
            request = caller.recv()
            if isinstance(request, Start):
                pid = _fork(request, caller)
                workers.add(pid)
                caller.send(pid)
            else:
                workers.discard(request.pid)
                caller.send(_end(request.pid))
    for pid in workers:
        _end(pid)


def _fork(request: Start, caller: Connection) -> int:
    handles = [recv_handle(caller), recv_handle(caller)]
    nursery = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            caller.close()
            _be_bound_to(nursery)
            _work(request, *handles)
        finally:
            os._exit(1)
    for handle in handles:
        os.close(handle)
    return pid


def _work(request: Start, connection: int, output: int) -> None:
    """Be the worker: answer calls until the caller hangs up."""
    os.setpgid(0, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    caller = Connection(connection)
    module, _, name = request.path.partition(":")
    worker: Any = None
    with suppress(EOFError, ConnectionError):
        while True:
            method, arguments = caller.recv()
            try:
                if worker is None:
                    worker = getattr(importlib.import_module(module), name)(*request.arguments)
                caller.send((True, getattr(worker, method)(*arguments)))
            except Exception as error:  # whatever a library raises loses this worker's variant, not the search
                caller.send((False, describe_error(error)))
    os._exit(0)


def describe_error(error: BaseException) -> str:
    """Return an error in one line of at most 400 characters; an expected one without its type."""
    from tidegate.errors import TidegateError

    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"ran out of memory{f': {text}' if text else ''}"[:400]
    return (text if isinstance(error, TidegateError) else f"{type(error).__name__}: {text}")[:400]


def _be_bound_to(nursery: int) -> None:
    """Let the kernel end this process when the nursery ends, and choose it first when memory runs out; both are Linux's."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        Path("/proc/self/oom_score_adj").write_text(_FIRST_VICTIM)
    if os.getppid() != nursery:
        os._exit(1)


def _end(pid: int) -> int:
    """Kill a worker and whatever it started; one that has ended already keeps the status it ended with."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


if __name__ == "__main__":
    # Requests are unpickled as classes of the module that the caller imports, not of `__main__`.
    importlib.import_module("tidegate.optimization.isolation.nursery").main()
