"""Variant `graph-optimized`: ONNX Runtime's graph optimizations done once, offline, instead of at every start."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import msgspec
import onnx
import onnxruntime as ort

from tidegate.optimization.variants.builder import BuiltGraph, Target
from tidegate.packaging.manifest import MODEL_NAME, Precision, Runtime, Scalar


@dataclass(frozen=True, slots=True)
class GraphOptimized:
    """Fuses and folds at level `extended`; `all` also lays data out for the CPU it ran on, so its result is not portable."""

    name: ClassVar[str] = "graph-optimized"
    precision: ClassVar[Precision] = "full"
    complexity: ClassVar[int] = 10
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu", "cuda", "tensorrt"})
    level: str = "extended"

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return the one setting."""
        return {cls.name: cls()}

    @property
    def parameters(self) -> dict[str, Scalar]:
        """The parameters, as recorded in the package."""
        return asdict(self)

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to every graph."""
        return None

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Let ONNX Runtime optimize the graph and save it; loading it then needs no optimization of its own."""
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / MODEL_NAME
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.optimized_model_filepath = str(optimized)
            ort.InferenceSession(str(package / MODEL_NAME), sess_options=options, providers=list(runtime.providers))
            return BuiltGraph(optimized.read_bytes(), msgspec.structs.replace(runtime, graph_optimization="basic"))
