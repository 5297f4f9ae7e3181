"""The serving runtimes: valid by KServe's own schema, without privileges, and in step with the code and the images they start.

Triton's own options and its health under a read-only root are not tried: no container runs where these tests run.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
import yaml

from tidegate import __version__
from tidegate.cli import serve
from tidegate.deployment.inference_service import Revision
from tidegate.project.cluster import ServingPods

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "kserve/runtimes"
KUBERNETES_GIVES_UP = 600  # seconds: a Deployment's progressDeadlineSeconds, and Knative's progress-deadline

RUNTIMES: dict[str, dict[str, Any]] = {
    file.stem: yaml.safe_load(file.read_text()) for file in sorted(FOLDER.glob("*.yaml")) if file.name != "kustomization.yaml"
}
OURS = ["tidegate-onnx", "tidegate-onnx-gpu"]
every_runtime = pytest.mark.parametrize("name", RUNTIMES)


def container(name: str) -> dict[str, Any]:
    [only] = RUNTIMES[name]["spec"]["containers"]
    return dict(only)


def seconds_to_start(name: str) -> int:
    probe = container(name)["startupProbe"]
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def test_there_is_a_runtime_for_each_choice_of_the_project_file():
    assert set(RUNTIMES) == set(get_args(ServingPods.model_fields["runtime"].annotation))


@every_runtime
def test_it_fits_the_schema_and_has_no_unknown_field(name: str, check_manifest: Callable[[dict[str, Any]], None]):
    check_manifest(RUNTIMES[name])


@every_runtime
def test_the_file_is_called_like_the_runtime(name: str):
    assert RUNTIMES[name]["kind"] == "ServingRuntime"
    assert RUNTIMES[name]["metadata"]["name"] == name


def test_kustomize_renders_them_all(rendered: Callable[[Path], list[dict[str, Any]]]):
    assert sorted(document["metadata"]["name"] for document in rendered(FOLDER)) == sorted(RUNTIMES)


def test_an_inference_service_by_default_asks_for_the_one_for_cpu():
    assert Revision("v1", "s3://bucket/flights/1/").to_predictor()["model"]["runtime"] == "tidegate-onnx"
    assert ServingPods().runtime == "tidegate-onnx"


@every_runtime
def test_it_serves_what_the_documents_ask_for(name: str):
    """KServe refuses a runtime that does not list the model's format and protocol (components/predictor.go, reconcileModel)."""
    spec = RUNTIMES[name]["spec"]

    assert {"name": "onnx", "version": "1", "autoSelect": False} in spec["supportedModelFormats"]
    assert "v2" in spec["protocolVersions"]


@pytest.mark.parametrize("name", OURS)
def test_it_is_started_with_options_that_the_command_has(name: str):
    command, package, *options = container(name)["args"]
    app = typer.Typer()
    app.command()(serve.command)
    known = {name for parameter in typer.main.get_command(app).params for name in parameter.opts}

    assert (command, package) == ("serve", "/mnt/models")
    assert {option.partition("=")[0] for option in options} <= known


@pytest.mark.parametrize(("name", "dockerfile"), [("tidegate-onnx", "cpu"), ("tidegate-onnx-gpu", "gpu")])
def test_it_runs_the_image_of_this_version_as_the_user_that_the_image_has(name: str, dockerfile: str):
    makefile = (ROOT / "Makefile").read_text()
    image, _, tag = container(name)["image"].partition(":")
    [user] = set(re.findall(r"^USER (\d+)$", (ROOT / f"images/{dockerfile}.Dockerfile").read_text(), re.MULTILINE))

    assert tag == __version__
    assert f"images/{dockerfile}.Dockerfile --target server --tag {image}:$(VERSION)" in makefile
    assert container(name)["securityContext"]["runAsUser"] == int(user)


def test_triton_is_pinned_to_a_release():
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", container("tidegate-triton")["image"])


@every_runtime
def test_it_listens_on_the_port_that_is_named_probed_and_scraped(name: str):
    """Knative allows one port, so the one of gRPC is named by Standard documents only."""
    options = dict(option.partition("=")[::2] for option in container(name)["args"] if option.startswith("--"))
    [port] = container(name)["ports"]

    assert port == {"name": "http1", "containerPort": 8080, "protocol": "TCP"}
    assert options["--http-port"] == "8080"
    assert options["--grpc-port"] == "8081"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(name)[probe]["httpGet"]["port"] == 8080
    scraped = RUNTIMES[name]["spec"]["annotations"]["prometheus.kserve.io/port"]
    assert scraped == options.get("--metrics-port", "8080")


@every_runtime
def test_it_may_take_long_to_start_but_not_longer_than_kubernetes_waits(name: str):
    assert 60 <= seconds_to_start(name) < KUBERNETES_GIVES_UP


@every_runtime
def test_a_busy_server_is_taken_out_long_before_it_is_killed(name: str):
    ready, live = container(name)["readinessProbe"], container(name)["livenessProbe"]

    assert ready["periodSeconds"] * ready["failureThreshold"] * 2 <= live["periodSeconds"] * live["failureThreshold"]


@every_runtime
def test_it_has_no_privileges(name: str):
    context = container(name)["securityContext"]

    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


@every_runtime
def test_what_is_written_goes_to_a_bounded_scratch_folder(name: str):
    [mount], [volume] = container(name)["volumeMounts"], RUNTIMES[name]["spec"]["volumes"]
    written = [entry["value"] for entry in container(name).get("env", []) if entry["name"].endswith("_PATH")]

    assert mount == {"name": volume["name"], "mountPath": "/tmp"}
    assert volume["emptyDir"]["sizeLimit"]
    assert all(path.startswith("/tmp/") for path in written)
