"""Variant `parallel`: branches of the graph that do not wait for each other run at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
import onnx

from tidegate.optimization.graphs.reading import widest_level
from tidegate.optimization.variants.builder import BuiltGraph, Target, VariantBuilder, cores
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime


@dataclass(frozen=True, slots=True)
class Parallel(VariantBuilder):
    """ONNX Runtime's execution mode `parallel` with `threads` between operators; handing work over costs a little each time."""

    name: ClassVar[str] = "parallel"
    precision: ClassVar[Precision] = "full"
    complexity: ClassVar[int] = 25
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    threads: int = 2

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs that branch, where there are as many cores as threads."""
        if self.threads > cores():
            return f"{self.threads} branches at once want {self.threads} cores; this machine has {cores()}"
        if widest_level(model.graph) < 2:
            return "the graph has no branches: each operator waits for the one before"
        return None

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Change how the graph is run and nothing else."""
        graph = (package / MODEL_NAME).read_bytes()
        return BuiltGraph(graph, msgspec.structs.replace(runtime, execution="parallel", inter_op_threads=self.threads))
