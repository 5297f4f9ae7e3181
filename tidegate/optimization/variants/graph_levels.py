"""Variants `graph-basic` and `graph-optimized`: ONNX Runtime's graph optimizations done once, offline, not at every start."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx

from tidegate.optimization.graphs.fused import Level, optimized, runtime_of_optimized
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime


@dataclass(frozen=True, slots=True)
class GraphLevels(VariantBuilder):
    """Folds constants and drops idle nodes (`basic`), and fuses neighbours into ONNX Runtime's own operators (`extended`).

    There is no variant for the level `all`: what it adds is the layout of tensors in memory for the very CPU it ran on, and
    such a graph is slow or refused on another. It takes a moment and is left to the start, for graphs that have convolutions.
    """

    name: ClassVar[str] = "graph"
    precision: ClassVar[Precision] = "full"
    complexity: ClassVar[int] = 10
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    level: Level = "extended"

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return one setting for each level."""
        return {"graph-basic": cls("basic"), "graph-optimized": cls("extended")}

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to every graph."""
        return None

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Let ONNX Runtime optimize the graph and save it; loading it then needs few optimizations of its own, or none.

        Raises:
            NotApplicable: For `basic`, if there is nothing to fuse, so that `extended` makes the same graph.
        """
        graph = optimized(package / MODEL_NAME, runtime, self.level)
        if self.level == "basic" and graph == optimized(package / MODEL_NAME, runtime, "extended"):
            raise NotApplicable("there is nothing to fuse: that is graph-optimized")
        return BuiltGraph(graph, runtime_of_optimized(graph, runtime))
