"""Variant `mixed-precision`: half precision, but for the operators that must stay in single for the answers to hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from tidegate.optimization.graphs.agreement import GoldenSample
from tidegate.optimization.graphs.bisection import largest_accepted, named_briefly
from tidegate.optimization.graphs.half_precision import halvable_nodes, in_half, rounded_like
from tidegate.optimization.graphs.reading import DENSE_OPERATORS, named, why_without
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime


@dataclass(frozen=True, slots=True)
class MixedPrecision(VariantBuilder):
    """Starts with every operator that can work in half precision, and bisects what fails until the golden sample agrees.

    The graphs tried round as hardware does that computes in half precision. On most CPUs the variant itself is more exact than
    that, since ONNX Runtime computes in single precision there, but what it is found to need holds on a GPU too.

    The tolerances are the parity gate's defaults for half precision; `max_trials` bounds the search, after
    which what was not tried stays in single precision. Where nothing has to stay, there is `fp16` for it already.
    """

    name: ClassVar[str] = "mixed-precision"
    precision: ClassVar[Precision] = "half"
    complexity: ClassVar[int] = 35
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    max_absolute: float = 0.01
    max_relative: float = 0.01
    max_flip_rate: float = 0.01
    max_trials: int = 64

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with dense layers."""
        return why_without(model, DENSE_OPERATORS, "to halve")

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Search for the operators to keep; raises NotApplicable if there are none, or if nothing can be halved."""
        model = named(onnx.load(package / MODEL_NAME))
        sample = GoldenSample.of_package(package, runtime, self)

        def answers_hold(nodes: Sequence[str]) -> bool:
            return sample.agrees_with(rounded_like(in_half(model, nodes)).SerializeToString())

        search = largest_accepted(halvable_nodes(model), answers_hold, max_trials=self.max_trials)
        if not search.accepted:
            raise NotApplicable("no operator can be in half precision without changing the answers too much")
        if not search.rejected:
            raise NotApplicable("every operator can be in half precision: that is variant fp16")
        kept = named_briefly(search.rejected)
        return BuiltGraph(
            in_half(model, search.accepted).model.SerializeToString(),
            runtime,
            parameters={"single_precision": kept},
            note=f"{len(search.rejected)} nodes stay in single precision, found in {search.trials} trials: {kept}",
        )
