"""The Target protocol: where InferenceServices run, a cluster or this machine. A target is told what should be, never how."""

from dataclasses import dataclass
from typing import Literal, Protocol

from tidegate.deployment.inference_service import Service


@dataclass(frozen=True, slots=True)
class RevisionStatus:
    """How one revision fares: its share of the traffic as the proxy applies it now, and why it is not ready, if so."""

    name: str
    role: Literal["stable", "canary"]
    ready: bool
    traffic_percent: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What the target really runs, as against what was asked for."""

    name: str
    url: str  # where clients send requests, such as http://127.0.0.1:18080
    revisions: tuple[RevisionStatus, ...]
    settled: bool  # the last desired state is wholly in force: revisions ready, traffic as asked, nothing draining

    def revision(self, name: str) -> RevisionStatus | None:
        """Return the status of the revision called `name`, if it runs."""
        return next((revision for revision in self.revisions if revision.name == name), None)


class Target(Protocol):
    """Runs InferenceServices."""

    def apply(self, service: Service) -> None:
        """Make `service` the desired state, atomically; applying it twice changes nothing. Raises DeploymentError."""

    def get(self, name: str) -> Service | None:
        """Return the desired state of the service called `name`, or None if there is none."""

    def status(self, name: str) -> ServiceStatus:
        """Return what runs now; raises DeploymentError if no such service is known."""

    def wait(self, name: str, *, revision: str | None = None, timeout: float) -> ServiceStatus:
        """Wait until the desired state is settled (or only `revision` is ready); raises DeploymentError with the cause."""

    def delete(self, name: str) -> None:
        """Remove the service; removing what is not there is no error."""
