"""One worker: loads the model, proves it on the golden sample, answers REST and gRPC, and stops without losing anything."""

import asyncio
import gc
import logging
import os
import signal
from pathlib import Path
from time import perf_counter

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from tidegate.clock import open_clock
from tidegate.errors import ServingError
from tidegate.packaging.manifest import Manifest
from tidegate.serving.engine import Engine
from tidegate.serving.events import emit
from tidegate.serving.http import HttpApplication
from tidegate.serving.inference_log import InferenceLog
from tidegate.serving.lookup import FeatureLookup
from tidegate.serving.metrics import MetricsMemory, WorkerMetrics
from tidegate.serving.model import Identity, ServedModel
from tidegate.serving.settings import ServeSettings


class Worker:
    """Serves one model package from one process.

    Attributes:
        settings: How the server is to run.
        identity: What the model is served as.
        package: The verified package's directory.
        manifest: The package's manifest.
        memory: The metrics of all workers.
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
        index: int,
    ) -> None:
        """Take note of what to serve; nothing is opened yet."""
        self.settings = settings
        self.identity = identity
        self.package = package
        self.manifest = manifest
        self.memory = memory
        self.index = index
        self._metrics = WorkerMetrics(memory, index)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; raises a TidegateError if the model cannot be served."""
        begun = perf_counter()
        engine = Engine(self.package, self.manifest)
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
            self._metrics.set_ready(False)
            if log is not None:
                log.close()
        emit("stopped", worker=self.index)

    def _open_lookup(self) -> FeatureLookup | None:
        if self.manifest.features is None:
            return None
        if self.settings.online_store is None:
            raise ServingError(f"package {self.package} looks features up; name the online store with --online-store")
        from tidegate.features.online import OnlineReader

        reader = OnlineReader.open(self.settings.online_store, self.manifest.features)
        return FeatureLookup(self.manifest.features, self.manifest.signature, reader, self._metrics.count_missing)

    def _open_log(self) -> InferenceLog | None:
        if self.settings.log_store is None:
            return None
        from tidegate.storage.store import open_store

        return InferenceLog(
            open_store(self.settings.log_store),
            self.manifest,
            model=self.identity.name,
            version=self.identity.version,
            revision=self.identity.revision,
            limits=self.settings.log_limits,
            metrics=self._metrics,
        )

    async def _serve(self, model: ServedModel) -> None:
        settings = self.settings
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        application = HttpApplication(model, self.memory, max_body_bytes=settings.max_body_bytes)
        server = Server(
            application,
            address=settings.host,
            port=settings.http_port,
            interface=Interfaces.RSGI,
            http=HTTPModes.auto,
            websockets=False,
            backlog=1024,
            log_enabled=False,
        )
        logging.getLogger("_granian").setLevel(logging.ERROR)
        grpc_server = None
        if settings.grpc_port:
            from tidegate.serving.grpc_v2.server import start_grpc

            grpc_server = await start_grpc(
                model,
                host=settings.host,
                port=settings.grpc_port,
                shared_port=settings.workers > 1,
                max_body_bytes=settings.max_body_bytes,
            )
        http = asyncio.create_task(server.serve())
        stopping = asyncio.create_task(stop.wait())
        await self._wait_until_listening(http)
        gc.collect()
        gc.freeze()
        model.ready = True
        self._metrics.set_ready(True)
        emit("ready", worker=self.index, pid=os.getpid(), http_port=settings.http_port, grpc_port=settings.grpc_port)
        await asyncio.wait((http, stopping), return_when=asyncio.FIRST_COMPLETED)
        model.ready = False
        self._metrics.set_ready(False)
        if not stopping.done():
            raise ServingError(f"the HTTP listener on port {settings.http_port} ended unexpectedly")
        emit("stopping", worker=self.index)
        server.stop()
        if grpc_server is not None:
            await grpc_server.stop(settings.drain_seconds)
        _, unfinished = await asyncio.wait((http,), timeout=settings.drain_seconds)
        if unfinished:
            emit("requests in flight were cut off", level="warning", worker=self.index, seconds=settings.drain_seconds)

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
