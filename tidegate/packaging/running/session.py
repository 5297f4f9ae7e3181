"""Opens the graph of a model package in ONNX Runtime, as its manifest says. Serving, batch scoring and the gates all run it so.

graph = GraphSession.of_package(Path("out/package"))
graph.run({"carrier": …, "distance": …})              # the signature's inputs by name -> its outputs by name
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort
from numpy.typing import NDArray

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.manifest import MODEL_NAME, Manifest, Runtime
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.packing import Packer
from tidegate.packaging.running.provider_options import check_options, with_memory_limit

if TYPE_CHECKING:
    from tidegate.packaging.running.engine import CpuFallback

Array = NDArray[Any]
Run = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]

OPTIMIZATION_LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_CPU = ("CPUExecutionProvider",)
_MODES = {"sequential": ort.ExecutionMode.ORT_SEQUENTIAL, "parallel": ort.ExecutionMode.ORT_PARALLEL}


class GraphSession:
    """A graph that takes a signature's inputs, packed as the graph wants them, and gives its outputs.

    Attributes:
        session: ONNX Runtime's session, for what needs no packing.
        warning: What this machine lacks, so that the graph is loaded otherwise than its package asks; None if nothing.
        is_fallback: Whether it runs on the CPU for want of the accelerator that its package asks for.
    """

    def __init__(self, session: ort.InferenceSession, runtime: Runtime, manifest: Manifest, *, where: str) -> None:
        """Join an open session with the manifest whose inputs it takes; raises PackageError if the graph has others."""
        self.session = session
        self.warning: str | None = None
        self.is_fallback = False
        packer = Packer(manifest.packing, [spec.name for spec in manifest.signature.inputs])
        self._pack = packer if manifest.packing else None
        self._outputs = [spec.name for spec in manifest.signature.outputs]
        self._run = _runner(session, runtime)
        _check_names(session, packer.graph_inputs, self._outputs, where)

    @classmethod
    def of_package(
        cls,
        package: Path,
        manifest: Manifest | None = None,
        *,
        spinning: bool = True,
        cpu_fallback: "CpuFallback" = "listed",
        gpu_memory_bytes: int = 0,
    ) -> "GraphSession":
        """Open the package at `package`.

        Args:
            package: Its directory.
            manifest: Its manifest, if that was read.
            spinning: Whether idle threads wait busily, which is faster and costs a core.
            cpu_fallback: Whether the CPU may stand in for an accelerator that is not here.
            gpu_memory_bytes: Most memory of a GPU for tensors; 0 is no limit.

        Raises:
            PackageError: It is none, ONNX Runtime refuses its graph, or its providers are not here and none may stand in.
        """
        manifest = manifest or read_manifest(package)
        if manifest.runtime.engine is None and manifest.runtime.providers == _CPU:
            session = open_session(package / MODEL_NAME, manifest.runtime, spinning=spinning)
            return cls(session, manifest.runtime, manifest, where=f"package {package}")
        from tidegate.packaging.running.engine import usable_graph

        here = usable_graph(package, manifest.runtime, cpu_fallback=cpu_fallback)
        runtime = with_memory_limit(here.runtime, gpu_memory_bytes) if gpu_memory_bytes else here.runtime
        session = open_session(here.graph, runtime, spinning=spinning)
        graph = cls(session, runtime, manifest, where=f"package {package}")
        graph.warning, graph.is_fallback = here.warning, here.is_fallback
        return graph

    @classmethod
    def of_graph(cls, graph: bytes, runtime: Runtime, manifest: Manifest) -> "GraphSession":
        """Open a graph that has the inputs and outputs of `manifest`, but is to be loaded as `runtime` says."""
        return cls(open_session(graph, runtime), runtime, manifest, where="graph")

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs, by name, for the signature's inputs in its shapes; raises whatever ONNX Runtime raises."""
        return self.run_feeds(inputs if self._pack is None else self._pack(inputs))

    def run_feeds(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs, by name, for the graph's own inputs, packed already; raises whatever ONNX Runtime raises."""
        return dict(zip(self._outputs, self._run(self._outputs, feeds), strict=True))


def open_session(model: Path | bytes, runtime: Runtime, *, spinning: bool = True) -> ort.InferenceSession:
    """Open an ONNX graph as `runtime` asks; raises PackageError if ONNX Runtime refuses it.

    Args:
        model: A file, or a graph's bytes.
        runtime: Providers, threads and graph optimizations.
        spinning: Whether idle threads wait busily, which is faster and costs a core.
    """
    what = "graph" if isinstance(model, bytes) else str(model)
    check_options(runtime.provider_options, what)
    _refuse_absent(runtime.providers, ort.get_available_providers(), f"{what}: ONNX Runtime here has no")
    providers = [(name, runtime.provider_options.get(name, {})) for name in runtime.providers]
    options = _options(runtime, spinning=spinning)
    try:
        session = ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises its own kinds of errors
        raise PackageError(f"{what}: ONNX Runtime cannot load it: {in_one_line(error)}") from error
    # A provider that is installed but cannot start, such as CUDA's without a GPU, is left out by ONNX Runtime silently.
    _refuse_absent(runtime.providers, session.get_providers(), f"{what}: ONNX Runtime could not start")
    return session


def _options(runtime: Runtime, *, spinning: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.intra_op_threads
    options.inter_op_num_threads = runtime.inter_op_threads
    options.execution_mode = _MODES[runtime.execution]
    options.graph_optimization_level = OPTIMIZATION_LEVELS[runtime.graph_optimization]
    options.log_severity_level = 4
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _refuse_absent(wanted: Sequence[str], found: Sequence[str], what: str) -> None:
    absent = [name for name in wanted if name not in found]
    if absent:
        raise PackageError(f"{what} {', '.join(absent)}; it has {', '.join(found)}")


def _runner(session: ort.InferenceSession, runtime: Runtime) -> Run:
    if runtime.providers == _CPU:
        run: Run = session.run
        return run
    from tidegate.packaging.running.steady import steady_run

    return steady_run(session, runtime)


def _check_names(session: ort.InferenceSession, inputs: Sequence[str], outputs: Sequence[str], where: str) -> None:
    differing = {node.name for node in session.get_inputs()} ^ set(inputs)
    if differing:
        raise PackageError(
            f"{where}: graph and signature differ in these inputs: {', '.join(sorted(differing))}; package again"
        )
    unknown = set(outputs) - {node.name for node in session.get_outputs()}
    if unknown:
        raise PackageError(
            f"{where}: the graph lacks these outputs of the signature: {', '.join(sorted(unknown))}; package again"
        )
