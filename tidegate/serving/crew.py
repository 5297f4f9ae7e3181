"""The workers of one server, as their parent process sees them: forked, restarted when they die, stopped together.

A worker that dies takes only its own requests with it. The first time it is replaced at once; if it keeps dying, ever later,
up to `LONGEST_DELAY` seconds, so that a model which kills its process does not keep the machine busy with starting it.
"""

import ctypes
import math
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tidegate.errors import ServingError, TidegateError
from tidegate.serving.events import emit
from tidegate.serving.stopping import STOP_AT_ONCE, stop_signals

FIRST_DELAY, LONGEST_DELAY = 0.1, 10.0
STEADY_SECONDS = 10.0  # a worker that lived so long had no trouble with starting
HOPELESS = 5  # starts in vain, one after another, while no other worker is ready either

_PR_SET_PDEATHSIG = 1
_LONGEST_ERROR = 2000  # so that a line is written whole, or not at all


class Restarts:
    """How long a worker that died waits until it is started anew."""

    def __init__(self) -> None:
        """Nothing has died yet."""
        self._deaths: dict[int, int] = {}

    def delay(self, worker: int, lived: float) -> float:
        """Return the seconds to wait after a worker died that had lived so many seconds."""
        deaths = 0 if lived >= STEADY_SECONDS else self._deaths.get(worker, 0)
        self._deaths[worker] = deaths + 1
        return 0.0 if deaths == 0 else min(LONGEST_DELAY, FIRST_DELAY * 2 ** (deaths - 1))


class Crew:
    """Runs workers in processes of their own; for the main thread of the parent."""

    def __init__(
        self,
        workers: int,
        run_worker: Callable[[int], None],
        *,
        is_ready: Callable[[int], bool],
        forget: Callable[[int], None],
        drain_seconds: float,
        close_seconds: float,
    ) -> None:
        """Prepare for so many workers.

        Args:
            workers: How many there are, numbered from 0.
            run_worker: Called in a worker's process with its number; returns when the worker has been stopped. The worker is
                stopped by SIGTERM, which may come more than once, and at once by SIGQUIT.
            is_ready: Tells of a worker, also of one that has died and was not forgotten, whether it got ready.
            forget: Removes what a worker that has died left behind.
            drain_seconds: How long a worker may take to answer what is under way once it is asked to stop.
            close_seconds: How long it may take to end after that, or after SIGQUIT; then it is killed.
        """
        self._workers = range(workers)
        self._run_worker = run_worker
        self._is_ready = is_ready
        self._forget = forget
        self._drain_seconds = drain_seconds
        self._close_seconds = close_seconds
        self._kill_at: float | None = None
        self._signals = (*stop_signals(), STOP_AT_ONCE, signal.SIGCHLD)
        self._restarts = Restarts()
        self._running: dict[int, tuple[int, float]] = {}  # number and start of each worker, by process id
        self._due: dict[int, float] = {}  # when a worker that died is started anew
        self._ready_once: set[int] = set()
        self._in_vain = 0
        self._errors_read, self._errors_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._asked: list[int] = []
        self._stopping = False
        self._failed = False

    def run(self) -> None:
        """Fork the workers, replace those that die, and return when all have been stopped.

        Raises:
            ServingError: A worker could not start the first time, or none can any more; in its own words.
        """
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        for number in self._signals:
            signal.signal(number, self._take_note)
        for worker in self._workers:
            self._start(worker)
        while self._running or self._due:
            self._wait(wakeup_read)
            self._pass_signals_on()
            self._reap()
            self._start_due()
            self._kill_what_is_late()
        if self._failed:
            raise ServingError(self._first_error())

    def _take_note(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._asked.append(number)

    def _wait(self, wakeup: int) -> None:
        """Wait for a signal, or until the next worker is due to be started or killed."""
        moments = [*self._due.values(), *(() if self._kill_at is None else (self._kill_at,))]
        timeout = max(0.0, min(moments) - time.monotonic()) if moments else None
        if select.select([wakeup], [], [], timeout)[0]:
            os.read(wakeup, 4096)

    def _pass_signals_on(self) -> None:
        """Stop the workers when asked for the first time, and at once when asked again."""
        while self._asked:
            number = self._asked.pop(0)
            self._stop(STOP_AT_ONCE if self._stopping or number == STOP_AT_ONCE else signal.SIGTERM)

    def _stop(self, number: signal.Signals) -> None:
        self._stopping = True
        self._due.clear()
        seconds = self._close_seconds + (0 if number == STOP_AT_ONCE else self._drain_seconds)
        self._kill_at = min(time.monotonic() + seconds, self._kill_at or math.inf)
        self._send(number)

    def _kill_what_is_late(self) -> None:
        if self._kill_at is not None and self._running and time.monotonic() >= self._kill_at:
            for process, (worker, _) in self._running.items():
                emit("worker did not stop, and is killed", level="error", worker=worker, pid=process)
            self._send(signal.SIGKILL)
            self._kill_at = None

    def _send(self, number: signal.Signals) -> None:
        for process in self._running:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in [worker for worker, due in self._due.items() if due <= now]:
            del self._due[worker]
            self._start(worker)

    def _start(self, worker: int) -> None:
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)  # a signal must not meet the parent's handlers in the child
        process = os.fork()
        if process:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
            self._running[process] = worker, time.monotonic()
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in self._signals:
                signal.signal(number, signal.SIG_DFL)
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # a terminal's go to the whole group; the parent passes them on
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
            _die_with(parent)
            self._run_worker(worker)
            status = 0
        except BaseException as error:
            what = str(error) if isinstance(error, TidegateError) else f"a worker failed: {type(error).__name__}: {error}"
            os.write(self._errors_write, f"{' '.join(what.split())[:_LONGEST_ERROR]}\n".encode())
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while self._running:
            process, wait_status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            if process in self._running:  # the first process of a container also inherits the children of others
                self._bury(process, os.waitstatus_to_exitcode(wait_status))

    def _bury(self, process: int, exit_code: int) -> None:
        worker, started = self._running.pop(process)
        if self._is_ready(worker):
            self._ready_once.add(worker)
            self._in_vain = 0
        else:
            self._in_vain += 1
        self._forget(worker)
        if self._stopping:
            self._failed = self._failed or exit_code not in (0, -signal.SIGTERM, -STOP_AT_ONCE)
            return
        cannot_start = exit_code > 0 and worker not in self._ready_once  # it said why; whoever is killed did not
        hopeless = self._in_vain >= HOPELESS and not any(map(self._is_ready, self._workers))
        if cannot_start or hopeless:
            emit("worker died", level="error", worker=worker, pid=process, exit_code=exit_code)
            self._failed = True
            self._stop(signal.SIGTERM)
            return
        delay = self._restarts.delay(worker, time.monotonic() - started)
        emit("worker died", level="error", worker=worker, pid=process, exit_code=exit_code, restart_in_seconds=delay)
        self._due[worker] = time.monotonic() + delay

    def _first_error(self) -> str:
        try:
            return os.read(self._errors_read, 65536).decode().splitlines()[0]
        except BlockingIOError:
            return "a worker was killed; its exit code is in the log above"


def is_gone(parent: int) -> bool:
    """Return whether the parent of this process has died.

    When a process of several threads is killed, its children are first given to another of its threads and told so by their
    signal, while `getppid` still names it: its first thread is a zombie by then (Linux, `forget_original_parent`).
    """
    if os.getppid() != parent:
        return True
    try:
        state = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in ("Z", "X")


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if is_gone(parent):
        os._exit(0)
