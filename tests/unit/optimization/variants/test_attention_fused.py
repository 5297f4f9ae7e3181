"""Variant `attention-fused` on a graph that has attention; `test_every_variant` has those that have none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from tidegate.optimization.variants import variant_builder
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, MODEL_NAME
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.session import GraphSession


def test_its_graph_answers_as_the_model_with_one_operator_for_the_attention(package: Callable[[str], Path]) -> None:
    baseline, builder = package("attention"), variant_builder("attention-fused")
    manifest, golden = read_manifest(baseline), read_golden(baseline / GOLDEN_NAME)

    assert builder.applies(onnx.load(baseline / MODEL_NAME)) is None
    built = builder.build(baseline, manifest.runtime)

    assert built.note == "1 block of attention is one operator"
    assert built.runtime.graph_optimization == "disabled"
    assert sorted(node.op_type for node in onnx.load_from_string(built.graph).graph.node) == ["Attention", "MatMul"]
    outputs = GraphSession.of_graph(built.graph, built.runtime, manifest).run(golden.inputs)
    np.testing.assert_allclose(outputs["scores"], golden.outputs["scores"], rtol=1e-4, atol=1e-4)
