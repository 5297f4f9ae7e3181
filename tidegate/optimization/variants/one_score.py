"""Variant `one-score`: a binary classifier works out the probability that is read, and nothing for the other class."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from tidegate.errors import OptimizationError
from tidegate.optimization.graphs.agreement import GoldenSample
from tidegate.optimization.graphs.one_score import takes_one_score, with_one_score
from tidegate.optimization.graphs.reading import named
from tidegate.optimization.variants.builder import BuiltGraph, Target, VariantBuilder
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime


@dataclass(frozen=True, slots=True)
class OneScore(VariantBuilder):
    """ONNX Runtime's tree regressor and a Sigmoid do what its tree classifier does; of two columns the first is dropped.

    What the classifier makes of its trees' weights depends on their signs in ways its definition does not tell, so the golden
    sample must agree within the tolerances, which are a tenth of the parity gate's.
    """

    name: ClassVar[str] = "one-score"
    precision: ClassVar[Precision] = "full"
    complexity: ClassVar[int] = 12
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    max_absolute: float = 1e-5
    max_relative: float = 1e-5
    max_flip_rate: float = 0.001

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies where the probability of class 1 is taken from two that trees or a dense model worked out."""
        return takes_one_score(model)

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Rewrite the end of the graph; raises OptimizationError if it then answers otherwise."""
        graph = with_one_score(named(onnx.load(package / MODEL_NAME))).SerializeToString()
        sample = GoldenSample.of_package(package, runtime, self)
        if not sample.agrees_with(graph):
            raise OptimizationError("working out class 1 alone answers otherwise than the classifier does")
        return BuiltGraph(graph, runtime)
