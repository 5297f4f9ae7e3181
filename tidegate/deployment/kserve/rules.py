"""The rules by which KServe's webhooks and Kubernetes refuse an InferenceService, checked before it is sent.

A rule that names a Go function is that function of pkg/apis/serving/v1beta1/inference_service_validation.go, unless it
names another file, in github.com/kserve/kserve at aaac4e2 (August 2026). The others are Tidegate's own: KServe or Kubernetes
accepts the document, and then ignores what it says or never gets it to run. Multi-node predictors and confidential models,
which the webhook has rules for, are refused as a whole: Tidegate runs neither.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from tidegate.deployment.inference_service import API_VERSION, MODE_ANNOTATION
from tidegate.deployment.kserve.naming import AUTOSCALER_ANNOTATION
from tidegate.deployment.kserve.pod_rules import check_labels, check_names, check_pod
from tidegate.deployment.kserve.scaling_rules import check_replicas, check_scaling
from tidegate.errors import DeploymentError

Document = dict[str, Any]

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_AUTOSCALERS = ("hpa", "external", "keda", "none")
_BLOCKED_VARIABLES = ("PYTHONPATH",)
_FRAMEWORKS = (
    "sklearn",
    "xgboost",
    "tensorflow",
    "pytorch",
    "triton",
    "onnx",
    "huggingface",
    "pmml",
    "lightgbm",
    "paddle",
    "model",
)
_STORAGE = (
    "gs://",
    "s3://",
    "pvc://",
    "https://",
    "http://",
    "hdfs://",
    "webhdfs://",
    "oci://",
    "oci+native://",
    "oci+fetch://",
    "hf://",
)
_FOLDERS = ("s3://", "gs://", "hdfs://", "webhdfs://")
_LOGGER_MODES = ("all", "request", "response")
_FIXED_IN_A_CANARY = ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling")
_NOT_INHERITED = (*_FIXED_IN_A_CANARY, "minReplicas", "deploymentStrategy", "canaryTrafficPercent")


def check_document(document: Document) -> None:
    """Check an InferenceService by itself.

    Raises:
        DeploymentError: A rule is broken, the first one found; the message says which field, and what would do.
    """
    _explained(document, _check)


def check_update(running: Document, document: Document) -> None:
    """Check whether the InferenceService that is `running` may become `document`.

    Raises:
        DeploymentError: KServe would refuse the change.
    """
    _explained(document, lambda document: _check_change(running, document))


def _explained(document: Document, check: Callable[[Document], None]) -> None:
    try:
        check(document)
    except DeploymentError as error:
        name = (document.get("metadata") or {}).get("name")
        raise DeploymentError(f"InferenceService {name}: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise DeploymentError(f"InferenceService document is malformed: {error!r}") from error


def _check(document: Document) -> None:
    mode = _check_mode(document)
    _check_name(document)
    _check_autoscaler_class(document)
    annotations, spec = document["metadata"]["annotations"], document["spec"]
    for component, fields in _components(spec):
        _check_blocked_variables(component, fields)
        _check_extensions(component, fields)
        check_scaling(mode, annotations, component, fields)
    _check_predictor("predictor", spec["predictor"])
    check_pod("predictor", spec["predictor"])
    _check_dialect(mode, spec)
    _check_canaries(spec)
    check_labels("metadata.labels", document["metadata"].get("labels") or {})
    check_names(mode, document)


def _components(spec: Document) -> Iterator[tuple[str, Document]]:
    for component in ("predictor", "transformer", "explainer"):
        if spec.get(component) is not None:
            yield component, spec[component]


def _check_mode(document: Document) -> str:
    """Own: without the annotation, or with a name KServe no longer uses, the cluster's configuration decides."""
    if document["apiVersion"] != API_VERSION or document["kind"] != "InferenceService":
        raise DeploymentError(f"is a {document['apiVersion']} {document['kind']}; it must be a {API_VERSION} InferenceService")
    mode = (document["metadata"].get("annotations") or {}).get(MODE_ANNOTATION)
    if mode not in ("Standard", "Knative"):
        raise DeploymentError(f"annotation {MODE_ANNOTATION} is {mode!r}; set it to Standard or Knative")
    return str(mode)


def _check_name(document: Document) -> None:
    """Check the name: validateInferenceServiceName."""
    if not _NAME.fullmatch(document["metadata"]["name"]):
        raise DeploymentError(f"metadata.name must match {_NAME.pattern!r}, such as 'flights-late'")


