"""Variants `pruned-50` and `pruned-70`: the smallest weights of every dense layer become zero, as many percent of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx

from tidegate.optimization.graphs.pruning import without_smallest_weights
from tidegate.optimization.graphs.reading import CONVOLUTIONS, MATRIX_OPERATORS, why_without
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder
from tidegate.packaging.manifest import MODEL_NAME, Precision, Runtime

_PERCENTS = (50, 70)


@dataclass(frozen=True, slots=True)
class Pruned(VariantBuilder):
    """Magnitude pruning. It gains no speed: ONNX Runtime's kernels multiply by zeros like by any number.

    What it gains is size once compressed, in an image layer or an object store, and a measured answer to how much of the model
    is needed. Its arithmetic is single precision, but its answers differ as those of 8-bit integers do, not by rounding: it
    declares that precision, and so gets the widest tolerances of the parity gate. The accuracy gate is its judge.
    """

    name: ClassVar[str] = "pruned"
    precision: ClassVar[Precision] = "int8"
    complexity: ClassVar[int] = 60
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    percent: int = 50

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return one setting for each share."""
        return {f"{cls.name}-{percent}": cls(percent) for percent in _PERCENTS}

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with dense layers or convolutions."""
        return why_without(model, MATRIX_OPERATORS | CONVOLUTIONS, "to prune")

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Zero the smallest weights; raises NotApplicable if no layer's weights are constants of the graph."""
        pruned = without_smallest_weights(onnx.load(package / MODEL_NAME), self.percent / 100)
        if not pruned.layers:
            raise NotApplicable("no layer's weights are constants of the graph")
        return BuiltGraph(
            pruned.model.SerializeToString(),
            runtime,
            parameters={"sparsity": pruned.sparsity},
            note=f"{pruned.zeros} of {pruned.weights} weights in {pruned.layers} layers are zero ({pruned.sparsity:.2%})",
        )
