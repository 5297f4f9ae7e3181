"""The cluster target: InferenceServices on KServe, in Standard or Knative deployment mode.

    target = KServeTarget(project.on_cluster)
    target.apply(Service(name="flights-late", namespace="default", stable=v1, canary=v2, canary_percent=5))
    target.wait("flights-late", timeout=600)        # v2 is ready and the gateway gives it 5 percent

`apply` notes the desired service on the InferenceService and takes the first step towards it, in one write. Where KServe needs
more steps, `wait` takes them as the cluster follows. Whoever applies or waits again, in whatever process, goes on where a
crashed one stopped: each step is decided from what the cluster says.
"""

import copy
import time
from dataclasses import asdict

from tidegate.deployment.inference_service import Service
from tidegate.deployment.kserve.applied import applied_content, canonical, differs, edits, merged, sealed
from tidegate.deployment.kserve.companion_keeper import CompanionKeeper
from tidegate.deployment.kserve.connection import INFERENCE_SERVICES, Connection, Document, Stale, Unreachable
from tidegate.deployment.kserve.diagnosis import Cause
from tidegate.deployment.kserve.documents import read_service
from tidegate.deployment.kserve.knative import KnativeDialect
from tidegate.deployment.kserve.naming import SERVICE_ANNOTATION
from tidegate.deployment.kserve.rules import check_update
from tidegate.deployment.kserve.standard import StandardDialect
from tidegate.deployment.kserve.status import Progress
from tidegate.deployment.kserve.view import Dialect, View
from tidegate.deployment.target import ServiceStatus
from tidegate.errors import DeploymentError
from tidegate.project.cluster import ClusterSection

_ATTEMPTS = 20
_GONE_SECONDS = 120.0
_FIRST_POLL, _LONGEST_POLL, _POLL_GROWTH = 0.05, 2.0, 1.4
_PATIENCE = 60.0
_MOST_STEPS = 12  # the longest way takes 4; KServe may have to be put right on it once or twice
_NOTHING = View(backends=(), routed=False)


