"""Variant `tree-sum`: the trees of a binary classifier are summed for one class, with no label and no second column."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from tidegate.errors import OptimizationError
from tidegate.optimization.graphs.agreement import GoldenSample
from tidegate.optimization.graphs.tree_sums import as_sum, binary_trees
from tidegate.optimization.variants.builder import BuiltGraph, Target, VariantBuilder
from tidegate.packaging.manifest import MODEL_NAME, Precision, Runtime


@dataclass(frozen=True, slots=True)
class TreeSum(VariantBuilder):
    """ONNX Runtime's tree regressor and a Sigmoid do what its tree classifier does for the one probability that is read.

    What a classifier adds to that depends on its weights in ways ONNX Runtime's own documentation does not tell, so the golden
    sample must agree within `max_absolute` + `max_relative` · |answer|.
    """

    name: ClassVar[str] = "tree-sum"
    precision: ClassVar[Precision] = "full"
    complexity: ClassVar[int] = 12
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    max_absolute: float = 1e-5
    max_relative: float = 1e-5

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to one classifier of trees of which the probability of class 1 is taken."""
        found = binary_trees(model)
        return found if isinstance(found, str) else None

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Rewrite the classifier; raises OptimizationError if the sum answers otherwise."""
        model = onnx.load(package / MODEL_NAME)
        trees = binary_trees(model)
        if isinstance(trees, str):
            raise OptimizationError(trees)
        graph = as_sum(model, trees).SerializeToString()
        sample = GoldenSample.of_package(package, runtime, max_absolute=self.max_absolute, max_relative=self.max_relative)
        if not sample.agrees_with(graph):
            raise OptimizationError("its trees answer otherwise when they are summed for class 1 alone")
        return BuiltGraph(graph, runtime)
