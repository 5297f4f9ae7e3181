"""Both targets behind one face, for the tests that must hold for either: this machine, and KServe in its two modes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.kubernetes_api.cluster import Cluster
from tidegate.deployment.inference_service import Revision
from tidegate.deployment.kserve.connection import Connection
from tidegate.deployment.kserve.target import KServeTarget
from tidegate.deployment.local.target import LocalTarget
from tidegate.deployment.target import Target
from tidegate.project.cluster import ClusterSection


class Killed(BaseException):
    """The process ends here; nothing in it can catch this."""


@dataclass
class Kill:
    """Kills the caller at the write of that number, before it is done or after."""

    at: int
    after: bool
    writes: int = 0

    def around(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def killing(*arguments: Any, **options: Any) -> Any:
            self.writes += 1
            if self.writes == self.at and not self.after:
                raise Killed
            done = write(*arguments, **options)
            if self.writes == self.at:
                raise Killed
            return done

        return killing


class World(Protocol):
    """Where a target's behaviour is tested."""

    target: Target
    mode: str

    def revision(self, name: str, *, ready: bool = True) -> Revision:
        """Return a revision whose model server becomes ready, or never does."""

    def dying(self, kill: Kill) -> Target:
        """Return the target of another process, which is killed."""

    def edit_percent(self, service: str, percent: int) -> None:
        """Change the canary's share by hand, past Tidegate."""

    def version(self, service: str) -> str:
        """Return what changes with every write."""


@dataclass
class LocalWorld:
    """Stand-in model servers behind a real Envoy."""

    local: Any
    mode: str = "local"
    target: Target = field(init=False)

    def __post_init__(self) -> None:
        self.target = self.local.target

    def revision(self, name: str, *, ready: bool = True) -> Revision:
        return self.local.revision(name if ready else f"{name}-unready", "ok" if ready else "exit")

    def dying(self, kill: Kill) -> Target:
        target = LocalTarget(self.local.workspace)
        target.state.write_service = kill.around(target.state.write_service)
        target.state.delete_service = kill.around(target.state.delete_service)
        return target

    def edit_percent(self, service: str, percent: int) -> None:
        file = self.local.target.state.services / f"{service}.json"
        document = json.loads(file.read_text())
        document["spec"]["canary"][0]["trafficPercent"] = percent
        file.write_text(json.dumps(document))

    def version(self, service: str) -> str:
        return str(self.local.target.state.read_service(service)["metadata"].get("resourceVersion"))


@dataclass
class KServeWorld:
    """KServe's controllers, simulated on a small API server."""

    cluster: Cluster
    mode: str
    target: Target = field(init=False)

    def __post_init__(self) -> None:
        self.target = self.connected(self.cluster.connection())

    def connected(self, connection: Connection, **options: Any) -> KServeTarget:
        return KServeTarget(ClusterSection(store="s3://bucket/tidegate", mode=self.mode), api=connection, **options)

    def revision(self, name: str, *, ready: bool = True) -> Revision:
        if not ready:
            self.cluster.pods.fates[name] = "crash"
        return Revision(name, f"s3://bucket/models/{name.removeprefix('v')}/", {"TIDEGATE_CLOCK": "wall"})

    def dying(self, kill: Kill) -> Target:
        connection = self.cluster.connection()
        for write in ("create", "replace", "delete"):
            setattr(connection, write, kill.around(getattr(connection, write)))
        connection.patient_for = lambda seconds: connection
        return self.connected(connection)

    def edit_percent(self, service: str, percent: int) -> None:
        def change(document: dict[str, Any]) -> None:
            if self.mode == "Knative":
                document["spec"]["predictor"]["canaryTrafficPercent"] = percent
            else:
                document["spec"]["canary"][0]["trafficPercent"] = percent

        self.cluster.edit(service, change)

    def version(self, service: str) -> str:
        metadata = self.cluster.live(service)["metadata"]
        return f"{metadata['uid']} {metadata['generation']}"
