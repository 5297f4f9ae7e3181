"""Every rule refuses what it is there for, one named case a rule; what names a Go function is KServe's, at aaac4e2."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tidegate.deployment.kserve.documents import knative_document, standard_document
from tidegate.deployment.kserve.rules import check_document, check_update
from tidegate.errors import DeploymentError

Document = dict[str, Any]
Change = Callable[[Document], Any]

MODE = "serving.kserve.io/deploymentMode"
SCALER = "serving.kserve.io/autoscalerClass"
KNATIVE_CLASS = "autoscaling.knative.dev/class"
HPA = {KNATIVE_CLASS: "hpa.autoscaling.knative.dev"}


def annotate(**annotations: str) -> Change:
    return lambda document: document["metadata"]["annotations"].update(annotations)


def metadata(**fields: Any) -> Change:
    return lambda document: document["metadata"].update(fields)


def stable(**fields: Any) -> Change:
    return lambda document: document["spec"]["predictor"].update(fields)


def model(**fields: Any) -> Change:
    return lambda document: document["spec"]["predictor"]["model"].update(fields)


def canary(**fields: Any) -> Change:
    return lambda document: document["spec"]["canary"][0]["predictor"].update(fields)


def canary_without(*names: str) -> Change:
    return lambda document: [document["spec"]["canary"][0]["predictor"].pop(name) for name in names]


def traffic(*percents: int) -> Change:
    def change(document: Document) -> None:
        [first] = document["spec"]["canary"]
        document["spec"]["canary"] = [
            {"trafficPercent": percent, "predictor": {**first["predictor"], "name": f"v{number}"}}
            for number, percent in enumerate(percents, start=2)
        ]

    return change


def component(name: str, **fields: Any) -> Change:
    return lambda document: document["spec"].update({name: fields})


def both(*changes: Change) -> Change:
    return lambda document: [change(document) for change in changes]


def hpa(**fields: Any) -> Change:
    return both(annotate(**{SCALER: "hpa"}), stable(**fields))


def keda(*metrics: Document, **fields: Any) -> Change:
    return both(annotate(**{SCALER: "keda"}), stable(autoScaling={"metrics": list(metrics)}, **fields))


def resource(name: str, **target: Any) -> Document:
    return {"type": "Resource", "resource": {"name": name, "target": target}}


def external(query: str = "up", **target: Any) -> Document:
    return {"type": "External", "external": {"metric": {"backend": "prometheus", "query": query}, "target": target}}


WEBHOOK = [
    pytest.param(metadata(name="2nd"), "metadata.name must match", id="validateInferenceServiceName"),
    pytest.param(annotate(**{SCALER: "kpa"}), "autoscalerClass is 'kpa'", id="validateInferenceServiceAutoscaler"),
    pytest.param(
        model(env=[{"name": "PYTHONPATH", "value": "/x"}]), "PYTHONPATH, which KServe blocks", id="blocked-variable-model"
    ),
    pytest.param(
        stable(containers=[{"name": "sidecar", "env": [{"name": "PYTHONPATH"}]}]),
        "KServe blocks",
        id="blocked-variable-container",
    ),
    pytest.param(
        stable(initContainers=[{"name": "first", "env": [{"name": "PYTHONPATH"}]}]), "KServe blocks", id="blocked-variable-init"
    ),
    pytest.param(
        component("transformer", containers=[{"name": "kserve-container", "env": [{"name": "PYTHONPATH"}]}]),
        "transformer sets PYTHONPATH",
        id="blocked-variable-transformer",
    ),
    pytest.param(stable(workerSpec={}), "no multi-node predictors", id="validateMultiNodeVariables"),
    pytest.param(stable(onnx={}), "it must hold one model", id="validateExactlyOneImplementation-two"),
    pytest.param(
        stable(containers=[{"name": "kserve-container"}]),
        "it must hold one model",
        id="validateExactlyOneImplementation-container",
    ),
    pytest.param(stable(model=None), "it must hold one model", id="validateExactlyOneImplementation-none"),
    pytest.param(model(name="mine"), "model.name 'mine' is not allowed", id="validatePredictor"),
    pytest.param(stable(storageUris=[{"uri": "s3://b/x/"}]), "cannot stand beside", id="validateMultipleStorageURIs"),
    pytest.param(model(confidential={"enabled": True}), "no confidential models", id="validateConfidential"),
    pytest.param(stable(containerConcurrency=-1), "containerConcurrency -1", id="validateContainerConcurrency"),
    pytest.param(stable(minReplicas=-1), "must be at least 0", id="validateReplicas-min"),
    pytest.param(stable(maxReplicas=-1), "must be at least 0", id="validateReplicas-max"),
    pytest.param(
        stable(minReplicas=3, maxReplicas=2), "minReplicas 3 must not exceed maxReplicas 2", id="validateReplicas-order"
    ),
    pytest.param(stable(maxReplicas=-1, minReplicas=0), "must be at least 0", id="validateReplicas-both"),
    pytest.param(stable(logger={"mode": "some"}), "logger.mode 'some'", id="validateLogger-mode"),
    pytest.param(
        stable(logger={"mode": "all", "storage": {"path": "p"}}), "needs path, parameters and key", id="validateLogger-storage"
    ),
    pytest.param(hpa(scaleMetric="rps"), "must be cpu or memory", id="validateHPAMetrics"),
    pytest.param(hpa(scaleMetric="cpu", scaleTarget=0), "between 1 and 100", id="validateScalingHPA-cpu-under"),
    pytest.param(hpa(scaleMetric="memory", scaleTarget=101), "between 1 and 100", id="validateScalingHPA-memory-over"),
    pytest.param(
        hpa(autoScaling={"metrics": [external(value="1")]}), "of type Resource only", id="validateScalingHPA-external"
    ),
    pytest.param(
        hpa(autoScaling={"metrics": [{"type": "Resource"}]}), "with their resource", id="validateScalingHPA-no-resource"
    ),
    pytest.param(
        keda(external(type="Value", value="1"), scaleMetric="cpu"), "scaleMetric is not for KEDA", id="validateScalingKeda"
    ),
    pytest.param(keda(), "without triggers", id="keda-schema-requires-triggers"),
    pytest.param(keda({"type": "Pods"}), "metric type 'Pods'", id="validateScalingKeda-type"),
    pytest.param(keda({"type": "Resource"}), "resource None must be cpu or memory", id="validateScalingKeda-no-resource"),
    pytest.param(keda(resource("disk", type="Value")), "'disk' must be cpu or memory", id="validateScalingKeda-resource"),
    pytest.param(
        keda(resource("cpu", type="Value", value="1")), "cpu must be of type Utilization", id="validateScalingKeda-cpu"
    ),
    pytest.param(
        keda(resource("memory", type="Value", value="1")), "memory must be Utilization or", id="validateScalingKeda-memory"
    ),
    pytest.param(
        keda(resource("memory", type="AverageValue", averageValue="1000k")),
        "at least 1Mi",
        id="validateScalingKeda-memory-little",
    ),
    pytest.param(keda(external(query="", type="Value", value="1")), "needs a query", id="validateScalingKeda-query"),
    pytest.param(keda(external(type="Value")), "needs target.value", id="validateScalingKeda-value"),
    pytest.param(keda({"type": "PodMetric"}), "type PodMetric needs a query", id="validateScalingKeda-pod-metric"),
    pytest.param(keda(resource("cpu", type="Utilization")), "needs averageUtilization", id="validateScaleTarget-utilization"),
    pytest.param(
        keda(resource("cpu", type="Utilization", averageUtilization=101)), "between 1 and 100", id="validateTargetUtilization"
    ),
    pytest.param(
        keda(resource("memory", type="AverageValue", averageValue=None)), "at least 1Mi", id="validateScaleTarget-average"
    ),
    pytest.param(keda(external(type="AverageValue", value="1")), "needs averageValue", id="validateScaleTarget-value"),
    pytest.param(traffic(-1), r"canary\[0\].trafficPercent -1", id="validateCanarySpecs-percent-under"),
    pytest.param(traffic(101), r"trafficPercent 101 must lie", id="validateCanarySpecs-percent-over"),
    pytest.param(traffic(60, 45), "add up to 105", id="validateCanarySpecs-sum"),
    pytest.param(canary_without("name"), "predictor.name is required", id="validateCanarySpecs-name"),
    pytest.param(canary(name="v1"), "'v1' is the name of another predictor", id="validateCanarySpecs-stable-name"),
    pytest.param(
        both(traffic(5, 5), lambda document: document["spec"]["canary"][1]["predictor"].update(name="v2")),
        r"canary\[1\].predictor.name 'v2' is the name of another",
        id="validateCanarySpecs-duplicate",
    ),
    pytest.param(canary(onnx={}), r"canary\[0\].predictor holds onnx, model", id="validateCanarySpecs-implementation"),
    pytest.param(canary(logger={"mode": "x"}), r"canary\[0\].predictor.logger.mode", id="validateCanarySpecs-extensions"),
    pytest.param(canary(workerSpec={}), r"canary\[0\].predictor.workerSpec", id="validateCanarySpecs-worker"),
    pytest.param(canary(maxReplicas=1), "maxReplicas must not be set", id="validateCanarySpecs-maxReplicas"),
    pytest.param(canary(scaleTarget=1), "scaleTarget must not be set", id="validateCanarySpecs-scaleTarget"),
    pytest.param(canary(scaleMetric="cpu"), "scaleMetric must not be set", id="validateCanarySpecs-scaleMetric"),
    pytest.param(canary(autoScaling={"metrics": []}), "autoScaling must not be set", id="validateCanarySpecs-autoScaling"),
    pytest.param(canary(minReplicas=2), "minReplicas 2 must not exceed the stable's, 1", id="validateCanarySpecs-minReplicas"),
    pytest.param(annotate(**{MODE: "Knative"}), "spec.canary is for Standard mode", id="validateCanarySpecs-mode"),
]

OWN = [
    pytest.param(lambda document: document["metadata"]["annotations"].pop(MODE), "set it to Standard or Knative", id="no-mode"),
    pytest.param(annotate(**{MODE: "RawDeployment"}), "'RawDeployment'; set it to Standard or Knative", id="former-mode"),
    pytest.param(lambda document: document.update(kind="ServingRuntime"), "it must be a", id="another-kind"),
    pytest.param(stable(canaryTrafficPercent=5), "ignored in Standard mode; use spec.canary", id="percent-in-standard-mode"),
    pytest.param(model(storageUri="s3://bucket/1"), "must end in '/'", id="storage-uri-without-slash"),
    pytest.param(model(storageUri="file:///data/1/"), "nothing that a pod reaches", id="storage-uri-on-this-machine"),
    pytest.param(model(storageUri=None), "nothing that a pod reaches", id="no-storage-uri"),
    pytest.param(model(protocolVersion=None), "protocolVersion None must be v2", id="no-protocol"),
    pytest.param(model(runtime=None), "runtime is required", id="no-runtime"),
    pytest.param(model(modelFormat={}), "modelFormat.name is required", id="no-model-format"),
    pytest.param(both(traffic(0), canary_without("minReplicas")), "must be at least 1", id="canary-at-zero-without-replicas"),
    pytest.param(canary(minReplicas=0), "must be at least 1", id="canary-with-no-replica"),
    pytest.param(canary_without("serviceAccountName"), "lacks serviceAccountName", id="canary-inherits-a-field"),
    pytest.param(
        both(model(resources={"limits": {"nvidia.com/gpu": "1"}}), canary(nodeSelector={})),
        "lacks model.resources.limits.nvidia.com/gpu",
        id="canary-inherits-the-stables-gpu",
    ),
    pytest.param(stable(minReplicas=0), "needs KEDA in Standard mode", id="standard-to-zero-without-keda"),
    pytest.param(metadata(name="a" * 43), "would have .* characters, at most 63", id="host-too-long"),
    pytest.param(metadata(namespace="n" * 45), "shorten the project's name or the namespace's", id="namespace-too-long"),
    pytest.param(metadata(name="a" * 46, namespace="n"), "pods' label app", id="label-too-long"),
    pytest.param(metadata(labels={"team": "two words"}), "'two words' is not a label's value", id="label-value"),
    pytest.param(stable(nodeSelector={"no good": "x"}), "'no good' is not a label's name", id="node-selector-name"),
    pytest.param(stable(nodeSelector={"UPPER.com/x": "x"}), "is not a label's name", id="node-selector-prefix"),
    pytest.param(stable(nodeSelector={"pool": "x" * 64}), "at most 63", id="node-selector-value"),
    pytest.param(
        stable(tolerations=[{"key": "spot", "operator": "Exists", "value": "yes"}]),
        "operator Exists and a value",
        id="toleration",
    ),
    pytest.param(stable(tolerations=[{"key": "a b"}]), "'a b' is not a label's name", id="toleration-key"),
    pytest.param(model(env=[{"name": "A B", "value": ""}]), "'A B' is not a variable's name", id="variable-name"),
    pytest.param(model(env=[{"name": "A"}, {"name": "A"}]), "A is given 2 times", id="variable-twice"),
    pytest.param(model(resources={"limits": {"nvidia.com/gpu": "500m"}}), "must be a whole number", id="half-a-gpu"),
    pytest.param(
        model(resources={"limits": {"nvidia.com/gpu": "2"}, "requests": {"nvidia.com/gpu": "1"}}),
        "must be the same in requests and limits",
        id="gpu-requests",
    ),
    pytest.param(lambda document: document.pop("spec"), "document is malformed", id="no-spec"),
    pytest.param(lambda document: document.update(spec=[]), "document is malformed", id="spec-is-a-list"),
    pytest.param(lambda document: document.pop("metadata"), "document is malformed", id="no-metadata"),
    pytest.param(stable(minReplicas="1"), "document is malformed", id="replicas-are-a-string"),
]

KNATIVE = [
    pytest.param(stable(canaryTrafficPercent=101), "canaryTrafficPercent 101 must lie", id="percent-over"),
    pytest.param(stable(canaryTrafficPercent=-1), "canaryTrafficPercent -1 must lie", id="percent-under"),
    pytest.param(
        stable(deploymentStrategy={"type": "Recreate"}), "deploymentStrategy is for Standard", id="validateScalingKPA-strategy"
    ),
    pytest.param(stable(scaleMetric="cpu"), "must be concurrency or rps", id="validateKPAMetrics"),
    pytest.param(stable(scaleMetric="rps", scaleTarget=0), "at least 1 request a second", id="validateScalingKPA-rps"),
    pytest.param(
        stable(annotations={"autoscaling.knative.dev/metric": "memory"}), "needs the class hpa", id="memory-without-its-class"
    ),
    pytest.param(both(annotate(**HPA), stable(scaleMetric="rps")), "must be cpu or memory", id="validateScalingHPA-metric"),
    pytest.param(both(annotate(**HPA), stable(minReplicas=0)), "never scales to zero", id="hpa-to-zero"),
    pytest.param(metadata(name="a" * 47, namespace="n"), "host of the latest revision", id="tagged-host-too-long"),
    pytest.param(metadata(name="a" * 45, namespace="n" * 20), "the host, ", id="host-too-long"),
]


@pytest.fixture
def standard(cluster, service) -> Document:
    return copy.deepcopy(standard_document(service, cluster()))


@pytest.fixture
def knative(cluster, service, v2) -> Document:
    return copy.deepcopy(knative_document(service, cluster(mode="Knative"), latest=v2, percent=5))


@pytest.mark.parametrize(("change", "message"), [*WEBHOOK, *OWN])
def test_a_standard_document_is_refused(standard, change, message):
    check_document(standard)
    change(standard)

    with pytest.raises(DeploymentError, match=message) as refusal:
        check_document(standard)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("change", "message"), KNATIVE)
def test_a_knative_document_is_refused(knative, change, message):
    check_document(knative)
    change(knative)

    with pytest.raises(DeploymentError, match=message):
        check_document(knative)


ALLOWED = [
    pytest.param(keda(external(type="Value", value="10")), id="keda-prometheus"),
    pytest.param(keda(resource("memory", type="AverageValue", averageValue="512Mi")), id="keda-memory-value"),
    pytest.param(keda(resource("cpu", type="Utilization", averageUtilization=80)), id="keda-cpu"),
    pytest.param(hpa(scaleMetric="memory", scaleTarget=100, maxReplicas=2), id="hpa-at-its-bound"),
    pytest.param(traffic(50, 50), id="two-canaries-with-everything"),
    pytest.param(model(env=[{"name": "PYTHONPATHS", "value": ""}]), id="a-variable-like-a-blocked-one"),
    pytest.param(stable(maxReplicas=0), id="no-upper-bound"),
    pytest.param(component("transformer", containers=[{"name": "kserve-container"}], minReplicas=1), id="transformer"),
    pytest.param(model(storageUri="pvc://claim/1"), id="a-claim-needs-no-slash"),
    pytest.param(metadata(labels={"node.kubernetes.io/instance-type": ""}), id="empty-label-value"),
]


@pytest.mark.parametrize("change", ALLOWED)
def test_what_kserve_accepts_is_accepted(standard, change):
    change(standard)

    check_document(standard)


UPDATES = [
    pytest.param(
        stable(name="v2"), "predictor.name cannot change from 'v1' to 'v2' while storageUri", id="validatePredictorNameChange"
    ),
    pytest.param(annotate(**{MODE: "Knative"}), "cannot change from Standard to Knative", id="validateDeploymentMode"),
]


@pytest.mark.parametrize(("change", "message"), UPDATES)
def test_a_change_is_refused(standard, change, message):
    running = {**copy.deepcopy(standard), "status": {"deploymentMode": "Standard"}}
    change(standard)

    with pytest.raises(DeploymentError, match=message):
        check_update(running, standard)


def test_a_change_from_a_former_modes_name_is_none(standard):
    check_update({**standard, "status": {"deploymentMode": "RawDeployment"}}, standard)


def test_before_the_controller_wrote_a_status_the_mode_may_change(standard):
    running = copy.deepcopy(standard)
    annotate(**{MODE: "Knative"})(standard)

    check_update(running, standard)


def test_a_promotion_is_an_allowed_change(cluster, service):
    check_update(standard_document(service, cluster()), standard_document(service.promoted(), cluster()))


def test_from_canaries_to_in_place_the_version_must_change_too(cluster, service):
    alone = service.rolled_back()
    named, in_place = standard_document(alone, cluster()), standard_document(alone, cluster(), in_place=True)

    with pytest.raises(DeploymentError, match="deploy another version with it"):
        check_update(named, in_place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(stable(maxReplica=3), "'maxReplica' was unexpected", id="predictor"),
        pytest.param(canary(modle={}), "'modle' was unexpected", id="canary"),
        pytest.param(model(modelFormat="onnx"), "is not of type 'object'", id="wrong-type"),
        pytest.param(stable(scaleMetric="gpu"), "is not one of", id="not-in-the-enumeration"),
    ],
)
def test_the_schema_notices_what_no_field_is_for(standard, schema_errors, change, message):
    assert schema_errors(standard) == []
    change(standard)

    assert any(message in error for error in schema_errors(standard))
