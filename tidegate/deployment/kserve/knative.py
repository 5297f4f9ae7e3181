"""KServe's Knative mode: one predictor, whose versions are Knative's Revisions, and `canaryTrafficPercent` to split them.

The predictor describes the newest Revision. Without the field it gets everything as soon as it is ready; with it, KServe
pins the rest to `latestRolledoutRevision`, the last one that had everything. What follows from KServe's source
(reconcilers/knative/ksvc_reconciler.go, createKnativeService; v1beta1/inference_service_status.go, PropagateStatus; kserve
aaac4e2) rules the order of the writes here:

- Before anything was rolled out, the field is ignored and a canary would get everything: first the stable alone.
- "Latest" means the newest *ready* Revision. To go back to the stable by writing its predictor without the field would
  therefore give the canary everything until the stable's new Revision is ready. So: first percent 0 and the predictor as it
  is; when the traffic is seen to be on the stable, its predictor, still at 0; when that is ready, the field goes.
- A canary at 100 percent becomes `latestRolledoutRevision` itself. Percent 0 with an unchanged predictor makes KServe go
  back to `previousRolledoutRevision`; with a changed one it would not.
- KServe takes the same way back, wrongly, if it meets a split whose two sides are still one Revision, while Knative has not
  made the other. So what is pinned is looked at, by the label of its predictor, and repaired if it is not the stable.
"""

import copy

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.kserve.applied import applied_content, sealed, template_of
from tidegate.deployment.kserve.connection import KNATIVE_REVISIONS, Connection, Document
from tidegate.deployment.kserve.documents import knative_document
from tidegate.deployment.kserve.naming import REVISION_LABEL, predictor_service
from tidegate.deployment.kserve.reading import read_revision, revision_name
from tidegate.deployment.kserve.view import Backend, View
from tidegate.project.cluster import ClusterSection

_MODE, _PERCENT = "Knative", "canaryTrafficPercent"


class KnativeDialect:
    """Splits traffic by `canaryTrafficPercent`."""

    def __init__(self, cluster: ClusterSection) -> None:
        self._cluster = cluster

    def observe(self, connection: Connection, live: Document) -> View:
        """Look at the Knative Revisions of `live`, and at what KServe says of the traffic."""
        name, namespace = live["metadata"]["name"], live["metadata"]["namespace"]
        service = predictor_service(name, live["spec"]["predictor"].get("name"))
        revisions = connection.list(KNATIVE_REVISIONS, namespace, {"serving.knative.dev/service": service})
        status = ((live.get("status") or {}).get("components") or {}).get("predictor") or {}
        traffic = status.get("traffic") or []
        backends = {revision["metadata"]["name"]: _backend(revision, traffic) for revision in sorted(revisions, key=_age)}
        reason = _unrouted(live, traffic)
        return View(
            backends=tuple(backends.values()),
            routed=not reason,
            reason=reason,
            created=backends.get(status.get("latestCreatedRevision", "")),
            rolled_out=backends.get(status.get("latestRolledoutRevision", "")),
            previous=backends.get(status.get("previousRolledoutRevision", "")),
        )

    def next_document(self, desired: Service, live: Document | None, view: View) -> Document | None:
        """Return the next document on the way to `desired`; None while KServe or Knative must catch up."""
        if live is None:
            return self._document(desired, desired.stable, None)
        if desired.canary is None:
            return self._to_the_stable(desired, live, view)
        stable, canary = self._template(desired, desired.stable), self._template(desired, desired.canary)
        newest = template_of(live["spec"]["predictor"])
        pinned_right = view.rolled_out is not None and view.rolled_out.template == stable
        if newest == canary and (pinned_right or desired.canary_percent == 100 or _goes_back_to(stable, canary, view)):
            return self._document(desired, desired.canary, desired.canary_percent)
        if newest == stable and _percent(live) is None and pinned_right and view.percent_of(stable) == 100:
            return self._document(desired, desired.canary, desired.canary_percent)
        return self._to_the_stable(desired, live, view)

    def arrived(self, desired: Service, live: Document, view: View) -> bool:
        """Tell whether `desired` is in force: the last form of the predictor, its Revision ready, the traffic as meant."""
        newest, percent = desired.canary or desired.stable, desired.canary_percent if desired.canary else None
        template, stable = self._template(desired, newest), self._template(desired, desired.stable)
        made = view.created
        if not view.routed or _percent(live) != percent or made is None or made.template != template or not made.ready:
            return False
        if desired.canary is None:
            return view.percent_of(stable) == 100 and view.rolled_out is not None and view.rolled_out.template == stable
        return view.percent_of(template) == desired.canary_percent and view.percent_of(stable) == 100 - desired.canary_percent

    def serving(self, desired: Service, revision: str, live: Document, view: View) -> Backend | None:
        """Return the Knative Revision of a desired revision; of one that the predictor describes, only the newest."""
        wanted = desired.canary if desired.canary is not None and revision == desired.canary.name else desired.stable
        template = self._template(desired, wanted)
        if desired.canary is wanted and template_of(live["spec"]["predictor"]) == template:
            return view.created if view.created is not None and view.created.template == template else None
        return view.of_template(template)

    def read(self, live: Document, desired: Service) -> Service:
        """Return the service that the spec describes; what is pinned stands in no spec, and is taken to be the stable."""
        known = {revision.name: revision for revision in (desired.stable, desired.canary) if revision}
        newest, percent = read_revision(live["spec"]["predictor"], known), _percent(live)
        if percent is None or newest.name == desired.stable.name:
            return Service(desired.name, desired.namespace, newest)
        return Service(desired.name, desired.namespace, desired.stable, newest, percent)

    def canary_of(self, live: Document) -> str:
        """Return the name of the canary in the spec, or ""."""
        return "" if _percent(live) is None else revision_name(live["spec"]["predictor"])

    def _to_the_stable(self, desired: Service, live: Document, view: View) -> Document | None:
        """Return the next document on the way to the stable alone, in which `desired`, with or without canary, is noted."""
        stable, percent, pinned = self._template(desired, desired.stable), _percent(live), view.rolled_out
        newest = template_of(live["spec"]["predictor"])
        if newest == stable:
            made = view.created is not None and view.created.template == stable and view.created.ready
            return self._document(desired, desired.stable, None) if percent is None or made or pinned is None else None
        if pinned is None:
            return self._document(desired, desired.stable, None)
        if pinned.template == stable or _goes_back_to(stable, newest, view):
            if percent != 0:
                return self._at_zero(desired, live)
            if view.percent_of(stable) != 100:
                return None
        return self._document(desired, desired.stable, None if percent is None else 0)

    def _at_zero(self, desired: Service, live: Document) -> Document:
        """Return the predictor as it is, without traffic; anything else would make another Revision."""
        applied = applied_content(live) or live
        document = {**self._document(desired, desired.stable, None), "spec": copy.deepcopy(applied["spec"])}
        document["spec"]["predictor"][_PERCENT] = 0
        return sealed(document, _MODE)

    def _document(self, service: Service, newest: Revision, percent: int | None) -> Document:
        return sealed(knative_document(service, self._cluster, latest=newest, percent=percent), _MODE)

    def _template(self, desired: Service, revision: Revision) -> str:
        alone = Service(desired.name, desired.namespace, revision)
        return template_of(self._document(alone, revision, None)["spec"]["predictor"])


