"""What the cluster runs of one service, in the same words for both dialects."""

from dataclasses import dataclass
from typing import Protocol

from tidegate.deployment.inference_service import Service
from tidegate.deployment.kserve.connection import Connection, Document


@dataclass(frozen=True, slots=True)
class Backend:
    """What serves one revision.

    Attributes:
        name: The Deployment and Service of that name in Standard mode; the Knative Revision in Knative mode.
        revision: The Tidegate revision that its pods were made from.
        template: The digest of that predictor (`applied.py`).
        ready: It answers requests, with all the replicas it was told to have.
        reason: Why it is not ready, as its own conditions say.
        percent: Its share of the traffic, as the gateway or Knative was last told.
        pods: The labels by which its pods are found.
    """

    name: str
    revision: str
    template: str
    ready: bool
    reason: str
    percent: int
    pods: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class View:
    """One look at a service.

    Attributes:
        backends: What serves its revisions, the newest last; what is being removed is still among them.
        routed: The percentages are in force, and not only asked for.
        reason: Why they are not.
        unsplittable: Why this cluster can never split traffic, if it cannot (Standard).
        created: The newest backend (Knative).
        rolled_out: The backend that KServe pins the rest of the traffic to, `latestRolledoutRevision` (Knative).
        previous: The one that it goes back to, `previousRolledoutRevision` (Knative).
    """

    backends: tuple[Backend, ...]
    routed: bool
    reason: str = ""
    unsplittable: str = ""
    created: Backend | None = None
    rolled_out: Backend | None = None
    previous: Backend | None = None

    def of_template(self, template: str) -> Backend | None:
        """Return the newest backend whose pods are made from this predictor."""
        return next((backend for backend in reversed(self.backends) if backend.template == template), None)

    def percent_of(self, template: str) -> int:
        """Return the share of the traffic that goes to pods made from this predictor."""
        return sum(backend.percent for backend in self.backends if backend.template == template)

    def split(self) -> str:
        """Tell where the traffic goes, in words that "of the traffic" may follow."""
        shares = [
            f"{backend.revision or backend.name} gets {backend.percent} %" for backend in self.backends if backend.percent
        ]
        return " and ".join(shares) or "no revision gets any"


class Dialect(Protocol):
    """One of KServe's two ways to split traffic between revisions. It decides; the target writes."""

    def observe(self, connection: Connection, live: Document) -> View:
        """Look at what the cluster runs of the InferenceService `live`."""

    def next_document(self, desired: Service, live: Document | None, view: View) -> Document | None:
        """Return what the InferenceService is to say next on the way to `desired`; None while the cluster must catch up."""

    def arrived(self, desired: Service, live: Document, view: View) -> bool:
        """Tell whether `desired` is wholly in force."""

    def serving(self, desired: Service, revision: str, live: Document, view: View) -> Backend | None:
        """Return what serves the desired revision of that name as it is desired now, or None if nothing does yet."""

    def read(self, live: Document, desired: Service) -> Service:
        """Return the service that the spec describes: not `desired` if somebody edited it; raises DeploymentError."""

    def canary_of(self, live: Document) -> str:
        """Return the name of the revision that is the canary in the spec, or ""."""