class KServeTarget:
    """The InferenceServices of one namespace."""

    def __init__(self, cluster: ClusterSection, *, in_place: bool = False, api: Connection | None = None) -> None:
        """Look at a cluster; nothing is sent before the first call.

        Args:
            cluster: The project's cluster section: namespace, deployment mode, and what the pods need.
            in_place: Replace the pods of one Deployment instead of starting a canary beside it (Standard mode).
            api: The connection; by default the one that the environment configures.
        """
        self._namespace = cluster.namespace
        self._mode = cluster.mode
        self._dialect: Dialect = (
            KnativeDialect(cluster) if cluster.mode == "Knative" else StandardDialect(cluster, in_place=in_place)
        )
        self._companions = CompanionKeeper(cluster, in_place=in_place)
        self._api = api or Connection.open()

    def apply(self, service: Service) -> None:
        """Make `service` the desired state, atomically; applying it twice changes nothing.

        Raises:
            DeploymentError: The InferenceService was made or edited by somebody else (only taking the traffic from a canary
                is done all the same, and keeps what was edited), the cluster refuses it, cannot split traffic, or cannot
                be reached.
        """
        if service.namespace != self._namespace:
            raise DeploymentError(
                f"service {service.name} is meant for namespace {service.namespace!r}, but cluster.namespace is "
                f"{self._namespace!r}; change one of them"
            )
        for _ in range(_ATTEMPTS):
            try:
                live = self._live_once_deleted(service.name)
                if live is None:
                    live = self._create(service)
                else:
                    self._step(self._api, service, live, self._dialect.observe(self._api, live))
                self._companions.keep(self._api, service, live)
                return
            except Stale as error:
                latest = error
        raise DeploymentError(f"service {service.name} is written by others all the time: {latest}; stop them, and apply again")

    def get(self, name: str) -> Service | None:
        """Return the desired state of the service called `name`, or None if there is none.

        Of one that somebody edited, it is what the edited spec says, as far as that can be read.

        Raises:
            DeploymentError: Tidegate did not make it, or it was edited into something that it cannot read.
        """
        live = self._live(name)
        if live is None or _is_going(live):
            return None
        noted, changes = read_service(live), edits(live)
        if not changes:
            return noted
        try:
            return self._dialect.read(live, noted)
        except DeploymentError as error:
            raise DeploymentError(f"{_edited(name, changes)} ({error})") from error

    def status(self, name: str) -> ServiceStatus:
        """Return what runs now; raises DeploymentError if no such service is known, or the cluster cannot be reached."""
        return self._progress(self._api, self._known(self._api, name)).status()

    def wait(self, name: str, *, revision: str | None = None, timeout: float) -> ServiceStatus:
        """Take the steps that are left until the desired state is settled, or only `revision` is ready.

        Raises:
            DeploymentError: After `timeout` seconds, or before if it is hopeless: the service or the revision is not
                desired, somebody edited it, its runtime, image or model package is refused, or its container ended three
                times before it was ready; or if the cluster undoes what it is told. Names the cause.
        """
        deadline, poll = time.monotonic() + timeout, _FIRST_POLL
        trouble, since, steps = Cause("the cluster has not answered yet"), time.monotonic(), 0
        while True:
            left = deadline - time.monotonic()
            api = self._api.patient_for(min(max(left, 1.0), _PATIENCE))
            try:
                live = self._known(api, name)
                progress = self._progress(api, live)
                if progress.arrived(revision):
                    self._companions.keep(api, progress.desired, live)
                    return progress.status()
                if self._step(api, progress.desired, live, progress.view):
                    poll, steps = _FIRST_POLL, steps + 1
                former, trouble = trouble, progress.trouble(api, revision)
                since = since if trouble.hopeless_after == former.hopeless_after else time.monotonic()
                if time.monotonic() - since >= trouble.hopeless_after:
                    raise DeploymentError(f"service {name} will not be {_aim(revision)}: {trouble.text}")
                if steps >= _MOST_STEPS:
                    raise DeploymentError(f"service {name} does not stay where it is put: {steps} steps later {trouble.text}")
            except Stale:
                poll = _FIRST_POLL
            except Unreachable as error:
                trouble = Cause(str(error))
            if time.monotonic() > deadline:
                raise DeploymentError(f"service {name} is not {_aim(revision)} after {timeout:g} s: {trouble.text}")
            time.sleep(min(poll, max(deadline - time.monotonic(), 0.0)))
            poll = min(poll * _POLL_GROWTH, _LONGEST_POLL)

    def delete(self, name: str) -> None:
        """Remove the service; removing what is not there is no error. Raises DeploymentError if Tidegate did not make it."""
        live = self._live(name)
        if live is not None and not _is_going(live):
            read_service(live)
            self._api.delete(INFERENCE_SERVICES, live)

    def backends(self, name: str) -> dict[str, str]:
        """Return what gets each revision's traffic: a Kubernetes Service in Standard mode, else a Knative Revision.

        Raises:
            DeploymentError: No such service is known, or the cluster cannot be reached.
        """
        return self._progress(self._api, self._known(self._api, name)).backends()

    def _live(self, name: str) -> Document | None:
        return self._api.read(INFERENCE_SERVICES, self._namespace, name)

    def _live_once_deleted(self, name: str) -> Document | None:
        """Return the InferenceService; of one that is being deleted, wait for the end."""
        deadline = time.monotonic() + _GONE_SECONDS
        while True:
            live = self._live(name)
            if live is None or not _is_going(live):
                return live
            if time.monotonic() > deadline:
                finalizers = ", ".join(live["metadata"].get("finalizers") or ["none"])
                raise DeploymentError(f"service {name} is still being deleted; its finalizers are {finalizers}")
            time.sleep(_FIRST_POLL)

    def _known(self, api: Connection, name: str) -> Document:
        live = api.read(INFERENCE_SERVICES, self._namespace, name)
        if live is None or _is_going(live):
            raise DeploymentError(f"service {name!r} is not known in namespace {self._namespace}")
        return live

    def _progress(self, api: Connection, live: Document) -> Progress:
        return Progress(read_service(live), live, self._dialect.observe(api, live), self._dialect)

    def _create(self, service: Service) -> Document:
        document = self._dialect.next_document(service, None, _NOTHING)
        assert document is not None  # noqa: S101 - a service that is not there can always be begun
        return self._api.create(INFERENCE_SERVICES, self._noted(document, service))

    def _step(self, api: Connection, desired: Service, live: Document, view: View) -> bool:
        """Write what comes next on the way to `desired`, if anything does; tell whether something did."""
        self._check_unedited(live, desired)
        if desired.canary is not None and view.unsplittable:
            raise DeploymentError(f"service {desired.name} can have no canary: {view.unsplittable}")
        document = self._dialect.next_document(desired, live, view) or applied_content(live)
        assert document is not None  # noqa: S101 - checked above: what was applied is noted
        following = merged(live, self._noted(document, desired))
        if not differs(following, live):
            return False
        check_update(live, following)
        api.replace(INFERENCE_SERVICES, following)
        return True

    def _check_unedited(self, live: Document, desired: Service) -> None:
        """Raise if somebody edited it; but taking the traffic from a canary must always be possible."""
        changes = edits(live)
        if not changes:
            return
        takes_traffic_back = (
            desired.canary is None
            and applied_content(live) is not None
            and bool(self._dialect.canary_of(live))
            and desired.stable == read_service(live).stable
        )
        if not takes_traffic_back:
            raise DeploymentError(_edited(desired.name, changes))

    def _noted(self, document: Document, desired: Service) -> Document:
        document = copy.deepcopy(document)
        document["metadata"]["annotations"][SERVICE_ANNOTATION] = canonical(asdict(desired))
        return sealed(document, self._mode)


def _is_going(live: Document) -> bool:
    return bool(live["metadata"].get("deletionTimestamp"))


def _aim(revision: str | None) -> str:
    return "settled" if revision is None else f"ready with revision {revision}"


def _edited(name: str, changes: list[str]) -> str:
    return (
        f"service {name} was changed by someone else: {'; '.join(changes)}; "
        "put that back, or delete the InferenceService and deploy again"
    )
