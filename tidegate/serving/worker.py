"""One worker: opens the model, answers REST and gRPC on one event loop, follows the plan, and stops without losing anything."""

import asyncio
import gc
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from tidegate.clock import open_clock
from tidegate.serving.events import background_lines, emit
from tidegate.serving.metrics.board import WorkerBoard
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.memory import SUFFIX, MetricsMemory
from tidegate.serving.metrics.text import Scrape
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.model.loading import ModelLoader
from tidegate.serving.model.served import ServedModel
from tidegate.serving.repository.plan import Plan, PlanFolder, Version
from tidegate.serving.rest.listener import RestListener, open_rest
from tidegate.serving.settings import ServeSettings
from tidegate.serving.stopping import StopSignals

if TYPE_CHECKING:
    from tidegate.serving.grpc_v2.listener import GrpcListener
    from tidegate.serving.repository.membership import Membership

_SWITCH_SECONDS = 0.0005  # a request waits no longer for the log's thread


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workers of a server have in common.

    Attributes:
        settings: How the server is to run.
        name: What the model is called in requests.
        registered_name: What a registry calls it.
        folder: The server's temporary directory, which has the folders `metrics` and `versions`.
        plan: What is to be served.
        board: What the workers are doing.
    """

    settings: ServeSettings
    name: str
    registered_name: str
    folder: Path
    plan: PlanFolder
    board: WorkerBoard

    @property
    def metrics(self) -> Path:
        """Where the workers count."""
        return self.folder / "metrics"

    @property
    def versions(self) -> Path:
        """Where versions are fetched to."""
        return self.folder / "versions"

    def forget(self, worker: int) -> None:
        """Remove what a worker that has died left behind: what it said of itself, and its gauges."""
        self.plan.forget(worker)
        self.board.forget(worker)
        for file in self.metrics.glob(f"*{SUFFIX}"):
            WorkerMetrics(MetricsMemory.load(file), worker).forget_gauges()


class Worker:
    """Serves from one process."""

    def __init__(self, shared: Shared, index: int) -> None:
        """Be the worker of that number; nothing is opened yet."""
        self._shared = shared
        self._settings = shared.settings
        self._index = index
        self._endpoint = Endpoint(shared.name)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; raises a TidegateError if the model cannot be served."""
        with background_lines():
            self._run()
            emit("stopped", worker=self._index)

    def _run(self) -> None:
        settings = self._settings
        self._shared.board.enter(self._index)
        sys.setswitchinterval(_SWITCH_SECONDS)
        warnings.filterwarnings("ignore", "overflow encountered in cast")  # validation refuses what overflowed
        clock = open_clock(settings.clock)
        self._loader = ModelLoader(settings, self._shared.name, clock=clock, metrics=self._shared.metrics, worker=self._index)
        serving = self._first_plan().serving
        if serving is not None:
            self._endpoint.swap(self._open(serving))
        uvloop.run(self._serve(serving))
        self._loader.close()

    def _open(self, version: Version) -> ServedModel:
        return self._loader.open(Path(version.package), version.name)

    def _first_plan(self) -> Plan:
        """Return the plan, without the version that was next when whoever led its loading died."""
        folder = self._shared.plan
        with folder.turn() as mine:
            plan = folder.plan()
            if mine and plan.next is not None:
                plan = Plan(plan.generation + 1, plan.serving)
                folder.write(plan)
        return plan

    async def _serve(self, serving: Version | None) -> None:
        try:
            await self._answer(serving)
        finally:
            self._shared.board.set_ready(self._index, False)
            model = self._endpoint.swap(None)
            if model is not None:
                await asyncio.to_thread(model.close)

    async def _answer(self, serving: Version | None) -> None:
        """Answer until told to stop, and then what is under way."""
        settings = self._settings
        stop = StopSignals(alone=settings.workers == 1)
        membership = self._membership(serving)
        grpc = await self._open_grpc()
        rest = await self._open_rest()  # last, since probes ask it whether the server is ready
        gc.collect()
        gc.freeze()
        self._endpoint.watch(self._show_readiness)
        self._show_readiness()
        if membership is not None:
            membership.start()
        emit("ready", worker=self._index, pid=os.getpid(), http_port=settings.http_port, grpc_port=settings.grpc_port)
        await stop.first.wait()
        emit("stopping", worker=self._index)
        self._endpoint.drain()
        rest.is_draining = True
        await stop.unless_at_once(asyncio.sleep(settings.drain_delay_seconds))
        await stop.unless_at_once(self._drain(rest, grpc, membership))

    def _show_readiness(self) -> None:
        self._shared.board.set_ready(self._index, self._endpoint.ready)

    def _membership(self, serving: Version | None) -> "Membership | None":
        settings, shared = self._settings, self._shared
        if settings.repository is None:
            return None
        from tidegate.serving.repository.membership import Membership
        from tidegate.serving.repository.packages import PackageSource

        return Membership(
            self._endpoint,
            PackageSource(settings.repository, shared.registered_name, shared.versions, settings.verify_key),
            shared.plan,
            worker=self._index,
            workers=settings.workers,
            open_model=self._open,
            serving=serving,
            patience=settings.request_seconds,
        )

    def _count_connections(self, change: int) -> None:
        self._shared.board.count_connections(self._index, change)

    async def _open_rest(self) -> RestListener:
        scrape = Scrape(self._shared.metrics, self._shared.board)
        return await open_rest(self._endpoint, self._settings, scrape, self._count_connections)

    async def _open_grpc(self) -> "GrpcListener | None":
        if self._settings.grpc_port == 0:
            return None
        from tidegate.serving.grpc_v2.listener import open_grpc

        return await open_grpc(self._endpoint, self._settings, self._count_connections)

    async def _drain(self, rest: RestListener, grpc: "GrpcListener | None", membership: "Membership | None") -> None:
        seconds = self._settings.drain_seconds
        drains = [rest.drain(seconds)] if grpc is None else [rest.drain(seconds), grpc.drain(seconds)]
        leaving = asyncio.sleep(0) if membership is None else membership.stop(seconds)
        *in_time, _ = await asyncio.gather(*drains, leaving)
        if not all(in_time):
            emit("requests in flight were cut off", level="warning", worker=self._index, seconds=seconds)
