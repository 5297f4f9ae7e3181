"""KServe's Standard mode: a Deployment for each revision, and `spec.canary`, which HTTPRoutes of Gateway API split.

Traffic moves before pods do. KServe deletes the Deployments that the spec no longer names before it rewrites the routes
(components/predictor.go, reconcileCanaryDeployments, then ingress/httproute_reconciler.go; kserve aaac4e2), so a canary that
is promoted or rolled back in one write loses requests in between. Here a promotion first gives the canary everything and the
stable's number of replicas, a rollback first gives it nothing, and only when the routes say so the spec is reduced. For the
same reason another stable is first made the canary. And a canary gets no traffic before it is ready, whichever release of
KServe there is: the first that split routes (85b0908) did not look, the gate came later (22cbd37). v0.20.0 splits nothing.
"""

import copy
from dataclasses import replace

from tidegate.deployment.inference_service import Service
from tidegate.deployment.kserve.applied import applied_content, sealed, template_of
from tidegate.deployment.kserve.connection import DEPLOYMENTS, Connection, Document
from tidegate.deployment.kserve.deployments import deployed
from tidegate.deployment.kserve.documents import standard_document
from tidegate.deployment.kserve.reading import read_revision, revision_name
from tidegate.deployment.kserve.routes import observe_routes
from tidegate.deployment.kserve.view import Backend, View
from tidegate.project.cluster import ClusterSection

_MODE = "Standard"


class StandardDialect:
    """Splits traffic by `spec.canary`; `in_place` replaces the pods of one Deployment instead, without a canary."""

    def __init__(self, cluster: ClusterSection, *, in_place: bool = False) -> None:
        self._cluster = cluster
        self._in_place = in_place

    def observe(self, connection: Connection, live: Document) -> View:
        """Look at the Deployments and the routes of `live`."""
        name, namespace = live["metadata"]["name"], live["metadata"]["namespace"]
        labels = {"serving.kserve.io/inferenceservice": name, "component": "predictor"}
        deployments = connection.list(DEPLOYMENTS, namespace, labels)
        routes = observe_routes(connection, live, [deployment["metadata"]["name"] for deployment in deployments])
        return View(
            backends=tuple(deployed(deployment, routes.percents) for deployment in deployments),
            routed=routes.in_force,
            reason=routes.reason,
            unsplittable=routes.unsplittable,
        )

    def next_document(self, desired: Service, live: Document | None, view: View) -> Document | None:
        """Return the next document on the way to `desired`."""
        if live is None:
            return self._document(replace(desired, canary_percent=0))
        running = self.read(live, desired)
        if running.stable.name != desired.stable.name and not self._in_place:
            return self._to_another_stable(desired, running, live, view)
        if running.canary is not None and (desired.canary is None or desired.canary.name != running.canary.name):
            return self._without_canary(replace(desired, canary=None, canary_percent=0), live, view)
        if desired.canary is None:
            return self._document(desired)
        return self._document(replace(desired, canary_percent=self._affordable_percent(desired, running, view)))

    def arrived(self, desired: Service, live: Document, view: View) -> bool:
        """Tell whether `desired` is in force: its revisions ready, its split accepted by the gateway, nothing else left."""
        percents = {self._template(desired, desired.stable.name): 100 - desired.canary_percent}
        if desired.canary is not None:
            percents[self._template(desired, desired.canary.name)] = desired.canary_percent
        return (
            view.routed
            and sorted(backend.template for backend in view.backends) == sorted(percents)
            and all(backend.ready and backend.percent == percents[backend.template] for backend in view.backends)
        )

    def serving(self, desired: Service, revision: str, live: Document, view: View) -> Backend | None:
        """Return the Deployment of a desired revision, once it is made from what is desired."""
        return view.of_template(self._template(desired, revision))

    def _template(self, desired: Service, revision: str) -> str:
        spec = self._document(desired)["spec"]
        if desired.canary is not None and revision == desired.canary.name:
            return template_of(spec["canary"][0]["predictor"])
        return template_of(spec["predictor"])

    def read(self, live: Document, desired: Service) -> Service:
        """Return the service that the spec describes."""
        spec, known = live["spec"], {revision.name: revision for revision in (desired.stable, desired.canary) if revision}
        service = Service(desired.name, desired.namespace, read_revision(spec["predictor"], known))
        canaries = spec.get("canary") or []
        if not canaries:
            return service
        return service.with_canary(read_revision(canaries[0]["predictor"], known), canaries[0].get("trafficPercent") or 0)

    def canary_of(self, live: Document) -> str:
        """Return the name of the canary in the spec, or ""."""
        canaries = live["spec"].get("canary") or []
        return revision_name(canaries[0]["predictor"]) if canaries else ""

    def _to_another_stable(self, desired: Service, running: Service, live: Document, view: View) -> Document | None:
        alone = replace(desired, canary=None, canary_percent=0)
        serving = view.of_template(template_of(live["spec"]["predictor"]))
        if running.canary is None:
            if view.unsplittable or serving is None or not serving.ready:
                return self._document(alone)
            return self._document(running.with_canary(desired.stable, 0))
        if running.canary.name != desired.stable.name:
            return self._without_canary(replace(running, canary=None, canary_percent=0), live, view)
        canary = view.of_template(self._template(alone, desired.stable.name))
        if canary is None or not canary.ready:
            return None
        if canary.percent == 100 and view.routed:
            return self._document(alone)
        return self._with_everything_to_the_canary(desired, live)

    def _with_everything_to_the_canary(self, desired: Service, live: Document) -> Document:
        document = self._as_applied(desired, live)
        stable, canary = document["spec"]["predictor"], document["spec"]["canary"][0]
        canary["trafficPercent"] = 100
        canary["predictor"]["minReplicas"] = max(desired.stable.min_replicas, 1)
        for limit in ("minReplicas", "maxReplicas"):  # KServe refuses a canary with more replicas than the stable
            if limit in stable:
                stable[limit] = max(stable[limit], canary["predictor"]["minReplicas"])
        return sealed(document, _MODE)

    def _without_canary(self, desired: Service, live: Document, view: View) -> Document | None:
        canary = live["spec"]["canary"][0]
        share = view.percent_of(template_of(canary["predictor"]))
        if share == 0 and (view.routed or not canary.get("trafficPercent")):
            return self._document(desired)
        document = self._as_applied(desired, live)
        document["spec"]["canary"][0]["trafficPercent"] = 0
        document["spec"]["canary"][0]["predictor"]["minReplicas"] = 1  # KServe takes a canary's replicas from the stable's
        return sealed(document, _MODE)

    def _affordable_percent(self, desired: Service, running: Service, view: View) -> int:
        assert desired.canary is not None  # noqa: S101 - asked only about a split
        canary = view.of_template(self._template(desired, desired.canary.name))
        given = running.canary_percent if running.canary is not None else 0
        return desired.canary_percent if canary is not None and canary.ready else min(given, desired.canary_percent)

    def _as_applied(self, desired: Service, live: Document) -> Document:
        """Return what was applied last, under the name of what is desired now."""
        applied = applied_content(live) or live
        return {**self._document(replace(desired, canary=None, canary_percent=0)), "spec": copy.deepcopy(applied["spec"])}

    def _document(self, service: Service) -> Document:
        return sealed(standard_document(service, self._cluster, in_place=self._in_place), _MODE)
