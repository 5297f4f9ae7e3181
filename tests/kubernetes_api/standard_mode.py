"""KServe's Standard mode, simulated: Deployments, HTTPRoutes and statuses as its controller would write them.

Transcribed from kserve/kserve, commit aaac4e294dae (August 2026, after v0.20.0):
- pkg/controller/v1beta1/inferenceservice/components/predictor.go: Reconcile (canaries first, orphans deleted, then the stable),
  canaryReplicaCount, adjustStableMinReplicasForCanaries, buildCanaryPredictor, buildObjectMeta;
- reconcilers/ingress/httproute_reconciler.go: createRawPredictorHTTPRoute, createRawTopLevelHTTPRoute (no route is touched
  before PredictorReady), applyCanaryWeights (only ready canaries), reconcileHTTPRouteStatus;
- pkg/apis/serving/v1beta1/inference_service_status.go: PropagateRawStatus.
The outcomes agree with test/e2e/predictor/test_canary_raw_deployment.py (create, promote, rollback).

Unproven: how long each controller takes. Each acts once a tick, and meets what the others wrote in the tick before.
"""

import copy
import math
from dataclasses import dataclass, field

from tests.kubernetes_api.api_server import Document, Store
from tests.kubernetes_api.workloads import Pods

ISVC, DEPLOYMENTS, ROUTES = "inferenceservices.serving.kserve.io", "deployments.apps", "httproutes.gateway.networking.k8s.io"
_OF_SERVICE, _COMPONENT = "serving.kserve.io/inferenceservice", "component"


