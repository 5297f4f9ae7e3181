"""The InferenceService documents Tidegate writes: KServe v1beta1, Standard deployment mode, canaries in `spec.canary`.

A `Service` is what a rollout reasons about: a stable revision and at most one canary with its percentage. It maps to and
from the KServe document without loss, so the same document serves the local target and a cluster:

    service = Service(name="flights-late", namespace="default", stable=Revision(name="v1", storage_uri="s3://b/m/1/"))
    service = service.with_canary(Revision(name="v2", storage_uri="s3://b/m/2/"), percent=5)
    service = service.promoted()            # v2 is the stable now; or: service.rolled_back()
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any, Self

from tidegate.errors import DeploymentError

API_VERSION = "serving.kserve.io/v1beta1"
MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Revision:
    """One deployed version: the predictor's name (such as `v3`), where its package lies, and its settings.

    Attributes:
        name: Unique among the revisions of a service; matches `^[a-z]([-a-z0-9]*[a-z0-9])?$`.
        storage_uri: `file:///…/` or `s3://…/`, always ending in `/` (without it `…/1` also names `…/10`).
        env: Settings of the model server, such as `TIDEGATE_ONLINE_STORE`; never secrets.
        min_replicas: Replicas kept even without traffic.
    """

    name: str
    storage_uri: str
    env: dict[str, str] = field(default_factory=dict)
    min_replicas: int = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DeploymentError(f"revision name {self.name!r} must match {_NAME.pattern!r}, such as 'v3'")
        if not self.storage_uri.endswith("/"):
            raise DeploymentError(f"storage uri {self.storage_uri!r} of revision {self.name} must end in '/'")

    def to_predictor(self) -> dict[str, Any]:
        """Return the KServe predictor of this revision."""
        return {
            "name": self.name,
            "minReplicas": self.min_replicas,
            "model": {
                "modelFormat": {"name": "onnx"},
                "protocolVersion": "v2",
                "runtime": "tidegate-onnx",
                "storageUri": self.storage_uri,
                "env": [{"name": key, "value": value} for key, value in sorted(self.env.items())],
            },
        }

    @classmethod
    def from_predictor(cls, predictor: dict[str, Any]) -> Self:
        """Read a KServe predictor; raises DeploymentError if it is not one that Tidegate wrote."""
        try:
            model = predictor["model"]
            return cls(
                name=predictor["name"],
                storage_uri=model["storageUri"],
                env={entry["name"]: entry["value"] for entry in model.get("env", [])},
                min_replicas=predictor.get("minReplicas", 1),
            )
        except (KeyError, TypeError) as error:
            raise DeploymentError(f"predictor is malformed: {error!r}; name, model.storageUri are required") from error


@dataclass(frozen=True, slots=True)
class Service:
    """A stable revision and at most one canary that gets `canary_percent` of the traffic (0 to 100)."""

    name: str
    namespace: str
    stable: Revision
    canary: Revision | None = None
    canary_percent: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DeploymentError(f"service name {self.name!r} must match {_NAME.pattern!r}")
        if not 0 <= self.canary_percent <= 100:
            raise DeploymentError(f"canary percent {self.canary_percent} must lie between 0 and 100")
        if self.canary is None and self.canary_percent:
            raise DeploymentError(f"canary percent {self.canary_percent} without a canary; name one")
        if self.canary is not None and self.canary.name == self.stable.name:
            raise DeploymentError(f"the canary must not share the stable revision's name {self.stable.name!r}")

    def with_canary(self, canary: Revision, percent: int) -> "Service":
        """Return this service with `canary` at `percent` of the traffic."""
        return replace(self, canary=canary, canary_percent=percent)

    def promoted(self) -> "Service":
        """Return this service with its canary as the stable; raises DeploymentError without one."""
        if self.canary is None:
            raise DeploymentError(f"service {self.name} has no canary to promote")
        return replace(self, stable=self.canary, canary=None, canary_percent=0)

    def rolled_back(self) -> "Service":
        """Return this service without its canary."""
        return replace(self, canary=None, canary_percent=0)

    def to_document(self) -> dict[str, Any]:
        """Return the KServe InferenceService document."""
        spec: dict[str, Any] = {"predictor": self.stable.to_predictor()}
        if self.canary is not None:
            spec["canary"] = [{"trafficPercent": self.canary_percent, "predictor": self.canary.to_predictor()}]
        return {
            "apiVersion": API_VERSION,
            "kind": "InferenceService",
            "metadata": {"name": self.name, "namespace": self.namespace, "annotations": {MODE_ANNOTATION: "Standard"}},
            "spec": spec,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read an InferenceService document; raises DeploymentError on anything Tidegate does not write."""
        try:
            return cls._from_document(document)
        except (KeyError, TypeError, AttributeError) as error:
            raise DeploymentError(f"InferenceService document is malformed: {error!r}") from error

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Self:
        metadata, spec = document["metadata"], document["spec"]
        mode = metadata.get("annotations", {}).get(MODE_ANNOTATION)
        if mode != "Standard":
            raise DeploymentError(f"annotation {MODE_ANNOTATION} is {mode!r}; spec.canary needs 'Standard'")
        if "canaryTrafficPercent" in spec["predictor"]:
            raise DeploymentError("predictor.canaryTrafficPercent is ignored in Standard mode; use spec.canary")
        canaries = spec.get("canary", [])
        if len(canaries) > 1:
            raise DeploymentError(f"spec.canary holds {len(canaries)} canaries; one is supported")
        return cls(
            name=metadata["name"],
            namespace=metadata.get("namespace", "default"),
            stable=Revision.from_predictor(spec["predictor"]),
            canary=Revision.from_predictor(canaries[0]["predictor"]) if canaries else None,
            canary_percent=canaries[0]["trafficPercent"] if canaries else 0,
        )
