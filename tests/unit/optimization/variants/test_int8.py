"""The INT8 variants: which layers become integers, how ranges are calibrated, and what stays because the answers need it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.unit.optimization.variants import models
from tidegate.optimization.variants import variant_builder
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.session import GraphSession

STATIC = ("int8-static-minmax", "int8-static-entropy", "int8-static-percentile")
Package = Callable[[str], Path]


def build(name: str, package: Path) -> BuiltGraph:
    return variant_builder(name).build(package, read_manifest(package).runtime)


def operators(built: BuiltGraph) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(built.graph).graph.node)


def differences(package: Path, built: BuiltGraph) -> np.ndarray:
    golden = read_golden(package / "golden.npz")
    found = GraphSession.of_graph(built.graph, built.runtime, read_manifest(package)).run(golden.inputs)
    return np.concatenate([np.abs(found[name] - expected).ravel() for name, expected in golden.outputs.items()])


@pytest.mark.parametrize("kind", ["mlp", "dense", "transformer", "recurrent"])
def test_dynamic_layers_are_integer_operators(package: Package, kind: str) -> None:
    found = operators(build("int8-dynamic", package(kind)))

    assert found["MatMulInteger"] + found["DynamicQuantizeLSTM"] > 0
    assert found["Gemm"] == found["LSTM"] == 0
    assert found["MatMul"] == (2 if kind == "transformer" else 0), "attention multiplies activations by activations"


@pytest.mark.parametrize("variant", STATIC)
@pytest.mark.parametrize("kind", ["mlp", "dense", "convolutions", "transformer"])
def test_static_layers_lie_between_quantized_values(package: Package, kind: str, variant: str) -> None:
    built = build(variant, package(kind))

    model = onnx.load_from_string(built.graph)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    kept = {name for name in str(built.parameters.get("single_precision", "")).split(", ") if name}
    assert layers
    for node in layers:
        quantized = all(makers[name] == "DequantizeLinear" for name in node.input[:2] if name in makers)
        assert quantized is (node.name not in kept)


def test_a_convolution_takes_its_normalization_along(package: Package) -> None:
    found = operators(build("int8-static-minmax", package("convolutions")))

    assert (found["Conv"], found["BatchNormalization"]) == (2, 0)


def test_calibration_methods_give_different_graphs(package: Package) -> None:
    graphs = {build(variant, package("dense")).graph for variant in STATIC}

    assert len(graphs) == len(STATIC)


def test_more_rows_calibrate_wider(package: Package) -> None:
    few, many = (
        replace(variant_builder("int8-static-minmax"), rows=rows).build(
            package("dense"), read_manifest(package("dense")).runtime
        )
        for rows in (10, 240)
    )

    assert few.graph != many.graph
    assert differences(package("dense"), many).max() < differences(package("dense"), few).max()


@pytest.mark.parametrize("variant", ["int8-dynamic", "int8-static-minmax"])
def test_a_sensitive_layer_stays_in_single_precision(package: Package, variant: str) -> None:
    built = build(variant, package("sensitive"))

    assert built.parameters == {"single_precision": "MatMul_5"}
    assert "2 of 3 layers in 8 bits; in single precision, found in" in built.note
    assert differences(package("sensitive"), built).max() < 0.05


@pytest.mark.parametrize("variant", ["int8-dynamic", "int8-static-minmax"])
def test_where_nothing_holds_there_is_no_variant(package: Package, variant: str) -> None:
    builder = replace(variant_builder(variant), max_absolute=0, max_relative=0)

    with pytest.raises(NotApplicable, match="no layer can be in 8 bits"):
        builder.build(package("dense"), read_manifest(package("dense")).runtime)


def test_quantizing_by_channel_needs_a_newer_opset() -> None:
    model = models.graph_of("g (float[n, 2] x) => (float[n, 2] y) { y = MatMul(x, w) }", {"w": np.eye(2)}, opset=11)
    builder = variant_builder("int8-static-minmax")

    assert builder.applies(model) == "its opset is 11; quantizing by channel needs 13: export it again"
    assert replace(builder, per_channel=False).applies(model) is None


@pytest.mark.parametrize("variant", ["int8-dynamic", *STATIC])
def test_weights_are_7_bits_and_by_channel(package: Package, variant: str) -> None:
    model = onnx.load_from_string(build(variant, package("dense")).graph)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    weights = [array for array in tensors.values() if array.dtype == np.int8 and array.ndim == 2]
    assert len(weights) == 3
    assert all(np.abs(array).max() <= 64 for array in weights)
    assert any(array.dtype == np.float32 and array.shape in ((24,), (16,)) for array in tensors.values()), "scales by channel"


def test_the_quantizers_say_nothing(
    package: Package, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for variant in ("int8-dynamic", *STATIC):
        build(variant, package("dense"))

    assert capfd.readouterr() == ("", "")
    assert not caplog.records
