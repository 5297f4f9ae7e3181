"""One worker: loads the model, proves it on the golden sample, answers REST and gRPC, and stops without losing anything."""

import asyncio
import gc
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from tidegate.clock import open_clock
from tidegate.errors import ServingError
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.events import EventHandler, emit
from tidegate.serving.inference_log.log import InferenceLog, LogLimits
from tidegate.serving.metrics.board import WorkerBoard
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.metrics.text import Scrape
from tidegate.serving.model.engine import Engine
from tidegate.serving.model.lookup import FeatureLookup
from tidegate.serving.model.served import Identity, ServedModel
from tidegate.serving.rest.application import HttpApplication
from tidegate.serving.settings import ServeSettings

if TYPE_CHECKING:
    import grpc.aio

_SWITCH_SECONDS = 0.0005  # a request waits no longer for the log's thread


class Worker:
    """Serves one model package from one process.

    Attributes:
        settings: How the server is to run.
        identity: What the model is served as.
        package: The verified package's directory.
        manifest: The package's manifest.
        memory: The metrics of all workers.
        board: What all workers are doing.
        scrape: Answers scrapes for all of them.
        index: Which of the workers this is.
    """

    def __init__(
        self,
        settings: ServeSettings,
        identity: Identity,
        *,
        package: Path,
        manifest: Manifest,
        memory: MetricsMemory,
        board: WorkerBoard,
        scrape: Scrape,
        index: int,
    ) -> None:
        """Take note of what to serve; nothing is opened yet."""
        self.settings = settings
        self.identity = identity
        self.package = package
        self.manifest = manifest
        self.memory = memory
        self.board = board
        self.scrape = scrape
        self.index = index
        self._metrics = WorkerMetrics(memory, index)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; raises a TidegateError if the model cannot be served."""
        begun = perf_counter()
        self.board.enter(self.index)
        sys.setswitchinterval(_SWITCH_SECONDS)
        warnings.filterwarnings("ignore", "overflow encountered in cast")  # validation refuses what overflowed
        engine = Engine(self.package, self.manifest)
        if engine.warning is not None:
            emit("slower than measured", level="warning", worker=self.index, reason=engine.warning)
        difference = engine.replay_golden(self.package)
        lookup = self._open_lookup()
        clock = open_clock(self.settings.clock)
        log = self._open_log()
        try:
            model = ServedModel(
                self.manifest,
                self.identity,
                engine=engine,
                lookup=lookup,
                log=log,
                clock=clock,
                metrics=self._metrics,
                max_rows=self.settings.max_rows,
            )
            emit("model loaded", worker=self.index, golden_difference=difference, seconds=round(perf_counter() - begun, 3))
            uvloop.run(self._serve(model))
        finally:
            self.board.set_ready(self.index, False)
            if log is not None:
                log.close()
        emit("stopped", worker=self.index)

    def _open_lookup(self) -> FeatureLookup | None:
        if self.manifest.features is None:
            return None
        if self.settings.online_store is None:
            raise ServingError(f"package {self.package} looks features up; name the online store with --online-store")
        from tidegate.features.online import OnlineReader

        logging.getLogger("tidegate.features").addHandler(EventHandler())
        reader = OnlineReader.open(self.settings.online_store, self.manifest.features)
        return FeatureLookup(self.manifest.features, self.manifest.signature, reader, self._metrics.count_missing)

    def _open_log(self) -> InferenceLog | None:
        if self.settings.log_store is None:
            return None
        import pyarrow as pa

        from tidegate.storage import open_store

        pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own pools keep some 10 MB that only the log would use
        return InferenceLog(
            open_store(self.settings.log_store),
            self.manifest,
            model=self.identity.name,
            version=self.identity.version,
            revision=self.identity.revision,
            limits=LogLimits(
                rotate_rows=self.settings.log_rotate_rows,
                rotate_seconds=self.settings.log_rotate_seconds,
                queue_rows=self.settings.log_queue_rows,
            ),
            metrics=self._metrics,
        )

    async def _serve(self, model: ServedModel) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        grpc_server = await self._start_grpc(model)
        http_server = self._http_server(model)
        http = asyncio.create_task(http_server.serve())
        await self._wait_until_listening(http)
        gc.collect()
        gc.freeze()
        self._set_ready(model, True)
        emit(
            "ready",
            worker=self.index,
            pid=os.getpid(),
            http_port=self.settings.http_port,
            grpc_port=self.settings.grpc_port,
        )
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((http, stopping), return_when=asyncio.FIRST_COMPLETED)
        self._set_ready(model, False)
        if not stopping.done():
            raise ServingError(f"the HTTP listener on port {self.settings.http_port} ended unexpectedly")
        emit("stopping", worker=self.index)
        http_server.stop()
        await self._drain(http, grpc_server)

    def _set_ready(self, model: ServedModel, ready: bool) -> None:
        model.ready = ready
        self.board.set_ready(self.index, ready)

    def _http_server(self, model: ServedModel) -> Server:
        logging.getLogger("_granian").setLevel(logging.ERROR)
        return Server(
            HttpApplication(model, self.scrape, max_body_bytes=self.settings.max_body_bytes),
            address=self.settings.host,
            port=self.settings.http_port,
            interface=Interfaces.RSGI,
            http=HTTPModes.auto,
            websockets=False,
            backlog=1024,
            log_enabled=False,
        )

    async def _start_grpc(self, model: ServedModel) -> "grpc.aio.Server | None":
        if self.settings.grpc_port == 0:
            return None
        from tidegate.serving.grpc_v2.server import start_grpc

        return await start_grpc(
            model,
            host=self.settings.host,
            port=self.settings.grpc_port,
            shared_port=self.settings.workers > 1,
            max_body_bytes=self.settings.max_body_bytes,
        )

    async def _drain(self, http: "asyncio.Task[None]", grpc_server: "grpc.aio.Server | None") -> None:
        seconds = self.settings.drain_seconds
        drains: list[asyncio.Task[None]] = [http]
        if grpc_server is not None:
            drains.append(asyncio.create_task(grpc_server.stop(seconds)))
        _, unfinished = await asyncio.wait(drains, timeout=seconds)
        if unfinished:
            emit("requests in flight were cut off", level="warning", worker=self.index, seconds=seconds)

    async def _wait_until_listening(self, http: "asyncio.Task[None]") -> None:
        host, port = self.settings.host, self.settings.http_port
        while not http.done():
            try:
                _, writer = await asyncio.open_connection(_reachable(host), port)
            except OSError:
                await asyncio.sleep(0.002)
                continue
            writer.close()
            return
        cause = http.exception() or "it ended at once"
        raise ServingError(f"HTTP port {port} on {host} cannot be opened: {cause}; choose another --http-port")


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
