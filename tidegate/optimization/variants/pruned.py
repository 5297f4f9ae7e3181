"""Variants `pruned…`: the smallest weights of every dense layer become zero, as many as the answers allow, or 50 or 70 %."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx

from tidegate.optimization.graphs.agreement import GoldenSample
from tidegate.optimization.graphs.pruning import Pruning, without_smallest_weights
from tidegate.optimization.graphs.reading import CONVOLUTIONS, MATRIX_OPERATORS, why_without
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime

_FIXED = (50, 70)


@dataclass(frozen=True, slots=True)
class Pruned(VariantBuilder):
    """Magnitude pruning. It gains no speed: ONNX Runtime's kernels multiply by zeros like by any number.

    What it gains is size once compressed, in an image layer or an object store, and a measured answer to how much of the model
    is needed. The same percentage goes from every layer: the most from `least_percent` to `most_percent` with which the golden
    sample's answers stay within the tolerances, found by halving the interval; `pruned-50` and `pruned-70` leave no choice, and
    the gates show what that costs.

    Its arithmetic is exact, but of another model: no rounding bounds how far an answer may move, and the accuracy gate is its
    judge. Precision `pruned` has wide tolerances of its own for that. How far `pruned` itself goes is found without labels, so
    it is held to those that the parity gate has for 8 bits, and passes that gate where there are no labels too.
    """

    name: ClassVar[str] = "pruned"
    precision: ClassVar[Precision] = "pruned"
    complexity: ClassVar[int] = 60
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    least_percent: int = 0
    most_percent: int = 90
    max_absolute: float = 0.05
    max_relative: float = 0.05
    max_flip_rate: float = 0.02

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return one setting that goes as far as the answers allow, and two of a fixed percentage."""
        return {cls.name: cls(), **{f"{cls.name}-{percent}": cls(percent, percent) for percent in _FIXED}}

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with dense layers or convolutions."""
        return why_without(model, MATRIX_OPERATORS | CONVOLUTIONS, "to prune")

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Zero the smallest weights; raises NotApplicable if none can go, or no layer's weights are constants of the graph."""
        model = onnx.load(package / MODEL_NAME)
        sample = GoldenSample.of_package(package, runtime, self)
        if not without_smallest_weights(model, 0).layers:
            raise NotApplicable("no layer's weights are constants of the graph")
        percent, pruned = self._most(model, sample)
        if pruned is None:
            raise NotApplicable("not even one percent of its weights can go without changing the answers too much")
        return BuiltGraph(
            pruned.model.SerializeToString(),
            runtime,
            parameters={"percent": percent, "sparsity": pruned.sparsity},
            note=f"{pruned.zeros} of {pruned.weights} weights in {pruned.layers} layers are zero ({pruned.sparsity:.2%})",
        )

    def _most(self, model: onnx.ModelProto, sample: GoldenSample) -> tuple[int, Pruning | None]:
        low, high = self.least_percent, self.most_percent + 1  # `low` percent may go, `high` may not
        best = without_smallest_weights(model, low / 100) if low else None
        while high - low > 1:
            middle = (low + high) // 2
            pruned = without_smallest_weights(model, middle / 100)
            if sample.agrees_with(pruned.model.SerializeToString()):
                low, best = middle, pruned
            else:
                high = middle
        return low, best
