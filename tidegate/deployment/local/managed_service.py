"""One InferenceService under the supervisor: which model servers it needs, where its traffic may go, and how it fares."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.local.envoy import Envoy
from tidegate.deployment.local.envoy_config import Backend, Route
from tidegate.deployment.local.model_server import ModelServer, ServerSpec
from tidegate.deployment.local.ports import Ports


class ManagedService:
    """Brings one service from what runs to what is desired, one safe step at each `step`.

    A new stable revision gets the traffic once it was ready, a canary likewise; until then the route stays as it is. What the
    route no longer needs is stopped when nothing is in flight to it.
    """

    def __init__(self, name: str, *, ports: Ports, envoy: Envoy, new_server: Callable[[ServerSpec], ModelServer]) -> None:
        """Manage the service called `name`; nothing runs before the first `step`."""
        self.name = name
        self._ports = ports
        self._envoy = envoy
        self._new_server = new_server
        self._servers: dict[str, ModelServer] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._desired: Service | None = None
        self._version: str | None = None
        self._problem = ""
        self._wanted: Route | None = None

    def desire(self, service: Service, version: str | None) -> None:
        """Take over a new desired state."""
        self._desired, self._version, self._problem = service, version, ""

    def report(self, problem: str) -> None:
        """Keep the present state, and say why it is not the desired one."""
        self._problem = problem

    def step(self) -> None:
        """Take the next step towards the desired state; raises DeploymentError if there is no free port."""
        self._stopping = {instance: task for instance, task in self._stopping.items() if not task.done()}
        if self._desired is None:
            return
        for revision in self._desired_revisions():
            self._start_if_missing(revision)
        self._wanted = self._next_route(self._desired)
        self._envoy.want(self._wanted, self._listener_port())
        desired = {self._instance(revision) for revision in self._desired_revisions()}
        for instance in set(self._servers) - desired - self._envoy.instances(self.name):
            self._stop(instance)

    def give_up(self) -> bool:
        """Take the next step towards a service that is gone, and tell whether nothing of it is left."""
        self._desired = self._wanted = None
        self._envoy.forget(self.name)
        for instance in list(self._servers):
            self._stop(instance)
        if not all(task.done() for task in self._stopping.values()):
            return False
        self._ports.forget(f"server/{self.name}/")
        return True

    async def stop(self) -> None:
        """End every model server, and wait for that."""
        for instance in list(self._servers):
            self._stop(instance)
        await asyncio.gather(*self._stopping.values())

    def settled(self) -> bool:
        """Tell whether the desired state is wholly in force."""
        if self._desired is None or self._problem or self._wanted is None:
            return False
        desired = {self._instance(revision) for revision in self._desired_revisions()}
        return (
            desired == set(self._servers)
            and not self._stopping
            and all(server.ready for server in self._servers.values())
            and self._wanted == self._final_route(self._desired)
            and self._envoy.settled(self.name)
        )

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        return {
            "name": self.name,
            "url": f"http://127.0.0.1:{self._ports.listener(self.name)}" if self._desired else "",
            "resource_version": self._version,
            "settled": self.settled(),
            "reason": self._problem or ("" if self._envoy.listening(self.name) else "Envoy does not listen yet"),
            "revisions": [self._revision_status(revision) for revision in self._desired_revisions()],
            "draining": sorted(
                {*self._servers, *self._stopping} - {self._instance(revision) for revision in self._desired_revisions()}
            ),
        }

    def _desired_revisions(self) -> list[Revision]:
        if self._desired is None:
            return []
        return [self._desired.stable, *([self._desired.canary] if self._desired.canary else [])]

    def _start_if_missing(self, revision: Revision) -> None:
        instance = self._instance(revision)
        if instance not in self._servers and instance not in self._stopping:
            spec = ServerSpec(backend=self._backend(revision), storage_uri=revision.storage_uri, env=revision.env)
            self._servers[instance] = self._new_server(spec)
            self._servers[instance].start()

    def _stop(self, instance: str) -> None:
        self._stopping[instance] = asyncio.create_task(self._servers.pop(instance).stop())

    def _next_route(self, desired: Service) -> Route:
        final = self._final_route(desired)
        stable = final.stable
        if self._wanted is not None and not self._admitted(stable):
            stable = self._wanted.stable
        if final.canary is None or final.canary == stable or not self._admitted(final.canary):
            return Route(self.name, stable)
        return Route(self.name, stable, final.canary, final.percent)

    def _admitted(self, backend: Backend) -> bool:
        server = self._servers.get(backend.instance)
        return server is not None and server.admitted

    def _final_route(self, desired: Service) -> Route:
        canary = None if desired.canary is None else self._backend(desired.canary)
        return Route(self.name, self._backend(desired.stable), canary, desired.canary_percent)

    def _listener_port(self) -> int:
        """Return the listener's port, another one if Envoy could not take the last."""
        if self._envoy.cannot_listen(self.name):
            self._ports.forget(f"listener/{self.name}")
        return self._ports.listener(self.name)

    def _backend(self, revision: Revision) -> Backend:
        instance = self._instance(revision)
        return Backend(
            service=self.name,
            revision=revision.name,
            instance=instance,
            http_port=self._ports.server(self.name, instance, "http"),
            grpc_port=self._ports.server(self.name, instance, "grpc"),
        )

    @staticmethod
    def _instance(revision: Revision) -> str:
        settings = json.dumps([revision.storage_uri, revision.env], sort_keys=True)
        return f"{revision.name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"

    def _revision_status(self, revision: Revision) -> dict[str, Any]:
        server = self._servers.get(self._instance(revision))
        canary = revision is not self._desired_revisions()[0]
        return {
            "name": revision.name,
            "role": "canary" if canary else "stable",
            "ready": server is not None and server.ready,
            "traffic_percent": self._traffic(self._instance(revision)),
            "reason": "not started yet" if server is None else server.reason,
            "failed_starts": 0 if server is None else server.failed_starts,
            "pid": None if server is None else server.pid,
            "http_port": self._ports.server(self.name, self._instance(revision), "http"),
            "grpc_port": self._ports.server(self.name, self._instance(revision), "grpc"),
        }

    def _traffic(self, instance: str) -> int:
        route = self._envoy.in_force(self.name)
        if route is None:
            return 0
        if route.canary is not None and route.canary.instance == instance:
            return route.percent
        return 100 - route.percent if route.stable.instance == instance else 0
