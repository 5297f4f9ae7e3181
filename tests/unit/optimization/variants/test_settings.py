"""The variants that change how a graph is loaded or run, or hand it to an optimizer: what they change, and when they refuse."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
import pytest

from tidegate.errors import OptimizationError
from tidegate.optimization.variants import variant_builder
from tidegate.optimization.variants.builder import NotApplicable, cores
from tidegate.packaging.format.manifest import MODEL_NAME, Runtime
from tidegate.packaging.format.package import read_manifest

Package = Callable[[str], Path]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def with_cores(count: int) -> None:
        for module in ("threads", "parallel"):
            monkeypatch.setattr(f"tidegate.optimization.variants.{module}.cores", lambda: count)

    return with_cores


def test_cores_are_those_of_this_process() -> None:
    assert cores() >= 1


@pytest.mark.parametrize(
    ("variant", "there", "reason"),
    [
        pytest.param("threads-2", 2, None, id="just enough"),
        pytest.param("threads-4", 3, "4 threads want 4 cores; this machine has 3", id="too few for threads"),
        pytest.param("threads-16", 64, None, id="plenty"),
        pytest.param("parallel", 1, "2 branches at once want 2 cores; this machine has 1", id="too few for branches"),
        pytest.param("parallel", 2, None, id="enough for branches"),
    ],
)
def test_threads_need_cores(
    package: Package, machine: Callable[[int], None], variant: str, there: int, reason: str | None
) -> None:
    machine(there)

    assert variant_builder(variant).applies(onnx.load(package("transformer") / MODEL_NAME)) == reason


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        pytest.param("threads-8", {"intra_op_threads": 8}, id="threads"),
        pytest.param("parallel", {"execution": "parallel", "inter_op_threads": 2}, id="branches"),
    ],
)
def test_only_the_way_it_runs_changes(package: Package, variant: str, changes: dict[str, object]) -> None:
    runtime = Runtime(intra_op_threads=2)

    built = variant_builder(variant).build(package("dense"), runtime)

    assert built.graph == (package("dense") / MODEL_NAME).read_bytes()
    assert built.runtime == msgspec.structs.replace(runtime, **changes)


def test_threads_that_the_baseline_has_are_no_variant(package: Package) -> None:
    with pytest.raises(NotApplicable, match=r"the baseline has 4 threads already \(gates\.benchmark\.threads\)"):
        variant_builder("threads-4").build(package("dense"), Runtime(intra_op_threads=4))


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        pytest.param("convolutions", "all", id="convolutions are laid out at the start"),
        pytest.param("dense", "disabled", id="ready"),
    ],
)
@pytest.mark.parametrize("variant", ["graph-basic", "graph-optimized"])
def test_an_optimized_graph_is_loaded_with_what_is_left_to_do(package: Package, variant: str, kind: str, level: str) -> None:
    built = variant_builder(variant).build(package(kind), Runtime())

    assert built.runtime == Runtime(graph_optimization=level)


def test_levels_fold_and_fuse(package: Package) -> None:
    runtime = read_manifest(package("transformer")).runtime
    before = onnx.load(package("transformer") / MODEL_NAME)
    basic, extended = (
        onnx.load_from_string(variant_builder(name).build(package("transformer"), runtime).graph)
        for name in ("graph-basic", "graph-optimized")
    )

    assert {node.domain for node in basic.graph.node} <= {"", "ai.onnx", "ai.onnx.ml"}, "portable operators only"
    assert any(node.domain == "com.microsoft" for node in extended.graph.node)
    assert len(extended.graph.node) < len(basic.graph.node) <= len(before.graph.node)


def test_no_layout_of_one_cpu_is_saved(package: Package) -> None:
    built = variant_builder("graph-optimized").build(package("convolutions"), Runtime())

    assert not {node.domain for node in onnx.load_from_string(built.graph).graph.node} & {"com.microsoft.nchwc"}


def test_simplifying_says_what_it_saved(package: Package) -> None:
    built = variant_builder("simplified").build(package("convolutions"), Runtime())

    assert built.note == "9 nodes instead of 10"
    assert len(onnx.load_from_string(built.graph).graph.node) == 9


def test_without_onnxslim_its_extra_is_named(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnxslim" else find(name, *rest))

    reason = variant_builder("simplified").applies(onnx.load(package("dense") / MODEL_NAME))

    assert reason == "OnnxSlim is not installed; install it with: pip install 'tidegate[optimization]'"


def _loses_an_output(model: onnx.ModelProto, **_: object) -> onnx.ModelProto:
    model.graph.output[0].name = "other"
    return model


def _breaks(model: onnx.ModelProto, **_: object) -> onnx.ModelProto:
    model.graph.node[0].op_type = "Nonsense"
    return model


@pytest.mark.parametrize(
    ("slim", "error", "reason"),
    [
        pytest.param(lambda *_, **__: None, OptimizationError, "OnnxSlim returned no graph", id="nothing"),
        pytest.param(_loses_an_output, OptimizationError, "changed the graph's outputs from scores to other", id="renamed"),
        pytest.param(_breaks, onnx.checker.ValidationError, "Nonsense", id="invalid"),
    ],
)
def test_a_broken_simplification_is_no_variant(
    package: Package, monkeypatch: pytest.MonkeyPatch, slim: object, error: type[Exception], reason: str
) -> None:
    monkeypatch.setattr("onnxslim.slim", slim)

    with pytest.raises(error, match=reason):
        variant_builder("simplified").build(package("dense"), Runtime())


def test_a_score_that_would_change_is_refused(package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "tidegate.optimization.variants.one_score.with_one_score",
        lambda _: onnx.load(package("convolutions") / MODEL_NAME),
    )

    with pytest.raises(OptimizationError, match="answers otherwise than the classifier does"):
        variant_builder("one-score").build(shutil.copytree(package("trees"), tmp_path / "trees"), Runtime())
