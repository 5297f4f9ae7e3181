"""The supervisor: the one process that makes what runs on this machine match the desired InferenceServices."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tidegate.deployment.inference_service import Service
from tidegate.deployment.local.envoy import Envoy, envoy_binary
from tidegate.deployment.local.managed_service import ManagedService
from tidegate.deployment.local.model_server import ModelServer, ServerCommand, ServerSpec, tidegate_serve
from tidegate.deployment.local.ports import Ports
from tidegate.deployment.local.processes import kill_supervised, started_at
from tidegate.deployment.local.state import Document, LocalState
from tidegate.errors import DeploymentError

_TICK_SECONDS = 0.1
_TICKS_BETWEEN_CHECKS = 10


def run_supervisor(
    workspace: Path, *, server_command: ServerCommand = tidegate_serve, on_ready: Callable[[], None] = lambda: None
) -> None:
    """Supervise the local target of `workspace` until SIGTERM or SIGINT, then end everything that was started.

    Args:
        workspace: Its state lies in `workspace/local`.
        server_command: What runs a revision.
        on_ready: Called once the supervisor accepts services.

    Raises:
        DeploymentError: The workspace cannot be written, a supervisor runs already, or Envoy is missing or does not start.
    """
    state = LocalState(workspace)
    state.create()
    envoy_binary()
    with state.supervisor_lock():
        kill_supervised(state.root)
        asyncio.run(_Supervisor(state, server_command).run(on_ready))


class _Supervisor:
    def __init__(self, state: LocalState, server_command: ServerCommand) -> None:
        self._state = state
        self._command = server_command
        self._ports = Ports(state.root / "ports.json")
        self._ports.forget_taken()
        self._envoy = Envoy(state, self._ports.admin())
        self._services: dict[str, ManagedService] = {}
        self._deleted: set[str] = set()
        self._seen: dict[str, tuple[int, int]] = {}
        self._statuses: dict[str, Document] = {}
        self._problem = ""

    async def run(self, on_ready: Callable[[], None]) -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        try:
            self._state.delete_statuses()
            await self._envoy.start()
            self._announce()
            on_ready()
            ticks = 0
            while not stopping.is_set():
                await self._tick(check=ticks % _TICKS_BETWEEN_CHECKS == 0)
                ticks += 1
                await _pause(stopping)
        finally:
            await self._end()

    async def _tick(self, *, check: bool) -> None:
        self._read_services()
        self._step_services()
        if check or self._problem or not all(service.settled() for service in self._services.values()):
            await self._sync_envoy()
        self._write_statuses()

    async def _sync_envoy(self) -> None:
        try:
            await self._envoy.restart_if_dead()
            await self._envoy.sync()
            self._problem = ""
        except DeploymentError as error:
            self._problem = str(error)

    def _read_services(self) -> None:
        names = set(self._state.service_names())
        for name in sorted(names - self._services.keys()):
            self._services[name] = ManagedService(name, ports=self._ports, envoy=self._envoy, new_server=self._new_server)
        for name in names - self._deleted:
            self._read_service(name)
        self._deleted |= self._services.keys() - names

    def _step_services(self) -> None:
        for name, service in list(self._services.items()):
            if name in self._deleted:
                self._give_up(name, service)
                continue
            try:
                service.step()
            except DeploymentError as error:
                service.report(str(error))

    def _give_up(self, name: str, service: ManagedService) -> None:
        if service.give_up():
            del self._services[name]
            self._seen.pop(name, None)
            self._statuses.pop(name, None)
            self._deleted.discard(name)
            self._state.delete_status(name)

    def _read_service(self, name: str) -> None:
        try:
            found = (self._state.services / f"{name}.json").stat()
            if self._seen.get(name) == (found.st_mtime_ns, found.st_ino):
                return
            self._seen[name] = (found.st_mtime_ns, found.st_ino)
            document = self._state.read_service(name)
            if document is not None:
                service = Service.from_document(document)
                self._services[name].desire(service, document["metadata"].get("resourceVersion"))
        except FileNotFoundError:
            return
        except DeploymentError as error:
            self._services[name].report(str(error))

    def _new_server(self, spec: ServerSpec) -> ModelServer:
        log = self._state.logs / f"{spec.backend.service}-{spec.backend.revision}.log"
        return ModelServer(spec, state=self._state.root, log=log, command=self._command)

    def _write_statuses(self) -> None:
        for name, service in self._services.items():
            status = service.status()
            if self._problem:
                status |= {"settled": False, "reason": self._problem}
            if self._statuses.get(name) != status:
                self._state.write_status(name, status)
                self._statuses[name] = status

    def _announce(self) -> None:
        pid = os.getpid()
        self._state.write_supervisor({"pid": pid, "started_at": started_at(pid), "admin_port": self._envoy.admin.port})

    async def _end(self) -> None:
        await asyncio.gather(*(service.stop() for service in self._services.values()))
        await self._envoy.stop()
        kill_supervised(self._state.root)
        self._state.delete_supervisor()


async def _pause(stopping: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), _TICK_SECONDS)
