"""Variant `mixed-precision`: half precision, but for the operators that must stay in single for the answers to hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx
from numpy.typing import NDArray

from tidegate.optimization.graphs.agreement import GoldenSample
from tidegate.optimization.graphs.bisection import largest_accepted, named_briefly
from tidegate.optimization.graphs.calibration import calibration_batches, magnitudes
from tidegate.optimization.graphs.half_precision import LARGEST, float_values_of, halvable_nodes, in_half
from tidegate.optimization.graphs.reading import DENSE_OPERATORS, named, why_without
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder
from tidegate.packaging.manifest import MODEL_NAME, Precision, Runtime


@dataclass(frozen=True, slots=True)
class MixedPrecision(VariantBuilder):
    """Starts with every operator that can work in half precision, and bisects what fails until the golden sample agrees.

    Operators that read, hold or make a value beyond ±65504 on `rows` of the package stay in single precision from the start: on
    a CPU, which converts such values back before it computes, they may seem to work, and overflow on a GPU.

    `max_absolute` and `max_relative` are the parity gate's defaults for half precision; `max_trials` bounds the search, after
    which what was not tried stays in single precision. Where nothing has to stay, there is `fp16` for it already.
    """

    name: ClassVar[str] = "mixed-precision"
    precision: ClassVar[Precision] = "half"
    complexity: ClassVar[int] = 35
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    max_absolute: float = 0.01
    max_relative: float = 0.01
    max_trials: int = 64
    rows: int = 512

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with dense layers."""
        return why_without(model, DENSE_OPERATORS, "to halve")

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Search for the operators to keep; raises NotApplicable if there are none, or if nothing can be halved."""
        model = named(onnx.load(package / MODEL_NAME))
        sample = GoldenSample.of_package(package, runtime, max_absolute=self.max_absolute, max_relative=self.max_relative)

        def halved(nodes: Sequence[str]) -> bytes:
            return bytes(in_half(model, nodes).model.SerializeToString())

        able = halvable_nodes(model)
        within = _within_range(model, able, calibration_batches(package, rows=self.rows))
        search = largest_accepted(within, lambda nodes: sample.agrees_with(halved(nodes)), max_trials=self.max_trials)
        if not search.accepted:
            raise NotApplicable("no operator can be in half precision without changing the answers too much")
        chosen = frozenset(search.accepted)
        kept = [node for node in able if node not in chosen]
        if not kept:
            raise NotApplicable("every operator can be in half precision: that is variant fp16")
        why = f"{len(able) - len(within)} for their range, {len(search.rejected)} found in {search.trials} trials"
        return BuiltGraph(
            halved(search.accepted),
            runtime,
            parameters={"single_precision": named_briefly(kept)},
            note=f"{len(kept)} nodes stay in single precision ({why}): {named_briefly(kept)}",
        )


def _within_range(
    model: onnx.ModelProto, nodes: Sequence[str], batches: Sequence[Mapping[str, NDArray[Any]]]
) -> tuple[str, ...]:
    values = float_values_of(model, nodes)
    largest = magnitudes(model, (name for names in values.values() for name in names), batches)
    return tuple(node for node in nodes if max(largest[name] for name in values[node]) <= LARGEST)
