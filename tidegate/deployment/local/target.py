"""The local target: writes the InferenceServices that should run on this machine, and reads what does. Starts no process."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.deployment.inference_service import Service
from tidegate.deployment.local.state import LocalState
from tidegate.deployment.target import RevisionStatus, ServiceStatus
from tidegate.errors import DeploymentError

_NOT_RUNNING = "the local target is not running; start it with `tidegate local up --detach`"
_HOPELESS_STARTS = 3
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """The model server of one revision; `pid` is None while it is being started again."""

    revision: str
    pid: int | None
    http_port: int


class LocalTarget:
    """The InferenceServices of one workspace; the supervisor that `tidegate local up` starts brings them about.

    target = LocalTarget(project.paths.workspace)
    target.apply(Service(name="flights-late", namespace="default", stable=revision))
    url = target.wait("flights-late", timeout=60).url
    """

    def __init__(self, workspace: Path) -> None:
        """Look at the local target of `workspace`; nothing is created before the first `apply`."""
        self.state = LocalState(workspace)

    def apply(self, service: Service) -> None:
        """Make `service` the desired state, atomically; applying it twice changes nothing. Raises DeploymentError."""
        self.state.write_service(service.to_document())

    def get(self, name: str) -> Service | None:
        """Return the desired state of the service called `name`, or None; raises DeploymentError on a corrupt document."""
        document = self.state.read_service(name)
        return None if document is None else Service.from_document(document)

    def services(self) -> list[str]:
        """Return the names of the desired services, sorted."""
        return self.state.service_names()

    def running(self) -> bool:
        """Tell whether a supervisor runs."""
        return self.state.read_supervisor() is not None

    def admin_port(self) -> int:
        """Return the port of Envoy's admin interface; raises DeploymentError if no supervisor runs."""
        record = self.state.read_supervisor()
        if record is None:
            raise DeploymentError(_NOT_RUNNING)
        return int(record["admin_port"])

    def servers(self, name: str) -> list[ServerProcess]:
        """Return the model servers of the service's revisions; raises DeploymentError if no such service is known."""
        self._require_known(name)
        status = self.state.read_status(name) or {}
        return [
            ServerProcess(revision=entry["name"], pid=entry["pid"], http_port=entry["http_port"])
            for entry in status.get("revisions", [])
        ]

    def status(self, name: str) -> ServiceStatus:
        """Return what runs now; raises DeploymentError if no such service is known."""
        return self._read(name)[0]

    def wait(self, name: str, *, revision: str | None = None, timeout: float) -> ServiceStatus:
        """Wait until the desired state is settled, or only `revision` is ready.

        Raises:
            DeploymentError: After `timeout` seconds, or before if it is hopeless: no supervisor runs, the service or the
                revision is not desired, the document is corrupt, or a model server ended three times in a row before it
                was ready. Names the cause.
        """
        deadline = time.monotonic() + timeout
        while True:
            status, record = self._read(name)
            if _arrived(status, record, revision):
                return status
            self._raise_if_hopeless(name, revision, record)
            if time.monotonic() > deadline:
                raise DeploymentError(f"service {name} is not {_aim(revision)} after {timeout:g} s: {_cause(record, revision)}")
            time.sleep(_POLL_SECONDS)

    def delete(self, name: str) -> None:
        """Remove the service; removing what is not there is no error."""
        self.state.delete_service(name)

    def _read(self, name: str) -> tuple[ServiceStatus, dict[str, Any]]:
        self._require_known(name)
        desired = self.state.read_service(name)
        record = self.state.read_status(name) or {}
        running = self.running()
        current = desired is not None and record.get("resource_version") == desired["metadata"].get("resourceVersion")
        revisions = tuple(
            RevisionStatus(
                name=entry["name"],
                role=entry["role"],
                ready=entry["ready"] and running,
                traffic_percent=entry["traffic_percent"] if running else 0,
                reason=entry["reason"] if running else _NOT_RUNNING,
            )
            for entry in record.get("revisions", [])
        )
        settled = bool(record.get("settled")) and current and running
        status = ServiceStatus(name=name, url=record.get("url", ""), revisions=revisions, settled=settled)
        return status, record if current else {}

    def _require_known(self, name: str) -> None:
        known = self.state.service_names()
        if name not in known:
            raise DeploymentError(f"service {name!r} is not known; known: {', '.join(known) or 'none'}")

    def _raise_if_hopeless(self, name: str, revision: str | None, record: dict[str, Any]) -> None:
        if not self.running():
            raise DeploymentError(_NOT_RUNNING)
        service = self.get(name)
        if service is None:
            raise DeploymentError(f"service {name!r} was deleted")
        desired = [wanted.name for wanted in (service.stable, service.canary) if wanted is not None]
        if revision is not None and revision not in desired:
            raise DeploymentError(f"service {name} has no revision {revision!r}; it has {', '.join(desired)}")
        for entry in record.get("revisions", []):
            awaited = entry["name"] in desired and revision in (None, entry["name"])
            if awaited and not entry["ready"] and entry["failed_starts"] >= _HOPELESS_STARTS:
                raise DeploymentError(f"service {name} is not {_aim(revision)}: {_cause(record, entry['name'])}")


def _arrived(status: ServiceStatus, record: dict[str, Any], revision: str | None) -> bool:
    if revision is None:
        return status.settled
    found = status.revision(revision)
    return bool(record) and found is not None and found.ready


def _aim(revision: str | None) -> str:
    return "settled" if revision is None else f"ready with revision {revision}"


def _cause(record: dict[str, Any], revision: str | None) -> str:
    reasons = [
        f"revision {entry['name']}: {entry['reason']}"
        for entry in record.get("revisions", [])
        if entry["reason"] and revision in (None, entry["name"])
    ]
    return "; ".join(reasons or [record.get("reason") or "the supervisor has not taken it up yet"])
