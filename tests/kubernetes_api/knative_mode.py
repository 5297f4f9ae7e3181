"""KServe's Knative mode, simulated: the Knative Service, its Revisions and the statuses that follow.

Transcribed from kserve/kserve, commit aaac4e294dae (August 2026, after v0.20.0):
- reconcilers/knative/ksvc_reconciler.go, createKnativeService: the traffic; Reconcile returns the status as it was before;
- pkg/apis/serving/v1beta1/inference_service_status.go, PropagateStatus: latestRolledoutRevision and its way back;
and from knative/serving v1.23.0:
- pkg/reconciler/service/service.go, ReconcileKind: a Configuration that is behind is not propagated, its Route is all the same;
- pkg/reconciler/configuration/configuration.go: a Revision for each generation, latestReady never goes back;
- pkg/reconciler/route/traffic/traffic.go: "latest" is the newest ready Revision, a named one must be ready.
A canary at 10 percent agrees with test/e2e/predictor/test_canary.py.

Unproven: how long each controller takes, and so how often the Configuration really is behind the Route.
"""

import copy
from collections import defaultdict
from dataclasses import dataclass, field

from tests.kubernetes_api.api_server import Document, Store
from tests.kubernetes_api.workloads import Pods

ISVC, REVISIONS, SERVICES = (
    "inferenceservices.serving.kserve.io",
    "revisions.serving.knative.dev",
    "services.serving.knative.dev",
)


@dataclass
class KnativeMode:
    """Reconciles the InferenceServices in Knative mode."""

    store: Store
    pods: Pods
    delays: list[int] = field(default_factory=list)  # ticks by which the Configuration is behind, for the next templates
    splits: list[dict[str, int]] = field(default_factory=list)  # what was in force, one after the other, by Tidegate revision
    _generation: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _template: dict[str, Document] = field(default_factory=dict)
    _behind: dict[str, int] = field(default_factory=dict)

    def tick(self, isvc: Document) -> None:
        self._reconcile(isvc)
        name, namespace = f"{isvc['metadata']['name']}-predictor", isvc["metadata"]["namespace"]
        service = self.store.objects.get((SERVICES, namespace, name))
        if service is not None:
            self._serve(copy.deepcopy(service))

    def forget(self, isvc: Document) -> None:
        name, namespace = f"{isvc['metadata']['name']}-predictor", isvc["metadata"]["namespace"]
        for revision in self._revisions(name, namespace):
            self.pods.remove(f"{revision['metadata']['name']}-pod", namespace)
            self.store.delete(REVISIONS, namespace, revision["metadata"]["name"])
        if (SERVICES, namespace, name) in self.store.objects:
            self.store.delete(SERVICES, namespace, name)
        self._template.pop(name, None)

    def _reconcile(self, isvc: Document) -> None:
        status = copy.deepcopy(isvc.get("status") or {})
        component = status.setdefault("components", {}).setdefault("predictor", {})
        predictor, annotations = isvc["spec"]["predictor"], isvc["metadata"].get("annotations") or {}
        name, namespace = f"{isvc['metadata']['name']}-predictor", isvc["metadata"]["namespace"]
        metadata = {
            "labels": {**(isvc["metadata"].get("labels") or {}), **(predictor.get("labels") or {})},
            "annotations": {**annotations, **(predictor.get("annotations") or {})},
        }
        metadata["annotations"]["autoscaling.knative.dev/min-scale"] = str(predictor.get("minReplicas", 1))
        spec = {
            "template": {"metadata": metadata, "spec": {"containers": [{**predictor["model"], "name": "kserve-container"}]}},
            "traffic": _traffic(predictor.get("canaryTrafficPercent"), component.get("latestRolledoutRevision", "")),
        }
        existing = self.store.objects.get((SERVICES, namespace, name))
        before = copy.deepcopy((existing or {}).get("status") or {})
        if existing is None:
            self.store.create(SERVICES, {"metadata": {"name": name, "namespace": namespace}, "spec": spec}, "manager")
        elif existing["spec"] != spec:
            self.store.replace(SERVICES, {**copy.deepcopy(existing), "spec": spec}, "manager")
        _propagate(component, before)
        found = {condition["type"]: condition for condition in before.get("conditions") or ()}
        conditions = {
            "PredictorReady": found.get("Ready", {"status": "Unknown"}),
            "PredictorRouteReady": found.get("RoutesReady", {"status": "Unknown"}),
            "PredictorConfigurationReady": found.get("ConfigurationsReady", {"status": "Unknown"}),
            "IngressReady": {"status": "True"},
            "Ready": found.get("Ready", {"status": "Unknown"}),
        }
        status["conditions"] = [{**condition, "type": kind} for kind, condition in sorted(conditions.items())]
        status["deploymentMode"] = "Knative"
        status["modelStatus"] = {"transitionStatus": "UpToDate"}
        status["url"] = f"http://{isvc['metadata']['name']}.{namespace}.example.com"
        self.store.set_status(ISVC, isvc, status)

    def _serve(self, service: Document) -> None:
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        status = copy.deepcopy(service.get("status") or {})
        if self._template.get(name) != service["spec"]["template"] and not self._is_behind(name):
            self._template[name] = copy.deepcopy(service["spec"]["template"])
            self._generation[name] += 1
            self._create_revision(name, namespace)
        ready = [revision for revision in self._revisions(name, namespace) if self._fare(revision)]
        behind = self._template.get(name) != service["spec"]["template"]
        if not behind:
            status["latestCreatedRevisionName"] = f"{name}-{self._generation[name]:05d}"
            if ready:
                status["latestReadyRevisionName"] = ready[-1]["metadata"]["name"]
        latest, names = status.get("latestReadyRevisionName", ""), {revision["metadata"]["name"] for revision in ready}
        routed = bool(latest) and all(t.get("latestRevision") or t["revisionName"] in names for t in service["spec"]["traffic"])
        if routed:
            status["traffic"] = [
                {**target, "revisionName": target.get("revisionName") or latest} for target in service["spec"]["traffic"]
            ]
            self._note(status["traffic"], ready)
        newest_ready = latest == status.get("latestCreatedRevisionName")
        waiting = {"status": "Unknown", "reason": "RevisionMissing", "message": "the latest Revision is not ready"}
        conditions = {
            "RoutesReady": {"status": "True"} if routed else waiting,
            "ConfigurationsReady": {"status": "True"} if newest_ready and not behind else waiting,
            "Ready": {"status": "True"} if routed and newest_ready and not behind else waiting,
        }
        status["conditions"] = [{"type": kind, **condition} for kind, condition in conditions.items()]
        self.store.set_status(SERVICES, service, status)

    def _note(self, traffic: list[Document], ready: list[Document]) -> None:
        revisions = {each["metadata"]["name"]: each["metadata"]["labels"].get("tidegate.dev/revision", "") for each in ready}
        split: dict[str, int] = defaultdict(int)
        for target in traffic:
            split[revisions[target["revisionName"]]] += target["percent"]
        in_force = {revision: percent for revision, percent in split.items() if percent}
        if not self.splits or self.splits[-1] != in_force:
            self.splits.append(in_force)

    def _is_behind(self, name: str) -> bool:
        if name not in self._template:
            return False
        if name not in self._behind:
            self._behind[name] = self.delays.pop(0) if self.delays else 0
        self._behind[name] -= 1
        if self._behind[name] < 0:
            del self._behind[name]
        return name in self._behind

    def _create_revision(self, name: str, namespace: str) -> None:
        template, generation = self._template[name], self._generation[name]
        labels = {
            **template["metadata"]["labels"],
            "serving.knative.dev/service": name,
            "serving.knative.dev/configurationGeneration": str(generation),
        }
        metadata = {"name": f"{name}-{generation:05d}", "namespace": namespace, "labels": labels}
        document = {"metadata": {**metadata, "annotations": template["metadata"]["annotations"]}, "spec": template["spec"]}
        self.store.create(REVISIONS, document, "controller")

    def _fare(self, revision: Document) -> bool:
        metadata = revision["metadata"]
        labels = {**metadata["labels"], "serving.knative.dev/revision": metadata["name"]}
        template = {"metadata": {"labels": labels, "annotations": metadata["annotations"]}, "spec": revision["spec"]}
        ready = self.pods.ready(f"{metadata['name']}-pod", metadata["namespace"], template)
        condition = {"type": "Ready", "status": "True" if ready else "Unknown", "reason": "" if ready else "Deploying"}
        if self.pods.fate(labels) in ("crash", "memory"):
            condition |= {"status": "False", "reason": "ExitCode3", "message": "Container failed with: package digest mismatch"}
        if self.pods.fate(labels) == "quota":
            condition |= {"status": "False", "reason": "FailedCreate", "message": "exceeded quota: gpus"}
        self.store.set_status(REVISIONS, revision, {"conditions": [condition]})
        return ready

    def _revisions(self, name: str, namespace: str) -> list[Document]:
        return self.store.list(REVISIONS, namespace, f"serving.knative.dev/service={name}")


