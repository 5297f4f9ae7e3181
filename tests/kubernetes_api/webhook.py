"""KServe's admission webhooks and schema, as far as Tidegate's documents meet them.

Transcribed from kserve/kserve, commit aaac4e294dae (August 2026, after v0.20.0):
pkg/apis/serving/v1beta1/inference_service_defaults.go and inference_service_validation.go.
"""

import functools
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

from tests.kubernetes_api.api_server import Document, Refused

DEFINITION = Path(__file__).parents[3] / "shared/specs/crds/serving.kserve.io_inferenceservices.yaml"
_MODE = "serving.kserve.io/deploymentMode"
_CANONICAL = {"1000m": "1", "500m": "500m", "1024Mi": "1Gi", "2048Mi": "2Gi"}


def check_schema(old: Document | None, new: Document) -> None:
    """Refuse what the custom resource's definition does not know; nothing is checked where the definition is not at hand."""
    if not DEFINITION.exists():
        return
    errors = [f"{'.'.join(map(str, error.path))}: {error.message}" for error in _schema().iter_errors(new)]
    if errors:
        raise Refused(422, "Invalid", f"InferenceService is invalid: {errors[0]}")


def set_defaults(old: Document | None, new: Document) -> None:
    """Write what InferenceServiceDefaulter.Default writes, and what a Go structure does to empty values and quantities."""
    annotations = new["metadata"].setdefault("annotations", {})
    predictor = new["spec"]["predictor"]
    annotations.setdefault("modelFormat", predictor["model"]["modelFormat"]["name"])
    new["spec"] = _as_go_writes_it(new["spec"])
    new["spec"]["predictor"].setdefault("automountServiceAccountToken", False)
    for component in (new["spec"]["predictor"], *(canary["predictor"] for canary in new["spec"].get("canary") or ())):
        component["model"].setdefault("name", "")
        component["model"].setdefault("resources", {})


def validate(old: Document | None, new: Document) -> None:
    """Apply ValidateUpdate's and validateCanarySpecs' rules, with their messages."""
    mode, spec = new["metadata"]["annotations"].get(_MODE), new["spec"]
    if old is not None:
        before = (old.get("status") or {}).get("deploymentMode")
        if before and mode != before:
            _deny(f"update rejected: deploymentMode cannot be changed from '{before}' to '{mode}'")
        former, predictor = old["spec"]["predictor"], spec["predictor"]
        same_model = former["model"].get("storageUri") == predictor["model"].get("storageUri")
        if former.get("name", "") != predictor.get("name", "") and same_model:
            _deny("predictor.name change requires a model change (e.g. storageUri)")
    canaries = spec.get("canary") or []
    if canaries and mode != "Standard":
        _deny("canary is only supported in Standard deployment mode")
    names: set[str] = set()
    for index, canary in enumerate(canaries):
        name = canary["predictor"].get("name", "")
        if not name:
            _deny(f"canary[{index}] predictor.name is required")
        if name in names:
            _deny(f'canary predictor.name "{name}" is duplicated')
        names.add(name)
        if name == spec["predictor"].get("name", ""):
            _deny(f'canary predictor.name "{name}" conflicts with stable predictor name')
        for field in ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling"):
            if canary["predictor"].get(field):
                _deny(f'canary "{name}" must not set {field} (canary uses fixed replicas)')
        least, stable = canary["predictor"].get("minReplicas"), spec["predictor"].get("minReplicas", 1)
        if least is not None and least > stable:
            _deny(f'canary "{name}" minReplicas ({least}) must not exceed stable predictor minReplicas ({stable})')
    total = sum(canary["trafficPercent"] for canary in canaries)
    if total > 100:
        _deny(f"sum of canary trafficPercent values ({total}) must be <= 100")


def _deny(message: str) -> None:
    name = "inferenceservice.kserve-webhook-server.validator"
    raise Refused(403, "Forbidden", f'admission webhook "{name}" denied the request: {message}')


def _as_go_writes_it(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_go_writes_it(inner) for name, inner in value.items() if inner not in (None, "", [], {})}
    if isinstance(value, list):
        return [_as_go_writes_it(inner) for inner in value]
    return _CANONICAL.get(value, value) if isinstance(value, str) else value


@functools.cache
def _schema() -> Draft7Validator:
    spec = yaml.load(DEFINITION.read_text(), Loader=yaml.CSafeLoader)["spec"]
    version = next(version for version in spec["versions"] if version["name"] == "v1beta1")
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}, "status": {}}
    return Draft7Validator(schema)


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _strict(part) for name, part in schema.items()}
    if inner.get("type") == "object" and not inner.get("x-kubernetes-preserve-unknown-fields"):
        inner.setdefault("additionalProperties", False)
    return inner
