"""Variant `simplified`: the graph as OnnxSlim rewrites it: shapes worked out, constants folded, equal parts merged."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from tidegate.errors import OptimizationError
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder, without_advice
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime


@dataclass(frozen=True, slots=True)
class Simplified(VariantBuilder):
    """Stays within standard operators, so every runtime can load it. Exporters that trace leave most for it to do.

    OnnxSlim works shapes out by `shape_inference`, and merges equal subexpressions.
    """

    name: ClassVar[str] = "simplified"
    precision: ClassVar[Precision] = "full"
    complexity: ClassVar[int] = 15
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    tools: ClassVar[tuple[str, ...]] = ("onnxslim",)
    shape_inference: bool = True

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies where OnnxSlim is installed."""
        if importlib.util.find_spec("onnxslim") is None:
            return "OnnxSlim is not installed; install it with: pip install 'tidegate[optimization]'"
        return None

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Simplify the graph; raises OptimizationError if OnnxSlim breaks it, NotApplicable if it finds nothing."""
        import onnxslim

        before = onnx.load(package / MODEL_NAME)
        with without_advice():
            after = onnxslim.slim(
                onnx.load(package / MODEL_NAME), no_shape_infer=not self.shape_inference, model_check=False, verbose=False
            )
        _check(before, after)
        nodes = len(before.graph.node), len(after.graph.node)
        if nodes[0] == nodes[1]:
            raise NotApplicable("OnnxSlim finds nothing to simplify")
        return BuiltGraph(after.SerializeToString(), runtime, note=f"{nodes[1]} nodes instead of {nodes[0]}")


def _check(before: onnx.ModelProto, after: onnx.ModelProto | None) -> None:
    if after is None:
        raise OptimizationError("OnnxSlim returned no graph")
    for what in ("input", "output"):
        wanted, found = ([value.name for value in getattr(model.graph, what)] for model in (before, after))
        if wanted != found:
            raise OptimizationError(f"OnnxSlim changed the graph's {what}s from {', '.join(wanted)} to {', '.join(found)}")
    onnx.checker.check_model(after)
