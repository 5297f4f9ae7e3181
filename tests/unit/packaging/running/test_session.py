"""Opening graphs in ONNX Runtime as a manifest says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest

from tests import small_packages
from tidegate.errors import PackageError
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, MODEL_NAME, Manifest, Runtime, Signature, TensorSpec
from tidegate.packaging.format.package import copy_package, read_manifest
from tidegate.packaging.running.session import GraphSession, open_session


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_packages.multiclass(tmp_path_factory.mktemp("iris") / "package")


@pytest.mark.parametrize(
    "make",
    [
        small_packages.multiclass,
        small_packages.regression,
        small_packages.image,
        small_packages.tokens,
        small_packages.every_type,
    ],
)
def test_a_package_answers_its_golden_sample(make: Callable[[Path], Path], tmp_path: Path) -> None:
    package = make(tmp_path / "package")
    golden = read_golden(package / GOLDEN_NAME)

    outputs = GraphSession.of_package(package).run(golden.inputs)

    assert outputs.keys() == golden.outputs.keys()
    for name, expected in golden.outputs.items():
        np.testing.assert_array_equal(outputs[name], expected)


def test_a_packed_package_takes_the_signatures_inputs(tiny_package: Path) -> None:
    manifest = read_manifest(tiny_package)
    [part] = manifest.packing
    assert part.columns == ("distance", "hour", "weather__temp", "route__delay")
    golden = read_golden(tiny_package / GOLDEN_NAME)

    outputs = GraphSession.of_package(tiny_package).run(golden.inputs)

    np.testing.assert_allclose(outputs["probability"], golden.outputs["probability"], atol=1e-6)


@pytest.mark.parametrize(
    ("runtime", "level", "mode"),
    [
        pytest.param(Runtime(), "ORT_ENABLE_ALL", "ORT_SEQUENTIAL", id="as it is"),
        pytest.param(
            Runtime(intra_op_threads=2, inter_op_threads=3, execution="parallel", graph_optimization="basic"),
            "ORT_ENABLE_BASIC",
            "ORT_PARALLEL",
            id="threads, parallel, basic",
        ),
        pytest.param(Runtime(graph_optimization="disabled"), "ORT_DISABLE_ALL", "ORT_SEQUENTIAL", id="disabled"),
    ],
)
def test_a_session_is_opened_as_the_runtime_says(iris: Path, runtime: Runtime, level: str, mode: str) -> None:
    options = open_session(iris / MODEL_NAME, runtime).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (runtime.intra_op_threads, runtime.inter_op_threads)
    assert (options.graph_optimization_level.name, options.execution_mode.name) == (level, mode)


@pytest.mark.parametrize("spinning", [True, False])
def test_idle_threads_may_be_told_to_sleep(iris: Path, spinning: bool) -> None:
    options = open_session(iris / MODEL_NAME, Runtime(), spinning=spinning).get_session_options()
    for pool in ("intra", "inter"):
        key = f"session.{pool}_op.allow_spinning"
        if spinning:
            with pytest.raises(RuntimeError):
                options.get_session_config_entry(key)
        else:
            assert options.get_session_config_entry(key) == "0"


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        pytest.param(
            lambda signature: Signature(inputs=signature.inputs[:-1], outputs=signature.outputs),
            "graph and signature differ in these inputs: petal_width",
            id="an input of the graph that is not signed",
        ),
        pytest.param(
            lambda signature: Signature(
                inputs=(*signature.inputs, TensorSpec(name="wind", datatype="FP32", shape=(-1, 1))), outputs=signature.outputs
            ),
            "graph and signature differ in these inputs: wind",
            id="a signed input that the graph lacks",
        ),
        pytest.param(
            lambda signature: Signature(
                inputs=signature.inputs, outputs=(TensorSpec(name="risk", datatype="FP32", shape=(-1,)),)
            ),
            "the graph lacks these outputs of the signature: risk",
            id="a signed output that the graph lacks",
        ),
    ],
)
def test_a_graph_of_other_names_is_refused(iris: Path, signature: Callable[[Signature], Signature], message: str) -> None:
    manifest = read_manifest(iris)
    other: Manifest = msgspec.structs.replace(manifest, signature=signature(manifest.signature))
    with pytest.raises(PackageError, match=message):
        GraphSession.of_package(iris, other)


def test_what_is_no_graph_is_refused_in_one_line() -> None:
    with pytest.raises(PackageError, match="graph: ONNX Runtime cannot load it") as error:
        open_session(b"not a graph", Runtime())
    assert "\n" not in str(error.value)


def test_a_provider_that_is_not_there_is_refused(iris: Path) -> None:
    with pytest.raises(PackageError, match=r"ONNX Runtime here has no NoSuchExecutionProvider; it has .*CPUExecutionProvider"):
        open_session(iris / MODEL_NAME, Runtime(providers=("NoSuchExecutionProvider",)))


def test_a_provider_that_cannot_start_is_refused(iris: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime with CUDA, but no GPU, cannot be had here: a session that fell back is what it gives then."""
    fallen_back = ort.InferenceSession(str(iris / MODEL_NAME), providers=["CPUExecutionProvider"])
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda *_args, **_named: fallen_back)
    with pytest.raises(PackageError, match="could not start CUDAExecutionProvider; it has CPUExecutionProvider"):
        open_session(iris / MODEL_NAME, Runtime(providers=("CUDAExecutionProvider", "CPUExecutionProvider")))


def test_provider_options_reach_their_provider(iris: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, Any] = {}
    real = ort.InferenceSession

    def open_and_tell(*args: Any, **named: Any) -> Any:
        opened.update(named)
        return real(*args, **named)

    monkeypatch.setattr(ort, "InferenceSession", open_and_tell)
    options = {"CPUExecutionProvider": {"arena_extend_strategy": "kSameAsRequested"}}
    open_session(iris / MODEL_NAME, Runtime(provider_options=options))
    assert opened["providers"] == [("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})]


def test_a_package_for_another_provider_runs_without_it_and_says_so(iris: Path, tmp_path: Path) -> None:
    providers = ("NoSuchExecutionProvider", "CPUExecutionProvider")
    manifest = msgspec.structs.replace(read_manifest(iris), runtime=Runtime(providers=providers))
    copy_package(iris, tmp_path / "elsewhere", manifest)

    graph = GraphSession.of_package(tmp_path / "elsewhere")

    assert graph.warning is not None
    assert "NoSuchExecutionProvider" in graph.warning
    assert graph.run(read_golden(iris / GOLDEN_NAME).inputs)["probabilities"].shape == (6, 3)
    assert GraphSession.of_package(iris).warning is None
