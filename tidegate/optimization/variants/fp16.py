"""Variant `fp16`: everything from the first to the last dense layer in half precision."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from tidegate.optimization.graphs.half_precision import halvable_nodes, in_half
from tidegate.optimization.graphs.reading import DENSE_OPERATORS, named, why_without
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime


@dataclass(frozen=True, slots=True)
class Fp16(VariantBuilder):
    """Half the bytes, and half the time on hardware that computes in it.

    Most CPUs do not: ONNX Runtime converts the weights back there and computes in single precision, which takes no less time,
    and the parity found on such a CPU tells nothing about a GPU.

    Inputs and outputs keep their datatypes, and so do the preparation of features and the last score's way to a probability.
    A value beyond ±65504 overflows: `mixed-precision` finds what must stay in single precision then.
    """

    name: ClassVar[str] = "fp16"
    precision: ClassVar[Precision] = "half"
    complexity: ClassVar[int] = 30
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with dense layers."""
        return why_without(model, DENSE_OPERATORS, "to halve")

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Convert the dense layers and what lies between them, with casts around."""
        model = named(onnx.load(package / MODEL_NAME))
        nodes = halvable_nodes(model)
        if not nodes:
            raise NotApplicable("its dense layers take no float32, or lie in a loop or branch")
        halved = in_half(model, nodes)
        note = f"{len(nodes)} of {len(model.graph.node)} nodes in half precision"
        if halved.clipped:
            note += f"; {halved.clipped} weights beyond ±65504 were clipped"
        return BuiltGraph(halved.model.SerializeToString(), runtime, note=note)
