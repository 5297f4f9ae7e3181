"""Variants `threads-2`, `threads-4`, …: the same graph, with more threads inside each operator."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import msgspec
import onnx

from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder, cores
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime

_SETTINGS = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Threads(VariantBuilder):
    """`threads` share the rows of a batch or the columns of a large matrix; a small operator is done before they wake up.

    The counts are the same on every machine, so that project files can name them; those above its cores do not apply.
    """

    name: ClassVar[str] = "threads"
    precision: ClassVar[Precision] = "full"
    complexity: ClassVar[int] = 20
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    threads: int = 2

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return one setting for each number of threads."""
        return {f"{cls.name}-{threads}": cls(threads) for threads in _SETTINGS}

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies where there are as many cores."""
        if self.threads > cores():
            return f"{self.threads} threads want {self.threads} cores; this machine has {cores()}"
        return None

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Change the threads and nothing else; raises NotApplicable if the baseline has as many already."""
        if runtime.intra_op_threads >= self.threads:
            raise NotApplicable(f"the baseline has {runtime.intra_op_threads} threads already (gates.benchmark.threads)")
        graph = (package / MODEL_NAME).read_bytes()
        return BuiltGraph(graph, msgspec.structs.replace(runtime, intra_op_threads=self.threads))