def _goes_back_to(stable: str, canary: str, view: View) -> bool:
    """Tell whether KServe will pin the stable again once the canary, which had everything, is given less."""
    pinned, previous = view.rolled_out, view.previous
    return pinned is not None and pinned.template == canary and previous is not None and previous.template == stable


def _percent(live: Document) -> int | None:
    percent = live["spec"]["predictor"].get(_PERCENT)
    return None if percent is None else int(percent)


def _backend(revision: Document, traffic: list[Document]) -> Backend:
    metadata = revision["metadata"]
    conditions = {condition["type"]: condition for condition in (revision.get("status") or {}).get("conditions") or ()}
    ready = conditions.get("Ready") or {"status": "Unknown"}
    reason = "" if ready["status"] == "True" else f"{ready.get('reason', '')}: {ready.get('message', '')}".strip(": ")
    return Backend(
        name=metadata["name"],
        revision=str((metadata.get("labels") or {}).get(REVISION_LABEL, "")),
        template=template_of(revision),
        ready=ready["status"] == "True",
        reason=reason or ("" if ready["status"] == "True" else "its pods are not ready yet"),
        percent=sum(target.get("percent") or 0 for target in traffic if target.get("revisionName") == metadata["name"]),
        pods=(("serving.knative.dev/revision", metadata["name"]),),
    )


def _unrouted(live: Document, traffic: list[Document]) -> str:
    conditions = {condition.get("type"): condition for condition in (live.get("status") or {}).get("conditions") or ()}
    route = conditions.get("PredictorRouteReady") or {}
    if route.get("status") != "True":
        return f"Knative's route is not ready: {route.get('message') or route.get('reason') or 'KServe has not said why'}"
    total = sum(target.get("percent") or 0 for target in traffic)
    return "" if total == 100 else f"KServe accounts for {total} % of the traffic"


def _age(revision: Document) -> tuple[int, str]:
    """Sort Revisions as they were made; their creation times have whole seconds only."""
    metadata = revision["metadata"]
    generation = (metadata.get("labels") or {}).get("serving.knative.dev/configurationGeneration", "0")
    return int(generation) if generation.isdigit() else 0, metadata["name"]