def _check_autoscaler_class(document: Document) -> None:
    """Check the class: validateInferenceServiceAutoscaler."""
    scaler = document["metadata"]["annotations"].get(AUTOSCALER_ANNOTATION, "none")
    if scaler not in _AUTOSCALERS:
        raise DeploymentError(f"annotation {AUTOSCALER_ANNOTATION} is {scaler!r}; use one of {', '.join(_AUTOSCALERS)}")


def _check_blocked_variables(component: str, fields: Document) -> None:
    """Check variables: validateBlockedEnvVars; pkg/validation/env_policy.go, DefaultBlockedEnvVars."""
    containers = [*(fields.get("containers") or []), *(fields.get("initContainers") or [])]
    containers += [fields[framework] for framework in (*_FRAMEWORKS, "art") if isinstance(fields.get(framework), dict)]
    for container in containers:
        for variable in container.get("env") or []:
            if variable["name"] in _BLOCKED_VARIABLES:
                raise DeploymentError(f"{component} sets {variable['name']}, which KServe blocks; put the code into the image")


def _check_extensions(component: str, fields: Document) -> None:
    """Check concurrency, replicas and logger: ComponentExtensionSpec.Validate in component.go."""
    concurrency = fields.get("containerConcurrency")
    if concurrency is not None and concurrency < 0:
        raise DeploymentError(f"{component}.containerConcurrency {concurrency} must be at least 0, which is no limit")
    check_replicas(component, fields)
    logger = fields.get("logger")
    if logger is None:
        return
    if logger.get("mode") not in _LOGGER_MODES:
        raise DeploymentError(f"{component}.logger.mode {logger.get('mode')!r} must be one of {', '.join(_LOGGER_MODES)}")
    storage = logger.get("storage")
    if storage is not None and not all(storage.get(name) for name in ("path", "parameters", "key")):
        raise DeploymentError(f"{component}.logger.storage needs path, parameters and key")


def _check_predictor(where: str, predictor: Document) -> None:
    """Check the model: validateExactlyOneImplementation in component.go, validatePredictor, validateMultipleStorageURIs."""
    if predictor.get("workerSpec") is not None:
        raise DeploymentError(f"{where}.workerSpec: Tidegate runs no multi-node predictors; remove it")
    chosen = [framework for framework in _FRAMEWORKS if predictor.get(framework) is not None]
    containers = [container.get("name") for container in predictor.get("containers") or []]
    if len(chosen) + containers.count("kserve-container") + (not chosen and bool(containers)) > 1 or chosen != ["model"]:
        raise DeploymentError(
            f"{where} holds {', '.join([*chosen, *map(str, containers)]) or 'no model'}; it must hold one model"
        )
    model = predictor["model"]
    if model.get("name"):
        raise DeploymentError(f"{where}.model.name {model['name']!r} is not allowed; KServe names the container")
    if not model.get("modelFormat", {}).get("name"):
        raise DeploymentError(f"{where}.model.modelFormat.name is required, such as onnx")
    if (model.get("confidential") or {}).get("enabled"):
        raise DeploymentError(f"{where}.model.confidential: Tidegate serves no confidential models; remove it")
    if predictor.get("storageUris") is not None:
        raise DeploymentError(f"{where}.storageUris cannot stand beside model.storageUri; remove it")
    _check_model(where, model)


def _check_model(where: str, model: Document) -> None:
    """Own, and isvcutils.ValidateStorageURI (pkg/controller/v1beta1/inferenceservice/utils/utils.go)."""
    uri = model.get("storageUri") or ""
    if not uri.startswith(_STORAGE):
        raise DeploymentError(f"{where}.model.storageUri {uri!r} is nothing that a pod reaches; use 's3://bucket/prefix/'")
    if uri.startswith(_FOLDERS) and not uri.endswith("/"):
        raise DeploymentError(f"{where}.model.storageUri {uri!r} must end in '/', or it also names what starts like it")
    if model.get("protocolVersion") != "v2":
        raise DeploymentError(
            f"{where}.model.protocolVersion {model.get('protocolVersion')!r} must be v2; onnx without it means v1"
        )
    if not model.get("runtime"):
        raise DeploymentError(f"{where}.model.runtime is required, such as tidegate-onnx; KServe would choose one by itself")