def _traffic(percent: int | None, rolled_out: str) -> list[Document]:
    if percent is None or not rolled_out:
        return [{"latestRevision": True, "percent": 100, "tag": "latest"}]
    targets: list[Document] = [{"latestRevision": True, "percent": percent, "tag": "latest"}]
    if percent < 100:
        targets.append({"revisionName": rolled_out, "latestRevision": False, "percent": 100 - percent, "tag": "prev"})
    return targets


def _propagate(component: Document, status: Document) -> None:
    """PropagateStatus, line by line."""
    component["latestCreatedRevision"] = status.get("latestCreatedRevisionName", "")
    latest_ready = status.get("latestReadyRevisionName", "")
    shares: dict[str, int] = defaultdict(int)
    for target in status.get("traffic") or ():
        shares[target["revisionName"]] += target["percent"]
    for target in status.get("traffic") or ():
        if target["revisionName"] != latest_ready or not target["latestRevision"]:
            continue
        if component.get("latestRolledoutRevision", "") != latest_ready:
            if target["percent"] == 100:
                component["previousRolledoutRevision"] = component.get("latestRolledoutRevision", "")
                component["latestRolledoutRevision"] = latest_ready
        elif latest_ready == status.get("latestCreatedRevisionName") and target["percent"] < 100:
            previous = component.get("previousRolledoutRevision", "")
            if shares[target["revisionName"]] == 100 and previous:
                component["latestRolledoutRevision"] = previous
    component["latestReadyRevision"] = latest_ready
    component["traffic"] = copy.deepcopy(status.get("traffic") or [])
