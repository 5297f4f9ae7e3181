"""Starts the model server: checks ports and package, then runs one worker in this process, or several beside it.

Several workers are forked before the graph is loaded, since ONNX Runtime's threads would not survive it: what the processes
share is code. The kernel spreads connections among them, and they end with this process, whatever ends it.
"""

import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tidegate.errors import ServingError
from tidegate.packaging.format.manifest import Manifest
from tidegate.packaging.format.package import Trust, fetch_package, package_digest, read_manifest
from tidegate.packaging.running.gpu import CUDA, TENSORRT
from tidegate.serving.events import emit
from tidegate.serving.metrics.board import WorkerBoard
from tidegate.serving.repository.plan import Plan, PlanFolder, Version
from tidegate.serving.settings import ServeSettings
from tidegate.serving.stopping import MEANINGLESS, stop_signals

_FIRST_GENERATION = 1
_CLOSE_SECONDS = 3.0  # beside what the log is given
_LAST_STANDARD = 2


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        TidegateError: The server cannot start: a port in use, a corrupt or unsigned package, an online store that cannot be
            opened, a golden sample that does not replay.
    """
    _fill_standard_descriptors()
    for option, port in (("--http-port", settings.http_port), ("--grpc-port", settings.grpc_port)):
        _check_port_is_free(settings.host, port, option)
    with _ended_by_signals(), ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(_temporary_folder()))
        package = fetch_package(settings.package, folder / "package", trust=_trust(settings))
        manifest = read_manifest(package)
        _check_workers(settings, manifest)
        name = settings.name or manifest.name
        _start(settings, name, package, manifest, folder)


def _start(settings: ServeSettings, name: str, package: Path, manifest: Manifest, folder: Path) -> None:
    from tidegate.serving.crew import Crew, is_gone
    from tidegate.serving.worker import Shared, Worker

    for subfolder in ("plan", "metrics", "versions"):
        (folder / subfolder).mkdir()
    plan = PlanFolder(folder / "plan")
    plan.write(Plan(_FIRST_GENERATION, Version(settings.version, package_digest(package), str(package.resolve()))))
    revision = settings.revision or f"v{settings.version}"
    board = WorkerBoard(settings.workers, {"model": name, "version": settings.version, "revision": revision})
    shared = Shared(settings, name, manifest.name, folder, plan, board)
    emit(
        "starting",
        model=name,
        version=settings.version,
        revision=revision,
        package=str(package),
        variant=f"{manifest.variant.candidate}/{manifest.variant.name}",
        workers=settings.workers,
    )
    if settings.workers == 1:
        if os.getpid() == 1:  # of a container, whose orphans become its children: nobody else would reap them
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        Worker(shared, 0).run()
        return

    def run_worker(index: int) -> None:
        parent = os.getppid()
        Worker(shared, index).run()
        if is_gone(parent):  # it was killed, and can no longer clean up
            shutil.rmtree(folder, ignore_errors=True)

    gc.freeze()  # a collection in a worker would copy the pages that all of them share
    Crew(
        settings.workers,
        run_worker,
        is_ready=board.is_ready,
        forget=shared.forget,
        drain_seconds=settings.drain_delay_seconds + settings.drain_seconds,
        close_seconds=settings.drain_seconds + _CLOSE_SECONDS,
    ).run()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End with the usual exit code while there is nothing to drain yet, also as the first process of a container."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in stop_signals()}
    before |= {number: signal.signal(number, signal.SIG_IGN) for number in MEANINGLESS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fill_standard_descriptors() -> None:
    """Open what was closed of the standard streams: a socket in their place would be written to, and never be closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        pass
    os.close(descriptor)


def _temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix="tidegate-serve-")
    except OSError as error:
        raise ServingError(
            f"no temporary directory can be made: {error.strerror}; set TMPDIR to a place that is writable"
        ) from error


def _trust(settings: ServeSettings) -> Trust | None:
    if settings.verify_key is None:
        return None
    from tidegate.packaging.format.signing import trusting

    return trusting(Path(settings.verify_key), where=f"package {settings.package}")


def _check_workers(settings: ServeSettings, manifest: Manifest) -> None:
    gpu = next((name for name in manifest.runtime.providers if name in (CUDA, TENSORRT)), None)
    if gpu is not None and settings.workers > 1:
        raise ServingError(
            f"workers: {settings.workers}: each would load the model on the GPU anew, since it runs on {gpu}; use --workers 1"
        )


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
