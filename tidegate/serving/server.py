"""Starts the model server: checks ports and package, then runs one worker in this process, or several beside it.

Several workers are forked before ONNX Runtime is loaded, share the ports, and end with this process whatever ends it.
"""

import ctypes
import os
import select
import signal
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tidegate.errors import ServingError, TidegateError
from tidegate.packaging.format.manifest import Manifest
from tidegate.packaging.format.package import fetch_package, read_manifest
from tidegate.serving.events import emit
from tidegate.serving.metrics.board import WorkerBoard
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.layout import MetricsLayout
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.metrics.text import Scrape
from tidegate.serving.model.served import Identity
from tidegate.serving.settings import ServeSettings

_PR_SET_PDEATHSIG = 1
_LONGEST_ERROR = 2000  # so that a line is written whole, or not at all
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        TidegateError: The server cannot start: a port in use, a corrupt package, an online store that cannot be opened, a
            golden sample that does not replay.
    """
    for option, port in (("--http-port", settings.http_port), ("--grpc-port", settings.grpc_port)):
        _check_port_is_free(settings.host, port, option)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-serve-")))
        package = fetch_package(settings.package, folder / "package")
        manifest = read_manifest(package)
        identity = Identity(
            name=settings.name or manifest.name,
            version=settings.version,
            revision=settings.revision or f"v{settings.version}",
        )
        metrics = folder / "metrics"
        labels = {"model": identity.name, "version": identity.version, "revision": identity.revision}
        memory = MetricsMemory.open(metrics, MetricsLayout(manifest), settings.workers, labels)
        board = WorkerBoard(settings.workers, labels)
        emit(
            "starting",
            model=identity.name,
            version=identity.version,
            revision=identity.revision,
            package=str(package),
            variant=f"{manifest.variant.candidate}/{manifest.variant.name}",
            workers=settings.workers,
        )
        crew = _Crew(settings, identity, package, manifest, memory, board, Scrape(metrics, board))
        if settings.workers == 1:
            crew.run_worker(0)
        else:
            crew.run()


class _Crew:
    """The workers of one server, as their parent process sees them."""

    def __init__(
        self,
        settings: ServeSettings,
        identity: Identity,
        package: Path,
        manifest: Manifest,
        memory: MetricsMemory,
        board: WorkerBoard,
        scrape: Scrape,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._package = package
        self._manifest = manifest
        self._memory = memory
        self._board = board
        self._scrape = scrape
        self._indexes: dict[int, int] = {}  # by process id
        self._errors_read, self._errors_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._asked_to_stop = False
        self._stopping = False
        self._failed = False

    def run_worker(self, index: int) -> None:
        """Serve in this process."""
        from tidegate.serving.worker import Worker

        Worker(
            self._settings,
            self._identity,
            package=self._package,
            manifest=self._manifest,
            memory=self._memory,
            board=self._board,
            scrape=self._scrape,
            index=index,
        ).run()

    def run(self) -> None:
        """Fork the workers, restart those that die after they were ready, and return when all have ended.

        Raises:
            ServingError: A worker could not start, so that the others were stopped; the first one's own words.
        """
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_write)
        for number in _SIGNALS:
            signal.signal(number, self._take_note)
        for index in range(self._settings.workers):
            self._start(index)
        while self._indexes:
            select.select([wakeup_read], [], [])
            os.read(wakeup_read, 4096)
            if self._asked_to_stop and not self._stopping:
                self._stop()
            self._reap()
        if self._failed:
            raise ServingError(self._first_error())

    def _take_note(self, number: int, _frame: object) -> None:
        self._asked_to_stop = self._asked_to_stop or number != signal.SIGCHLD

    def _start(self, index: int) -> None:
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # a signal must not meet the parent's handlers in the child
        process = os.fork()
        if process:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._indexes[process] = index
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            _die_with(parent)
            self.run_worker(index)
            status = 0
        except BaseException as error:
            what = str(error) if isinstance(error, TidegateError) else f"a worker failed: {type(error).__name__}: {error}"
            os.write(self._errors_write, f"{' '.join(what.split())[:_LONGEST_ERROR]}\n".encode())
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while self._indexes:
            process, wait_status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            index = self._indexes.pop(process)
            was_ready = self._board.is_ready(index)
            self._board.forget(index)
            WorkerMetrics(self._memory, index).forget_gauges()
            exit_code = os.waitstatus_to_exitcode(wait_status)
            if self._stopping:
                self._failed = self._failed or exit_code not in (0, -signal.SIGTERM)
                continue
            emit("worker died", level="error", worker=index, pid=process, exit_code=exit_code)
            if was_ready or exit_code == 0:
                self._start(index)
            else:
                self._failed = True
                self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for process in self._indexes:
            os.kill(process, signal.SIGTERM)

    def _first_error(self) -> str:
        try:
            return os.read(self._errors_read, 65536).decode().splitlines()[0]
        except BlockingIOError:
            return "a worker was killed; its exit code is in the log above"


def _check_port_is_free(host: str, port: int, option: str) -> None:
    if port == 0 and option == "--grpc-port":
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise ServingError(f"port {port} on {host} cannot be opened: {error.strerror}; choose another {option}") from error


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(0)
