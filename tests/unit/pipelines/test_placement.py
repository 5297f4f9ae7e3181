"""Where compiled tasks run: resources, scratch, secrets, retries, timeouts; what measures for serving runs on its hardware."""

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines.compilation import compile_all
from pipelines.placement import kfp_cpu, kfp_memory
from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.kserve.documents import standard_document
from tidegate.errors import PipelineError
from tidegate.project import load_project

# What only the serving node type can answer: a variant built for it, and its speed there.
MEASURED = {"build-variant", "select-variant"}

Compile = Callable[[dict[str, Any]], dict[str, "Task"]]


class Task:
    """One task's pod, as the compiled pipeline describes it."""

    def __init__(self, name: str, container: dict[str, Any], kubernetes: dict[str, Any], retries: int) -> None:
        self.name = name
        self.container = container
        self.kubernetes = kubernetes
        self.retries = retries

    @property
    def resources(self) -> dict[str, Any]:
        return self.container.get("resources", {})

    @property
    def selector(self) -> dict[str, str]:
        return self.kubernetes.get("nodeSelector", {}).get("labels", {})

    @property
    def tolerations(self) -> list[dict[str, str]]:
        return self.kubernetes.get("tolerations", [])

    @property
    def affinity(self) -> list[tuple[int | None, list[tuple[str, str, tuple[str, ...]]]]]:
        """Each term: its weight, None if it is required, and its expressions."""
        return [(term.get("weight"), expressions(term)) for term in self.kubernetes.get("nodeAffinity", [])]

    @property
    def volumes(self) -> dict[str, tuple[str, str]]:
        mounts = self.kubernetes.get("emptyDirMounts", [])
        return {mount["mountPath"]: (mount.get("medium", ""), mount["sizeLimit"]) for mount in mounts}


