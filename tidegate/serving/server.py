"""Starts the model server: checks ports and package, then runs one worker in this process, or several beside it.

Several workers are forked before ONNX Runtime is loaded, share the ports, and end with this process whatever ends it.
"""

import ctypes
import os
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tidegate.errors import ServingError, TidegateError
from tidegate.packaging.manifest import Manifest
from tidegate.packaging.package import fetch_package, read_manifest
from tidegate.serving.events import emit
from tidegate.serving.metrics import MetricsLayout, MetricsMemory, WorkerMetrics
from tidegate.serving.model import Identity
from tidegate.serving.settings import ServeSettings

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def serve(settings: ServeSettings) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit status.

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
        memory = MetricsMemory(MetricsLayout(manifest), settings.workers)
        emit(
            "starting",
            model=identity.name,
            version=identity.version,
            revision=identity.revision,
            package=str(package),
            variant=f"{manifest.variant.candidate}/{manifest.variant.name}",
            workers=settings.workers,
        )
        crew = _Crew(settings, identity, package, manifest, memory)
        if settings.workers == 1:
            crew.run_worker(0)
            return 0
        return crew.run()


class _Crew:
    """The workers of one server, as their parent process sees them."""

    def __init__(
        self, settings: ServeSettings, identity: Identity, package: Path, manifest: Manifest, memory: MetricsMemory
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._package = package
        self._manifest = manifest
        self._memory = memory
        self._indexes: dict[int, int] = {}  # by process id
        self._stopping = False
        self._status = 0

    def run_worker(self, index: int) -> None:
        """Serve in this process."""
        from tidegate.serving.worker import Worker

        Worker(
            self._settings,
            self._identity,
            package=self._package,
            manifest=self._manifest,
            memory=self._memory,
            index=index,
        ).run()

    def run(self) -> int:
        """Fork the workers, restart those that die after they were ready, and return when all have ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for index in range(self._settings.workers):
            self._start(index)
        while self._indexes:
            if signal.sigwait(_SIGNALS) == signal.SIGCHLD:
                self._reap()
            else:
                self._stop()
        return self._status

    def _start(self, index: int) -> None:
        parent = os.getpid()
        process = os.fork()
        if process:
            self._indexes[process] = index
            return
        status = 1
        try:
            _die_with(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self.run_worker(index)
            status = 0
        except TidegateError as error:
            sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        except BaseException as error:
            emit("worker failed", level="error", worker=index, error=f"{type(error).__name__}: {error}")
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while self._indexes:
            process, wait_status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            index = self._indexes.pop(process)
            was_ready = bool(self._memory.slab(index)[self._memory.layout.ready_at])
            WorkerMetrics(self._memory, index).forget_gauges()
            if self._stopping:
                self._status = self._status or int(wait_status != 0)
                continue
            emit("worker died", level="error", worker=index, pid=process, status=os.waitstatus_to_exitcode(wait_status))
            if was_ready:
                self._start(index)
            else:
                self._status = 1
                self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for process in self._indexes:
            os.kill(process, signal.SIGTERM)


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