def _check_dialect(mode: str, spec: Document) -> None:
    """Own: KServe ignores canaryTrafficPercent in Standard mode (kserve#5335), and nothing checks its range."""
    percent = spec["predictor"].get("canaryTrafficPercent")
    if percent is not None and mode == "Standard":
        raise DeploymentError("predictor.canaryTrafficPercent is ignored in Standard mode; use spec.canary")
    if percent is not None and not 0 <= percent <= 100:
        raise DeploymentError(f"predictor.canaryTrafficPercent {percent} must lie between 0 and 100")
    if spec.get("canary") and mode != "Standard":  # validateCanarySpecs
        raise DeploymentError(f"spec.canary is for Standard mode, and the mode is {mode}; use predictor.canaryTrafficPercent")


def _check_canaries(spec: Document) -> None:
    """validateCanarySpecs; what the replicas and the inheritance must be is our own."""
    stable, canaries = spec["predictor"], spec.get("canary") or []
    names = [stable.get("name")]
    for number, canary in enumerate(canaries):
        where, predictor = f"canary[{number}]", canary["predictor"]
        name = predictor.get("name")
        if not name:
            raise DeploymentError(f"{where}.predictor.name is required")
        if name in names:
            raise DeploymentError(f"{where}.predictor.name {name!r} is the name of another predictor already")
        names.append(name)
        percent = canary["trafficPercent"]
        if not 0 <= percent <= 100:
            raise DeploymentError(f"{where}.trafficPercent {percent} must lie between 0 and 100")
        _check_predictor(f"{where}.predictor", predictor)
        check_pod(f"{where}.predictor", predictor)
        _check_blocked_variables(f"{where}.predictor", predictor)
        _check_extensions(f"{where}.predictor", predictor)
        _check_canary_replicas(where, canary, stable)
        for field in _inherited(stable, predictor):
            raise DeploymentError(
                f"{where}.predictor lacks {field}, which KServe would take from the stable; give it or drop both"
            )
    total = sum(canary["trafficPercent"] for canary in canaries)
    if total > 100:
        raise DeploymentError(f"the canaries' trafficPercent add up to {total}; at most 100 is possible")


def _check_canary_replicas(where: str, canary: Document, stable: Document) -> None:
    """validateCanarySpecs; a canary without a replica never becomes ready (components/predictor.go, canaryReplicaCount)."""
    predictor = canary["predictor"]
    for field in _FIXED_IN_A_CANARY:
        if predictor.get(field):
            raise DeploymentError(f"{where}.predictor.{field} must not be set: the number of a canary's replicas is fixed")
    least, replicas = stable.get("minReplicas", 1), predictor.get("minReplicas")
    if replicas is not None and replicas > least:
        raise DeploymentError(f"{where}.predictor.minReplicas {replicas} must not exceed the stable's, {least}")
    if replicas == 0 or (replicas is None and (canary["trafficPercent"] == 0 or least == 0)):
        raise DeploymentError(f"{where}.predictor.minReplicas must be at least 1, or the canary never becomes ready")


def _inherited(stable: Document, canary: Document, path: str = "") -> Iterator[str]:
    """Yield what a canary gets from the stable, since it is merged over it (components/predictor.go, buildCanaryPredictor)."""
    for key, value in stable.items():
        if not path and key in _NOT_INHERITED:
            continue
        own = canary.get(key)
        if value and not own:
            yield f"{path}{key}"
        elif isinstance(value, dict) and isinstance(own, dict):
            yield from _inherited(value, own, f"{path}{key}.")


def _check_change(running: Document, document: Document) -> None:
    """Check a change: validateDeploymentMode and validatePredictorNameChange."""
    was = (running.get("status") or {}).get("deploymentMode")
    mode = document["metadata"]["annotations"].get(MODE_ANNOTATION)
    if was and mode and {"RawDeployment": "Standard", "Serverless": "Knative"}.get(was, was) != mode:
        raise DeploymentError(f"the deployment mode cannot change from {was} to {mode}; delete the InferenceService first")
    before, after = running["spec"]["predictor"], document["spec"]["predictor"]
    if before.get("name") != after.get("name") and before["model"]["storageUri"] == after["model"]["storageUri"]:
        raise DeploymentError(
            f"predictor.name cannot change from {before.get('name')!r} to {after.get('name')!r} while storageUri stays "
            f"{after['model']['storageUri']!r}; deploy another version with it"
        )
