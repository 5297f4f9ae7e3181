"""Variants `pruned-units-25` and `pruned-units-50`: as many percent of the hidden units are removed, so layers are narrower."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx

from tidegate.optimization.graphs.calibration import calibration_batches
from tidegate.optimization.graphs.half_precision import named
from tidegate.optimization.graphs.hidden_layers import hidden_layers
from tidegate.optimization.graphs.reading import MATRIX_OPERATORS, why_without
from tidegate.optimization.graphs.unit_removal import without_weakest_units
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder
from tidegate.packaging.manifest import MODEL_NAME, Precision, Runtime

_PERCENTS = (25, 50)


@dataclass(frozen=True, slots=True)
class PrunedUnits(VariantBuilder):
    """Smaller matrices, and so less to compute and to load, on any hardware; the next layer is fitted to `rows` of the package.

    As with `pruned`, its answers differ more than rounding does, and it declares 8-bit precision for the widest tolerances of
    the parity gate; the accuracy gate is its judge.
    """

    name: ClassVar[str] = "pruned-units"
    precision: ClassVar[Precision] = "int8"
    complexity: ClassVar[int] = 62
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    percent: int = 25
    rows: int = 4096

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return one setting for each share."""
        return {f"{cls.name}-{percent}": cls(percent) for percent in _PERCENTS}

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with hidden layers: units that one dense layer makes and only one other reads."""
        if reason := why_without(model, MATRIX_OPERATORS, "to narrow"):
            return reason
        if not hidden_layers(named(model)):
            return "no dense layer's units are read by just one other dense layer"
        return None

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Remove the weakest units; raises NotApplicable if layers are so narrow that none would go."""
        model = named(onnx.load(package / MODEL_NAME))
        narrowed = without_weakest_units(model, self.percent / 100, calibration_batches(package, rows=self.rows))
        if not narrowed.removed:
            raise NotApplicable(f"its hidden layers are too narrow to lose {self.percent} % of their units")
        return BuiltGraph(
            narrowed.model.SerializeToString(),
            runtime,
            parameters={"removed": narrowed.removed},
            note=f"{narrowed.removed} of {narrowed.units} hidden units in {narrowed.layers} layers are removed",
        )
