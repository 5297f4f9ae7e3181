"""Half precision where it holds: what overflows or cancels is found and stays in single precision."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from tidegate.optimization.variants import variant_builder
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.session import GraphSession

Package = Callable[[str], Path]


def difference(package: Path, built: BuiltGraph, *, on_hardware: bool = False) -> float:
    """The largest difference to the golden sample: in ONNX Runtime here, or by ONNX's reference, which computes in halves."""
    golden, manifest = read_golden(package / "golden.npz"), read_manifest(package)
    if on_hardware:
        with np.errstate(all="ignore"):
            answers = ReferenceEvaluator(onnx.load_from_string(built.graph)).run(None, golden.inputs)
        found = dict(zip(golden.outputs, answers, strict=True))
    else:
        found = GraphSession.of_graph(built.graph, built.runtime, manifest).run(golden.inputs)
    return max(float(np.nan_to_num(np.abs(found[name] - expected), nan=9).max()) for name, expected in golden.outputs.items())


def halves(built: BuiltGraph) -> set[str]:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(built.graph))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    return {
        node.name
        for node in model.graph.node
        if node.op_type != "Cast" and any(types.get(name) == TensorProto.FLOAT16 for name in (*node.input, *node.output))
    }


def build(name: str, package: Path) -> BuiltGraph:
    return variant_builder(name).build(package, read_manifest(package).runtime)


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        pytest.param("overflowing", {"MatMul_3", "Relu_4", "Mul_5"}, id="overflow"),
        pytest.param("cancelling", {"Add_3", "Sub_4"}, id="cancellation"),
    ],
)
def test_only_what_must_stays_in_single_precision(package: Package, kind: str, kept: set[str]) -> None:
    baseline = package(kind)
    plain, mixed = build("fp16", baseline), build("mixed-precision", baseline)

    assert difference(baseline, plain, on_hardware=True) > 0.02, "plain half precision fails"
    assert difference(baseline, mixed, on_hardware=True) < 0.01
    assert difference(baseline, mixed) < 0.01
    assert halves(plain) - halves(mixed) == kept
    assert set(str(mixed.parameters["single_precision"]).split(", ")) == kept
    assert mixed.note.startswith(f"{len(kept)} nodes stay in single precision, found in ")


def test_most_cpus_hide_what_half_precision_loses(package: Package) -> None:
    plain = build("fp16", package("cancelling"))

    assert difference(package("cancelling"), plain) < 0.01 < difference(package("cancelling"), plain, on_hardware=True)


def test_without_trials_left_the_rest_stays_in_single_precision(package: Package) -> None:
    builder = replace(variant_builder("mixed-precision"), max_trials=3)

    built = builder.build(package("cancelling"), read_manifest(package("cancelling")).runtime)

    assert "found in 3 trials" in built.note
    assert halves(built) == {"MatMul_0", "Add_1"}, "the first quarter; all, and the first half, were tried before"


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        pytest.param("dense", {}, "every operator can be in half precision: that is variant fp16", id="nothing to keep"),
        pytest.param("dense", {"max_absolute": 0, "max_relative": 0}, "no operator can be in half precision", id="all to keep"),
    ],
)
def test_it_refuses_to_be_what_another_variant_is(package: Package, kind: str, changes: dict[str, float], reason: str) -> None:
    builder = replace(variant_builder("mixed-precision"), **changes)

    with pytest.raises(NotApplicable, match=reason):
        builder.build(package(kind), read_manifest(package(kind)).runtime)


def test_weights_that_half_precision_cannot_hold_are_told(package: Package) -> None:
    assert "weights beyond ±65504 were clipped" in build("fp16", package("overflowing")).note
    assert "clipped" not in build("fp16", package("dense")).note