def expressions(term: dict[str, Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(each["key"], each["operator"], tuple(each.get("values", ()))) for each in term["matchExpressions"]]


def affinity_of(predictor: dict[str, Any]) -> list[tuple[int | None, list[tuple[str, str, tuple[str, ...]]]]]:
    nodes = predictor["affinity"]["nodeAffinity"]
    required = nodes["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    preferred = nodes["preferredDuringSchedulingIgnoredDuringExecution"]
    return [
        *((None, expressions(term)) for term in required),
        *((term["weight"], expressions(term["preference"])) for term in preferred),
    ]


@pytest.fixture
def compiled(tmp_path: Path, project_text: str) -> Compile:
    """Compile for a cluster that differs from the defaults by what is given; returns every task by pipeline and name."""

    def compile_for(cluster: dict[str, Any]) -> dict[str, Task]:
        file = tmp_path / "tidegate.yaml"
        section = {"cluster": {"store": "s3://bucket/prefix", **cluster}}
        file.write_text(project_text + yaml.safe_dump(section))
        compile_all(project_file=file, out=tmp_path / "compiled")
        return {f"{path.stem}/{task.name}": task for path in (tmp_path / "compiled").iterdir() for task in tasks_of(path)}

    return compile_for


def tasks_of(file: Path) -> Iterator[Task]:
    pipeline, platform = yaml.safe_load_all(file.read_text())
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    containers = pipeline["deploymentSpec"]["executors"]
    assert pods.keys() == containers.keys()
    for component in (pipeline["root"], *pipeline["components"].values()):
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            executor = pipeline["components"][task["componentRef"]["name"]].get("executorLabel")
            if executor is not None:
                retries = task.get("retryPolicy", {}).get("maxRetryCount", 0)
                yield Task(name, containers[executor]["container"], pods[executor], retries)


ACCELERATOR = {
    "resource": "nvidia.com/gpu",
    "count": 2,
    "node_selector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
    "tolerations": [{"key": "nvidia.com/gpu"}, {"key": "pool", "operator": "Equal", "value": "gpu", "effect": "NoExecute"}],
    "shared_memory": "2Gi",
}
GPU_SERVING = {
    "runtime": "tidegate-onnx-gpu",
    "accelerator": ACCELERATOR,
    "node_selector": {"zone": "a"},
    "node_affinity": [{"key": "zone", "values": ["a", "b"]}, {"key": "spot", "operator": "DoesNotExist", "required": False}],
    "tolerations": [{"key": "serving"}],
}


def test_every_task_has_requests_limits_scratch_and_secrets_by_reference(compiled):
    tasks = compiled(
        {
            "secrets": [{"variable": "AWS_SECRET_ACCESS_KEY", "secret": "s3", "key": "secret"}],
            "steps": {"cpu": "1500m", "memory": "6Gi", "ephemeral_storage": "20Gi", "node_selector": {"pool": "batch"}},
            "serving": {"cpu": "3"},
            "workspace": "/scratch",
        }
    )

    assert len(tasks) == 26
    for task in tasks.values():
        found = {key: value for key, value in task.resources.items() if key.startswith("resource")}
        cpu = "3" if task.name in MEASURED else "1500m"
        assert found == {
            "resourceCpuRequest": cpu,
            "resourceCpuLimit": cpu,
            "resourceMemoryRequest": "6Gi",
            "resourceMemoryLimit": "6Gi",
        }
        assert task.volumes == {"/scratch": ("", "20Gi")}
        assert task.selector == {"pool": "batch"}
        [secret] = task.kubernetes["secretAsEnv"]
        assert (secret["secretName"], secret["optional"]) == ("s3", False)
        assert secret["keyToEnv"] == [{"secretKey": "secret", "envVar": "AWS_SECRET_ACCESS_KEY"}]
        assert "env" not in task.container


def test_only_what_is_repeatable_is_retried_and_has_a_timeout(compiled):
    tasks = compiled({"steps": {"timeout_seconds": 600, "retries": 3}})

    once = {name for name, task in tasks.items() if task.retries == 0}
    endless = {name for name, task in tasks.items() if "activeDeadlineSeconds" not in task.kubernetes}
    assert once == endless == {"release/roll-out", "drift/roll-out"}
    assert {task.retries for name, task in tasks.items() if name not in once} == {3}
    assert {task.kubernetes["activeDeadlineSeconds"] for name, task in tasks.items() if name not in once} == {"600"}


def test_no_retry_is_asked_for_where_the_project_wants_none(compiled):
    assert {task.retries for task in compiled({"steps": {"retries": 0}}).values()} == {0}


def test_what_measures_for_serving_runs_on_the_hardware_that_serves(compiled, tmp_path):
    tasks = compiled({"serving": GPU_SERVING, "steps": {"node_selector": {"pool": "batch"}, "tolerations": [{"key": "batch"}]}})
    predictor = predictor_of(tmp_path / "tidegate.yaml")

    measured = {name: task for name, task in tasks.items() if task.name in MEASURED}
    assert measured.keys() == {f"{pipeline}/{task}" for pipeline in ("release", "drift") for task in MEASURED}
    for task in measured.values():
        accelerator = task.resources["accelerator"]
        assert predictor["model"]["resources"]["limits"][accelerator["resourceType"]] == accelerator["resourceCount"] == "2"
        assert (accelerator["type"], accelerator["count"]) == ("nvidia.com/gpu", "2")
        assert task.selector == predictor["nodeSelector"] == {"zone": "a", "nvidia.com/gpu.product": "NVIDIA-L4"}
        assert task.tolerations == predictor["tolerations"]
        assert task.affinity == affinity_of(predictor)
        assert task.volumes["/dev/shm"] == ("Memory", "2Gi")
    for name, task in tasks.items():
        if name not in measured:
            assert "accelerator" not in task.resources
            assert task.selector == {"pool": "batch"}
            assert task.tolerations == [{"key": "batch", "operator": "Exists", "effect": "NoSchedule"}]
            assert task.affinity == []
            assert "/dev/shm" not in task.volumes


@pytest.mark.parametrize(
    ("serving", "selector", "tolerated"),
    [
        pytest.param({}, {"pool": "batch"}, ["batch"], id="serving runs on any node, so the steps' own"),
        pytest.param({"node_selector": {"cpu": "xeon"}}, {"cpu": "xeon"}, [], id="the node type that serves"),
        pytest.param({"tolerations": [{"key": "serving"}]}, {}, ["serving"], id="tainted nodes that serve"),
    ],
)
def test_without_an_accelerator_measuring_keeps_to_the_node_type_that_serves(compiled, serving, selector, tolerated):
    steps = {"node_selector": {"pool": "batch"}, "tolerations": [{"key": "batch"}]}
    task = compiled({"serving": serving, "steps": steps})["release/select-variant"]

    assert task.selector == selector
    assert [toleration["key"] for toleration in task.tolerations] == tolerated


@pytest.mark.parametrize("resource", ["nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared", "amd.com/gpu"])
def test_slices_and_shares_of_an_accelerator_are_resources_of_another_name(compiled, resource):
    tasks = compiled({"serving": {"runtime": "tidegate-triton", "accelerator": {"resource": resource}}})

    assert tasks["release/build-variant"].resources["accelerator"]["resourceType"] == resource


def test_quantities_that_kfp_cannot_read_are_refused_or_translated(compiled):
    tasks = compiled({"steps": {"memory": "1.5Gi"}})
    assert tasks["batch/score-batch"].resources["resourceMemoryLimit"] == str(3 * 2**29)

    for pods in ("steps", "serving"):
        with pytest.raises(PipelineError, match=rf"cluster\.{pods}\.cpu: '2Gi' is no number of CPUs; give one such as '2' or"):
            compiled({pods: {"cpu": "2Gi"}})


def test_project_without_a_cluster_is_placed_nowhere(tmp_path, project_text):
    file = tmp_path / "tidegate.yaml"
    file.write_text(project_text)

    for path in compile_all(project_file=file, out=tmp_path / "compiled"):
        [pipeline] = yaml.safe_load_all(path.read_text())
        assert pipeline["root"]["inputDefinitions"]["parameters"]["target"]["defaultValue"] == "local"
        assert "resources" not in json.dumps(pipeline["deploymentSpec"])
        assert "retryPolicy" not in json.dumps(pipeline)


@pytest.mark.parametrize(
    ("given_quantity", "bytes_"),
    [
        pytest.param("4Gi", "4Gi", id="as it is"),
        pytest.param("512", "512", id="bytes"),
        pytest.param("0.5Mi", str(2**19), id="fraction"),
        pytest.param("3k", "3000", id="small k, which kfp takes for nothing"),
        pytest.param("1500m", "2", id="thousandths of a byte, rounded up"),
    ],
)
def test_memory_as_kfp_reads_it(given_quantity, bytes_):
    assert kfp_memory(given_quantity) == bytes_


UNITS = {"m": Fraction(1, 1000), "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@given(st.integers(0, 9999), st.integers(0, 99), st.sampled_from(sorted(UNITS)))
def test_memory_is_never_less_than_was_asked_for_nor_a_byte_more(whole, cents, unit):
    asked = (whole + Fraction(cents, 100)) * UNITS[unit]

    read = kfp_memory(f"{whole}.{cents:02}{unit}")

    assert asked <= int(read) < asked + 1


@given(st.from_regex(r"\A[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?\Z"))
def test_cpu_is_a_number_or_thousandths_or_refused(quantity):
    if quantity[-1].isdigit() or quantity.endswith("m"):
        assert kfp_cpu("cpu", quantity) == quantity
    else:
        with pytest.raises(PipelineError):
            kfp_cpu("cpu", quantity)


def predictor_of(file: Path) -> dict[str, Any]:
    service = Service(name="flights-late", namespace="default", stable=Revision(name="v1", storage_uri="s3://b/m/1/"))
    return standard_document(service, load_project(file, target="kserve").on_cluster)["spec"]["predictor"]
