"""The pods that KServe makes of a document and its runtime: valid for Kubernetes, and within the profile `restricted`.

KServe merges the predictor over the runtime as `kubectl patch` would (pkg/controller/v1beta1/inferenceservice/utils/utils.go,
MergeRuntimeContainers and MergePodSpec; KServe at aaac4e2). `merged` does the same for the lists that occur here.
"""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tidegate.deployment.kserve.documents import knative_document, standard_document

RUNTIMES = Path(__file__).parents[4] / "kserve/runtimes"
KUBERNETES = "1.32"
KEYS = {"env": "name", "volumes": "name", "volumeMounts": "mountPath", "ports": "containerPort"}  # of lists that are merged
POD_FIELDS = (
    "nodeSelector",
    "affinity",
    "tolerations",
    "runtimeClassName",
    "serviceAccountName",
    "topologySpreadConstraints",
    "volumes",
)

GPU = {"accelerator": {"shared_memory": "2Gi", "node_selector": {"nvidia.com/gpu.product": "NVIDIA-L4"}}}
SERVING = [
    pytest.param({}, id="cpu"),
    pytest.param({"spread": True, "node_selector": {"pool": "serving"}, "tolerations": [{"key": "spot"}]}, id="placed"),
    pytest.param({"node_affinity": [{"key": "spot", "operator": "DoesNotExist"}]}, id="affine"),
    pytest.param({"runtime": "tidegate-onnx-gpu", **GPU}, id="gpu"),
    pytest.param({"runtime": "tidegate-triton", **GPU, "memory": "16Gi"}, id="triton"),
]


def merged(base: Any, patch: Any, key: str = "") -> Any:
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {name: merged(base.get(name), value, name) for name, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list) and key in KEYS:
        by = KEYS[key]
        patched = {entry[by]: entry for entry in patch}
        kept = [merged(entry, patched.pop(entry[by], {})) for entry in base]
        return [*kept, *patched.values()]
    return patch


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    predictor = document["spec"]["predictor"]
    runtime = yaml.safe_load((RUNTIMES / f"{predictor['model']['runtime']}.yaml").read_text())["spec"]
    serving = ("modelFormat", "protocolVersion", "runtime", "storageUri", "name")
    patch = {field: value for field, value in predictor["model"].items() if field not in serving}
    spec = merged({"volumes": runtime["volumes"]}, {field: predictor[field] for field in POD_FIELDS if field in predictor})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": predictor["labels"], "annotations": predictor["annotations"]},
        "spec": spec | {"containers": [merged(runtime["containers"][0], patch)]},
    }


@pytest.fixture(params=["Standard", "Knative"])
def build(request, cluster, service):
    """Return the pod of the service's latest revision for given serving pods, in either mode."""

    def make(serving: dict[str, Any]) -> dict[str, Any]:
        section = cluster(mode=request.param, serving=serving)
        if request.param == "Standard":
            return pod_of(standard_document(service, section))
        return pod_of(knative_document(service, section, latest=service.canary, percent=5))

    return make


@pytest.mark.parametrize("serving", SERVING)
def test_the_pod_is_valid(build, serving):
    kubernetes_validate.validate(build(serving), KUBERNETES, strict=True)


@pytest.mark.parametrize("serving", SERVING)
def test_every_mount_has_its_volume_and_its_own_path(build, serving):
    pod = build(serving)
    [container] = pod["spec"]["containers"]
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]

    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert len(paths) == len(set(paths))
    assert ("/dev/shm" in paths) == ("accelerator" in serving)


@pytest.mark.parametrize("serving", SERVING)
def test_the_document_decides_on_resources_and_the_runtime_on_the_command(build, serving):
    [container] = build(serving)["spec"]["containers"]

    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert container["resources"]["limits"]["memory"] == serving.get("memory", "1Gi")
    assert container["resources"]["limits"].get("nvidia.com/gpu") == ("1" if "accelerator" in serving else None)
    assert container["args"]
    assert container["ports"][0]["containerPort"] == 8080


@pytest.mark.parametrize("serving", SERVING)
def test_a_setting_is_given_once(build, serving):
    names = [variable["name"] for variable in build(serving)["spec"]["containers"][0]["env"]]

    assert len(names) == len(set(names))


@pytest.mark.parametrize("serving", SERVING)
def test_the_pod_is_within_the_restricted_profile(build, serving):
    """Kubernetes, Pod Security Standards: what `restricted` asks of a container and allows of volumes."""
    pod = build(serving)
    [container] = pod["spec"]["containers"]
    context = container["securityContext"]

    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"]["type"] == "RuntimeDefault"
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod["spec"].keys()
    assert all("hostPort" not in port for port in container["ports"])
    assert all(volume.keys() <= {"name", "emptyDir"} for volume in pod["spec"]["volumes"])


def test_knative_gets_one_port(cluster, service):
    document = knative_document(service, cluster(mode="Knative"), latest=service.canary, percent=5)

    assert len(pod_of(document)["spec"]["containers"][0]["ports"]) == 1
