"""Variant `pruned-units`: whole hidden units are removed, as many as the answers allow, so that layers are narrower."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from tidegate.optimization.graphs.agreement import GoldenSample
from tidegate.optimization.graphs.calibration import calibration_batches
from tidegate.optimization.graphs.hidden_layers import hidden_layers
from tidegate.optimization.graphs.reading import MATRIX_OPERATORS, named, why_without
from tidegate.optimization.graphs.unit_removal import without_weakest_units
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime

_STEPS = 4


@dataclass(frozen=True, slots=True)
class PrunedUnits(VariantBuilder):
    """Smaller matrices, and so less to compute and to load, on any hardware; the next layer is fitted to `rows` of the package.

    At most `most_percent` of the units of each hidden layer go, and a quarter of that less each time the golden sample's
    answers move beyond the tolerances, which are those of the parity gate for 8 bits. As with `pruned`, the accuracy gate is
    its judge.
    """

    name: ClassVar[str] = "pruned-units"
    precision: ClassVar[Precision] = "pruned"
    complexity: ClassVar[int] = 55
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    most_percent: int = 60
    rows: int = 4096
    max_absolute: float = 0.05
    max_relative: float = 0.05
    max_flip_rate: float = 0.02

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with hidden layers: units that one dense layer makes and only one other reads."""
        if reason := why_without(model, MATRIX_OPERATORS, "to narrow"):
            return reason
        if not hidden_layers(named(model)):
            return "no dense layer's units are read by just one other dense layer"
        return None

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Remove the weakest units; raises NotApplicable if not even a few can go."""
        model = named(onnx.load(package / MODEL_NAME))
        batches = calibration_batches(package, rows=self.rows)
        sample = GoldenSample.of_package(package, runtime, self)
        for step in range(_STEPS):
            narrowed = without_weakest_units(model, self.most_percent / 100 * (1 - step / _STEPS), batches)
            graph = narrowed.model.SerializeToString()
            if narrowed.removed and sample.agrees_with(graph):
                return BuiltGraph(
                    graph,
                    runtime,
                    parameters={"removed": narrowed.removed},
                    note=f"{narrowed.removed} of {narrowed.units} units in {narrowed.layers} hidden layers are removed",
                )
        least = self.most_percent / _STEPS
        raise NotApplicable(f"without {least:g} % of its hidden units the answers change too much, or no unit would go")
