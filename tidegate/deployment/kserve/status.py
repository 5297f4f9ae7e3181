"""How far a service has got: what runs, as against what is desired, and what is in the way."""

from dataclasses import dataclass

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.kserve.connection import Connection, Document
from tidegate.deployment.kserve.diagnosis import Cause, diagnose
from tidegate.deployment.kserve.view import Dialect, View
from tidegate.deployment.target import RevisionStatus, ServiceStatus
from tidegate.errors import DeploymentError


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a service on its way.

    Attributes:
        desired: What is noted on the InferenceService.
        live: The InferenceService.
        view: What the cluster runs of it.
        dialect: How its traffic is split.
    """

    desired: Service
    live: Document
    view: View
    dialect: Dialect

    def arrived(self, revision: str | None) -> bool:
        """Tell whether the desired state is wholly in force, or only `revision` is ready.

        Raises:
            DeploymentError: There is no such revision.
        """
        if revision is None:
            return self.dialect.arrived(self.desired, self.live, self.view)
        backend = self.dialect.serving(self.desired, self._desired(revision).name, self.live, self.view)
        return backend is not None and backend.ready

    def status(self) -> ServiceStatus:
        """Return what runs, in the words of every target."""
        address = self.live.get("status") or {}
        return ServiceStatus(
            name=self.desired.name,
            url=address.get("url") or (address.get("address") or {}).get("url") or "",
            revisions=tuple(self._revision(name) for name in self._names()),
            settled=self.dialect.arrived(self.desired, self.live, self.view),
        )

    def backends(self) -> dict[str, str]:
        """Return what gets each revision's traffic; of several, the one that gets most, and of these the newest."""
        ordered = sorted(self.view.backends, key=lambda backend: backend.percent)
        return {backend.revision: backend.name for backend in ordered if backend.revision}

    def trouble(self, connection: Connection, revision: str | None) -> Cause:
        """Return what is in the way.

        Args:
            connection: To look at the pods with.
            revision: Only of this revision; by default of all that are desired, and of the traffic.
        """
        awaited = [self._desired(revision)] if revision else self._revisions()
        for wanted in awaited:
            backend = self.dialect.serving(self.desired, wanted.name, self.live, self.view)
            if backend is not None and backend.ready:
                continue
            cause = diagnose(connection, self.live, backend)
            return Cause(f"revision {wanted.name}: {cause.text}", cause.hopeless_after)
        if self.view.reason:
            return Cause(f"{self.view.reason}; {self.view.split()} of the traffic is asked for")
        return Cause(f"{self.view.split()} of the traffic, not yet {self._split()}")

    def _desired(self, name: str) -> Revision:
        revisions = {revision.name: revision for revision in self._revisions()}
        if name not in revisions:
            raise DeploymentError(f"service {self.desired.name} has no revision {name!r}; it has {', '.join(revisions)}")
        return revisions[name]

    def _revisions(self) -> list[Revision]:
        return [self.desired.stable, *([self.desired.canary] if self.desired.canary else [])]

    def _names(self) -> list[str]:
        running = [backend.revision for backend in self.view.backends if backend.percent]
        return list(dict.fromkeys([*(revision.name for revision in self._revisions()), *running]))

    def _revision(self, name: str) -> RevisionStatus:
        desired = {revision.name for revision in self._revisions()}
        mine = [backend for backend in self.view.backends if backend.revision == name]
        backend = self.dialect.serving(self.desired, name, self.live, self.view) if name in desired else mine[-1]
        is_canary = name == (self.desired.canary.name if self.desired.canary else self.dialect.canary_of(self.live))
        return RevisionStatus(
            name=name,
            role="canary" if is_canary and name != self.desired.stable.name else "stable",
            ready=backend is not None and backend.ready,
            traffic_percent=sum(other.percent for other in mine),
            reason=backend.reason if backend is not None else "the cluster has not taken it up yet",
        )

    def _split(self) -> str:
        if self.desired.canary is None:
            return f"{self.desired.stable.name} 100 %"
        percent = self.desired.canary_percent
        return f"{self.desired.stable.name} {100 - percent} % and {self.desired.canary.name} {percent} %"