@dataclass
class StandardMode:
    """Reconciles the InferenceServices in Standard mode."""

    store: Store
    pods: Pods
    gateway: bool = True  # Gateway API is installed and enabled
    gateway_refuses: str = ""
    before_0_21: bool = False  # as v0.20.0: no split, and the predictor's route is named after the predictor
    weights: dict[str, dict[str, int]] = field(default_factory=dict)  # in force, by route
    lost: list[str] = field(default_factory=list)  # traffic that met no ready pod
    splits: list[dict[str, int]] = field(default_factory=list)  # what was in force, one after the other, by Service
    _pod_of: dict[str, str] = field(default_factory=dict)  # by Deployment, the pod of the template in force

    def tick(self, isvc: Document) -> None:
        self._reconcile(isvc)
        for deployment in self._deployments(isvc):
            self._run(deployment)
        if self.gateway:
            self._route(isvc)
        self._notice_losses(isvc)

    def forget(self, isvc: Document) -> None:
        for deployment in self._deployments(isvc):
            self._delete(deployment)
        name, namespace = isvc["metadata"]["name"], isvc["metadata"]["namespace"]
        for route in (name, f"{name}-predictor"):
            self.weights.pop(route, None)
            if (ROUTES, namespace, route) in self.store.objects:
                self.store.delete(ROUTES, namespace, route)

    def _reconcile(self, isvc: Document) -> None:
        status = copy.deepcopy(isvc.get("status") or {})
        status["deploymentMode"] = "Standard"
        if self.pods.fate(isvc["spec"]["predictor"].get("labels") or {}) == "runtime":
            failure = {"reason": "RuntimeNotRecognized", "message": "Waiting for runtime to become available"}
            status["modelStatus"] = {"transitionStatus": "InvalidSpec", "lastFailureInfo": failure}
            return self.store.set_status(ISVC, isvc, status)
        status["modelStatus"] = {"transitionStatus": "UpToDate"}
        spec, name = isvc["spec"], isvc["metadata"]["name"]
        canaries, expected = spec.get("canary") or [], {_service(name, spec["predictor"])}
        if any(self.pods.fate(canary["predictor"].get("labels") or {}) == "runtime" for canary in canaries):
            return self._warn(isvc)
        for canary in canaries:
            predictor = {**_merged(spec["predictor"], canary["predictor"]), "minReplicas": _replicas(spec, canary)}
            for zeroed in ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling"):
                predictor.pop(zeroed, None)
            self._deploy(isvc, predictor)
            expected.add(_service(name, predictor))
        readiness = {canary["predictor"]["name"]: self._available(isvc, canary["predictor"]) > 0 for canary in canaries}
        status["canaryStatuses"] = [
            {
                "name": canary["predictor"]["name"],
                "ready": readiness[canary["predictor"]["name"]],
                "trafficPercent": canary["trafficPercent"],
            }
            for canary in canaries
        ]
        for deployment in self._deployments(isvc):
            if deployment["metadata"]["name"] not in expected:
                self._delete(deployment)
        ready_replicas = sum(_replicas(spec, canary) for canary in canaries if readiness[canary["predictor"]["name"]])
        stable = dict(spec["predictor"])
        if ready_replicas:
            stable["minReplicas"] = max(stable.get("minReplicas", 1) - ready_replicas, 1)
        self._deploy(isvc, stable)
        conditions = self._conditions(isvc, canaries, all_ready=all(readiness.values()))
        if conditions["PredictorReady"]["status"] == "True" and self.gateway:
            self._write_routes(isvc, canaries, readiness)
        conditions["IngressReady"] = self._ingress(isvc, conditions)
        ready = all(conditions[kind]["status"] == "True" for kind in ("PredictorReady", "IngressReady"))
        conditions["Ready"] = {"status": "True" if ready else "False"}
        status["conditions"] = [{"type": kind, **condition} for kind, condition in sorted(conditions.items())]
        status["url"] = f"http://{name}-{isvc['metadata']['namespace']}.example.com"
        return self.store.set_status(ISVC, isvc, status)

    def _warn(self, isvc: Document) -> None:
        """Record the event that Reconcile records when it fails; the status stays as it was (canaryISVC is a copy)."""
        metadata = isvc["metadata"]
        if ("events", metadata["namespace"], f"{metadata['name']}.1") in self.store.objects:
            return
        message = (
            "fails to reconcile canary deployments: fails to build resources for canary v2: "
            "No ServingRuntimes or ClusterServingRuntimes with the name: tidegate-onnx"
        )
        about = {"kind": "InferenceService", "name": metadata["name"], "uid": metadata["uid"]}
        event = {"metadata": {"name": f"{metadata['name']}.1", "namespace": metadata["namespace"]}, "involvedObject": about}
        self.store.create("events", {**event, "type": "Warning", "reason": "InternalError", "message": message}, "manager")

    def _conditions(self, isvc: Document, canaries: list[Document], *, all_ready: bool) -> dict[str, Document]:
        deployment = self._read(isvc, isvc["spec"]["predictor"])
        found = {condition["type"]: condition for condition in (deployment.get("status") or {}).get("conditions") or ()}
        available, failure = found.get("Available"), found.get("ReplicaFailure")
        predictor: Document = {"status": "Unknown"}
        if available is not None:
            predictor = {
                "status": available["status"],
                "reason": available.get("reason", ""),
                "message": available.get("message", ""),
            }
        if failure is not None and failure["status"] == "True":
            predictor = {"status": "False", "reason": failure["reason"], "message": failure["message"]}
        conditions = {"PredictorReady": predictor}
        if canaries:
            reason = "AllCanariesReady" if all_ready else "CanariesNotReady"
            conditions["CanaryPredictorReady"] = {"status": "True" if all_ready else "False", "reason": reason}
        return conditions

    def _route_names(self, isvc: Document) -> tuple[str, str]:
        name = isvc["metadata"]["name"]
        return (_service(name, isvc["spec"]["predictor"]) if self.before_0_21 else f"{name}-predictor", name)

    def _ingress(self, isvc: Document, conditions: dict[str, Document]) -> Document:
        if not self.gateway:
            return {"status": conditions["PredictorReady"]["status"]}
        namespace = isvc["metadata"]["namespace"]
        for route in self._route_names(isvc):
            found = self.store.objects.get((ROUTES, namespace, route))
            if found is None:
                return {
                    "status": "False",
                    "reason": "Predictor Deployment NotReady",
                    "message": "Predictor HTTPRoute not created",
                }
            parents = (found.get("status") or {}).get("parents") or []
            refused = [c for parent in parents for c in parent["conditions"] if c["status"] == "False"]
            if not parents or refused:
                return {"status": "False", "reason": "ParentStatusNotAvailable", "message": "HTTPRoute not ready"}
        return {"status": "True"}

    def _deploy(self, isvc: Document, predictor: Document) -> None:
        name, annotations = _service(isvc["metadata"]["name"], predictor), isvc["metadata"].get("annotations") or {}
        labels = {
            **(isvc["metadata"].get("labels") or {}),
            **(predictor.get("labels") or {}),
            _OF_SERVICE: isvc["metadata"]["name"],
            _COMPONENT: "predictor",
            "app": f"isvc.{name}",
        }
        metadata = {"labels": labels, "annotations": {**annotations, **(predictor.get("annotations") or {})}}
        container = {**predictor["model"], "name": "kserve-container"}
        document = {
            "metadata": {"name": name, "namespace": isvc["metadata"]["namespace"], **metadata},
            "spec": {
                "replicas": predictor.get("minReplicas", 1),
                "selector": {"matchLabels": {"app": f"isvc.{name}"}},
                "template": {"metadata": metadata, "spec": {"containers": [container]}},
            },
        }
        existing = self.store.objects.get((DEPLOYMENTS, isvc["metadata"]["namespace"], name))
        if existing is None:
            self.store.create(DEPLOYMENTS, document, "manager")
        elif existing["spec"] != document["spec"]:
            self.store.replace(DEPLOYMENTS, {**copy.deepcopy(existing), "spec": document["spec"]}, "manager")

    def _run(self, deployment: Document) -> None:
        """Act as the Deployment controller: the pod of a new template replaces the old one when it is ready."""
        metadata, replicas = deployment["metadata"], deployment["spec"]["replicas"]
        template = deployment["spec"]["template"]
        name, namespace = metadata["name"], metadata["namespace"]
        digest = str(abs(hash(str(template))) % 10**8)
        pod, old = f"{name}-{digest}", self._pod_of.get(name)
        ready = self.pods.ready(pod, namespace, template)
        serves_old = old is not None and old != pod
        if ready:
            if serves_old:
                self.pods.remove(str(old), namespace)
            self._pod_of[name] = pod
        available = replicas if ready or serves_old else 0
        conditions = [
            {"type": "Available", "status": "True" if available else "False", "reason": "MinimumReplicasUnavailable"},
            {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable" if ready else "ReplicaSetUpdated"},
        ]
        if self.pods.fate(template["metadata"]["labels"]) == "quota":
            message = 'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 2, limited: 2'
            conditions.append({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message})
        self.store.set_status(
            DEPLOYMENTS,
            deployment,
            {
                "observedGeneration": metadata["generation"],
                "replicas": replicas if ready or not serves_old else 2 * replicas,
                "updatedReplicas": replicas,
                "availableReplicas": available,
                "conditions": conditions,
            },
        )

    def _write_routes(self, isvc: Document, canaries: list[Document], readiness: dict[str, bool]) -> None:
        name, namespace = isvc["metadata"]["name"], isvc["metadata"]["namespace"]
        stable: Document = {
            "kind": "Service",
            "name": _service(name, isvc["spec"]["predictor"]),
            "namespace": namespace,
            "port": 80,
        }
        backends = [stable]
        if canaries and not self.before_0_21:
            ready = [canary for canary in canaries if readiness[canary["predictor"]["name"]]]
            stable["weight"] = 100 - sum(canary["trafficPercent"] for canary in ready)
            backends += [
                {**stable, "name": _service(name, canary["predictor"]), "weight": canary["trafficPercent"]} for canary in ready
            ]
        for route in self._route_names(isvc):
            spec = {"hostnames": [f"{route}.example.com"], "rules": [{"backendRefs": backends}]}
            existing = self.store.objects.get((ROUTES, namespace, route))
            if existing is None:
                self.store.create(ROUTES, {"metadata": {"name": route, "namespace": namespace}, "spec": spec}, "manager")
            elif existing["spec"] != spec:
                self.store.replace(ROUTES, {**copy.deepcopy(existing), "spec": spec}, "manager")

    def _route(self, isvc: Document) -> None:
        """Act as the gateway: what a route says is in force one tick after it was written."""
        namespace = isvc["metadata"]["namespace"]
        for route in self._route_names(isvc):
            found = self.store.objects.get((ROUTES, namespace, route))
            if found is None:
                continue
            generation, refused = found["metadata"]["generation"], self.gateway_refuses
            parents = (found.get("status") or {}).get("parents") or []
            if parents and parents[0]["conditions"][0]["observedGeneration"] == generation:
                refs = found["spec"]["rules"][0]["backendRefs"]
                self.weights[route] = {ref["name"]: ref.get("weight", 100) for ref in refs}
                continue
            accepted = {
                "type": "Accepted",
                "status": "False" if refused else "True",
                "reason": refused or "Accepted",
                "message": refused,
            }
            resolved = {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs"}
            conditions = [{**condition, "observedGeneration": generation} for condition in (accepted, resolved)]
            self.store.set_status(ROUTES, found, {"parents": [{"parentRef": {"name": "gateway"}, "conditions": conditions}]})

    def _notice_losses(self, isvc: Document) -> None:
        name, namespace = isvc["metadata"]["name"], isvc["metadata"]["namespace"]
        in_force = {service: weight for service, weight in self.weights.get(name, {}).items() if weight}
        if in_force and (not self.splits or self.splits[-1] != in_force):
            self.splits.append(in_force)
        for service, weight in self.weights.get(name, {}).items():
            deployment = self.store.objects.get((DEPLOYMENTS, namespace, service))
            if weight and (deployment is None or not (deployment.get("status") or {}).get("availableReplicas")):
                self.lost.append(f"{weight} % to {service}")

    def _delete(self, deployment: Document) -> None:
        name, namespace = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
        for pod in self.store.list("pods", namespace, f"app=isvc.{name}"):
            self.pods.remove(pod["metadata"]["name"], namespace)
        self._pod_of.pop(name, None)
        self.store.delete(DEPLOYMENTS, namespace, name)

    def _deployments(self, isvc: Document) -> list[Document]:
        name, namespace = isvc["metadata"]["name"], isvc["metadata"]["namespace"]
        return self.store.list(DEPLOYMENTS, namespace, f"{_OF_SERVICE}={name},{_COMPONENT}=predictor")

    def _read(self, isvc: Document, predictor: Document) -> Document:
        key = (DEPLOYMENTS, isvc["metadata"]["namespace"], _service(isvc["metadata"]["name"], predictor))
        return self.store.objects.get(key) or {}

    def _available(self, isvc: Document, predictor: Document) -> int:
        return int((self._read(isvc, predictor).get("status") or {}).get("availableReplicas", 0))


def _service(name: str, predictor: Document) -> str:
    return f"{name}-{predictor['name']}-predictor" if predictor.get("name") else f"{name}-predictor"


def _replicas(spec: Document, canary: Document) -> int:
    if canary["predictor"].get("minReplicas") is not None:
        return int(canary["predictor"]["minReplicas"])
    return math.ceil(spec["predictor"].get("minReplicas", 1) * canary["trafficPercent"] / 100)


def _merged(stable: Document, canary: Document) -> Document:
    """Merge as mergo does with override: maps deeply, all else replaced, empty values of the canary not at all."""
    result = copy.deepcopy(stable)
    for name, value in canary.items():
        if value in (None, "", [], {}, 0):
            continue
        result[name] = _merged(result.get(name) or {}, value) if isinstance(value, dict) else copy.deepcopy(value)
    return result
