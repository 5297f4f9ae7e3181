"""Opens the graph of a model package in ONNX Runtime, as its manifest says. Serving, batch scoring and the gates all run it so.

graph = GraphSession.of_package(Path("out/package"))
graph.run({"carrier": …, "distance": …})              # the signature's inputs by name -> its outputs by name
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from tidegate.errors import PackageError
from tidegate.packaging.manifest import MODEL_NAME, Manifest, PackedInput, Runtime
from tidegate.packaging.package import read_manifest
from tidegate.packaging.packing import pack

Array = NDArray[Any]

_LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_MODES = {"sequential": ort.ExecutionMode.ORT_SEQUENTIAL, "parallel": ort.ExecutionMode.ORT_PARALLEL}


class GraphSession:
    """A graph that takes a signature's inputs, packed as the graph wants them, and gives its outputs.

    Attributes:
        session: ONNX Runtime's session, for what needs no packing.
    """

    def __init__(self, session: ort.InferenceSession, packing: Sequence[PackedInput], outputs: Sequence[str]) -> None:
        """Join an open session, the package's packing, and the outputs to ask for."""
        self.session = session
        self._packing = tuple(packing)
        self._outputs = list(outputs)

    @classmethod
    def of_package(cls, package: Path, manifest: Manifest | None = None, *, spinning: bool = True) -> "GraphSession":
        """Open the package at `package`; raises PackageError if it is none or ONNX Runtime refuses its graph."""
        manifest = manifest or read_manifest(package)
        session = open_session(package / MODEL_NAME, manifest.runtime, spinning=spinning)
        return cls(session, manifest.packing, [spec.name for spec in manifest.signature.outputs])

    @classmethod
    def of_graph(cls, graph: bytes, runtime: Runtime, manifest: Manifest) -> "GraphSession":
        """Open a graph that has the inputs and outputs of `manifest`, but is to be loaded as `runtime` says."""
        return cls(open_session(graph, runtime), manifest.packing, [spec.name for spec in manifest.signature.outputs])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs, by name, for the signature's inputs in its shapes; raises whatever ONNX Runtime raises."""
        feeds = pack(inputs, self._packing) if self._packing else inputs
        return dict(zip(self._outputs, self.session.run(self._outputs, feeds), strict=True))


def open_session(model: Path | bytes, runtime: Runtime, *, spinning: bool = True) -> ort.InferenceSession:
    """Open an ONNX graph as `runtime` asks; raises PackageError if ONNX Runtime refuses it.

    Args:
        model: A file, or a graph's bytes.
        runtime: Providers, threads and graph optimizations.
        spinning: Whether idle threads wait busily, which is faster and costs a core.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.intra_op_threads
    options.inter_op_num_threads = runtime.inter_op_threads
    options.execution_mode = _MODES[runtime.execution]
    options.graph_optimization_level = _LEVELS[runtime.graph_optimization]
    options.log_severity_level = 4
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    what = "graph" if isinstance(model, bytes) else str(model)
    absent = [name for name in runtime.providers if name not in ort.get_available_providers()]
    if absent:
        available = ", ".join(ort.get_available_providers())
        raise PackageError(f"{what}: ONNX Runtime here has no {', '.join(absent)}; it has {available}")
    providers = [(name, runtime.provider_options.get(name, {})) for name in runtime.providers]
    try:
        return ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises its own kinds of errors
        raise PackageError(f"{what}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:300]}") from error
