"""A package made for a GPU, on this machine without one: it is served only where the CPU may stand in, and says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime as ort
import pytest

from tests import small_packages
from tidegate.packaging.format.manifest import Runtime
from tidegate.packaging.format.package import copy_package, read_manifest
from tidegate.packaging.running.gpu import CPU, CUDA
from tidegate.serving.metrics.names import PROVIDER_FALLBACK

LEAVE = {"env": {"TIDEGATE_ALLOW_CPU_FALLBACK": "1"}}
WITHOUT_CUDA = pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="needs a build of ONNX Runtime without CUDA")


@pytest.fixture
def cuda_package(tmp_path: Path) -> Path:
    made = small_packages.multiclass(tmp_path / "made")
    runtime = Runtime(providers=(CUDA, CPU), provider_options={CUDA: {"use_tf32": "0"}})
    copy_package(made, tmp_path / "cuda", msgspec.structs.replace(read_manifest(made), runtime=runtime))
    return tmp_path / "cuda"


@WITHOUT_CUDA
def test_without_leave_it_does_not_start(launch: Callable[..., Any], cuda_package: Path) -> None:
    server = launch(cuda_package, wait=False)
    assert server.process.wait(timeout=20) != 0
    (line,) = [line for line in server.stderr.splitlines() if not line.startswith("{")]
    assert "this ONNX Runtime has no CUDAExecutionProvider" in line
    assert "--allow-cpu-fallback" in line


@WITHOUT_CUDA
def test_with_leave_it_is_served_and_said_in_readiness_and_metrics(launch: Callable[..., Any], cuda_package: Path) -> None:
    server = launch(cuda_package, process=LEAVE)
    status, ready = server.request("/v2/health/ready")
    assert status == 200
    assert ready["ready"] is True
    assert "the model runs on CPUExecutionProvider, slower than it was measured" in ready["fallback"]
    assert server.metric(PROVIDER_FALLBACK) == 1


def test_a_package_for_the_cpu_says_nothing_of_it(launch: Callable[..., Any], tmp_path: Path) -> None:
    server = launch(small_packages.multiclass(tmp_path / "package"), process=LEAVE)
    assert server.request("/v2/health/ready") == (200, {"ready": True})
    assert server.metric(PROVIDER_FALLBACK) == 0


def test_requests_to_a_graph_of_dependent_rows_are_not_joined_and_that_is_said(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    server = launch(small_packages.less_the_mean(tmp_path / "package"), log_store=None)
    (event,) = [event for event in server.events if event["event"] == "requests are not joined"]
    assert event["reason"] == "a row has another 'above' when the other rows of its run hold larger numbers"
    body = {"inputs": [{"name": "amount", "datatype": "FP32", "shape": [2, 1], "data": [1, 3]}]}
    assert server.request("/v2/models/relative/infer", body)[1]["outputs"][0]["data"] == [-1, 1]
